"""Builds verification programs straight with the compilers: the library once, each model quickly.

Every build is -Wall -Wextra -Werror as gnu++14; host builds stop at the first thing that
AddressSanitizer or UndefinedBehaviorSanitizer finds.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from redsc import boards, emit, resources
from redsc.plan_structs import Plan

REDS = resources.firmware_dir() / "reds"
CXX_FLAGS = ("-std=gnu++14", "-fno-exceptions", "-fno-rtti")
COMMON_FLAGS = ("-O2", "-Wall", "-Wextra", "-Werror", "-ffunction-sections", "-fdata-sections")
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g")
NANO = boards.board("nano33ble")
LINK_FLAGS = (
    "-nostartfiles", "-Wl,--gc-sections", "--specs=nano.specs",
    "-T", str(REDS / "src/boards/emulator/emulator.ld"),
)  # fmt: skip

TARGETS: Mapping[str, tuple[str, ...]] = {
    "host": ("-DREDS_BOARD_HOST", *SANITIZERS),
    "emulator": NANO.compiler_flags,
    "emulator_portable": (*NANO.compiler_flags, "-DREDS_PORTABLE_KERNELS"),
}
"""Beside these, every name of boards.NAMES is a target."""

needs_host = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")
needs_emulator = pytest.mark.skipif(
    not (shutil.which("arm-none-eabi-g++") and shutil.which("qemu-system-arm")),
    reason="the cross compiler or QEMU is not installed",
)


def run(command: Sequence[str]) -> str:
    finished = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert finished.returncode == 0, f"{' '.join(command)}\n{finished.stderr[-4000:]}"
    return finished.stdout


def compiler(target: str, language: str = "c++") -> list[str]:
    prefix = "" if target == "host" else "arm-none-eabi-"
    flags = TARGETS.get(target) or boards.board(target).compiler_flags
    if language == "c":
        return [f"{prefix}gcc", "-std=gnu11", *COMMON_FLAGS, *flags]
    return [f"{prefix}g++", *CXX_FLAGS, *COMMON_FLAGS, *flags]


def linker_flags(target: str) -> tuple[str, ...]:
    if target == "host":
        return ()
    board = NANO if target in TARGETS else boards.board(target)
    return (*LINK_FLAGS, *board.linker_flags)


@functools.cache
def library(target: str) -> tuple[str, ...]:
    """Objects of the reds library for a target, compiled once per test session."""
    folder = tempfile.TemporaryDirectory(prefix="reds_library_")
    _keep.append(folder)
    objects = []
    for number, source in enumerate(sorted(REDS.rglob("*.*"))):
        if source.suffix not in (".c", ".cc", ".S"):
            continue
        command = compiler(target, "c++" if source.suffix == ".cc" else "c")
        path = Path(folder.name) / f"{number}.o"
        run([*command, f"-I{REDS / 'include'}", "-c", str(source), "-o", str(path)])
        objects.append(str(path))
    return tuple(objects)


_keep: list[tempfile.TemporaryDirectory[str]] = []


def write_model(plan: Plan, folder: Path, name: str = "model") -> None:
    for path, text in emit.emit_model(plan, name).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)


def link(sources: Sequence[Path], includes: Sequence[Path], target: str, program: Path) -> Path:
    """A program of some sources and the library."""
    run([
        *compiler(target),
        *(f"-I{path}" for path in (REDS / "include", *includes)),
        *map(str, sources),
        *library(target),
        *linker_flags(target),
        "-o",
        str(program),
    ])  # fmt: skip
    return program


def build(plan: Plan, target: str, folder: Path) -> Path:
    """The verification program of a plan."""
    write_model(plan, folder)
    model = folder / "lib/model"
    sources = [*sorted(model.glob("*.cc")), folder / "verify/main.cpp"]
    return link(sources, [model], target, folder / f"{target}.elf")
