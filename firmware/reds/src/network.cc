#include "reds/network.h"

namespace reds {
namespace {

constexpr uint32_t kArenaAlignment = 16;

Status check_arena(const Plan& plan, const int8_t* arena, size_t bytes) {
  const uint32_t misalignment =
      static_cast<uint32_t>(reinterpret_cast<uintptr_t>(arena) % kArenaAlignment);
  if (misalignment != 0) return {Status::kArenaMisaligned, misalignment, kArenaAlignment};
  const Status::Code code = bytes < plan.arena_bytes ? Status::kArenaTooSmall : Status::kOk;
  return {code, static_cast<uint32_t>(bytes), plan.arena_bytes};
}

}  // namespace

Network::Network(const Plan& plan, int8_t* arena, size_t arena_bytes)
    : plan_(plan),
      arena_(arena),
      status_(check_arena(plan, arena, arena_bytes)),
      requested_(static_cast<uint8_t>(plan.level_count - 1)),
      used_(static_cast<uint8_t>(plan.level_count - 1)) {}

Status Network::invoke() {
  if (!status_.ok()) return status_;
  start();
  for (uint16_t i = 0; i < plan_.step_count; ++i) run_step(i);
  return status_;
}

void Network::run_step(uint16_t index) {
  const Step& step = plan_.steps[index];
  const int8_t* inputs[kMaxInputs];
  for (uint16_t i = 0; i < step.input_count; ++i) inputs[i] = at(step.inputs[i]);
  int8_t* const scratch = step.scratch == kNoSlot ? nullptr : at(step.scratch);
  step.run(step.op, used_, Buffers{inputs, at(step.output), scratch});
}

int8_t Network::quantize(float value) const {
  const float scaled = value / plan_.input.scale;
  const float zero_point = static_cast<float>(plan_.input.zero_point);
  // before rounding, so that the conversion to an integer cannot overflow; not-a-number is 0
  if (!(scaled > -128.0f - zero_point)) {
    return scaled != scaled ? static_cast<int8_t>(plan_.input.zero_point) : INT8_MIN;
  }
  if (scaled >= 127.0f - zero_point) return INT8_MAX;
  const float rounded = scaled < 0 ? scaled - 0.5f : scaled + 0.5f;
  return static_cast<int8_t>(static_cast<int32_t>(rounded) + plan_.input.zero_point);
}

float Network::dequantize(int8_t value) const {
  return plan_.output.scale * static_cast<float>(value - plan_.output.zero_point);
}

}  // namespace reds
