// Packing for conv2d.cc: int8 to int16, in the order that its loops read.
//
//   void reds_pack_pixels(const int8_t* const rows[4], uint32_t words, uint32_t minus_zero_point,
//                         uint32_t* packed, uint32_t lines, const uint32_t steps[4]);
//   void reds_pack_doubled_pixels(the same);
//   void reds_copy_lines(int8_t* to, uint32_t to_step, const int8_t* from, uint32_t from_step,
//                        uint32_t lines, uint32_t bytes);
//
// words: of four values, in every line of a row, at least one. steps: bytes from a row's line to its
// next one; not read where there is one line. Rows and lines need not be aligned; there may be no lines
// to copy, or no bytes in them.
#include "../../include/reds/core.h"

#if REDS_DSP_KERNELS

  .syntax unified
  .thumb

// Four rows of x - zero_point, doubled or not: (pairs, 4 pixels). 31 or 23 cycles for 16 values and
// 5 for the loop, 18 for a line behind the first one.
//   s0 where the first row's line ends, s1 lines left, s2 ... s5 from a line's end to the next one's
//   start, s6 bytes of a line
.macro pack_pixels name, doubled
  .section .text.\name, "ax", %progbits
  .global \name
  .type \name, %function
  .thumb_func
\name:
  push {r4-r11, lr}
  mov r12, r2
  mov lr, r3
  lsls r6, r1, #2
  ldm r0, {r0-r3}
  ldrd r4, r5, [sp, #36]  // lines, steps
  add r7, r0, r6
  vmov s0, r7
  vmov s1, r4
  cmp r4, #1
  beq 1f
  vmov s6, r6
  ldm r5, {r7-r10}
  subs r7, r6
  sub r8, r6
  sub r9, r6
  sub r10, r6
  vmov s2, r7
  vmov s3, r8
  vmov s4, r9
  vmov s5, r10
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
  vmov r8, s1
  subs r8, #1
  vmov s1, r8
  beq 2f
  vmov r4, s2
  vmov r5, s3
  vmov r6, s4
  vmov r7, s5
  add r0, r4
  add r1, r5
  add r2, r6
  add r3, r7
  vmov r8, s6
  add r8, r0
  vmov s0, r8
  b 1b
2:
  pop {r4-r11, pc}
  .size \name, . - \name
.endm

  pack_pixels reds_pack_pixels, 0
  pack_pixels reds_pack_doubled_pixels, 1

// 15 cycles for a line of 8 ... 16 bytes, whose first and last 8 are copied, some of them twice. Of any
// other length 14 for a line, 9 for 8 bytes of it, 3 for a word behind these and up to 12 for the rest.
  .section .text.reds_copy_lines, "ax", %progbits
  .global reds_copy_lines
  .type reds_copy_lines, %function
  .thumb_func
reds_copy_lines:
  push {r4-r9, lr}
  ldrd r4, r5, [sp, #28]  // lines, bytes
  cbz r4, 9f
  sub r12, r5, #8
  cmp r12, #8
  bls 7f
  bic lr, r5, #7
1:
  mov r6, r0
  mov r7, r2
  add r12, r0, lr
  cmp r6, r12
  beq 3f
2:
  ldr r8, [r7], #4
  ldr r9, [r7], #4
  str r8, [r6], #4
  str r9, [r6], #4
  cmp r6, r12
  bne 2b
3:
  lsls r8, r5, #30  // carry: bytes & 4, negative: bytes & 2
  bcc 4f
  ldr r8, [r7], #4
  str r8, [r6], #4
4:
  bpl 5f
  ldrh r8, [r7], #2
  strh r8, [r6], #2
5:
  lsls r8, r5, #31
  bpl 6f
  ldrb r8, [r7]
  strb r8, [r6]
6:
  add r0, r1
  add r2, r3
  subs r4, #1
  bne 1b
9:
  pop {r4-r9, pc}
7:                                // 8 ... 16 bytes; r12 = bytes - 8
  subs r5, #4
8:
  ldr r6, [r2]
  ldr r7, [r2, #4]
  ldr r8, [r2, r12]
  ldr r9, [r2, r5]
  str r6, [r0]
  str r7, [r0, #4]
  str r8, [r0, r12]
  str r9, [r0, r5]
  add r0, r1
  add r2, r3
  subs r4, #1
  bne 8b
  pop {r4-r9, pc}
  .size reds_copy_lines, . - reds_copy_lines

#elif defined(__linux__)
  .section .note.GNU-stack, "", %progbits  // or the linker makes the stack executable
#endif
