// Packing for conv2d.cc: int8 to int16, in the order that its loops read.
//
//   void reds_pack_pixels(const int8_t* const rows[4], uint32_t words, uint32_t minus_zero_point,
//                         uint32_t* packed);
//   void reds_pack_doubled_pixels(the same);
//   void reds_pack_weights(const int8_t* row0, const int8_t* row1, uint32_t words, uint32_t* packed);
//
// words: of four values, in every row, at least one. Rows need not be aligned.
#if defined(__ARM_FEATURE_DSP) && !defined(REDS_PORTABLE_KERNELS)

  .syntax unified
  .thumb

// Four rows of x - zero_point, doubled or not: (pairs, 4 pixels). 31 or 23 cycles for 16 values and
// 5 for the loop.
.macro pack_pixels name, doubled
  .section .text.\name, "ax", %progbits
  .global \name
  .type \name, %function
  .thumb_func
\name:
  push {r4-r11, lr}
  mov r12, r2
  mov lr, r3
  ldr r4, [r0]
  add r4, r4, r1, lsl #2
  vmov s0, r4  // where the first row ends
  ldm r0, {r0-r3}
1:
  ldr r4, [r0], #4
  ldr r5, [r1], #4
  ldr r6, [r2], #4
  ldr r7, [r3], #4
  sxtab16 r8, r12, r4
  sxtab16 r9, r12, r5
  sxtab16 r10, r12, r6
  sxtab16 r11, r12, r7
.if \doubled
  sadd16 r8, r8, r8
  sadd16 r9, r9, r9
  sadd16 r10, r10, r10
  sadd16 r11, r11, r11
.endif
  stmia lr!, {r8-r11}
  sxtab16 r8, r12, r4, ror #8
  sxtab16 r9, r12, r5, ror #8
  sxtab16 r10, r12, r6, ror #8
  sxtab16 r11, r12, r7, ror #8
.if \doubled
  sadd16 r8, r8, r8
  sadd16 r9, r9, r9
  sadd16 r10, r10, r10
  sadd16 r11, r11, r11
.endif
  stmia lr!, {r8-r11}
  vmov r8, s0
  cmp r0, r8
  bne 1b
  pop {r4-r11, pc}
  .size \name, . - \name
.endm

  pack_pixels reds_pack_pixels, 0
  pack_pixels reds_pack_doubled_pixels, 1

// Two rows: (pairs, 2 channels). 23 cycles for 16 weights and 4 for the loop.
.macro pack_words a, b
  sxtb16 r6, \a
  sxtb16 r7, \b
  sxtb16 r8, \a, ror #8
  sxtb16 r9, \b, ror #8
  stmia r3!, {r6-r9}
.endm

  .section .text.reds_pack_weights, "ax", %progbits
  .global reds_pack_weights
  .type reds_pack_weights, %function
  .thumb_func
reds_pack_weights:
  push {r4-r9, lr}
  lsrs r2, #1
  bcc 1f
  ldr r4, [r0], #4
  ldr r5, [r1], #4
  pack_words r4, r5
  cbz r2, 2f
1:
  ldr r4, [r0], #4
  ldr r12, [r0], #4
  ldr r5, [r1], #4
  ldr lr, [r1], #4
  pack_words r4, r5
  pack_words r12, lr
  subs r2, #1
  bne 1b
2:
  pop {r4-r9, pc}
  .size reds_pack_weights, . - reds_pack_weights

#elif defined(__linux__)
  .section .note.GNU-stack, "", %progbits  // or the linker makes the stack executable
#endif
