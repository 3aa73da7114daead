// For the assembler: one pair of products of two channels, whose weights are in registers, and of four
// pixels, at r0 = x, which moves on. 15 cycles. r4 ... r7 and r8 ... r11 are the sums; the first step takes
// biases along, from r7 and r11. Uses r1, r2, r3, r12, lr.
.macro short_step first, second, is_first=0
  vmov r1, \first
  ldm r0!, {r2, r3, r12, lr}
.if \is_first
  smlad r4, r1, r2, r7
  smlad r5, r1, r3, r7
  smlad r6, r1, r12, r7
.else
  smlad r4, r1, r2, r4
  smlad r5, r1, r3, r5
  smlad r6, r1, r12, r6
.endif
  smlad r7, r1, lr, r7
  vmov r1, \second
.if \is_first
  smlad r8, r1, r2, r11
  smlad r9, r1, r3, r11
  smlad r10, r1, r12, r11
.else
  smlad r8, r1, r2, r8
  smlad r9, r1, r3, r9
  smlad r10, r1, r12, r10
.endif
  smlad r11, r1, lr, r11
.endm
