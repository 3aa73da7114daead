// Measures every level on one fixed input and prints, one record per line:
//
//   reds_benchmark version=1 levels=4 input_bytes=64 output_bytes=10
//   level=0 instructions=123456 switch_instructions=11 crc32=0123abcd
//   done
//
// The fields are cycles and switch_cycles on a board, and missing where nothing counts. crc32
// (zlib's) is that of the output, so it is the same wherever the same model runs.
#ifndef REDS_BENCHMARK_H_
#define REDS_BENCHMARK_H_

#include "reds/network.h"

namespace reds {

// Leaves the network at the widest level.
void benchmark(Network& network);

}  // namespace reds

#endif  // REDS_BENCHMARK_H_
