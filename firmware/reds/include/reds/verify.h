// Runs a model on given inputs at every level and gives back every output byte.
//
// A request (see Request) comes from a file on the host and from memory at 0x21000000 on the
// emulator. The response is a file, the host's second argument or "reds_outputs.bin" in the
// emulator's working directory: for each level, for each sample, the output; with kTrace, every
// step's output in front of it. On the serial line, one record per line (see reds/record.h):
//
//   reds_verify version=2 runtime=standalone levels=4 samples=8 sum=...
//   arena have=16000 used=16000 sum=...
//   step level=0 step=0 instructions=1234 sum=...      with kProfile
//   level level=0 instructions=123456 switch_instructions=7 crc32=0123abcd sum=...
//   done sum=...
//
// instructions: of the first sample's invoke(), in the board's unit of time. crc32 (zlib's) covers
// all outputs of the level.
#ifndef REDS_VERIFY_H_
#define REDS_VERIFY_H_

#include <stdint.h>

#include "reds/network.h"
#include "reds/plan.h"

namespace reds {

// What lies in front of the samples' bytes; little-endian.
struct Request {
  enum Flags : uint32_t { kTrace = 1, kProfile = 2 };
  static constexpr uint32_t kMagic = 0x53444552;  // "REDS"
  uint32_t magic;
  uint32_t flags;
  uint32_t samples;
  uint32_t sample_bytes;
};

// Returns the program's exit status: 0, or 2 after a record "error".
int verify(Network& network, const Description& description, int argc, char** argv);

}  // namespace reds

#endif  // REDS_VERIFY_H_
