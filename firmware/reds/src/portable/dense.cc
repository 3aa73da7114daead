// tensorflow/lite/kernels/internal/reference/integer_ops/fully_connected.h, FullyConnectedPerChannel
#include "../channels.h"
#include "dot.h"
#include "reds/kernels.h"

namespace reds {
namespace portable {

void dense(const Dense& op, const LinearLevel& level, const Buffers& buffers) {
  ChannelCursor channel(*level.outputs);
  for (uint32_t i = 0; i < level.outputs->count; ++i) {
    const int8_t* weights = op.weights + channel.next() * op.store_inputs;
    buffers.output[i] = requantize(
        level, i, dot(weights, *level.inputs, buffers.inputs[0], level.input_zero_point));
  }
}

}  // namespace portable
}  // namespace reds
