#include "reds/console.h"

#include <string.h>

#include "clock.h"
#include "reds/board.h"
#include "reds/record.h"

namespace reds {

// Why a command was refused; no reason means it was carried out.
struct Console::Failure {
  const char* reason = nullptr;
  uint32_t have = 0;
  uint32_t limit = 0;

  Failure() {}
  explicit Failure(const char* why) : reason(why) {}
  Failure(const char* why, uint32_t has, uint32_t may) : reason(why), have(has), limit(may) {}
};

struct Console::Command {
  const char* name;
  size_t min_arguments, max_arguments;
  Failure (Console::*run)(const char* const* arguments, size_t count);
};

const Console::Command Console::kCommands[] = {
    {"info", 0, 0, &Console::info},   {"level", 1, 1, &Console::level},
    {"pattern", 0, 1, &Console::pattern}, {"input", 3, 3, &Console::input},
    {"run", 0, 1, &Console::run},     {"crc", 0, 0, &Console::crc},
    {"trace", 0, 0, &Console::trace}, {"bench", 0, 1, &Console::bench},
    {"release", 0, 0, &Console::release}, {"help", 0, 0, &Console::help},
};
const size_t Console::kCommandCount = sizeof(kCommands) / sizeof(kCommands[0]);

namespace {

constexpr uint32_t kSwitches = 1000, kMaxInferences = 32, kFirstInferences = 4;
constexpr size_t kMaxChunk = 32;

bool parse_number(const char* text, uint32_t* number) {
  uint64_t value = 0;
  for (const char* c = text; *c != '\0'; ++c) {
    if (*c < '0' || *c > '9') return false;
    value = value * 10 + static_cast<uint32_t>(*c - '0');
    if (value > UINT32_MAX) return false;
  }
  *number = static_cast<uint32_t>(value);
  return *text != '\0';
}

// -1 where there is no hexadecimal digit
int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// Bytes of hexadecimal text, or -1; at most `limit` are written.
int parse_hex(const char* text, int8_t* bytes, size_t limit) {
  size_t count = 0;
  for (; *text != '\0'; text += 2, ++count) {
    const int high = hex_digit(text[0]);
    const int low = high < 0 ? -1 : hex_digit(text[1]);
    if (low < 0) return -1;
    if (count < limit) bytes[count] = static_cast<int8_t>(high << 4 | low);
  }
  return static_cast<int>(count);
}

// Splits at spaces, in place; the number of words, which may be more than fit in `words`.
size_t split(char* line, const char** words, size_t limit) {
  size_t count = 0;
  for (char* c = line; *c != '\0';) {
    while (*c == ' ') *c++ = '\0';
    if (*c == '\0') break;
    if (count < limit) words[count] = c;
    ++count;
    while (*c != '\0' && *c != ' ') ++c;
  }
  return count;
}

// Reports every step: its time, and the CRC-32 of its output where sizes are known.
class StepReport : public Observer {
 public:
  StepReport(uint16_t& lines, const Network& network, const uint32_t* step_output_bytes)
      : lines_(lines), network_(network), step_output_bytes_(step_output_bytes) {}

  void before(uint16_t) override { start_ = board::clock(); }

  void after(uint16_t step, const int8_t* output) override {
    const uint32_t time = elapsed(start_, board::clock());
    Record record(lines_, "step");
    record.key("level", network_.level_used()).key("step", step).number("time", time);
    if (step_output_bytes_ != nullptr) {
      const uint32_t row = network_.level_used() * network_.plan().step_count;
      record.hex("crc", crc32(0, output, step_output_bytes_[row + step]));
    }
  }

 private:
  uint16_t& lines_;
  const Network& network_;
  const uint32_t* const step_output_bytes_;
  uint32_t start_ = 0;
};

}  // namespace

bool Console::poll() {
  for (int byte = board::read(); byte >= 0; byte = board::read()) {
    if (byte == '\r') continue;
    if (byte == '\n') {
      const bool is_too_long = line_size_ > kMaxLine;
      line_[is_too_long ? kMaxLine : line_size_] = '\0';
      answer(line_, line_is_garbage_ ? "garbage" : (is_too_long ? "line_too_long" : nullptr));
      line_size_ = 0;
      line_is_garbage_ = false;
      break;
    }
    if (byte < ' ' || byte > '~') line_is_garbage_ = true;
    if (line_size_ < kMaxLine) line_[line_size_] = static_cast<char>(byte);
    if (line_size_ <= kMaxLine) ++line_size_;  // one more than fit: the line is too long
  }
  is_held_ = is_held_ && board::connected();
  return is_held_;
}

void Console::execute(const char* command) {
  char line[kMaxLine + 1];
  strncpy(line, command, kMaxLine);
  line[kMaxLine] = '\0';
  const bool was_held = is_held_;
  answer(line, nullptr);
  is_held_ = was_held;
}

// `damage`: why the line is not to be read, or null.
void Console::answer(char* line, const char* damage) {
  lines_sent_ = 0;
  const char* name = nullptr;
  const Failure failure = damage != nullptr ? Failure(damage) : dispatch(line, &name);
  if (failure.reason != nullptr) {
    Record record(lines_sent_, "error");
    record.text("reason", failure.reason);
    if (failure.have != failure.limit) {
      record.number("have", failure.have).number("limit", failure.limit);
    }
  } else if (name != nullptr) {
    const uint16_t lines = lines_sent_;
    Record(lines_sent_, "ok").text("command", name).number("lines", lines);
  }
}

Console::Failure Console::dispatch(char* line, const char** name) {
  const char* words[kMaxWords];
  const size_t count = split(line, words, kMaxWords);
  if (count == 0) return Failure();
  for (size_t i = 0; i < kCommandCount; ++i) {
    const Command& command = kCommands[i];
    if (strcmp(words[0], command.name) != 0) continue;
    if (count - 1 < command.min_arguments || count - 1 > command.max_arguments) {
      return Failure("arguments");
    }
    *name = command.name;
    const bool needs_network = command.run != &Console::info && command.run != &Console::help &&
                               command.run != &Console::release;
    const Failure failure = needs_network ? started() : Failure();
    if (failure.reason != nullptr) return failure;
    if (needs_network && !is_held_) {
      is_held_ = true;
      filled_ = Input::kNone;  // the application has used the arena since
    }
    return (this->*command.run)(words + 1, count - 1);
  }
  return Failure("command");
}

Console::Failure Console::started() const {
  const Status status = network_.status();
  switch (status.code) {
    case Status::kOk:
      return Failure();
    case Status::kArenaTooSmall:
      return Failure("arena", status.have, status.need);
    case Status::kArenaMisaligned:
      return Failure("alignment", status.have, 0);
    case Status::kWrongModel:
      return Failure("model");
    case Status::kOpNotRegistered:
      return Failure("ops", status.have, status.need);
    case Status::kNotStarted:
    case Status::kInterpreterFailed:
      break;
  }
  return Failure("interpreter");
}

Console::Failure Console::info(const char* const*, size_t) {
  Record(lines_sent_, "reds")
      .number("version", 1)
      .text("board", board::name())
      .text("runtime", network_.runtime());
  Record(lines_sent_, "model")
      .hex("crc", description_.crc32)
      .number("levels", network_.level_count())
      .number("steps", network_.plan().step_count);
  Record(lines_sent_, "tensors")
      .number("input", static_cast<uint32_t>(network_.input_bytes()))
      .number("output", static_cast<uint32_t>(network_.output_bytes()));
  Record(lines_sent_, "arena")
      .number("have", static_cast<uint32_t>(network_.arena_bytes()))
      .number("used", static_cast<uint32_t>(network_.arena_used_bytes()));
  Record(lines_sent_, "clock")
      .text("unit", board::clock_unit())
      .number("hz", board::clock_hz());
  return started();
}

Console::Failure Console::help(const char* const*, size_t) {
  for (size_t i = 0; i < kCommandCount; ++i) {
    Record(lines_sent_, "command").text("name", kCommands[i].name);
  }
  return Failure();
}

Console::Failure Console::release(const char* const*, size_t) {
  is_held_ = false;
  return Failure();
}

Console::Failure Console::level(const char* const* arguments, size_t) {
  const uint32_t limit = network_.level_count() - 1u;
  uint32_t level = 0;
  if (!parse_number(arguments[0], &level)) return Failure("arguments");
  if (level > limit) return Failure("level", level, limit);
  network_.set_level(static_cast<uint8_t>(level));
  Record(lines_sent_, "level")
      .number("requested", network_.level_requested())
      .number("next", network_.level())
      .number("used", network_.level_used());
  return Failure();
}

void Console::fill_pattern() {
  uint32_t state = pattern_seed_;
  int8_t* const input = network_.input();
  for (size_t i = 0; i < network_.input_bytes(); ++i) {
    state = state * 1664525u + 1013904223u;  // Numerical Recipes' ranqd1
    input[i] = static_cast<int8_t>(static_cast<int32_t>(state >> 24) - 128);
  }
}

Console::Failure Console::pattern(const char* const* arguments, size_t count) {
  uint32_t seed = 1;
  if (count > 0 && !parse_number(arguments[0], &seed)) return Failure("arguments");
  pattern_seed_ = seed;
  filled_ = Input::kPattern;
  fill_pattern();
  Record(lines_sent_, "input")
      .number("bytes", static_cast<uint32_t>(network_.input_bytes()))
      .hex("crc", crc32(0, network_.input(), network_.input_bytes()));
  return Failure();
}

Console::Failure Console::input(const char* const* arguments, size_t) {
  uint32_t offset = 0;
  int8_t bytes[kMaxChunk], sum[4];
  if (!parse_number(arguments[0], &offset)) return Failure("arguments");
  const int size = parse_hex(arguments[1], bytes, kMaxChunk);
  if (size < 0 || parse_hex(arguments[2], sum, sizeof(sum)) != sizeof(sum)) {
    return Failure("arguments");
  }
  const uint32_t length = static_cast<uint32_t>(size);
  if (length > kMaxChunk) return Failure("length", length, kMaxChunk);
  uint32_t want = 0;
  for (size_t i = 0; i < sizeof(sum); ++i) want = want << 8 | static_cast<uint8_t>(sum[i]);
  if (crc32(0, bytes, length) != want) return Failure("crc");
  if (filled_ != Input::kBytes || offset == 0) filled_bytes_ = 0;
  // in order, so that none is missed; sending one again does no harm
  if (offset > filled_bytes_) return Failure("offset", offset, filled_bytes_);
  const uint32_t input_bytes = static_cast<uint32_t>(network_.input_bytes());
  if (length > input_bytes - offset) return Failure("length", length, input_bytes - offset);
  filled_ = Input::kBytes;
  memcpy(network_.input() + offset, bytes, length);
  if (offset + length > filled_bytes_) filled_bytes_ = offset + length;
  Record(lines_sent_, "input").number("offset", offset).number("bytes", length);
  return Failure();
}

// Makes the input ready for an inference; false when there is none.
bool Console::refill() {
  if (filled_ == Input::kNone) return false;
  if (filled_ == Input::kPattern) fill_pattern();
  if (filled_ == Input::kBytes && filled_bytes_ != network_.input_bytes()) return false;
  input_crc_ = crc32(0, network_.input(), network_.input_bytes());
  return true;
}

// One inference of the filled input; what it takes.
uint32_t Console::infer() {
  const uint32_t time = timed_invoke(network_);
  if (filled_ == Input::kBytes) filled_ = Input::kNone;
  output_crc_ = crc32(0, network_.output(), network_.output_bytes());
  has_output_ = true;
  return time;
}

void Console::put_crc() {
  Record record(lines_sent_, "crc");
  record.key("level", network_.level_used()).hex("input", input_crc_).hex("output", output_crc_);
}

Console::Failure Console::run(const char* const* arguments, size_t count) {
  uint32_t inferences = 1;
  if (count > 0 && !parse_number(arguments[0], &inferences)) return Failure("arguments");
  if (inferences == 0) return Failure("count", inferences, 1);
  if (filled_ == Input::kBytes && inferences > 1) return Failure("count", inferences, 1);
  Statistics times;
  for (uint32_t i = 0; i < inferences; ++i) {
    if (!refill()) return Failure("no_input");
    times.add(infer());
  }
  {
    Record record(lines_sent_, "time");
    record.key("level", network_.level_used());
    times.put(record);
  }
  put_crc();
  return Failure();
}

Console::Failure Console::crc(const char* const*, size_t) {
  if (!has_output_) return Failure("no_output");
  put_crc();
  return Failure();
}

Console::Failure Console::trace(const char* const*, size_t) {
  if (!refill()) return Failure("no_input");
  StepReport report(lines_sent_, network_, description_.step_output_bytes);
  network_.invoke(&report);
  if (filled_ == Input::kBytes) filled_ = Input::kNone;
  output_crc_ = crc32(0, network_.output(), network_.output_bytes());
  has_output_ = true;
  put_crc();
  return Failure();
}

Console::Failure Console::bench(const char* const* arguments, size_t count) {
  uint32_t inferences = 0;
  if (count > 0 && !parse_number(arguments[0], &inferences)) return Failure("arguments");
  if (count > 0 && (inferences == 0 || inferences > kMaxInferences)) {
    return Failure("count", inferences, kMaxInferences);
  }
  const uint8_t requested = network_.level_requested();
  pattern_seed_ = 1;
  filled_ = Input::kPattern;
  Record(lines_sent_, "bench").number("levels", network_.level_count());
  for (uint8_t level = 0; level < network_.level_count(); ++level) bench_level(level, inferences);
  network_.set_level(requested);
  return Failure();
}

void Console::bench_level(uint8_t level, uint32_t count) {
  measure_switch(level);
  network_.set_level(level);
  refill();
  const uint32_t warm_up = infer();
  if (count == 0) {
    const uint32_t fit = warm_up == 0 ? 0 : board::clock_hz() / warm_up;  // in a second
    count = fit < 3 ? 3 : (fit > 20 ? 20 : fit);
  }
  measure_first(level, count < kFirstInferences ? count : kFirstInferences);
  Statistics times;
  for (uint32_t i = 0; i < count; ++i) {
    refill();
    times.add(infer());
  }
  {
    Record record(lines_sent_, "time");
    record.key("level", level);
    times.put(record);
  }
  refill();
  StepReport report(lines_sent_, network_, nullptr);
  network_.invoke(&report);
  Record(lines_sent_, "arena").key("level", level).number(
      "bytes", network_.plan().level_arena_bytes[level]);
  put_crc();
}

void Console::measure_switch(uint8_t level) {
  Statistics times;
  for (uint32_t i = 0; i < kSwitches; ++i) {
    network_.set_level(random_level(level));
    times.add(timed_set_level(network_, level));
  }
  Record record(lines_sent_, "switch");
  record.key("level", level);
  times.put(record);
}

void Console::measure_first(uint8_t level, uint32_t count) {
  Statistics times;
  for (uint32_t i = 0; i < count; ++i) {
    network_.set_level(random_level(level));
    refill();
    infer();
    network_.set_level(level);
    refill();
    times.add(infer());
  }
  Record record(lines_sent_, "first");
  record.key("level", level);
  times.put(record);
}

// Any level but one, where there are several (xorshift32).
uint8_t Console::random_level(uint8_t except) {
  random_state_ ^= random_state_ << 13;
  random_state_ ^= random_state_ >> 17;
  random_state_ ^= random_state_ << 5;
  const uint32_t others = network_.level_count() - 1u;
  if (others == 0) return except;
  const uint32_t chosen = random_state_ % others;
  return static_cast<uint8_t>(chosen < except ? chosen : chosen + 1);
}

}  // namespace reds
