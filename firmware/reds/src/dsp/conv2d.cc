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

// conv2d_pack.S and conv2d_blocks.S
extern "C" void reds_pack_pixels(const int8_t* const rows[4], uint32_t words,
                                 uint32_t minus_zero_point, uint32_t* packed);
extern "C" void reds_pack_doubled_pixels(const int8_t* const rows[4], uint32_t words,
                                         uint32_t minus_zero_point, uint32_t* packed);
extern "C" void reds_pack_weights(const int8_t* row0, const int8_t* row1, uint32_t words,
                                  uint32_t* packed);
extern "C" void reds_conv2d_blocks(const void* job);

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
    const int32_t left = x_ * window_.stride_width - window_.pad_left;
    const bool is_plain = window_.dilation_width == 1;
    // taps of a line that lie in the image, if neighbours do
    const int32_t begin = left < 0 ? clamp(-left, 0, window_.kernel_width) : 0;
    const int32_t end = clamp(window_.input_width - left, begin, window_.kernel_width);
    const uint32_t before = static_cast<uint32_t>(begin) * channels_;
    const uint32_t inside = static_cast<uint32_t>(end - begin) * channels_;
    int32_t y = y_ * window_.stride_height - window_.pad_top;
    const int8_t* line = at(y, left);
    const int32_t step =
        window_.dilation_height * window_.input_width * static_cast<int32_t>(channels_);
    for (int32_t ky = window_.kernel_height; ky > 0; --ky) {
      if (y < 0 || y >= window_.input_height) {
        fill(row, level_.input_zero_point, line_bytes);
      } else if (is_plain) {
        if (before > 0) fill(row, level_.input_zero_point, before);
        copy(row + before, line + before, inside);
        if (before + inside < line_bytes) {
          fill(row + before + inside, level_.input_zero_point, line_bytes - before - inside);
        }
      } else {
        gather_line(row, y, left);
      }
      row += line_bytes;
      line += step;
      y += window_.dilation_height;
    }
  }

 private:
  const int8_t* at(int32_t y, int32_t x) const {
    return input_ + (y * window_.input_width + x) * static_cast<int32_t>(channels_);
  }

  void gather_line(int8_t* row, int32_t y, int32_t left) const {
    for (int32_t kx = 0; kx < window_.kernel_width; ++kx, row += channels_) {
      const int32_t x = left + kx * window_.dilation_width;
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

// Four rows of int8 as (x - zero_point) * times: (pairs, 4 pixels).
template <int times>
void pack_pixels(const int8_t* const rows[kPixels], uint32_t products, uint32_t minus_zero_point,
                 uint32_t* packed) {
  const uint32_t words = products / 4, rest = products % 4;
  if (words > 0) {
    (times == 2 ? reds_pack_doubled_pixels : reds_pack_pixels)(rows, words, minus_zero_point,
                                                               packed);
    packed += words * 2 * kPixels;
  }
  for (uint32_t i = 0; rest > 0 && i < kPixels; ++i) {
    // what is added behind the row meets zero weights
    const uint32_t word = load_partial_word(rows[i] + 4 * words, rest);
    const uint32_t even = sxtab16(minus_zero_point, word);
    const uint32_t odd = sxtab16_odd(minus_zero_point, word);
    packed[i] = times == 2 ? sadd16(even, even) : even;
    packed[kPixels + i] = times == 2 ? sadd16(odd, odd) : odd;
  }
}

// Weights of two channels: (pairs, 2 channels).
void pack_weights(const int8_t* row0, const int8_t* row1, uint32_t products, uint32_t* packed) {
  const uint32_t words = products / 4, rest = products % 4;
  if (words > 0) reds_pack_weights(row0, row1, words, packed);
  if (rest > 0) {
    packed += words * 2 * kChannels;
    const uint32_t word0 = load_partial_word(row0 + 4 * words, rest);
    const uint32_t word1 = load_partial_word(row1 + 4 * words, rest);
    packed[0] = sxtb16(word0);
    packed[1] = sxtb16(word1);
    packed[2] = sxtb16_odd(word0);
    packed[3] = sxtb16_odd(word1);
  }
}

// The kept weights of an output channel, side by side: where they are, or copied to `row`.
class WeightRows {
 public:
  WeightRows(const Conv2D& op, const Channels& inputs)
      : inputs_(inputs),
        taps_(static_cast<uint32_t>(op.window.kernel_height * op.window.kernel_width)),
        tap_bytes_(op.store_inputs),
        row_bytes_(taps_ * op.store_inputs),
        is_whole_(inputs.repeat == 1 && inputs.run_count == 1 &&
                  (taps_ == 1 || inputs.count == op.store_inputs)),
        weights_(op.weights + (is_whole_ ? inputs.runs[0].offset : 0)) {}

  const int8_t* of(uint32_t channel, int8_t* row) const {
    const int8_t* const weights = weights_ + channel * row_bytes_;
    if (is_whole_) return weights;
    gather(weights, row);
    return row;
  }

 private:
  __attribute__((noinline)) void gather(const int8_t* weights, int8_t* to) const {
    for (uint32_t tap = 0; tap < taps_; ++tap, weights += tap_bytes_) {
      for (uint32_t repeat = 0; repeat < inputs_.repeat; ++repeat) {
        for (uint32_t run = 0; run < inputs_.run_count; ++run) {
          const uint32_t length = inputs_.runs[run].length;
          copy(to, weights + repeat * inputs_.stride + inputs_.runs[run].offset, length);
          to += length;
        }
      }
    }
  }

  const Channels& inputs_;
  const uint32_t taps_, tap_bytes_, row_bytes_;
  const bool is_whole_;
  const int8_t* const weights_;
};

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
template <int times>
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
    pack_pixels<times>(rows, products, minus_zero_point, packed);
    packed += scratch.padded / 2 * kPixels;
  }
}

// Two channels, or one, of all pixels of a tile, for any requantisation.
struct GeneralTile {
  static constexpr int kTimes = 1;  // what packed pixels are multiplied with

  static void multiply(const LinearLevel& level, uint32_t channel, uint32_t channels,
                       uint32_t pixels, const Scratch& scratch, int8_t* output) {
    const uint32_t last = channel + channels - 1;
    const GeneralRequantization requantize0(level, channel), requantize1(level, last);
    const int32_t bias0 = level.bias[channel], bias1 = level.bias[last];
    const uint32_t pairs = scratch.padded / 2, stride = level.outputs->count;
    const uint32_t* packed = scratch.tile;
    for (uint32_t first = 0; first < pixels; first += kPixels, packed += pairs * kPixels) {
      int32_t sums[kChannels][kPixels] = {{bias0, bias0, bias0, bias0},
                                          {bias1, bias1, bias1, bias1}};
      multiply_block(packed, scratch.weights, pairs, sums[0]);
      for (uint32_t i = 0; i < kPixels && first + i < pixels; ++i, output += stride) {
        output[0] = static_cast<int8_t>(requantize0(sums[0][i]));
        if (channels > 1) output[1] = static_cast<int8_t>(requantize1(sums[1][i]));
      }
    }
  }
};

// What the loops in assembly need of two channels, in the order that they know.
struct Job {
  int32_t multiplier0, rounding0, shift0;
  int32_t multiplier1, rounding1, shift1;
  int32_t bias0, bias1;  // doubled
  uint32_t output_step;  // bytes from pixel to pixel
  const uint32_t *weights, *weights_end;
  const uint32_t* x;
  int8_t* output;   // of the first channel; the second one's is beside it
  uint32_t blocks;  // of four pixels
  uint32_t pairs;
};

// The same in four instructions for each output. Packed pixels are doubled, because that wants
// doubled sums.
struct ProvenTile {
  static constexpr int kTimes = 2;

  static void multiply(const LinearLevel& level, uint32_t channel, uint32_t channels,
                       uint32_t pixels, const Scratch& scratch, int8_t* output) {
    const uint32_t last = channel + channels - 1;
    const ProvenRequantization requantize0(level, channel), requantize1(level, last);
    const uint32_t pairs = scratch.padded / 2;
    const uint32_t stride = level.outputs->count;
    Job job = {requantize0.multiplier, requantize0.rounding, requantize0.shift,
               requantize1.multiplier, requantize1.rounding, requantize1.shift,
               2 * level.bias[channel], 2 * level.bias[last], stride,
               scratch.weights, scratch.weights + pairs * kChannels, scratch.tile,
               output, pixels / kPixels, pairs};
    if (channels == kChannels && job.blocks > 0) {
      reds_conv2d_blocks(&job);
      job.x += job.blocks * pairs * kPixels;
      output += job.blocks * kPixels * stride;
      pixels %= kPixels;
    }
    // What would reach beyond the tensor is computed beside it.
    int8_t bytes[kPixels][kChannels];
    job.output = bytes[0];
    job.output_step = kChannels;
    job.blocks = 1;
    for (uint32_t first = 0; first < pixels; first += kPixels, job.x += pairs * kPixels) {
      reds_conv2d_blocks(&job);
      for (uint32_t i = 0; i < kPixels && first + i < pixels; ++i, output += stride) {
        for (uint32_t c = 0; c < channels; ++c) output[c] = bytes[i][c];
      }
    }
  }
};

template <typename Tile>
void convolve(const Conv2D& op, const LinearLevel& level, const Buffers& buffers) {
  const Window& window = op.window;
  const uint32_t pixels = static_cast<uint32_t>(window.output_height * window.output_width);
  const uint32_t products =
      static_cast<uint32_t>(window.kernel_height * window.kernel_width) * level.inputs->count;
  const Scratch scratch(buffers.scratch, products, level.tile_width);
  Windows windows(op, level, buffers.inputs[0]);
  const WeightRows rows(op, *level.inputs);
  for (uint32_t start = 0; start < pixels; start += level.tile_width) {
    const uint32_t count =
        pixels - start < level.tile_width ? pixels - start : level.tile_width;
    pack_tile<Tile::kTimes>(windows, level, products, count, scratch);
    int8_t* const output = buffers.output + start * level.outputs->count;
    ChannelCursor channel(*level.outputs);
    for (uint32_t i = 0; i < level.outputs->count; i += kChannels) {
      const uint32_t channels = level.outputs->count - i < kChannels ? 1 : kChannels;
      const int8_t* row0 = rows.of(channel.next(), scratch.rows);
      const int8_t* row1 = row0;
      if (channels == kChannels) {
        row1 = rows.of(channel.next(), scratch.rows + scratch.padded);
      }
      pack_weights(row0, row1, products, scratch.weights);
      Tile::multiply(level, i, channels, count, scratch, output + i);
    }
    ActivationClamp(level).apply(output, count * level.outputs->count);
  }
}

}  // namespace

void conv2d(const Conv2D& op, const LinearLevel& level, const Buffers& buffers) {
  convolve<GeneralTile>(op, level, buffers);
}

void conv2d_proven(const Conv2D& op, const LinearLevel& level, const Buffers& buffers) {
  convolve<ProvenTile>(op, level, buffers);
}

}  // namespace dsp
}  // namespace reds

#endif  // REDS_DSP_KERNELS
