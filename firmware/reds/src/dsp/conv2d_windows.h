// Finds what each output pixel of a convolution reads.
#ifndef REDS_SRC_DSP_CONV2D_WINDOWS_H_
#define REDS_SRC_DSP_CONV2D_WINDOWS_H_

#include <stdint.h>

#include "reds/plan.h"

// conv2d_pack.S
extern "C" void reds_copy_lines(int8_t* to, uint32_t to_step, const int8_t* from,
                                uint32_t from_step, uint32_t lines, uint32_t bytes);

namespace reds {
namespace dsp {

// Whole words, the last one too.
inline void fill(int8_t* to, int8_t value, uint32_t bytes) {
  const uint32_t word = static_cast<uint8_t>(value) * 0x01010101u;
  for (uint32_t i = 0; i < bytes; i += 4) {
    __builtin_memcpy(to + i, &word, sizeof(word));
    asm volatile("" ::: "memory");
  }
}

// The taps of a window, along one side, that lie in the image: `count` from `first` on, the first
// one at `position`.
struct Taps {
  uint32_t first = 0, count = 0;
  int32_t position;
  bool is_whole;

  Taps(int32_t start, int32_t taps, int32_t dilation, int32_t length) : position(start) {
    while (position < 0 && taps > 0) {
      position += dilation;
      ++first;
      --taps;
    }
    int32_t last = position + (taps - 1) * dilation;
    is_whole = first == 0 && last < length;
    for (; last >= length && taps > 0; last -= dilation) --taps;
    count = static_cast<uint32_t>(taps);
  }
};

// A window's values: lines of the kernel, `step` bytes apart.
struct Lines {
  const int8_t* first;
  uint32_t step;
};

// Walks the output pixels and finds each one's window.
class Windows {
 public:
  Windows(const Conv2D& op, const LinearLevel& level, const int8_t* input)
      : window_(op.window),
        level_(level),
        input_(input),
        channels_(level.inputs->count),
        line_bytes_(static_cast<uint32_t>(op.window.kernel_width) * channels_),
        line_step_(static_cast<uint32_t>(op.window.dilation_height * op.window.input_width) *
                   channels_),
        is_pixel_(op.window.kernel_height == 1 && op.window.kernel_width == 1 &&
                  op.window.pad_top == 0 && op.window.pad_left == 0),
        packs_lines_(op.window.dilation_width == 1 &&
                     (op.window.kernel_height == 1 || line_bytes_ % 4 == 0)) {}

  uint32_t line_bytes() const { return line_bytes_; }

  // Whether a window is one pixel of the image.
  bool is_pixel() const { return is_pixel_; }
  const int8_t* pixel() const {
    return at(y_ * window_.stride_height, x_ * window_.stride_width);
  }

  void advance() {
    if (++x_ == window_.output_width) {
      x_ = 0;
      ++y_;
    }
  }

  void move_to(uint32_t pixel) {
    const uint32_t width = static_cast<uint32_t>(window_.output_width);
    y_ = static_cast<int32_t>(pixel / width);
    x_ = static_cast<int32_t>(pixel % width);
  }

  // Where they are or, with zero points outside the image, copied to `row`, which has room for a
  // multiple of four bytes.
  Lines lines(int8_t* row) const {
    const int32_t y = y_ * window_.stride_height, x = x_ * window_.stride_width;
    const Taps lines(y - window_.pad_top, window_.kernel_height, window_.dilation_height,
                     window_.input_height);
    const Taps taps(x - window_.pad_left, window_.kernel_width, window_.dilation_width,
                    window_.input_width);
    const bool is_inside = lines.is_whole && taps.is_whole;
    const int8_t* const from = at(lines.position, taps.position);
    if (is_inside && packs_lines_) return {from, line_step_};
    if (!is_inside) {
      fill(row, level_.input_zero_point,
           static_cast<uint32_t>(window_.kernel_height) * line_bytes_);
    }
    gather(lines, taps, from, row + lines.first * line_bytes_ + taps.first * channels_);
    return {row, line_bytes_};
  }

 private:
  const int8_t* at(int32_t y, int32_t x) const {
    return input_ + (y * window_.input_width + x) * static_cast<int32_t>(channels_);
  }

  void gather(const Taps& lines, const Taps& taps, const int8_t* from, int8_t* row) const {
    if (window_.dilation_width == 1) {
      reds_copy_lines(row, line_bytes_, from, line_step_, lines.count, taps.count * channels_);
      return;
    }
    const uint32_t tap_step = static_cast<uint32_t>(window_.dilation_width) * channels_;
    for (uint32_t line = lines.count; line > 0; --line, from += line_step_, row += line_bytes_) {
      reds_copy_lines(row, channels_, from, tap_step, taps.count, channels_);
    }
  }

  const Window& window_;
  const LinearLevel& level_;
  const int8_t* const input_;
  const uint32_t channels_, line_bytes_, line_step_;
  const bool is_pixel_, packs_lines_;
  int32_t y_ = 0, x_ = 0;
};

}  // namespace dsp
}  // namespace reds

#endif  // REDS_SRC_DSP_CONV2D_WINDOWS_H_
