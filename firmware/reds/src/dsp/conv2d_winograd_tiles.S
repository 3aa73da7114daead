// The transforms and the product of conv2d_winograd.cc, which has the algebra.
//
//   void reds_winograd_window(const int8_t* pixels, uint32_t pixel_step, uint32_t line_step,
//                             uint32_t words, uint32_t correction, uint32_t* transformed);
//   void reds_winograd_weights(const int8_t* taps, uint32_t tap_step, uint32_t words,
//                              uint32_t* transformed);
//   void reds_winograd_block(const Block* block);
//   void reds_winograd_block_one_product(const Block* block);
//
// words: of four channels read, at least one. Cycles on a Cortex-M4 without wait states: 855 for a
// window of 6 x 6 pixels and 306 for the 9 weights of an output channel, per word; for a block of 2
// channels by 4 tiles, 36 * (about 16.2 for every pair of channels read, and 13 to 18, or 28 of more
// than 4 words) + 8 * 349 + 125; with one product 8 * 309.
#include "../../include/reds/core.h"

#if REDS_DSP_KERNELS

#include "requantize.h"

  .syntax unified
  .thumb

  .equ kPoints, 36
  .equ kPixelPair, 16 * kPoints   // bytes of a pair of channels in four transformed windows
  .equ kWeightPair, 8 * kPoints   // the same in the transformed weights of two output channels

// ---- windows ----
//
// Two channels are computed at once, in one word: as high * 2^16 + low, an integer modulo 2^32 that
// plain additions with shifts transform, whatever borrows there are in between. Pixels enter as
// x + 128, which is not negative, so that they are such integers at once. At the end, low + 2^15 is
// not negative either, so the upper half is free of borrows; flipping bit 15 gives two halfwords.
// Of x + 128 instead of x - zero_point only one point can tell, that of the line and the column
// whose factors do not sum up to zero: `correction` is what is too much there, in both halfwords.
//
// On the stack: what the lines became, (6 lines, even and odd channels, 6 columns).
//   s0  pixels of the next four channels     s1  line_step
//   s2  words that are left                  s3  where the lines end
//   s4  transformed                          s5  correction
//   s6  pixel_step
// r0 = pixels of a line, r1 = pixel_step, r2 = 128 in both halfwords, r3 ... r8 = pixels, r9 ... lr
// free; then r0 = on the stack, r1 = transformed, r2 = where r1 ends, r3 ... r9 a column.

  .equ kLineBytes, 48  // on the stack

// r3 ... r8 = six pixels: a line of two channels, to the stack. Uses r2, r9 ... lr. 25 cycles.
.macro transform_line rotation, to
  sxtab16 r9, r2, r3, ror #\rotation
  sxtab16 r10, r2, r4, ror #\rotation
  sxtab16 r11, r2, r5, ror #\rotation
  sxtab16 r12, r2, r6, ror #\rotation
  sxtab16 lr, r2, r7, ror #\rotation
  sub r9, r11, r9                // d2 - d0
  sub r2, lr, r11                // c = d4 - d2
  sub lr, lr, r11, lsl #2        // a = d4 - 4 d2
  sub r9, r2, r9, lsl #2
  str r9, [sp, #\to]             // 4 d0 - 5 d2 + d4
  sub r11, r12, r10              // f = d3 - d1
  sub r10, r12, r10, lsl #2      // b = d3 - 4 d1
  add r9, lr, r10
  str r9, [sp, #\to + 4]         // a + b
  sub r9, lr, r10
  str r9, [sp, #\to + 8]         // a - b
  add r9, r2, r11, lsl #1
  str r9, [sp, #\to + 12]        // c + 2 f
  sub r9, r2, r11, lsl #1
  str r9, [sp, #\to + 16]        // c - 2 f
  mov.w r2, #0x00800080
  sxtab16 r9, r2, r8, ror #\rotation
  sub r9, r9, r12
  sub r9, r9, r11, lsl #2
  str r9, [sp, #\to + 20]        // 4 d1 - 5 d3 + d5
.endm

.macro store_point value, to
  eor \value, \value, #0x8000
  str \value, [r1, #\to]
.endm

// A column of two channels, from the stack to six points. r0, r1 = where from and to. 33 cycles.
.macro transform_column from, to
  ldr r3, [r0, #\from]
  ldr r4, [r0, #\from + kLineBytes]
  ldr r5, [r0, #\from + 2 * kLineBytes]
  ldr r6, [r0, #\from + 3 * kLineBytes]
  ldr r7, [r0, #\from + 4 * kLineBytes]
  ldr r8, [r0, #\from + 5 * kLineBytes]
  add r7, r7, #0x8000
  add r8, r8, #0x8000
  sub r3, r5, r3
  sub r9, r7, r5
  sub r7, r7, r5, lsl #2
  sub r3, r9, r3, lsl #2
  store_point r3, \to
  sub r5, r6, r4
  sub r4, r6, r4, lsl #2
  add r3, r7, r4
  store_point r3, (\to + 6 * 16)
  sub r3, r7, r4
  store_point r3, (\to + 12 * 16)
  add r3, r9, r5, lsl #1
  store_point r3, (\to + 18 * 16)
  sub r3, r9, r5, lsl #1
  store_point r3, (\to + 24 * 16)
  sub r8, r8, r6
  sub r8, r8, r5, lsl #2
  store_point r8, (\to + 30 * 16)
.endm

  .section .text.reds_winograd_window, "ax", %progbits
  .global reds_winograd_window
  .type reds_winograd_window, %function
  .thumb_func
reds_winograd_window:
  push {r4-r11, lr}
  ldrd r4, r5, [sp, #36]  // correction, transformed
  add r6, r2, r2, lsl #2
  add r0, r6              // lines are taken from the last one on
  add r6, r2
  vmov s0, r0
  vmov s6, r1
  vmov s1, r2
  vmov s2, r3
  vmov s5, r4
  vmov s4, r5
  sub r6, sp, #(6 * kLineBytes)
  vmov s3, r6
1:                        // four channels; r0 = pixels of the last line
  mov.w r2, #0x00800080
2:
  add r9, r0, r1
  add r9, r9, r1, lsl #1
  ldr r3, [r0]
  ldr r4, [r0, r1]
  ldr r5, [r0, r1, lsl #1]
  ldr r6, [r9]
  ldr r7, [r9, r1]
  ldr r8, [r9, r1, lsl #1]
  vmov r9, s1
  sub sp, #kLineBytes
  sub r0, r9
  transform_line 0, 0
  transform_line 8, 24
  vmov r9, s3
  cmp sp, r9
  bne 2b
  mov r0, sp
  vmov r1, s4
  add r2, r1, #(6 * 16)
3:
  transform_column 0, 0
  transform_column 24, kPixelPair
  adds r0, #4
  adds r1, #16
  cmp r1, r2
  bne.w 3b
  // the second point of the second line, of both pairs
  vmov r3, s5
  ldr r4, [r1, #(7 * 16 - 6 * 16)]
  ldr r5, [r1, #(7 * 16 - 6 * 16 + kPixelPair)]
  ssub16 r4, r4, r3
  ssub16 r5, r5, r3
  str r4, [r1, #(7 * 16 - 6 * 16)]
  str r5, [r1, #(7 * 16 - 6 * 16 + kPixelPair)]
  add r1, r1, #(2 * kPixelPair - 6 * 16)
  vmov s4, r1
  add sp, #(6 * kLineBytes)
  vmov r0, s0
  adds r0, #4
  vmov s0, r0
  vmov r2, s2
  subs r2, #1
  vmov s2, r2
  vmov r1, s6
  bne.w 1b
  pop {r4-r11, pc}
  .size reds_winograd_window, . - reds_winograd_window

// ---- weights ----
//
// Two channels read at once, as halfwords. Points of a line lie 8 bytes apart, with those of the
// other output channel in between.
//   r0, r1       taps of the next four channels, tap_step
//   r2           transformed
//   r3 ... r5    taps of the first line, then sums of the first and the last one
//   r6 ... r8    of the last line, then of the middle one
//   r9, r10      free
//   r11, r12, lr a line that is transformed; r12 also where the last or the middle line's taps are
//   s0           where the first taps end
//   s4 ... s6    first line plus four times the last one

// Three taps t0, t1, t2 to the six points of a line. Uses a, b, c; c may be t1. 15 cycles.
.macro transform_taps t0, t1, t2, a, b, c, to
  str \t0, [r2, #\to]
  str \t2, [r2, #\to + 40]
  sadd16 \a, \t0, \t2
  sadd16 \b, \a, \t1
  str \b, [r2, #\to + 8]         // t0 + t1 + t2
  ssub16 \b, \a, \t1
  str \b, [r2, #\to + 16]        // t0 - t1 + t2
  sadd16 \a, \t2, \t2
  sadd16 \a, \a, \a
  sadd16 \a, \a, \t0
  sadd16 \c, \t1, \t1
  sadd16 \b, \a, \c
  str \b, [r2, #\to + 24]        // t0 + 2 t1 + 4 t2
  ssub16 \b, \a, \c
  str \b, [r2, #\to + 32]        // t0 - 2 t1 + 4 t2
.endm

// Three neighbouring taps of two channels.
.macro load_taps t0, t1, t2, from, rotation
  ldr \t0, [\from]
  ldr \t1, [\from, r1]
  ldr \t2, [\from, r1, lsl #1]
  sxtb16 \t0, \t0, ror #\rotation
  sxtb16 \t1, \t1, ror #\rotation
  sxtb16 \t2, \t2, ror #\rotation
.endm

// g0, g2 to g0 + g2 and, in VFP registers, g0 + 4 g2.
.macro combine_taps g0, g2, to
  sadd16 r9, \g2, \g2
  sadd16 r9, r9, r9
  sadd16 r9, r9, \g0
  vmov \to, r9
  sadd16 \g0, \g0, \g2
.endm

// Lines of the outer sum plus and minus those of the middle one.
.macro combine_lines operation, to
  \operation r11, r3, r6
  \operation r12, r4, r7
  \operation lr, r5, r8
  transform_taps r11, r12, lr, r9, r10, r12, \to
.endm

// r3 ... r5 = first line of taps, r6 ... r8 = last line, then the middle one
.macro transform_kernel rotation
  add r11, r1, r1, lsl #1
  add r12, r0, r11
  add r12, r11
  load_taps r3, r4, r5, r0, \rotation
  load_taps r6, r7, r8, r12, \rotation
  transform_taps r3, r4, r5, r9, r10, r11, 0
  transform_taps r6, r7, r8, r9, r10, r11, (5 * 48)
  combine_taps r3, r6, s4
  combine_taps r4, r7, s5
  combine_taps r5, r8, s6
  add r12, r0, r1
  add r12, r12, r1, lsl #1
  load_taps r6, r7, r8, r12, \rotation
  combine_lines sadd16, 48
  combine_lines ssub16, (2 * 48)
  vmov r3, s4
  vmov r4, s5
  vmov r5, s6
  sadd16 r6, r6, r6
  sadd16 r7, r7, r7
  sadd16 r8, r8, r8
  combine_lines sadd16, (3 * 48)
  combine_lines ssub16, (4 * 48)
  add r2, r2, #kWeightPair
.endm

  .section .text.reds_winograd_weights, "ax", %progbits
  .global reds_winograd_weights
  .type reds_winograd_weights, %function
  .thumb_func
reds_winograd_weights:
  push {r4-r11, lr}
  add r2, r0, r2, lsl #2
  vmov s0, r2
  mov r2, r3
1:
  transform_kernel 0
  transform_kernel 8
  vmov r3, s0
  adds r0, #4
  cmp r0, r3
  bne.w 1b
  pop {r4-r11, pc}
  .size reds_winograd_weights, . - reds_winograd_weights

// ---- blocks ----
//
// First the products: for each of the 36 points a sum over the channels read, of 2 channels by 4
// tiles; then, of each channel and tile, 36 sums to 16 outputs.

// Bytes from the start of a Block.
  .equ kChannels, 16
  .equ kTiles, 48

  .equ kPairsPerHalf, 8    // of a pass; offsets of so many fit in an instruction
  .equ kStepCode, 56       // bytes of code of a step
  .equ kSumsBytes, 32      // of a point
  .equ kOneProductSumShift, 8  // as in plan.h

// Of the products:
//   r0, r1  x and weights   r2, r3, r12, lr  what is multiplied, see `step`   r4 ... r11  sums
//   s12, s11  sums, and where they end
// and of more than 4 words
//   s15  what to add to x, behind the first pair of channels; half of it to the weights
//   s14  where to enter a pass then
//   s13  the same as s15 behind the last pair of channels, to the next point
//   s10  where the weights of the first point end, those of all others less than a pass behind it

// A product of pairs, the first one or one more of a sum.
.macro product multiply, sum, w, x
.ifc \multiply, smuad
  smuad \sum, \w, \x
.else
  smlad \sum, \w, \x, \sum
.endif
.endm

// One pair of channels read: two channels (r2, r3) and four tiles; r4 ... r7, r8 ... r11 are sums.
.macro step x, w, multiply=smlad
  ldr.w r2, [r1, #\w]
  ldr.w r3, [r1, #\w + 4]
  ldr.w r12, [r0, #\x]
  ldr.w lr, [r0, #\x + 4]
  product \multiply, r4, r2, r12
  product \multiply, r5, r2, lr
  product \multiply, r8, r3, r12
  product \multiply, r9, r3, lr
  ldr.w r12, [r0, #\x + 8]
  ldr.w lr, [r0, #\x + 12]
  product \multiply, r6, r2, r12
  product \multiply, r7, r2, lr
  product \multiply, r10, r3, r12
  product \multiply, r11, r3, lr
.endm

// All points of so many pairs of channels, at most kPairsPerHalf, `points` at a time. 11 cycles a
// point and 7 for so many, and the steps.
.macro multiply_points pairs, points
1:
  .set point, 0
  .rept \points
  step (16 * point), (8 * point), smuad
  .set i, 1
  .rept (\pairs - 1)
  step (kPixelPair * i + 16 * point), (kWeightPair * i + 8 * point)
  .set i, i + 1
  .endr
  vmov r12, s12
  stmia r12!, {r4-r11}
  vmov s12, r12
  .set point, point + 1
  .endr
  adds r0, #(16 * \points)
  adds r1, #(8 * \points)
  vmov lr, s11
  cmp r12, lr
  bne.w 1b
  b.w 3f
.endm

.macro half_pass
  .set i, 0
  .rept kPairsPerHalf
  step (kPixelPair * i), (kWeightPair * i)
  .set i, i + 1
  .endr
  add.w r0, r0, #(kPixelPair * kPairsPerHalf)
  add.w r1, r1, #(kWeightPair * kPairsPerHalf)
.endm

// Leaves in r12 where the sums end. Takes all registers but s16 ... s31.
  .section .text.reds_winograd_products, "ax", %progbits
  .global reds_winograd_products
  .type reds_winograd_products, %function
  .thumb_func
reds_winograd_products:
  vmov s9, lr
  ldm r0, {r0-r3}         // x, weights, sums, pairs
  vmov s12, r2
  add r2, r2, #(kSumsBytes * kPoints)
  vmov s11, r2
  cmp r3, #6
  beq 6f
  bhi 5f
  cmp r3, #2
  beq 2f
  multiply_points 4, 2
2:
  multiply_points 2, 3
5:
  cmp r3, #8
  bhi 8f
  multiply_points 8, 1
6:
  multiply_points 6, 1
8:
  rsb r4, r3, #1
  and r4, r4, #15         // steps to skip, so that the last pass is whole
  movs r5, #kStepCode
  mul r5, r4, r5
  and r6, r4, #kPairsPerHalf  // and, in the second half, the 8 bytes of code between the halves
  add r5, r6
  adr.w r6, 2f
  add r5, r6
  orr r5, r5, #1
  vmov s14, r5
  and r4, r4, #(kPairsPerHalf - 1)
  mov.w r6, #kPixelPair
  mul r4, r4, r6
  sub r4, r6, r4
  vmov s15, r4
  mul r6, r3, r6
  add r5, r1, r6, lsr #1
  vmov s10, r5
  rsb r6, r6, #16
  vmov s13, r6
  b.w 1f
  .balign 4
2:
  half_pass
  half_pass
  vmov lr, s10
  cmp r1, lr
  blo.w 2b
  vmov r2, s13
  vmov r12, s12
  add r0, r2
  add r1, r1, r2, asr #1
  stmia r12!, {r4-r11}
  vmov s12, r12
  vmov lr, s11
  cmp r12, lr
  beq 3f
1:                        // a point; r0 = x, r1 = weights
  step 0, 0, smuad
  vmov r2, s15
  vmov r3, s14
  add r0, r2
  add r1, r1, r2, asr #1
  bx r3
3:
  vmov lr, s9
  bx lr
  .size reds_winograd_products, . - reds_winograd_products

// Six sums r1 ... r6, along one side of a tile, to four outputs r1, r5, r3, r6; times 1, 1/2, 1/4,
// 1/4, see conv2d_winograd.cc. In two parts: behind the first one `temporary` is free, the second one
// wants a 6. Use r2, r4. 10 cycles together.
.macro transform_sums temporary
  add \temporary, r2, r3
  sub r2, r2, r3
  add r3, r4, r5
  sub r4, r4, r5
  sub r5, r3, \temporary, lsl #2
  sub r3, r3, \temporary
.endm

.macro transform_outer_sums six
  mla r1, r1, \six, r5
  sub r5, r4, r2, lsl #1
  rsb r2, r2, r4, lsl #1
  mla r6, r6, \six, r2
.endm

// Of the outputs:
//   r0        sums; while a line is transformed free
//   r1 ... r6 a column or a line, r7 free and 6 in r12 or, with one product, in r11;
//             of a line r7 ... lr as `store` tells
//   s0 ... s23  (4 lines, 6 columns)      s24  1/9 modulo 2^32
//   s25  sums of the tile's first point   s26  the next tile's place
//   s27  from the end of a line of four outputs to the next line; with one product in r10
//   s28  the block                      s29  sums of the second channel

.macro transform_sums_column six, column, line0, line1, line2, line3
  ldr.w r1, [r0, #(kSumsBytes * \column)]
  ldr.w r2, [r0, #(kSumsBytes * (\column + 6))]
  ldr.w r3, [r0, #(kSumsBytes * (\column + 12))]
  ldr.w r4, [r0, #(kSumsBytes * (\column + 18))]
  ldr.w r5, [r0, #(kSumsBytes * (\column + 24))]
  ldr.w r6, [r0, #(kSumsBytes * (\column + 30))]
  transform_sums r7
  transform_outer_sums \six
  vmov \line0, r1
  vmov \line1, r5
  vmov \line2, r3
  vmov \line3, r6
.endm

// sum = 9 * 2^(halvings + 1) times an accumulator without bias. r7 = 1/9, r8 = bias, doubled,
// r9 = multiplier, r10 = rounding, r11 = shift, r12 = output, lr = pixel_step. 8 cycles. With one
// product r8 = offset, bias included, r9 = multiplier; 6 cycles.
.macro store one_product, sum, halvings
  mul \sum, \sum, r7
.if \one_product
  add \sum, r8, \sum, lsl #(kOneProductSumShift - 1 - (\halvings))
  requantize_with_one_product \sum, r9
.else
  add \sum, r8, \sum, asr #(\halvings)
  requantize \sum, r9, r10, r11, r0
.endif
  strb \sum, [r12]
  add r12, lr
.endm

// The first two outputs of a line of the tile are 4 and 2 times as large as the others.
.macro transform_sums_line one_product, a, b, c, d, e, f, halvings
  vmov r1, \a
  vmov r2, \b
  vmov r3, \c
  vmov r4, \d
  vmov r5, \e
  vmov r6, \f
  transform_sums r0
.if \one_product
  transform_outer_sums r11
.else
  movs r0, #6
  transform_outer_sums r0
.endif
  store \one_product, r1, (\halvings + 2)
  store \one_product, r5, (\halvings + 1)
  store \one_product, r3, \halvings
  store \one_product, r6, \halvings
.endm

.macro next_line one_product
.if \one_product
  add r12, r10
.else
  vmov r0, s27
  add r12, r0
.endif
.endm

.macro transform_sums_columns six
  transform_sums_column \six, 0, s0, s6, s12, s18
  transform_sums_column \six, 1, s1, s7, s13, s19
  transform_sums_column \six, 2, s2, s8, s14, s20
  transform_sums_column \six, 3, s3, s9, s15, s21
  transform_sums_column \six, 4, s4, s10, s16, s22
  transform_sums_column \six, 5, s5, s11, s17, s23
.endm

.macro load_requantization one_product
.if \one_product
  ldm r3, {r8, r9}
.else
  ldm r3, {r8-r11}
.endif
.endm

.macro block name, one_product
  .section .text.\name, "ax", %progbits
  .global \name
  .type \name, %function
  .thumb_func
\name:
  push {r4-r11, lr}
  vpush {s16-s29}
  vmov s28, r0
  bl reds_winograd_products
  sub r0, r12, #(kSumsBytes * kPoints)
  add r1, r0, #16
  vmov s29, r1
  ldr r1, =954437177      // 9 * it = 2^33 + 1
  vmov s24, r1
  vmov r1, s28
  add r2, r1, #kTiles
  add r3, r1, #kChannels
  load_requantization \one_product
.if \one_product
  movs r11, #6
.endif
4:                        // a channel and a tile; r0 = sums
  vmov s25, r0
  vmov s26, r2
.if \one_product
  transform_sums_columns r11
  vmov r0, s26
  ldm r0, {r10, r12, lr}  // line_step, output, pixel_step
.else
  movs r12, #6
  transform_sums_columns r12
  vmov r0, s26
  ldm r0, {r1, r12, lr}
  vmov s27, r1
.endif
  add r2, r12, #1         // the next channel's
  str r2, [r0, #4]
  adds r0, #12
  vmov s26, r0
  vmov r7, s24
  transform_sums_line \one_product, s0, s1, s2, s3, s4, s5, 3
  next_line \one_product
  transform_sums_line \one_product, s6, s7, s8, s9, s10, s11, 2
  next_line \one_product
  transform_sums_line \one_product, s12, s13, s14, s15, s16, s17, 1
  next_line \one_product
  transform_sums_line \one_product, s18, s19, s20, s21, s22, s23, 1
  vmov r0, s25
  vmov r2, s26
  adds r0, #4
  tst r0, #12
  bne.w 4b
  vmov r3, s29
  cmp r0, r3
  bne 5f
  vmov r1, s28            // the second channel
  add r2, r1, #kTiles
  add r3, r1, #(kChannels + 16)
  load_requantization \one_product
  b.w 4b
5:
  vpop {s16-s29}
  pop {r4-r11, pc}
  .ltorg
  .size \name, . - \name
.endm

  block reds_winograd_block, 0
  block reds_winograd_block_one_product, 1

#elif defined(__linux__)
  .section .note.GNU-stack, "", %progbits  // or the linker makes the stack executable
#endif
