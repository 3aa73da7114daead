// The loops of add.cc.
//
//   void reds_add_elements(const Job* job);
//   void reds_add_alike(const Job* job);
//
// The first one takes 16 cycles for an element on a Cortex-M4 without wait states, the second one,
// where both inputs have the same scale, 12; 5 more for every 4.
#include "../../include/reds/core.h"

#if REDS_DSP_KERNELS

  .syntax unified
  .thumb

// A Job's words:
//   r0, r1, r2   inputs, of which the first one is only shifted, and output
//   r3           elements
//   r4, r5       offsets of the inputs
//   r6, r7, r8   multiplier, rounding, shift of the second input
//   r9, r10, r11 of the output
// Then s0 is where the first input ends, and r3, r12, lr are free.

.macro element is_alike
  ldrsb r12, [r0], #1
  ldrsb lr, [r1], #1
  add r12, r4, r12, lsl #19
.if \is_alike
  add r12, r12, lr, lsl #19
.else
  add lr, r5, lr, lsl #21
  add r3, r7, lr, asr #31
  smmlar r3, lr, r6, r3
  asr r3, r3, r8
  add r12, r3
.endif
  lsl lr, r12, #1
  add r3, r10, r12, asr #31
  smmlar r3, lr, r9, r3
  asr r3, r3, r11
  ssat r3, #8, r3
  strb r3, [r2], #1
.endm

.macro add_loops name, is_alike
  .section .text.\name, "ax", %progbits
  .global \name
  .type \name, %function
  .thumb_func
\name:
  push {r4-r11, lr}
  mov lr, r0
  ldm lr, {r0-r11}
  add r12, r0, r3
  vmov s0, r12
  ands r3, r3, #3
  beq 2f
  vmov s1, r3
1:                                // what is no multiple of four
  element \is_alike
  vmov r3, s1
  subs r3, #1
  vmov s1, r3
  bne 1b
  vmov r3, s0
  cmp r0, r3
  beq 3f
2:
  .rept 4
  element \is_alike
  .endr
  vmov r3, s0
  cmp r0, r3
  bne.w 2b
3:
  pop {r4-r11, pc}
  .size \name, . - \name
.endm

  add_loops reds_add_elements, 0
  add_loops reds_add_alike, 1

#elif defined(__linux__)
  .section .note.GNU-stack, "", %progbits  // or the linker makes the stack executable
#endif
