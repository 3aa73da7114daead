#include "reds/benchmark.h"

#include "clock.h"
#include "reds/board.h"
#include "reds/record.h"

#if defined(ARDUINO)
#define REDS_CLOCK_UNIT "cycles"
#else
#define REDS_CLOCK_UNIT "instructions"
#endif

namespace reds {
namespace {

// The same pseudo-random bytes everywhere (the constants of Numerical Recipes' ranqd1).
void fill(int8_t* input, size_t bytes) {
  uint32_t state = 1;
  for (size_t i = 0; i < bytes; ++i) {
    state = state * 1664525u + 1013904223u;
    input[i] = static_cast<int8_t>(static_cast<int32_t>(state >> 24) - 128);
  }
}

void benchmark_level(Network& network, uint8_t level) {
  fill(network.input(), network.input_bytes());
  const uint32_t switching = timed_set_level(network, level);
  const uint32_t start = board::clock();
  network.invoke();
  const uint32_t inference = elapsed(start, board::clock());
  put("level", level);
  if (inference != 0) {
    put(" " REDS_CLOCK_UNIT, inference);
    put(" switch_" REDS_CLOCK_UNIT, switching);
  }
  put_hex(" crc32", crc32(0, network.output(), network.output_bytes()));
  board::write("\n");
}

}  // namespace

void benchmark(Network& network) {
  const uint8_t levels = network.level_count();
  put("reds_benchmark version", 1);
  put(" levels", levels);
  put(" input_bytes", static_cast<uint32_t>(network.input_bytes()));
  put(" output_bytes", static_cast<uint32_t>(network.output_bytes()));
  board::write("\n");
  for (uint8_t level = 0; level < levels; ++level) benchmark_level(network, level);
  board::write("done\n");
}

}  // namespace reds
