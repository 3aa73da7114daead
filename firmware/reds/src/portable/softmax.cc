// tensorflow/lite/kernels/internal/reference/softmax.h, int8 to int8, and of gemmlowp's
// fixedpoint.h exp_on_negative_values and one_over_one_plus_x_for_x_in_0_1.
//
// Qm.n: m integer bits beside the sign, n fractional ones.
#include "reds/fixed_point.h"
#include "reds/kernels.h"

namespace reds {
namespace portable {
namespace {

constexpr int32_t kDiffIntegerBits = 5;    // differences are Q5.26
constexpr int32_t kSumIntegerBits = 12;    // their sum is Q12.19

int32_t multiply(int32_t a, int32_t b) { return saturating_rounding_doubling_high_mul(a, b); }

// x * 2^exponent, saturated (gemmlowp's SaturatingRoundingMultiplyByPOT with exponent > 0).
int32_t saturating_shift_left(int32_t x, int32_t exponent) {
  const int32_t limit = (1 << (31 - exponent)) - 1;
  if (x > limit) return INT32_MAX;
  if (x < -limit) return INT32_MIN;
  return static_cast<int32_t>(static_cast<uint32_t>(x) << exponent);
}

// exp(x) for Q0.31 x in [-1/4, 0): Taylor's series around -1/8.
int32_t exp_above_minus_one_quarter(int32_t a) {
  constexpr int32_t kExpMinusOneEighth = 1895147668;
  constexpr int32_t kOneThird = 715827883;
  const int32_t x = a + (1 << 28);
  const int32_t x2 = multiply(x, x);
  const int32_t x3 = multiply(x2, x);
  const int32_t x4 = multiply(x2, x2);
  const int32_t x4_over_4 = rounding_divide_by_power_of_two(x4, 2);
  const int32_t rest =
      rounding_divide_by_power_of_two(multiply(x4_over_4 + x3, kOneThird) + x2, 1);
  return kExpMinusOneEighth + multiply(kExpMinusOneEighth, x + rest);
}

// exp(a) as Q0.31 for Q5.26 a <= 0.
int32_t exp_on_negative_values(int32_t a) {
  // exp(-1/4), exp(-1/2), ..., exp(-16) as Q0.31
  static const int32_t kFactors[] = {1672461947, 1302514674, 790015084, 290630308,
                                     39332535,   720401,     242};
  constexpr int32_t kFractionalBits = 31 - kDiffIntegerBits;
  constexpr int32_t kOneQuarter = 1 << (kFractionalBits - 2);
  if (a == 0) return INT32_MAX;
  const int32_t within_quarter = (a & (kOneQuarter - 1)) - kOneQuarter;
  int32_t result =
      exp_above_minus_one_quarter(saturating_shift_left(within_quarter, kDiffIntegerBits));
  const int32_t remainder = within_quarter - a;
  for (int32_t i = 0; i < 7; ++i) {
    if (remainder & (1 << (kFractionalBits - 2 + i))) result = multiply(result, kFactors[i]);
  }
  return result;
}

// 1 / (1 + a) as Q0.31 for Q0.31 a in [0, 1]: three Newton-Raphson steps on Q2.29.
int32_t one_over_one_plus(int32_t a) {
  constexpr int32_t k48Over17 = 1515870810;
  constexpr int32_t kMinus32Over17 = -1010580540;
  const int32_t half_denominator =
      static_cast<int32_t>((static_cast<int64_t>(a) + INT32_MAX + 1) / 2);
  int32_t x = k48Over17 + multiply(half_denominator, kMinus32Over17);
  for (int32_t i = 0; i < 3; ++i) {
    const int32_t error = (1 << 29) - multiply(half_denominator, x);
    x += saturating_shift_left(multiply(x, error), 2);
  }
  return saturating_shift_left(x, 1);
}

struct Reciprocal {
  int32_t scale;               // Q0.31
  int32_t num_bits_over_unit;  // 1 / x = scale / 2^num_bits_over_unit
};

// Of a Q12.19 x > 0 (GetReciprocal).
Reciprocal reciprocal(int32_t x) {
  const int32_t leading_zeros = __builtin_clz(static_cast<uint32_t>(x));
  const uint32_t fraction = (static_cast<uint32_t>(x) << leading_zeros) - (1u << 31);
  return {one_over_one_plus(static_cast<int32_t>(fraction)), kSumIntegerBits - leading_zeros};
}

int32_t scaled_exp(const Softmax::Level& level, int32_t diff) {
  const int32_t shifted = static_cast<int32_t>(static_cast<uint32_t>(diff) << level.left_shift);
  return exp_on_negative_values(multiply(shifted, level.multiplier));
}

void softmax_row(const Softmax::Level& level, const int8_t* input, int8_t* output) {
  int32_t largest = INT8_MIN;
  for (uint32_t i = 0; i < level.depth; ++i) largest = input[i] > largest ? input[i] : largest;
  int32_t sum = 0;
  for (uint32_t i = 0; i < level.depth; ++i) {
    const int32_t diff = input[i] - largest;
    if (diff < level.diff_min) continue;
    sum += rounding_divide_by_power_of_two(scaled_exp(level, diff), kSumIntegerBits);
  }
  const Reciprocal inverse = reciprocal(sum);
  for (uint32_t i = 0; i < level.depth; ++i) {
    const int32_t diff = input[i] - largest;
    if (diff < level.diff_min) {
      output[i] = INT8_MIN;
      continue;
    }
    const int32_t probability = rounding_divide_by_power_of_two(
        multiply(inverse.scale, scaled_exp(level, diff)), inverse.num_bits_over_unit + 31 - 8);
    output[i] = static_cast<int8_t>(clamp(probability + INT8_MIN, INT8_MIN, INT8_MAX));
  }
}

}  // namespace

void softmax(const Softmax&, const Softmax::Level& level, const Buffers& buffers) {
  for (uint32_t row = 0; row < level.rows; ++row) {
    softmax_row(level, buffers.inputs[0] + row * level.depth, buffers.output + row * level.depth);
  }
}

}  // namespace portable
}  // namespace reds
