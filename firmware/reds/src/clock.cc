#include "clock.h"

#include "reds/board.h"

namespace reds {
namespace {

// Not inlined, so that what is counted is a call as an application makes it.
__attribute__((noinline)) void set_level(Network& network, uint8_t level) {
  network.set_level(level);
}

}  // namespace

uint32_t elapsed(uint32_t start, uint32_t end) {
  const uint32_t before = board::clock();
  const uint32_t overhead = board::instructions_between(before, board::clock());
  const uint32_t gross = board::instructions_between(start, end);
  return gross > overhead ? gross - overhead : 0;
}

uint32_t timed_set_level(Network& network, uint8_t level) {
  const uint32_t start = board::clock();
  set_level(network, level);
  return elapsed(start, board::clock());
}

}  // namespace reds
