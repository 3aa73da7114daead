// Packing for conv2d.cc: int8 to int16, in the order that its loops read.
//
//   void reds_pack_pixels(const Rows* rows, uint32_t minus_zero_point, uint32_t zero_points,
//                         uint32_t* packed);
//   void reds_pack_doubled_pixels(the same);
//   void reds_copy_lines(int8_t* to, uint32_t to_step, const int8_t* from, uint32_t from_step,
//                        uint32_t lines, uint32_t bytes);
//
// Rows and lines need not be aligned; there may be no lines to copy, or no bytes in them.
#include "../../include/reds/core.h"

#if REDS_DSP_KERNELS

  .syntax unified
  .thumb

// Bytes from the start of a Rows.
  .equ kFirst, 0
  .equ kSteps, 16  // and bytes, lines, blocks, block_step behind them

// Four bytes of each row, r4 ... r7: x - zero_point, (2 pairs, 4 pixels). r12 = minus_zero_point,
// lr = packed. Uses r8 ... r11.
.macro pack_words doubled
  .irp turn, 0, 8
  sxtab16 r8, r12, r4, ror #\turn
  sxtab16 r9, r12, r5, ror #\turn
  sxtab16 r10, r12, r6, ror #\turn
  sxtab16 r11, r12, r7, ror #\turn
.if \doubled
  sadd16 r8, r8, r8
  sadd16 r9, r9, r9
  sadd16 r10, r10, r10
  sadd16 r11, r11, r11
.endif
  stmia lr!, {r8-r11}
  .endr
.endm

// From the end of each row's line to the start of its next one.
.macro next_line
  vmov r4, s2
  vmov r5, s3
  vmov r6, s4
  vmov r7, s5
  add r0, r4
  add r1, r5
  add r2, r6
  add r3, r7
.endm

// Blocks of four rows of x - zero_point, doubled or not: (pairs, 4 pixels). 31 or 23 cycles for 16
// values and 5 for the loop, 22 for a line, 5 for a block. What follows the whole words of a line
// takes 81 or 73 more with what its next one begins with, 60 or 52 with zeros.
//   r0 ... r3 the four rows, r4 ... r7 a word of each, r8 ... r11 what it becomes, r12
//   minus_zero_point, lr packed. Between words r8, r9 where a line or its whole words end. In a rest
//   r8 bytes that are left, r10 those that the next line adds, r11 bits to shift by, then r8 ... r10
//   words of that line
//   s0 where the first row's whole words end, s1 lines left, s2 ... s5 from a line's end to the next
//   one's start, s6 bytes of a line, s7 zero_points, s8 lines, s9 where the line ends, s10 blocks
//   left, s11 from the end of a block to the start of the next one
.macro pack_pixels name, doubled
  .section .text.\name, "ax", %progbits
  .global \name
  .type \name, %function
  .thumb_func
\name:
  push {r4-r11, lr}
  mov r12, r1
  mov lr, r3
  vmov s7, r2
  add r1, r0, #kSteps
  ldm r1, {r4-r11}
  ldm r0, {r0-r3}
  vmov s8, r9
  vmov s10, r10
  subs r10, r9, #1
  mul r10, r10, r4
  add r10, r8
  sub r11, r10
  vmov s11, r11
  vmov s1, r9
  vmov s6, r8
  subs r4, r4, r8
  sub r5, r5, r8
  sub r6, r6, r8
  sub r7, r7, r8
  vmov s2, r4
  vmov s3, r5
  vmov s4, r6
  vmov s5, r7
1:                                // a line
  vmov r8, s6
  lsls r9, r8, #30
  add r8, r0
  vmov s9, r8
  bne 8f
  vmov s0, r8
2:
  ldr r4, [r0], #4
  ldr r5, [r1], #4
  ldr r6, [r2], #4
  ldr r7, [r3], #4
  pack_words \doubled
  vmov r8, s0
  cmp r0, r8
  bne 2b
3:
  vmov r8, s9
  subs r8, r0
  bne 4f
  vmov r9, s1
  subs r9, #1
  vmov s1, r9
  beq 6f
  next_line
  b 1b
8:                                // r8 = where the line ends, which has a rest
  sub r9, r8, r0
  bic r9, r9, #3
  add r9, r0
  cmp r0, r9
  beq 3b
  vmov s0, r9
  b 2b
4:                                // r8 bytes are left
  rsb r10, r8, #4
  sub r0, r10
  sub r1, r10
  sub r2, r10
  sub r3, r10
  ldr r4, [r0], #4
  ldr r5, [r1], #4
  ldr r6, [r2], #4
  ldr r7, [r3], #4
  lsl r11, r10, #3
  lsr r4, r11
  lsr r5, r11
  lsr r6, r11
  lsr r7, r11
  lsl r11, r8, #3
  vmov r9, s1
  subs r9, #1
  vmov s1, r9
  beq 5f
  vmov s0, r10
  vmov r8, s2
  vmov r9, s3
  add r0, r8
  add r1, r9
  vmov r8, s4
  vmov r9, s5
  add r2, r8
  add r3, r9
  ldr r8, [r0]
  ldr r9, [r1]
  ldr r10, [r2]
  lsl r8, r11
  lsl r9, r11
  lsl r10, r11
  orr r4, r8
  orr r5, r9
  orr r6, r10
  ldr r8, [r3]
  vmov r10, s0
  lsl r8, r11
  orr r7, r8
  vmov r8, s6
  add r8, r0
  vmov s9, r8
  add r0, r10
  add r1, r10
  add r2, r10
  add r3, r10
  pack_words \doubled
  vmov r8, s9
  b 8b
5:                                // the block's last ones
  vmov r8, s7
  lsl r8, r11
  orr r4, r8
  orr r5, r8
  orr r6, r8
  orr r7, r8
  pack_words \doubled
6:
  vmov r9, s10
  subs r9, #1
  vmov s10, r9
  beq 7f
  vmov r9, s11
  add r0, r9
  add r1, r9
  add r2, r9
  add r3, r9
  vmov r9, s8
  vmov s1, r9
  b 1b
7:
  pop {r4-r11, pc}
  .size \name, . - \name
.endm

  pack_pixels reds_pack_pixels, 0
  pack_pixels reds_pack_doubled_pixels, 1

// 17 cycles for a line of 8 ... 16 bytes, whose first and last 8 are copied, some of them twice; 12 for
// one of 4 ... 7, likewise, and 15 for less. Of any other length 20 for a line, 9 for 8 bytes of it, and
// one for each of a word, two bytes and one byte behind these.
//   r0, r1       to and its step; r2, r3 from and its step
//   r4           lines that are left
//   r5           bytes of a line; of a short one where its last 4 are (8 ... 16 and 4 ... 7 bytes) or
//                its last one
//   r6 ... r9    of a short line its words or bytes; of others r6, r7 to and from, r8, r9 two words
//   r12, lr      of others where the whole eights of bytes end, and their bytes; of a line of 8 ... 16
//                r12 is where its last 8 are, of 1 ... 3 the one in the middle
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
  cmp r5, #8
  blo 10f
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
10:
  subs r5, #4
  blo 12f
11:                               // 4 ... 7 bytes; r5 = bytes - 4
  ldr r6, [r2]
  ldr r7, [r2, r5]
  str r6, [r0]
  str r7, [r0, r5]
  add r0, r1
  add r2, r3
  subs r4, #1
  bne 11b
  pop {r4-r9, pc}
12:
  adds r5, #3
  bmi 9b                          // none
  add r12, r5, #1
  lsr r12, r12, #1
13:                               // 1 ... 3 bytes, the last one at r5, one in the middle at r12
  ldrb r6, [r2]
  ldrb r7, [r2, r12]
  ldrb r8, [r2, r5]
  strb r6, [r0]
  strb r7, [r0, r12]
  strb r8, [r0, r5]
  add r0, r1
  add r2, r3
  subs r4, #1
  bne 13b
  pop {r4-r9, pc}
  .size reds_copy_lines, . - reds_copy_lines

#elif defined(__linux__)
  .section .note.GNU-stack, "", %progbits  // or the linker makes the stack executable
#endif
