// tensorflow/lite/kernels/internal/reference/concatenation.h, along the last axis
#include <string.h>

#include "reds/kernels.h"

namespace reds {
namespace portable {

void concatenate(const Concatenate& op, const Concatenate::Level& level, const Buffers& buffers) {
  int8_t* output = buffers.output;
  for (uint32_t position = 0; position < op.positions; ++position) {
    for (uint32_t input = 0; input < op.input_count; ++input) {
      const uint32_t channels = level.channels[input];
      memcpy(output, buffers.inputs[input] + position * channels, channels);
      output += channels;
    }
  }
}

}  // namespace portable
}  // namespace reds
