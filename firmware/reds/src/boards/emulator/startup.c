// Vector table and start-up of the emulated board; emulator.ld places both.
#if defined(REDS_BOARD_EMULATOR)

#include <stdint.h>
#include <string.h>

extern uint32_t reds_stack_top, reds_data_begin, reds_data_end, reds_bss_begin, reds_bss_end;
extern const uint32_t reds_data_load;
extern void (*const reds_constructors_begin[])(void);
extern void (*const reds_constructors_end[])(void);

int main(int argc, char** argv);
void reds_board_exit(int status);
void reds_board_fault(void);

// C++ destructors of static objects never run here, but compilers refer to their home.
void* __dso_handle;

void reds_reset(void) {
#if defined(__ARM_FP)
  *(volatile uint32_t*)0xE000ED88 |= 0xFu << 20;  // CPACR: floating point on
#endif
#if !defined(__ARM_FEATURE_UNALIGNED)
  // CCR: code for a core that does not take unaligned addresses faults at them on every core.
  *(volatile uint32_t*)0xE000ED14 |= 1u << 3;
#endif
  __asm volatile("dsb\n\tisb");
  memcpy(&reds_data_begin, &reds_data_load,
         (uintptr_t)&reds_data_end - (uintptr_t)&reds_data_begin);
  memset(&reds_bss_begin, 0, (uintptr_t)&reds_bss_end - (uintptr_t)&reds_bss_begin);
  for (void (*const* make)(void) = reds_constructors_begin; make != reds_constructors_end; ++make) {
    (*make)();
  }
  reds_board_exit(main(0, 0));
}

// A program may have its own.
__attribute__((weak)) void SysTick_Handler(void) { reds_board_fault(); }

// Stack, reset, then NMI ... SysTick: the library uses no interrupts, so all others are faults.
__attribute__((section(".reds_vectors"), used)) static const void* const vectors[16] = {
    &reds_stack_top,          (const void*)&reds_reset,       (const void*)&reds_board_fault,
    (const void*)&reds_board_fault, (const void*)&reds_board_fault, (const void*)&reds_board_fault,
    (const void*)&reds_board_fault, (const void*)&reds_board_fault, (const void*)&reds_board_fault,
    (const void*)&reds_board_fault, (const void*)&reds_board_fault, (const void*)&reds_board_fault,
    (const void*)&reds_board_fault, (const void*)&reds_board_fault, (const void*)&reds_board_fault,
    (const void*)&SysTick_Handler,
};

#endif
