// How a board passes requests in and responses out; see reds/verify.h.
#ifndef REDS_SRC_VERIFY_IO_H_
#define REDS_SRC_VERIFY_IO_H_

#include "reds/verify.h"

namespace reds {
namespace verify_io {

// The request with its samples behind it, or null after a message; opens the response.
const Request* open(int argc, char** argv);

// Appends to the response; false when that fails.
bool save(const int8_t* data, uint32_t bytes);

// Ends the response; false when that fails.
bool close();

}  // namespace verify_io
}  // namespace reds

#endif  // REDS_SRC_VERIFY_IO_H_
