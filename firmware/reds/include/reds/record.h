// What goes over the serial line: one record per line, fields name=value, without printf, which
// would cost 20 KB of flash.
#ifndef REDS_RECORD_H_
#define REDS_RECORD_H_

#include <stddef.h>
#include <stdint.h>

namespace reds {

// Writes "name=value" on the board's serial line; lead with a space to separate fields.
void put(const char* name, uint32_t value);

// The same in 8 hexadecimal digits.
void put_hex(const char* name, uint32_t value);

// zlib's CRC-32 of `data`, continued from `crc` (0 at first).
uint32_t crc32(uint32_t crc, const int8_t* data, size_t bytes);

}  // namespace reds

#endif  // REDS_RECORD_H_
