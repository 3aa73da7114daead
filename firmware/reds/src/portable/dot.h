// What the portable linear kernels share.
#ifndef REDS_SRC_PORTABLE_DOT_H_
#define REDS_SRC_PORTABLE_DOT_H_

#include "reds/fixed_point.h"
#include "reds/plan.h"

namespace reds {
namespace portable {

// Sum of weights[channel] * (x[i] - zero_point) over the kept channels; x is compact.
inline int32_t dot(const int8_t* weights, const Channels& channels, const int8_t* x,
                   int32_t zero_point) {
  int32_t sum = 0;
  for (uint32_t repeat = 0; repeat < channels.repeat; ++repeat) {
    for (uint32_t run = 0; run < channels.run_count; ++run) {
      const int8_t* w = weights + repeat * channels.stride + channels.runs[run].offset;
      for (uint32_t i = 0; i < channels.runs[run].length; ++i) {
        sum += w[i] * (*x++ - zero_point);
      }
    }
  }
  return sum;
}

// The int8 output of channel i (of the level) for its sum of products.
inline int8_t requantize(const LinearLevel& level, uint32_t i, int32_t sum) {
  const int32_t scaled = multiply_by_quantized_multiplier(sum + level.bias[i],
                                                          level.multiplier[i], level.shift[i]);
  return static_cast<int8_t>(
      clamp(scaled + level.output_zero_point, level.activation_min, level.activation_max));
}

}  // namespace portable
}  // namespace reds

#endif  // REDS_SRC_PORTABLE_DOT_H_
