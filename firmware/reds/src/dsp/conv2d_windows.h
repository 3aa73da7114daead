// Finds what each output pixel of a convolution reads.
#ifndef REDS_SRC_DSP_CONV2D_WINDOWS_H_
#define REDS_SRC_DSP_CONV2D_WINDOWS_H_

#include <stdint.h>

#include "reds/plan.h"
#include "simd.h"

// conv2d_pack.S
extern "C" void reds_copy_lines(int8_t* to, uint32_t to_step, const int8_t* from,
                                uint32_t from_step, uint32_t lines, uint32_t bytes);

namespace reds {
namespace dsp {

// Whole words, the last one too.
inline void fill(int8_t* to, int8_t value, uint32_t bytes) {
  const uint32_t word = four_bytes(value);
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

  Taps(int32_t start, int32_t taps, int32_t dilation, int32_t length) : position(start) {
    while (position < 0 && taps > 0) {
      position += dilation;
      ++first;
      --taps;
    }
    int32_t last = position + (taps - 1) * dilation;
    for (; last >= length && taps > 0; last -= dilation) --taps;
    count = static_cast<uint32_t>(taps);
  }
};

// Outputs along one side whose windows lie in the image as a whole.
struct Inside {
  int32_t first, last;

  Inside(int32_t pad, int32_t reach, int32_t length, int32_t stride)
      : first((pad + stride - 1) / stride), last(pad + length - reach) {
    last = last < 0 ? -1 : last / stride;
  }

  bool has(int32_t output) const { return output >= first && output <= last; }
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
        window_bytes_(static_cast<uint32_t>(op.window.kernel_height) * line_bytes_),
        line_step_(static_cast<uint32_t>(op.window.dilation_height * op.window.input_width) *
                   channels_),
        are_pixels_(op.window.kernel_height == 1 && op.window.kernel_width == 1 &&
                    op.window.pad_top == 0 && op.window.pad_left == 0 &&
                    op.window.stride_height == 1 && op.window.stride_width == 1 &&
                    op.window.output_width == op.window.input_width),
        are_copied_(op.window.dilation_width > 1 ||
                    (op.window.kernel_height > 1 && line_bytes_ < kWord)),
        inside_y_(op.window.pad_top, (op.window.kernel_height - 1) * op.window.dilation_height + 1,
                  op.window.input_height, op.window.stride_height),
        inside_x_(op.window.pad_left, (op.window.kernel_width - 1) * op.window.dilation_width + 1,
                  op.window.input_width, op.window.stride_width) {}

  // A window's lines, all alike: of windows that are all copied, one of all their bytes, four or more.
  uint32_t line_bytes() const {
    return !are_copied_ ? line_bytes_ : (window_bytes_ < kWord ? kWord : window_bytes_);
  }
  uint32_t lines() const {
    return are_copied_ ? 1 : static_cast<uint32_t>(window_.kernel_height);
  }

  // How many of `blocks` blocks of `pixels` windows lie side by side, window_step() bytes apart, from
  // the present one on.
  uint32_t even_blocks(uint32_t pixels, uint32_t blocks) const {
    if (are_copied_ || !inside_y_.has(y_) || x_ < inside_x_.first) return 0;
    if (begins_image(window())) return 0;
    const int32_t lines = are_pixels_ ? window_.output_height - y_ : 1;
    const int32_t end = are_pixels_ ? window_.output_width : inside_x_.last + 1;
    const int32_t left = lines * end - x_;
    const uint32_t whole = left > 0 ? static_cast<uint32_t>(left) / pixels : 0;
    return whole < blocks ? whole : blocks;
  }

  // The present one, which lies in the image as a whole.
  const int8_t* window() const {
    return at(y_ * window_.stride_height - window_.pad_top,
              x_ * window_.stride_width - window_.pad_left);
  }
  uint32_t window_step() const {
    return static_cast<uint32_t>(window_.stride_width) * channels_;
  }
  uint32_t line_step() const { return line_step_; }

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

  // Where they are or, with zero points outside the image and behind less than four bytes, copied to
  // `row`, which has room for a multiple of four and memory before it.
  Lines lines_of(int8_t* row) const {
    const int32_t y = y_ * window_.stride_height - window_.pad_top;
    const int32_t x = x_ * window_.stride_width - window_.pad_left;
    if (!inside_y_.has(y_) || !inside_x_.has(x_)) {
      gather_edge(y, x, row);
      return {row, line_bytes_};
    }
    const int8_t* const from = window();
    if (!are_copied_ && !begins_image(from)) return {from, line_step_};
    if (window_bytes_ < kWord) fill(row, level_.input_zero_point, kWord);
    gather(static_cast<uint32_t>(window_.kernel_height),
           static_cast<uint32_t>(window_.kernel_width), from, row);
    return {row, line_bytes_};
  }

 private:
  // Whether packing, which reads the four bytes before a line's end, would read before the image.
  bool begins_image(const int8_t* window) const {
    return line_bytes_ < kWord && window < input_ + kWord;
  }

  const int8_t* at(int32_t y, int32_t x) const {
    return input_ + (y * window_.input_width + x) * static_cast<int32_t>(channels_);
  }

  __attribute__((noinline)) void gather_edge(int32_t y, int32_t x, int8_t* row) const {
    const Taps lines(y, window_.kernel_height, window_.dilation_height, window_.input_height);
    const Taps taps(x, window_.kernel_width, window_.dilation_width, window_.input_width);
    fill(row, level_.input_zero_point, window_bytes_);
    gather(lines.count, taps.count, at(lines.position, taps.position),
           row + lines.first * line_bytes_ + taps.first * channels_);
  }

  void gather(uint32_t lines, uint32_t taps, const int8_t* from, int8_t* row) const {
    if (window_.dilation_width == 1) {  // neighbours in the image are copied together
      reds_copy_lines(row, line_bytes_, from, line_step_, lines, taps * channels_);
      return;
    }
    const uint32_t tap_step = static_cast<uint32_t>(window_.dilation_width) * channels_;
    for (; lines > 0; --lines, from += line_step_, row += line_bytes_) {
      reds_copy_lines(row, channels_, from, tap_step, taps, channels_);
    }
  }

  static constexpr uint32_t kWord = 4;  // bytes

  const Window& window_;
  const LinearLevel& level_;
  const int8_t* const input_;
  const uint32_t channels_, line_bytes_, window_bytes_, line_step_;
  const bool are_pixels_;  // of the image, in its order
  const bool are_copied_;
  const Inside inside_y_, inside_x_;
  int32_t y_ = 0, x_ = 0;
};

}  // namespace dsp
}  // namespace reds

#endif  // REDS_SRC_DSP_CONV2D_WINDOWS_H_
