// What TensorFlow Lite Micro needs of the emulated board: a place for its messages, and an end.
#if defined(REDS_BOARD_EMULATOR) && defined(REDS_TFLM)

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include "reds/board.h"
#include "tensorflow/lite/micro/debug_log.h"

// The C library's own versions would link its files and heap.
extern "C" void abort() {
  reds::board::write("error=abort\n");
  reds::board::exit(3);
}

extern "C" void __assert_func(const char* file, int, const char*, const char* condition) {
  reds::board::write(file);
  reds::board::write(": false: ");
  reds::board::write(condition);
  abort();
}

extern "C" void* _sbrk(ptrdiff_t) { return reinterpret_cast<void*>(-1); }  // there is no heap

// In 2023 the text comes ready, today it is to be formatted.
#if !__has_include("tensorflow/lite/micro/micro_common.h")

extern "C" void DebugLog(const char* text) { reds::board::write(text); }

#else

extern "C" int DebugVsnprintf(char* buffer, size_t size, const char* format, va_list arguments) {
  return vsnprintf(buffer, size, format, arguments);
}

extern "C" void DebugLog(const char* format, va_list arguments) {
  char text[160];
  vsnprintf(text, sizeof(text), format, arguments);
  reds::board::write(text);
}

#endif

#endif
