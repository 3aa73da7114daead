// The little that the console and checks need from a board.
#ifndef REDS_BOARD_H_
#define REDS_BOARD_H_

#include <stdint.h>

namespace reds {
namespace board {

const char* name();

// Sends text over the serial line (on a computer: to standard output). Waits for the receiver, but
// no longer than a second; drops what is left then.
void write(const char* text);

// The next byte that came over the serial line, or -1.
int read();

// Whether somebody is at the other end of the serial line, as far as the board can tell.
bool connected();

// A free-running clock, what lies between two of its readings, in which unit, and how many of them
// make a second (0: unknown). The emulator counts executed instructions (run it with -icount
// shift=7), a board cycles, a computer nanoseconds.
uint32_t clock();
uint32_t time_between(uint32_t start, uint32_t end);
const char* clock_unit();
uint32_t clock_hz();

// Whether main() shall go on calling loop(): always on a board; on emulator and computer when the
// program was started with the argument "serve".
bool serves(int argc, char** argv);

// Ends the program with a status; a board without an operating system stops.
[[noreturn]] void exit(int status);

}  // namespace board
}  // namespace reds

#endif  // REDS_BOARD_H_
