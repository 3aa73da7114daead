// tensorflow/lite/kernels/internal/reference/integer_ops/add.h, AddFunc
#include "reds/fixed_point.h"
#include "reds/kernels.h"

namespace reds {
namespace portable {

void add(const Add&, const Add::Level& level, const Buffers& buffers) {
  for (uint32_t i = 0; i < level.size; ++i) {
    const int32_t input1 = (buffers.inputs[0][i] - level.input1_zero_point) *
                           (1 << level.left_shift);
    const int32_t input2 = (buffers.inputs[1][i] - level.input2_zero_point) *
                           (1 << level.left_shift);
    const int32_t sum =
        multiply_by_quantized_multiplier(input1, level.input1_multiplier, level.input1_shift) +
        multiply_by_quantized_multiplier(input2, level.input2_multiplier, level.input2_shift);
    const int32_t output =
        multiply_by_quantized_multiplier(sum, level.output_multiplier, level.output_shift) +
        level.output_zero_point;
    buffers.output[i] =
        static_cast<int8_t>(clamp(output, level.activation_min, level.activation_max));
  }
}

}  // namespace portable
}  // namespace reds
