// Convolution as a matrix product, two channels by four pixels at a time.
//
// The image is taken in tiles of `tile_pixels`. A tile's windows are packed into scratch as int16
// x - zero_point, products in pairs, four pixels beside each other; then the weights of two
// channels at a time are expanded to int16 likewise (the only place that sees the store's layout)
// and multiplied with the whole tile. Products are padded to a multiple of four with pixels of zero;
// so up to three bytes behind a row of weights are read but count for nothing.
//
// Where pixels or channels do not fill a block, the last block takes some for a second time.
//
// Scratch: tile (padded * tile_pixels int16), weights (padded * 2 int16), rows (padded * 4 int8).
#include "reds/kernels.h"

#if REDS_DSP_KERNELS

#include "../channels.h"
#include "conv2d_windows.h"
#include "simd.h"

// conv2d_pack.S and conv2d_channels.S
extern "C" void reds_pack_pixels(const void* rows, uint32_t minus_zero_point, uint32_t zero_points,
                                 uint32_t* packed);
extern "C" void reds_pack_doubled_pixels(const void* rows, uint32_t minus_zero_point,
                                         uint32_t zero_points, uint32_t* packed);
extern "C" void reds_conv2d_block(const uint32_t* x, const uint32_t* weights, uint32_t pairs,
                                  int32_t* sums);
extern "C" void reds_conv2d_channels(void* job);
extern "C" void reds_conv2d_channels_one_product(void* job);

namespace reds {
namespace dsp {
namespace {

constexpr uint32_t kPixels = 4;    // of one block
constexpr uint32_t kChannels = 2;  // of one block

// A channel's weights: `taps` runs of `words` of four, `gap` bytes between them.
struct Runs {
  uint32_t taps, words, gap;
};

// Weights of two channels: (pairs, 2 channels).
void pack_weights(const int8_t* row0, const int8_t* row1, Runs runs, uint32_t* packed) {
  for (; runs.taps > 0; --runs.taps, row0 += runs.gap, row1 += runs.gap) {
    for (uint32_t i = 0; i < runs.words; ++i, row0 += 4, row1 += 4, packed += 2 * kChannels) {
      const uint32_t word0 = load_word(row0), word1 = load_word(row1);
      packed[0] = sxtb16(word0);
      packed[1] = sxtb16(word1);
      packed[2] = sxtb16_odd(word0);
      packed[3] = sxtb16_odd(word1);
    }
  }
}

// The kept weights of an output channel: where they are, or copied side by side to `row`.
class WeightRows {
 public:
  WeightRows(const Conv2D& op, const Channels& inputs)
      : inputs_(inputs),
        taps_(static_cast<uint32_t>(op.window.kernel_height * op.window.kernel_width)),
        tap_bytes_(op.store_inputs),
        row_bytes_(taps_ * op.store_inputs),
        is_whole_(taps_ == 1 || inputs.count == op.store_inputs),
        are_in_place_(inputs.repeat == 1 && inputs.run_count == 1 &&
                      (is_whole_ || inputs.count % 4 == 0)),
        weights_(op.weights + (are_in_place_ ? inputs.runs[0].offset : 0)) {}

  bool are_in_place() const { return are_in_place_; }
  uint32_t row_bytes() const { return row_bytes_; }

  Runs runs() const {
    if (are_in_place_ && !is_whole_) {
      return {taps_, inputs_.count / 4, tap_bytes_ - inputs_.count};
    }
    return {1, (taps_ * inputs_.count + 3) / 4, 0};
  }

  const int8_t* of(uint32_t channel, int8_t* row) const {
    const int8_t* const weights = weights_ + channel * row_bytes_;
    if (are_in_place_) return weights;
    gather(weights, row);
    return row;
  }

 private:
  __attribute__((noinline)) void gather(const int8_t* weights, int8_t* to) const {
    for (uint32_t repeat = 0; repeat < inputs_.repeat; ++repeat) {
      for (uint32_t run = 0; run < inputs_.run_count; ++run) {
        const uint32_t length = inputs_.runs[run].length;
        reds_copy_lines(to, inputs_.count,
                        weights + repeat * inputs_.stride + inputs_.runs[run].offset, tap_bytes_,
                        taps_, length);
        to += length;
      }
    }
  }

  const Channels& inputs_;
  const uint32_t taps_, tap_bytes_, row_bytes_;
  const bool is_whole_, are_in_place_;
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

// Output pixels from `start` on, in blocks of four. The last block begins `back` pixels earlier.
struct Tile {
  uint32_t start, blocks, back;

  Tile(uint32_t start, uint32_t end, uint32_t tile_pixels) : start(start) {
    const uint32_t pixels = end - start < tile_pixels ? end - start : tile_pixels;
    blocks = (pixels + kPixels - 1) / kPixels;
    const uint32_t missing = blocks * kPixels - pixels;
    back = start + pixels < kPixels ? 0 : missing;
  }

  uint32_t first_pixel(uint32_t block) const {
    return start + block * kPixels - (block + 1 == blocks ? back : 0);
  }
};

// What is packed, as conv2d_pack.S knows it: of four pixels each a row of `lines` lines, one or more,
// from `first` on and `steps` apart, of `bytes` bytes, four or more; of a single line the four bytes
// before its end are read. All bytes of a row are one sequence; zeros fill up its last four. So are
// the rows of `blocks` blocks, one or more, if all steps are the same.
struct Rows {
  const int8_t* first[kPixels];
  uint32_t steps[kPixels];
  uint32_t bytes, lines, blocks;
  uint32_t block_step;  // bytes
};

// The windows of output pixels from the present one on, where they lie in the image or copied to
// scratch: of as many of `blocks` blocks as lie evenly, or of one, whose pixels may be behind the
// image if that has less than four: these repeat its last one.
__attribute__((always_inline)) inline Rows rows_of(Windows& windows, uint32_t blocks,
                                                   uint32_t pixels, const Scratch& scratch) {
  Rows rows;
  rows.bytes = windows.line_bytes();
  rows.lines = windows.lines();
  rows.blocks = windows.even_blocks(kPixels, blocks);
  rows.block_step = kPixels * windows.window_step();
  if (rows.blocks > 0) {
    const int8_t* window = windows.window();
    for (uint32_t i = 0; i < kPixels; ++i, window += windows.window_step()) {
      rows.first[i] = window;
      rows.steps[i] = windows.line_step();
    }
    return rows;
  }
  rows.blocks = 1;
  for (uint32_t i = 0; i < kPixels; ++i) {
    if (i >= pixels) {
      rows.first[i] = rows.first[i - 1];
      rows.steps[i] = rows.steps[i - 1];
      continue;
    }
    const Lines lines = windows.lines_of(scratch.rows + i * scratch.padded);
    rows.first[i] = lines.first;
    rows.steps[i] = lines.step;
    windows.advance();
  }
  return rows;
}

using Pack = void (*)(const void* rows, uint32_t minus_zero_point, uint32_t zero_points,
                      uint32_t* packed);

// Packs the windows of a tile.
void pack_tile(Pack pack, Windows& windows, const LinearLevel& level, const Tile& tile,
               uint32_t pixels, const Scratch& scratch) {
  const uint32_t minus_zero_point = negated_pair(level.input_zero_point);
  const uint32_t zero_points = four_bytes(level.input_zero_point);
  const uint32_t packed_words = scratch.padded / 2 * kPixels;  // of a block
  const uint32_t even = tile.blocks - (tile.back > 0 ? 1 : 0);
  uint32_t* packed = scratch.tile;
  for (uint32_t block = 0; block < tile.blocks;) {
    windows.move_to(tile.first_pixel(block));
    const Rows rows = rows_of(windows, block < even ? even - block : 1, pixels, scratch);
    pack(&rows, minus_zero_point, zero_points, packed);
    packed += rows.blocks * packed_words;
    block += rows.blocks;
  }
}

// Neighbouring channels of the level, two by two, and their weights in the store.
struct Pairs {
  uint32_t channel, count;
  const int8_t *row0, *row1;  // of the first pair; the next one's are row_step bytes behind
  uint32_t row_step;
  Runs runs;
};

// Where outputs go, and how many of a block there are.
struct Output {
  int8_t* bytes;
  uint32_t pixels, channels;

  void store(uint32_t pixel, uint32_t channel, int8_t values[kPixels][kChannels]) const {
    for (uint32_t i = 0; i < kPixels && pixel + i < pixels; ++i) {
      int8_t* const to = bytes + (pixel + i) * channels + channel;
      to[0] = values[i][0];
      if (channels > 1) to[1] = values[i][1];
    }
  }
};

// Channels of all of a tile's pixels, for any requantisation.
struct General {
  static constexpr Pack pack = reds_pack_pixels;

  static void multiply(const LinearLevel& level, Pairs pairs, const Tile& tile,
                       const Scratch& scratch, const Output& output) {
    for (; pairs.count > 0; --pairs.count) {
      pack_weights(pairs.row0, pairs.row1, pairs.runs, scratch.weights);
      const uint32_t next = pairs.channel + (output.channels > 1 ? 1 : 0);
      const GeneralRequantization requantize0(level, pairs.channel), requantize1(level, next);
      const int32_t bias0 = level.bias[pairs.channel], bias1 = level.bias[next];
      const uint32_t* packed = scratch.tile;
      for (uint32_t block = 0; block < tile.blocks; ++block) {
        int32_t sums[kChannels][kPixels] = {{bias0, bias0, bias0, bias0},
                                            {bias1, bias1, bias1, bias1}};
        reds_conv2d_block(packed, scratch.weights, scratch.padded / 2, sums[0]);
        int8_t values[kPixels][kChannels];
        for (uint32_t i = 0; i < kPixels; ++i) {
          values[i][0] = static_cast<int8_t>(requantize0(sums[0][i]));
          values[i][1] = static_cast<int8_t>(requantize1(sums[1][i]));
        }
        output.store(tile.first_pixel(block), pairs.channel, values);
        packed += scratch.padded / 2 * kPixels;
      }
      pairs.channel += kChannels;
      pairs.row0 += pairs.row_step;
      pairs.row1 += pairs.row_step;
    }
  }
};

// What the loops in assembly need, in the order that they know; they change it.
struct Job {
  const int8_t *row0, *row1;
  uint32_t words;  // of four products
  uint32_t* weights;
  const int32_t *bias, *multiplier;
  const int8_t* shift;
  int32_t zero_point;
  const uint32_t* x;
  int8_t* output;            // of the first channel and pixel
  uint32_t output_step;      // bytes from pixel to pixel
  const uint32_t* end;       // of x, but for a last block that takes pixels for a second time
  const uint32_t* last_end;  // with it
  uint32_t back;             // bytes of output that are written for a second time
  uint32_t row_step;
  uint32_t pairs;
  Runs runs;
};

// The same in assembly.
struct InAssembly {
  const Pack pack;
  void (*const multiply_channels)(void* job);

  void multiply(const LinearLevel& level, const Pairs& pairs, const Tile& tile,
                const Scratch& scratch, const Output& output) const {
    const uint32_t step = output.channels, block_words = scratch.padded / 2 * kPixels;
    const uint32_t* const last_end = scratch.tile + tile.blocks * block_words;
    const int8_t* const shift = level.shift == nullptr ? nullptr : level.shift + pairs.channel;
    Job job = {pairs.row0, pairs.row1, scratch.padded / 4, scratch.weights,
               level.bias + pairs.channel, level.multiplier + pairs.channel, shift,
               level.output_zero_point, scratch.tile,
               output.bytes + tile.start * step + pairs.channel, step,
               tile.back > 0 ? last_end - block_words : last_end, last_end, tile.back * step,
               pairs.row_step, pairs.count, pairs.runs};
    multiply_channels(&job);
  }
};

// In four instructions for each output. Packed pixels are doubled, because that wants doubled sums.
constexpr InAssembly kProven = {reds_pack_doubled_pixels, reds_conv2d_channels};

// In two. Weights are multiplied with 256 instead, which packing them does in passing.
constexpr InAssembly kOneProduct = {reds_pack_pixels, reds_conv2d_channels_one_product};

// The next channels, as many pairs as lie evenly in the store; a last one goes with that before it.
class PairCursor {
 public:
  PairCursor(const LinearLevel& level, const WeightRows& rows, const Scratch& scratch)
      : rows_(rows), scratch_(scratch), cursor_(*level.outputs), count_(level.outputs->count) {}

  bool is_done() const { return next_ >= count_; }

  Pairs next() {
    uint32_t channel = next_, pairs = 1;
    if (next_ + 1 == count_ && next_ > 0) {
      --channel;
    } else {
      last_ = cursor_.next();
      ++next_;
    }
    const uint32_t first = last_;
    if (next_ < count_) {
      last_ = cursor_.next();
      ++next_;
    }
    const uint32_t second = last_;
    if (rows_.are_in_place() && second == first + 1) {
      const uint32_t more = cursor_.left() / kChannels;
      last_ += kChannels * more;
      next_ += kChannels * more;
      cursor_.skip(kChannels * more);
      pairs += more;
    }
    return {channel, pairs, rows_.of(first, scratch_.rows),
            rows_.of(second, scratch_.rows + scratch_.padded), kChannels * rows_.row_bytes(),
            rows_.runs()};
  }

 private:
  const WeightRows& rows_;
  const Scratch& scratch_;
  ChannelCursor cursor_;
  const uint32_t count_;
  uint32_t next_ = 0;  // channel of the level
  uint32_t last_ = 0;  // channel of the store that was taken last
};

template <typename Requantization>
void convolve(const Requantization& requantization, const Conv2D& op, const LinearLevel& level,
              const Buffers& buffers) {
  const Window& window = op.window;
  const uint32_t pixels = static_cast<uint32_t>(window.output_height * window.output_width);
  const uint32_t products =
      static_cast<uint32_t>(window.kernel_height * window.kernel_width) * level.inputs->count;
  const Scratch scratch(buffers.scratch, products, level.tile_width);
  const Output output = {buffers.output, pixels, level.outputs->count};
  Windows windows(op, level, buffers.inputs[0]);
  const WeightRows rows(op, *level.inputs);
  for (uint32_t start = 0; start < pixels; start += level.tile_width) {
    const Tile tile(start, pixels, level.tile_width);
    pack_tile(requantization.pack, windows, level, tile, pixels, scratch);
    PairCursor cursor(level, rows, scratch);
    while (!cursor.is_done()) {
      requantization.multiply(level, cursor.next(), tile, scratch, output);
    }
  }
  ActivationClamp(level).apply(buffers.output, pixels * level.outputs->count);
}

}  // namespace

void conv2d(const Conv2D& op, const LinearLevel& level, const Buffers& buffers) {
  convolve(General(), op, level, buffers);
}

void conv2d_proven(const Conv2D& op, const LinearLevel& level, const Buffers& buffers) {
  convolve(kProven, op, level, buffers);
}

void conv2d_one_product(const Conv2D& op, const LinearLevel& level, const Buffers& buffers) {
  convolve(kOneProduct, op, level, buffers);
}

}  // namespace dsp
}  // namespace reds

#endif  // REDS_DSP_KERNELS
