// QEMU's mps2-an386: an Arm MPS2 board with a Cortex-M4F (Arm application note AN386).
#if defined(REDS_BOARD_EMULATOR)

#include "reds/board.h"

#include <string.h>

#include "semihosting.h"

namespace reds {
namespace board {
namespace {

volatile uint32_t* const kUart0 = reinterpret_cast<volatile uint32_t*>(0x40004000);
constexpr uint32_t kUartData = 0, kUartState = 1, kUartControl = 2, kUartBaudDivider = 4;
constexpr uint32_t kTransmitFull = 1, kReceiveFull = 2, kEnable = 3;

volatile uint32_t* const kTimer0 = reinterpret_cast<volatile uint32_t*>(0x40000000);
constexpr uint32_t kTimerControl = 0, kTimerValue = 1, kTimerReload = 2;

// The timer ticks at 25 MHz, every 40 ns; with -icount shift=7 an instruction takes 128 ns.
constexpr uint32_t kTickNanoseconds = 40, kInstructionNanoseconds = 128;

void open_uart() {
  kUart0[kUartBaudDivider] = 16;
  kUart0[kUartControl] = kEnable;
}

}  // namespace

const char* name() { return "emulator"; }

void write(const char* text) {
  open_uart();
  for (; *text != '\0'; ++text) {
    while (kUart0[kUartState] & kTransmitFull) {
    }
    kUart0[kUartData] = static_cast<uint8_t>(*text);
  }
}

int read() {
  open_uart();
  return kUart0[kUartState] & kReceiveFull ? static_cast<int>(kUart0[kUartData] & 0xFF) : -1;
}

bool connected() { return true; }

uint32_t clock() {
  if (kTimer0[kTimerControl] == 0) {
    kTimer0[kTimerReload] = UINT32_MAX;
    kTimer0[kTimerValue] = UINT32_MAX;
    kTimer0[kTimerControl] = 1;
  }
  return ~kTimer0[kTimerValue];  // it counts down
}

uint32_t time_between(uint32_t start, uint32_t end) {
  const uint64_t nanoseconds = static_cast<uint64_t>(end - start) * kTickNanoseconds;
  return static_cast<uint32_t>((nanoseconds + kInstructionNanoseconds / 2) /
                               kInstructionNanoseconds);
}

const char* clock_unit() { return "instructions"; }

uint32_t clock_hz() { return 0; }

// QEMU's -semihosting-config arg=serve is the program's command line.
bool serves(int, char**) {
  char line[16];
  uint32_t arguments[] = {address_of(line), sizeof(line)};
  return semihosting_call(kSysGetCommandLine, arguments) == 0 && strcmp(line, "serve") == 0;
}

void exit(int status) {
  const uint32_t arguments[] = {0x20026, static_cast<uint32_t>(status)};  // application exit
  for (;;) semihosting_call(kSysExitExtended, arguments);
}

}  // namespace board
}  // namespace reds

extern "C" void reds_board_exit(int status) { reds::board::exit(status); }

extern "C" void reds_board_fault(void) {
  reds::board::write("error=fault\n");
  reds::board::exit(3);
}

#endif
