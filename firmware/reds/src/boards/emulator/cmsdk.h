// UART and timer of Arm's MPS2 boards: the Cortex-M System Design Kit's.
#ifndef REDS_SRC_BOARDS_EMULATOR_CMSDK_H_
#define REDS_SRC_BOARDS_EMULATOR_CMSDK_H_

#include <stdint.h>

#if !defined(REDS_UART)
#define REDS_UART 0x40004000
#define REDS_TIMER 0x40000000
#define REDS_TICK_PICOSECONDS 40000
#endif

namespace reds {
namespace board {
namespace uart {

volatile uint32_t* const kUart = reinterpret_cast<volatile uint32_t*>(REDS_UART);
constexpr uint32_t kData = 0, kState = 1, kControl = 2, kBaudDivider = 4;
constexpr uint32_t kTransmitFull = 1, kReceiveFull = 2, kEnable = 3;

inline void open() {
  kUart[kBaudDivider] = 16;
  kUart[kControl] = kEnable;
}

inline void put(uint8_t byte) {
  while (kUart[kState] & kTransmitFull) {
  }
  kUart[kData] = byte;
}

// -1: none has come.
inline int get() {
  return kUart[kState] & kReceiveFull ? static_cast<int>(kUart[kData] & 0xFF) : -1;
}

}  // namespace uart

namespace timer {

volatile uint32_t* const kTimer = reinterpret_cast<volatile uint32_t*>(REDS_TIMER);
constexpr uint32_t kControl = 0, kValue = 1, kReload = 2;

inline uint32_t now() {
  if (kTimer[kControl] == 0) {
    kTimer[kReload] = UINT32_MAX;
    kTimer[kValue] = UINT32_MAX;
    kTimer[kControl] = 1;
  }
  return ~kTimer[kValue];  // it counts down
}

}  // namespace timer
}  // namespace board
}  // namespace reds

#endif  // REDS_SRC_BOARDS_EMULATOR_CMSDK_H_
