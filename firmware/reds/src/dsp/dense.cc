// Dense layer, four rows of weights at a time, read where they lie in the store.
//
// x - zero_point is expanded to int16 once, every run of channels padded with zeros to a multiple
// of four; so weights behind a run, or up to three bytes behind the store, are read but count for
// nothing. Scratch: (padded) int16.
//
// For requantisation in four instructions everything is in assembly. It wants four outputs or more,
// one run of them in the store, and inputs that are one run, or one repeated.
#include "reds/kernels.h"

#if REDS_DSP_KERNELS

#include "simd.h"

// dense_rows.S
extern "C" void reds_dense_rows(void* job);
extern "C" uint32_t* reds_dense_expand(const int8_t* input, uint32_t words,
                                       uint32_t minus_zero_point, uint32_t* x);

namespace reds {
namespace dsp {
namespace {

constexpr uint32_t kRows = 4;
constexpr uint32_t kLongRun = 64;  // inputs that pay for a call

#define REDS_TWO_ROWS(pointer, sum0, sum1)    \
  "ldr.w r11, [" pointer ", r2]\n"            \
  "ldr.w r10, [" pointer "], #4\n"            \
  "sxtb16 lr, r11\n"                          \
  "sxtb16 r11, r11, ror #8\n"                 \
  "smlad " sum1 ", lr, r8, " sum1 "\n"        \
  "smlad " sum1 ", r11, r9, " sum1 "\n"       \
  "sxtb16 lr, r10\n"                          \
  "sxtb16 r10, r10, ror #8\n"                 \
  "smlad " sum0 ", lr, r8, " sum0 "\n"        \
  "smlad " sum0 ", r10, r9, " sum0 "\n"

#define REDS_FOUR_ROWS                 \
  "ldr.w r8, [r0], #4\n"               \
  "ldr.w r9, [r0], #4\n"               \
  REDS_TWO_ROWS("r1", "r4", "r5")      \
  REDS_TWO_ROWS("r12", "r6", "r7")

struct RowBlock {
  int32_t sums[kRows];
  uint32_t groups;  // of four products each, > 0
};

// sums[row] += products of `groups` groups; x: (groups, 2) words, rows `stride` bytes apart.
// 24 cycles per 16 products, 4 for the loop, which takes four groups, or one of a rest.
//   r0 x, r1 and r12 the first and the third row, r2 stride, r3 groups that are left, less 4 in the
//   first loop, r4 ... r7 sums, r8, r9 x of a group, r10, r11, lr weights
__attribute__((naked, noinline)) void multiply_rows(const uint32_t* /*x*/, const int8_t* /*weights*/,
                                                    uint32_t /*stride*/, RowBlock* /*block*/) {
  asm volatile(
      "push {r3-r11, lr}\n"
      "ldmia r3, {r4-r7}\n"
      "ldr r3, [r3, #16]\n"
      "add.w r12, r1, r2, lsl #1\n"
      "subs r3, #4\n"
      "blo 2f\n"
      "1:\n"  //
      REDS_FOUR_ROWS REDS_FOUR_ROWS REDS_FOUR_ROWS REDS_FOUR_ROWS
      "subs r3, #4\n"
      "bhs 1b\n"
      "2:\n"
      "adds r3, #4\n"
      "beq 4f\n"
      "3:\n"  //
      REDS_FOUR_ROWS
      "subs r3, #1\n"
      "bne 3b\n"
      "4:\n"
      "pop {r3}\n"
      "stmia r3, {r4-r7}\n"
      "pop {r4-r11, pc}\n");
}

#undef REDS_FOUR_ROWS
#undef REDS_TWO_ROWS

int32_t multiply_row(const uint32_t* x, const int8_t* weights, uint32_t groups, int32_t sum) {
  for (; groups > 0; --groups, x += 2, weights += 4) {
    const uint32_t word = load_word(weights);
    sum = smlad(sxtb16(word), x[0], sum);
    sum = smlad(sxtb16_odd(word), x[1], sum);
  }
  return sum;
}

// Returns the end of x.
uint32_t* expand_run(const int8_t* input, uint32_t length, int8_t zero_point, uint32_t* x) {
  const uint32_t minus_zero_point = negated_pair(zero_point);
  if (length >= kLongRun) {
    x = reds_dense_expand(input, length / 4, minus_zero_point, x);
    input += length / 4 * 4;
    length %= 4;
  }
  for (; length >= 4; length -= 4, input += 4, x += 2) {
    const uint32_t word = load_word(input);
    x[0] = sxtab16(minus_zero_point, word);
    x[1] = sxtab16_odd(minus_zero_point, word);
  }
  if (length > 0) {
    int16_t values[4] = {};  // in the order sxtab16 gives: 0, 2, 1, 3
    for (uint32_t i = 0; i < length; ++i) {
      values[i == 1 ? 2 : (i == 2 ? 1 : i)] = static_cast<int16_t>(input[i] - zero_point);
    }
    x[0] = load_word(values);
    x[1] = load_word(values + 2);
    x += 2;
  }
  return x;
}

uint32_t groups_of(uint32_t length) { return (length + 3) / 4; }

// Calls `use(offset in the store's row, channels)` for every run.
template <typename Use>
void for_each_run(const Channels& channels, Use use) {
  for (uint32_t repeat = 0; repeat < channels.repeat; ++repeat) {
    for (uint32_t run = 0; run < channels.run_count; ++run) {
      use(repeat * channels.stride + channels.runs[run].offset, channels.runs[run].length);
    }
  }
}

// Four outputs after the other, given the expanded input.
class Rows {
 public:
  Rows(const Dense& op, const LinearLevel& level, const uint32_t* x, int8_t* output)
      : op_(op), level_(level), activate_(level), x_(x), output_(output) {}

  // `count` outputs from the level's output `i` on; their weights follow each other.
  void multiply(uint32_t i, uint32_t store_row, uint32_t count) {
    const int8_t* weights = op_.weights + store_row * op_.store_inputs;
    for (; count >= kRows; count -= kRows, i += kRows, weights += kRows * op_.store_inputs) {
      multiply_four(i, weights);
    }
    for (; count > 0; --count, ++i, weights += op_.store_inputs) multiply_one(i, weights);
  }

 private:
  void multiply_four(uint32_t i, const int8_t* weights) {
    const int32_t* bias = level_.bias + i;
    RowBlock block = {{bias[0], bias[1], bias[2], bias[3]}, 0};
    const uint32_t* x = x_;
    for_each_run(*level_.inputs, [&](uint32_t offset, uint32_t length) {
      block.groups = groups_of(length);
      multiply_rows(x, weights + offset, op_.store_inputs, &block);
      x += 2 * block.groups;
    });
    for (uint32_t row = 0; row < kRows; ++row) store(i + row, block.sums[row]);
  }

  void multiply_one(uint32_t i, const int8_t* weights) {
    int32_t sum = level_.bias[i];
    const uint32_t* x = x_;
    for_each_run(*level_.inputs, [&](uint32_t offset, uint32_t length) {
      sum = multiply_row(x, weights + offset, groups_of(length), sum);
      x += 2 * groups_of(length);
    });
    store(i, sum);
  }

  void store(uint32_t i, int32_t sum) {
    output_[i] = activate_(GeneralRequantization(level_, i)(sum));
  }

  const Dense& op_;
  const LinearLevel& level_;
  const ActivationClamp activate_;
  const uint32_t* const x_;
  int8_t* const output_;
};

// The input, expanded into scratch.
const uint32_t* expand(const LinearLevel& level, const Buffers& buffers) {
  uint32_t* const x = reinterpret_cast<uint32_t*>(buffers.scratch);
  const int8_t* input = buffers.inputs[0];
  uint32_t* expanded = x;
  for_each_run(*level.inputs, [&](uint32_t, uint32_t length) {
    expanded = expand_run(input, length, level.input_zero_point, expanded);
    input += length;
  });
  return x;
}

// What the loops in assembly need, in the order that they know.
struct Job {
  const int8_t* weights;
  const int32_t *bias, *multiplier;
  const int8_t* shift;
  int8_t* output;
  const uint32_t* x;
  uint32_t store_inputs;
  uint32_t rounding_factor;  // 2 * zero_point + 1
  const int8_t* output_end;  // of blocks of four rows that are all new, one or more
  uint32_t runs;
  uint32_t gap;     // bytes in the store from the end of a run's groups to the next run
  uint32_t groups;  // of four products, of a run
  uint32_t back;    // rows that a last block takes for a second time, if any
};

}  // namespace

void dense(const Dense& op, const LinearLevel& level, const Buffers& buffers) {
  Rows rows(op, level, expand(level, buffers), buffers.output);
  uint32_t done = 0;
  for_each_run(*level.outputs, [&](uint32_t offset, uint32_t length) {
    rows.multiply(done, offset, length);
    done += length;
  });
}

void dense_proven(const Dense& op, const LinearLevel& level, const Buffers& buffers) {
  const Channels& inputs = *level.inputs;
  const uint32_t outputs = level.outputs->count, groups = groups_of(inputs.runs[0].length);
  Job job = {op.weights + level.outputs->runs[0].offset * op.store_inputs + inputs.runs[0].offset,
             level.bias,
             level.multiplier,
             level.shift,
             buffers.output,
             expand(level, buffers),
             op.store_inputs,
             static_cast<uint32_t>(2 * level.output_zero_point + 1),
             buffers.output + outputs - outputs % kRows,
             inputs.repeat,
             inputs.stride - 4 * groups,
             groups,
             (kRows - outputs % kRows) % kRows};
  reds_dense_rows(&job);
  ActivationClamp(level).apply(buffers.output, outputs);
}

}  // namespace dsp
}  // namespace reds

#endif  // REDS_DSP_KERNELS
