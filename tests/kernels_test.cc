// Runs kernels on the cases of kernel_cases.py, which QEMU puts into memory, and compares every
// byte with the portable kernels'. Output and scratch have guards on both sides.
#include <string.h>

#include "reds/board.h"
#include "reds/kernels.h"
#include "reds/record.h"

namespace {

using Run = void (*)(const void*, uint8_t, const reds::Buffers&);

struct Case {
  uint32_t kernel;
  const void* op;
  const int8_t* const* inputs;
  uint32_t output_bytes, scratch_bytes;
};

struct Request {
  uint32_t count;
  Case cases[];
};

const Request& request = *reinterpret_cast<const Request*>(0x21000000);

constexpr uint32_t kGuard = 64, kMost = 1 << 16;
alignas(16) uint8_t expected[kMost], output[kMost], scratch[kMost];

template <typename Op, void (*Kernel)(const Op&, const typename Op::Level&, const reds::Buffers&)>
constexpr Run run = reds::run<Op, Kernel>;

struct Kernel {
  Run kernel, specification;
  uint8_t level;  // at which the specification finds its constants
};

// In the order of kernel_cases.KERNELS.
const Kernel kKernels[] = {
#define REDS_CASE(Op, kernel, specification) \
  {run<reds::Op, reds::dsp::kernel>, run<reds::Op, reds::portable::specification>, 0}
#define REDS_ONE_PRODUCT_CASE(Op, kernel, specification) \
  {run<reds::Op, reds::dsp::kernel>, run<reds::Op, reds::portable::specification>, 1}
    REDS_CASE(Conv2D, conv2d, conv2d),
    REDS_CASE(Conv2D, conv2d_proven, conv2d),
    REDS_ONE_PRODUCT_CASE(Conv2D, conv2d_one_product, conv2d),
    REDS_ONE_PRODUCT_CASE(Conv2D, conv2d_thin_one_product, conv2d),
    REDS_CASE(Conv2D, conv2d_winograd, conv2d),
    REDS_CASE(DepthwiseConv2D, depthwise_conv2d, depthwise_conv2d),
    REDS_CASE(DepthwiseConv2D, depthwise_conv2d_proven, depthwise_conv2d),
    REDS_CASE(DepthwiseConv2D, depthwise_conv2d_3x3, depthwise_conv2d),
    REDS_CASE(DepthwiseConv2D, depthwise_conv2d_3x3_stride2, depthwise_conv2d),
    REDS_ONE_PRODUCT_CASE(DepthwiseConv2D, depthwise_conv2d_3x3_one_product, depthwise_conv2d),
    REDS_ONE_PRODUCT_CASE(DepthwiseConv2D, depthwise_conv2d_3x3_stride2_one_product,
                          depthwise_conv2d),
    REDS_CASE(Dense, dense, dense),
    REDS_CASE(Dense, dense_proven, dense),
    REDS_CASE(Add, add_proven, add),
    REDS_CASE(MaxPool2D, max_pool2d, max_pool2d),
    REDS_CASE(AveragePool2D, average_pool2d, average_pool2d),
};

uint8_t garbage(uint32_t i) { return static_cast<uint8_t>(i * 151 + 43); }

void spoil(uint8_t* buffer, uint32_t bytes) {
  for (uint32_t i = 0; i < bytes + 2 * kGuard; ++i) buffer[i] = garbage(i);
}

bool is_guarded(const uint8_t* buffer, uint32_t bytes) {
  for (uint32_t i = 0; i < kGuard; ++i) {
    if (buffer[i] != garbage(i)) return false;
    const uint32_t behind = kGuard + bytes + i;
    if (buffer[behind] != garbage(behind)) return false;
  }
  return true;
}

int8_t* inside(uint8_t* buffer) { return reinterpret_cast<int8_t*>(buffer + kGuard); }

const char* check(const Case& it) {
  if (it.output_bytes > kMost - 2 * kGuard) return "too_large";
  if (it.scratch_bytes > kMost - 2 * kGuard) return "too_large";
  spoil(expected, it.output_bytes);
  spoil(output, it.output_bytes);
  spoil(scratch, it.scratch_bytes);
  const Kernel& run = kKernels[it.kernel];
  run.specification(it.op, run.level, {it.inputs, inside(expected), nullptr});
  run.kernel(it.op, 0, {it.inputs, inside(output), inside(scratch)});
  if (!is_guarded(scratch, it.scratch_bytes)) return "scratch_guard";
  if (!is_guarded(output, it.output_bytes)) return "output_guard";
  if (memcmp(output, expected, it.output_bytes + 2 * kGuard) != 0) return "bytes";
  return nullptr;
}

}  // namespace

int main() {
  for (uint32_t i = 0; i < request.count; ++i) {
    const char* const wrong = check(request.cases[i]);
    if (wrong != nullptr) {
      uint16_t lines = 0;
      reds::Record(lines, "wrong").number("case", i).text("because", wrong);
      reds::board::exit(1);
    }
  }
  reds::board::exit(0);
}
