// TFLite's fixed-point arithmetic (gemmlowp, double rounding), number for number.
//
// Sources: tensorflow/lite/kernels/internal/common.cc (MultiplyByQuantizedMultiplier) and
// gemmlowp's fixedpoint.h. redsc/fixed_point.py is the Python twin.
#ifndef REDS_FIXED_POINT_H_
#define REDS_FIXED_POINT_H_

#include <stdint.h>

namespace reds {

// a * b * 2 / 2^32, rounded to nearest, ties upwards; the one overflow case saturates.
inline int32_t saturating_rounding_doubling_high_mul(int32_t a, int32_t b) {
  if (a == INT32_MIN && b == INT32_MIN) return INT32_MAX;
  const int64_t product = static_cast<int64_t>(a) * b;
  const int64_t nudge = product >= 0 ? (1 << 30) : 1 - (1 << 30);
  return static_cast<int32_t>((product + nudge) / (1ll << 31));
}

// x / 2^exponent for exponent 0 ... 31, rounded to nearest, ties away from zero.
inline int32_t rounding_divide_by_power_of_two(int32_t x, int32_t exponent) {
  const int32_t mask = static_cast<int32_t>((1u << exponent) - 1u);
  const int32_t threshold = (mask >> 1) + (x < 0 ? 1 : 0);
  return (x >> exponent) + ((x & mask) > threshold ? 1 : 0);
}

// x * multiplier * 2^(shift - 31) with two roundings. A shift below -31 never gets here: the
// compiler flushes such a multiplier to zero, as TFLite's QuantizeMultiplier does.
inline int32_t multiply_by_quantized_multiplier(int32_t x, int32_t multiplier, int32_t shift) {
  const int32_t left = shift > 0 ? shift : 0;
  const int32_t right = shift > 0 ? 0 : -shift;
  // unsigned, because TFLite lets this product wrap
  const int32_t shifted = static_cast<int32_t>(static_cast<uint32_t>(x) << left);
  return rounding_divide_by_power_of_two(
      saturating_rounding_doubling_high_mul(shifted, multiplier), right);
}

inline int32_t clamp(int32_t x, int32_t low, int32_t high) {
  return x < low ? low : (x > high ? high : x);
}

}  // namespace reds

#endif  // REDS_FIXED_POINT_H_
