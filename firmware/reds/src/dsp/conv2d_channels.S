// The loops of conv2d.cc.
//
//   void reds_conv2d_channels(Job* job);
//   void reds_conv2d_channels_one_product(Job* job);
//   void reds_conv2d_block(const uint32_t* x, const uint32_t* weights, uint32_t pairs, int32_t* sums);
//
// The first two are for requantisation in four instructions and in two: from packed pixels and the
// store's weights to bytes, for many pairs of channels that follow each other. Cycles on a Cortex-M4
// without wait states, of a block of 2 channels by 4 pixels: 15 for each of the first 8 pairs of
// products (16 of them), whose weights stay in registers, 16 for every other one, 7 for 24 of these,
// and 65 (one product: 45) for bias, bytes and the loops: 1.13 (1.09) per product when a window has 64
// of them. Where it has no more than those 8 pairs the rest takes 70 (50). A last pixel alone takes 8
// for every pair of products (4 of them) and 35 (27). Two channels cost 119 (99), 27 for every 8
// products of a window and 15 for every further run of weights: these are packed once for all blocks.
#include "../../include/reds/core.h"

#if REDS_DSP_KERNELS

#include "requantize.h"
#include "short_step.h"

  .syntax unified
  .thumb

  .equ kPairsPerPass, 24
  .equ kStepCode, 56  // bytes of code of a step
  .equ kShortPairs, 8
  .equ kShortStepCode, 44

// Bytes from the start of a Job, which lies at [sp, #kSaved].
  .equ kSaved, 64
  .equ kRows, 0
  .equ kWords, 8
  .equ kPacked, 12
  .equ kBias, 16
  .equ kMultiplier, 20
  .equ kShift, 24
  .equ kZeroPoint, 28
  .equ kX, 32
  .equ kOutput, 36
  .equ kOutputStep, 40
  .equ kEnd, 44
  .equ kLastEnd, 48
  .equ kBack, 52
  .equ kRowStep, 56
  .equ kPairs, 60
  .equ kTaps, 64
  .equ kTapWords, 68
  .equ kTapGap, 72

// While two channels are computed:
//   s0, s1, s2   multiplier, rounding, shift of the first one
//   s3, s4, s5   of the second one
//   s6, s7       their biases, doubled. One product: as they are, and no s1, s2, s4, s5
//   s8           output_step
//   s9, s10      packed weights where a pass is entered, and where they end
//   s11          runs of weights that are left
//   s12          output of the first channel
//   s13          where x ends
//   s14          where to enter the loop of up to 8 pairs of products, or a pass of those behind 8
//   s15          what to add to x for a pass
//   s16 ... s31  the weights of the first 8 pairs, or of the last 8 if there are no more
// and, while their weights are packed,
//   r0, r1       the store's weights of the first and the second one
//   r2           words of the run that are left, in twos
//   r3           packed weights
//   r4, r5, r10, r11  words of four weights; r6 ... r9 what they become
//   r12, lr      the job, 0xFF00FF00 (one product)
// in a block,
//   r0, r1       x and packed weights, which a pass moves on at its end; of the first 8 pairs: a weight
//   r2, r3, r12, lr   weights and pixels that are multiplied
//   r4 ... r7    sums of the first one's four pixels, r8 ... r11 of the second one's; later bytes
// then as `finish` tells; in the last pixel alone,
//   r0, r1       x and packed weights; r2, r3, r7 a pair of weights of each and of pixels
//   r4, r5       sums; r6 where packed weights end

// One pair of products of two channels (r2, r3) and four pixels: r4 ... r7, r8 ... r11 are the sums.
// 6 loads and 8 multiplications in 16 cycles; all registers there are.
.macro step x, w
  ldr.w r2, [r1, #\w]
  ldr.w r3, [r1, #\w + 4]
  ldr.w r12, [r0, #\x]
  ldr.w lr, [r0, #\x + 4]
  smlad r4, r2, r12, r4
  smlad r5, r2, lr, r5
  smlad r8, r3, r12, r8
  smlad r9, r3, lr, r9
  ldr.w r12, [r0, #\x + 8]
  ldr.w lr, [r0, #\x + 12]
  smlad r6, r2, r12, r6
  smlad r7, r2, lr, r7
  smlad r10, r3, r12, r10
  smlad r11, r3, lr, r11
.endm

// r2 = multiplier, r3 = rounding, r12 = shift. Uses lr.
.macro to_int8 one_product, sum
.if \one_product
  requantize_with_one_product \sum, r2
.else
  requantize \sum, r2, r3, r12, lr
.endif
.endm

// What that wants, of the first or the second channel.
.macro constants one_product, multiplier, rounding, shift
  vmov r2, \multiplier
.if !\one_product
  vmov r3, \rounding
  vmov r12, \shift
.endif
.endm

// Two channels of a pixel to r1, which moves on by r2.
.macro store first, second
  bfi \first, \second, #8, #8
  strh \first, [r1]
  add r1, r2
.endm

// A block's sums to bytes; whether r0 = x is at the end. r1 = output, r2 = multiplier and then
// output_step, r3 = rounding and then where x ends, r12 = shift, lr is free.
.macro finish one_product
  constants \one_product, s0, s1, s2
  .irp sum, r4, r5, r6, r7
  to_int8 \one_product, \sum
  .endr
  constants \one_product, s3, s4, s5
  .irp sum, r8, r9, r10, r11
  to_int8 \one_product, \sum
  .endr
  vmov r1, s12
  vmov r2, s8
  store r4, r8
  store r5, r9
  store r6, r10
  store r7, r11
  vmov s12, r1
  vmov r3, s13
  cmp r0, r3
.endm

// Those of 8 pairs.
.macro short_steps is_first=0
  short_step s16, s17, \is_first
  short_step s18, s19
  short_step s20, s21
  short_step s22, s23
  short_step s24, s25
  short_step s26, s27
  short_step s28, s29
  short_step s30, s31
.endm

// Weights of four products of two channels, times 256 for one product: (2 pairs, 2 channels).
// lr = 0xFF00FF00
.macro pack_words one_product, a, b
.if \one_product
  and r6, lr, \a, lsl #8
  and r7, lr, \b, lsl #8
  and r8, lr, \a
  and r9, lr, \b
.else
  sxtb16 r6, \a
  sxtb16 r7, \b
  sxtb16 r8, \a, ror #8
  sxtb16 r9, \b, ror #8
.endif
  stmia r3!, {r6-r9}
.endm

// rounding = (1 << (shift - 1)) + (zero_point << shift); r0 = 2 * zero_point + 1
.macro rounding to, shift
  subs r1, \shift, #1
  lsl \to, r0, r1
.endm

.macro channels name, one_product
  .section .text.\name, "ax", %progbits
  .global \name
  .type \name, %function
  .thumb_func
\name:
  push {r0, r4-r11, lr}
  vpush {s16-s31}
  mov r12, r0
  // The first 8 pairs of products have their weights in registers. The others go in passes, of which
  // the first one is entered so that the last one is whole.
  ldr r2, [r12, #kWords]
  lsls r2, #1
  subs r2, #kShortPairs
  ble 1f
  add r3, r2, #(kPairsPerPass - 1)
  movs r4, #kPairsPerPass
  udiv r3, r3, r4
  mul r3, r3, r4
  subs r2, r3, r2  // pairs to skip
  rsb r3, r2, #0
  lsls r3, #4
  vmov s15, r3
  movs r3, #kStepCode
  mul r2, r2, r3
  adr.w r3, 5f
  b 12f
1:                                // there are 2, 4, 6 or 8, and a loop that is entered alike
  rsb r2, r2, #0
  movs r3, #kShortStepCode
  mul r2, r2, r3
  adr.w r3, 13f
12:
  add r3, r2
  orr r3, r3, #1
  vmov s14, r3
1:                                // two channels; r12 = job
  ldm r12, {r0-r3}
  ldr lr, [r12, #kRowStep]
  add r4, r0, lr
  add r5, r1, lr
  strd r4, r5, [r12, #kRows]
  ldr r4, [r12, #kTaps]
  vmov s11, r4
.if \one_product
  movw lr, #0xFF00
  movt lr, #0xFF00
.endif
10:                               // a run of weights
  ldr r2, [r12, #kTapWords]
  lsrs r2, #1
  bcc 2f
  ldr r4, [r0], #4
  ldr r5, [r1], #4
  pack_words \one_product, r4, r5
  cbz r2, 3f
2:
  ldr r4, [r0], #4
  ldr r10, [r0], #4
  ldr r5, [r1], #4
  ldr r11, [r1], #4
  pack_words \one_product, r4, r5
  pack_words \one_product, r10, r11
  subs r2, #1
  bne 2b
3:
  vmov r4, s11
  subs r4, #1
  beq 11f
  vmov s11, r4
  ldr r4, [r12, #kTapGap]
  add r0, r4
  add r1, r4
  b 10b
11:
  vmov s10, r3
  ldr r1, [r12, #kPacked]
  ldr r2, [r12, #kWords]
  subs r2, #(kShortPairs / 2)
  bls 16f
  vldm r1!, {s16-s31}
  vmov r3, s15
  add r1, r1, r3, asr #1
  vmov s9, r1
  b 17f
16:
  add r1, r1, r2, lsl #4  // the first ones may be no weights, and are not used
  vldm r1, {s16-s31}
17:
  ldr r1, [r12, #kBias]
  ldr r2, [r12, #kMultiplier]
  ldrd r4, r5, [r1], #8
  ldrd r6, r7, [r2], #8
  str r1, [r12, #kBias]
  str r2, [r12, #kMultiplier]
.if !\one_product
  lsls r4, #1
  lsls r5, #1
.endif
  vmov s6, r4
  vmov s7, r5
  vmov s0, r6
  vmov s3, r7
.if !\one_product
  ldr r3, [r12, #kShift]
  ldrsb r8, [r3], #1
  ldrsb r9, [r3], #1
  str r3, [r12, #kShift]
  rsb r8, r8, #0
  rsb r9, r9, #0
  vmov s2, r8
  vmov s5, r9
  ldr r0, [r12, #kZeroPoint]
  lsls r0, #1
  adds r0, #1
  rounding r4, r8
  rounding r5, r9
  vmov s1, r4
  vmov s4, r5
.endif
  ldr r0, [r12, #kX]
  ldr r1, [r12, #kOutput]
  ldr r2, [r12, #kOutputStep]
  ldr r3, [r12, #kEnd]
  vmov s12, r1
  adds r1, #2
  str r1, [r12, #kOutput]
  vmov s8, r2
  vmov s13, r3
  cmp r0, r3
  beq 6f
3:
  ldr r3, [r12, #kWords]
  cmp r3, #(kShortPairs / 2)
  bls 18f
4:                                // a block; r0 = x
  vmov r7, s6
  vmov r11, s7
  short_steps 1
  vmov r2, s15
  vmov r1, s9
  vmov r3, s14
  add r0, r2
  bx r3
  .balign 4
5:
  .set i, 0
  .rept kPairsPerPass
  step (16 * i), (8 * i)
  .set i, i + 1
  .endr
  add.w r0, r0, #(16 * kPairsPerPass)
  adds r1, #(8 * kPairsPerPass)
  vmov lr, s10
  cmp r1, lr
  bne.w 5b
  finish \one_product
  bne.w 4b
14:
  ldr r12, [sp, #kSaved]
6:                                // a last block takes pixels for a second time
  ldr r2, [r12, #kBack]
  cmp r2, #0
  beq 7f
  ldr r4, [r12, #kLastEnd]
  cmp r0, r4
  beq 7f
  vmov s13, r4
  vmov r1, s12
  ldr r5, [r12, #kOutputStep]
  add r5, r5, r5, lsl #1
  cmp r2, r5
  beq 8f
  subs r1, r2
  vmov s12, r1
  b.w 3b
8:                                // three of them: its last pixel alone
  adds r0, #12
  ldr r1, [r12, #kPacked]
  vmov r4, s6
  vmov r5, s7
  vmov r6, s10
9:
  .rept 2
  ldr r2, [r1], #4
  ldr r3, [r1], #4
  ldr r7, [r0], #16
  smlad r4, r2, r7, r4
  smlad r5, r3, r7, r5
  .endr
  cmp r1, r6
  bne 9b
  constants \one_product, s0, s1, s2
  to_int8 \one_product, r4
  constants \one_product, s3, s4, s5
  to_int8 \one_product, r5
  vmov r1, s12
  store r4, r5
  ldr r12, [sp, #kSaved]
7:
  ldr r2, [r12, #kPairs]
  subs r2, #1
  str r2, [r12, #kPairs]
  bne.w 1b
  vpop {s16-s31}
  pop {r0, r4-r11, pc}
18:                               // blocks of up to 8 pairs of products
  vmov r1, s14
15:
  vmov r4, s6
  vmov r5, s6
  vmov r6, s6
  vmov r7, s6
  vmov r8, s7
  vmov r9, s7
  vmov r10, s7
  vmov r11, s7
  bx r1
  .balign 4
13:
  short_steps
  finish \one_product
  vmov r1, s14
  bne 15b
  b 14b
  .size \name, . - \name
.endm

  channels reds_conv2d_channels, 0
  channels reds_conv2d_channels_one_product, 1

// The third one adds to sums[channel][pixel], of two channels and four pixels, the products of
// packed pixels (pairs, 4 pixels) and weights (pairs, 2 channels); pairs > 0. 16 cycles for a pair, 7
// for 8 of these, 54 for a call.
//   r0, r1       x and packed weights
//   r2, r3, r12, lr   weights and pixels, see `step`; at first r2 = pairs
//   r4 ... r11   sums
//   s0, s1       where sums lie, where x ends
  .equ kPairsPerBlockPass, 8

  .section .text.reds_conv2d_block, "ax", %progbits
  .global reds_conv2d_block
  .type reds_conv2d_block, %function
  .thumb_func
reds_conv2d_block:
  push {r4-r11, lr}
  vmov s0, r3
  ldmia r3, {r4-r11}
  add r12, r0, r2, lsl #4
  vmov s1, r12  // where x ends
  // a remainder: enter the pass in its middle, pointers set back accordingly
  rsbs r2, r2, #0
  and r2, r2, #(kPairsPerBlockPass - 1)
  sub r0, r0, r2, lsl #4
  sub r1, r1, r2, lsl #3
  movs r3, #kStepCode
  mul r2, r2, r3
  adr.w r3, 1f
  add r3, r2
  orr r3, r3, #1
  bx r3
  .balign 4
1:
  .set i, 0
  .rept kPairsPerBlockPass
  step (16 * i), (8 * i)
  .set i, i + 1
  .endr
  adds r0, #(16 * kPairsPerBlockPass)
  adds r1, #(8 * kPairsPerBlockPass)
  vmov lr, s1
  cmp r0, lr
  bne.w 1b
  vmov r0, s0
  stmia r0, {r4-r11}
  pop {r4-r11, pc}
  .size reds_conv2d_block, . - reds_conv2d_block

#elif defined(__linux__)
  .section .note.GNU-stack, "", %progbits  // or the linker makes the stack executable
#endif
