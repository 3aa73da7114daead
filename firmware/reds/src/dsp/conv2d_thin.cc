// Convolution with windows of three lines of at most ten products each, as the first layer of an image
// has them, for requantisation with one product: two channels by four pixels at a time.
//
// Packing every window (conv2d.cc) would cost about as much as its few products for some channels. So the
// lines of the image under some lines of outputs are packed once, as int16 x - zero_point, zeros outside
// the image, and windows are read where they lie in these. A block's four pixels are about a quarter of
// the line apart. Each has its lane, the part of the image under that quarter's windows, and the lanes'
// words, of two neighbouring values each, lie beside each other:
//
//   word j of a lane = (x[2j], x[2j + 1]), x[0] the first value of its first window
//
// The last lanes begin earlier where outputs are no four whole quarters: they compute some a second time.
// Windows that begin at an odd value, every other one if a step is an odd number of values, are read from
// a copy of the lines that is one value ahead. What is read behind a window meets weights of zero.
//
// Scratch: weights (channels / 2, pairs of products, 2 channels) int16 pairs; packed lines; four lanes of a
// line as int8, for those at the image's edges.
#include "reds/kernels.h"

#if REDS_DSP_KERNELS

#include <stddef.h>

#include "../channels.h"
#include "conv2d_windows.h"
#include "simd.h"

namespace reds {
namespace dsp {
namespace {

constexpr uint32_t kLanes = 4;
constexpr uint32_t kChannels = 2;
constexpr uint32_t kLines = 3;
constexpr uint32_t kMostProducts = 10;  // of a line

// What the loops in assembly need, at the places that they know; they change the first part.
struct Job {
  const uint32_t* x;  // where a line of outputs begins
  int8_t* output;
  uint32_t rows;  // of outputs, one or more

  const uint32_t* weights;
  int32_t bias[kChannels], multiplier[kChannels];
  uint32_t blocks;                // of a row, one or more
  uint32_t x_step, output_step;   // bytes from block to block
  uint32_t x_row, output_row;     // bytes from the end of a row to the next one
  uint32_t line_bytes;            // of packed lines
  uint32_t lanes[kLanes - 1];     // bytes of output from the first lane to the others
};
static_assert(offsetof(Job, weights) == 12 && offsetof(Job, lanes) == 56, "conv2d_thin_rows.S knows them");

}  // namespace
}  // namespace dsp
}  // namespace reds

// conv2d_thin_rows.S: all rows of two channels, of at most two or five pairs of products in a line.
extern "C" void reds_conv2d_thin_rows_2(void* job);
extern "C" void reds_conv2d_thin_rows_5(void* job);
// Groups of four bytes of four lanes, one or more; returns where the next ones go.
extern "C" uint32_t* reds_pack_lanes(const int8_t* const* lanes, uint32_t groups,
                                     uint32_t minus_zero_point, uint32_t* packed);

namespace reds {
namespace dsp {
namespace {

uint32_t rounded_up(uint32_t size, uint32_t multiple) {
  return (size + multiple - 1) / multiple * multiple;
}

// How windows lie in lanes.
struct Lanes {
  uint32_t products;  // of a window's line
  uint32_t pairs;     // of products, that it takes
  uint32_t windows;   // of a lane
  uint32_t step;      // values from window to window
  uint32_t groups;    // of four values
  uint32_t phases;    // copies of a line
  uint32_t words;     // of a line, in all lanes, one phase
  int32_t starts[kLanes];  // the first output of each

  Lanes(const Window& window, uint32_t channels) {
    const int32_t width = window.output_width;
    const int32_t quarter = (width + 3) / 4;
    products = static_cast<uint32_t>(window.kernel_width) * channels;
    pairs = products <= 4 ? 2 : 5;
    windows = static_cast<uint32_t>(quarter);
    step = static_cast<uint32_t>(window.stride_width) * channels;
    groups = ((windows - 1) * step + 2 * pairs + 3) / 4;
    phases = step % 2 == 0 ? 1 : 2;
    words = 2 * groups * kLanes;
    for (uint32_t lane = 0; lane < kLanes; ++lane) {
      const int32_t start = static_cast<int32_t>(lane) * quarter;
      starts[lane] = start + quarter <= width ? start : width - quarter;
    }
  }

  // int8 values of one lane that packing reads, of all phases.
  uint32_t bytes() const { return rounded_up(4 * groups + phases - 1, 4); }
};

// A channel's kept weights, side by side: where they are, or copied to `row`.
const int8_t* weights_of(const Conv2D& op, const Channels& inputs, uint32_t channel, int8_t* row) {
  const uint32_t taps = kLines * static_cast<uint32_t>(op.window.kernel_width);
  const int8_t* const weights = op.weights + channel * taps * op.store_inputs;
  if (inputs.count == op.store_inputs) return weights;
  int8_t* to = row;
  for (uint32_t tap = 0; tap < taps; ++tap) {
    ChannelCursor cursor(inputs);
    for (uint32_t i = 0; i < inputs.count; ++i) {
      *to++ = weights[tap * op.store_inputs + cursor.next()];
    }
  }
  return row;
}

// The weights of every second channel of a pair, times 256: (lines, pairs of products, 2 channels).
void pack_weights(const int8_t* row, uint32_t products, uint32_t pairs, uint32_t* packed) {
  for (uint32_t line = 0; line < kLines; ++line, row += products) {
    for (uint32_t i = 0; i < 2 * pairs; i += 2, packed += kChannels) {
      const uint32_t low = i < products ? static_cast<uint8_t>(row[i]) : 0;
      const uint32_t high = i + 1 < products ? static_cast<uint8_t>(row[i + 1]) : 0;
      *packed = low << 8 | high << 24;
    }
  }
}

// Packs lines of the image, all lanes of one at a time.
class Packing {
 public:
  // edges: room for all lanes' bytes.
  Packing(const Window& window, const LinearLevel& level, const int8_t* input, const Lanes& lanes,
          int8_t* edges)
      : lanes_(lanes),
        input_(input),
        height_(window.input_height),
        line_bytes_(window.input_width * static_cast<int32_t>(level.inputs->count)),
        input_end_(input + height_ * line_bytes_),
        minus_zero_point_(negated_pair(level.input_zero_point)) {
    const int32_t channels = static_cast<int32_t>(level.inputs->count);
    const int32_t windows = static_cast<int32_t>(lanes.windows);
    const int32_t columns = (windows - 1) * window.stride_width + window.kernel_width;
    for (uint32_t i = 0; i < kLanes; ++i, edges += lanes.bytes()) {
      const int32_t first = lanes.starts[i] * window.stride_width - window.pad_left;
      const int32_t begin = clamp(first, 0, window.input_width);
      const int32_t end = clamp(first + columns, begin, window.input_width);
      parts_[i] = {static_cast<uint32_t>(begin * channels),
                   static_cast<uint32_t>((end - begin) * channels), edges,
                   static_cast<uint32_t>((begin - first) * channels), end - begin == columns};
      fill(edges, level.input_zero_point, lanes.bytes());
    }
  }

  // Returns where the next line goes.
  uint32_t* line(int32_t y, uint32_t* packed) const {
    if (y < 0 || y >= height_) {
      uint32_t* const end = packed + lanes_.phases * lanes_.words;
      while (packed < end) {
        *packed++ = 0;
        asm volatile("" ::: "memory");  // else GCC calls memset
      }
      return packed;
    }
    const int8_t* const from = input_ + y * line_bytes_;
    const int8_t* lanes[kLanes];
    for (uint32_t i = 0; i < kLanes; ++i) {
      const Part& part = parts_[i];
      lanes[i] = from + part.begin;
      // Packing may read bytes of the next line, but none behind the image.
      const bool has_bytes = static_cast<uint32_t>(input_end_ - lanes[i]) >= lanes_.bytes();
      if (part.is_whole && has_bytes) continue;
      reds_copy_lines(part.edge + part.before, 0, lanes[i], 0, 1, part.bytes);
      lanes[i] = part.edge;
    }
    for (uint32_t phase = 0; phase < lanes_.phases; ++phase) {
      packed = reds_pack_lanes(lanes, lanes_.groups, minus_zero_point_, packed);
      for (const int8_t*& lane : lanes) ++lane;
    }
    return packed;
  }

 private:
  // Of a lane: `bytes` of a line from `begin` on, `before` bytes behind the beginning of `edge`, which
  // has zero points beside them. is_whole: there are none.
  struct Part {
    uint32_t begin, bytes;
    int8_t* edge;
    uint32_t before;
    bool is_whole;
  };

  const Lanes& lanes_;
  const int8_t* const input_;
  const int32_t height_, line_bytes_;
  const int8_t* const input_end_;
  const uint32_t minus_zero_point_;
  Part parts_[kLanes];
};

}  // namespace

void conv2d_thin_one_product(const Conv2D& op, const LinearLevel& level, const Buffers& buffers) {
  const Window& window = op.window;
  const uint32_t channels = level.outputs->count;
  const uint32_t pairs = (channels + kChannels - 1) / kChannels;
  const Lanes lanes(window, level.inputs->count);
  const uint32_t window_words = kLines * lanes.pairs * kChannels;

  uint32_t* const weights = reinterpret_cast<uint32_t*>(buffers.scratch);
  uint32_t* const lines = weights + pairs * window_words;
  const uint32_t line_words = lanes.phases * lanes.words;
  const uint32_t most_lines = static_cast<uint32_t>(
      (level.tile_height - 1) * window.stride_height + static_cast<int32_t>(kLines));
  const Packing packing(window, level, buffers.inputs[0], lanes,
                        reinterpret_cast<int8_t*>(lines + most_lines * line_words));

  ChannelCursor cursor(*level.outputs);
  uint32_t last = 0;
  for (uint32_t pair = 0; pair < pairs; ++pair) {  // an odd last channel goes with that before it
    const uint32_t first = kChannels * pair + 1 < channels ? cursor.next() : last;
    last = cursor.next();
    int8_t row[kLines * kMostProducts];
    uint32_t* const packed = weights + pair * window_words;
    pack_weights(weights_of(op, *level.inputs, first, row), lanes.products, lanes.pairs, packed);
    pack_weights(weights_of(op, *level.inputs, last, row), lanes.products, lanes.pairs, packed + 1);
  }

  Job job;
  job.line_bytes = line_words * sizeof(uint32_t);
  job.lanes[0] = static_cast<uint32_t>(lanes.starts[1]) * channels;
  job.lanes[1] = static_cast<uint32_t>(lanes.starts[2]) * channels;
  job.lanes[2] = static_cast<uint32_t>(lanes.starts[3]) * channels;
  job.x_step = lanes.phases * lanes.step / 2 * kLanes * static_cast<uint32_t>(sizeof(uint32_t));
  job.output_step = lanes.phases * channels;
  const uint32_t output_row = static_cast<uint32_t>(window.output_width) * channels;
  for (int32_t y = 0; y < window.output_height; y += level.tile_height) {
    const int32_t rows = clamp(window.output_height - y, 1, level.tile_height);
    const int32_t first = y * window.stride_height - window.pad_top;
    const int32_t count = (rows - 1) * window.stride_height + static_cast<int32_t>(kLines);
    uint32_t* packed = lines;
    for (int32_t line = first; line < first + count; ++line) packed = packing.line(line, packed);
    for (uint32_t pair = 0; pair < pairs; ++pair) {
      const uint32_t channel =
          kChannels * pair + 1 < channels ? kChannels * pair : channels - kChannels;
      job.weights = weights + pair * window_words;
      for (uint32_t i = 0; i < kChannels; ++i) {
        job.bias[i] = level.bias[channel + i];
        job.multiplier[i] = level.multiplier[channel + i];
      }
      for (uint32_t phase = 0; phase < lanes.phases; ++phase) {
        job.blocks = (lanes.windows + lanes.phases - 1 - phase) / lanes.phases;
        if (job.blocks == 0) continue;
        job.x_row = static_cast<uint32_t>(window.stride_height) * job.line_bytes -
                    job.blocks * job.x_step;
        job.output_row = output_row - job.blocks * job.output_step;
        job.rows = static_cast<uint32_t>(rows);
        // The second phase's first window begins at an odd value, in the copy one value ahead.
        job.x = lines + phase * (lanes.words + (lanes.step - 1) / 2 * kLanes);
        job.output = buffers.output + static_cast<uint32_t>(y) * output_row + channel +
                     phase * channels;
        (lanes.pairs == 2 ? reds_conv2d_thin_rows_2 : reds_conv2d_thin_rows_5)(&job);
      }
    }
  }
  ActivationClamp(level).apply(
      buffers.output, static_cast<uint32_t>(window.output_height) * output_row);
}

}  // namespace dsp
}  // namespace reds

#endif  // REDS_DSP_KERNELS
