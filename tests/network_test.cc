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
  reds::Network small(a::plan, arena_a, 32);
  check(small.status().code == reds::Status::kArenaTooSmall, "a small arena is noticed");
  check(small.status().have == 32 && small.status().need == a::arena_bytes, "with both sizes");
  memset(arena_a, 1, sizeof(arena_a));
  check(!small.invoke().ok(), "invoke refuses");
  check(arena_a[0] == 1 && arena_a[40] == 1, "and touches nothing");
  reds::Network odd(a::plan, arena_a + 1, sizeof(arena_a) - 1);
  check(odd.status().code == reds::Status::kArenaMisaligned, "a misaligned arena is noticed");
  check(odd.status().have == 1 && odd.status().need == 16, "with both numbers");
}

void check_levels() {
  reds::Network network(a::plan, arena_a, sizeof(arena_a));
  check(network.status().ok(), "the arena fits");
  check(network.level() == a::level_count - 1, "starts at the widest level");
  const Output widest = infer(network, a::level_count - 1), smallest = infer(network, 0);
  check(network.level_used() == 0, "tells the level used");
  check(!equal(widest, smallest), "levels differ");
  check(equal(infer(network, 200), widest), "a level that does not exist is the widest");
  check(network.level() == a::level_count - 1, "and is told so");
  check(equal(infer(network, 0), smallest), "switching back gives the same bytes");

  network.set_level(0);
  fill(network);
  network.start();
  network.set_level(a::level_count - 1);  // as an interrupt might
  for (uint16_t i = 0; i < network.step_count(); ++i) network.run_step(i);
  check(memcmp(network.output(), smallest.bytes, sizeof(smallest.bytes)) == 0,
        "a running inference keeps its level");
  check(network.level_used() == 0 && network.level() == a::level_count - 1, "the next one changes");
}

void check_two_networks() {
  reds::Network first(a::plan, arena_a, sizeof(arena_a));
  reds::Network second(b::plan, arena_b, sizeof(arena_b));
  const Output alone_a = infer(first, 1), alone_b = infer(second, 0);
  first.set_level(1);
  second.set_level(0);
  fill(first);
  fill(second);
  first.start();
  second.start();
  for (uint16_t i = 0; i < first.step_count(); ++i) {  // same graph, so as many steps
    first.run_step(i);
    second.run_step(i);
  }
  check(memcmp(first.output(), alone_a.bytes, sizeof(alone_a.bytes)) == 0, "first of two");
  check(memcmp(second.output(), alone_b.bytes, sizeof(alone_b.bytes)) == 0, "second of two");
}

void check_quantization() {
  reds::Network network(a::plan, arena_a, sizeof(arena_a));
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
  check_two_networks();
  check_quantization();
  return failures == 0 ? 0 : 1;
}
