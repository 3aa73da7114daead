// The part of a pooling window that lies inside the image (reference/integer_ops/pooling.h).
#ifndef REDS_SRC_PORTABLE_POOL2D_H_
#define REDS_SRC_PORTABLE_POOL2D_H_

#include "reds/plan.h"

namespace reds {
namespace portable {

struct PoolArea {
  int32_t top, bottom, left, right;  // bottom and right are one past the end
};

inline PoolArea pool_area(const Window& window, int32_t out_y, int32_t out_x) {
  const int32_t y = out_y * window.stride_height - window.pad_top;
  const int32_t x = out_x * window.stride_width - window.pad_left;
  const int32_t bottom = y + window.kernel_height;
  const int32_t right = x + window.kernel_width;
  return {y < 0 ? 0 : y, bottom < window.input_height ? bottom : window.input_height,
          x < 0 ? 0 : x, right < window.input_width ? right : window.input_width};
}

}  // namespace portable
}  // namespace reds

#endif  // REDS_SRC_PORTABLE_POOL2D_H_
