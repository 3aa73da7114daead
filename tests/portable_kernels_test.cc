// Random calls of the portable kernels against what TFLite's words mean, written down as plainly as
// possible: weights of the kept channels copied out of the store, images padded for real, sums and
// roundings in 64 bits. Every tensor has a heap block of its own size, so that AddressSanitizer sees
// each byte read or written beside one.
//
//   portable_kernels_test SEED COUNT    runs COUNT calls; prints how many of each kernel there were;
//                                       or the first that is wrong, and exits 1
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include <algorithm>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "reds/kernels.h"

namespace {

using Bytes = std::vector<int8_t>;

// --- arithmetic ----------------------------------------------------------------------------------

int64_t divided(int64_t x, int64_t power_of_two) {  // to nearest, ties away from zero
  const int64_t half = power_of_two / 2;
  return x >= 0 ? (x + half) / power_of_two : -((-x + half) / power_of_two);
}

int32_t wrapped(int64_t x) { return static_cast<int32_t>(static_cast<uint32_t>(x)); }

int64_t saturated(int64_t x) {
  return std::min<int64_t>(std::max<int64_t>(x, INT32_MIN), INT32_MAX);
}

// gemmlowp's SaturatingRoundingDoublingHighMul, whose ties go up.
int64_t product(int64_t a, int64_t b) {
  return saturated((a * b + (int64_t{1} << 30)) >> 31);  // floor
}

// That, then RoundingDivideByPOT.
int64_t scaled(int32_t x, int32_t multiplier, int shift) {
  const int64_t shifted = shift > 0 ? wrapped(static_cast<int64_t>(x) * (int64_t{1} << shift)) : x;
  const int64_t high = product(shifted, multiplier);
  return shift < 0 ? divided(high, int64_t{1} << -shift) : high;
}

// A real number with so many bits behind the point, as gemmlowp checks its constants.
int64_t fixed(double x, int fractional_bits) { return llround(ldexp(x, fractional_bits)); }

// gemmlowp's exp_on_negative_values: e^a with 31 bits behind the point, of a <= 0 with 26.
int64_t exponential(int64_t a) {
  if (a == 0) return INT32_MAX;
  const int64_t quarter = 1 << 24;
  const int64_t quarters = (-a - 1) / quarter;  // what is left is from -1/4 to below 0
  const int64_t x = 32 * (a + quarters * quarter) + fixed(0.125, 31);
  const int64_t x2 = product(x, x), x3 = product(x2, x), x4 = product(x2, x2);
  // e^-1/8 times 1 + x + x^2 / 2 + x^3 / 6 + x^4 / 24
  const int64_t rest = divided(product(divided(x4, 4) + x3, fixed(1.0 / 3, 31)) + x2, 2);
  int64_t result = fixed(exp(-0.125), 31);
  result += product(result, x + rest);
  for (int bit = 0; bit < 7; ++bit) {
    if (quarters >> bit & 1) result = product(result, fixed(exp(-ldexp(0.25, bit)), 31));
  }
  return result;
}

// gemmlowp's one_over_one_plus_x_for_x_in_0_1, 31 bits behind the point: Newton and Raphson's
// division of 1 by half of 1 + a, of which 29 are.
int64_t inverse_of_one_plus(int64_t a) {
  const int64_t half = (a + (int64_t{1} << 31)) / 2;
  int64_t x = fixed(48.0 / 17, 29) + product(half, fixed(-32.0 / 17, 29));
  for (int i = 0; i < 3; ++i) {
    x += saturated(4 * product(x, fixed(1, 29) - product(half, x)));
  }
  return saturated(2 * x);  // 30 bits, as it is halved; then one more
}

int8_t clamped(int64_t x, int low, int high) {
  return static_cast<int8_t>(std::min<int64_t>(std::max<int64_t>(x, low), high));
}

// --- what is drawn -------------------------------------------------------------------------------

struct Draw {
  std::mt19937 engine;

  int between(int low, int high) { return std::uniform_int_distribution<int>(low, high)(engine); }
  bool once_in(int n) { return between(1, n) == 1; }
  int zero_point() { return once_in(4) ? (once_in(2) ? -128 : 127) : between(-128, 127); }

  Bytes bytes(size_t count, int center = 0) {
    Bytes result(count);
    const int kind = between(0, 3);
    for (auto& value : result) {
      if (kind == 0) {
        value = once_in(2) ? -128 : 127;
      } else if (kind == 1) {
        value = clamped(center + between(-2, 2), -128, 127);
      } else {
        value = static_cast<int8_t>(between(-128, 127));
      }
    }
    return result;
  }

  // Of a multiplier in 2^30 ... 2^31 - 1, as TFLite's QuantizeMultiplier gives, or 0.
  int32_t multiplier() {
    if (once_in(12)) return once_in(2) ? 0 : (once_in(2) ? 1 << 30 : INT32_MAX);
    return between(1 << 30, INT32_MAX);
  }
};

// Channels of a store that a level keeps.
struct Kept {
  std::vector<reds::Run> runs;
  reds::Channels channels;
  std::vector<uint32_t> indices;
  uint32_t store;

  Kept(Draw& draw, int most) {
    const int repeat = draw.once_in(3) ? draw.between(2, 3) : 1;
    uint32_t position = 0;
    for (int run = draw.once_in(3) ? draw.between(2, 3) : 1; run > 0; --run) {
      position += static_cast<uint32_t>(draw.between(0, 2));
      const uint32_t length = static_cast<uint32_t>(draw.between(1, std::max(1, most / repeat)));
      runs.push_back({position, length});
      position += length;
    }
    const uint32_t stride = position + static_cast<uint32_t>(draw.between(0, 2));
    store = stride * static_cast<uint32_t>(repeat) + static_cast<uint32_t>(draw.between(0, 2));
    for (int i = 0; i < repeat; ++i) {
      for (const auto& run : runs) {
        for (uint32_t j = 0; j < run.length; ++j) {
          indices.push_back(static_cast<uint32_t>(i) * stride + run.offset + j);
        }
      }
    }
    channels = {runs.data(), static_cast<uint32_t>(runs.size()), static_cast<uint32_t>(repeat),
                stride, static_cast<uint32_t>(indices.size())};
  }
  Kept(const Kept&) = delete;

  uint32_t count() const { return channels.count; }
};

// Requantisation of `count` channels whose sums are at most about `largest`: TFLite's, or one product.
struct Requantisation {
  bool is_one_product;
  std::vector<int32_t> bias, multiplier;
  std::vector<int8_t> shift;
  reds::LinearLevel level = {};

  Requantisation(Draw& draw, uint32_t count, int64_t largest, bool is_one_product = false)
      : is_one_product(is_one_product) {
    const int bits = draw.between(1, 30);
    const int32_t most = static_cast<int32_t>((int64_t{1} << bits) - 1);
    int usual = 0;
    while ((largest >> usual) > 256) ++usual;
    for (uint32_t i = 0; i < count; ++i) {
      bias.push_back(draw.between(-most, most));
      multiplier.push_back(draw.multiplier());
      shift.push_back(static_cast<int8_t>(draw.once_in(3) ? draw.between(-31, 8)
                                                          : -usual + draw.between(-1, 1)));
      if (is_one_product) {  // steps of about as many sums
        multiplier.back() = std::max(1, multiplier.back() >> std::max(0, usual - draw.between(2, 4)));
      }
    }
    int low = draw.between(-128, 127), high = draw.between(-128, 127);
    if (low > high) std::swap(low, high);
    if (draw.once_in(2)) {
      low = -128;
      high = 127;
    }
    level.bias = bias.data();
    level.multiplier = multiplier.data();
    level.shift = is_one_product ? nullptr : shift.data();
    level.input_zero_point = static_cast<int8_t>(draw.zero_point());
    level.output_zero_point = static_cast<int8_t>(draw.zero_point());
    level.activation_min = static_cast<int8_t>(low);
    level.activation_max = static_cast<int8_t>(high);
  }

  int8_t operator()(uint32_t channel, int64_t sum) const {
    if (is_one_product) {
      const int64_t product = int64_t{wrapped(256 * sum + bias[channel])} * multiplier[channel];
      const int64_t output = product >> 43;  // floor
      return clamped(clamped(output, -128, 127), level.activation_min, level.activation_max);
    }
    const int32_t total = wrapped(sum + bias[channel]);
    return clamped(scaled(total, multiplier[channel], shift[channel]) + level.output_zero_point,
                   level.activation_min, level.activation_max);
  }
};

// A window and how much the image is padded behind, which the plan need not say.
struct Windows {
  reds::Window window;
  int bottom, right;

  Windows(Draw& draw, int most_length, int most_kernel, int most_dilation) {
    const auto side = [&](int32_t& input, int32_t& output, int32_t& kernel, int32_t& stride,
                          int32_t& dilation, int32_t& before, int& behind) {
      kernel = draw.between(1, most_kernel);
      stride = draw.between(1, 3);
      dilation = draw.between(1, most_dilation);
      const int reach = (kernel - 1) * dilation + 1;
      before = draw.once_in(3) ? 0 : draw.between(0, reach - 1);
      behind = draw.once_in(3) ? 0 : draw.between(0, reach - 1);
      input = draw.between(std::max(1, reach - before - behind), most_length + reach);
      output = (input + before + behind - reach) / stride + 1;
    };
    side(window.input_height, window.output_height, window.kernel_height, window.stride_height,
         window.dilation_height, window.pad_top, bottom);
    side(window.input_width, window.output_width, window.kernel_width, window.stride_width,
         window.dilation_width, window.pad_left, right);
  }

  uint32_t pixels() const { return static_cast<uint32_t>(window.input_height * window.input_width); }
  uint32_t outputs() const {
    return static_cast<uint32_t>(window.output_height * window.output_width);
  }
  uint32_t taps() const {
    return static_cast<uint32_t>(window.kernel_height * window.kernel_width);
  }
};

// An image with `value` all around it.
Bytes padded(const Bytes& image, const Windows& windows, uint32_t channels, int8_t value) {
  const reds::Window& w = windows.window;
  const size_t width = static_cast<size_t>(w.pad_left + w.input_width + windows.right);
  const size_t height = static_cast<size_t>(w.pad_top + w.input_height + windows.bottom);
  Bytes result(width * height * channels, value);
  const size_t row = static_cast<size_t>(w.input_width) * channels;
  for (size_t y = 0; y < static_cast<size_t>(w.input_height); ++y) {
    const size_t to = (static_cast<size_t>(w.pad_top) + y) * width + static_cast<size_t>(w.pad_left);
    std::copy_n(image.begin() + static_cast<long>(y * row), row,
                result.begin() + static_cast<long>(to * channels));
  }
  return result;
}

// Calls use(output pixel, tap, pixel of the padded image) for everything under every window.
template <typename Use>
void for_each_tap(const Windows& windows, Use use) {
  const reds::Window& w = windows.window;
  const int width = w.pad_left + w.input_width + windows.right;
  for (int y = 0; y < w.output_height; ++y) {
    for (int x = 0; x < w.output_width; ++x) {
      for (int ky = 0; ky < w.kernel_height; ++ky) {
        for (int kx = 0; kx < w.kernel_width; ++kx) {
          const int row = y * w.stride_height + ky * w.dilation_height;
          const int column = x * w.stride_width + kx * w.dilation_width;
          use(static_cast<uint32_t>(y * w.output_width + x),
              static_cast<uint32_t>(ky * w.kernel_width + kx),
              static_cast<uint32_t>(row * width + column));
        }
      }
    }
  }
}

// --- kernels -------------------------------------------------------------------------------------

// A call's result beside what it should be.
struct Result {
  const char* kernel;
  Bytes output, wanted;
};

template <typename Op, void (*Kernel)(const Op&, const typename Op::Level&, const reds::Buffers&)>
Bytes call(const Op& op, const std::vector<const Bytes*>& inputs, size_t output_bytes) {
  std::vector<const int8_t*> pointers;
  for (const Bytes* input : inputs) pointers.push_back(input->data());
  Bytes output(output_bytes);
  reds::run<Op, Kernel>(&op, 0, {pointers.data(), output.data(), nullptr});
  return output;
}

Result conv2d(Draw& draw) {
  const Windows windows(draw, 7, 4, 2);
  const Kept inputs(draw, 7), outputs(draw, 6);
  const uint32_t taps = windows.taps();
  const Bytes weights = draw.bytes(outputs.store * taps * inputs.store);
  Requantisation requantise(draw, outputs.count(), int64_t{2000} * taps * inputs.count(),
                            draw.once_in(2));
  requantise.level.inputs = &inputs.channels;
  requantise.level.outputs = &outputs.channels;
  const int zero_point = requantise.level.input_zero_point;
  const Bytes x = draw.bytes(windows.pixels() * inputs.count(), zero_point);
  const Bytes image = padded(x, windows, inputs.count(), static_cast<int8_t>(zero_point));
  std::vector<int64_t> sums(windows.outputs() * outputs.count());
  for_each_tap(windows, [&](uint32_t output, uint32_t tap, uint32_t pixel) {
    for (uint32_t o = 0; o < outputs.count(); ++o) {
      for (uint32_t i = 0; i < inputs.count(); ++i) {
        const size_t weight = (outputs.indices[o] * taps + tap) * inputs.store + inputs.indices[i];
        sums[output * outputs.count() + o] +=
            weights[weight] * (image[pixel * inputs.count() + i] - zero_point);
      }
    }
  });
  Bytes wanted;
  for (uint32_t i = 0; i < sums.size(); ++i) {
    wanted.push_back(requantise(i % outputs.count(), sums[i]));
  }
  const reds::Conv2D op = {windows.window, inputs.store, weights.data(), &requantise.level};
  const auto run = requantise.is_one_product ? call<reds::Conv2D, reds::portable::conv2d_one_product>
                                             : call<reds::Conv2D, reds::portable::conv2d>;
  return {requantise.is_one_product ? "conv2d_one_product" : "conv2d", run(op, {&x}, wanted.size()),
          wanted};
}

Result depthwise_conv2d(Draw& draw) {
  const Windows windows(draw, 7, 4, 2);
  const uint32_t multiplier = draw.once_in(3) ? static_cast<uint32_t>(draw.between(2, 3)) : 1;
  // Units are whole groups of `multiplier` channels: draw inputs, and their outputs from them.
  const uint32_t channels = static_cast<uint32_t>(draw.between(1, 7));
  const uint32_t store = multiplier * (channels + static_cast<uint32_t>(draw.between(0, 3)));
  const reds::Run run = {draw.once_in(2) ? store - multiplier * channels : 0, multiplier * channels};
  const reds::Channels outputs = {&run, 1, 1, 0, run.length};
  const Bytes weights = draw.bytes(windows.taps() * store);
  Requantisation requantise(draw, outputs.count, int64_t{2000} * windows.taps(), draw.once_in(2));
  requantise.level.outputs = &outputs;
  const int zero_point = requantise.level.input_zero_point;
  const Bytes x = draw.bytes(windows.pixels() * channels, zero_point);
  const Bytes image = padded(x, windows, channels, static_cast<int8_t>(zero_point));
  std::vector<int64_t> sums(windows.outputs() * outputs.count);
  for_each_tap(windows, [&](uint32_t output, uint32_t tap, uint32_t pixel) {
    for (uint32_t o = 0; o < outputs.count; ++o) {
      sums[output * outputs.count + o] += weights[tap * store + run.offset + o] *
                                          (image[pixel * channels + o / multiplier] - zero_point);
    }
  });
  Bytes wanted;
  for (uint32_t i = 0; i < sums.size(); ++i) {
    wanted.push_back(requantise(i % outputs.count, sums[i]));
  }
  const reds::DepthwiseConv2D op = {windows.window, multiplier, store, weights.data(),
                                    &requantise.level};
  if (requantise.is_one_product) {
    return {"depthwise_conv2d_one_product",
            call<reds::DepthwiseConv2D, reds::portable::depthwise_conv2d_one_product>(
                op, {&x}, wanted.size()),
            wanted};
  }
  return {"depthwise_conv2d",
          call<reds::DepthwiseConv2D, reds::portable::depthwise_conv2d>(op, {&x}, wanted.size()),
          wanted};
}

Result dense(Draw& draw) {
  const Kept inputs(draw, 30), outputs(draw, 12);
  const Bytes weights = draw.bytes(outputs.store * inputs.store);
  Requantisation requantise(draw, outputs.count(), int64_t{2000} * inputs.count());
  requantise.level.inputs = &inputs.channels;
  requantise.level.outputs = &outputs.channels;
  const int zero_point = requantise.level.input_zero_point;
  const Bytes x = draw.bytes(inputs.count(), zero_point);
  Bytes wanted;
  for (uint32_t o = 0; o < outputs.count(); ++o) {
    int64_t sum = 0;
    for (uint32_t i = 0; i < inputs.count(); ++i) {
      sum += weights[outputs.indices[o] * inputs.store + inputs.indices[i]] * (x[i] - zero_point);
    }
    wanted.push_back(requantise(o, sum));
  }
  const reds::Dense op = {inputs.store, weights.data(), &requantise.level};
  return {"dense", call<reds::Dense, reds::portable::dense>(op, {&x}, wanted.size()), wanted};
}

Result add(Draw& draw) {
  const auto shift = [&] { return static_cast<int8_t>(-draw.between(0, 31)); };
  const auto zero_point = [&] { return static_cast<int8_t>(draw.zero_point()); };
  const size_t size = static_cast<size_t>(draw.between(1, 40));
  int low = draw.between(-128, 127), high = draw.between(-128, 127);
  if (low > high) std::swap(low, high);
  const reds::Add::Level level = {
      static_cast<uint32_t>(size), draw.multiplier(), draw.multiplier(), draw.multiplier(), 0, 0, 0,
      shift(), shift(), shift(), 20, zero_point(), zero_point(), zero_point(),
      static_cast<int8_t>(low), static_cast<int8_t>(high)};
  const Bytes a = draw.bytes(size, level.input1_zero_point);
  const Bytes b = draw.bytes(size, level.input2_zero_point);
  Bytes wanted;
  for (size_t i = 0; i < size; ++i) {
    const int64_t sum = scaled((a[i] - level.input1_zero_point) * (1 << 20),
                               level.input1_multiplier, level.input1_shift) +
                        scaled((b[i] - level.input2_zero_point) * (1 << 20),
                               level.input2_multiplier, level.input2_shift);
    wanted.push_back(
        clamped(scaled(wrapped(sum), level.output_multiplier, level.output_shift) +
                    level.output_zero_point,
                low, high));
  }
  const reds::Add op = {&level};
  return {"add", call<reds::Add, reds::portable::add>(op, {&a, &b}, size), wanted};
}

Result pool2d(Draw& draw) {
  const Windows windows(draw, 9, 5, 1);
  const uint32_t channels = static_cast<uint32_t>(draw.between(1, 7));
  const reds::MaxPool2D::Level level = {channels};
  const Bytes x = draw.bytes(windows.pixels() * channels);
  const Bytes image = padded(x, windows, channels, 0);
  const Bytes inside = padded(Bytes(x.size(), 1), windows, channels, 0);
  const size_t size = windows.outputs() * channels;
  std::vector<int> sums(size), counts(size), largest(size, -128);
  for_each_tap(windows, [&](uint32_t output, uint32_t, uint32_t pixel) {
    for (uint32_t c = 0; c < channels; ++c) {
      const size_t to = output * channels + c, from = pixel * channels + c;
      sums[to] += image[from];
      counts[to] += inside[from];
      if (inside[from]) largest[to] = std::max<int>(largest[to], image[from]);
    }
  });
  if (*std::min_element(counts.begin(), counts.end()) == 0) return pool2d(draw);  // nothing to pool
  Bytes wanted;
  if (draw.once_in(2)) {
    for (int value : largest) wanted.push_back(static_cast<int8_t>(value));
    const reds::MaxPool2D op = {windows.window, &level};
    return {"max_pool2d", call<reds::MaxPool2D, reds::portable::max_pool2d>(op, {&x}, size), wanted};
  }
  for (size_t i = 0; i < size; ++i) {  // to nearest, ties away from zero
    const int size_of_sum = 2 * std::abs(sums[i]) + counts[i];
    const int mean = size_of_sum / (2 * counts[i]);
    wanted.push_back(static_cast<int8_t>(sums[i] < 0 ? -mean : mean));
  }
  const reds::AveragePool2D op = {windows.window, &level};
  return {"average_pool2d",
          call<reds::AveragePool2D, reds::portable::average_pool2d>(op, {&x}, size), wanted};
}

Result pad(Draw& draw) {
  const Windows windows(draw, 9, 4, 1);
  const reds::Window& w = windows.window;
  const uint32_t channels = static_cast<uint32_t>(draw.between(1, 7));
  const reds::Pad::Level level = {channels, static_cast<int8_t>(draw.zero_point())};
  const Bytes x = draw.bytes(windows.pixels() * channels);
  const Bytes wanted = padded(x, windows, channels, level.zero_point);
  const reds::Pad op = {w.input_height, w.input_width,  w.pad_top, windows.bottom,
                        w.pad_left,     windows.right, &level};
  return {"pad", call<reds::Pad, reds::portable::pad>(op, {&x}, wanted.size()), wanted};
}

Result concatenate(Draw& draw) {
  const uint32_t positions = static_cast<uint32_t>(draw.between(1, 20));
  std::vector<uint32_t> channels;
  std::vector<Bytes> tensors;
  std::vector<const Bytes*> inputs;
  for (int i = draw.between(2, 5); i > 0; --i) {
    channels.push_back(static_cast<uint32_t>(draw.between(1, 9)));
    tensors.push_back(draw.bytes(positions * channels.back()));
  }
  for (const Bytes& tensor : tensors) inputs.push_back(&tensor);
  Bytes wanted;
  for (uint32_t position = 0; position < positions; ++position) {
    for (size_t i = 0; i < tensors.size(); ++i) {
      for (uint32_t c = 0; c < channels[i]; ++c) {
        wanted.push_back(tensors[i][position * channels[i] + c]);
      }
    }
  }
  const reds::Concatenate::Level level = {channels.data()};
  const reds::Concatenate op = {positions, static_cast<uint32_t>(tensors.size()), &level};
  return {"concatenate",
          call<reds::Concatenate, reds::portable::concatenate>(op, inputs, wanted.size()), wanted};
}

Result leaky_relu(Draw& draw) {
  const size_t size = static_cast<size_t>(draw.between(1, 60));
  const auto shift = [&] { return static_cast<int8_t>(draw.between(-31, 8)); };
  const int32_t alpha = draw.once_in(2) ? draw.multiplier() : -draw.multiplier();
  const reds::LeakyRelu::Level level = {
      static_cast<uint32_t>(size), draw.multiplier(), alpha, shift(), shift(),
      static_cast<int8_t>(draw.zero_point()), static_cast<int8_t>(draw.zero_point())};
  const Bytes x = draw.bytes(size, level.input_zero_point);
  Bytes wanted;
  for (int8_t q : x) {
    const int value = q - level.input_zero_point;
    int64_t result;
    if (value >= 0) {
      result = scaled(value, level.identity_multiplier, level.identity_shift);
    } else if (alpha >= 0) {
      result = scaled(value, alpha, level.alpha_shift);
    } else {
      result = -scaled(value, -alpha, level.alpha_shift);
    }
    wanted.push_back(clamped(result + level.output_zero_point, -128, 127));
  }
  const reds::LeakyRelu op = {&level};
  return {"leaky_relu", call<reds::LeakyRelu, reds::portable::leaky_relu>(op, {&x}, size), wanted};
}

Result lookup(Draw& draw) {
  const Bytes table = draw.bytes(256), x = draw.bytes(static_cast<size_t>(draw.between(1, 300)));
  const reds::Lookup::Level level = {static_cast<uint32_t>(x.size()), table.data()};
  Bytes wanted;
  for (int8_t q : x) wanted.push_back(table[static_cast<size_t>(q + 128)]);
  const reds::Lookup op = {&level};
  return {"lookup", call<reds::Lookup, reds::portable::lookup>(op, {&x}, x.size()), wanted};
}

Result softmax(Draw& draw) {
  const uint32_t rows = static_cast<uint32_t>(draw.between(1, 9));
  // Of more equal elements TFLite shifts by more than 31, which it asserts not to.
  const uint32_t depth = static_cast<uint32_t>(draw.between(1, draw.once_in(10) ? 511 : 40));
  const int32_t left_shift = draw.once_in(4) ? draw.between(0, 31) : draw.between(18, 24);
  // CalculateInputRadius; a smaller one leaves out more.
  const int32_t radius = static_cast<int32_t>((int64_t{31} << 26) >> left_shift);
  const int32_t diff_min = draw.once_in(4) ? -draw.between(0, std::min(radius, 255)) : -radius;
  const reds::Softmax::Level level = {rows, depth, draw.multiplier(), left_shift, diff_min};
  const Bytes x = draw.bytes(rows * depth, draw.zero_point());
  Bytes wanted(x.size(), -128);
  for (uint32_t row = 0; row < rows; ++row) {
    const auto begin = x.begin() + row * depth;
    const int largest = *std::max_element(begin, begin + depth);
    std::vector<int64_t> exponentials(depth);
    int64_t sum = 0;  // 19 bits behind the point
    for (uint32_t i = 0; i < depth; ++i) {
      if (begin[i] - largest < diff_min) continue;
      exponentials[i] = exponential(scaled(begin[i] - largest, level.multiplier, left_shift));
      sum += divided(exponentials[i], 1 << 12);
    }
    // GetReciprocal: of the sum as (1 + fraction) times a power of two
    int bits = 12;
    for (; sum < int64_t{1} << 31; sum *= 2) --bits;
    const int64_t inverse = inverse_of_one_plus(sum - (int64_t{1} << 31));
    for (uint32_t i = 0; i < depth; ++i) {
      if (begin[i] - largest < diff_min) continue;
      const int64_t share = divided(product(inverse, exponentials[i]), int64_t{1} << (bits + 23));
      wanted[row * depth + i] = clamped(share - 128, -128, 127);
    }
  }
  const reds::Softmax op = {&level};
  return {"softmax", call<reds::Softmax, reds::portable::softmax>(op, {&x}, x.size()), wanted};
}

}  // namespace

int main(int, char** arguments) {
  Draw draw = {std::mt19937(static_cast<uint32_t>(strtoul(arguments[1], nullptr, 10)))};
  const std::vector<Result (*)(Draw&)> kinds = {conv2d, conv2d, depthwise_conv2d, dense,
                                                add,    pool2d, pad,              concatenate,
                                                lookup, softmax, leaky_relu};
  const int count = atoi(arguments[2]);
  std::map<std::string, int> counts;
  for (int i = 0; i < count; ++i) {
    const Result result = kinds[static_cast<size_t>(i) % kinds.size()](draw);
    if (result.output != result.wanted) {
      printf("call %d: %s\n", i, result.kernel);
      return 1;
    }
    ++counts[result.kernel];
  }
  for (const auto& kernel : counts) printf("%s %d\n", kernel.first.c_str(), kernel.second);
  return 0;
}
