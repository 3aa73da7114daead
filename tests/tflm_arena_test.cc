// Starts the network in arenas of every size: too small is a status with both numbers, never a
// crash. Prints the smallest arena that is enough, and what the network says it uses.
#include <new>

#include "model.h"
#include "reds/board.h"
#include "reds/record.h"

alignas(16) static int8_t arena[model::arena_bytes];
alignas(model::Network) static uint8_t place[sizeof(model::Network)];

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
  return enough == 0;
}
