// Average pooling, four channels at a time: two sums in a word.
#include "../portable/pool2d.h"
#include "reds/kernels.h"

#if REDS_DSP_KERNELS

#include "simd.h"

namespace reds {
namespace dsp {
namespace {

constexpr uint32_t kLanes = 4;
constexpr uint32_t kMostPixels = 256;  // whose sums of int8 fit in int16

struct Sums {
  int32_t lane[kLanes] = {};

  void add(uint32_t even, uint32_t odd) {
    lane[0] += static_cast<int16_t>(even);
    lane[1] += static_cast<int16_t>(odd);
    lane[2] += static_cast<int16_t>(even >> 16);
    lane[3] += static_cast<int16_t>(odd >> 16);
  }
};

// Adds `lanes` channels of pixels that are `step` bytes apart.
void add_pixels(const int8_t* x, uint32_t pixels, uint32_t step, uint32_t lanes, Sums& sums) {
  while (pixels > 0) {
    uint32_t even = 0, odd = 0;
    uint32_t count = pixels < kMostPixels ? pixels : kMostPixels;
    pixels -= count;
    if (lanes == kLanes) {
      for (; count >= 4; count -= 4, x += 2 * step) {
        const uint32_t word0 = load_word(x), word1 = load_word(x + step);
        x += 2 * step;
        const uint32_t word2 = load_word(x), word3 = load_word(x + step);
        even = sxtab16(sxtab16(sxtab16(sxtab16(even, word0), word1), word2), word3);
        odd = sxtab16_odd(sxtab16_odd(sxtab16_odd(sxtab16_odd(odd, word0), word1), word2), word3);
      }
    }
    for (; count > 0; --count, x += step) {
      const uint32_t word = lanes == kLanes ? load_word(x) : load_partial_word(x, lanes);
      even = sxtab16(even, word);
      odd = sxtab16_odd(odd, word);
    }
    sums.add(even, odd);
  }
}

// Of the channels from `x` on, the first one of an area's first pixel.
Sums sum_area(const int8_t* x, const portable::PoolArea& area, const Window& window,
              uint32_t channels, uint32_t lanes) {
  uint32_t lines = static_cast<uint32_t>(area.bottom - area.top);
  uint32_t pixels = static_cast<uint32_t>(area.right - area.left);
  const uint32_t width = static_cast<uint32_t>(window.input_width);
  if (pixels == width) {  // all lines are one
    pixels *= lines;
    lines = 1;
  }
  Sums sums;
  for (; lines > 0; --lines, x += width * channels) {
    add_pixels(x, pixels, channels, lanes, sums);
  }
  return sums;
}

}  // namespace

void average_pool2d(const AveragePool2D& op, const AveragePool2D::Level& level,
                    const Buffers& buffers) {
  const Window& window = op.window;
  const uint32_t channels = level.channels;
  int8_t* output = buffers.output;
  for (int32_t out_y = 0; out_y < window.output_height; ++out_y) {
    for (int32_t out_x = 0; out_x < window.output_width; ++out_x, output += channels) {
      const portable::PoolArea area = portable::pool_area(window, out_y, out_x);
      const int32_t count = (area.bottom - area.top) * (area.right - area.left);
      const int8_t* const x =
          buffers.inputs[0] +
          static_cast<uint32_t>(area.top * window.input_width + area.left) * channels;
      for (uint32_t channel = 0; channel < channels; channel += kLanes) {
        const uint32_t lanes = channels - channel < kLanes ? channels - channel : kLanes;
        const Sums sums = sum_area(x + channel, area, window, channels, lanes);
        for (uint32_t lane = 0; lane < lanes; ++lane) {
          const int32_t sum = sums.lane[lane];
          // to nearest, ties away from zero
          output[channel + lane] =
              static_cast<int8_t>((sum > 0 ? sum + count / 2 : sum - count / 2) / count);
        }
      }
    }
  }
}

}  // namespace dsp
}  // namespace reds

#endif  // REDS_DSP_KERNELS
