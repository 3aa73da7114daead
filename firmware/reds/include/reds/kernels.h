// Every kernel: the portable versions are the specification (TFLM's reference kernels, byte for
// byte); the DSP versions compute the same bytes with Cortex-M4 SIMD instructions.
//
// `reds::conv2d` and so on name the version this build uses, and the plan names only the kernels
// its network needs, so that the linker drops all others.
#ifndef REDS_KERNELS_H_
#define REDS_KERNELS_H_

#include "reds/core.h"
#include "reds/plan.h"

namespace reds {
namespace portable {

void conv2d(const Conv2D&, const Conv2D::Level&, const Buffers&);
void conv2d_one_product(const Conv2D&, const Conv2D::Level&, const Buffers&);
void depthwise_conv2d(const DepthwiseConv2D&, const DepthwiseConv2D::Level&, const Buffers&);
void depthwise_conv2d_one_product(const DepthwiseConv2D&, const DepthwiseConv2D::Level&,
                                  const Buffers&);
void dense(const Dense&, const Dense::Level&, const Buffers&);
void add(const Add&, const Add::Level&, const Buffers&);
void concatenate(const Concatenate&, const Concatenate::Level&, const Buffers&);
void max_pool2d(const MaxPool2D&, const MaxPool2D::Level&, const Buffers&);
void average_pool2d(const AveragePool2D&, const AveragePool2D::Level&, const Buffers&);
void pad(const Pad&, const Pad::Level&, const Buffers&);
void leaky_relu(const LeakyRelu&, const LeakyRelu::Level&, const Buffers&);
void lookup(const Lookup&, const Lookup::Level&, const Buffers&);
void softmax(const Softmax&, const Softmax::Level&, const Buffers&);

}  // namespace portable

namespace dsp {

// `_proven`: the compiler proved, for every channel and level, that requantisation in four
// instructions is exact (redsc/kernels.py). `_one_product`: likewise in two, with other constants
// (redsc/one_product.py). The others are exact for every constant.
void conv2d(const Conv2D&, const Conv2D::Level&, const Buffers&);
void conv2d_one_product(const Conv2D&, const Conv2D::Level&, const Buffers&);
void conv2d_proven(const Conv2D&, const Conv2D::Level&, const Buffers&);
// Windows of three lines of at most ten products each, without dilation; two channels or more.
void conv2d_thin_one_product(const Conv2D&, const Conv2D::Level&, const Buffers&);
// 3x3 of stride 1 without dilation and two channels or more, proven, or with one product, with sums
// below 2^25.
void conv2d_winograd(const Conv2D&, const Conv2D::Level&, const Buffers&);
void conv2d_winograd_one_product(const Conv2D&, const Conv2D::Level&, const Buffers&);
void depthwise_conv2d(const DepthwiseConv2D&, const DepthwiseConv2D::Level&, const Buffers&);
void depthwise_conv2d_proven(const DepthwiseConv2D&, const DepthwiseConv2D::Level&,
                             const Buffers&);
// 3x3 without dilation, proven, or with one product; of stride 1 or 2 along the longer side of the output.
void depthwise_conv2d_3x3(const DepthwiseConv2D&, const DepthwiseConv2D::Level&, const Buffers&);
void depthwise_conv2d_3x3_stride2(const DepthwiseConv2D&, const DepthwiseConv2D::Level&,
                                  const Buffers&);
void depthwise_conv2d_3x3_one_product(const DepthwiseConv2D&, const DepthwiseConv2D::Level&,
                                      const Buffers&);
void depthwise_conv2d_3x3_stride2_one_product(const DepthwiseConv2D&,
                                              const DepthwiseConv2D::Level&, const Buffers&);
void dense(const Dense&, const Dense::Level&, const Buffers&);
void dense_proven(const Dense&, const Dense::Level&, const Buffers&);
void add_proven(const Add&, const Add::Level&, const Buffers&);
void max_pool2d(const MaxPool2D&, const MaxPool2D::Level&, const Buffers&);
void average_pool2d(const AveragePool2D&, const AveragePool2D::Level&, const Buffers&);

}  // namespace dsp

#if REDS_DSP_KERNELS
using dsp::add_proven;
using dsp::average_pool2d;
using dsp::conv2d;
using dsp::conv2d_one_product;
using dsp::conv2d_proven;
using dsp::conv2d_thin_one_product;
using dsp::conv2d_winograd;
using dsp::conv2d_winograd_one_product;
using dsp::dense;
using dsp::dense_proven;
using dsp::depthwise_conv2d;
using dsp::depthwise_conv2d_3x3;
using dsp::depthwise_conv2d_3x3_one_product;
using dsp::depthwise_conv2d_3x3_stride2;
using dsp::depthwise_conv2d_3x3_stride2_one_product;
using dsp::depthwise_conv2d_proven;
using dsp::max_pool2d;
#else
using portable::average_pool2d;
using portable::conv2d;
using portable::conv2d_one_product;
using portable::dense;
using portable::depthwise_conv2d;
using portable::max_pool2d;
inline void conv2d_proven(const Conv2D& op, const Conv2D::Level& level, const Buffers& buffers) {
  portable::conv2d(op, level, buffers);
}
inline void conv2d_thin_one_product(const Conv2D& op, const Conv2D::Level& level,
                                    const Buffers& buffers) {
  portable::conv2d_one_product(op, level, buffers);
}
inline void conv2d_winograd(const Conv2D& op, const Conv2D::Level& level, const Buffers& buffers) {
  portable::conv2d(op, level, buffers);
}
inline void conv2d_winograd_one_product(const Conv2D& op, const Conv2D::Level& level,
                                        const Buffers& buffers) {
  portable::conv2d_one_product(op, level, buffers);
}
inline void depthwise_conv2d_proven(const DepthwiseConv2D& op, const DepthwiseConv2D::Level& level,
                                    const Buffers& buffers) {
  portable::depthwise_conv2d(op, level, buffers);
}
inline void depthwise_conv2d_3x3(const DepthwiseConv2D& op, const DepthwiseConv2D::Level& level,
                                 const Buffers& buffers) {
  portable::depthwise_conv2d(op, level, buffers);
}
inline void depthwise_conv2d_3x3_stride2(const DepthwiseConv2D& op,
                                         const DepthwiseConv2D::Level& level,
                                         const Buffers& buffers) {
  portable::depthwise_conv2d(op, level, buffers);
}
inline void depthwise_conv2d_3x3_one_product(const DepthwiseConv2D& op,
                                             const DepthwiseConv2D::Level& level,
                                             const Buffers& buffers) {
  portable::depthwise_conv2d_one_product(op, level, buffers);
}
inline void depthwise_conv2d_3x3_stride2_one_product(const DepthwiseConv2D& op,
                                                     const DepthwiseConv2D::Level& level,
                                                     const Buffers& buffers) {
  portable::depthwise_conv2d_one_product(op, level, buffers);
}
inline void dense_proven(const Dense& op, const Dense::Level& level, const Buffers& buffers) {
  portable::dense(op, level, buffers);
}
inline void add_proven(const Add& op, const Add::Level& level, const Buffers& buffers) {
  portable::add(op, level, buffers);
}
#endif
using portable::add;
using portable::concatenate;
using portable::leaky_relu;
using portable::lookup;
using portable::pad;
using portable::softmax;

}  // namespace reds

#endif  // REDS_KERNELS_H_
