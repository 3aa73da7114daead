// The plan: constant tables that tell the run time what each op does at each level.
//
// Everything here is plain data in flash, written by `redsc compile`. Tensors are int8, stored
// (height, width, channels) without padding, with as many channels as the level keeps. Weights
// are the one full-width store that all levels read, in TFLite's layouts.
#ifndef REDS_PLAN_H_
#define REDS_PLAN_H_

#include <stddef.h>
#include <stdint.h>

namespace reds {

// Part of a channel axis: `length` neighbouring channels from `offset`.
struct Run {
  uint32_t offset;
  uint32_t length;
};

// The channels of a full-width axis that a level keeps, in order: the list of runs, repeated
// `repeat` times, each time `stride` channels further. A plain prefix is one run; Flatten of
// (H, W, C) repeats a prefix of C's channels H*W times; Concatenate gives several runs.
struct Channels {
  const Run* runs;
  uint32_t run_count;
  uint32_t repeat;
  uint32_t stride;
  uint32_t count;  // channels in total
};

// How a window moves over an image; the same for all levels.
struct Window {
  int32_t input_height, input_width;
  int32_t output_height, output_width;
  int32_t kernel_height, kernel_width;
  int32_t stride_height, stride_width;
  int32_t dilation_height, dilation_width;
  int32_t pad_top, pad_left;
};

// One level of a Conv2D, DepthwiseConv2D or Dense.
struct LinearLevel {
  const Channels* inputs;   // channels read; not used by DepthwiseConv2D
  const Channels* outputs;  // channels computed
  const int32_t* bias;        // (outputs->count), likewise:
  const int32_t* multiplier;  // requantisation, see fixed_point.h
  const int8_t* shift;        // positive = left; nullptr for kernels ending in _one_product
  int8_t input_zero_point;
  int8_t output_zero_point;
  int8_t activation_min;
  int8_t activation_max;
  // Output pixels whose inputs the DSP kernels pack into scratch at once. Conv2D takes tile_width
  // pixels in reading order, across lines; conv2d_thin_one_product tile_height lines; conv2d_winograd
  // so many tiles of 4 x 4 pixels, and keeps the transformed weights of tile_height channels.
  uint16_t tile_height;
  uint16_t tile_width;
};

// Where the compiler proved it, an output is ((sum << 8) + bias) * multiplier >> 32 + 11, saturated
// to int8: the zero point is in the bias, the shift in the multiplier.
constexpr int32_t kOneProductSumShift = 8;
constexpr int32_t kOneProductShift = 11;

struct Conv2D {
  using Level = LinearLevel;
  Window window;
  uint32_t store_inputs;  // input channels of the store
  const int8_t* weights;  // (out, kernel_height, kernel_width, in)
  const Level* levels;
};

struct DepthwiseConv2D {
  using Level = LinearLevel;
  Window window;
  uint32_t multiplier;     // output channels per input channel
  uint32_t store_outputs;  // output channels of the store
  const int8_t* weights;   // (kernel_height, kernel_width, out)
  const Level* levels;
};

struct Dense {
  using Level = LinearLevel;
  uint32_t store_inputs;
  const int8_t* weights;  // (out, in)
  const Level* levels;
};

struct Add {
  struct Level {
    uint32_t size;  // elements
    int32_t input1_multiplier, input2_multiplier, output_multiplier;
    // Where proven, the same as (input1 * weight1 + input2 * weight2 + offset) >> 21, saturated.
    int32_t weight1, weight2, offset;
    int8_t input1_shift, input2_shift, output_shift, left_shift;
    int8_t input1_zero_point, input2_zero_point, output_zero_point;
    int8_t activation_min, activation_max;
  };
  const Level* levels;
};

struct Concatenate {
  struct Level {
    const uint32_t* channels;  // (input_count)
  };
  uint32_t positions;  // height * width
  uint32_t input_count;
  const Level* levels;
};

struct MaxPool2D {
  struct Level {
    uint32_t channels;
  };
  Window window;
  const Level* levels;
};

struct AveragePool2D {
  using Level = MaxPool2D::Level;
  Window window;
  const Level* levels;
};

struct Pad {
  struct Level {
    uint32_t channels;
    int8_t zero_point;
  };
  int32_t input_height, input_width;
  int32_t top, bottom, left, right;
  const Level* levels;
};

struct LeakyRelu {
  struct Level {
    uint32_t size;
    int32_t identity_multiplier, alpha_multiplier;  // alpha's is negative for a negative alpha
    int8_t identity_shift, alpha_shift;
    int8_t input_zero_point, output_zero_point;
  };
  const Level* levels;
};

// Logistic and Tanh: one byte per possible input.
struct Lookup {
  struct Level {
    uint32_t size;
    const int8_t* table;  // (256), output for input q at q + 128
  };
  const Level* levels;
};

struct Softmax {
  struct Level {
    uint32_t rows;
    uint32_t depth;  // elements per row
    int32_t multiplier;
    int32_t left_shift;
    int32_t diff_min;
  };
  const Level* levels;
};

// Where one call of a kernel reads and writes.
struct Buffers {
  const int8_t* const* inputs;
  int8_t* output;
  int8_t* scratch;  // aligned to 16 bytes; only for kernels that ask for some
};

constexpr uint32_t kMaxInputs = 10;  // TFLM's limit for Concatenate
constexpr uint16_t kNoSlot = 0xFFFF;

// One op call. Slots are places in the arena: one per tensor and one per scratch buffer.
struct Step {
  void (*run)(const void* op, uint8_t level, const Buffers& buffers);
  const void* op;
  const uint16_t* inputs;  // slots
  uint16_t input_count;
  uint16_t output;
  uint16_t scratch;  // kNoSlot: none
};

// Adapts a kernel to Step::run.
template <typename Op, void (*Kernel)(const Op&, const typename Op::Level&, const Buffers&)>
void run(const void* op, uint8_t level, const Buffers& buffers) {
  const Op& typed = *static_cast<const Op*>(op);
  Kernel(typed, typed.levels[level], buffers);
}

// real = scale * (q - zero_point)
struct Quantization {
  float scale;
  int32_t zero_point;
};

struct Plan {
  const Step* steps;
  const uint32_t* offsets;  // (level_count, slot_count): bytes from the arena's start
  uint16_t step_count;
  uint16_t slot_count;
  uint8_t level_count;
  uint32_t arena_bytes;   // of the widest level; every level fits
  const uint32_t* level_arena_bytes;  // (level_count): each level uses the first so many bytes
  uint32_t input_offset;  // input and output lie at the same place at all levels
  uint32_t output_offset;
  uint32_t input_bytes;
  uint32_t output_bytes;
  Quantization input;
  Quantization output;
};

// What measuring and comparing need beside the plan; the linker drops it where nothing does.
struct Description {
  uint32_t crc32;                     // of the full network's .tflite file
  const uint32_t* step_output_bytes;  // (level_count, step_count)
};

}  // namespace reds

#endif  // REDS_PLAN_H_
