#if defined(REDS_BOARD_HOST) || defined(REDS_BOARD_EMULATOR)

#include "reds/verify.h"

#include <string.h>

#include "../clock.h"
#include "reds/board.h"
#include "reds/record.h"
#include "verify_io.h"

namespace reds {
namespace {

int fail(const char* reason, uint32_t have = 0, uint32_t need = 0) {
  uint16_t lines = 0;
  Record(lines, "error").text("reason", reason).number("have", have).number("need", need);
  return 2;
}

class Verification : private Observer {
 public:
  Verification(Network& network, const Description& description, const Request& request)
      : network_(network), description_(description), request_(request) {}

  int run() {
    const Status status = network_.begin();
    if (!status.ok()) return fail("network", status.have, status.need);
    if (request_.sample_bytes != network_.input_bytes()) {
      return fail("sample_bytes", request_.sample_bytes,
                  static_cast<uint32_t>(network_.input_bytes()));
    }
    describe();
    board::clock();  // the first reading starts it, which takes time
    for (uint8_t level = 0; level < network_.level_count(); ++level) {
      if (!run_level(level)) return fail("response");
    }
    if (!verify_io::close()) return fail("response");
    Record(lines_, "done");
    return 0;
  }

 private:
  void describe() {
    Record(lines_, "reds_verify")
        .number("version", 2)
        .text("runtime", network_.runtime())
        .number("levels", network_.level_count())
        .number("samples", request_.samples);
    Record(lines_, "arena")
        .number("have", static_cast<uint32_t>(network_.arena_bytes()))
        .number("used", static_cast<uint32_t>(network_.arena_used_bytes()));
  }

  bool run_level(uint8_t level) {
    const uint32_t switch_instructions = timed_set_level(network_, level);
    const bool is_observed = request_.flags & (Request::kTrace | Request::kProfile);
    uint32_t instructions = 0, crc = 0;
    const int8_t* sample = reinterpret_cast<const int8_t*>(&request_ + 1);
    for (uint32_t i = 0; i < request_.samples; ++i, sample += request_.sample_bytes) {
      if (is_observed) {
        memcpy(network_.input(), sample, request_.sample_bytes);
        is_first_ = i == 0;
        network_.invoke(this);
        if (!is_saved_) return false;
      }
      memcpy(network_.input(), sample, request_.sample_bytes);
      const uint32_t time = timed_invoke(network_);
      if (i == 0) instructions = time;
      const uint32_t bytes = static_cast<uint32_t>(network_.output_bytes());
      if (!verify_io::save(network_.output(), bytes)) return false;
      crc = crc32(crc, network_.output(), bytes);
    }
    Record record(lines_, "level");
    record.key("level", level)
        .number("instructions", instructions)
        .number("switch_instructions", switch_instructions)
        .hex("crc32", crc);
    return true;
  }

  void before(uint16_t) override { start_ = board::clock(); }

  void after(uint16_t step, const int8_t* output) override {
    const uint32_t time = elapsed(start_, board::clock());
    const uint32_t level = network_.level_used();
    if (is_first_ && (request_.flags & Request::kProfile)) {
      Record(lines_, "step").key("level", level).key("step", step).number("instructions", time);
    }
    if (request_.flags & Request::kTrace) {
      const uint32_t steps = network_.plan().step_count;
      const uint32_t bytes = description_.step_output_bytes[level * steps + step];
      is_saved_ = is_saved_ && verify_io::save(output, bytes);
    }
  }

  Network& network_;
  const Description& description_;
  const Request& request_;
  uint16_t lines_ = 0;
  uint32_t start_ = 0;
  bool is_first_ = false;
  bool is_saved_ = true;
};

}  // namespace

int verify(Network& network, const Description& description, int argc, char** argv) {
  const Request* request = verify_io::open(argc, argv);
  if (request == nullptr) return 2;
  if (request->magic != Request::kMagic) return fail("no_request");
  return Verification(network, description, *request).run();
}

}  // namespace reds

#endif
