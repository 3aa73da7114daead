// Depthwise convolution with multiplier 1, four channels at a time.
//
// For four channels the weights are expanded to int16 once, and the image tile by tile as int16
// x - zero_point, with zeros where a window reaches beyond the image. Channels lie in the order
// sxtb16 gives: a word with 0 and 2, then one with 1 and 3.
//
// Scratch: weights (taps, 4) int16, then the tile (rows, columns, 4) int16, as large as the
// windows of tile_height by tile_width outputs.
#include "reds/kernels.h"

#if REDS_DSP_KERNELS

#include "../channels.h"
#include "simd.h"

namespace reds {
namespace dsp {
namespace {

constexpr uint32_t kLanes = 4;

// Input rows or columns that `outputs` windows in a row reach over.
inline int32_t reach(int32_t outputs, int32_t stride, int32_t kernel, int32_t dilation) {
  return (outputs - 1) * stride + (kernel - 1) * dilation + 1;
}

// Four channels: those of the store, and from where on in the level's tensors.
struct Lanes {
  uint32_t store[kLanes];
  uint32_t first;
  uint32_t count;  // 1 ... 4

  // A level's channel for every lane; absent ones repeat the last.
  uint32_t channel(uint32_t lane) const { return first + (lane < count ? lane : count - 1); }
};

struct Tile {
  int32_t y, x;           // first output
  int32_t height, width;  // outputs
  int32_t columns;        // of the packed input
  uint32_t* packed;
};

void pack_weights(const DepthwiseConv2D& op, const Lanes& lanes, uint32_t* packed) {
  const uint32_t taps =
      static_cast<uint32_t>(op.window.kernel_height * op.window.kernel_width);
  const int8_t* weights = op.weights;
  for (uint32_t tap = 0; tap < taps; ++tap, weights += op.store_outputs, packed += 2) {
    int8_t bytes[kLanes] = {};
    for (uint32_t lane = 0; lane < lanes.count; ++lane) bytes[lane] = weights[lanes.store[lane]];
    const uint32_t word = load_word(bytes);
    packed[0] = sxtb16(word);
    packed[1] = sxtb16_odd(word);
  }
}

uint32_t* pack_zeros(uint32_t* packed, int32_t pixels) {
  for (; pixels > 0; --pixels, packed += 2) packed[0] = packed[1] = 0;
  return packed;
}

// `pixels` neighbouring pixels from `input`, the first lane of the first one.
uint32_t* pack_pixels(uint32_t* packed, const int8_t* input, int32_t pixels, uint32_t channels,
                      uint32_t lanes, uint32_t minus_zero_point) {
  for (; pixels > 0; --pixels, input += channels, packed += 2) {
    const uint32_t word = lanes == kLanes ? load_word(input) : load_partial_word(input, lanes);
    packed[0] = sxtab16(minus_zero_point, word);
    packed[1] = sxtab16_odd(minus_zero_point, word);
  }
  return packed;
}

// The part of the image under a tile's windows.
void pack_tile(const Window& window, const LinearLevel& level, const int8_t* input,
               const Lanes& lanes, const Tile& tile) {
  const uint32_t channels = level.outputs->count;
  const uint32_t minus_zero_point = negated_pair(level.input_zero_point);
  const int32_t rows =
      reach(tile.height, window.stride_height, window.kernel_height, window.dilation_height);
  const int32_t left = tile.x * window.stride_width - window.pad_left;
  const int32_t begin = clamp(left, 0, window.input_width);
  const int32_t end = clamp(left + tile.columns, begin, window.input_width);
  uint32_t* packed = tile.packed;
  int32_t y = tile.y * window.stride_height - window.pad_top;
  for (int32_t row = 0; row < rows; ++row, ++y) {
    if (y < 0 || y >= window.input_height) {
      packed = pack_zeros(packed, tile.columns);
      continue;
    }
    const uint32_t pixel = static_cast<uint32_t>(y * window.input_width + begin);
    packed = pack_zeros(packed, begin - left < tile.columns ? begin - left : tile.columns);
    packed = pack_pixels(packed, input + pixel * channels + lanes.first, end - begin, channels,
                         lanes.count, minus_zero_point);
    packed = pack_zeros(packed, left + tile.columns - (end > left ? end : left + tile.columns));
  }
}

struct Sums {
  int32_t lane[kLanes];

  void add(const uint32_t* x, const uint32_t* w) {
    lane[0] = smlabb(x[0], w[0], lane[0]);
    lane[2] = smlatt(x[0], w[0], lane[2]);
    lane[1] = smlabb(x[1], w[1], lane[1]);
    lane[3] = smlatt(x[1], w[1], lane[3]);
  }
};

// How a window's products are summed: any window, or the usual one without loops.
struct AnyWindow {
  static void add(Sums& sums, const Window& window, const uint32_t* x, const uint32_t* w,
                  int32_t columns) {
    for (int32_t ky = 0; ky < window.kernel_height; ++ky) {
      const uint32_t* tap = x;
      for (int32_t kx = 0; kx < window.kernel_width; ++kx, w += 2) {
        sums.add(tap, w);
        tap += 2 * window.dilation_width;
      }
      x += 2 * columns * window.dilation_height;
    }
  }
};

struct Window3x3 {
  static void add(Sums& sums, const Window&, const uint32_t* x, const uint32_t* w,
                  int32_t columns) {
    const uint32_t *row1 = x + 2 * columns, *row2 = row1 + 2 * columns;
    sums.add(x, w);
    sums.add(x + 2, w + 2);
    sums.add(x + 4, w + 4);
    sums.add(row1, w + 6);
    sums.add(row1 + 2, w + 8);
    sums.add(row1 + 4, w + 10);
    sums.add(row2, w + 12);
    sums.add(row2 + 2, w + 14);
    sums.add(row2 + 4, w + 16);
  }
};

template <typename Requantization, typename Taps>
void multiply_tile(const Window& window, const LinearLevel& level, const Lanes& lanes,
                   const Tile& tile, const uint32_t* weights, int8_t* output) {
  const uint32_t channels = level.outputs->count;
  const Requantization requantize[kLanes] = {{level, lanes.channel(0)},
                                             {level, lanes.channel(1)},
                                             {level, lanes.channel(2)},
                                             {level, lanes.channel(3)}};
  const Sums bias = {{level.bias[lanes.channel(0)], level.bias[lanes.channel(1)],
                      level.bias[lanes.channel(2)], level.bias[lanes.channel(3)]}};
  const ActivationClamp activate(level);
  for (int32_t y = 0; y < tile.height; ++y) {
    const uint32_t* x = tile.packed + 2 * y * window.stride_height * tile.columns;
    const int32_t pixel = (tile.y + y) * window.output_width + tile.x;
    int8_t* to = output + static_cast<uint32_t>(pixel) * channels + lanes.first;
    for (int32_t i = 0; i < tile.width; ++i, x += 2 * window.stride_width, to += channels) {
      Sums sums = bias;
      Taps::add(sums, window, x, weights, tile.columns);
      to[0] = activate(requantize[0](sums.lane[0]));
      if (lanes.count > 1) to[1] = activate(requantize[1](sums.lane[1]));
      if (lanes.count > 2) to[2] = activate(requantize[2](sums.lane[2]));
      if (lanes.count > 3) to[3] = activate(requantize[3](sums.lane[3]));
    }
  }
}

template <typename Requantization>
void convolve_lanes(const DepthwiseConv2D& op, const LinearLevel& level, const Buffers& buffers,
                    const Lanes& lanes) {
  const Window& window = op.window;
  const bool is_3x3 = window.kernel_height == 3 && window.kernel_width == 3 &&
                      window.dilation_height == 1 && window.dilation_width == 1;
  const auto multiply = is_3x3 ? multiply_tile<Requantization, Window3x3>
                               : multiply_tile<Requantization, AnyWindow>;
  uint32_t* const weights = reinterpret_cast<uint32_t*>(buffers.scratch);
  uint32_t* const packed = weights + 2 * window.kernel_height * window.kernel_width;
  pack_weights(op, lanes, weights);
  const int32_t tile_height = level.tile_height, tile_width = level.tile_width;
  for (int32_t y = 0; y < window.output_height; y += tile_height) {
    for (int32_t x = 0; x < window.output_width; x += tile_width) {
      const int32_t height = clamp(window.output_height - y, 1, tile_height);
      const int32_t width = clamp(window.output_width - x, 1, tile_width);
      const int32_t columns =
          reach(width, window.stride_width, window.kernel_width, window.dilation_width);
      const Tile tile = {y, x, height, width, columns, packed};
      pack_tile(window, level, buffers.inputs[0], lanes, tile);
      multiply(window, level, lanes, tile, weights, buffers.output);
    }
  }
}

template <typename Requantization>
void convolve(const DepthwiseConv2D& op, const LinearLevel& level, const Buffers& buffers) {
  ChannelCursor cursor(*level.outputs);
  for (uint32_t channel = 0; channel < level.outputs->count; channel += kLanes) {
    const uint32_t rest = level.outputs->count - channel;
    Lanes lanes = {{}, channel, rest < kLanes ? rest : kLanes};
    for (uint32_t lane = 0; lane < lanes.count; ++lane) lanes.store[lane] = cursor.next();
    convolve_lanes<Requantization>(op, level, buffers, lanes);
  }
}

}  // namespace

void depthwise_conv2d(const DepthwiseConv2D& op, const LinearLevel& level,
                      const Buffers& buffers) {
  convolve<GeneralRequantization>(op, level, buffers);
}

void depthwise_conv2d_proven(const DepthwiseConv2D& op, const LinearLevel& level,
                             const Buffers& buffers) {
  convolve<ProvenRequantization>(op, level, buffers);
}

}  // namespace dsp
}  // namespace reds

#endif  // REDS_DSP_KERNELS
