// For the assembler: a doubled sum, requantised in four instructions (see simd.h), to int8 in its place.
.macro requantize sum, multiplier, rounding, shift, temporary
  add \temporary, \rounding, \sum, asr #31
  smmlar \sum, \sum, \multiplier, \temporary
  asr \sum, \sum, \shift
  ssat \sum, #8, \sum
.endm

// The same of a sum times 256, offset included, in two (see kOneProductShift).
.macro requantize_with_one_product sum, multiplier
  smmul \sum, \sum, \multiplier
  ssat \sum, #8, \sum, asr #11
.endm
