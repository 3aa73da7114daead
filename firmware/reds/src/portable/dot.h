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

// The same where the compiler proved one product to be exact (redsc/one_product.py).
inline int8_t requantize_with_one_product(const LinearLevel& level, uint32_t i, int32_t sum) {
  // unsigned, because the two may leave int32 that together do not
  const uint32_t shifted = static_cast<uint32_t>(sum) << kOneProductSumShift;
  const int64_t total = static_cast<int32_t>(shifted + static_cast<uint32_t>(level.bias[i]));
  const int32_t high = static_cast<int32_t>(total * level.multiplier[i] >> 32);
  const int32_t scaled = high >> kOneProductShift;
  // the activation's range, which is within int8
  return static_cast<int8_t>(clamp(scaled, level.activation_min, level.activation_max));
}

using Requantize = int8_t (*)(const LinearLevel& level, uint32_t i, int32_t sum);

}  // namespace portable
}  // namespace reds

#endif  // REDS_SRC_PORTABLE_DOT_H_
