"""Estimated cycles of a program on the emulated Cortex-M4: QEMU with the plugin firmware/m4cost.

The plugin is compiled on first use. It notes how many instructions and cycles were executed
whenever the program reads the board's clock, so a program measures cycles where it measures
instructions, and need not know of it.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from redsc import checkpoint, resources, toolchain
from redsc.errors import ToolchainError

_SOURCES = ("m4cost.c", "qemu_plugin.h")
_FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared")
_CLOCK = "_ZN4reds5board5clockEv"
_TIMEOUT_SECONDS = 60.0
_MARKS_PER_TIME = 4
"""A time is measured by four readings: at its start, at its end, and two in a row, which tell
what a reading costs (firmware/reds/src/clock.cc)."""


@dataclass(frozen=True)
class Count:
    """What was executed; cycles are an estimate."""

    instructions: int
    cycles: int


def plugin() -> Path:
    """The compiled plugin. Raises ToolchainError when gcc is missing or cannot compile it."""
    folder = resources.firmware_dir() / "m4cost"
    name = checkpoint.digest(*((folder / source).read_bytes() for source in _SOURCES), _FLAGS)
    built = toolchain.cache_root() / f"m4cost-{name}.so"
    if not built.exists():
        toolchain.require("g++")  # which Debian brings together with gcc
        built.parent.mkdir(parents=True, exist_ok=True)
        draft = built.with_suffix(f".{os.getpid()}")
        command = ["gcc", *_FLAGS, str(folder / _SOURCES[0]), "-o", str(draft)]
        finished = toolchain.run(command, built.parent, _TIMEOUT_SECONDS)
        if finished.returncode != 0:
            raise ToolchainError(f"the cycle counter does not compile: {finished.stderr.strip()}")
        draft.replace(built)
    return built


def arguments(program: Path, marks: Path) -> tuple[str, ...]:
    """What QEMU needs to hear to write the file `marks`. Raises ToolchainError as `plugin`."""
    finished = toolchain.run(["arm-none-eabi-nm", str(program)], program.parent, _TIMEOUT_SECONDS)
    clock = re.search(rf"^([0-9a-f]+) T {_CLOCK}$", finished.stdout, re.MULTILINE)
    if clock is None:
        raise ToolchainError(f"{program} does not read the board's clock: nothing to count")
    return ("-plugin", f"{plugin()},mark=0x{clock[1]},out={marks}")


def read(marks: Path) -> list[Count]:
    """Every time that the program measured, in order; the clock's very first reading starts it."""
    lines = marks.read_text().splitlines()[1:]
    readings = [tuple(map(int, line.split())) for line in lines]
    if len(readings) % _MARKS_PER_TIME:
        raise ToolchainError(f"{len(readings)} readings of the clock do not make whole times")
    counts = []
    for i in range(0, len(readings), _MARKS_PER_TIME):
        start, end, before, after = readings[i : i + _MARKS_PER_TIME]
        instructions, cycles = (
            end[kind] - start[kind] - (after[kind] - before[kind]) for kind in (0, 1)
        )
        counts.append(Count(instructions, cycles))
    return counts
