// One kernel on one layout of the weights, for cachegrind (cache_orders.py):
//
//   cache_orders LAYOUT REPEATS PIXELS INPUTS OUTPUTS STORE_INPUTS STORE_OUTPUTS
//
// LAYOUT rows: redsc's store, the weights of an output side by side, and its portable kernels.
// The others keep the weights of an input side by side, as Keras does: "columns" computes output
// by output, as rows do; "columns_in_sums" reads them in their order and keeps all sums in memory.
// Each computes the leading OUTPUTS from the leading INPUTS of every pixel.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <vector>

#include "../firmware/reds/src/portable/dot.h"
#include "reds/kernels.h"

namespace {

struct Job {
  uint32_t pixels, inputs, outputs, store_inputs, store_outputs;
  const int8_t* weights;
  const int8_t* x;
  int8_t* y;
  reds::LinearLevel level;
};

void rows(const Job& job) {
  const int8_t* const inputs[] = {job.x};
  reds::Buffers buffers = {};
  buffers.inputs = inputs;
  buffers.output = job.y;
  if (job.pixels == 1) {
    const reds::Dense op = {job.store_inputs, job.weights, nullptr};
    return reds::portable::dense(op, job.level, buffers);
  }
  const int32_t width = static_cast<int32_t>(job.pixels);
  const reds::Window window = {1, width, 1, width, 1, 1, 1, 1, 1, 1, 0, 0};
  reds::portable::conv2d({window, job.store_inputs, job.weights, nullptr}, job.level, buffers);
}

void columns(const Job& job) {
  for (uint32_t pixel = 0; pixel < job.pixels; ++pixel) {
    const int8_t* x = job.x + pixel * job.inputs;
    for (uint32_t o = 0; o < job.outputs; ++o) {
      int32_t sum = 0;
      for (uint32_t i = 0; i < job.inputs; ++i) {
        sum += job.weights[i * job.store_outputs + o] * (x[i] - job.level.input_zero_point);
      }
      job.y[pixel * job.outputs + o] = reds::portable::requantize(job.level, o, sum);
    }
  }
}

void columns_in_sums(const Job& job) {
  static std::vector<int32_t> sums(job.outputs);
  for (uint32_t pixel = 0; pixel < job.pixels; ++pixel) {
    const int8_t* x = job.x + pixel * job.inputs;
    memset(sums.data(), 0, job.outputs * sizeof(int32_t));
    for (uint32_t i = 0; i < job.inputs; ++i) {
      const int8_t* weights = job.weights + i * job.store_outputs;
      const int32_t value = x[i] - job.level.input_zero_point;
      for (uint32_t o = 0; o < job.outputs; ++o) sums[o] += weights[o] * value;
    }
    for (uint32_t o = 0; o < job.outputs; ++o) {
      job.y[pixel * job.outputs + o] = reds::portable::requantize(job.level, o, sums[o]);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 8) return 2;
  uint32_t numbers[6];
  for (int i = 0; i < 6; ++i) numbers[i] = static_cast<uint32_t>(atoi(argv[2 + i]));
  Job job = {numbers[1], numbers[2], numbers[3], numbers[4], numbers[5],
             nullptr,    nullptr,    nullptr,    {}};
  const bool is_rows = strcmp(argv[1], "rows") == 0;
  // The same network in either layout, and small numbers that differ.
  std::vector<int8_t> weights(job.store_inputs * job.store_outputs);
  for (uint32_t o = 0; o < job.store_outputs; ++o) {
    for (uint32_t i = 0; i < job.store_inputs; ++i) {
      const uint32_t at = is_rows ? o * job.store_inputs + i : i * job.store_outputs + o;
      weights[at] = static_cast<int8_t>((7 * o + 3 * i) % 31) - 15;
    }
  }
  std::vector<int8_t> x(job.pixels * job.inputs), y(job.pixels * job.outputs);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<int8_t>(i % 23);
  const reds::Run input_run = {0, job.inputs}, output_run = {0, job.outputs};
  const reds::Channels inputs = {&input_run, 1, 1, 0, job.inputs};
  const reds::Channels outputs = {&output_run, 1, 1, 0, job.outputs};
  const std::vector<int32_t> bias(job.outputs), multiplier(job.outputs, 1 << 30);
  const std::vector<int8_t> shift(job.outputs, -4);
  job.weights = weights.data();
  job.x = x.data();
  job.y = y.data();
  job.level = {&inputs,      &outputs, bias.data(), multiplier.data(), shift.data(), -3, 5,
               -128, 127, 0, 0};
  void (*const run)(const Job&) = is_rows                             ? rows
                                  : strcmp(argv[1], "columns") == 0 ? columns
                                                                      : columns_in_sums;
  for (uint32_t i = 0; i < numbers[0]; ++i) run(job);
  uint32_t sum = 0;
  for (int8_t value : y) sum = sum * 31 + static_cast<uint8_t>(value);
  printf("%u\n", sum);
  return 0;
}
