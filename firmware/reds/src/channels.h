// Walks the channels a level keeps of a full-width axis.
#ifndef REDS_SRC_CHANNELS_H_
#define REDS_SRC_CHANNELS_H_

#include "reds/plan.h"

namespace reds {

// next() returns the kept channels' positions in the store, one after the other. left(): how many
// of the following ones lie side by side, behind the one before; skip() leaves some of them out.
class ChannelCursor {
 public:
  explicit ChannelCursor(const Channels& channels)
      : channels_(channels), run_(0), base_(0), step_(0) {}

  uint32_t next() {
    const uint32_t channel = base_ + channels_.runs[run_].offset + step_;
    skip(1);
    return channel;
  }

  uint32_t left() const { return step_ > 0 ? channels_.runs[run_].length - step_ : 0; }

  void skip(uint32_t count) {
    step_ += count;
    if (step_ == channels_.runs[run_].length) {
      step_ = 0;
      if (++run_ == channels_.run_count) {
        run_ = 0;
        base_ += channels_.stride;
      }
    }
  }

 private:
  const Channels& channels_;
  uint32_t run_;
  uint32_t base_;
  uint32_t step_;
};

}  // namespace reds

#endif  // REDS_SRC_CHANNELS_H_
