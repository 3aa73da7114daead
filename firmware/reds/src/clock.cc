#include "clock.h"

#include "reds/board.h"

namespace reds {
namespace {

// Not inlined, so that what is counted is a call as an application makes it.
__attribute__((noinline)) void set_level(Network& network, uint8_t level) {
  network.set_level(level);
}

}  // namespace

uint32_t elapsed(uint32_t start, uint32_t end) {
  const uint32_t before = board::clock();
  const uint32_t overhead = board::time_between(before, board::clock());
  const uint32_t gross = board::time_between(start, end);
  return gross > overhead ? gross - overhead : 0;
}

uint32_t timed_set_level(Network& network, uint8_t level) {
  const uint32_t start = board::clock();
  set_level(network, level);
  return elapsed(start, board::clock());
}

uint32_t timed_invoke(Network& network) {
  const uint32_t start = board::clock();
  network.invoke();
  return elapsed(start, board::clock());
}

void Statistics::add(uint32_t time) {
  ++count_;
  if (time < min_) min_ = time;
  if (time > max_) max_ = time;
  uint32_t place = 0;
  while (place < distinct_ && values_[place] < time) ++place;
  if (place < distinct_ && values_[place] == time) {
    ++counts_[place];
  } else if (distinct_ == kMaxDistinct) {
    ++counts_[place < distinct_ ? place : distinct_ - 1];
  } else {
    for (uint32_t i = distinct_++; i > place; --i) {
      values_[i] = values_[i - 1];
      counts_[i] = counts_[i - 1];
    }
    values_[place] = time;
    counts_[place] = 1;
  }
}

uint32_t Statistics::median() const {
  uint32_t place = 0;
  for (uint32_t seen = 0; place < distinct_; ++place) {
    seen += counts_[place];
    if (2 * seen >= count_) return values_[place];
  }
  return 0;
}

void Statistics::put(Record& record) const {
  record.number("n", count_);
  record.number("min", min_);
  record.number("median", median());
  record.number("max", max_);
}

}  // namespace reds
