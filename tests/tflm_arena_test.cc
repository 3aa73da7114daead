// Starts the network in arenas of every size: too small is a status with both numbers, never a
// crash. Prints the smallest arena that is enough, and what the network says it uses. Then starts
// it with a model and a plan that do not belong together.
#include <new>

#include "model.h"
#include "reds/board.h"
#include "reds/record.h"

alignas(16) static int8_t arena[model::arena_bytes];
alignas(model::Network) static uint8_t place[sizeof(model::Network)];

static reds::Status start(const reds::TflmModel& model) {
  reds::TflmNetwork& network = *new (place) reds::TflmNetwork(model, arena, sizeof(arena));
  return network.begin();
}

// 0, or the number of the first thing that was not noticed.
static int check_refusals() {
  reds::TflmModel model = model::tflm_model;
  if (!start(model).ok()) return 1;

  model.crc32 ^= 1;
  if (start(model).code != reds::Status::kWrongModel) return 2;
  model.crc32 ^= 1;

  const reds::TflmOp twice[] = {model.ops[0], model.ops[0]};
  model.ops = twice;
  model.op_count = 2;
  const reds::Status status = start(model);
  if (status.code != reds::Status::kOpNotRegistered || status.have != 1) return 3;

  model.op_count = 0;  // the interpreter does not find the first op
  if (start(model).code != reds::Status::kInterpreterFailed) return 4;

  return 0;
}

int main() {
  uint16_t lines = 0;
  uint32_t enough = 0, used = 0;
  for (uint32_t bytes = 0; bytes <= sizeof(arena); bytes += 16) {
    model::Network& network = *new (place) model::Network(arena, bytes);
    const reds::Status status = network.begin();
    if (status.ok()) {
      if (enough == 0) {
        enough = bytes;
        used = static_cast<uint32_t>(network.arena_used_bytes());
      }
    } else if (enough != 0 || status.code != reds::Status::kArenaTooSmall ||
               status.have != bytes || status.need != sizeof(arena)) {
      reds::Record(lines, "wrong").number("bytes", bytes).number("code", status.code);
      return 1;
    }
  }
  reds::Record(lines, "arena")
      .number("have", sizeof(arena))
      .number("enough", enough)
      .number("used", used);
  const int refused = check_refusals();
  reds::Record(lines, "refusals").number("missed", static_cast<uint32_t>(refused));
  return enough == 0 || refused != 0;
}
