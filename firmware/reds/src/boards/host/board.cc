#if defined(REDS_BOARD_HOST)

#include "reds/board.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

namespace reds {
namespace board {
namespace {

bool input_has_ended = false;

}  // namespace

const char* name() { return "host"; }

void write(const char* text) {
  fputs(text, stdout);
  fflush(stdout);
}

int read() {
  pollfd input = {STDIN_FILENO, POLLIN, 0};
  unsigned char byte;
  if (poll(&input, 1, 0) <= 0) return -1;
  if (::read(STDIN_FILENO, &byte, 1) == 1) return byte;
  input_has_ended = true;
  return -1;
}

bool connected() { return !input_has_ended; }

uint32_t clock() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint32_t>(static_cast<uint64_t>(now.tv_sec) * 1000000000u +
                               static_cast<uint64_t>(now.tv_nsec));
}

uint32_t time_between(uint32_t start, uint32_t end) { return end - start; }

const char* clock_unit() { return "ns"; }

uint32_t clock_hz() { return 1000000000; }

bool serves(int argc, char** argv) {
  return connected() && argc == 2 && strcmp(argv[1], "serve") == 0;
}

void exit(int status) { ::exit(status); }

}  // namespace board
}  // namespace reds

#endif
