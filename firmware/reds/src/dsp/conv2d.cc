// Convolution as a matrix product, two channels by four pixels at a time.
//
// The image is taken in tiles of `tile_pixels`. A tile's windows are packed into scratch as int16
// x - zero_point, products in pairs, four pixels beside each other; then the weights of two
// channels at a time are expanded to int16 likewise (the only place that sees the store's layout)
// and multiplied with the whole tile. Products are padded with zeros to a multiple of four.
//
// Scratch: tile (padded * tile_pixels int16), weights (padded * 2 int16), rows (padded * 4 int8).
#include "reds/kernels.h"

#if REDS_DSP_KERNELS

#include "../channels.h"
#include "simd.h"

namespace reds {
namespace dsp {
namespace {

constexpr uint32_t kPixels = 4;    // of one block
constexpr uint32_t kChannels = 2;  // of one block

#define REDS_STEP(x, w)               \
  "ldr.w r2, [r1, #" #w "]\n"         \
  "ldr.w r3, [r1, #" #w " + 4]\n"     \
  "ldr.w r12, [r0, #" #x "]\n"        \
  "ldr.w lr, [r0, #" #x " + 4]\n"     \
  "smlad r4, r2, r12, r4\n"           \
  "smlad r5, r2, lr, r5\n"            \
  "smlad r8, r3, r12, r8\n"           \
  "smlad r9, r3, lr, r9\n"            \
  "ldr.w r12, [r0, #" #x " + 8]\n"    \
  "ldr.w lr, [r0, #" #x " + 12]\n"    \
  "smlad r6, r2, r12, r6\n"           \
  "smlad r7, r2, lr, r7\n"            \
  "smlad r10, r3, r12, r10\n"         \
  "smlad r11, r3, lr, r11\n"

// In: r0 = x (pairs, 4 pixels), r1 = w (pairs, 2 channels), r2 = pairs (> 0), words of two int16
// each. Adds to r4 ... r7 (first channel, four pixels) and r8 ... r11 (second channel). Uses all
// other registers and s1. In assembly because it needs all registers there are: 8 sums, 4
// operands, 2 pointers; 16 cycles per 16 products.
#define REDS_MULTIPLY                                                                      \
  "add.w r12, r0, r2, lsl #4\n"                                                            \
  "vmov s1, r12\n" /* where x ends */                                                      \
  "ands r2, r2, #7\n"                                                                      \
  "beq 1f\n"                                                                               \
  /* a remainder: enter the block of 8 steps in its middle, pointers set back accordingly */ \
  "rsb r2, r2, #8\n"                                                                       \
  "sub.w r0, r0, r2, lsl #4\n"                                                             \
  "sub.w r1, r1, r2, lsl #3\n"                                                             \
  "movs r3, #56\n" /* bytes of code per step */                                            \
  "mul r2, r2, r3\n"                                                                       \
  "adr.w r3, 1f\n"                                                                         \
  "add r3, r2\n"                                                                           \
  "orr r3, r3, #1\n"                                                                       \
  "bx r3\n"                                                                                \
  ".balign 4\n"                                                                            \
  "1:\n"                                                                                   \
  REDS_STEP(0, 0) REDS_STEP(16, 8) REDS_STEP(32, 16) REDS_STEP(48, 24)                     \
  REDS_STEP(64, 32) REDS_STEP(80, 40) REDS_STEP(96, 48) REDS_STEP(112, 56)                 \
  "adds r0, #128\n"                                                                        \
  "adds r1, #64\n"                                                                         \
  "vmov lr, s1\n"                                                                          \
  "cmp r0, lr\n"                                                                           \
  "bne 1b\n"

// Sums of a block, [channel][pixel], which start as the biases.
__attribute__((naked, noinline)) void multiply_block(const uint32_t* /*x*/, const uint32_t* /*w*/,
                                                     uint32_t /*pairs*/, int32_t* /*sums*/) {
  asm volatile(
      "push {r4-r11, lr}\n"
      "vmov s0, r3\n"
      "ldmia r3, {r4-r11}\n"  //
      REDS_MULTIPLY
      "vmov r0, s0\n"
      "stmia r0, {r4-r11}\n"
      "pop {r4-r11, pc}\n");
}

// Constants of two channels for the block below, and where its bytes go.
struct ProvenBlock {
  int32_t bias0, bias1;
  int32_t multiplier0, rounding0, shift0;
  int32_t multiplier1, rounding1, shift1;
  int8_t* output;   // of the first channel and pixel; the second channel's lies behind it
  uint32_t stride;  // bytes from pixel to pixel
};

// t = r1 = output; r2 = stride; r3, r12, lr = multiplier, rounding, shift. See simd.h.
#define REDS_REQUANTIZE(sum)              \
  "lsls " sum ", " sum ", #1\n"           \
  "add.w r0, r12, " sum ", asr #31\n"     \
  "smmlar r0, " sum ", r3, r0\n"          \
  "asr.w r0, r0, lr\n"                    \
  "ssat r0, #8, r0\n"                     \
  "strb r0, [r1]\n"                       \
  "add r1, r2\n"

// A block from bias to bytes, saturated to int8.
__attribute__((naked, noinline)) void multiply_proven_block(const uint32_t* /*x*/,
                                                            const uint32_t* /*w*/,
                                                            uint32_t /*pairs*/,
                                                            const ProvenBlock* /*block*/) {
  asm volatile(
      "push {r4-r11, lr}\n"
      "vmov s0, r3\n"
      "ldr r4, [r3]\n"
      "ldr.w r8, [r3, #4]\n"
      "mov r5, r4\n"
      "mov r6, r4\n"
      "mov r7, r4\n"
      "mov r9, r8\n"
      "mov r10, r8\n"
      "mov r11, r8\n"  //
      REDS_MULTIPLY
      "vmov r0, s0\n"
      "ldr r3, [r0, #8]\n"
      "ldr.w r12, [r0, #12]\n"
      "ldr.w lr, [r0, #16]\n"
      "ldr r1, [r0, #32]\n"
      "ldr r2, [r0, #36]\n"  //
      REDS_REQUANTIZE("r4") REDS_REQUANTIZE("r5") REDS_REQUANTIZE("r6") REDS_REQUANTIZE("r7")
      "vmov r0, s0\n"
      "ldr r3, [r0, #20]\n"
      "ldr.w r12, [r0, #24]\n"
      "ldr.w lr, [r0, #28]\n"
      "ldr r1, [r0, #32]\n"
      "adds r1, #1\n"  //
      REDS_REQUANTIZE("r8") REDS_REQUANTIZE("r9") REDS_REQUANTIZE("r10") REDS_REQUANTIZE("r11")
      "pop {r4-r11, pc}\n");
}

#undef REDS_REQUANTIZE
#undef REDS_MULTIPLY
#undef REDS_STEP

// Neither argument needs to be aligned; a call of memcpy would go byte by byte.
inline void copy(int8_t* to, const int8_t* from, uint32_t bytes) {
  for (; bytes >= 4; bytes -= 4, from += 4, to += 4) {
    const uint32_t word = load_word(from);
    __builtin_memcpy(to, &word, sizeof(word));
    asm volatile("" ::: "memory");  // or the compiler makes this loop a call of memcpy
  }
  for (; bytes > 0; --bytes) {
    *to++ = *from++;
    asm volatile("" ::: "memory");
  }
}

inline void fill(int8_t* to, int8_t value, uint32_t bytes) {
  for (; bytes > 0; --bytes) {
    *to++ = value;
    asm volatile("" ::: "memory");
  }
}

// Walks the output pixels and finds each one's window.
class Windows {
 public:
  Windows(const Conv2D& op, const LinearLevel& level, const int8_t* input)
      : window_(op.window), level_(level), input_(input), channels_(level.inputs->count) {}

  void advance() {
    if (++x_ == window_.output_width) {
      x_ = 0;
      ++y_;
    }
  }

  // Whether a window is one pixel of the image, to be read where it is.
  bool is_pixel() const {
    return window_.kernel_height == 1 && window_.kernel_width == 1 && window_.pad_top == 0 &&
           window_.pad_left == 0;
  }

  const int8_t* pixel() const {
    return at(y_ * window_.stride_height, x_ * window_.stride_width);
  }

  // Copies the window, (kernel_height, kernel_width, channels), zero points outside the image.
  void gather(int8_t* row) const {
    const uint32_t line_bytes = static_cast<uint32_t>(window_.kernel_width) * channels_;
    int32_t y = y_ * window_.stride_height - window_.pad_top;
    for (int32_t ky = 0; ky < window_.kernel_height; ++ky, y += window_.dilation_height) {
      if (y < 0 || y >= window_.input_height) {
        fill(row, level_.input_zero_point, line_bytes);
      } else {
        gather_line(row, y);
      }
      row += line_bytes;
    }
  }

 private:
  const int8_t* at(int32_t y, int32_t x) const {
    return input_ + static_cast<uint32_t>(y * window_.input_width + x) * channels_;
  }

  void gather_line(int8_t* row, int32_t y) const {
    const int32_t left = x_ * window_.stride_width - window_.pad_left;
    const int32_t dilation = window_.dilation_width;
    if (dilation == 1 && left >= 0 && left + window_.kernel_width <= window_.input_width) {
      copy(row, at(y, left), static_cast<uint32_t>(window_.kernel_width) * channels_);
      return;
    }
    for (int32_t kx = 0; kx < window_.kernel_width; ++kx, row += channels_) {
      const int32_t x = left + kx * dilation;
      if (x < 0 || x >= window_.input_width) {
        fill(row, level_.input_zero_point, channels_);
      } else {
        copy(row, at(y, x), channels_);
      }
    }
  }

  const Window& window_;
  const LinearLevel& level_;
  const int8_t* const input_;
  const uint32_t channels_;
  int32_t y_ = 0, x_ = 0;
};

// Four rows of int8 as x - zero_point: (pairs, 4 pixels).
void pack_pixels(const int8_t* const rows[kPixels], uint32_t products, uint32_t minus_zero_point,
                 uint32_t* packed) {
  const int8_t *r0 = rows[0], *r1 = rows[1], *r2 = rows[2], *r3 = rows[3];
  const auto put = [&](uint32_t pixel, uint32_t word) {
    packed[pixel] = sxtab16(minus_zero_point, word);
    packed[kPixels + pixel] = sxtab16_odd(minus_zero_point, word);
  };
  for (uint32_t i = products / 4; i > 0; --i, r0 += 4, r1 += 4, r2 += 4, r3 += 4) {
    put(0, load_word(r0));
    put(1, load_word(r1));
    put(2, load_word(r2));
    put(3, load_word(r3));
    packed += 2 * kPixels;
  }
  if (products % 4 != 0) {  // what is added behind the row meets zero weights
    put(0, load_partial_word(r0, products % 4));
    put(1, load_partial_word(r1, products % 4));
    put(2, load_partial_word(r2, products % 4));
    put(3, load_partial_word(r3, products % 4));
  }
}

// Weights of two channels: (pairs, 2 channels).
void pack_weights(const int8_t* row0, const int8_t* row1, uint32_t products, uint32_t* packed) {
  for (uint32_t i = products / 4; i > 0; --i, row0 += 4, row1 += 4, packed += 4) {
    const uint32_t word0 = load_word(row0), word1 = load_word(row1);
    packed[0] = sxtb16(word0);
    packed[1] = sxtb16(word1);
    packed[2] = sxtb16_odd(word0);
    packed[3] = sxtb16_odd(word1);
  }
  if (products % 4 != 0) {
    const uint32_t word0 = load_partial_word(row0, products % 4);
    const uint32_t word1 = load_partial_word(row1, products % 4);
    packed[0] = sxtb16(word0);
    packed[1] = sxtb16(word1);
    packed[2] = sxtb16_odd(word0);
    packed[3] = sxtb16_odd(word1);
  }
}

// Where the kept weights of an output channel lie side by side: in the store, or copied to `row`.
const int8_t* weights_row(const Conv2D& op, const Channels& inputs, uint32_t channel, int8_t* row) {
  const uint32_t taps =
      static_cast<uint32_t>(op.window.kernel_height * op.window.kernel_width);
  const int8_t* weights = op.weights + channel * taps * op.store_inputs;
  const bool single_run = inputs.repeat == 1 && inputs.run_count == 1;
  if (single_run && (taps == 1 || inputs.count == op.store_inputs)) {
    return weights + inputs.runs[0].offset;
  }
  int8_t* to = row;
  for (uint32_t tap = 0; tap < taps; ++tap, weights += op.store_inputs) {
    for (uint32_t repeat = 0; repeat < inputs.repeat; ++repeat) {
      for (uint32_t run = 0; run < inputs.run_count; ++run) {
        const uint32_t length = inputs.runs[run].length;
        copy(to, weights + repeat * inputs.stride + inputs.runs[run].offset, length);
        to += length;
      }
    }
  }
  return row;
}

struct Scratch {
  uint32_t* tile;
  uint32_t* weights;
  int8_t* rows;
  uint32_t padded;  // products, rounded up to a multiple of 4

  Scratch(int8_t* scratch, uint32_t products, uint32_t tile_pixels)
      : tile(reinterpret_cast<uint32_t*>(scratch)), padded((products + 3) / 4 * 4) {
    weights = tile + padded / 2 * tile_pixels;
    rows = reinterpret_cast<int8_t*>(weights + padded / 2 * kChannels);
  }
};

// Packs the next `pixels` windows; a last incomplete block repeats its last window.
void pack_tile(Windows& windows, const LinearLevel& level, uint32_t products, uint32_t pixels,
               const Scratch& scratch) {
  const uint32_t minus_zero_point = negated_pair(level.input_zero_point);
  uint32_t* packed = scratch.tile;
  for (uint32_t first = 0; first < pixels; first += kPixels) {
    const int8_t* rows[kPixels];
    for (uint32_t i = 0; i < kPixels; ++i) {
      if (first + i >= pixels) {
        rows[i] = rows[i - 1];
        continue;
      }
      int8_t* const row = scratch.rows + i * scratch.padded;
      if (!windows.is_pixel()) windows.gather(row);
      rows[i] = windows.is_pixel() ? windows.pixel() : row;
      windows.advance();
    }
    pack_pixels(rows, products, minus_zero_point, packed);
    packed += scratch.padded / 2 * kPixels;
  }
}

// The ways to turn a block's sums into bytes.
class GeneralBlocks {
 public:
  // Two channels, equal ones when only one is left.
  GeneralBlocks(const LinearLevel& level, uint32_t channel0, uint32_t channel1)
      : requantize0_(level, channel0),
        requantize1_(level, channel1),
        bias0_(level.bias[channel0]),
        bias1_(level.bias[channel1]) {}

  void multiply(const uint32_t* x, const uint32_t* w, uint32_t pairs, int8_t* output,
                uint32_t stride) {
    int32_t sums[kChannels][kPixels] = {{bias0_, bias0_, bias0_, bias0_},
                                        {bias1_, bias1_, bias1_, bias1_}};
    multiply_block(x, w, pairs, sums[0]);
    for (uint32_t i = 0; i < kPixels; ++i, output += stride) {
      output[0] = static_cast<int8_t>(requantize0_(sums[0][i]));
      output[1] = static_cast<int8_t>(requantize1_(sums[1][i]));
    }
  }

 private:
  GeneralRequantization requantize0_, requantize1_;
  int32_t bias0_, bias1_;
};

class ProvenBlocks {
 public:
  ProvenBlocks(const LinearLevel& level, uint32_t channel0, uint32_t channel1) {
    const ProvenRequantization first(level, channel0), second(level, channel1);
    block_ = {level.bias[channel0], level.bias[channel1], first.multiplier,  first.rounding,
              first.shift,          second.multiplier,    second.rounding, second.shift,
              nullptr,              0};
  }

  void multiply(const uint32_t* x, const uint32_t* w, uint32_t pairs, int8_t* output,
                uint32_t stride) {
    block_.output = output;
    block_.stride = stride;
    multiply_proven_block(x, w, pairs, &block_);
  }

 private:
  ProvenBlock block_;
};

// One or two channels, from `channel` on, of all pixels of a tile.
template <typename Blocks>
void multiply_tile(const LinearLevel& level, uint32_t channel, uint32_t channels, uint32_t pixels,
                   const Scratch& scratch, int8_t* output) {
  Blocks blocks(level, channel, channel + channels - 1);
  const uint32_t pairs = scratch.padded / 2, stride = level.outputs->count;
  const uint32_t* packed = scratch.tile;
  for (uint32_t first = 0; first < pixels; first += kPixels, packed += pairs * kPixels) {
    const uint32_t count = pixels - first < kPixels ? pixels - first : kPixels;
    if (count == kPixels && channels == kChannels) {
      blocks.multiply(packed, scratch.weights, pairs, output, stride);
      output += kPixels * stride;
      continue;
    }
    int8_t bytes[kPixels][kChannels];
    blocks.multiply(packed, scratch.weights, pairs, bytes[0], kChannels);
    for (uint32_t i = 0; i < count; ++i, output += stride) {
      for (uint32_t c = 0; c < channels; ++c) output[c] = bytes[i][c];
    }
  }
}

template <typename Blocks>
void convolve(const Conv2D& op, const LinearLevel& level, const Buffers& buffers) {
  const Window& window = op.window;
  const uint32_t pixels = static_cast<uint32_t>(window.output_height * window.output_width);
  const uint32_t products =
      static_cast<uint32_t>(window.kernel_height * window.kernel_width) * level.inputs->count;
  const Scratch scratch(buffers.scratch, products, level.tile_width);
  Windows windows(op, level, buffers.inputs[0]);
  for (uint32_t start = 0; start < pixels; start += level.tile_width) {
    const uint32_t count =
        pixels - start < level.tile_width ? pixels - start : level.tile_width;
    pack_tile(windows, level, products, count, scratch);
    int8_t* const output = buffers.output + start * level.outputs->count;
    ChannelCursor channel(*level.outputs);
    for (uint32_t i = 0; i < level.outputs->count; i += kChannels) {
      const uint32_t channels = level.outputs->count - i < kChannels ? 1 : kChannels;
      const int8_t* row0 = weights_row(op, *level.inputs, channel.next(), scratch.rows);
      const int8_t* row1 = row0;
      if (channels == kChannels) {
        row1 = weights_row(op, *level.inputs, channel.next(), scratch.rows + scratch.padded);
      }
      pack_weights(row0, row1, products, scratch.weights);
      multiply_tile<Blocks>(level, i, channels, count, scratch, output + i);
    }
    ActivationClamp(level).apply(output, count * level.outputs->count);
  }
}

}  // namespace

void conv2d(const Conv2D& op, const LinearLevel& level, const Buffers& buffers) {
  convolve<GeneralBlocks>(op, level, buffers);
}

void conv2d_proven(const Conv2D& op, const LinearLevel& level, const Buffers& buffers) {
  convolve<ProvenBlocks>(op, level, buffers);
}

}  // namespace dsp
}  // namespace reds

#endif  // REDS_DSP_KERNELS
