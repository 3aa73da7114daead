// The loops of dense.cc for requantisation in four instructions: four rows of weights at a time,
// from the store to bytes.
//
//   void reds_dense_rows(Job* job);
//   uint32_t* reds_dense_expand(const int8_t* input, uint32_t words, uint32_t minus_zero_point,
//                               uint32_t* x);
//
// Cycles of a block of 4 rows on a Cortex-M4 without wait states: 24 for every group of four
// products of each (16 of them), 4 for every 16 groups, 17 for a further run of channels and 13 more
// if there is any, and 68 for biases, requantisation and bytes. Expanding an input takes 1.6.
#include "../../include/reds/core.h"

#if REDS_DSP_KERNELS

  .syntax unified
  .thumb

  .equ kGroupsPerPass, 16
  .equ kGroupCode, 88  // bytes of code of a group

// Bytes from the start of a Job, which lies at [sp]. Its first words live in s0 ... s12.
  .equ kWeights, 0
  .equ kBias, 4
  .equ kMultiplier, 8
  .equ kShift, 12
  .equ kOutput, 16
  .equ kX, 20
  .equ kStoreInputs, 24
  .equ kRoundingFactor, 28
  .equ kOutputEnd, 32
  .equ kRuns, 36
  .equ kGap, 40
  .equ kGroups, 44
  .equ kBack, 48

//   s0 weights, s1 biases, s2 multipliers, s3 shifts, s4 output: of the next block
//   s5 x, s6 bytes from row to row, s7 2 * zero_point + 1, s8 where the output of blocks ends, s9 runs, s10 gap
//   s11 groups of a run and those skipped, less 1 if there are more runs; s12 where a run enters a pass
//   s13 runs that are left
//   r0 x, r1 and r12 the first and the third row, r2 bytes from row to row, r3 groups that are left,
//   r4 ... r7 sums, r8, r9 x of a group, r10, r11, lr weights; then as `requantize` tells, with r8 ... r11
//   multipliers, r1 and r2 where the next ones and shifts are

// Two rows, at \pointer and r2 bytes behind; r8, r9 = x. Uses r10, r11, lr.
.macro two_rows pointer, sum0, sum1
  ldr.w r11, [\pointer, r2]
  ldr.w r10, [\pointer], #4
  sxtb16 lr, r11
  sxtb16 r11, r11, ror #8
  smlad \sum1, lr, r8, \sum1
  smlad \sum1, r11, r9, \sum1
  sxtb16 lr, r10
  sxtb16 r10, r10, ror #8
  smlad \sum0, lr, r8, \sum0
  smlad \sum0, r10, r9, \sum0
.endm

.macro group
  ldr.w r8, [r0], #4
  ldr.w r9, [r0], #4
  two_rows r1, r4, r5
  two_rows r12, r6, r7
.endm

// r0 = 2 * zero_point + 1, r3 = shift - 1 in the lowest byte, lr = output. See simd.h.
.macro requantize sum, multiplier
  lsls \sum, #1
  lsl r12, r0, r3
  add r12, r12, \sum, asr #31
  smmlar r12, \sum, \multiplier, r12
  asr r12, r12, r3
  ssat r12, #8, r12, asr #1
  strb r12, [lr], #1
.endm

  .section .text.reds_dense_rows, "ax", %progbits
  .global reds_dense_rows
  .type reds_dense_rows, %function
  .thumb_func
reds_dense_rows:
  push {r0, r4-r11, lr}
  vldm r0, {s0-s10}
  // Groups go in passes of 16, of which the first one is entered so that the last one is whole.
  ldr r1, [r0, #kGroups]
  add r3, r1, #(kGroupsPerPass - 1)
  bic r3, r3, #(kGroupsPerPass - 1)  // groups and those skipped
  subs r1, r3, r1
  movs r2, #kGroupCode
  mul r1, r1, r2
  adr.w r2, 3f
  add r1, r2
  orr r1, r1, #1
  vmov s12, r1
  ldr r1, [r0, #kRuns]
  cmp r1, #1
  it hi
  subhi r3, #1
  vmov s11, r3
  vmov s13, r1
1:                                // a block
  vmov r3, s1
  ldm r3!, {r4-r7}
  vmov s1, r3
  vmov r1, s0
  vmov r2, s6
  add r12, r1, r2, lsl #1
  add r0, r12, r2, lsl #1
  vmov s0, r0
  vmov r0, s5
  vmov r3, s11
  vmov r8, s12
  bx r8
  .balign 4
3:
  .rept kGroupsPerPass
  group
  .endr
  subs r3, #kGroupsPerPass
  bgt.w 3b
  bne 5f
4:
  vmov r1, s2
  ldm r1!, {r8-r11}
  vmov r2, s3
  ldr r3, [r2], #4
  vmov r0, s7
  vmov lr, s4
  vmov s2, r1
  vmov s3, r2
  mvn r3, r3
  requantize r4, r8
  lsr r3, r3, #8
  requantize r5, r9
  lsr r3, r3, #8
  requantize r6, r10
  lsr r3, r3, #8
  requantize r7, r11
  vmov s4, lr
  vmov r3, s8
  cmp lr, r3
  bne.w 1b
  // a last block may take rows for a second time
  ldr r0, [sp]
  ldr r1, [r0, #kBack]
  cbz r1, 7f
  movs r2, #0
  str r2, [r0, #kBack]
  sub r2, lr, r1
  adds r3, r2, #4
  vmov s8, r3
  vmov s4, r2
  vmov r2, s3
  subs r2, r1
  vmov s3, r2
  vmov r2, s2
  sub r2, r2, r1, lsl #2
  vmov s2, r2
  vmov r2, s1
  sub r2, r2, r1, lsl #2
  vmov s1, r2
  vmov r2, s0
  vmov r3, s6
  mls r2, r3, r1, r2
  vmov s0, r2
  b.w 1b
7:
  pop {r0, r4-r11, pc}
5:                                // another run of channels, if there is one
  vmov r3, s13
  subs r3, #1
  vmov s13, r3
  beq 6f
  vmov r8, s10
  add r1, r8
  add r12, r8
  vmov r3, s11
  vmov r8, s12
  bx r8
6:
  vmov r3, s9
  vmov s13, r3
  b 4b
  .size reds_dense_rows, . - reds_dense_rows

// Words of four x to int16 x - zero_point, in the order that sxtab16 gives; one word or more. Returns
// the end of x. 26 cycles for four words, 11 for each of a rest.
//   r0 input, r1 words that are left, less 4 in the first loop, r2 minus_zero_point, r3 x
//   r4 ... r11 four words and what they become
  .section .text.reds_dense_expand, "ax", %progbits
  .global reds_dense_expand
  .type reds_dense_expand, %function
  .thumb_func
reds_dense_expand:
  push {r4-r11, lr}
  subs r1, #4
  blo 2f
1:
  ldr r5, [r0], #4
  ldr r7, [r0], #4
  ldr r9, [r0], #4
  ldr r11, [r0], #4
  sxtab16 r4, r2, r5
  sxtab16 r5, r2, r5, ror #8
  sxtab16 r6, r2, r7
  sxtab16 r7, r2, r7, ror #8
  sxtab16 r8, r2, r9
  sxtab16 r9, r2, r9, ror #8
  sxtab16 r10, r2, r11
  sxtab16 r11, r2, r11, ror #8
  stmia r3!, {r4-r11}
  subs r1, #4
  bhs 1b
2:
  adds r1, #4
  beq 4f
3:
  ldr r5, [r0], #4
  sxtab16 r4, r2, r5
  sxtab16 r5, r2, r5, ror #8
  stmia r3!, {r4, r5}
  subs r1, #1
  bne 3b
4:
  mov r0, r3
  pop {r4-r11, pc}
  .size reds_dense_expand, . - reds_dense_expand

#elif defined(__linux__)
  .section .note.GNU-stack, "", %progbits  // or the linker makes the stack executable
#endif
