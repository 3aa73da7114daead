// The little that examples and checks need from a board.
#ifndef REDS_BOARD_H_
#define REDS_BOARD_H_

#include <stdint.h>

namespace reds {
namespace board {

// Prints text on the board's serial line, or on standard output.
void write(const char* text);

// A free-running clock, and what lies between two of its readings. The emulator counts executed
// instructions (run it with -icount shift=7); the host has no such clock and returns 0.
uint32_t clock();
uint32_t instructions_between(uint32_t start, uint32_t end);

// Ends the program with a status; a board without an operating system stops.
[[noreturn]] void exit(int status);

}  // namespace board
}  // namespace reds

#endif  // REDS_BOARD_H_
