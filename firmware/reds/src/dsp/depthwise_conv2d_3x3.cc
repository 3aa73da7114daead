// Depthwise 3x3 convolution, multiplier 1, for requantisation in four instructions: each channel
// on its own, eight outputs of a line at a time.
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
// wants its accumulator (see ProvenRequantization).
//
// Scratch: packed lines, (2 + stride * (tile_height - 1) + 1) lines of `words` times 16 bytes.
#include "reds/kernels.h"

#if REDS_DSP_KERNELS

#include <stddef.h>

#include "../channels.h"
#include "simd.h"

// All lines of a job (depthwise_3x3_lines.S).
extern "C" void reds_depthwise_3x3_stride1(void* job);
extern "C" void reds_depthwise_3x3_stride2(void* job);

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

// What the loops in assembly need of a channel, at the places that they know.
struct Job {
  uint32_t weights[6];   // of each line (w0, w1), (w1, w2), doubled
  int32_t bias;          // doubled
  int32_t multiplier, rounding, shift;
  uint32_t line_bytes;   // of a packed line
  uint32_t output_step;  // bytes
  const uint32_t* x;     // of the next line of outputs
  int8_t* output;
  uint32_t x_line_step;  // bytes from one line of outputs to the next
  uint32_t output_line_step;
  uint32_t lines;
  uint32_t blocks;  // of eight outputs
  uint32_t pairs;   // of outputs that are left
  uint32_t is_even;  // whether the last output of the last pair is one
};
static_assert(offsetof(Job, x) == 48 && offsetof(Job, is_even) == 76, "depthwise_3x3_lines.S knows them");

// Four channels of two neighbours of a line.
inline uint32_t* pack_pair(uint32_t* packed, uint32_t x0, uint32_t x1, uint32_t minus_zero_point) {
  const uint32_t even0 = sxtab16(minus_zero_point, x0), odd0 = sxtab16_odd(minus_zero_point, x0);
  const uint32_t even1 = sxtab16(minus_zero_point, x1), odd1 = sxtab16_odd(minus_zero_point, x1);
  packed[0] = pkhbt(even0, even1);
  packed[1] = pkhbt(odd0, odd1);
  packed[2] = pkhtb(even1, even0);
  packed[3] = pkhtb(odd1, odd0);
  return packed + kLanes;
}

// Packs lines of the image for four channels or, in a level that has fewer, for those there are.
class Packer {
 public:
  Packer(const Lines& lines, const LinearLevel& level, int32_t words)
      : lines_(lines),
        minus_zero_point_(negated_pair(level.input_zero_point)),
        zeros_(static_cast<uint8_t>(level.input_zero_point) * 0x01010101u),
        lanes_(level.outputs->count < kLanes ? level.outputs->count : kLanes),
        words_(words) {
    // pairs that lie in the image as a whole
    begin_ = clamp((lines.pad_along + 1) / 2, 0, words);
    end_ = clamp((lines.input_length + lines.pad_along) / 2, begin_, words);
  }

  // Line `number` of the image, or zeros, from the first of the channels in line 0 on.
  uint32_t* pack(const int8_t* image, int32_t number, uint32_t* packed) const {
    if (number < 0 || number >= lines_.input_lines) {
      for (int32_t i = 0; i < words_; ++i, packed += kLanes) {
        packed[0] = packed[1] = packed[2] = packed[3] = 0;
      }
      return packed;
    }
    const int8_t* const line = image + static_cast<uint32_t>(number) * lines_.input_line_step;
    int32_t word = 0;
    for (; word < begin_; ++word) packed = pack_edge(line, word, packed);
    if (lanes_ == kLanes) {
      const uint32_t step = lines_.input_step;
      const int8_t* x = line + static_cast<uint32_t>(2 * word - lines_.pad_along) * step;
      for (; word < end_; ++word, x += 2 * step) {
        packed = pack_pair(packed, load_word(x), load_word(x + step), minus_zero_point_);
      }
    }
    for (; word < words_; ++word) packed = pack_edge(line, word, packed);
    return packed;
  }

 private:
  uint32_t* pack_edge(const int8_t* line, int32_t word, uint32_t* packed) const {
    const int32_t first = 2 * word - lines_.pad_along;
    return pack_pair(packed, at(line, first), at(line, first + 1), minus_zero_point_);
  }

  uint32_t at(const int8_t* line, int32_t place) const {
    if (place < 0 || place >= lines_.input_length) return zeros_;
    const int8_t* const x = line + static_cast<uint32_t>(place) * lines_.input_step;
    return lanes_ == kLanes ? load_word(x) : load_partial_word(x, lanes_);
  }

  const Lines& lines_;
  const uint32_t minus_zero_point_, zeros_, lanes_;
  const int32_t words_;
  int32_t begin_, end_;
};

// (a, b), doubled.
inline uint32_t weight_pair(int32_t a, int32_t b) {
  return (static_cast<uint32_t>(2 * a) & 0xFFFFu) | static_cast<uint32_t>(2 * b) << 16;
}

void set_channel(const DepthwiseConv2D& op, const LinearLevel& level, const Lines& lines,
                 uint32_t channel, uint32_t store_channel, Job& job) {
  const int8_t* tap = op.weights + store_channel;
  const uint32_t step = lines.tap_step * op.store_outputs;
  for (uint32_t i = 0; i < 6; i += 2, tap += lines.tap_line_step * op.store_outputs) {
    const int32_t w0 = tap[0], w1 = tap[step], w2 = tap[2 * step];
    job.weights[i] = weight_pair(w0, w1);
    job.weights[i + 1] = weight_pair(w1, w2);
  }
  const ProvenRequantization requantize(level, channel);
  job.bias = 2 * level.bias[channel];
  job.multiplier = requantize.multiplier;
  job.rounding = requantize.rounding;
  job.shift = requantize.shift;
}

void convolve(const DepthwiseConv2D& op, const LinearLevel& level, const Buffers& buffers,
              int32_t stride_along, void (*multiply)(void*)) {
  const uint32_t channels = level.outputs->count;
  const Lines lines = lines_of(op.window, channels);
  const int32_t pairs = (lines.output_length + 1) / 2;
  const int32_t words = (stride_along == 1 ? pairs : 2 * pairs) + 1;
  const uint32_t lanes = channels < kLanes ? channels : kLanes;
  const Packer packer(lines, level, words);
  Job job;
  job.line_bytes = static_cast<uint32_t>(words) * kLanes * sizeof(uint32_t);
  job.output_step = lines.output_step;
  job.x_line_step = static_cast<uint32_t>(lines.stride_lines) * job.line_bytes;
  job.output_line_step = lines.output_line_step;
  job.blocks = static_cast<uint32_t>(lines.output_length) / kBlock;
  job.pairs = static_cast<uint32_t>(pairs) - kBlock / 2 * job.blocks;
  job.is_even = lines.output_length % 2 == 0;
  uint32_t* const scratch = reinterpret_cast<uint32_t*>(buffers.scratch);
  uint32_t store[kLanes] = {};  // channels in the store of the last lanes
  ChannelCursor cursor(*level.outputs);
  for (uint32_t next = 0; next < channels;) {
    // The last four take some for a second time, rather than less than four.
    const uint32_t first = next + lanes <= channels ? next : channels - lanes;
    const uint32_t again = next - first;
    for (uint32_t lane = 0; lane < again; ++lane) store[lane] = store[lanes - again + lane];
    for (uint32_t lane = again; lane < lanes; ++lane) store[lane] = cursor.next();
    for (int32_t line = 0; line < lines.output_lines; line += level.tile_height) {
      const int32_t count = clamp(lines.output_lines - line, 1, level.tile_height);
      const int32_t begin = line * lines.stride_lines - lines.pad_lines;
      const int32_t end = begin + (count - 1) * lines.stride_lines + 3;
      uint32_t* packed = scratch;
      for (int32_t i = begin; i < end; ++i) {
        packed = packer.pack(buffers.inputs[0] + first, i, packed);
      }
      int8_t* const output =
          buffers.output + static_cast<uint32_t>(line) * lines.output_line_step + first;
      for (uint32_t lane = again; lane < lanes; ++lane) {
        set_channel(op, level, lines, first + lane, store[lane], job);
        job.x = scratch + lane;
        job.output = output + lane;
        job.lines = static_cast<uint32_t>(count);
        multiply(&job);
      }
    }
    next = first + lanes;
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

}  // namespace dsp
}  // namespace reds

#endif  // REDS_DSP_KERNELS
