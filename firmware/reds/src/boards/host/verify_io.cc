#if defined(REDS_BOARD_HOST)

#include "../../verify/verify_io.h"

#include <stdio.h>
#include <stdlib.h>

namespace reds {
namespace verify_io {
namespace {

FILE* response = nullptr;

// The whole file with at least a request's size, or null. Never freed: the program ends with it.
void* read_file(const char* path) {
  FILE* file = fopen(path, "rb");
  if (file == nullptr) return nullptr;
  fseek(file, 0, SEEK_END);
  const long size = ftell(file);
  rewind(file);
  void* data = size >= static_cast<long>(sizeof(Request)) ? malloc(static_cast<size_t>(size)) : nullptr;
  if (data != nullptr && fread(data, 1, static_cast<size_t>(size), file) != static_cast<size_t>(size)) {
    free(data);
    data = nullptr;
  }
  fclose(file);
  const Request* request = static_cast<const Request*>(data);
  if (request != nullptr && request->magic == Request::kMagic) {
    const uint64_t wanted = sizeof(Request) + static_cast<uint64_t>(request->samples) * request->sample_bytes;
    if (wanted > static_cast<uint64_t>(size)) {
      free(data);
      data = nullptr;
    }
  }
  return data;
}

}  // namespace

const Request* open(int argc, char** argv) {
  if (argc != 3) {
    fprintf(stderr, "usage: %s REQUEST RESPONSE\n", argc > 0 ? argv[0] : "verify");
    return nullptr;
  }
  const Request* request = static_cast<const Request*>(read_file(argv[1]));
  if (request == nullptr) {
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
