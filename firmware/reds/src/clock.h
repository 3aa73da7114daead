// Measuring with the board's clock: executed instructions, cycles or nanoseconds, see reds/board.h.
#ifndef REDS_SRC_CLOCK_H_
#define REDS_SRC_CLOCK_H_

#include <stdint.h>

#include "reds/network.h"
#include "reds/record.h"

namespace reds {

// Between two readings of board::clock(), less what reading it costs.
uint32_t elapsed(uint32_t start, uint32_t end);

// Changes the level; what the change costs, the call included.
uint32_t timed_set_level(Network& network, uint8_t level);

// One inference; what it takes.
uint32_t timed_invoke(Network& network);

// Times, of which up to 64 different ones are kept exactly; a further one counts as its neighbour.
class Statistics {
 public:
  void add(uint32_t time);
  uint32_t count() const { return count_; }
  uint32_t min() const { return min_; }
  uint32_t max() const { return max_; }
  uint32_t median() const;  // the lower one of an even count

  // Adds the fields n, min, median and max.
  void put(Record& record) const;

 private:
  static constexpr uint32_t kMaxDistinct = 64;

  uint32_t count_ = 0;
  uint32_t min_ = UINT32_MAX;
  uint32_t max_ = 0;
  uint32_t distinct_ = 0;
  uint32_t values_[kMaxDistinct];  // rising
  uint32_t counts_[kMaxDistinct];
};

}  // namespace reds

#endif  // REDS_SRC_CLOCK_H_
