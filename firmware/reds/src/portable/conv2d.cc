// tensorflow/lite/kernels/internal/reference/integer_ops/conv.h, ConvPerChannel
#include "../channels.h"
#include "dot.h"
#include "reds/kernels.h"

namespace reds {
namespace portable {
namespace {

// Products under one window; what lies outside the image counts as zero and is left out.
int32_t sum_window(const Conv2D& op, const LinearLevel& level, const int8_t* input,
                   const int8_t* weights, int32_t out_y, int32_t out_x) {
  const Window& window = op.window;
  int32_t sum = 0;
  for (int32_t ky = 0; ky < window.kernel_height; ++ky) {
    const int32_t y = out_y * window.stride_height - window.pad_top + ky * window.dilation_height;
    if (y < 0 || y >= window.input_height) continue;
    for (int32_t kx = 0; kx < window.kernel_width; ++kx) {
      const int32_t x = out_x * window.stride_width - window.pad_left + kx * window.dilation_width;
      if (x < 0 || x >= window.input_width) continue;
      const int32_t pixel = y * window.input_width + x;
      const int32_t tap = ky * window.kernel_width + kx;
      sum += dot(weights + static_cast<uint32_t>(tap) * op.store_inputs, *level.inputs,
                 input + static_cast<uint32_t>(pixel) * level.inputs->count,
                 level.input_zero_point);
    }
  }
  return sum;
}

template <Requantize requantize>
void convolve(const Conv2D& op, const LinearLevel& level, const Buffers& buffers) {
  const Window& window = op.window;
  const uint32_t taps = static_cast<uint32_t>(window.kernel_height * window.kernel_width);
  int8_t* output = buffers.output;
  for (int32_t y = 0; y < window.output_height; ++y) {
    for (int32_t x = 0; x < window.output_width; ++x) {
      ChannelCursor channel(*level.outputs);
      for (uint32_t i = 0; i < level.outputs->count; ++i) {
        const int8_t* weights = op.weights + channel.next() * taps * op.store_inputs;
        *output++ = requantize(level, i, sum_window(op, level, buffers.inputs[0], weights, y, x));
      }
    }
  }
}

}  // namespace

void conv2d(const Conv2D& op, const LinearLevel& level, const Buffers& buffers) {
  convolve<requantize>(op, level, buffers);
}

void conv2d_one_product(const Conv2D& op, const LinearLevel& level, const Buffers& buffers) {
  convolve<requantize_with_one_product>(op, level, buffers);
}

}  // namespace portable
}  // namespace reds
