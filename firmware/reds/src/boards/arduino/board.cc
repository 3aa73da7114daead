// An Arduino board with a Cortex-M4: its USB serial line, and the core's cycle counter.
#if defined(ARDUINO)

#include <Arduino.h>
#include <USB/PluggableUSBSerial.h>
#include <string.h>

#include "reds/board.h"

namespace reds {
namespace board {
namespace {

constexpr unsigned long kOpenWaitMilliseconds = 3000, kWriteWaitMilliseconds = 1000;

volatile uint32_t* const kDebugControl = reinterpret_cast<volatile uint32_t*>(0xE000EDFC);
volatile uint32_t* const kCycleControl = reinterpret_cast<volatile uint32_t*>(0xE0001000);
volatile uint32_t* const kCycleCount = reinterpret_cast<volatile uint32_t*>(0xE0001004);
constexpr uint32_t kTraceEnable = 1u << 24, kCycleEnable = 1u;

// The core's Serial is a wrapper of this, without a way to send that does not wait for ever.
arduino::USBSerial& usb = _SerialUSB;

// The core has opened it before setup(). A computer listens some time after reset, or there is
// none: wait, but not for ever, and once.
void wait_for_computer() {
  static bool has_waited = false;
  if (has_waited) return;
  has_waited = true;
  const unsigned long start = millis();
  while (!usb && millis() - start < kOpenWaitMilliseconds) {
  }
}

}  // namespace

const char* name() { return "nano33ble"; }

// A computer may hold the line open and not read.
void write(const char* text) {
  wait_for_computer();
  uint8_t* bytes = reinterpret_cast<uint8_t*>(const_cast<char*>(text));
  uint32_t left = static_cast<uint32_t>(strlen(text));
  const unsigned long start = millis();
  while (left > 0 && usb.connected() && millis() - start < kWriteWaitMilliseconds) {
    uint32_t sent = 0;
    usb.send_nb(bytes, left, &sent, true);
    bytes += sent;
    left -= sent;
  }
}

int read() {
  wait_for_computer();
  return usb.available() > 0 ? usb.read() : -1;
}

bool connected() { return usb.connected(); }

uint32_t clock() {
  *kDebugControl |= kTraceEnable;
  *kCycleControl |= kCycleEnable;
  return *kCycleCount;
}

uint32_t time_between(uint32_t start, uint32_t end) { return end - start; }

const char* clock_unit() { return "cycles"; }

uint32_t clock_hz() { return F_CPU; }

bool serves(int, char**) { return true; }

void exit(int) {
  for (;;) delay(1000);
}

}  // namespace board
}  // namespace reds

#endif
