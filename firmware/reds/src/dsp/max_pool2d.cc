// Max pooling, four channels at a time: the larger bytes of two words in two instructions.
#include "../portable/pool2d.h"
#include "reds/kernels.h"

#if REDS_DSP_KERNELS

#include "simd.h"

namespace reds {
namespace dsp {
namespace {

constexpr uint32_t kLanes = 4;
constexpr uint32_t kSmallest = 0x80808080u;  // four times INT8_MIN

// The larger ones of four signed bytes each: SSUB8 notes in the GE flags which SEL should take. Two
// cycles, in registers that the compiler picks.
inline uint32_t larger_bytes(uint32_t a, uint32_t b) {
  uint32_t result;
  asm("ssub8 %0, %1, %2\n"
      "sel %0, %1, %2\n"
      : "=&r"(result)
      : "r"(a), "r"(b)
      : "cc");
  return result;
}

// `lanes` channels from `x` on, the first one of an area's first pixel.
uint32_t largest_of_area(const int8_t* x, const portable::PoolArea& area, uint32_t line_step,
                         uint32_t channels, uint32_t lanes) {
  const uint32_t pixels = static_cast<uint32_t>(area.right - area.left);
  uint32_t largest = kSmallest;
  for (uint32_t lines = static_cast<uint32_t>(area.bottom - area.top); lines > 0; --lines) {
    const int8_t* pixel = x;
    if (lanes == kLanes) {
      for (uint32_t i = 0; i < pixels; ++i, pixel += channels) {
        largest = larger_bytes(largest, load_word(pixel));
      }
    } else {
      for (uint32_t i = 0; i < pixels; ++i, pixel += channels) {
        largest = larger_bytes(largest, load_partial_word(pixel, lanes));
      }
    }
    x += line_step;
  }
  return largest;
}

}  // namespace

void max_pool2d(const MaxPool2D& op, const MaxPool2D::Level& level, const Buffers& buffers) {
  const Window& window = op.window;
  const uint32_t channels = level.channels;
  const uint32_t lanes = channels < kLanes ? channels : kLanes;
  const uint32_t line_step = static_cast<uint32_t>(window.input_width) * channels;
  int8_t* output = buffers.output;
  for (int32_t out_y = 0; out_y < window.output_height; ++out_y) {
    for (int32_t out_x = 0; out_x < window.output_width; ++out_x, output += channels) {
      const portable::PoolArea area = portable::pool_area(window, out_y, out_x);
      const int8_t* const x = buffers.inputs[0] + static_cast<uint32_t>(area.top) * line_step +
                              static_cast<uint32_t>(area.left) * channels;
      for (uint32_t next = 0; next < channels; next += kLanes) {
        // The last four take some for a second time, rather than less than four.
        const uint32_t first = next + lanes <= channels ? next : channels - lanes;
        const uint32_t largest = largest_of_area(x + first, area, line_step, channels, lanes);
        __builtin_memcpy(output + first, &largest, lanes);
      }
    }
  }
}

}  // namespace dsp
}  // namespace reds

#endif  // REDS_DSP_KERNELS
