// tensorflow/lite/kernels/internal/reference/integer_ops/pooling.h, AveragePool
#include "pool2d.h"
#include "reds/kernels.h"

namespace reds {
namespace portable {

void average_pool2d(const AveragePool2D& op, const AveragePool2D::Level& level,
                    const Buffers& buffers) {
  const Window& window = op.window;
  int8_t* output = buffers.output;
  for (int32_t out_y = 0; out_y < window.output_height; ++out_y) {
    for (int32_t out_x = 0; out_x < window.output_width; ++out_x) {
      const PoolArea area = pool_area(window, out_y, out_x);
      const int32_t count = (area.bottom - area.top) * (area.right - area.left);
      for (uint32_t channel = 0; channel < level.channels; ++channel) {
        int32_t sum = 0;
        for (int32_t y = area.top; y < area.bottom; ++y) {
          for (int32_t x = area.left; x < area.right; ++x) {
            const uint32_t pixel = static_cast<uint32_t>(y * window.input_width + x);
            sum += buffers.inputs[0][pixel * level.channels + channel];
          }
        }
        // to nearest, ties away from zero
        *output++ =
            static_cast<int8_t>((sum > 0 ? sum + count / 2 : sum - count / 2) / count);
      }
    }
  }
}

}  // namespace portable
}  // namespace reds
