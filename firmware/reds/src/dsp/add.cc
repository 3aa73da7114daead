// Sum of two tensors, with a multiply-add for each input: the compiler tried all pairs of inputs and
// found weights and an offset that give TFLite's output for every one (redsc/linear_add.py).
#include "reds/kernels.h"

#if REDS_DSP_KERNELS

#include "simd.h"

// add_elements.S
extern "C" void reds_add_elements(const void* job);

namespace reds {
namespace dsp {
namespace {

// What the loop in assembly needs, in the order that it knows.
struct Job {
  const int8_t *a, *b;
  int8_t* output;
  uint32_t size;
  int32_t weight_a, weight_b, offset;
};

}  // namespace

void add_proven(const Add&, const Add::Level& level, const Buffers& buffers) {
  const Job job = {buffers.inputs[0], buffers.inputs[1], buffers.output, level.size,
                   level.weight1,     level.weight2,     level.offset};
  reds_add_elements(&job);
  ActivationClamp(level.activation_min, level.activation_max).apply(buffers.output, level.size);
}

}  // namespace dsp
}  // namespace reds

#endif  // REDS_DSP_KERNELS
