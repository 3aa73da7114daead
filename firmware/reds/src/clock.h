// Measuring with the board's clock: executed instructions or cycles, see reds/board.h.
#ifndef REDS_SRC_CLOCK_H_
#define REDS_SRC_CLOCK_H_

#include <stdint.h>

#include "reds/network.h"

namespace reds {

// Between two readings of board::clock(), less what reading it costs.
uint32_t elapsed(uint32_t start, uint32_t end);

// Changes the level; what the change costs, the call included.
uint32_t timed_set_level(Network& network, uint8_t level);

}  // namespace reds

#endif  // REDS_SRC_CLOCK_H_
