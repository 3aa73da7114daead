// The loop of add.cc.
//
//   void reds_add_elements(const Job* job);
//
// 8 elements take 58 cycles on a Cortex-M4 without wait states, each of a rest of less than 8 takes 11.
#include "../../include/reds/core.h"

#if REDS_DSP_KERNELS

  .syntax unified
  .thumb

// A Job's words:
//   r0, r1, r2   inputs and output
//   r3           elements; later free
//   r4, r5, r6   weights of the inputs, offset
// Then s0 is where the first input's last whole block ends, s1 elements behind it, r7 in the end those
// that are left. r3, r7 ... r9 are elements of the first input and sums, r10 ... lr of the second one.
  .equ kShift, 21

.macro store sum, at
  ssat \sum, #8, \sum, asr #kShift
  strb \sum, [r2, #\at]
.endm

// Four elements from `at` on.
.macro elements at
  ldrsb r3, [r0, #\at]
  ldrsb r7, [r0, #\at + 1]
  ldrsb r8, [r0, #\at + 2]
  ldrsb r9, [r0, #\at + 3]
  ldrsb r10, [r1, #\at]
  ldrsb r11, [r1, #\at + 1]
  ldrsb r12, [r1, #\at + 2]
  ldrsb lr, [r1, #\at + 3]
  mla r3, r3, r4, r6
  mla r7, r7, r4, r6
  mla r8, r8, r4, r6
  mla r9, r9, r4, r6
  mla r3, r10, r5, r3
  mla r7, r11, r5, r7
  mla r8, r12, r5, r8
  mla r9, lr, r5, r9
  store r3, \at
  store r7, (\at + 1)
  store r8, (\at + 2)
  store r9, (\at + 3)
.endm

  .section .text.reds_add_elements, "ax", %progbits
  .global reds_add_elements
  .type reds_add_elements, %function
  .thumb_func
reds_add_elements:
  push {r4-r11, lr}
  ldm r0, {r0-r6}
  and r7, r3, #7
  bic r3, r3, #7
  add r3, r0
  vmov s0, r3
  vmov s1, r7
  cmp r0, r3
  beq 2f
1:
  elements 0
  elements 4
  adds r0, #8
  adds r1, #8
  adds r2, #8
  vmov r3, s0
  cmp r0, r3
  bne 1b
2:
  vmov r7, s1
  cbz r7, 4f
3:                                // what is no multiple of eight
  ldrsb r3, [r0], #1
  ldrsb r8, [r1], #1
  mla r3, r3, r4, r6
  mla r3, r8, r5, r3
  ssat r3, #8, r3, asr #kShift
  strb r3, [r2], #1
  subs r7, #1
  bne 3b
4:
  pop {r4-r11, pc}
  .size reds_add_elements, . - reds_add_elements

#elif defined(__linux__)
  .section .note.GNU-stack, "", %progbits  // or the linker makes the stack executable
#endif
