// What goes over the serial line: records, one per line, as docs/serial-protocol.md has them.
// Without printf, which would cost 20 KB of flash.
#ifndef REDS_RECORD_H_
#define REDS_RECORD_H_

#include <stddef.h>
#include <stdint.h>

namespace reds {

// One record; its destructor sends it, in several lines of the same kind and keys where it is too
// long for one. Fields after the first that is no key are not keys.
class Record {
 public:
  // `lines` counts what is sent.
  Record(uint16_t& lines, const char* kind);
  ~Record() { send(); }
  Record(const Record&) = delete;
  Record& operator=(const Record&) = delete;

  Record& key(const char* name, uint32_t value);
  Record& number(const char* name, uint32_t value);
  Record& hex(const char* name, uint32_t value);  // 8 digits
  Record& text(const char* name, const char* value);

 private:
  static constexpr size_t kLineBytes = 63;             // with the line's end
  static constexpr size_t kRoom = kLineBytes - 1 - 9;  // without " sum=ffff" too

  void append(const char* text);
  void field(const char* name, const char* value);
  void send();

  uint16_t& lines_;
  size_t size_ = 0;
  size_t head_size_ = 0;  // kind and keys
  char line_[kLineBytes + 1];
};

// zlib's CRC-32 of `data`, continued from `crc` (0 at first).
uint32_t crc32(uint32_t crc, const int8_t* data, size_t bytes);

}  // namespace reds

#endif  // REDS_RECORD_H_
