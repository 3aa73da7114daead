// Runs a plan in an arena the caller provides, at a level that may change at any time.
//
//   alignas(16) static int8_t arena[model::arena_bytes];
//   static model::Network network(arena, sizeof(arena));
//   network.begin();        // once; check its status
//   network.set_level(0);
//   fill(network.input());
//   network.invoke();
//   read(network.output());
//
// model::Network is this class where the project runs standalone, and reds::TflmNetwork where
// TensorFlow Lite Micro's interpreter calls the ops.
#ifndef REDS_NETWORK_H_
#define REDS_NETWORK_H_

#include <stddef.h>
#include <stdint.h>

#include "reds/plan.h"

namespace reds {

struct Status {
  enum Code : uint8_t {
    kOk,
    kNotStarted,         // begin() was not called
    kArenaTooSmall,      // have and need are bytes
    kArenaMisaligned,    // have is the address modulo need
    kWrongModel,         // plan and flatbuffer are not of one build; have and need are CRC-32s
    kOpNotRegistered,    // have is the place of the op in the model's list of ops
    kInterpreterFailed,  // TensorFlow Lite Micro has said why
  };
  Code code;
  uint32_t have;
  uint32_t need;

  bool ok() const { return code == kOk; }
};

// Sees every step of an inference: for measuring and comparing. The destructor is not virtual.
class Observer {
 public:
  virtual void before(uint16_t step) { (void)step; }
  virtual void after(uint16_t step, const int8_t* output) {
    (void)step;
    (void)output;
  }
};

// Part of the arena, lent to the application.
struct SpareMemory {
  int8_t* data;  // null: nothing to lend, or a wider inference is still running
  size_t bytes;
};

// No global state: several networks can coexist, also in one arena if they take turns.
class Network {
 public:
  Network(const Plan& plan, int8_t* arena, size_t arena_bytes);

  // Checks the arena, which must be aligned to 16 bytes. Before it nothing else works.
  virtual Status begin();
  Status status() const { return status_; }

  // What calls the ops: "standalone", or "tflm".
  virtual const char* runtime() const { return "standalone"; }

  const Plan& plan() const { return plan_; }
  uint8_t level_count() const { return plan_.level_count; }

  // Chooses the level of the next inference: one store, whatever the size of the network. May be
  // called from any interrupt or thread; a running inference keeps its level. A level that does
  // not exist means the widest one.
  void set_level(uint8_t level) { __atomic_store_n(&requested_, level, __ATOMIC_RELAXED); }

  // What set_level asked for, the level the next invoke() will use, and the one the last (or
  // running) inference used.
  uint8_t level_requested() const;
  uint8_t level() const;
  uint8_t level_used() const { return __atomic_load_n(&used_, __ATOMIC_RELAXED); }

  // int8 input and output; they stay where they are at all levels. The arena holds other tensors
  // too: fill the input before every invoke(), read the output before the next one.
  int8_t* input() { return arena_ + plan_.input_offset; }
  const int8_t* output() const { return arena_ + plan_.output_offset; }
  size_t input_bytes() const { return plan_.input_bytes; }
  size_t output_bytes() const { return plan_.output_bytes; }

  // Nearest int8 for a real input value, and the real value of an int8 output.
  int8_t quantize(float value) const;
  float dequantize(int8_t value) const;

  // Runs one inference, of which `observer`, if any, sees each step. Does nothing unless status()
  // is ok. One caller at a time.
  Status invoke(Observer* observer = nullptr);

  // Lends the arena bytes that only levels above `level` need. Until reclaim() no inference runs
  // above `level`, whatever set_level asks for, so the memory is the application's. While a wider
  // inference is running there is nothing to lend yet: ask again. Lending again, at another
  // level, replaces the loan before.
  SpareMemory spare(uint8_t level);
  void reclaim();

  // Bytes of the arena, and of those in use.
  size_t arena_bytes() const { return arena_bytes_; }
  size_t arena_used_bytes() const { return arena_used_bytes_; }

 protected:
  Status check_arena(size_t need) const;
  Status begun(Status status, size_t arena_used_bytes);

  // Every step, in order; false when that failed.
  virtual bool run();
  void run_step(uint16_t index);

  int8_t* arena() const { return arena_; }

 private:
  static constexpr uint8_t kIdle = 0xFF;  // also: no cap

  uint8_t top_level() const { return static_cast<uint8_t>(plan_.level_count - 1); }
  int8_t* at(uint16_t slot) const {
    return arena_ + plan_.offsets[used_ * plan_.slot_count + slot];
  }

  const Plan& plan_;
  int8_t* const arena_;
  const size_t arena_bytes_;
  size_t arena_used_bytes_ = 0;
  Status status_;
  Observer* observer_ = nullptr;
  uint8_t requested_;
  uint8_t cap_ = kIdle;
  uint8_t running_ = kIdle;  // the running inference's level
  uint8_t used_;
};

}  // namespace reds

#endif  // REDS_NETWORK_H_
