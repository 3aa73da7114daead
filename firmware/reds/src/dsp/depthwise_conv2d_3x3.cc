// Depthwise 3x3 convolution, multiplier 1, of four channels or more, for requantisation in four
// instructions or with one product: each channel on its own, eight outputs of a line at a time.
//
// Lines run along the longer side of the image. For four channels the part of the image under some
// lines of outputs is packed as int16 x - zero_point, zeros outside the image: neighbours of a line
// in a word, (x[2j - pad], x[2j - pad + 1]), and the words of four channels beside each other.
// With the weights of a line as words (w0, w1) and (w1, w2), an output of stride 1 takes two
// instructions per line,
//
//   y[2j]     += X[j].h0 * w0 + X[j].h1 * w1,  X[j + 1].h0 * w2
//   y[2j + 1] += X[j].h1 * w0,  X[j + 1].h0 * w1 + X[j + 1].h1 * w2
//
// and one of stride 2 the first two of them. Weights and bias are doubled, as the requantisation
// wants its accumulator (see ProvenRequantization); for one product, weights are multiplied with 256.
//
// Scratch: packed lines, (2 + stride * (tile_height - 1) + 1) lines of `words` times 16 bytes.
#include "reds/kernels.h"

#if REDS_DSP_KERNELS

#include <stddef.h>

#include "../channels.h"
#include "simd.h"

// depthwise_3x3_lines.S. Lines that lie in the image, one or more; returns where the next line goes.
extern "C" uint32_t* reds_pack_lines(const void* packing, const int8_t* line, uint32_t* packed,
                                     uint32_t lines);
// All lines of a job's channels.
extern "C" void reds_depthwise_3x3_stride1(void* job);
extern "C" void reds_depthwise_3x3_stride2(void* job);
extern "C" void reds_depthwise_3x3_stride1_one_product(void* job);
extern "C" void reds_depthwise_3x3_stride2_one_product(void* job);

namespace reds {
namespace dsp {
namespace {

constexpr uint32_t kLanes = 4;
constexpr uint32_t kBlock = 8;  // outputs

// Where lines lie: "along" a line, and from line to line.
struct Lines {
  int32_t input_length, input_lines;
  int32_t output_length, output_lines;
  int32_t pad_along, pad_lines;
  int32_t stride_lines;
  uint32_t input_step, input_line_step;    // bytes
  uint32_t output_step, output_line_step;  // bytes
  uint32_t tap_step, tap_line_step;        // taps of the store
};

Lines lines_of(const Window& w, uint32_t channels) {
  const uint32_t in_row = static_cast<uint32_t>(w.input_width) * channels;
  const uint32_t out_row = static_cast<uint32_t>(w.output_width) * channels;
  if (w.output_height > w.output_width) {
    return {w.input_height, w.input_width,  w.output_height, w.output_width, w.pad_top,
            w.pad_left,     w.stride_width, in_row,          channels,       out_row,
            channels,       3,              1};
  }
  return {w.input_width, w.input_height,  w.output_width, w.output_height, w.pad_left,
          w.pad_top,     w.stride_height, channels,       in_row,          channels,
          out_row,       1,               3};
}

// What the loops in assembly need, at the places that they know. They change the first part, which
// is the next channel's.
struct Job {
  const int8_t* taps;  // of the store
  const int32_t *bias, *multiplier;
  const int8_t* shift;
  uint32_t tap_step, tap_line_step;  // bytes
  uint32_t rounding_factor;          // 2 * zero_point + 1
  uint32_t lanes;                    // channels, one or more
  const uint32_t* x;
  int8_t* output;

  uint32_t next_block;   // bytes from the last packed line of a block's window to the next block
  uint32_t output_step;  // bytes
  uint32_t next_line_x;  // likewise, from the end of a line of outputs to the next one
  uint32_t next_line_output;
  uint32_t x_bytes;      // of all lines of outputs
  uint32_t block_bytes;  // of a line's whole blocks, of eight outputs
  uint32_t line_bytes;   // of a packed line
  uint32_t is_even;      // whether the last output of the last pair is one
  uint32_t pairs;        // of outputs that are left
};
static_assert(offsetof(Job, next_block) == 40 && offsetof(Job, pairs) == 72,
              "depthwise_3x3_lines.S knows them");

// How four channels of a line are packed, likewise: words of zeros, one of a zero and the first
// pixel, pairs of pixels, one of the last pixel and a zero, words of zeros.
struct Packing {
  uint32_t step;  // bytes from pixel to pixel
  uint32_t minus_zero_point;
  uint32_t line_step;  // bytes
  uint32_t zero_points;
  uint32_t zeros_before, is_first_alone, pairs, is_last_alone, zeros_behind;

  Packing(const Lines& lines, int8_t zero_point, int32_t words)
      : step(lines.input_step),
        minus_zero_point(negated_pair(zero_point)),
        line_step(lines.input_line_step),
        zero_points(four_bytes(zero_point)) {
    const int32_t pad = lines.pad_along, end = pad + lines.input_length;
    const int32_t before = clamp(pad / 2, 0, words);
    const int32_t first = clamp((pad + 1) / 2, 0, words);
    const int32_t last = clamp(end / 2, first, words);
    const int32_t behind = clamp((end + 1) / 2, last, words);
    zeros_before = static_cast<uint32_t>(before);
    is_first_alone = static_cast<uint32_t>(first - before);
    pairs = static_cast<uint32_t>(last - first);
    is_last_alone = static_cast<uint32_t>(behind - last);
    zeros_behind = static_cast<uint32_t>(words - behind);
  }
};
static_assert(offsetof(Packing, line_step) == 8, "depthwise_3x3_lines.S knows it");

// Lines of zeros, outside the image.
uint32_t* pack_zeros(uint32_t* packed, uint32_t words) {
  for (; words > 0; --words) {
    *packed++ = 0;
    asm volatile("" ::: "memory");  // else GCC calls memset
  }
  return packed;
}

void convolve(const DepthwiseConv2D& op, const LinearLevel& level, const Buffers& buffers,
              int32_t stride_along, void (*multiply)(void*)) {
  const uint32_t channels = level.outputs->count;
  const Lines lines = lines_of(op.window, channels);
  const int32_t pairs = (lines.output_length + 1) / 2;
  const int32_t words = (stride_along == 1 ? pairs : 2 * pairs) + 1;
  const Packing packing(lines, level.input_zero_point, words);
  const uint32_t line_words = static_cast<uint32_t>(words) * kLanes;
  const uint32_t blocks = static_cast<uint32_t>(lines.output_length) / kBlock;
  const uint32_t block_words = kBlock / 2 * static_cast<uint32_t>(stride_along) * kLanes;
  const uint32_t block_bytes = block_words * sizeof(uint32_t);
  Job job;
  job.tap_step = lines.tap_step * op.store_outputs;
  job.tap_line_step = lines.tap_line_step * op.store_outputs;
  job.rounding_factor = static_cast<uint32_t>(2 * level.output_zero_point + 1);
  job.line_bytes = line_words * sizeof(uint32_t);
  job.next_block = block_bytes - 2 * job.line_bytes;
  job.output_step = lines.output_step;
  job.block_bytes = blocks * block_bytes;
  job.pairs = static_cast<uint32_t>(pairs) - kBlock / 2 * blocks;
  // A line's end is the last line of its last window, and its last output; or, of whole blocks
  // alone, where the next block would be.
  const uint32_t x_line_step = static_cast<uint32_t>(lines.stride_lines) * job.line_bytes;
  const uint32_t outputs = static_cast<uint32_t>(lines.output_length) - (job.pairs > 0 ? 1 : 0);
  job.next_line_x = x_line_step - job.block_bytes - (job.pairs > 0 ? 2 * job.line_bytes : 0);
  job.next_line_output = lines.output_line_step - outputs * job.output_step;
  job.is_even = lines.output_length % 2 == 0;
  uint32_t* const scratch = reinterpret_cast<uint32_t*>(buffers.scratch);
  ChannelCursor cursor(*level.outputs);
  for (uint32_t next = 0; next < channels;) {
    // The last four take some for a second time, rather than less than four.
    const uint32_t first = next + kLanes <= channels ? next : channels - kLanes;
    const uint32_t again = next - first;
    uint32_t store[kLanes];
    store[again] = cursor.next();
    const bool are_neighbours = cursor.left() + again + 1 >= kLanes;
    if (are_neighbours) {
      cursor.skip(kLanes - 1 - again);
    } else {
      for (uint32_t lane = again + 1; lane < kLanes; ++lane) store[lane] = cursor.next();
    }
    // Where one tile is all of the image, its lines of zeros stay where they are.
    const bool has_zeros = next > 0 && level.tile_height >= lines.output_lines;
    for (int32_t line = 0; line < lines.output_lines; line += level.tile_height) {
      const int32_t count = clamp(lines.output_lines - line, 1, level.tile_height);
      const int32_t begin = line * lines.stride_lines - lines.pad_lines;
      const int32_t end = begin + (count - 1) * lines.stride_lines + 3;
      const int32_t inside = clamp(0, begin, end), outside = clamp(lines.input_lines, inside, end);
      const uint32_t words_before = static_cast<uint32_t>(inside - begin) * line_words;
      uint32_t* packed = scratch + words_before;
      if (!has_zeros) pack_zeros(scratch, words_before);
      if (outside > inside) {
        const uint32_t offset = static_cast<uint32_t>(inside) * lines.input_line_step;
        packed = reds_pack_lines(&packing, buffers.inputs[0] + first + offset, packed,
                                 static_cast<uint32_t>(outside - inside));
      }
      if (!has_zeros) pack_zeros(packed, static_cast<uint32_t>(end - outside) * line_words);
      job.bias = level.bias + next;
      job.multiplier = level.multiplier + next;
      job.shift = level.shift == nullptr ? nullptr : level.shift + next;
      job.x = scratch + again;
      job.output = buffers.output + static_cast<uint32_t>(line) * lines.output_line_step + next;
      job.x_bytes = static_cast<uint32_t>(count) * x_line_step;
      const uint32_t lanes = are_neighbours ? kLanes - again : 1;
      for (uint32_t lane = again; lane < kLanes; lane += lanes) {
        job.taps = op.weights + store[lane];
        job.lanes = lanes;
        multiply(&job);
      }
    }
    next = first + kLanes;
  }
  const Window& window = op.window;
  ActivationClamp(level).apply(
      buffers.output,
      static_cast<uint32_t>(window.output_height * window.output_width) * channels);
}

}  // namespace

void depthwise_conv2d_3x3(const DepthwiseConv2D& op, const LinearLevel& level,
                          const Buffers& buffers) {
  convolve(op, level, buffers, 1, reds_depthwise_3x3_stride1);
}

void depthwise_conv2d_3x3_stride2(const DepthwiseConv2D& op, const LinearLevel& level,
                                  const Buffers& buffers) {
  convolve(op, level, buffers, 2, reds_depthwise_3x3_stride2);
}

void depthwise_conv2d_3x3_one_product(const DepthwiseConv2D& op, const LinearLevel& level,
                                      const Buffers& buffers) {
  convolve(op, level, buffers, 1, reds_depthwise_3x3_stride1_one_product);
}

void depthwise_conv2d_3x3_stride2_one_product(const DepthwiseConv2D& op, const LinearLevel& level,
                                              const Buffers& buffers) {
  convolve(op, level, buffers, 2, reds_depthwise_3x3_stride2_one_product);
}

}  // namespace dsp
}  // namespace reds

#endif  // REDS_DSP_KERNELS
