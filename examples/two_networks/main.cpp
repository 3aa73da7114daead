// Two networks in one firmware: `novelty` says how much an image looks like a digit at all, and
// `digits` says which one. They take turns, so they share the memory of their activations; each
// changes its level on its own.
#include "digits.h"
#include "novelty.h"
#include "reds/board.h"
#include "reds/network.h"
#include "reds/record.h"

namespace {

constexpr size_t larger(size_t a, size_t b) { return a > b ? a : b; }

// Under TensorFlow Lite Micro each network keeps records at its arena's end, so the second one's
// arena ends in front of those of the first. Standalone networks keep none: record_bytes is 0.
constexpr size_t kArenaBytes = larger(digits::activation_bytes, novelty::activation_bytes) +
                               digits::record_bytes + novelty::record_bytes;
alignas(16) int8_t arena[kArenaBytes];
digits::Network digits_network(arena, sizeof(arena));
novelty::Network novelty_network(arena, sizeof(arena) - digits::record_bytes);

// A three, and every pixel's complement: 8 x 8 pixels of 0 ... 16.
const uint8_t kThree[64] = {
    0, 0, 7,  15, 13, 1,  0,  0, 0, 8, 13, 6,  15, 4,  0, 0, 0, 2, 1, 13, 13, 0,
    0, 0, 0,  0,  2,  15, 11, 1, 0, 0, 0,  0,  0,  1,  12, 12, 1, 0, 0, 0,  0,  0,
    1, 10, 8, 0,  0,  0,  8,  4, 5, 14, 9, 0,  0,  0,  7,  13, 13, 9, 0, 0,
};

float pixel(size_t index, bool complement) {
  return complement ? 16.0f - kThree[index] : kThree[index];
}

void fill(reds::Network& network, float scale, bool complement) {
  for (size_t i = 0; i < network.input_bytes(); ++i) {
    network.input()[i] = network.quantize(pixel(i, complement) * scale);
  }
}

// Mean squared error of the image the novelty network makes of an image.
uint32_t novelty_of(bool complement) {
  fill(novelty_network, 1.0f / 16, complement);
  novelty_network.invoke();
  float sum = 0;
  for (size_t i = 0; i < novelty::output_bytes; ++i) {
    const float error =
        novelty_network.dequantize(novelty_network.output()[i]) - pixel(i, complement) / 16;
    sum += error * error;
  }
  return static_cast<uint32_t>(1000 * sum / novelty::output_bytes);
}

uint32_t largest_digit(bool complement) {
  fill(digits_network, 1.0f / 16, complement);
  digits_network.invoke();
  const int8_t* const output = digits_network.output();
  uint32_t largest = 0;
  for (uint32_t i = 1; i < digits::output_bytes; ++i) {
    if (output[i] > output[largest]) largest = i;
  }
  return largest;
}

}  // namespace

void setup() {
  const bool is_ready = digits_network.begin().ok() && novelty_network.begin().ok();
  uint16_t lines = 0;
  reds::Record(lines, "arena")
      .number("shared", sizeof(arena))
      .number("apart", digits::arena_bytes + novelty::arena_bytes)
      .number("ready", is_ready);
}

void loop() {
  uint16_t lines = 0;
  for (uint8_t level = 0; level < digits::level_count; ++level) {
    digits_network.set_level(level);
    novelty_network.set_level(level);
    for (int i = 0; i < 2; ++i) {
      const bool complement = i == 1;
      reds::Record record(lines, "image");
      record.key("level", level)
          .number("complement", complement)
          .number("novelty_per_mille", novelty_of(complement))
          .number("digit", largest_digit(complement));
    }
  }
}

#if !defined(ARDUINO)
int main() {
  setup();
  loop();
  return digits_network.status().ok() && novelty_network.status().ok() ? 0 : 2;
}
#endif
