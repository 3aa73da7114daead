#include "reds/record.h"

#include "reds/board.h"

namespace reds {
namespace {

void put_digits(const char* name, uint32_t value, uint32_t base, uint32_t min_digits) {
  char digits[12];
  char* begin = digits + sizeof(digits) - 1;
  const char* const end = begin;
  *begin = '\0';
  while (value != 0 || begin > end - min_digits) {
    *--begin = "0123456789abcdef"[value % base];
    value /= base;
  }
  board::write(name);
  board::write("=");
  board::write(begin);
}

}  // namespace

void put(const char* name, uint32_t value) { put_digits(name, value, 10, 1); }

void put_hex(const char* name, uint32_t value) { put_digits(name, value, 16, 8); }

uint32_t crc32(uint32_t crc, const int8_t* data, size_t bytes) {
  crc = ~crc;
  for (size_t i = 0; i < bytes; ++i) {
    crc ^= static_cast<uint8_t>(data[i]);
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (0xEDB88320u & (0u - (crc & 1u)));
  }
  return ~crc;
}

}  // namespace reds
