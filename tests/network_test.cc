// Checks of reds::Network that need two models, a.h and b.h, of one shape; status 0 is success.
#include "reds/network.h"

#include <stdio.h>
#include <string.h>

#include "a.h"
#include "b.h"

namespace {

int failures = 0;

void check(bool condition, const char* what) {
  if (condition) return;
  printf("failed: %s\n", what);
  ++failures;
}

alignas(16) int8_t arena_a[a::arena_bytes];
alignas(16) int8_t arena_b[b::arena_bytes];

void fill(reds::Network& network) {
  for (size_t i = 0; i < network.input_bytes(); ++i) {
    network.input()[i] = static_cast<int8_t>(i * 37);
  }
}

struct Output {
  int8_t bytes[a::output_bytes];
};

Output infer(reds::Network& network, uint8_t level) {
  network.set_level(level);
  fill(network);
  network.invoke();
  Output output;
  memcpy(output.bytes, network.output(), sizeof(output.bytes));
  return output;
}

bool equal(const Output& x, const Output& y) { return memcmp(&x, &y, sizeof(x)) == 0; }

void check_arena() {
  a::Network small(arena_a, 32);
  check(!small.invoke().ok(), "nothing runs before begin");
  check(small.begin().code == reds::Status::kArenaTooSmall, "a small arena is noticed");
  check(small.status().have == 32 && small.status().need == a::arena_bytes, "with both sizes");
  memset(arena_a, 1, sizeof(arena_a));
  check(!small.invoke().ok(), "invoke refuses");
  check(small.spare(0).data == nullptr, "lends nothing");
  check(arena_a[0] == 1 && arena_a[40] == 1, "and touches nothing");
  a::Network odd(arena_a + 1, sizeof(arena_a) - 1);
  check(odd.begin().code == reds::Status::kArenaMisaligned, "a misaligned arena is noticed");
  check(odd.status().have == 1 && odd.status().need == 16, "with both numbers");
}

// Does to the network, once, what an interrupt might do after a step.
class Interrupt : public reds::Observer {
 public:
  Interrupt(reds::Network& network, uint8_t level, bool lends)
      : network_(network), level_(level), lends_(lends) {}

  void after(uint16_t step, const int8_t*) override {
    if (step != 1) return;
    if (lends_) lent = network_.spare(level_);
    if (!lends_) network_.set_level(level_);
  }

  reds::SpareMemory lent = {nullptr, 0};

 private:
  reds::Network& network_;
  const uint8_t level_;
  const bool lends_;
};

void check_levels() {
  a::Network network(arena_a, sizeof(arena_a));
  check(network.begin().ok(), "the arena fits");
  check(network.level() == a::level_count - 1, "starts at the widest level");
  const Output widest = infer(network, a::level_count - 1), smallest = infer(network, 0);
  check(network.level_used() == 0, "tells the level used");
  check(!equal(widest, smallest), "levels differ");
  check(equal(infer(network, 200), widest), "a level that does not exist is the widest");
  check(network.level() == a::level_count - 1, "and is told so");
  check(equal(infer(network, 0), smallest), "switching back gives the same bytes");

  network.set_level(0);
  fill(network);
  Interrupt interrupt(network, a::level_count - 1, false);
  network.invoke(&interrupt);
  check(memcmp(network.output(), smallest.bytes, sizeof(smallest.bytes)) == 0,
        "a running inference keeps its level");
  check(network.level_used() == 0 && network.level() == a::level_count - 1, "the next one changes");
}

void check_spare_memory() {
  constexpr uint8_t top = a::level_count - 1;
  a::Network network(arena_a, sizeof(arena_a));
  network.begin();
  const Output widest = infer(network, top), smallest = infer(network, 0);
  const reds::SpareMemory spare = network.spare(0);
  check(spare.data >= arena_a + a::level_arena_bytes[0], "lends what level 0 does not need");
  check(spare.data < arena_a + a::level_arena_bytes[0] + 16, "all of it");
  check(spare.data + spare.bytes == arena_a + a::arena_bytes, "to the end");
  memset(spare.data, 0x5A, spare.bytes);
  check(equal(infer(network, top), smallest), "no inference runs above the loan");
  check(network.level_requested() == top && network.level_used() == 0, "and tells so");
  bool untouched = true;
  for (size_t i = 0; i < spare.bytes; ++i) untouched = untouched && spare.data[i] == 0x5A;
  check(untouched, "lent memory stays the application's");
  network.reclaim();
  check(network.level() == top && equal(infer(network, top), widest), "taken back explicitly");

  check(network.spare(top).data == nullptr && network.level() == top, "the widest spares nothing");
  check(network.spare(200).data == nullptr, "nor does a level that does not exist");

  network.set_level(top);
  fill(network);
  Interrupt interrupt(network, 0, true);
  network.invoke(&interrupt);
  check(interrupt.lent.data == nullptr, "memory in use is not lent");
  check(memcmp(network.output(), widest.bytes, sizeof(widest.bytes)) == 0, "the inference ends");
  check(network.level() == 0, "but the cap holds from then on");
  check(network.spare(0).data != nullptr, "and asking again gives it");
  network.reclaim();
}

void check_two_networks() {
  a::Network first(arena_a, sizeof(arena_a));
  b::Network second(arena_b, sizeof(arena_b));
  first.begin();
  second.begin();
  const Output alone_a = infer(first, 1), alone_b = infer(second, 0);

  constexpr size_t bytes = a::arena_bytes > b::arena_bytes ? a::arena_bytes : b::arena_bytes;
  alignas(16) static int8_t shared[bytes];
  a::Network third(shared, sizeof(shared));
  b::Network fourth(shared, sizeof(shared));
  third.begin();
  fourth.begin();
  for (int turn = 0; turn < 2; ++turn) {
    check(equal(infer(third, 1), alone_a), "first of two in one arena");
    check(equal(infer(fourth, 0), alone_b), "second of two in one arena");
  }
}

void check_quantization() {
  a::Network network(arena_a, sizeof(arena_a));
  for (int q = -128; q <= 127; ++q) {
    const float real = a::input_scale * static_cast<float>(q - a::input_zero_point);
    check(network.quantize(real) == q, "quantize inverts");
    check(network.quantize(real + 0.49f * a::input_scale) == q || q == 127, "rounds down");
    check(network.quantize(real - 0.49f * a::input_scale) == q || q == -128, "rounds up");
  }
  check(network.quantize(1e30f) == 127 && network.quantize(-1e30f) == -128, "saturates");
  const float infinity = __builtin_inff();
  check(network.quantize(infinity) == 127 && network.quantize(-infinity) == -128, "infinities");
  check(network.quantize(__builtin_nanf("")) == a::input_zero_point, "not-a-number is zero");
  check(network.dequantize(static_cast<int8_t>(a::output_zero_point)) == 0.0f, "dequantize");
}

}  // namespace

int main() {
  check_arena();
  check_levels();
  check_spare_memory();
  check_two_networks();
  check_quantization();
  return failures == 0 ? 0 : 1;
}
