// For the assembler: a doubled sum, requantised in four instructions (see simd.h), to the byte at
// `output`, which moves on by `step`. Uses r0. 6 cycles.
.macro requantize sum, multiplier, rounding, shift, output, step
  add r0, \rounding, \sum, asr #31
  smmlar r0, \sum, \multiplier, r0
  asr r0, r0, \shift
  ssat r0, #8, r0
  strb r0, [\output]
  add \output, \step
.endm
