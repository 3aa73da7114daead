// tensorflow/lite/kernels/internal/reference/leaky_relu.h, QuantizeLeakyRelu
#include "reds/fixed_point.h"
#include "reds/kernels.h"

namespace reds {
namespace portable {
namespace {

// A negative alpha's multiplier is applied by its size and the sign put back.
int32_t scale_by_alpha(const LeakyRelu::Level& level, int32_t value) {
  if (level.alpha_multiplier >= 0) {
    return multiply_by_quantized_multiplier(value, level.alpha_multiplier, level.alpha_shift);
  }
  return -multiply_by_quantized_multiplier(value, -level.alpha_multiplier, level.alpha_shift);
}

}  // namespace

void leaky_relu(const LeakyRelu&, const LeakyRelu::Level& level, const Buffers& buffers) {
  for (uint32_t i = 0; i < level.size; ++i) {
    const int32_t value = buffers.inputs[0][i] - level.input_zero_point;
    const int32_t scaled =
        value >= 0 ? multiply_by_quantized_multiplier(value, level.identity_multiplier,
                                                      level.identity_shift)
                   : scale_by_alpha(level, value);
    buffers.output[i] =
        static_cast<int8_t>(clamp(scaled + level.output_zero_point, INT8_MIN, INT8_MAX));
  }
}

}  // namespace portable
}  // namespace reds
