// Depthwise convolution with multiplier 1, four channels at a time.
//
// The weights of four channels are expanded to int16 once, then the window goes over the image.
// Scratch: (taps, 4) int16.
#include "reds/kernels.h"

#if REDS_DSP_KERNELS

#include "../channels.h"
#include "simd.h"

namespace reds {
namespace dsp {
namespace {

constexpr uint32_t kLanes = 4;

// Weights of up to four channels: per tap channels (0, 2), then (1, 3); zeros for absent ones.
void pack_weights(const DepthwiseConv2D& op, const uint32_t channels[kLanes], uint32_t lanes,
                  uint32_t* packed) {
  const uint32_t taps =
      static_cast<uint32_t>(op.window.kernel_height * op.window.kernel_width);
  const int8_t* weights = op.weights;
  for (uint32_t tap = 0; tap < taps; ++tap, weights += op.store_outputs, packed += 2) {
    int8_t bytes[kLanes];
    for (uint32_t lane = 0; lane < kLanes; ++lane) {
      bytes[lane] = lane < lanes ? weights[channels[lane]] : static_cast<int8_t>(0);
    }
    const uint32_t word = load_word(bytes);
    packed[0] = sxtb16(word);
    packed[1] = sxtb16_odd(word);
  }
}

// The part of a window inside the image, in taps.
struct Span {
  int32_t begin, end;
};

inline Span inside(int32_t origin, int32_t kernel, int32_t dilation, int32_t size) {
  Span span = {0, kernel};
  while (span.begin < kernel && origin + span.begin * dilation < 0) ++span.begin;
  while (span.end > span.begin && origin + (span.end - 1) * dilation >= size) --span.end;
  return span;
}

// `kPartial`: fewer than four channels are left, so words are put together from bytes.
template <bool kPartial>
inline uint32_t load_lanes(const int8_t* input, uint32_t lanes) {
  return kPartial ? load_partial_word(input, lanes) : load_word(input);
}

template <typename Requantization, bool kPartial>
void convolve_lanes(const DepthwiseConv2D& op, const LinearLevel& level, uint32_t channel,
                    uint32_t lanes, const uint32_t* weights, const Buffers& buffers) {
  const Window& window = op.window;
  const uint32_t channels = level.outputs->count, last = channel + lanes - 1;
  const auto lane = [&](uint32_t i) { return channel + i < last ? channel + i : last; };
  const Requantization requantize[kLanes] = {{level, lane(0)}, {level, lane(1)},
                                             {level, lane(2)}, {level, lane(3)}};
  const int32_t bias[kLanes] = {level.bias[lane(0)], level.bias[lane(1)], level.bias[lane(2)],
                                level.bias[lane(3)]};
  const ActivationClamp activate(level);
  const uint32_t minus_zero_point = negated_pair(level.input_zero_point);
  const uint32_t tap_bytes = static_cast<uint32_t>(window.dilation_width) * channels;
  const int8_t* const input = buffers.inputs[0] + channel;
  int8_t* output = buffers.output + channel;
  for (int32_t out_y = 0; out_y < window.output_height; ++out_y) {
    const int32_t y = out_y * window.stride_height - window.pad_top;
    const Span rows = inside(y, window.kernel_height, window.dilation_height, window.input_height);
    for (int32_t out_x = 0; out_x < window.output_width; ++out_x, output += channels) {
      const int32_t x = out_x * window.stride_width - window.pad_left;
      const Span taps =
          inside(x, window.kernel_width, window.dilation_width, window.input_width);
      int32_t sum0 = bias[0], sum1 = bias[1], sum2 = bias[2], sum3 = bias[3];
      for (int32_t ky = rows.begin; ky < rows.end; ++ky) {
        const int32_t pixel = (y + ky * window.dilation_height) * window.input_width + x +
                              taps.begin * window.dilation_width;
        const int8_t* from = input + static_cast<uint32_t>(pixel) * channels;
        const uint32_t* w = weights + 2 * (ky * window.kernel_width + taps.begin);
        for (int32_t kx = taps.begin; kx < taps.end; ++kx, from += tap_bytes, w += 2) {
          const uint32_t word = load_lanes<kPartial>(from, lanes);
          const uint32_t even = sxtab16(minus_zero_point, word);
          const uint32_t odd = sxtab16_odd(minus_zero_point, word);
          sum0 = smlabb(even, w[0], sum0);
          sum2 = smlatt(even, w[0], sum2);
          sum1 = smlabb(odd, w[1], sum1);
          sum3 = smlatt(odd, w[1], sum3);
        }
      }
      output[0] = activate(requantize[0](sum0));
      if (!kPartial || lanes > 1) output[1] = activate(requantize[1](sum1));
      if (!kPartial || lanes > 2) output[2] = activate(requantize[2](sum2));
      if (!kPartial) output[3] = activate(requantize[3](sum3));
    }
  }
}

template <typename Requantization>
void convolve(const DepthwiseConv2D& op, const LinearLevel& level, const Buffers& buffers) {
  uint32_t* const weights = reinterpret_cast<uint32_t*>(buffers.scratch);
  ChannelCursor cursor(*level.outputs);
  for (uint32_t channel = 0; channel < level.outputs->count; channel += kLanes) {
    const uint32_t rest = level.outputs->count - channel, lanes = rest < kLanes ? rest : kLanes;
    uint32_t channels[kLanes] = {};
    for (uint32_t lane = 0; lane < lanes; ++lane) channels[lane] = cursor.next();
    pack_weights(op, channels, lanes, weights);
    if (lanes == kLanes) {
      convolve_lanes<Requantization, false>(op, level, channel, lanes, weights, buffers);
    } else {
      convolve_lanes<Requantization, true>(op, level, channel, lanes, weights, buffers);
    }
  }
}

}  // namespace

void depthwise_conv2d(const DepthwiseConv2D& op, const LinearLevel& level,
                      const Buffers& buffers) {
  convolve<GeneralRequantization>(op, level, buffers);
}

void depthwise_conv2d_proven(const DepthwiseConv2D& op, const LinearLevel& level,
                             const Buffers& buffers) {
  convolve<ProvenRequantization>(op, level, buffers);
}

}  // namespace dsp
}  // namespace reds

#endif  // REDS_DSP_KERNELS
