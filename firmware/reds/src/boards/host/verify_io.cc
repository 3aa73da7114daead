#if defined(REDS_BOARD_HOST)

#include "../../verify/verify_io.h"

#include <stdio.h>
#include <stdlib.h>

namespace reds {
namespace verify_io {
namespace {

FILE* response = nullptr;
Request* request = nullptr;  // never freed: the program ends with it

// Reads a whole file into `request`; false when it is not as long as it says.
bool read_request(FILE* file) {
  fseek(file, 0, SEEK_END);
  const long end = ftell(file);
  rewind(file);
  if (end < static_cast<long>(sizeof(Request))) return false;
  const size_t size = static_cast<size_t>(end);
  request = static_cast<Request*>(malloc(size));
  if (request == nullptr || fread(request, 1, size, file) != size) return false;
  const uint64_t samples_bytes = static_cast<uint64_t>(request->samples) * request->sample_bytes;
  return sizeof(Request) + samples_bytes <= size;
}

}  // namespace

const Request* open(int argc, char** argv) {
  if (argc != 3) {
    fprintf(stderr, "usage: %s REQUEST RESPONSE\n", argc > 0 ? argv[0] : "verify");
    return nullptr;
  }
  FILE* file = fopen(argv[1], "rb");
  const bool complete = file != nullptr && read_request(file);
  if (file != nullptr) fclose(file);
  if (!complete) {
    fprintf(stderr, "%s: not a readable request\n", argv[1]);
    return nullptr;
  }
  response = fopen(argv[2], "wb");
  if (response == nullptr) {
    perror(argv[2]);
    return nullptr;
  }
  return request;
}

bool save(const int8_t* data, uint32_t bytes) {
  return fwrite(data, 1, bytes, response) == bytes;
}

bool close() { return fclose(response) == 0; }

}  // namespace verify_io
}  // namespace reds

#endif
