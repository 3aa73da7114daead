// Answers commands that come over the serial line: see docs/serial-protocol.md of redsc.
//
//   static reds::Console console(network, model::description);
//   void loop() {
//     if (console.poll()) return;
//     ...
//   }
#ifndef REDS_CONSOLE_H_
#define REDS_CONSOLE_H_

#include <stddef.h>
#include <stdint.h>

#include "reds/network.h"
#include "reds/plan.h"

namespace reds {

class Console {
 public:
  Console(Network& network, const Description& description)
      : network_(network), description_(description) {}

  // Reads what has come, without waiting; when that completes a line, carries it out. True while
  // the other side uses the network: from its first command that needs it to `release`, or until
  // it hangs up. Nobody else must run it then.
  bool poll();

  // Carries out a command as if it had come over the line.
  void execute(const char* command);

 private:
  static constexpr size_t kMaxLine = 120;
  static constexpr size_t kMaxWords = 4;

  struct Command;
  struct Failure;
  enum class Input : uint8_t { kNone, kPattern, kBytes };

  static const Command kCommands[];
  static const size_t kCommandCount;

  void answer(char* line, const char* damage);
  Failure dispatch(char* line, const char** name);

  Failure info(const char* const* arguments, size_t count);
  Failure level(const char* const* arguments, size_t count);
  Failure pattern(const char* const* arguments, size_t count);
  Failure input(const char* const* arguments, size_t count);
  Failure run(const char* const* arguments, size_t count);
  Failure crc(const char* const* arguments, size_t count);
  Failure trace(const char* const* arguments, size_t count);
  Failure bench(const char* const* arguments, size_t count);
  Failure release(const char* const* arguments, size_t count);
  Failure help(const char* const* arguments, size_t count);

  void bench_level(uint8_t level, uint32_t count);
  void measure_switch(uint8_t level);
  void measure_first(uint8_t level, uint32_t count);
  uint8_t random_level(uint8_t except);

  Failure started() const;
  bool refill();
  uint32_t infer();
  void fill_pattern();
  void put_crc();

  Network& network_;
  const Description& description_;

  char line_[kMaxLine + 1];
  uint16_t line_size_ = 0;
  bool line_is_garbage_ = false;
  uint16_t lines_sent_ = 0;
  bool is_held_ = false;

  Input filled_ = Input::kNone;
  uint32_t pattern_seed_ = 1;
  uint32_t filled_bytes_ = 0;
  uint32_t random_state_ = 1;
  bool has_output_ = false;
  uint32_t input_crc_ = 0;
  uint32_t output_crc_ = 0;
};

}  // namespace reds

#endif  // REDS_CONSOLE_H_
