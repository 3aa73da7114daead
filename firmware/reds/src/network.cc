#include "reds/network.h"

namespace reds {
namespace {

constexpr uint32_t kArenaAlignment = 16;

uint8_t load(const uint8_t& variable) { return __atomic_load_n(&variable, __ATOMIC_SEQ_CST); }

void store(uint8_t& variable, uint8_t value) {
  __atomic_store_n(&variable, value, __ATOMIC_SEQ_CST);
}

}  // namespace

Network::Network(const Plan& plan, int8_t* arena, size_t arena_bytes)
    : plan_(plan),
      arena_(arena),
      arena_bytes_(arena_bytes),
      status_{Status::kNotStarted, 0, 0},
      requested_(static_cast<uint8_t>(plan.level_count - 1)),
      used_(static_cast<uint8_t>(plan.level_count - 1)) {}

Status Network::begin() { return begun(check_arena(plan_.arena_bytes), plan_.arena_bytes); }

Status Network::check_arena(size_t need) const {
  const uint32_t misalignment =
      static_cast<uint32_t>(reinterpret_cast<uintptr_t>(arena_) % kArenaAlignment);
  if (misalignment != 0) return {Status::kArenaMisaligned, misalignment, kArenaAlignment};
  const Status::Code code = arena_bytes_ < need ? Status::kArenaTooSmall : Status::kOk;
  return {code, static_cast<uint32_t>(arena_bytes_), static_cast<uint32_t>(need)};
}

Status Network::begun(Status status, size_t arena_used_bytes) {
  arena_used_bytes_ = arena_used_bytes;
  status_ = status;
  return status;
}

uint8_t Network::level_requested() const {
  const uint8_t requested = __atomic_load_n(&requested_, __ATOMIC_RELAXED);
  return requested < plan_.level_count ? requested : top_level();
}

uint8_t Network::level() const {
  const uint8_t requested = level_requested(), cap = load(cap_);
  return requested < cap ? requested : cap;
}

Status Network::invoke(Observer* observer) {
  if (!status_.ok()) return status_;
  observer_ = observer;
  // An interrupt between reading the level and storing it must not take memory that this
  // inference will use: until the level is known it counts as the widest (see spare).
  store(running_, top_level());
  store(used_, level());
  store(running_, used_);
  if (!run()) status_.code = Status::kInterpreterFailed;
  store(running_, kIdle);
  return status_;
}

bool Network::run() {
  for (uint16_t i = 0; i < plan_.step_count; ++i) run_step(i);
  return true;
}

void Network::run_step(uint16_t index) {
  const Step& step = plan_.steps[index];
  const int8_t* inputs[kMaxInputs];
  for (uint16_t i = 0; i < step.input_count; ++i) inputs[i] = at(step.inputs[i]);
  int8_t* const scratch = step.scratch == kNoSlot ? nullptr : at(step.scratch);
  if (observer_ != nullptr) observer_->before(index);
  step.run(step.op, used_, Buffers{inputs, at(step.output), scratch});
  if (observer_ != nullptr) observer_->after(index, at(step.output));
}

SpareMemory Network::spare(uint8_t level) {
  if (!status_.ok() || level >= top_level()) {
    reclaim();
    return {nullptr, 0};
  }
  store(cap_, level);
  const uint8_t running = load(running_);
  if (running != kIdle && running > level) return {nullptr, 0};
  const uint32_t begin =
      (plan_.level_arena_bytes[level] + kArenaAlignment - 1) & ~(kArenaAlignment - 1);
  if (begin >= plan_.arena_bytes) return {nullptr, 0};
  return {arena_ + begin, plan_.arena_bytes - begin};
}

void Network::reclaim() { store(cap_, kIdle); }

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
