"""What a program is compiled for: a core, its memories, and the machine of QEMU's that has such a
core. Every target is a file, redsc/targets/NAME.json or one of the user's."""

from __future__ import annotations

import functools
import json
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from redsc import resources
from redsc.errors import InfeasibleError, UsageError
from redsc.machines import MACHINES, Machine

# Of the Nano 33 BLE the core's share is estimated from published builds, not built here.
# arduino-cli says of an empty sketch for arduino:mbed_nano:nano33ble 85,328 B of flash and 44,552 B
# of global variables, 32 KiB of which are the main thread's stack (README of kierdavis/underglow;
# within 1 KB of Blink's in forum.arduino.cc/t/1123184). The variables do not include what the
# core's linker script reserves: 512 B for vectors and a crash record, 2,048 B of interrupt stack.
# The heap gets what is left.


@dataclass(frozen=True)
class Board:
    """A target's file, but for its latency table (redsc.latency).

    cpu_flags: the compiler's. dsp: whether the core has what the DSP kernels need, DSP
    instructions and floating-point registers; otherwise portable kernels run. emulator: the name
    of a machine. flash_bytes is what a sketch may use; ram_bytes is all there is, the system's
    share too; core_flash_bytes and core_ram_bytes are what an empty sketch takes of them:
    estimates. environment: PlatformIO's, where the emitted project has one for the board. hz: the
    clock rate, 0 where it is not known.
    """

    name: str
    description: str
    cpu_flags: tuple[str, ...]
    dsp: bool
    emulator: str
    flash_bytes: int
    ram_bytes: int
    core_flash_bytes: int = 0
    core_ram_bytes: int = 0
    environment: str | None = None
    hz: int = 0

    @property
    def machine(self) -> Machine:
        return MACHINES[self.emulator]

    @property
    def compiler_flags(self) -> tuple[str, ...]:
        """For programs that run on the machine."""
        portable = () if self.dsp else ("-DREDS_PORTABLE_KERNELS",)
        return (*self.cpu_flags, "-DREDS_BOARD_EMULATOR", *portable, *self.machine.compiler_flags)

    @property
    def linker_flags(self) -> tuple[str, ...]:
        return (*self.cpu_flags, *self.machine.linker_flags)

    @property
    def platformio(self) -> dict[str, Any]:
        """What PlatformIO reads of its board `emulated` (firmware/platforms/emulator)."""
        core = self.machine.core.lower()
        return {
            "name": f"{self.machine.core} (QEMU {self.emulator}) within the memory of {self.name}",
            "vendor": "Arm",
            "url": "https://www.qemu.org/docs/master/system/target-arm.html",
            "build": {
                "cpu": core,
                "mcu": core,
                "f_cpu": f"{self.hz}L",
                "compiler_flags": list(self.compiler_flags),
                "linker_flags": list(self.linker_flags),
            },
            "upload": {
                "protocol": "qemu",
                "protocols": ["qemu"],
                "command": list(self.machine.qemu),
                "maximum_size": self.flash_bytes,
                "maximum_ram_size": self.ram_bytes,
                "timeout_seconds": 300,
            },
        }

    def most_arena_bytes(self, max_ram_bytes: int | None) -> int:
        """What an arena may take: what the user allows, or what the core leaves."""
        return max_ram_bytes or self.ram_bytes - self.core_ram_bytes


EMULATED = Path("platforms", "emulator", "boards", "emulated.json")
"""Where an emitted project has the latter."""


@dataclass(frozen=True)
class Emulated:
    """What an emitted project knows of its target."""

    machine: Machine
    flash_bytes: int
    ram_bytes: int
    hz: int


def emulated(project: Path) -> Emulated:
    """Raises UsageError for a project that does not say."""
    try:
        data = json.loads((project / EMULATED).read_text(encoding="utf-8"))
        upload, hz = data["upload"], int(data["build"]["f_cpu"].rstrip("L"))
        machine = MACHINES[upload["command"][upload["command"].index("-M") + 1]]
        return Emulated(machine, upload["maximum_size"], upload["maximum_ram_size"], hz)
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        raise UsageError(
            f"{project / EMULATED}: names no machine that redsc knows; compile again"
        ) from None


NAMES = tuple(sorted(path.stem for path in resources.targets_dir().glob("*.json")))
"""Targets that redsc brings along."""


def read(target: str) -> dict[str, Any]:
    """A target's file as it is. Raises UsageError for what cannot be read as JSON."""
    if not target.endswith(".json") and target not in NAMES:
        raise UsageError(
            f"target: {target!r} is not one of {', '.join(NAMES)}, nor a .json file of one"
        )
    own = resources.targets_dir() / f"{target}.json"
    path = Path(target) if target.endswith(".json") else own
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"target: {path}: cannot be read: {error}") from None
    if not isinstance(data, dict):
        raise UsageError(f"target: {path}: must be a JSON object")
    return data


@functools.cache
def board(target: str) -> Board:
    """A target by the name of one of NAMES, or by the path of its file, which ends in .json.

    Raises UsageError, which names what is missing or wrong.
    """
    data = read(target)
    values: dict[str, Any] = {"name": Path(target).name.removesuffix(".json")}
    for field in fields(Board)[1:]:
        if field.name in data:
            values[field.name] = _checked(target, field.name, str(field.type), data[field.name])
        elif field.default is MISSING:
            raise UsageError(f"target: {target}: {field.name} is missing")
    if values["emulator"] not in MACHINES:
        raise UsageError(
            f"target: {target}: emulator = {values['emulator']!r} is not one of "
            f"{', '.join(MACHINES)}"
        )
    return Board(**values)


def _checked(target: str, name: str, kind: str, value: Any) -> Any:
    match kind, value:
        case "bool", bool():
            return value
        case "int", int() if value >= 0 and not isinstance(value, bool):
            return value
        case "str" | "str | None", str():
            return value
        case "tuple[str, ...]", [*texts] if all(isinstance(text, str) for text in texts):
            return tuple(texts)
    raise UsageError(f"target: {target}: {name} = {value!r} is not what it should be: {kind}")


SKETCH_CODE_BYTES = 26_500
"""Sketch, library and kernels where they were not built: about what the digits example takes."""


@dataclass(frozen=True)
class Usage:
    """Estimated bytes of a board's memories that a sketch takes, the core's share included."""

    flash_bytes: int
    ram_bytes: int

    def plus(self, flash_bytes: int, ram_bytes: int) -> Usage:
        return Usage(self.flash_bytes + flash_bytes, self.ram_bytes + ram_bytes)


def estimate(
    board: Board,
    data_bytes: int,
    arena_bytes: int,
    code_bytes: int | None = None,
    static_ram_bytes: int | None = None,
) -> Usage:
    """What a sketch with these weights and tables, and this arena, will take.

    code_bytes (without weights and tables) and static_ram_bytes (arena included) are those of the
    sketch built for the emulator; None where it was not built.
    """
    code = SKETCH_CODE_BYTES if code_bytes is None else code_bytes
    ram = arena_bytes if static_ram_bytes is None else static_ram_bytes
    return Usage(board.core_flash_bytes + code + data_bytes, board.core_ram_bytes + ram)


def check_fits(board: Board, data_bytes: int, arena_bytes: int, usage: Usage) -> None:
    """Raises InfeasibleError when the board is too small; names the largest limits that fit."""
    core = " and the Arduino core" if board.core_ram_bytes else ""
    for kind, part, option, part_bytes, used, limit in (
        ("RAM", "arena", "--max-ram-bytes", arena_bytes, usage.ram_bytes, board.ram_bytes),
        ("flash", "weights and tables", "--max-flash-bytes", data_bytes, usage.flash_bytes,
         board.flash_bytes),
    ):  # fmt: skip
        largest = part_bytes - (used - limit)
        if used > limit:
            raise InfeasibleError(
                f"{board.name}: {kind}: {part} {part_bytes:,} B, with code{core} about "
                f"{used:,} B; the board has {limit:,} B; compile with {option} {largest}"
            )


def listing() -> list[dict[str, Any]]:
    """Every target of NAMES, JSON-ready."""
    return [
        {
            "name": target.name,
            "description": target.description,
            "cpu_flags": list(target.cpu_flags),
            "kernels": "dsp" if target.dsp else "portable",
            "emulator": target.emulator,
            "emulated_core": target.machine.core,
            "flash_bytes": target.flash_bytes,
            "ram_bytes": target.ram_bytes,
            "estimates_latency": "kernels" in read(target.name),
        }
        for target in map(board, NAMES)
    ]


def print_listing() -> None:
    """For a person, to stdout."""
    for target in listing():
        emulator = f"{target['emulated_core']}, QEMU {target['emulator']}"
        print(f"{target['name']:14} {target['kernels']:9} {emulator:28} {target['description']}")
