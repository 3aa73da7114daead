// A network whose ops are called by TensorFlow Lite Micro's stock interpreter.
//
// The interpreter runs the full-width flatbuffer; each op finds its step of the plan by its output
// tensor and computes it at the level that Network chose. Weights are read from the flatbuffer,
// and tensors lie where the plan puts them: bytes, timing and memory are those of the standalone
// network, plus the interpreter's own records at the arena's end.
//
// Builds against TensorFlow Lite Micro of February 2023 and of today, unpatched.
#ifndef REDS_TFLM_NETWORK_H_
#define REDS_TFLM_NETWORK_H_

#include <stddef.h>
#include <stdint.h>

#include "reds/network.h"
#include "reds/plan.h"

namespace reds {

// A kind of op in the flatbuffer: its code in TFLite's schema, and its name there.
struct TflmOp {
  int32_t builtin_code;
  const char* name;
};

struct TflmModel {
  const Plan& plan;
  const int8_t* flatbuffer;
  uint32_t flatbuffer_bytes;
  uint32_t crc32;  // of the flatbuffer the plan was made for
  const TflmOp* ops;
  uint16_t op_count;
  // The flatbuffer's first tensors are its activations; where each lies in the arena, as a slot.
  uint16_t activation_count;
  const uint16_t* activation_slots;
  const uint16_t* step_tensors;  // (step_count): index of each step's output tensor
  uint32_t arena_bytes;          // enough for every version; see Network::arena_used_bytes
};

class TflmNetwork : public Network {
 public:
  TflmNetwork(const TflmModel& model, int8_t* arena, size_t arena_bytes);

  // Also compares the flatbuffer's CRC-32, registers the ops and allocates the tensors.
  Status begin() override;

  const char* runtime() const override { return "tflm"; }

 protected:
  bool run() override;

 private:
  friend struct TflmOps;  // what the interpreter calls

  const TflmModel& model_;
  void* interpreter_ = nullptr;  // a tflite::MicroInterpreter, in the arena
};

}  // namespace reds

#endif  // REDS_TFLM_NETWORK_H_
