#if defined(REDS_BOARD_HOST) || defined(REDS_BOARD_EMULATOR)

#include "reds/verify.h"

#include <string.h>

#include "../clock.h"
#include "reds/board.h"
#include "reds/network.h"
#include "reds/record.h"
#include "verify_io.h"

namespace reds {
namespace {

int fail(const char* reason) {
  board::write("error=");
  board::write(reason);
  board::write("\n");
  return 2;
}

class Verification {
 public:
  Verification(const VerifiedModel& model, const Request& request)
      : model_(model),
        request_(request),
        network_(model.plan, model.arena, model.arena_bytes) {}

  int run() {
    if (!network_.status().ok()) {
      put("have", network_.status().have);
      put(" need", network_.status().need);
      board::write(" ");
      return fail("arena");
    }
    if (request_.sample_bytes != model_.plan.input_bytes) {
      put("have", request_.sample_bytes);
      put(" need", model_.plan.input_bytes);
      board::write(" ");
      return fail("sample_bytes");
    }
    describe();
    for (uint8_t level = 0; level < model_.plan.level_count; ++level) {
      if (!run_level(level)) return fail("response");
    }
    if (!verify_io::close()) return fail("response");
    board::write("done\n");
    return 0;
  }

 private:
  void describe() const {
    put("reds_verify version", 1);
    put(" levels", model_.plan.level_count);
    put(" samples", request_.samples);
    put(" input_bytes", model_.plan.input_bytes);
    put(" output_bytes", model_.plan.output_bytes);
    put(" arena_bytes", model_.plan.arena_bytes);
    put(" flags", request_.flags);
    board::write("\n");
  }

  bool run_level(uint8_t level) {
    const uint32_t switch_instructions = timed_set_level(network_, level);
    uint32_t instructions = 0, crc = 0;
    const int8_t* sample = reinterpret_cast<const int8_t*>(&request_ + 1);
    for (uint32_t i = 0; i < request_.samples; ++i, sample += request_.sample_bytes) {
      memcpy(network_.input(), sample, request_.sample_bytes);
      if (request_.flags & (Request::kTrace | Request::kProfile)) {
        if (!run_steps(level, i == 0)) return false;
        memcpy(network_.input(), sample, request_.sample_bytes);
      }
      const uint32_t start = board::clock();
      network_.invoke();
      const uint32_t end = board::clock();
      if (i == 0) instructions = elapsed(start, end);
      if (!verify_io::save(network_.output(), model_.plan.output_bytes)) return false;
      crc = crc32(crc, network_.output(), model_.plan.output_bytes);
    }
    put("level", level);
    put(" instructions", instructions);
    put(" switch_instructions", switch_instructions);
    put_hex(" crc32", crc);
    board::write("\n");
    return true;
  }

  // One inference step by step, for its intermediate tensors and times.
  bool run_steps(uint8_t level, bool first_sample) {
    network_.start();
    for (uint16_t step = 0; step < network_.step_count(); ++step) {
      const uint32_t start = board::clock();
      network_.run_step(step);
      const uint32_t end = board::clock();
      if (first_sample && (request_.flags & Request::kProfile)) {
        put("level", level);
        put(" step", step);
        put(" instructions", elapsed(start, end));
        board::write("\n");
      }
      const uint32_t bytes = model_.step_output_bytes[level * network_.step_count() + step];
      if ((request_.flags & Request::kTrace) &&
          !verify_io::save(network_.step_output(step), bytes)) {
        return false;
      }
    }
    return true;
  }

  const VerifiedModel& model_;
  const Request& request_;
  Network network_;
};

}  // namespace

int verify(const VerifiedModel& model, int argc, char** argv) {
  const Request* request = verify_io::open(argc, argv);
  if (request == nullptr) return 2;
  if (request->magic != Request::kMagic) return fail("no_request");
  return Verification(model, *request).run();
}

}  // namespace reds

#endif
