// Sum of two tensors, each of the three requantisations in a few instructions.
#include "reds/kernels.h"

#if REDS_DSP_KERNELS

#include "simd.h"

namespace reds {
namespace dsp {
namespace {

// (x - zero_point) * 2^20, requantised. The compiler proved that a shift of 0 comes with the
// multiplier 1/2, so that one more doubling and the shift 1 give the same.
class Operand {
 public:
  Operand(int8_t zero_point, int32_t multiplier, int8_t shift, int8_t left_shift)
      : zero_point_(zero_point),
        multiplier_(multiplier),
        left_(shift == 0 ? left_shift + 2 : left_shift + 1),
        right_(shift == 0 ? 1 : -shift),
        rounding_(1 << (right_ - 1)) {}

  int32_t operator()(int8_t x) const {
    const int32_t value = (x - zero_point_) * (1 << left_);
    return smmlar(value, multiplier_, rounding_ + (value >> 31)) >> right_;
  }

 private:
  const int32_t zero_point_, multiplier_, left_, right_, rounding_;
};

}  // namespace

void add_proven(const Add&, const Add::Level& level, const Buffers& buffers) {
  const Operand first(level.input1_zero_point, level.input1_multiplier, level.input1_shift,
                      level.left_shift);
  const Operand second(level.input2_zero_point, level.input2_multiplier, level.input2_shift,
                       level.left_shift);
  const int32_t multiplier = level.output_multiplier, shift = -level.output_shift;
  const int32_t rounding = (1 << (shift - 1)) + level.output_zero_point * (1 << shift);
  const int8_t *a = buffers.inputs[0], *b = buffers.inputs[1];
  for (uint32_t i = 0; i < level.size; ++i) {
    const int32_t sum = first(a[i]) + second(b[i]);
    const int32_t output = smmlar(sum * 2, multiplier, rounding + (sum >> 31)) >> shift;
    buffers.output[i] = static_cast<int8_t>(ssat8(output));
  }
  ActivationClamp(level.activation_min, level.activation_max).apply(buffers.output, level.size);
}

}  // namespace dsp
}  // namespace reds

#endif  // REDS_DSP_KERNELS
