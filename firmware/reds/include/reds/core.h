// Whether a build's core has what the DSP kernels are written in; for C++ and the assembler.
#ifndef REDS_CORE_H_
#define REDS_CORE_H_

// They keep values in the floating-point registers, so a core needs both.
#if defined(__ARM_FEATURE_DSP) && defined(__ARM_FP) && !defined(REDS_PORTABLE_KERNELS)
#define REDS_DSP_KERNELS 1
#else
#define REDS_DSP_KERNELS 0
#endif

#if !REDS_DSP_KERNELS && !defined(REDS_PORTABLE_KERNELS) && \
    (defined(__ARM_FEATURE_DSP) || defined(__ARM_ARCH_7EM__))
#error "DSP kernels need DSP instructions and floating-point registers: pass -mcpu=cortex-m4 -mfpu=fpv4-sp-d16 and a float ABI, or define REDS_PORTABLE_KERNELS"
#endif

#endif  // REDS_CORE_H_
