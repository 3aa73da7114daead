// tensorflow/lite/kernels/internal/reference/pad.h, over height and width, with real zeros
#include <string.h>

#include "reds/kernels.h"

namespace reds {
namespace portable {

void pad(const Pad& op, const Pad::Level& level, const Buffers& buffers) {
  const uint32_t input_row = static_cast<uint32_t>(op.input_width) * level.channels;
  const uint32_t left = static_cast<uint32_t>(op.left) * level.channels;
  const uint32_t right = static_cast<uint32_t>(op.right) * level.channels;
  const uint32_t output_row = left + input_row + right;
  const int8_t* input = buffers.inputs[0];
  int8_t* output = buffers.output;
  const auto fill = [&](uint32_t bytes) {
    memset(output, level.zero_point, bytes);
    output += bytes;
  };
  fill(static_cast<uint32_t>(op.top) * output_row);
  for (int32_t y = 0; y < op.input_height; ++y) {
    fill(left);
    memcpy(output, input, input_row);
    input += input_row;
    output += input_row;
    fill(right);
  }
  fill(static_cast<uint32_t>(op.bottom) * output_row);
}

}  // namespace portable
}  // namespace reds
