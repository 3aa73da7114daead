// Runs a plan in an arena the caller provides.
//
//   alignas(16) static int8_t arena[kws::arena_bytes];
//   static reds::Network network(kws::plan, arena, sizeof(arena));
//   network.set_level(0);
//   fill(network.input());
//   network.invoke();
//   read(network.output());
#ifndef REDS_NETWORK_H_
#define REDS_NETWORK_H_

#include <stddef.h>
#include <stdint.h>

#include "reds/plan.h"

namespace reds {

struct Status {
  enum Code : uint8_t {
    kOk,
    kArenaTooSmall,    // have and need are bytes
    kArenaMisaligned,  // have is the address modulo need
  };
  Code code;
  uint32_t have;
  uint32_t need;

  bool ok() const { return code == kOk; }
};

// No global state: several networks can coexist, also in one arena if they take turns.
class Network {
 public:
  // The arena must be aligned to 16 bytes. Check status() before use.
  Network(const Plan& plan, int8_t* arena, size_t arena_bytes);

  Status status() const { return status_; }
  uint8_t level_count() const { return plan_.level_count; }

  // Chooses the level of the next inference: one store, whatever the size of the network. May be
  // called from an interrupt; a running inference keeps its level. A level that does not exist
  // means the widest one.
  void set_level(uint8_t level) { requested_ = level; }

  // The level the next invoke() will use.
  uint8_t level() const {
    const uint8_t requested = requested_;
    return requested < plan_.level_count ? requested : top_level();
  }

  // The level the last (or running) inference used.
  uint8_t level_used() const { return used_; }

  // int8 input and output; they stay where they are at all levels. The arena holds other tensors
  // too: fill the input before every invoke(), read the output before the next one.
  int8_t* input() { return arena_ + plan_.input_offset; }
  const int8_t* output() const { return arena_ + plan_.output_offset; }
  size_t input_bytes() const { return plan_.input_bytes; }
  size_t output_bytes() const { return plan_.output_bytes; }

  // Nearest int8 for a real input value, and the real value of an int8 output.
  int8_t quantize(float value) const;
  float dequantize(int8_t value) const;

  // Runs one inference. Does nothing unless status() is ok.
  Status invoke();

  // The parts of invoke(), to look between them: start() latches the level, then step 0, 1, ...
  void start() { used_ = level(); }
  void run_step(uint16_t index);
  uint16_t step_count() const { return plan_.step_count; }
  const int8_t* step_output(uint16_t index) const { return at(plan_.steps[index].output); }

 private:
  uint8_t top_level() const { return static_cast<uint8_t>(plan_.level_count - 1); }
  int8_t* at(uint16_t slot) const {
    return arena_ + plan_.offsets[used_ * plan_.slot_count + slot];
  }

  const Plan& plan_;
  int8_t* const arena_;
  const Status status_;
  volatile uint8_t requested_;
  uint8_t used_;
};

}  // namespace reds

#endif  // REDS_NETWORK_H_
