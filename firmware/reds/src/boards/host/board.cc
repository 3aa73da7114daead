#if defined(REDS_BOARD_HOST)

#include "reds/board.h"

#include <stdio.h>
#include <stdlib.h>

namespace reds {
namespace board {

void write(const char* text) { fputs(text, stdout); }

uint32_t clock() { return 0; }

uint32_t instructions_between(uint32_t, uint32_t) { return 0; }

void exit(int status) { ::exit(status); }

}  // namespace board
}  // namespace reds

#endif
