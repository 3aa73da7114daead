// tensorflow/lite/kernels/internal/reference/integer_ops/depthwise_conv.h, DepthwiseConvPerChannel
#include "../channels.h"
#include "dot.h"
#include "reds/kernels.h"

namespace reds {
namespace portable {
namespace {

// Products of one output channel under one window; `input` and `weights` start at that channel.
int32_t sum_window(const DepthwiseConv2D& op, uint32_t input_channels, int32_t zero_point,
                   const int8_t* input, const int8_t* weights, int32_t out_y, int32_t out_x) {
  const Window& window = op.window;
  int32_t sum = 0;
  for (int32_t ky = 0; ky < window.kernel_height; ++ky) {
    const int32_t y = out_y * window.stride_height - window.pad_top + ky * window.dilation_height;
    if (y < 0 || y >= window.input_height) continue;
    for (int32_t kx = 0; kx < window.kernel_width; ++kx) {
      const int32_t x = out_x * window.stride_width - window.pad_left + kx * window.dilation_width;
      if (x < 0 || x >= window.input_width) continue;
      const uint32_t pixel = static_cast<uint32_t>(y * window.input_width + x);
      const uint32_t tap = static_cast<uint32_t>(ky * window.kernel_width + kx);
      sum += weights[tap * op.store_outputs] * (input[pixel * input_channels] - zero_point);
    }
  }
  return sum;
}

template <Requantize requantize>
void convolve(const DepthwiseConv2D& op, const LinearLevel& level, const Buffers& buffers) {
  const Window& window = op.window;
  const uint32_t input_channels = level.outputs->count / op.multiplier;
  int8_t* output = buffers.output;
  for (int32_t y = 0; y < window.output_height; ++y) {
    for (int32_t x = 0; x < window.output_width; ++x) {
      ChannelCursor channel(*level.outputs);
      for (uint32_t i = 0; i < level.outputs->count; ++i) {
        const int8_t* input = buffers.inputs[0] + i / op.multiplier;
        const int8_t* weights = op.weights + channel.next();
        *output++ = requantize(level, i,
                               sum_window(op, input_channels, level.input_zero_point, input,
                                          weights, y, x));
      }
    }
  }
}

}  // namespace

void depthwise_conv2d(const DepthwiseConv2D& op, const LinearLevel& level,
                      const Buffers& buffers) {
  convolve<requantize>(op, level, buffers);
}

void depthwise_conv2d_one_product(const DepthwiseConv2D& op, const LinearLevel& level,
                                  const Buffers& buffers) {
  convolve<requantize_with_one_product>(op, level, buffers);
}

}  // namespace portable
}  // namespace reds
