// An Arduino board with a Cortex-M4: its USB serial line, and the core's cycle counter.
#if defined(ARDUINO)

#include <Arduino.h>

#include "reds/board.h"

namespace reds {
namespace board {
namespace {

constexpr unsigned long kBaud = 115200, kSerialWaitMilliseconds = 3000;

volatile uint32_t* const kDebugControl = reinterpret_cast<volatile uint32_t*>(0xE000EDFC);
volatile uint32_t* const kCycleControl = reinterpret_cast<volatile uint32_t*>(0xE0001000);
volatile uint32_t* const kCycleCount = reinterpret_cast<volatile uint32_t*>(0xE0001004);
constexpr uint32_t kTraceEnable = 1u << 24, kCycleEnable = 1u;

// USB appears some time after reset, and not at all without a computer: wait, but not for ever.
void open_serial() {
  static bool is_open = false;
  if (is_open) return;
  is_open = true;
  Serial.begin(kBaud);
  const unsigned long start = millis();
  while (!Serial && millis() - start < kSerialWaitMilliseconds) {
  }
}

}  // namespace

void write(const char* text) {
  open_serial();
  Serial.print(text);
}

uint32_t clock() {
  *kDebugControl |= kTraceEnable;
  *kCycleControl |= kCycleEnable;
  return *kCycleCount;
}

// The counter counts cycles.
uint32_t instructions_between(uint32_t start, uint32_t end) { return end - start; }

void exit(int) {
  for (;;) delay(1000);
}

}  // namespace board
}  // namespace reds

#endif
