// The loops of conv2d_thin.cc.
//
//   void reds_conv2d_thin_rows_2(Job* job);
//   void reds_conv2d_thin_rows_5(Job* job);
//   uint32_t* reds_pack_lanes(const int8_t* const* lanes, uint32_t groups, uint32_t minus_zero_point,
//                             uint32_t* packed);
#include "../../include/reds/core.h"

#if REDS_DSP_KERNELS

#include "requantize.h"
#include "short_step.h"

  .syntax unified
  .thumb

// Bytes from the start of a Job.
  .equ kX, 0
  .equ kOutput, 4
  .equ kRows, 8
  .equ kWeights, 12
  .equ kBias, 16
  .equ kMultiplier, 24
  .equ kBlocks, 32
  .equ kXStep, 36
  .equ kOutputStep, 40
  .equ kXRow, 44
  .equ kOutputRow, 48
  .equ kLineBytes, 52
  .equ kLanes, 56

// Two channels of a pixel to memory.
.macro store first, second, to:vararg
  bfi \first, \second, #8, #8
  strh \first, \to
.endm

// All rows of two channels. Cycles on a Cortex-M4 without wait states, of a block of 2 channels by 4 pixels:
// 15 for each pair of products (16 of them) and 62 for biases, lines, bytes and the loop; 25 for a row.
//   r0                x
//   r4 ... r7         sums of the first channel, r8 ... r11 of the second one
//   r1, r2, r3, r12, lr   a weight and what it meets, or what a block's end needs
//   s0                job
//   s1                from the end of a window's line to its next one
//   s2 ... s31        weights
//   [sp]              from the end of a window to the next one; [sp, #4] blocks left of the row
.macro rows name, pairs, weights:vararg
  .section .text.\name, "ax", %progbits
  .global \name
  .type \name, %function
  .thumb_func
\name:
  push {r0, r1, r4-r11, lr}
.if \pairs > 2
  vpush {s16-s31}
  sub sp, #8
.endif
  mov r12, r0
  vmov s0, r12
  ldr r1, [r12, #kWeights]
  vldm r1, {\weights}
  ldr r2, [r12, #kLineBytes]
  ldr r3, [r12, #kXStep]
  sub r2, #(16 * \pairs)
  vmov s1, r2
  sub r3, r3, r2, lsl #1
  sub r3, #(16 * 3 * \pairs)
  str r3, [sp]
  ldr r0, [r12, #kX]
1:                                // a row; r12 = job
  ldr r1, [r12, #kBlocks]
  str r1, [sp, #4]
2:                                // a block
  vmov r1, s0
  ldr r7, [r1, #kBias]
  ldr r11, [r1, #kBias + 4]
  line_\pairs
  vmov r1, s0
  ldrd r2, r3, [r1, #kMultiplier]
  .irp sum, r4, r5, r6, r7
  requantize_with_one_product \sum, r2
  .endr
  .irp sum, r8, r9, r10, r11
  requantize_with_one_product \sum, r3
  .endr
  ldr r12, [r1, #kOutput]
  ldr r2, [r1, #kOutputStep]
  ldr r3, [r1, #kLanes]
  ldr lr, [r1, #kLanes + 4]
  add r2, r12
  str r2, [r1, #kOutput]
  ldr r2, [r1, #kLanes + 8]
  store r4, r8, [r12]
  store r5, r9, [r12, r3]
  store r6, r10, [r12, lr]
  store r7, r11, [r12, r2]
  ldrd r2, r3, [sp]
  add r0, r2
  subs r3, #1
  str r3, [sp, #4]
  bne.w 2b
  ldr r2, [r1, #kXRow]
  ldr r3, [r1, #kOutput]
  ldr r12, [r1, #kOutputRow]
  add r0, r2
  add r3, r12
  ldr r2, [r1, #kRows]
  str r3, [r1, #kOutput]
  mov r12, r1
  subs r2, #1
  str r2, [r1, #kRows]
  bne.w 1b
.if \pairs > 2
  add sp, #8
  vpop {s16-s31}
.endif
  add sp, #8
  pop {r4-r11, pc}
  .size \name, . - \name
.endm

.macro next_line
  vmov r1, s1
  add r0, r1
.endm

.macro line_2
  short_step s2, s3, 1
  short_step s4, s5
  next_line
  short_step s6, s7
  short_step s8, s9
  next_line
  short_step s10, s11
  short_step s12, s13
.endm

.macro line_5
  short_step s2, s3, 1
  short_step s4, s5
  short_step s6, s7
  short_step s8, s9
  short_step s10, s11
  next_line
  short_step s12, s13
  short_step s14, s15
  short_step s16, s17
  short_step s18, s19
  short_step s20, s21
  next_line
  short_step s22, s23
  short_step s24, s25
  short_step s26, s27
  short_step s28, s29
  short_step s30, s31
.endm

  rows reds_conv2d_thin_rows_2, 2, s2-s13
  rows reds_conv2d_thin_rows_5, 5, s2-s31

// x[2j], x[2j + 1] of two words of one lane, of four bytes in \bytes: the first in \first, the second in
// \bytes. Uses r8.
.macro pairs_of bytes, first
  sxtab16 r8, r12, \bytes
  sxtab16 \bytes, r12, \bytes, ror #8
  pkhbt \first, r8, \bytes, lsl #16
  pkhtb \bytes, \bytes, r8, asr #16
.endm

// 38 cycles for 16 values.
//   r0 ... r3     lanes
//   r4 ... r7     four bytes of each; r9, r10, r11 their first pairs
//   r12           minus_zero_point, lr packed, s0 groups left
  .section .text.reds_pack_lanes, "ax", %progbits
  .global reds_pack_lanes
  .type reds_pack_lanes, %function
  .thumb_func
reds_pack_lanes:
  push {r4-r11, lr}
  vmov s0, r1
  mov r12, r2
  mov lr, r3
  ldm r0, {r0-r3}
1:
  ldr r4, [r0], #4
  ldr r5, [r1], #4
  ldr r6, [r2], #4
  ldr r7, [r3], #4
  pairs_of r4, r9
  pairs_of r5, r10
  pairs_of r6, r11
  stm lr!, {r9-r11}
  pairs_of r7, r9
  vmov r8, s0
  stm lr!, {r9}
  subs r8, #1
  vmov s0, r8
  stm lr!, {r4-r7}
  bne 1b
  mov r0, lr
  pop {r4-r11, pc}
  .size reds_pack_lanes, . - reds_pack_lanes

#elif defined(__linux__)
  .section .note.GNU-stack, "", %progbits  // or the linker makes the stack executable
#endif
