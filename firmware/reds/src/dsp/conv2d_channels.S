// The loops of conv2d.cc for requantisation in four instructions: two channels of all of a tile's
// pixels, four at a time, from packed values to bytes.
//
//   void reds_conv2d_blocks(const Job* job);
//
// Cycles of a block of 2 channels by 4 pixels, on a Cortex-M4 without wait states: 16 for every
// pair of products (16 of them), 3.5 for every 16 pairs, and 84 for bias, bytes and the loops:
// 1.17 per product when a window has 64 of them.
#if defined(__ARM_FEATURE_DSP) && !defined(REDS_PORTABLE_KERNELS)

  .syntax unified
  .thumb

  .equ kPairsPerPass, 16
  .equ kStepCode, 56  // bytes of code of a step

// A Job's words live in s0 ... s14:
//   s0, s1, s2   multiplier, rounding, shift of the first channel
//   s3, s4, s5   of the second one
//   s6, s7       their biases, doubled
//   s8           output_step: bytes from pixel to pixel
//   s9           weights
//   s10          weights_end
//   s11          x
//   s12          output of the first channel
//   s13          blocks
//   s14          pairs
// and then:
//   s14 where to enter a pass for the pairs behind the first one
//   s15 what to add to x for that; half of it to the weights

// One pair of products of two channels (r2, r3) and four pixels: r4 ... r7, r8 ... r11 are the sums
// on top of from0 ... from7. 6 loads and 8 multiplications in 16 cycles; all registers there are.
.macro step x, w, from0=r4, from1=r5, from2=r6, from3=r7, from4=r8, from5=r9, from6=r10, from7=r11
  ldr.w r2, [r1, #\w]
  ldr.w r3, [r1, #\w + 4]
  ldr.w r12, [r0, #\x]
  ldr.w lr, [r0, #\x + 4]
  smlad r4, r2, r12, \from0
  smlad r5, r2, lr, \from1
  smlad r8, r3, r12, \from4
  smlad r9, r3, lr, \from5
  ldr.w r12, [r0, #\x + 8]
  ldr.w lr, [r0, #\x + 12]
  smlad r6, r2, r12, \from2
  smlad r7, r2, lr, \from3
  smlad r10, r3, r12, \from6
  smlad r11, r3, lr, \from7
.endm

// r1 = output, r2 = output_step, r3 = multiplier, r12 = rounding, lr = shift. See simd.h.
.macro requantize sum
  add r0, r12, \sum, asr #31
  smmlar r0, \sum, r3, r0
  asr r0, r0, lr
  ssat r0, #8, r0
  strb r0, [r1]
  add r1, r2
.endm

  .section .text.reds_conv2d_blocks, "ax", %progbits
  .global reds_conv2d_blocks
  .type reds_conv2d_blocks, %function
  .thumb_func
reds_conv2d_blocks:
  push {r4-r11, lr}
  vldm r0, {s0-s14}
  // The first pair takes the biases along. The others go in passes of 16, of which the first one
  // is entered so that the last one is whole.
  vmov r2, s14
  subs r2, #1
  rsb r2, r2, #0
  and r2, r2, #(kPairsPerPass - 1)  // pairs to skip
  rsb r3, r2, #1
  lsls r12, r3, #4
  vmov s15, r12
  movs r3, #kStepCode
  mul r2, r2, r3
  adr.w r3, 2f
  add r3, r2
  orr r3, r3, #1
  vmov s14, r3
  vmov r0, s11
1:                                // a block; r0 = x
  vmov r1, s9
  vmov r7, s6
  vmov r11, s7
  step 0, 0, r7, r7, r7, r7, r11, r11, r11, r11
  vmov r2, s15
  add r0, r2
  add r1, r1, r2, asr #1
  vmov r2, s14
  bx r2
  .balign 4
2:
  .set i, 0
  .rept kPairsPerPass
  step (16 * i), (8 * i)
  .set i, i + 1
  .endr
  add.w r0, r0, #(16 * kPairsPerPass)
  adds r1, #(8 * kPairsPerPass)
  vmov lr, s10
  cmp r1, lr
  bne.w 2b
  vmov s11, r0
  vmov r1, s12
  vmov r2, s8
  vmov r3, s0
  vmov r12, s1
  vmov lr, s2
  requantize r4
  requantize r5
  requantize r6
  requantize r7
  vmov r0, s12
  vmov s12, r1
  adds r1, r0, #1
  vmov r3, s3
  vmov r12, s4
  vmov lr, s5
  requantize r8
  requantize r9
  requantize r10
  requantize r11
  vmov r0, s11
  vmov r2, s13
  subs r2, #1
  vmov s13, r2
  bne.w 1b
  pop {r4-r11, pc}
  .size reds_conv2d_blocks, . - reds_conv2d_blocks

#elif defined(__linux__)
  .section .note.GNU-stack, "", %progbits  // or the linker makes the stack executable
#endif
