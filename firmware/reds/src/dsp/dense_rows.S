// The loops of dense.cc for requantisation in four instructions: four rows of weights at a time,
// from the store to bytes.
//
//   void reds_dense_rows(Job* job);
//
// Cycles of a block of 4 rows on a Cortex-M4 without wait states: 24 for every group of four
// products of each (16 of them), 4 for every 8 groups, 15 for a run of channels, and 95 for biases,
// requantisation and bytes.
#include "../../include/reds/core.h"

#if REDS_DSP_KERNELS

  .syntax unified
  .thumb

  .equ kGroupsPerPass, 8
  .equ kGroupCode, 88  // bytes of code of a group

// Bytes from the start of a Job, which lies at [sp].
  .equ kWeights, 0
  .equ kStoreInputs, 4
  .equ kX, 8
  .equ kRuns, 12
  .equ kGroups, 16
  .equ kGap, 20
  .equ kBias, 24
  .equ kMultiplier, 28
  .equ kShift, 32
  .equ kZeroPoint, 36
  .equ kOutput, 40
  .equ kBlocks, 44
  .equ kBack, 48

// s0 runs that are left, s1 where a run enters a pass, s2 its groups and those skipped

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

// r0 = 2 * zero_point + 1, r1 = multipliers, r2 = shifts (left), r3 = output. See simd.h.
.macro requantize sum
  ldr r8, [r1], #4
  ldrsb r9, [r2], #1
  lsls \sum, #1
  mvn r10, r9
  lsl r10, r0, r10
  add r10, r10, \sum, asr #31
  smmlar r10, \sum, r8, r10
  rsb r9, r9, #0
  asr r10, r10, r9
  ssat r10, #8, r10
  strb r10, [r3], #1
.endm

  .section .text.reds_dense_rows, "ax", %progbits
  .global reds_dense_rows
  .type reds_dense_rows, %function
  .thumb_func
reds_dense_rows:
  push {r0, r4-r11, lr}
  mov r3, r0
  // Groups go in passes of 8, of which the first one is entered so that the last one is whole.
  ldr r0, [r3, #kGroups]
  rsbs r1, r0, #0
  and r1, r1, #(kGroupsPerPass - 1)  // groups to skip
  add r0, r1
  vmov s2, r0
  movs r2, #kGroupCode
  mul r1, r1, r2
  adr.w r2, 3f
  add r1, r2
  orr r1, r1, #1
  vmov s1, r1
1:                                // a block; r3 = job
  ldr r1, [r3, #kWeights]
  ldr r2, [r3, #kStoreInputs]
  ldr r0, [r3, #kBias]
  ldr r8, [r3, #kRuns]
  add r12, r1, r2, lsl #1
  add r9, r12, r2, lsl #1
  str r9, [r3, #kWeights]
  ldm r0!, {r4-r7}
  str r0, [r3, #kBias]
  ldr r0, [r3, #kX]
  vmov s0, r8
2:                                // a run of channels
  vmov r3, s2
  vmov r8, s1
  bx r8
  .balign 4
3:
  .rept kGroupsPerPass
  group
  .endr
  subs r3, #kGroupsPerPass
  bne.w 3b
  vmov r8, s0
  subs r8, #1
  vmov s0, r8
  ldr r3, [sp]
  itttt ne
  ldrne r9, [r3, #kGap]
  addne r1, r9
  addne r12, r9
  bne.w 2b
  ldr r0, [r3, #kZeroPoint]
  ldr r1, [r3, #kMultiplier]
  ldr r2, [r3, #kShift]
  ldr r3, [r3, #kOutput]
  lsls r0, #1
  adds r0, #1
  requantize r4
  requantize r5
  requantize r6
  requantize r7
  mov r4, r3
  ldr r3, [sp]
  ldr r5, [r3, #kBlocks]
  subs r5, #1
  str r5, [r3, #kBlocks]
  beq 8f
  cmp r5, #1
  bne 7f
  // the last block, which may take rows for a second time
  ldr r0, [r3, #kBack]
  subs r4, r0
  subs r2, r0
  sub r1, r1, r0, lsl #2
  ldr r6, [r3, #kBias]
  sub r6, r6, r0, lsl #2
  str r6, [r3, #kBias]
  ldr r6, [r3, #kWeights]
  ldr r7, [r3, #kStoreInputs]
  mls r6, r7, r0, r6
  str r6, [r3, #kWeights]
7:
  str r1, [r3, #kMultiplier]
  str r2, [r3, #kShift]
  str r4, [r3, #kOutput]
  b.w 1b
8:
  pop {r0, r4-r11, pc}
  .size reds_dense_rows, . - reds_dense_rows

#elif defined(__linux__)
  .section .note.GNU-stack, "", %progbits  // or the linker makes the stack executable
#endif
