// The loops of depthwise_conv2d_3x3.cc, which says what they compute.
//
//   uint32_t* reds_pack_lines(const Packing* packing, const int8_t* line, uint32_t* packed,
//                             uint32_t lines);
//   void reds_depthwise_3x3_stride1(Job* job);
//   void reds_depthwise_3x3_stride2(Job* job);
//   and both ending in _one_product
//
// Cycles for 8 outputs of one channel, 72 products, on a Cortex-M4 without wait states:
//                            stride 1   stride 2
//   sums, 3 lines                  80         98
//   requantisation, bytes          52         52   (one product: 34)
//   loop                            9          9
//                          141 = 2.0  159 = 2.2 per product (1.7, 2.0)
//
// A line of outputs takes 17 and 3 more if it has a rest, or 14 if it has less than 8; a rest of 2, 4,
// 6 outputs 52, 79, 109 (46, 69, 95), with stride 2 55, 88, 121 (49, 78, 107); a channel 84 (74).
// Packing takes 18 for 8 values, 15 for a pixel that has a zero beside it, 9 for a word of zeros, and
// 34 for a line.
#include "../../include/reds/core.h"

#if REDS_DSP_KERNELS

#include "requantize.h"

  .syntax unified
  .thumb

// Bytes from the start of a Job.
  .equ kTaps, 0
  .equ kBias, 4
  .equ kMultiplier, 8
  .equ kShift, 12
  .equ kTapStep, 16
  .equ kTapLineStep, 20
  .equ kRoundingFactor, 24
  .equ kLanes, 28
  .equ kX, 32
  .equ kOutput, 36
  .equ kConstants, 40
  .equ kPairs, 72

// While a channel is computed:
//   s0 ... s5   weights, doubled: (w0, w1) and (w1, w2) of each line; s6 bias, doubled, s7 multiplier,
//               s8 rounding, s9 shift. One product: weights times 256, bias as it is, no s8 and s9
//   s10, s11    from the last line of a block's window to the next block, output_step
//   s12, s13    likewise from the end of a line of outputs to the next one: x, output
//   s14         bytes of all lines of x, and of a line's whole blocks: s15
//   s16         bytes of a packed line
//   s17         whether the last output of the last pair is one
//   s18         where the tail of a line is computed
//   s19         where a line begins
//   s21         where x ends
//   s22         output of the block; s23 where the line's whole blocks end
//   r0 x, r1 ... r3 words of it, r12 and lr weights, r4 ... r11 sums; then as `store` tells

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

// r1 = multiplier, r2 = rounding, r3 = shift, r12 = output
.macro store one_product, sum, temporary
.if \one_product
  requantize_with_one_product \sum, r1
.else
  requantize \sum, r1, r2, r3, \temporary
.endif
  strb \sum, [r12]
.endm

// Behind others, and behind r4, which is free then; lr = output_step
.macro store_next one_product, sum
  add r12, lr
  store \one_product, \sum, r4
.endm

// n outputs, the last one in register `last`, from r0 = x to the bytes at s22. Leaves r12 at the last
// one, r0 at the window's last line. In a tail the last one is stored only if there is one.
.macro block one_product, stride, n, last, is_tail
.if \is_tail
  vmov s22, r12
.endif
  vmov \last, s6
  window_line \stride, \n, 1, \last, s0, s1
  vmov r3, s16
  add r0, r3
  window_line \stride, \n, 0, \last, s2, s3
  vmov r3, s16
  add r0, r3
  window_line \stride, \n, 0, \last, s4, s5
  vmov r1, s7
.if !\one_product
  vmov r2, s8
  vmov r3, s9
.endif
  vmov r12, s22
  store \one_product, r4, lr
  vmov lr, s11
.if \n > 2
  store_next \one_product, r5
  store_next \one_product, r6
.endif
.if \n > 4
  store_next \one_product, r7
  store_next \one_product, r8
.endif
.if \n > 6
  store_next \one_product, r9
  store_next \one_product, r10
.endif
.if \is_tail
  vmov r4, s17
  cmp r4, #0
  beq 4b
.endif
  store_next \one_product, \last
.endm

// The weights of a line, r7 ... r9, doubled or times 256, to `first` and `second`; then those of the
// next line, if any. r1 = taps, r5 = tap_step, r6 = tap_line_step. Uses r10, r11.
.macro weights one_product, first, second, is_followed
.if \one_product
  lsl r10, r7, #8
  lsl r11, r8, #8
  pkhbt r10, r10, r8, lsl #24
  pkhbt r11, r11, r9, lsl #24
.else
  pkhbt r10, r7, r8, lsl #16
  pkhbt r11, r8, r9, lsl #16
.endif
.if \is_followed
  add r1, r6
  ldrsb r7, [r1]
  ldrsb r8, [r1, r5]
  ldrsb r9, [r1, r5, lsl #1]
.endif
.if !\one_product
  sadd16 r10, r10, r10
  sadd16 r11, r11, r11
.endif
  vmov \first, r10
  vmov \second, r11
.endm

.macro multiply_lines name, one_product, stride
  .section .text.\name, "ax", %progbits
  .global \name
  .type \name, %function
  .thumb_func
\name:
  push {r0, r4-r11, lr}
  vpush {s16-s23}
  add r1, r0, #kConstants
  vldm r1, {s10-s17}
  ldr r1, [r0, #kPairs]
  adr.w r2, 8f
  ldrh r1, [r2, r1, lsl #1]
  add r1, r2
  orr r1, r1, #1
  vmov s18, r1
  vmov r2, s15
  cmp r2, #0
  itt ne
  adrne r1, 2f
  orrne r1, r1, #1
  vmov s19, r1
1:                                // a channel; r0 = job
  ldm r0, {r1-r6}
  ldrsb r7, [r1]
  ldrsb r8, [r1, r5]
  ldrsb r9, [r1, r5, lsl #1]
  weights \one_product, s0, s1, 1
  weights \one_product, s2, s3, 1
  weights \one_product, s4, s5, 0
  sub r1, r1, r6, lsl #1
  adds r1, #1
  ldr r8, [r2], #4
  ldr r9, [r3], #4
.if \one_product
  stm r0, {r1-r3}
  ldrd r6, r7, [r0, #kX]
.else
  ldrsb r10, [r4], #1
  stm r0, {r1-r4}
  ldr r5, [r0, #kRoundingFactor]
  ldrd r6, r7, [r0, #kX]
  lsl r8, r8, #1
  mvn r11, r10  // shift - 1
  lsl r5, r5, r11
  rsb r10, r10, #0
  vmov s8, r5
  vmov s9, r10
.endif
  vmov s6, r8
  vmov s7, r9
  vmov r1, s14
  add r1, r6
  vmov s21, r1
  adds r1, r6, #4
  adds r2, r7, #1
  strd r1, r2, [r0, #kX]
  mov r0, r6
  mov r12, r7
  vmov r1, s19
  bx r1
  .balign 4
2:                                // a line of outputs that has whole blocks
  vmov s22, r12
  vmov r1, s15
  add r1, r0
  vmov s23, r1
3:
  block \one_product, \stride, 8, r11, 0
  add r12, lr
  vmov s22, r12
  vmov r1, s10
  add r0, r1
  vmov r1, s23
  cmp r0, r1
  bne 3b
  vmov r1, s18
  bx r1
  .balign 4
8:
  .hword 4f - 8b, 5f - 8b, 6f - 8b, 9f - 8b, 10f - 8b
4:                                // r0 and r12 at the line's end
  vmov r1, s12
  add r0, r1
  vmov r1, s13
  add r12, r1
  vmov r1, s21
  cmp r0, r1
  beq 7f
  vmov r1, s19
  bx r1
7:
  ldr r0, [sp, #32]
  ldr r1, [r0, #kLanes]
  subs r1, #1
  str r1, [r0, #kLanes]
  bne 1b
  vpop {s16-s23}
  pop {r0, r4-r11, pc}
5:
  block \one_product, \stride, 2, r5, 1
  b 4b
6:
  block \one_product, \stride, 4, r7, 1
  b 4b
9:
  block \one_product, \stride, 6, r9, 1
  b 4b
10:
  block \one_product, \stride, 8, r11, 1
  b 4b
  .size \name, . - \name
.endm

  multiply_lines reds_depthwise_3x3_stride1, 0, 1
  multiply_lines reds_depthwise_3x3_stride2, 0, 2
  multiply_lines reds_depthwise_3x3_stride1_one_product, 1, 1
  multiply_lines reds_depthwise_3x3_stride2_one_product, 1, 2

// Bytes from the start of a Packing.
  .equ kStep, 0
  .equ kMinusZeroPoint, 4
  .equ kParts, 8  // line_step, zero_points, zeros_before, is_first_alone, pairs, is_last_alone, zeros_behind

// Four channels of two pixels, a and b: x - zero_point in pairs, channel by channel. Uses r8 ... r11.
.macro pack_pair a, b
  sxtab16 r8, r3, \a
  sxtab16 r10, r3, \b
  sxtab16 r9, r3, \a, ror #8
  sxtab16 r11, r3, \b, ror #8
  pkhbt \a, r8, r10, lsl #16
  pkhbt \b, r9, r11, lsl #16
  pkhtb r10, r10, r8, asr #16
  pkhtb r11, r11, r9, asr #16
  stmia r2!, {\a, \b, r10, r11}
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

//   r0           3 * step; r1 pixels, r2 packed, r3 minus_zero_point, lr step
//   r4 ... r7    words of four pixels, r8 ... r11 what they become
//   r12          how many are left of what is packed
//   s0 line_step, s1 ... s6 the other parts, s7 line, s8 lines that are left
  .section .text.reds_pack_lines, "ax", %progbits
  .global reds_pack_lines
  .type reds_pack_lines, %function
  .thumb_func
reds_pack_lines:
  push {r4-r11, lr}
  vmov s8, r3
  add r4, r0, #kParts
  vldm r4, {s0-s6}
  ldr r3, [r0, #kMinusZeroPoint]
  ldr lr, [r0, #kStep]
  add r0, lr, lr, lsl #1
3:
  vmov s7, r1
  vmov r12, s2
  zeros
  vmov r12, s3
  cmp r12, #0
  beq 4f
  vmov r4, s1
  ldr r5, [r1]
  add r1, lr
  pack_pair r4, r5
4:
  vmov r12, s4
  lsrs r12, r12, #1
  bcc 5f
  ldr r4, [r1]
  ldr r5, [r1, lr]
  add r1, r1, lr, lsl #1
  pack_pair r4, r5
5:
  beq 7f
6:
  ldr r4, [r1]
  ldr r5, [r1, lr]
  ldr r6, [r1, lr, lsl #1]
  ldr r7, [r1, r0]
  add r1, r1, lr, lsl #2
  pack_pair r4, r5
  pack_pair r6, r7
  subs r12, #1
  bne 6b
7:
  vmov r12, s5
  cmp r12, #0
  beq 8f
  ldr r4, [r1]
  vmov r5, s1
  pack_pair r4, r5
8:
  vmov r12, s6
  zeros
  vmov r1, s7
  vmov r12, s0
  add r1, r12
  vmov r12, s8
  subs r12, #1
  vmov s8, r12
  bne 3b
  mov r0, r2
  pop {r4-r11, pc}
  .size reds_pack_lines, . - reds_pack_lines

#elif defined(__linux__)
  .section .note.GNU-stack, "", %progbits  // or the linker makes the stack executable
#endif
