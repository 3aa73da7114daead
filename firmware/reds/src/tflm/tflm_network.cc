#if defined(REDS_TFLM)

#include "reds/tflm_network.h"

#include <new>
#include <type_traits>
#include <utility>

#include "reds/record.h"
#include "tensorflow/lite/micro/compatibility.h"
#include "tensorflow/lite/micro/memory_planner/micro_memory_planner.h"
#include "tensorflow/lite/micro/micro_allocator.h"
#include "tensorflow/lite/micro/micro_context.h"
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/micro/micro_log.h"
#include "tensorflow/lite/micro/micro_op_resolver.h"
#include "tensorflow/lite/schema/schema_generated.h"

namespace reds {
namespace {

// TfLiteRegistration in 2023, TFLMRegistration today.
using Registration = std::remove_const_t<std::remove_pointer_t<
    decltype(std::declval<const tflite::MicroOpResolver&>().FindOp(tflite::BuiltinOperator_ADD))>>;

constexpr uint16_t kMaxOps = 16;
constexpr size_t kAlignment = 16;

// The plan holds all that an op's options say.
TfLiteStatus ignore_options(const tflite::Operator*, tflite::ErrorReporter*,
                            tflite::BuiltinDataAllocator*, void** data) {
  *data = nullptr;
  return kTfLiteOk;
}

// Not MicroMutableOpResolver: that of 2023 takes no replacement for seven of the ops, and each of
// its Add functions links the stock parser of options that nothing here reads.
class OpResolver : public tflite::MicroOpResolver {
 public:
  TfLiteStatus Add(int32_t builtin_code, const Registration& registration) {
    const auto op = static_cast<tflite::BuiltinOperator>(builtin_code);
    if (count_ == kMaxOps || FindOp(op) != nullptr) return kTfLiteError;
    registrations_[count_] = registration;
    registrations_[count_++].builtin_code = builtin_code;
    return kTfLiteOk;
  }

  using tflite::MicroOpResolver::FindOp;
  const Registration* FindOp(tflite::BuiltinOperator op) const override {
    for (uint16_t i = 0; i < count_; ++i) {
      if (registrations_[i].builtin_code == op) return &registrations_[i];
    }
    return nullptr;
  }
  const Registration* FindOp(const char*) const override { return nullptr; }

  tflite::TfLiteBridgeBuiltinParseFunction GetOpDataParser(
      tflite::BuiltinOperator) const override {
    return ignore_options;
  }

 private:
  Registration registrations_[kMaxOps];
  uint16_t count_ = 0;

  TF_LITE_REMOVE_VIRTUAL_DELETE
};

// Puts every tensor where the plan has it at full width. The interpreter asks for the activations
// in the order of their index, and for nothing else: no op requests scratch memory of it.
class MemoryPlanner : public tflite::MicroMemoryPlanner {
 public:
  explicit MemoryPlanner(const TflmModel& model) : model_(model) {}

  TfLiteStatus AddBuffer(int, int, int) override {
    return count_++ < model_.activation_count ? kTfLiteOk : kTfLiteError;
  }
  size_t GetMaximumMemorySize() override { return model_.plan.arena_bytes; }
  int GetBufferCount() override { return count_; }
  TfLiteStatus GetOffsetForBuffer(int index, int* offset) override {
    const uint32_t top = model_.plan.level_count - 1u;
    const uint32_t slot = model_.activation_slots[index];
    *offset = static_cast<int>(model_.plan.offsets[top * model_.plan.slot_count + slot]);
    return kTfLiteOk;
  }
  bool preserves_all_tensors() const { return false; }  // asked for today, not in 2023

 private:
  const TflmModel& model_;
  int count_ = 0;

  TF_LITE_REMOVE_VIRTUAL_DELETE
};

// The objects begin() makes at the arena's end.
struct Objects {
  OpResolver resolver;
  MemoryPlanner planner;
  alignas(tflite::MicroInterpreter) uint8_t interpreter[sizeof(tflite::MicroInterpreter)];

  explicit Objects(const TflmModel& model) : planner(model) {}
};

}  // namespace

struct TflmOps {
  static TflmNetwork& network_of(TfLiteContext* context) {
    return *static_cast<TflmNetwork*>(tflite::GetMicroContext(context)->external_context());
  }

  // Keeps the op's step of the plan.
  static TfLiteStatus prepare(TfLiteContext* context, TfLiteNode* node) {
    const TflmModel& model = network_of(context).model_;
    const int tensor = node->outputs->data[0];
    for (uint16_t step = 0; step < model.plan.step_count; ++step) {
      if (model.step_tensors[step] != tensor) continue;
      node->user_data = const_cast<Step*>(&model.plan.steps[step]);
      return kTfLiteOk;
    }
    MicroPrintf("The plan has no step for tensor %d", tensor);
    return kTfLiteError;
  }

  static TfLiteStatus invoke(TfLiteContext* context, TfLiteNode* node) {
    TflmNetwork& network = network_of(context);
    const Step* const step = static_cast<const Step*>(node->user_data);
    network.run_step(static_cast<uint16_t>(step - network.model_.plan.steps));
    return kTfLiteOk;
  }

  // A reshaped tensor lies on its input, at every level.
  static TfLiteStatus do_nothing(TfLiteContext*, TfLiteNode*) { return kTfLiteOk; }
};

TflmNetwork::TflmNetwork(const TflmModel& model, int8_t* arena, size_t arena_bytes)
    : Network(model.plan, arena, arena_bytes), model_(model) {}

Status TflmNetwork::begin() {
  if (status().ok()) return status();
  const uint32_t crc = crc32(0, model_.flatbuffer, model_.flatbuffer_bytes);
  if (crc != model_.crc32) return begun({Status::kWrongModel, crc, model_.crc32}, 0);

  // Less than this and the allocator could not even make itself.
  const size_t least = plan().arena_bytes + sizeof(Objects) + kAlignment +
                       tflite::MicroAllocator::GetDefaultTailUsage(true);
  Status checked = check_arena(least);
  checked.need = checked.code == Status::kArenaMisaligned ? checked.need : model_.arena_bytes;
  if (!checked.ok()) return begun(checked, 0);

  const size_t object_offset = (arena_bytes() - sizeof(Objects)) & ~(kAlignment - 1);
  Objects& objects = *new (arena() + object_offset) Objects(model_);
  for (uint16_t i = 0; i < model_.op_count; ++i) {
    const int32_t code = model_.ops[i].builtin_code;
    Registration registration = {};
    const bool computes = code != tflite::BuiltinOperator_RESHAPE;
    registration.prepare = computes ? TflmOps::prepare : TflmOps::do_nothing;
    registration.invoke = computes ? TflmOps::invoke : TflmOps::do_nothing;
    if (objects.resolver.Add(code, registration) != kTfLiteOk) {
      MicroPrintf("Cannot register %s", model_.ops[i].name);
      return begun({Status::kOpNotRegistered, i, kMaxOps}, 0);
    }
  }

  tflite::MicroAllocator* const allocator = tflite::MicroAllocator::Create(
      reinterpret_cast<uint8_t*>(arena()), object_offset, &objects.planner);
  auto* const interpreter = new (objects.interpreter) tflite::MicroInterpreter(
      tflite::GetModel(model_.flatbuffer), objects.resolver, allocator);
  if (interpreter->SetMicroExternalContext(this) != kTfLiteOk ||
      interpreter->AllocateTensors() != kTfLiteOk) {
    // The usual reason; there is no other way to tell what the interpreter would have needed.
    const bool small = arena_bytes() < model_.arena_bytes;
    const Status::Code code = small ? Status::kArenaTooSmall : Status::kInterpreterFailed;
    return begun({code, static_cast<uint32_t>(arena_bytes()), model_.arena_bytes}, 0);
  }
  if (interpreter->input(0)->data.int8 != input() ||
      interpreter->output(0)->data.int8 != output()) {
    return begun({Status::kInterpreterFailed, 0, 0}, 0);
  }
  interpreter_ = interpreter;
  checked.code = Status::kOk;
  return begun(checked, interpreter->arena_used_bytes() + arena_bytes() - object_offset);
}

bool TflmNetwork::run() {
  return static_cast<tflite::MicroInterpreter*>(interpreter_)->Invoke() == kTfLiteOk;
}

}  // namespace reds

#endif
