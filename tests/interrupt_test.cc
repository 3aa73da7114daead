// An interrupt changes the level, and lends and takes back memory, at random instants of 12,000
// inferences on the emulated board. Each output must be that of the level the inference says it
// used, to the byte; lent memory must stay as the application wrote it.
#include <string.h>

#include "model.h"
#include "reds/board.h"
#include "reds/record.h"

namespace {

constexpr uint32_t kInferences = 12000;

volatile uint32_t* const kSysTickControl = reinterpret_cast<volatile uint32_t*>(0xE000E010);
volatile uint32_t* const kSysTickReload = reinterpret_cast<volatile uint32_t*>(0xE000E014);
volatile uint32_t* const kSysTickValue = reinterpret_cast<volatile uint32_t*>(0xE000E018);

alignas(16) int8_t arena[model::arena_bytes];
model::Network network(arena, sizeof(arena));

int8_t golden[model::level_count][model::output_bytes];

reds::SpareMemory lent = {nullptr, 0};
volatile bool is_running = false;
volatile uint32_t interrupts = 0, interrupts_inside = 0, loans = 0, refusals = 0, damaged = 0;
volatile uint32_t longest_ticks = 0;

uint32_t random_state = 12345;

uint32_t next_random() {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 17;
  random_state ^= random_state << 5;
  return random_state;
}

void fill(int8_t* input) {
  for (size_t i = 0; i < model::input_bytes; ++i) input[i] = static_cast<int8_t>(i * 73 + 11);
}

void take_back() {
  for (size_t i = 0; i < lent.bytes; ++i) {
    if (lent.data[i] != 0x5A) damaged = damaged + 1;
  }
  lent = {nullptr, 0};
  network.reclaim();
}

}  // namespace

extern "C" void SysTick_Handler() {
  interrupts = interrupts + 1;
  if (is_running) interrupts_inside = interrupts_inside + 1;
  *kSysTickReload = 1 + next_random() % longest_ticks;
  *kSysTickValue = 0;
  const uint32_t chosen = next_random();
  network.set_level(static_cast<uint8_t>(chosen % model::level_count));
  if (lent.data != nullptr) {
    take_back();
  } else if (chosen >> 30 == 0) {
    lent = network.spare(static_cast<uint8_t>((chosen >> 8) % (model::level_count - 1)));
    if (lent.data == nullptr) {
      refusals = refusals + 1;
      network.reclaim();
    } else {
      loans = loans + 1;
      memset(lent.data, 0x5A, lent.bytes);
    }
  }
}

int main() {
  uint16_t lines = 0;
  if (!network.begin().ok()) return 2;
  uint32_t longest = 0;
  for (uint8_t level = 0; level < model::level_count; ++level) {
    network.set_level(level);
    fill(network.input());
    const uint32_t start = reds::board::clock();
    network.invoke();
    longest = reds::board::clock() - start;  // ticks of the timer, as of SysTick
    memcpy(golden[level], network.output(), sizeof(golden[level]));
    for (uint8_t other = 0; other < level; ++other) {
      if (memcmp(golden[level], golden[other], sizeof(golden[level])) == 0) return 3;
    }
  }

  longest_ticks = longest;
  *kSysTickReload = longest;
  *kSysTickValue = 0;
  *kSysTickControl = 7;  // the processor's clock, interrupt, on
  uint32_t seen[model::level_count] = {}, torn = 0, wrong_level = 0;
  for (uint32_t i = 0; i < kInferences; ++i) {
    fill(network.input());
    is_running = true;
    network.invoke();
    is_running = false;
    const uint8_t used = network.level_used();
    uint32_t equal = 0;
    for (uint8_t level = 0; level < model::level_count; ++level) {
      if (memcmp(network.output(), golden[level], sizeof(golden[level])) != 0) continue;
      ++equal;
      ++seen[level];
      if (level != used) ++wrong_level;
    }
    if (equal != 1) ++torn;
  }
  *kSysTickControl = 0;

  for (uint32_t level = 0; level < model::level_count; ++level) {
    reds::Record(lines, "seen").key("level", level).number("n", seen[level]);
  }
  reds::Record(lines, "interrupts").number("n", interrupts).number("inside", interrupts_inside);
  reds::Record(lines, "loans").number("n", loans).number("refused", refusals);
  reds::Record(lines, "wrong")
      .number("torn", torn)
      .number("level", wrong_level)
      .number("damaged", damaged);
  return torn + wrong_level + damaged == 0 ? 0 : 1;
}
