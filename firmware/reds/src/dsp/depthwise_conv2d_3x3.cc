// Depthwise 3x3 convolution, multiplier 1, of four channels or more, for requantisation in four
// instructions: each channel on its own, eight outputs of a line at a time.
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

// depthwise_3x3_lines.S. A line's first pixel is null outside the image; returns where the next
// line goes.
extern "C" uint32_t* reds_pack_line(const void* packing, const int8_t* line, uint32_t* packed);
// All lines of a job.
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
  uint32_t weights[6];   // see Weights
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

// How four channels of a line are packed, likewise: words of zeros, one of a zero and the first
// pixel, pairs of pixels, one of the last pixel and a zero, words of zeros.
struct Packing {
  uint32_t step;  // bytes from pixel to pixel
  uint32_t minus_zero_point, zero_points;
  uint32_t zeros_before, is_first_alone, pairs, is_last_alone, zeros_behind;
  uint32_t words;  // of the line

  Packing(const Lines& lines, int8_t zero_point, int32_t line_words)
      : step(lines.input_step),
        minus_zero_point(negated_pair(zero_point)),
        zero_points(static_cast<uint8_t>(zero_point) * 0x01010101u),
        words(static_cast<uint32_t>(line_words)) {
    const int32_t pad = lines.pad_along, end = pad + lines.input_length;
    const int32_t before = clamp(pad / 2, 0, line_words);
    const int32_t first = clamp((pad + 1) / 2, 0, line_words);
    const int32_t last = clamp(end / 2, first, line_words);
    const int32_t behind = clamp((end + 1) / 2, last, line_words);
    zeros_before = static_cast<uint32_t>(before);
    is_first_alone = static_cast<uint32_t>(first - before);
    pairs = static_cast<uint32_t>(last - first);
    is_last_alone = static_cast<uint32_t>(behind - last);
    zeros_behind = static_cast<uint32_t>(line_words - behind);
  }
};
static_assert(offsetof(Packing, words) == 32, "depthwise_3x3_lines.S knows it");

// Doubled weights of a window's three lines, (w0, w1) and (w1, w2) of each, by channel.
struct Weights {
  uint32_t words[kLanes][6];

  // Of four channels that lie side by side at `taps`.
  void set_all(const int8_t* taps, uint32_t step, uint32_t line_step) {
    for (uint32_t i = 0; i < 6; i += 2, taps += line_step) {
      uint32_t even[3], odd[3];
      for (uint32_t tap = 0; tap < 3; ++tap) {
        const uint32_t word = load_word(taps + tap * step);
        even[tap] = sxtb16(word);
        odd[tap] = sxtb16_odd(word);
        even[tap] = sadd16(even[tap], even[tap]);
        odd[tap] = sadd16(odd[tap], odd[tap]);
      }
      for (uint32_t pair = 0; pair < 2; ++pair) {
        words[0][i + pair] = pkhbt(even[pair], even[pair + 1]);
        words[1][i + pair] = pkhbt(odd[pair], odd[pair + 1]);
        words[2][i + pair] = pkhtb(even[pair + 1], even[pair]);
        words[3][i + pair] = pkhtb(odd[pair + 1], odd[pair]);
      }
    }
  }

  void set(uint32_t lane, const int8_t* taps, uint32_t step, uint32_t line_step) {
    for (uint32_t i = 0; i < 6; i += 2, taps += line_step) {
      const int32_t w0 = taps[0], w1 = taps[step], w2 = taps[2 * step];
      words[lane][i] = weight_pair(w0, w1);
      words[lane][i + 1] = weight_pair(w1, w2);
    }
  }

 private:
  static uint32_t weight_pair(int32_t a, int32_t b) {
    return (static_cast<uint32_t>(2 * a) & 0xFFFFu) | static_cast<uint32_t>(2 * b) << 16;
  }
};

void convolve(const DepthwiseConv2D& op, const LinearLevel& level, const Buffers& buffers,
              int32_t stride_along, void (*multiply)(void*)) {
  const uint32_t channels = level.outputs->count;
  const Lines lines = lines_of(op.window, channels);
  const int32_t pairs = (lines.output_length + 1) / 2;
  const int32_t words = (stride_along == 1 ? pairs : 2 * pairs) + 1;
  const Packing packing(lines, level.input_zero_point, words);
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
  const uint32_t tap_step = lines.tap_step * op.store_outputs;
  const uint32_t tap_line_step = lines.tap_line_step * op.store_outputs;
  for (uint32_t next = 0; next < channels;) {
    // The last four take some for a second time, rather than less than four.
    const uint32_t first = next + kLanes <= channels ? next : channels - kLanes;
    const uint32_t again = next - first;
    for (uint32_t lane = 0; lane < again; ++lane) store[lane] = store[kLanes - again + lane];
    for (uint32_t lane = again; lane < kLanes; ++lane) store[lane] = cursor.next();
    Weights weights;
    if (store[kLanes - 1] == store[0] + kLanes - 1) {
      weights.set_all(op.weights + store[0], tap_step, tap_line_step);
    } else {
      for (uint32_t lane = again; lane < kLanes; ++lane) {
        weights.set(lane, op.weights + store[lane], tap_step, tap_line_step);
      }
    }
    // Where one tile is all of the image, its lines of zeros stay where they are.
    const bool has_zeros = next > 0 && level.tile_height >= lines.output_lines;
    for (int32_t line = 0; line < lines.output_lines; line += level.tile_height) {
      const int32_t count = clamp(lines.output_lines - line, 1, level.tile_height);
      const int32_t begin = line * lines.stride_lines - lines.pad_lines;
      const int32_t end = begin + (count - 1) * lines.stride_lines + 3;
      uint32_t* packed = scratch;
      const int8_t* const image = buffers.inputs[0] + first;
      for (int32_t i = begin; i < end; ++i) {
        const bool is_inside = i >= 0 && i < lines.input_lines;
        if (!is_inside && has_zeros) {
          packed += packing.words * kLanes;
          continue;
        }
        const uint32_t offset = static_cast<uint32_t>(i) * lines.input_line_step;
        packed = reds_pack_line(&packing, is_inside ? image + offset : nullptr, packed);
      }
      int8_t* const output =
          buffers.output + static_cast<uint32_t>(line) * lines.output_line_step + first;
      for (uint32_t lane = again; lane < kLanes; ++lane) {
        for (uint32_t i = 0; i < 6; ++i) job.weights[i] = weights.words[lane][i];
        const ProvenRequantization requantize(level, first + lane);
        job.bias = 2 * level.bias[first + lane];
        job.multiplier = requantize.multiplier;
        job.rounding = requantize.rounding;
        job.shift = requantize.shift;
        job.x = scratch + lane;
        job.output = output + lane;
        job.lines = static_cast<uint32_t>(count);
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

}  // namespace dsp
}  // namespace reds

#endif  // REDS_DSP_KERNELS
