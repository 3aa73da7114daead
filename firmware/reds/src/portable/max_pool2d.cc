// tensorflow/lite/kernels/internal/reference/integer_ops/pooling.h, MaxPool
#include "pool2d.h"
#include "reds/kernels.h"

namespace reds {
namespace portable {

void max_pool2d(const MaxPool2D& op, const MaxPool2D::Level& level, const Buffers& buffers) {
  const Window& window = op.window;
  int8_t* output = buffers.output;
  for (int32_t out_y = 0; out_y < window.output_height; ++out_y) {
    for (int32_t out_x = 0; out_x < window.output_width; ++out_x) {
      const PoolArea area = pool_area(window, out_y, out_x);
      for (uint32_t channel = 0; channel < level.channels; ++channel) {
        int8_t largest = INT8_MIN;
        for (int32_t y = area.top; y < area.bottom; ++y) {
          for (int32_t x = area.left; x < area.right; ++x) {
            const uint32_t pixel = static_cast<uint32_t>(y * window.input_width + x);
            const int8_t value = buffers.inputs[0][pixel * level.channels + channel];
            if (value > largest) largest = value;
          }
        }
        *output++ = largest;
      }
    }
  }
}

}  // namespace portable
}  // namespace reds
