// Sum of two tensors: TFLite scales both inputs to the larger one's scale, times 2^20 / 2, adds, and
// scales to the output's.
//
// For the input of the larger scale that is a shift. The other one, and the sum, take the short
// requantisation (see ProvenRequantization); the compiler proved that it is exact.
#include "reds/kernels.h"

#if REDS_DSP_KERNELS

#include "simd.h"

// add_elements.S; the second one is for inputs of the same scale.
extern "C" void reds_add_elements(const void* job);
extern "C" void reds_add_alike(const void* job);

namespace reds {
namespace dsp {
namespace {

// Shifts of the inputs in add_elements.S: 20 - 1, and 20 + 1 because the short requantisation wants
// doubled values.
constexpr int32_t kHalved = 1 << 19, kDoubled = 1 << 21;

// What the loops in assembly need, in the order that they know.
struct Job {
  const int8_t *a, *b;
  int8_t* output;
  uint32_t size;
  int32_t offset_a, offset_b;
  int32_t multiplier_b, rounding_b, shift_b;
  int32_t multiplier, rounding, shift;
};

}  // namespace

void add_proven(const Add&, const Add::Level& level, const Buffers& buffers) {
  if (level.size == 0) return;
  const int32_t shift = -level.output_shift;
  Job job = {buffers.inputs[0],
             buffers.inputs[1],
             buffers.output,
             level.size,
             -level.input1_zero_point * kHalved,
             -level.input2_zero_point * kDoubled,
             level.input2_multiplier,
             0,
             -level.input2_shift,
             level.output_multiplier,
             (1 << (shift - 1)) + level.output_zero_point * (1 << shift),
             shift};
  if (level.input1_shift == 0 && level.input2_shift == 0) {
    job.offset_a -= level.input2_zero_point * kHalved;
    reds_add_alike(&job);
  } else {
    if (level.input1_shift != 0) {  // the second one has the larger scale
      job.a = buffers.inputs[1];
      job.b = buffers.inputs[0];
      job.offset_a = -level.input2_zero_point * kHalved;
      job.offset_b = -level.input1_zero_point * kDoubled;
      job.multiplier_b = level.input1_multiplier;
      job.shift_b = -level.input1_shift;
    }
    job.rounding_b = 1 << (job.shift_b - 1);
    reds_add_elements(&job);
  }
  ActivationClamp(level.activation_min, level.activation_max).apply(buffers.output, level.size);
}

}  // namespace dsp
}  // namespace reds

#endif  // REDS_DSP_KERNELS
