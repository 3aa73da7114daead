// A machine that QEMU emulates (redsc/machines.py); without further defines mps2-an386, an Arm MPS2
// board with a Cortex-M4F (Arm application note AN386).
#if defined(REDS_BOARD_EMULATOR)

#include "reds/board.h"

#include <string.h>

#include "semihosting.h"
#if defined(REDS_NRF51)
#include "nrf51.h"
#else
#include "cmsdk.h"
#endif

namespace reds {
namespace board {
namespace {

// With QEMU's -icount shift=7 an instruction takes 128 ns, which is 1024 units of 125 ps.
constexpr uint32_t kTickUnits = REDS_TICK_PICOSECONDS / 125, kInstructionUnits = 1024;
static_assert(kTickUnits * 125 == REDS_TICK_PICOSECONDS, "a tick is no whole number of units");

}  // namespace

const char* name() { return "emulator"; }

void write(const char* text) {
  uart::open();
  for (; *text != '\0'; ++text) uart::put(static_cast<uint8_t>(*text));
}

int read() {
  uart::open();
  return uart::get();
}

bool connected() { return true; }

uint32_t clock() { return timer::now(); }

uint32_t time_between(uint32_t start, uint32_t end) {
  const uint64_t units = static_cast<uint64_t>(end - start) * kTickUnits;
  return static_cast<uint32_t>((units + kInstructionUnits / 2) / kInstructionUnits);
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
