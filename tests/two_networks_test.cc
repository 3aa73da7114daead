// Two networks in one firmware: what each answers in an arena of its own, it answers where both
// share one in turns, at every level. Status 0 is success.
#include <string.h>

#include "model.h"
#include "other.h"
#include "reds/board.h"

namespace {

constexpr size_t larger(size_t a, size_t b) { return a > b ? a : b; }

alignas(16) int8_t arena_model[model::arena_bytes];
alignas(16) int8_t arena_other[other::arena_bytes];
alignas(16) int8_t shared[larger(model::activation_bytes, other::activation_bytes) + 16 +
                          model::record_bytes + other::record_bytes];

void infer(reds::Network& network, uint8_t level, int8_t* output) {
  network.set_level(level);
  for (size_t i = 0; i < network.input_bytes(); ++i) {
    network.input()[i] = static_cast<int8_t>(i * 37);
  }
  network.invoke();
  memcpy(output, network.output(), network.output_bytes());
}

int check(reds::Network& alone, reds::Network& sharing, uint8_t level) {
  static int8_t expected[256], actual[256];
  infer(alone, level, expected);
  infer(sharing, level, actual);
  return memcmp(expected, actual, alone.output_bytes()) != 0;
}

}  // namespace

int main() {
  model::Network model_alone(arena_model, sizeof(arena_model));
  other::Network other_alone(arena_other, sizeof(arena_other));
  model::Network model_shared(shared, sizeof(shared));
  other::Network other_shared(shared, sizeof(shared) - model::record_bytes);
  if (!model_alone.begin().ok() || !other_alone.begin().ok() || !model_shared.begin().ok() ||
      !other_shared.begin().ok()) {
    return 2;
  }
  int different = 0;
  for (uint8_t i = 0; i < 2 * model::level_count; ++i) {
    different += check(model_alone, model_shared, i % model::level_count);
    different += check(other_alone, other_shared, (i / 2) % other::level_count);
  }
  return different == 0 ? 0 : 1;
}
