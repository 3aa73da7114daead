// The Cortex-M4's DSP instructions, and exact requantisation with them.
//
// Own wrappers, because GCC 7's arm_acle.h has none of these, and CMSIS's clash with other copies.
#ifndef REDS_SRC_DSP_SIMD_H_
#define REDS_SRC_DSP_SIMD_H_

#include <stdint.h>

#include "reds/fixed_point.h"
#include "reds/plan.h"

namespace reds {
namespace dsp {

// A word holds bytes b3 b2 b1 b0 or halfwords h1 h0; the lowest comes first in memory.

// (b0, b2) sign-extended to halfwords.
inline uint32_t sxtb16(uint32_t x) {
  uint32_t result;
  asm("sxtb16 %0, %1" : "=r"(result) : "r"(x));
  return result;
}

// (b1, b3) sign-extended to halfwords.
inline uint32_t sxtb16_odd(uint32_t x) {
  uint32_t result;
  asm("sxtb16 %0, %1, ror #8" : "=r"(result) : "r"(x));
  return result;
}

// The same, plus the halfwords of `add`.
inline uint32_t sxtab16(uint32_t add, uint32_t x) {
  uint32_t result;
  asm("sxtab16 %0, %1, %2" : "=r"(result) : "r"(add), "r"(x));
  return result;
}

inline uint32_t sxtab16_odd(uint32_t add, uint32_t x) {
  uint32_t result;
  asm("sxtab16 %0, %1, %2, ror #8" : "=r"(result) : "r"(add), "r"(x));
  return result;
}

// sum + x.h0 * y.h0 + x.h1 * y.h1
inline int32_t smlad(uint32_t x, uint32_t y, int32_t sum) {
  int32_t result;
  asm("smlad %0, %1, %2, %3" : "=r"(result) : "r"(x), "r"(y), "r"(sum));
  return result;
}

// sum + x.h0 * y.h0
inline int32_t smlabb(uint32_t x, uint32_t y, int32_t sum) {
  int32_t result;
  asm("smlabb %0, %1, %2, %3" : "=r"(result) : "r"(x), "r"(y), "r"(sum));
  return result;
}

// sum + x.h1 * y.h1
inline int32_t smlatt(uint32_t x, uint32_t y, int32_t sum) {
  int32_t result;
  asm("smlatt %0, %1, %2, %3" : "=r"(result) : "r"(x), "r"(y), "r"(sum));
  return result;
}

// sum + round(a * b / 2^32), ties upwards
inline int32_t smmlar(int32_t a, int32_t b, int32_t sum) {
  int32_t result;
  asm("smmlar %0, %1, %2, %3" : "=r"(result) : "r"(a), "r"(b), "r"(sum));
  return result;
}

// x, saturated to int8
inline int32_t ssat8(int32_t x) {
  int32_t result;
  asm("ssat %0, #8, %1" : "=r"(result) : "r"(x));
  return result;
}

// Four bytes from any address.
inline uint32_t load_word(const void* address) {
  uint32_t word;
  __builtin_memcpy(&word, address, sizeof(word));
  return word;
}

// The first 1 ... 3 bytes, zeros behind them.
inline uint32_t load_partial_word(const int8_t* bytes, uint32_t count) {
  uint32_t word = 0;
  for (uint32_t i = 0; i < count; ++i) word |= static_cast<uint32_t>(static_cast<uint8_t>(bytes[i])) << (8 * i);
  return word;
}

// -zero_point in both halfwords.
inline uint32_t negated_pair(int8_t zero_point) {
  const uint32_t low = static_cast<uint32_t>(-static_cast<int32_t>(zero_point)) & 0xFFFFu;
  return low | low << 16;
}

// `value` in all four bytes.
inline uint32_t four_bytes(int8_t value) {
  return static_cast<uint8_t>(value) * 0x01010101u;
}

// How one output channel goes from accumulator to int8. Both give gemmlowp's bytes; the first in
// few instructions, where the compiler proved that they are exact (redsc/kernels.py, is_proven).
class ProvenRequantization {
 public:
  ProvenRequantization(const LinearLevel& level, uint32_t channel)
      : multiplier(level.multiplier[channel]),
        shift(-level.shift[channel]),
        rounding((1 << (shift - 1)) +
                 static_cast<int32_t>(static_cast<uint32_t>(level.output_zero_point) << shift)) {}

  // Saturated to int8, not yet clamped to the activation's range.
  int32_t operator()(int32_t sum) const {
    return ssat8(smmlar(sum * 2, multiplier, rounding + (sum >> 31)) >> shift);
  }

  const int32_t multiplier, shift, rounding;
};

class GeneralRequantization {
 public:
  GeneralRequantization(const LinearLevel& level, uint32_t channel)
      : multiplier_(level.multiplier[channel]),
        left_(level.shift[channel] > 0 ? level.shift[channel] : 0),
        right_(level.shift[channel] > 0 ? 0 : -level.shift[channel]),
        zero_point_(level.output_zero_point) {}

  int32_t operator()(int32_t sum) const {
    const int32_t shifted = static_cast<int32_t>(static_cast<uint32_t>(sum) << left_);
    // multipliers are not negative, so nothing saturates
    const int64_t product = static_cast<int64_t>(shifted) * multiplier_;
    const int32_t high = static_cast<int32_t>((product + (1 << 30)) >> 31);
    return clamp(rounding_divide_by_power_of_two(high, right_) + zero_point_, INT8_MIN, INT8_MAX);
  }

 private:
  int32_t multiplier_, left_, right_, zero_point_;
};

// Clamps int8 values to a fused activation's range; most ranges are all of int8.
class ActivationClamp {
 public:
  ActivationClamp(int8_t min, int8_t max)
      : min_(min), max_(max), active_(min != INT8_MIN || max != INT8_MAX) {}
  explicit ActivationClamp(const LinearLevel& level)
      : ActivationClamp(level.activation_min, level.activation_max) {}

  int8_t operator()(int32_t value) const {
    return static_cast<int8_t>(active_ ? clamp(value, min_, max_) : value);
  }

  void apply(int8_t* values, uint32_t count) const {
    if (!active_) return;
    for (; count > 0; --count, ++values) *values = static_cast<int8_t>(clamp(*values, min_, max_));
  }

 private:
  int32_t min_, max_;
  bool active_;
};

}  // namespace dsp
}  // namespace reds

#endif  // REDS_SRC_DSP_SIMD_H_
