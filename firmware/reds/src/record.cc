#include "reds/record.h"

#include <string.h>

#include "reds/board.h"

namespace reds {
namespace {

constexpr size_t kDigits = 10;

// Writes the number in front of `end`, which becomes the text's end; returns where it begins.
char* write_digits(char* end, uint32_t value, uint32_t base, size_t min_digits) {
  char* begin = end;
  *begin = '\0';
  while (value != 0 || begin > end - min_digits) {
    *--begin = "0123456789abcdef"[value % base];
    value /= base;
  }
  return begin;
}

}  // namespace

Record::Record(uint16_t& lines, const char* kind) : lines_(lines) {
  append(kind);
  head_size_ = size_;
}

Record& Record::key(const char* name, uint32_t value) {
  number(name, value);
  head_size_ = size_;
  return *this;
}

Record& Record::number(const char* name, uint32_t value) {
  char digits[kDigits + 1];
  field(name, write_digits(digits + kDigits, value, 10, 1));
  return *this;
}

Record& Record::hex(const char* name, uint32_t value) {
  char digits[kDigits + 1];
  field(name, write_digits(digits + kDigits, value, 16, 8));
  return *this;
}

Record& Record::text(const char* name, const char* value) {
  field(name, value);
  return *this;
}

void Record::field(const char* name, const char* value) {
  if (size_ + strlen(name) + strlen(value) + 2 > kRoom && size_ > head_size_) {
    send();
    size_ = head_size_;
  }
  append(" ");
  append(name);
  append("=");
  append(value);
}

void Record::append(const char* text) {
  while (*text != '\0' && size_ < kRoom) line_[size_++] = *text++;
}

void Record::send() {
  const uint32_t crc = crc32(0, reinterpret_cast<const int8_t*>(line_), size_);
  char digits[kDigits + 1];
  memcpy(line_ + size_, " sum=", 5);
  memcpy(line_ + size_ + 5, write_digits(digits + kDigits, crc & 0xFFFF, 16, 4), 4);
  memcpy(line_ + size_ + 9, "\n", 2);
  board::write(line_);
  ++lines_;
}

uint32_t crc32(uint32_t crc, const int8_t* data, size_t bytes) {
  // by half bytes: quicker than by bits, and 64 bytes of table instead of 1024
  static const uint32_t kTable[16] = {
      0x00000000, 0x1DB71064, 0x3B6E20C8, 0x26D930AC, 0x76DC4190, 0x6B6B51F4,
      0x4DB26158, 0x5005713C, 0xEDB88320, 0xF00F9344, 0xD6D6A3E8, 0xCB61B38C,
      0x9B64C2B0, 0x86D3D2D4, 0xA00AE278, 0xBDBDF21C,
  };
  crc = ~crc;
  for (size_t i = 0; i < bytes; ++i) {
    crc ^= static_cast<uint8_t>(data[i]);
    crc = (crc >> 4) ^ kTable[crc & 15];
    crc = (crc >> 4) ^ kTable[crc & 15];
  }
  return ~crc;
}

}  // namespace reds
