// Arm semihosting: the emulated program's calls to the computer that runs the emulator.
#ifndef REDS_SRC_BOARDS_EMULATOR_SEMIHOSTING_H_
#define REDS_SRC_BOARDS_EMULATOR_SEMIHOSTING_H_

#include <stdint.h>

namespace reds {

enum Semihosting : uint32_t {
  kSysOpen = 0x01,
  kSysClose = 0x02,
  kSysWrite = 0x05,
  kSysGetCommandLine = 0x15,
  kSysExitExtended = 0x20,
};

inline uint32_t semihosting_call(Semihosting operation, const uint32_t* arguments) {
  register uint32_t r0 asm("r0") = operation;
  register const uint32_t* r1 asm("r1") = arguments;
  asm volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
  return r0;
}

inline uint32_t address_of(const void* pointer) {
  return static_cast<uint32_t>(reinterpret_cast<uintptr_t>(pointer));
}

}  // namespace reds

#endif  // REDS_SRC_BOARDS_EMULATOR_SEMIHOSTING_H_
