"""The plugin that estimates cycles, against what the Cortex-M4's manual says of instructions."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from redsc import cycles, resources, runner, verify
from redsc.errors import ToolchainError
from redsc.machines import CORTEX_M4
from tests import firmware_build, graphs
from tests.test_firmware import plan_of, random_network, samples

needs_emulator = pytest.mark.skipif(
    not all(shutil.which(tool) for tool in verify.EMULATOR_TOOLS),
    reason="no cross compiler or emulator",
)

# r0 points to memory, r1 and r2 are 4, r3 and r4 a function that returns
SNIPPETS = {
    "adds r5, r6, r7": 1,
    "mul r5, r6, r7": 1,
    "smlad r5, r6, r7, r5": 1,
    "smull r5, r6, r7, r8": 1,
    "sdiv r5, r6, r1": 7,
    "udiv r5, r6, r1": 7,
    "ldr r5, [r0]": 2,
    "ldr.w r5, [r0, #4]!": 2,
    "ldr r5, [r0]; ldr r6, [r0]": 3,
    "ldr r5, [r0]; ldrb r6, [r0, #1]; ldrh.w r7, [r0], #2; ldrsb r5, [r0, r1]": 5,
    "ldr r5, [r0]; ldr r6, [r0, r5]": 4,  # waits for its address
    "ldr r0, [r0]; ldr r6, [r0]": 4,
    "ldr r5, [r0]; nop; ldr r6, [r0]": 5,
    "str r5, [r0]": 1,
    "strb r5, [r0, #1]": 1,
    "str r5, [r0, r1]": 2,
    "ldr r6, [r0]; str r5, [r0, r1]": 3,
    "ldr r6, [r0]; str r5, [r0, r6]": 4,
    "ldr r5, =0x12345678": 2,
    "ldmia r0, {r5-r8}": 5,
    "stmia.w r0, {r5-r9}": 6,
    "push {r4-r7, lr}; pop {r4-r7, lr}": 12,
    "ldrd r5, r6, [r0]": 3,
    "strd r5, r6, [r0]": 3,
    "cmp r1, #4; bne 1f; nop; 1:": 3,
    "cmp r1, #4; beq 1f; 1:": 2,  # a branch to what comes next anyway
    "cmp r1, #4; beq 1f; nop; 1: nop": 5,
    "cmp r1, #4; beq.w 1f; nop; 1: nop": 5,
    "cbz r1, 1f; nop; 1:": 2,
    "b 1f; nop; 1: nop": 4,
    "movs r5, #3; 1: subs r5, #1; bne 1b": 1 + 3 * 2 + 2 * 2,
    "mov r9, lr; blx r3; mov lr, r9": 1 + 3 + 3 + 1,
    "vmov s0, r5": 1,
    "vmov r5, r6, s0, s1": 2,
    "vadd.f32 s0, s1, s2": 1,
    "vmla.f32 s0, s1, s2": 3,
    "vfma.f32 s0, s1, s2": 3,
    "vdiv.f32 s0, s1, s2": 14,
    "vsqrt.f32 s0, s1": 14,
    "vldr s0, [r0]": 2,
    "vldmia r0, {s0-s3}": 5,
    "cmp r1, #4; ite eq; moveq r5, r6; movne r5, r7": 4,
}

PROGRAM = """
.syntax unified
.thumb
.cpu cortex-m4
.fpu fpv4-sp-d16
.word 0x20010000, start
.thumb_func
mark: bx lr
.thumb_func
nothing: bx lr
.thumb_func
start:
  ldr r0, =0xE000ED88
  ldr r1, =0x00F00000
  str r1, [r0]
  isb
  bl mark
  bl mark
{snippets}
  movs r0, #0x18
  ldr r1, =0x20026
  bkpt 0xAB
.pool
"""

SNIPPET = """
  ldr r0, =0x20000000
  movs r1, #4
  movs r2, #4
  str r1, [r0]
  ldr r3, =nothing
  b 8f
  .pool
8:
  bl mark
  {snippet}
  bl mark
"""


@needs_emulator
def test_every_instruction_takes_what_the_manual_says(tmp_path: Path) -> None:
    text = PROGRAM.format(snippets="".join(SNIPPET.format(snippet=one) for one in SNIPPETS))
    (tmp_path / "program.s").write_text(text)
    command = ["arm-none-eabi-as", "program.s", "-o", "program.o"]
    subprocess.run(command, cwd=tmp_path, check=True)
    command = ["arm-none-eabi-ld", "-Ttext=0", "program.o", "-o", "program.elf"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    symbols = subprocess.check_output(["arm-none-eabi-nm", "program.elf"], cwd=tmp_path, text=True)
    mark = next(line.split()[0] for line in symbols.splitlines() if line.endswith(" mark"))
    subprocess.run(
        [*CORTEX_M4.qemu, "-kernel", "program.elf",
         "-plugin", f"{cycles.plugin()},mark=0x{mark},out=marks.txt"],
        cwd=tmp_path, check=True, timeout=60, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    lines = (tmp_path / "marks.txt").read_text().splitlines()
    taken = [int(line.split()[1]) for line in lines]
    empty = taken[1] - taken[0]
    starts, ends = taken[2::2], taken[3::2]
    found = [end - start - empty for start, end in zip(starts, ends, strict=True)]
    assert dict(zip(SNIPPETS, found, strict=True)) == SNIPPETS


@pytest.mark.slow
@needs_emulator
def test_it_counts_the_instructions_that_the_board_s_timer_counts(tmp_path: Path) -> None:
    graph = graphs.ds_cnn(8, 1, (8, 6, 1), 3)
    plan = plan_of(random_network(graph, 2))
    program = firmware_build.build(plan, "emulator", tmp_path)
    for profile in (False, True):
        runs = runner.run_emulator(
            program, plan, samples(graph, 2), profile=profile, estimate_cycles=True
        )
        for run in runs:
            assert run.instructions is not None
            assert run.cycles is not None
            assert run.switch_cycles is not None
            assert run.instructions < run.cycles < 2 * run.instructions
            assert 5 <= run.switch_cycles <= 20
            assert run.step_cycles.keys() == run.step_instructions.keys()
            if profile:
                assert 0 <= run.cycles - sum(run.step_cycles.values()) < 0.1 * run.cycles


def test_readings_come_in_fours(tmp_path: Path) -> None:
    marks = tmp_path / "marks.txt"
    marks.write_text("0 0\n10 20\n110 320\n115 330\n120 340\n")
    assert cycles.read(marks) == [cycles.Count(95, 290)]
    marks.write_text("0 0\n10 20\n")
    with pytest.raises(ToolchainError, match="do not make whole times"):
        cycles.read(marks)


@needs_emulator
def test_a_plugin_that_does_not_compile_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m4cost").mkdir()
    for name in ("m4cost.c", "qemu_plugin.h"):
        (tmp_path / "m4cost" / name).write_text("nonsense")
    monkeypatch.setattr(resources, "firmware_dir", lambda: tmp_path)
    monkeypatch.setenv("REDSC_CACHE_DIR", str(tmp_path / "cache"))
    with pytest.raises(ToolchainError, match="the cycle counter does not compile"):
        cycles.plugin()
    assert not list((tmp_path / "cache").iterdir())
