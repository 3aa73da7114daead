// Runs kernels on the cases of kernel_cases.py, which QEMU puts into memory, and compares every
// byte with the portable kernels'. Output and scratch have guards on both sides. What kernels read
// they must not write, and to one side of it not read either: the memory protection unit (ARMv7-M
// Architecture Reference Manual, B3.5) makes a fault of it.
#include <string.h>

#include "reds/board.h"
#include "reds/kernels.h"
#include "reds/record.h"

namespace {

using Run = void (*)(const void*, uint8_t, const reds::Buffers&);

constexpr uint32_t kFences = 7;

struct Case {
  uint32_t kernel;
  const void* op;
  const int8_t* const* inputs;
  uint32_t output_bytes, scratch_bytes;
  uint32_t fences[kFences];  // 0: none
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
    REDS_ONE_PRODUCT_CASE(Conv2D, conv2d_winograd_one_product, conv2d),
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

// --- what must not be touched --------------------------------------------------------------------

constexpr uint32_t kVectors = 0xE000ED08, kFaultStatus = 0xE000ED28, kFaultAddress = 0xE000ED34;
constexpr uint32_t kControl = 0xE000ED94, kBase = 0xE000ED9C, kSizeAndAccess = 0xE000EDA0;
constexpr uint32_t kNoAccess = 0, kReadOnly = 5;

uint32_t running = 0;  // number of the case

volatile uint32_t& device(uint32_t address) {
  return *reinterpret_cast<volatile uint32_t*>(static_cast<uintptr_t>(address));
}

uint32_t address_of(const void* pointer) {
  return static_cast<uint32_t>(reinterpret_cast<uintptr_t>(pointer));
}

void on_fault() {
  uint16_t lines = 0;
  reds::Record(lines, "wrong")
      .number("case", running)
      .text("because", "fault")
      .hex("status", device(kFaultStatus))
      .hex("at", device(kFaultAddress));
  reds::board::exit(1);
}

void catch_faults() {
  alignas(128) static const void* vectors[16];
  for (uint32_t i = 0; i < 16; ++i) {
    vectors[i] = *reinterpret_cast<const void**>(device(kVectors) + 4 * i);
  }
  vectors[3] = reinterpret_cast<const void*>(on_fault);  // HardFault, which all others become
  device(kVectors) = address_of(vectors);
}

// A region of 2^bits bytes, never executed. Of regions that overlap the last one counts.
void protect(uint32_t region, uint32_t address, uint32_t bits, uint32_t access) {
  device(kBase) = address | 1 << 4 | region;
  device(kSizeAndAccess) = address == 0 ? 0 : 1 << 28 | access << 24 | (bits - 1) << 1 | 1;
}

// What a case reads must not be written, nor its fences be read.
void protect(const Case& it) {
  device(kControl) = 0;
  protect(0, address_of(&request), 24, kReadOnly);
  for (uint32_t i = 0; i < kFences; ++i) protect(1 + i, it.fences[i], 10, kNoAccess);
  device(kControl) = 1 << 2 | 1;  // everything else as without regions
  asm volatile("dsb\n\tisb" ::: "memory");
}

// --- what is written -----------------------------------------------------------------------------

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
  catch_faults();
  for (running = 0; running < request.count; ++running) {
    protect(request.cases[running]);
    const char* const wrong = check(request.cases[running]);
    if (wrong != nullptr) {
      uint16_t lines = 0;
      reds::Record(lines, "wrong").number("case", running).text("because", wrong);
      reds::board::exit(1);
    }
  }
  reds::board::exit(0);
}
