// The loops of depthwise_conv2d_3x3.cc, which says what they compute.
//
//   uint32_t* reds_pack_line(const Packing* packing, const int8_t* line, uint32_t* packed);
//   void reds_depthwise_3x3_stride1(Job* job);
//   void reds_depthwise_3x3_stride2(Job* job);
//
// Cycles for 8 outputs of one channel, 72 products, on a Cortex-M4 without wait states:
//                       stride 1   stride 2
//   sums, 3 lines             80         98
//   requantisation, bytes     53         53
//   loop                      10         10
//                     143 = 2.0  161 = 2.2 per product
//
// Packing takes 18 for 8 values, 3 for the loop, 9 for a word of zeros, and 60 for a line.
#include "../../include/reds/core.h"

#if REDS_DSP_KERNELS

#include "requantize.h"

  .syntax unified
  .thumb

// Bytes from the start of a Job. Its first twelve words live in s0 ... s11:
//   s0 ... s5 weights, s6 bias, s7 multiplier, s8 rounding, s9 shift, s10 line_bytes, s11 output_step
  .equ kX, 48
  .equ kOutput, 52
  .equ kXLineStep, 56
  .equ kOutputLineStep, 60
  .equ kLines, 64
  .equ kBlocks, 68
  .equ kPairs, 72
  .equ kIsEven, 76

// Two neighbouring outputs y0 and y1 from words a, b (stride 2: a, b, c), on top of from0, from1.
// r12 = (w0, w1), lr = (w1, w2)
.macro outputs stride, y0, y1, a, b, c, from0, from1
  smlad \y0, \a, r12, \from0
.if \stride == 1
  smlatb \y1, \a, r12, \from1
  smlabt \y0, \b, lr, \y0
  smlad \y1, \b, lr, \y1
.else
  smlad \y1, \b, r12, \from1
  smlabt \y0, \b, lr, \y0
  smlabt \y1, \c, lr, \y1
.endif
.endm

// The same; in a window's first line on top of the bias, which is in the last output's register.
.macro outputs_of stride, first, bias, y0, y1, a, b, c
.if \first
  outputs \stride, \y0, \y1, \a, \b, \c, \bias, \bias
.else
  outputs \stride, \y0, \y1, \a, \b, \c, \y0, \y1
.endif
.endm

// One line of the window, for n outputs in r4 ... r11. r0 = x. Uses r1, r2, r3.
.macro window_line stride, n, first, bias, w01, w12
  vmov r12, \w01
  vmov lr, \w12
  ldr r1, [r0]
  ldr r2, [r0, #16]
.if \stride == 1
.if \n > 2
  ldr r3, [r0, #32]
.endif
  outputs_of 1, \first, \bias, r4, r5, r1, r2
.if \n > 2
  outputs_of 1, \first, \bias, r6, r7, r2, r3
.endif
.if \n > 4
  ldr r1, [r0, #48]
.if \n > 6
  ldr r2, [r0, #64]
.endif
  outputs_of 1, \first, \bias, r8, r9, r3, r1
.endif
.if \n > 6
  outputs_of 1, \first, \bias, r10, r11, r1, r2
.endif
.else
  ldr r3, [r0, #32]
  outputs_of 2, \first, \bias, r4, r5, r1, r2, r3
.if \n > 2
  ldr r1, [r0, #48]
  ldr r2, [r0, #64]
  outputs_of 2, \first, \bias, r6, r7, r3, r1, r2
.endif
.if \n > 4
  ldr r3, [r0, #80]
  ldr r1, [r0, #96]
  outputs_of 2, \first, \bias, r8, r9, r2, r3, r1
.endif
.if \n > 6
  ldr r2, [r0, #112]
  ldr r3, [r0, #128]
  outputs_of 2, \first, \bias, r10, r11, r1, r2, r3
.endif
.endif
.endm

// r1 = multiplier, r2 = rounding, r3 = shift, r12 = output, lr = output_step
.macro store sum
  requantize \sum, r1, r2, r3, r12, lr
.endm

// n outputs, the last one in register `last`, from r0 = x to the bytes at s14. Leaves r12 behind
// them. In a tail the last one is stored only if is_even.
.macro block stride, n, last, is_tail
  vmov \last, s6
  window_line \stride, \n, 1, \last, s0, s1
  vmov r3, s10
  add r0, r3
  window_line \stride, \n, 0, \last, s2, s3
  vmov r3, s10
  add r0, r3
  window_line \stride, \n, 0, \last, s4, s5
  vmov r1, s7
  vmov r2, s8
  vmov r3, s9
  vmov r12, s14
  vmov lr, s11
  store r4
.if \n > 2
  store r5
  store r6
.endif
.if \n > 4
  store r7
  store r8
.endif
.if \n > 6
  store r9
  store r10
.endif
.if \is_tail
  vmov r0, s12
  ldr r0, [r0, #kIsEven]
  cmp r0, #0
  beq .Lnext_line\@
.endif
  store \last
.Lnext_line\@:
.endm

// s12 = job, s13 = x of the block, s14 = output, s15 = blocks that are left
.macro multiply_lines name, stride
  .section .text.\name, "ax", %progbits
  .global \name
  .type \name, %function
  .thumb_func
\name:
  push {r4-r11, lr}
  vldm r0, {s0-s11}
  vmov s12, r0
1:                                // a line of outputs
  vmov r1, s12
  ldr r0, [r1, #kX]
  ldr r12, [r1, #kOutput]
  ldr r2, [r1, #kXLineStep]
  ldr r3, [r1, #kOutputLineStep]
  add r2, r0
  str r2, [r1, #kX]
  add r3, r12
  str r3, [r1, #kOutput]
  vmov s14, r12
  ldr r2, [r1, #kBlocks]
  cmp r2, #0
  beq 3f
  vmov s15, r2
2:
  vmov s13, r0
  block \stride, 8, r11, 0
  vmov s14, r12
  vmov r0, s13
  adds r0, #(64 * \stride)
  vmov r1, s15
  subs r1, #1
  vmov s15, r1
  bne 2b
  vmov r1, s12
3:                                // what is left of it
  ldr r2, [r1, #kPairs]
  tbh [pc, r2, lsl #1]
8:
  .hword (4f - 8b) / 2, (7f - 8b) / 2, (5f - 8b) / 2, (6f - 8b) / 2, (9f - 8b) / 2
4:
  vmov r1, s12
  ldr r2, [r1, #kLines]
  subs r2, #1
  str r2, [r1, #kLines]
  bne 1b
  pop {r4-r11, pc}
7:
  block \stride, 2, r5, 1
  b 4b
5:
  block \stride, 4, r7, 1
  b 4b
6:
  block \stride, 6, r9, 1
  b 4b
9:
  block \stride, 8, r11, 1
  b 4b
  .size \name, . - \name
.endm

  multiply_lines reds_depthwise_3x3_stride1, 1
  multiply_lines reds_depthwise_3x3_stride2, 2

// Bytes from the start of a Packing.
  .equ kStep, 0
  .equ kMinusZeroPoint, 4
  .equ kZeroPoints, 8
  .equ kZerosBefore, 12
  .equ kIsFirstAlone, 16
  .equ kPairsInside, 20
  .equ kIsLastAlone, 24
  .equ kZerosBehind, 28
  .equ kWords, 32

// Four channels of two pixels, r4 and r5: x - zero_point in pairs, channel by channel.
.macro pack_pair
  sxtab16 r6, r3, r4
  sxtab16 r7, r3, r5
  sxtab16 r4, r3, r4, ror #8
  sxtab16 r5, r3, r5, ror #8
  pkhbt r8, r6, r7, lsl #16
  pkhbt r9, r4, r5, lsl #16
  pkhtb r10, r7, r6, asr #16
  pkhtb r11, r5, r4, asr #16
  stmia r2!, {r8-r11}
.endm

// r12 words of zeros, or none.
.macro zeros
  cmp r12, #0
  beq 2f
  movs r4, #0
  movs r5, #0
  movs r6, #0
  movs r7, #0
1:
  stmia r2!, {r4-r7}
  subs r12, #1
  bne 1b
2:
.endm

  .section .text.reds_pack_line, "ax", %progbits
  .global reds_pack_line
  .type reds_pack_line, %function
  .thumb_func
reds_pack_line:
  push {r4-r11, lr}
  ldr r12, [r0, #kWords]
  cmp r1, #0
  beq 7f
  ldr r12, [r0, #kZerosBefore]
  ldr lr, [r0, #kStep]
  ldr r3, [r0, #kMinusZeroPoint]
  zeros
  ldr r12, [r0, #kIsFirstAlone]
  cmp r12, #0
  beq 3f
  ldr r4, [r0, #kZeroPoints]
  ldr r5, [r1]
  add r1, lr
  pack_pair
3:
  ldr r12, [r0, #kPairsInside]
  cmp r12, #0
  beq 5f
4:
  ldr r4, [r1]
  ldr r5, [r1, lr]
  add r1, r1, lr, lsl #1
  pack_pair
  subs r12, #1
  bne 4b
5:
  ldr r12, [r0, #kIsLastAlone]
  cmp r12, #0
  beq 6f
  ldr r4, [r1]
  ldr r5, [r0, #kZeroPoints]
  pack_pair
6:
  ldr r12, [r0, #kZerosBehind]
7:
  zeros
  mov r0, r2
  pop {r4-r11, pc}
  .size reds_pack_line, . - reds_pack_line

#elif defined(__linux__)
  .section .note.GNU-stack, "", %progbits  // or the linker makes the stack executable
#endif
