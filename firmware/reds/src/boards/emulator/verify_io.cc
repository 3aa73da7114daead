// The request is put into memory by QEMU (-device loader); the response leaves by semihosting.
#if defined(REDS_BOARD_EMULATOR)

#include "../../verify/verify_io.h"

#include "semihosting.h"

#if !defined(REDS_REQUESTS)
#define REDS_REQUESTS 0x21000000
#endif

namespace reds {
namespace verify_io {
namespace {

constexpr char kResponsePath[] = "reds_outputs.bin";
constexpr uint32_t kWriteBinary = 5;  // fopen's "wb"
const Request* const kRequest = reinterpret_cast<const Request*>(REDS_REQUESTS);
uint32_t response = 0;

}  // namespace

const Request* open(int, char**) {
  const uint32_t arguments[] = {address_of(kResponsePath), kWriteBinary,
                                sizeof(kResponsePath) - 1};
  response = semihosting_call(kSysOpen, arguments);
  return kRequest;
}

bool save(const int8_t* data, uint32_t bytes) {
  const uint32_t arguments[] = {response, address_of(data), bytes};
  return semihosting_call(kSysWrite, arguments) == 0;  // bytes not written
}

bool close() { return semihosting_call(kSysClose, &response) == 0; }

}  // namespace verify_io
}  // namespace reds

#endif
