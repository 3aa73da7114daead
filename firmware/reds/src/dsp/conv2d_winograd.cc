// 3x3 convolution of stride 1 by Winograd's algorithm F(4x4, 3x3), in integers and exact: 36
// products for a tile of 4 x 4 outputs instead of 144 (Lavin and Gray, "Fast Algorithms for
// Convolutional Neural Networks", 2015).
//
// Along one side, six pixels d and three taps g give four outputs y = A^T [(G g) * (B^T d)]. With
//
//   B^T = 4  0 -5  0  1  0    G' = 1  0  0    A' = 6 -4 -4  1  1  0
//         0 -4 -4  1  1  0         1  1  1         0 -2  2  1 -1  0
//         0  4 -4 -1  1  0         1 -1  1         0 -1 -1  1  1  0
//         0 -2 -1  2  1  0         1  2  4         0 -1  1  2 -2  6
//         0  2 -1 -2  1  0         1 -2  4
//         0  4  0 -5  0  1         0  0  1
//
// A' [(G' g) * (B^T d)] is (24, 12, 6, 6) times y: output (i, j) of a tile comes out as 9 * 2^n
// times its accumulator without the bias, where 2^n is (8, 4, 2, 2)[i] * (8, 4, 2, 2)[j]. All sums
// are modulo 2^32, in which 9 has an inverse; what is then left of 2^n is a shift, exact where 2^n
// times the accumulator is an int32: the compiler proves that it stays below 2^25 (redsc/kernels.py,
// is_winograd_exact).
//
// Transformed weights and pixels are int16. Weights: |G' g G'^T| <= 49 * 128 = 6272. A transformed
// pixel is a sum of 36 pixels x - zero_point, whose positive factors sum up to at most 68 and the
// negative ones to at most 50; pixels span at most 255 and 0 is among them, so it is at most
// 68 * 255 = 17340. With x + 128 in place of x - zero_point it is that of zero point -128.
//
// `tile_width` windows at a time are transformed to scratch, then the weights of two output
// channels, which are multiplied with all of them; or, if tile_height tells so, those of all
// channels, once for all windows.
//
// Scratch: windows (tile_width / 4, in / 2, 36, 4 of int16 pairs), weights (tile_height / 2, in / 2,
// 36, 2 of int16 pairs), and sums (36, 2, 4 int32) or a window at the image's edge (6, 6, in int8),
// whichever is larger; `in` is rounded up to a multiple of 4.
#include "reds/kernels.h"

#if REDS_DSP_KERNELS

#include "../channels.h"
#include "conv2d_windows.h"
#include "simd.h"

// conv2d_winograd_tiles.S
extern "C" void reds_winograd_window(const int8_t* pixels, uint32_t pixel_step, uint32_t line_step,
                                     uint32_t words, uint32_t correction, uint32_t* transformed);
extern "C" void reds_winograd_weights(const int8_t* taps, uint32_t tap_step, uint32_t words,
                                      uint32_t* transformed);
extern "C" void reds_winograd_block(const void* block);
extern "C" void reds_winograd_block_one_product(const void* block);

namespace reds {
namespace dsp {
namespace {

constexpr uint32_t kPoints = 36;
constexpr uint32_t kTaps = 9;
constexpr uint32_t kSide = 4;      // of a tile
constexpr uint32_t kWindow = 6;    // side of what it reads
constexpr uint32_t kTiles = 4;     // of a block
constexpr uint32_t kChannels = 2;  // of a block

// How sums of a channel become int8. bias: doubled, or the offset of one product, which wants no
// more than that and the multiplier.
struct Requantization {
  int32_t bias, multiplier, rounding, shift;
};

Requantization proven(const LinearLevel& level, uint32_t channel) {
  const ProvenRequantization requantize(level, channel);
  return {level.bias[channel] * 2, requantize.multiplier, requantize.rounding, requantize.shift};
}

Requantization one_product(const LinearLevel& level, uint32_t channel) {
  return {level.bias[channel], level.multiplier[channel], 0, 0};
}

// What the product and its transform need, in the order that they know.
struct Block {
  const uint32_t* windows;
  uint32_t* weights;
  int32_t* sums;
  uint32_t pairs;  // of channels read
  Requantization channels[kChannels];
  struct {
    uint32_t line_step;  // bytes, from behind four outputs
    int8_t* output;      // of the first channel; goes on to the next one
    uint32_t pixel_step;
  } tiles[kTiles];
};

struct Sizes {
  const uint32_t inputs, words, pairs;  // channels read, in fours and in twos, rounded up
  const uint32_t width, height;  // of the output
  const uint32_t columns, count;  // of tiles

  Sizes(const Window& window, const LinearLevel& level)
      : inputs(level.inputs->count),
        words((inputs + 3) / 4),
        pairs(2 * words),
        width(static_cast<uint32_t>(window.output_width)),
        height(static_cast<uint32_t>(window.output_height)),
        columns((width + kSide - 1) / kSide),
        count(columns * ((height + kSide - 1) / kSide)) {}

  uint32_t block_words() const { return pairs * kPoints * kTiles; }
  uint32_t pair_words() const { return pairs * kPoints * kChannels; }
};

// Fills what of a window lies outside the image, with whole words, before its pixels are copied.
void fill_around(int8_t* window, uint32_t step, const Taps& lines, const Taps& columns,
                 uint32_t channels, int8_t zero_point) {
  const uint32_t left = columns.first * channels;
  const uint32_t right = (columns.first + columns.count) * channels;
  fill(window, zero_point, lines.first * step);
  int8_t* line = window + lines.first * step;
  for (uint32_t i = 0; i < lines.count; ++i, line += step) {
    if (left > 0) fill(line, zero_point, left);
    if (right < step) fill(line + right, zero_point, step - right);
  }
  fill(line, zero_point, (kWindow - lines.first - lines.count) * step);
}

// Transforms the windows of tiles. `window` has room for one: it takes those at the image's edge, and
// those of which reading whole words would leave the image.
void transform_windows(const Conv2D& op, const LinearLevel& level, const Sizes& sizes,
                       const int8_t* image, uint32_t first, uint32_t end, int8_t* window,
                       uint32_t* transformed) {
  const Window& w = op.window;
  const uint32_t line_step = static_cast<uint32_t>(w.input_width) * sizes.inputs;
  const uint32_t too_much = kPoints * static_cast<uint32_t>(level.input_zero_point + 128);
  const int8_t* const image_end = image + static_cast<uint32_t>(w.input_height) * line_step;
  const uint32_t reach = (kWindow - 1) * (line_step + sizes.inputs) + 4 * sizes.words;
  for (uint32_t tile = first; tile < end; ++tile) {
    const int32_t y = static_cast<int32_t>(tile / sizes.columns * kSide) - w.pad_top;
    const int32_t x = static_cast<int32_t>(tile % sizes.columns * kSide) - w.pad_left;
    const Taps lines(y, kWindow, 1, w.input_height), columns(x, kWindow, 1, w.input_width);
    const int8_t* pixels = image + (lines.position * w.input_width + columns.position) *
                                       static_cast<int32_t>(sizes.inputs);
    uint32_t step = line_step;
    if (lines.count < kWindow || columns.count < kWindow || pixels + reach > image_end) {
      step = kWindow * sizes.inputs;
      fill_around(window, step, lines, columns, sizes.inputs, level.input_zero_point);
      reds_copy_lines(window + lines.first * step + columns.first * sizes.inputs, step, pixels,
                      line_step, lines.count, columns.count * sizes.inputs);
      pixels = window;
    }
    const uint32_t place = tile - first;
    reds_winograd_window(pixels, sizes.inputs, step, sizes.words, too_much | too_much << 16,
                         transformed + place / kTiles * sizes.block_words() + place % kTiles);
  }
}

// Transforms the taps of an output channel. `row` has room for them side by side: it takes those that
// do not lie so in the store or are no whole words, with zeros behind.
void transform_weights(const int8_t* taps, uint32_t tap_step, const Channels& inputs,
                       const Sizes& sizes, int8_t* row, uint32_t* transformed) {
  if (inputs.repeat == 1 && inputs.run_count == 1 && sizes.inputs % 4 == 0) {
    reds_winograd_weights(taps + inputs.runs[0].offset, tap_step, sizes.words, transformed);
    return;
  }
  const uint32_t padded = 4 * sizes.words;
  fill(row, 0, kTaps * padded);
  int8_t* to = row;
  for (uint32_t repeat = 0; repeat < inputs.repeat; ++repeat, taps += inputs.stride) {
    for (uint32_t run = 0; run < inputs.run_count; ++run) {
      const Run& it = inputs.runs[run];
      reds_copy_lines(to, padded, taps + it.offset, tap_step, kTaps, it.length);
      to += it.length;
    }
  }
  reds_winograd_weights(row, padded, sizes.words, transformed);
}

// Outputs of two channels, and where those of tiles go that are not in the image as a whole.
struct Output {
  const Sizes& sizes;
  int8_t* bytes;
  uint32_t channels;
  int8_t beside[kTiles][kSide][kSide][kChannels];

  // Tells a block where to write; whether some of it goes beside.
  bool place(uint32_t channel, uint32_t tile, Block& block) {
    uint32_t y = tile / sizes.columns * kSide, x = tile % sizes.columns * kSide;
    int8_t* to = bytes + (y * sizes.width + x) * channels + channel;
    bool any = false;
    for (uint32_t i = 0; i < kTiles; ++i) {
      if (x + kSide <= sizes.width && y + kSide <= sizes.height) {
        block.tiles[i] = {(sizes.width - kSide) * channels, to, channels};
      } else {
        block.tiles[i] = {0, beside[i][0][0], kChannels};
        any = true;
      }
      x += kSide;
      to += kSide * channels;
      if (x >= sizes.width) {
        to += (kSide * sizes.width - x) * channels;
        x = 0;
        y += kSide;
      }
    }
    return any;
  }

  void copy(uint32_t channel, uint32_t tile) const {
    uint32_t y = tile / sizes.columns * kSide, x = tile % sizes.columns * kSide;
    for (uint32_t i = 0; i < kTiles; ++i) {
      if (x + kSide > sizes.width || y + kSide > sizes.height) {
        for (uint32_t line = 0; line < kSide && y + line < sizes.height; ++line) {
          int8_t* to = bytes + ((y + line) * sizes.width + x) * channels + channel;
          for (uint32_t column = 0; column < kSide && x + column < sizes.width; ++column) {
            to[0] = beside[i][line][column][0];
            to[1] = beside[i][line][column][1];
            to += channels;
          }
        }
      }
      x += kSide;
      if (x >= sizes.width) {
        x = 0;
        y += kSide;
      }
    }
  }
};

void convolve(const Conv2D& op, const LinearLevel& level, const Buffers& buffers,
              Requantization (*requantization)(const LinearLevel&, uint32_t),
              void (*multiply)(const void* block)) {
  const Sizes sizes(op.window, level);
  const uint32_t channels = level.outputs->count;
  uint32_t* const windows = reinterpret_cast<uint32_t*>(buffers.scratch);
  uint32_t* const weights = windows + level.tile_width / kTiles * sizes.block_words();
  uint32_t* const rest = weights + level.tile_height / kChannels * sizes.pair_words();
  int8_t* const copy = reinterpret_cast<int8_t*>(rest);
  const bool keeps_weights = level.tile_height >= channels;
  Output output = {sizes, buffers.output, channels, {}};
  Block block = {};
  block.sums = reinterpret_cast<int32_t*>(rest);
  block.pairs = sizes.pairs;
  for (uint32_t start = 0; start < sizes.count; start += level.tile_width) {
    const uint32_t left = sizes.count - start;
    const uint32_t end = left < level.tile_width ? sizes.count : start + level.tile_width;
    transform_windows(op, level, sizes, buffers.inputs[0], start, end, copy, windows);
    ChannelCursor cursor(*level.outputs);
    bool is_placed = false, has_beside = false;  // the block
    uint32_t stored = 0;  // position in the store of the channel taken last
    for (uint32_t i = 0; i < channels; i += kChannels) {
      // a last channel goes with that before it
      const uint32_t channel = i + kChannels > channels ? channels - kChannels : i;
      block.weights = weights + (keeps_weights ? i / kChannels * sizes.pair_words() : 0);
      for (uint32_t j = 0; j < kChannels; ++j) {
        block.channels[j] = requantization(level, channel + j);
        if (keeps_weights && start > 0) continue;
        if (channel + j >= i) stored = cursor.next();
        transform_weights(op.weights + stored * kTaps * op.store_inputs, op.store_inputs,
                          *level.inputs, sizes, copy, block.weights + j);
      }
      block.windows = windows;
      for (uint32_t tile = start; tile < end; tile += kTiles) {
        if (!is_placed || channel < i) has_beside = output.place(channel, tile, block);
        multiply(&block);
        if (has_beside) output.copy(channel, tile);
        // which went on to the next channels
        is_placed = !has_beside && end - start <= kTiles;
        block.windows += sizes.block_words();
      }
    }
  }
  ActivationClamp(level).apply(buffers.output, sizes.width * sizes.height * channels);
}

}  // namespace

void conv2d_winograd(const Conv2D& op, const LinearLevel& level, const Buffers& buffers) {
  convolve(op, level, buffers, proven, reds_winograd_block);
}

void conv2d_winograd_one_product(const Conv2D& op, const LinearLevel& level,
                                 const Buffers& buffers) {
  convolve(op, level, buffers, one_product, reds_winograd_block_one_product);
}

}  // namespace dsp
}  // namespace reds

#endif  // REDS_DSP_KERNELS
