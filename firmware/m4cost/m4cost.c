/* Estimates the cycles that a Cortex-M4 takes for a program that QEMU emulates: a TCG plugin.
 *
 *   qemu-system-arm -M mps2-an386 ... -icount shift=7 \
 *       -plugin libm4cost.so,mark=0x1234,out=marks.txt,profile=blocks.txt,first=4,last=5
 *
 * Whenever the function at address `mark` is entered, a line "instructions cycles" is written to
 * `out`: how many were executed before. `profile`, when given, gets what happened between the
 * calls numbered `first` and `last` (from 0), a line "address instructions cycles" per block of
 * code, which profile.py sums up by function.
 *
 * Cycles, by the Cortex-M4 Technical Reference Manual, 3.3 (P = 2 to refill the pipeline):
 *
 *   arithmetic, multiplications, VFP moves and sums   1      branch taken          1 + P
 *   LDR                                               2      branch not taken      1
 *   LDR, STR right behind an LDR that it does not     1      TBB, TBH, LDR pc      2 + P
 *     depend on                                              SDIV, UDIV            7
 *   STR                                               1      VMLA and its kin      3
 *   STR with a register as offset                     2      VDIV, VSQRT           14
 *   LDM, STM, PUSH, POP, VLDM, VSTM of N              1 + N  VMOV of two registers 2
 *   LDRD, STRD; VLDR, VSTR of N words                 1 + N  POP to pc             1 + N + P
 *
 * Not modelled: wait states and buffers of a flash, fetches that compete with data, folded IT, an
 * address that was computed by the instruction before, early ends of divisions. For ratios.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "qemu_plugin.h"

QEMU_PLUGIN_EXPORT int qemu_plugin_version = QEMU_PLUGIN_VERSION;

enum { REFILL = 2, DIVISION = 7, FLOAT_DIVISION = 14, FLOAT_FUSED = 3 };
enum { NONE = -1 };  /* no register */

/* LOAD and STORE: of one register, which may overlap with the load before. */
enum Kind { OTHER, LOAD, STORE, CONDITIONAL_BRANCH };

struct Instruction {
  enum Kind kind;
  int cycles;                /* on its own; a conditional branch not taken */
  int target, base, offset;  /* registers of LOAD and STORE */
};

struct Block {
  uint64_t address, next;  /* next: behind it in memory */
  uint64_t executed, taken, overlapped;
  unsigned instructions, cycles;
  int is_mark;
  struct Instruction first, last;
  struct Block *link;
};

static uint64_t mark_address = UINT64_MAX;
static long profile_first = -1, profile_last = -1, marks;
static const char *profile_path;
static FILE *out;

static struct Block *blocks, *previous;
static uint64_t instructions, cycles;

static int bits(unsigned value) { return __builtin_popcount(value); }

static struct Instruction other(int count) {
  return (struct Instruction){OTHER, count, NONE, NONE, NONE};
}

static struct Instruction conditional(void) {
  return (struct Instruction){CONDITIONAL_BRANCH, 1, NONE, NONE, NONE};
}

static struct Instruction access_memory(int is_load, int target, int base, int offset) {
  const int slow = is_load || offset != NONE;
  return (struct Instruction){is_load ? LOAD : STORE, slow ? 2 : 1, target, base, offset};
}

/* Arm v7-M Architecture Reference Manual, A5.2 */
static struct Instruction decode_16(unsigned h) {
  const int target = h & 7, base = (h >> 3) & 7;
  switch (h >> 12) {
    case 0x4:
      if (h & 0x800) return access_memory(1, (h >> 8) & 7, 15, NONE);  /* LDR from behind pc */
      if (h & 0x400) {  /* BX, BLX, and ADD or MOV to pc */
        const unsigned operation = (h >> 8) & 3, to = ((h >> 4) & 8) | (h & 7);
        return other(operation == 3 || (operation != 1 && to == 15) ? 1 + REFILL : 1);
      }
      return other(1);
    case 0x5:
      return access_memory(((h >> 9) & 7) >= 3, target, base, (h >> 6) & 7);
    case 0x6: case 0x7: case 0x8:
      return access_memory((h >> 11) & 1, target, base, NONE);
    case 0x9:
      return access_memory((h >> 11) & 1, (h >> 8) & 7, 13, NONE);
    case 0xB:
      if ((h & 0xFE00) == 0xB400) return other(1 + bits(h & 0x1FF));  /* PUSH */
      if ((h & 0xFE00) == 0xBC00) return other(1 + bits(h & 0x1FF) + (h & 0x100 ? REFILL : 0));
      if ((h & 0xF500) == 0xB100) return conditional();  /* CBZ, CBNZ */
      return other(1);
    case 0xC:
      return other(1 + bits(h & 0xFF));  /* LDM, STM */
    case 0xD:
      return ((h >> 8) & 15) < 14 ? conditional() : other(1);
    case 0xE:
      return other(1 + REFILL);
    default:
      return other(1);
  }
}

/* Floating point and its registers; A5.3.18, A6.4 to A6.7 */
static struct Instruction decode_float(unsigned a, unsigned b) {
  if ((b & 0xE00) != 0xA00) return other(1);
  if ((a & 0xFF00) == 0xEE00) {
    if (b & 0x10) return other(1);
    const unsigned operation = (a >> 4) & 0xB;
    const int is_root = operation == 11 && (a & 15) == 1 && ((b >> 6) & 3) == 3;
    if (operation == 8 || is_root) return other(FLOAT_DIVISION);
    return other(operation <= 1 || operation == 9 || operation == 10 ? FLOAT_FUSED : 1);
  }
  if ((a & 0xFE00) != 0xEC00) return other(1);
  if ((a & 0x1E0) == 0x040) return other(2);  /* VMOV between two core registers and two others */
  if ((a & 0x100) && !(a & 0x20)) return other(b & 0x100 ? 3 : 2);  /* VLDR, VSTR */
  return other(1 + (b & 0xFF));
}

/* A5.3 */
static struct Instruction decode_32(unsigned a, unsigned b) {
  const unsigned kind = (a >> 11) & 3, operation = (a >> 4) & 0x7F;
  const int is_load = operation & 1;
  if ((kind & 1) && (operation & 0x40)) return decode_float(a, b);
  if (kind == 1) {
    if ((operation & 0x64) == 0) {
      return other(1 + bits(b) + (is_load && (b >> 15) ? REFILL : 0));  /* LDM, STM */
    }
    if ((operation & 0x64) == 4) {
      if ((a & 0xFFF0) == 0xE8D0 && (b & 0xFFE0) == 0xF000) return other(2 + REFILL); /* TBB, TBH */
      const int is_exclusive = (a & 0xFFE0) == 0xE840 || (a & 0xFFE0) == 0xE8C0;
      return other(is_exclusive ? 2 : 3);  /* LDREX, STREX; LDRD, STRD */
    }
    return other(1);
  }
  if (kind == 2) {
    if (!(b & 0x8000)) return other(1);
    if ((b & 0x5000) == 0) return ((a >> 6) & 0xE) != 0xE ? conditional() : other(1);
    return other((b & 0x5000) == 0x4000 ? 1 : 1 + REFILL);  /* B, BL */
  }
  if ((operation & 0x60) == 0) {
    const int target = (b >> 12) & 15, base = a & 15;
    if (is_load && target == 15) {  /* to pc, or a hint */
      return other(((operation >> 1) & 3) == 2 ? 2 + REFILL : 1);
    }
    const int has_offset = !(operation & 8) && (b & 0xFC0) == 0 && base != 15;
    return access_memory(is_load, target, base, has_offset ? (int)(b & 15) : NONE);
  }
  if ((operation & 0x78) == 0x38 && (b & 0xF0) == 0xF0) {
    const unsigned which = operation & 7;
    return other(which == 1 || which == 3 ? DIVISION : 1);
  }
  return other(1);
}

/* Whether the second one is done in the shadow of the first, a load. */
static int overlaps(const struct Instruction *first, const struct Instruction *second) {
  return first->kind == LOAD && first->target != second->base &&
         first->target != second->offset &&
         (second->kind == LOAD || (second->kind == STORE && second->offset != NONE));
}

static void write_profile(void) {
  FILE *file = fopen(profile_path, "w");
  if (file == NULL) return;
  for (const struct Block *block = blocks; block != NULL; block = block->link) {
    if (block->executed == 0) continue;
    fprintf(file, "%#llx %llu %llu\n", (unsigned long long)block->address,
            (unsigned long long)(block->executed * block->instructions),
            (unsigned long long)(block->executed * block->cycles + block->taken * REFILL -
                                 block->overlapped));
  }
  fclose(file);
}

static void mark(void) {
  if (out != NULL) {
    fprintf(out, "%llu %llu\n", (unsigned long long)instructions, (unsigned long long)cycles);
  }
  if (profile_path != NULL) {
    if (marks == profile_last) write_profile();
    if (marks == profile_first) {
      for (struct Block *block = blocks; block != NULL; block = block->link) {
        block->executed = block->taken = block->overlapped = 0;
      }
    }
  }
  ++marks;
}

static void on_execution(unsigned int cpu, void *userdata) {
  struct Block *const block = userdata;
  (void)cpu;
  if (previous != NULL) {
    const int is_next = previous->next == block->address;
    if (!is_next && previous->last.kind == CONDITIONAL_BRANCH) {
      ++previous->taken;
      cycles += REFILL;
    }
    if (is_next && overlaps(&previous->last, &block->first)) {
      ++block->overlapped;
      --cycles;
    }
  }
  if (block->is_mark) mark();
  ++block->executed;
  instructions += block->instructions;
  cycles += block->cycles;
  previous = block;
}

static void on_translation(qemu_plugin_id_t id, struct qemu_plugin_tb *tb) {
  struct Block *const block = calloc(1, sizeof(*block));
  struct Instruction before = other(1);
  (void)id;
  if (block == NULL) abort();
  block->address = qemu_plugin_tb_vaddr(tb);
  block->is_mark = block->address == mark_address;
  block->instructions = (unsigned)qemu_plugin_tb_n_insns(tb);
  for (unsigned i = 0; i < block->instructions; ++i) {
    const struct qemu_plugin_insn *const insn = qemu_plugin_tb_get_insn(tb, i);
    const uint8_t *const data = qemu_plugin_insn_data(insn);
    const unsigned half = data[0] | data[1] << 8;
    /* QEMU 7.2's insn_size counts a halfword that it looked at in advance */
    const int is_short = half >> 11 < 0x1D;
    const struct Instruction now =
        is_short ? decode_16(half) : decode_32(half, data[2] | (unsigned)data[3] << 8);
    block->cycles += (unsigned)(now.cycles - overlaps(&before, &now));
    block->next = qemu_plugin_insn_vaddr(insn) + (is_short ? 2 : 4);
    if (i == 0) block->first = now;
    block->last = before = now;
  }
  block->link = blocks;
  blocks = block;
  qemu_plugin_register_vcpu_tb_exec_cb(tb, on_execution, QEMU_PLUGIN_CB_NO_REGS, block);
}

static void at_end(qemu_plugin_id_t id, void *userdata) {
  (void)id;
  (void)userdata;
  if (out != NULL) fclose(out);
}

/* The value of `argument` if it is KEY=VALUE. */
static const char *value_of(const char *argument, const char *key) {
  const size_t length = strlen(key);
  return strncmp(argument, key, length) == 0 && argument[length] == '=' ? argument + length + 1
                                                                        : NULL;
}

QEMU_PLUGIN_EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const struct qemu_info_t *info,
                                           int argc, char **argv) {
  (void)info;
  for (int i = 0; i < argc; ++i) {
    const char *value;
    if ((value = value_of(argv[i], "mark")) != NULL) {
      mark_address = strtoull(value, NULL, 0) & ~1ull;  /* bit 0: Thumb */
    } else if ((value = value_of(argv[i], "out")) != NULL) {
      if ((out = fopen(value, "w")) == NULL) {
        perror(value);
        return -1;
      }
    } else if ((value = value_of(argv[i], "profile")) != NULL) {
      profile_path = strdup(value);
    } else if ((value = value_of(argv[i], "first")) != NULL) {
      profile_first = strtol(value, NULL, 0);
    } else if ((value = value_of(argv[i], "last")) != NULL) {
      profile_last = strtol(value, NULL, 0);
    } else {
      fprintf(stderr, "m4cost: unknown argument %s\n", argv[i]);
      return -1;
    }
  }
  qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
  qemu_plugin_register_atexit_cb(id, at_end, NULL);
  return 0;
}
