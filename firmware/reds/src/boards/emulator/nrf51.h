// UART and timer of Nordic's nRF51 (nRF51 Series Reference Manual, version 3.0).
#ifndef REDS_SRC_BOARDS_EMULATOR_NRF51_H_
#define REDS_SRC_BOARDS_EMULATOR_NRF51_H_

#include <stdint.h>

namespace reds {
namespace board {

inline volatile uint32_t& nrf51_register(uint32_t address) {
  return *reinterpret_cast<volatile uint32_t*>(address);
}

namespace uart {

constexpr uint32_t kUart = 0x40002000;
constexpr uint32_t kStartReceiving = kUart + 0x000, kStartSending = kUart + 0x008;
constexpr uint32_t kReceived = kUart + 0x108, kSent = kUart + 0x11C;
constexpr uint32_t kEnable = kUart + 0x500, kReceive = kUart + 0x518, kSend = kUart + 0x51C;

inline void open() {
  if (nrf51_register(kEnable) == 4) return;
  nrf51_register(kEnable) = 4;
  nrf51_register(kStartReceiving) = 1;
  nrf51_register(kStartSending) = 1;
}

inline void put(uint8_t byte) {
  nrf51_register(kSent) = 0;
  nrf51_register(kSend) = byte;
  while (nrf51_register(kSent) == 0) {
  }
}

// -1: none has come.
inline int get() {
  if (nrf51_register(kReceived) == 0) return -1;
  nrf51_register(kReceived) = 0;
  return static_cast<int>(nrf51_register(kReceive));
}

}  // namespace uart

namespace timer {

constexpr uint32_t kTimer = 0x40008000;
constexpr uint32_t kStart = kTimer + 0x000, kCapture = kTimer + 0x040, kCaptured = kTimer + 0x540;
constexpr uint32_t kBits = kTimer + 0x508, kPrescaler = kTimer + 0x510;
constexpr uint32_t k32Bits = 3;

inline uint32_t now() {
  if (nrf51_register(kBits) != k32Bits) {
    nrf51_register(kBits) = k32Bits;
    nrf51_register(kPrescaler) = 0;
    nrf51_register(kStart) = 1;
  }
  nrf51_register(kCapture) = 1;
  return nrf51_register(kCaptured);
}

}  // namespace timer
}  // namespace board
}  // namespace reds

#endif  // REDS_SRC_BOARDS_EMULATOR_NRF51_H_
