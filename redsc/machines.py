"""Boards that QEMU emulates: what a program must know of one, and how it is started.

The firmware's side is firmware/reds/src/boards/emulator/; addresses are those of QEMU's sources
and of Arm's application notes AN385, AN386, AN500 and AN505.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Memory:
    origin: int
    size_bytes: int


@dataclass(frozen=True)
class Machine:
    """requests: memory that QEMU fills before the start and the program does not use. defines:
    preprocessor macros, which say where the peripherals are."""

    name: str
    core: str
    flash: Memory
    ram: Memory
    requests: Memory
    defines: Mapping[str, int]

    @property
    def qemu(self) -> tuple[str, ...]:
        """Command that runs a program, but for the program; its serial port is stdio."""
        return (
            "qemu-system-arm", "-M", self.name, "-display", "none", "-monitor", "none",
            "-serial", "stdio", "-semihosting-config", "enable=on,target=native",
            # One instruction each 128 ns of emulated time, so that the board's timer counts them.
            "-icount", "shift=7",
        )  # fmt: skip

    @property
    def compiler_flags(self) -> tuple[str, ...]:
        macros = {**self.defines, "REDS_REQUESTS": self.requests.origin}
        return tuple(f"-D{name}={value:#x}" for name, value in macros.items())

    @property
    def linker_flags(self) -> tuple[str, ...]:
        values = {
            "reds_flash_origin": self.flash.origin,
            "reds_flash_bytes": self.flash.size_bytes,
            "reds_ram_origin": self.ram.origin,
            "reds_ram_bytes": self.ram.size_bytes,
        }
        return tuple(f"-Wl,--defsym={name}={value:#x}" for name, value in values.items())


def _mps2(
    name: str,
    core: str,
    flash: int = 0,
    ram: int = 0x20000000,
    requests: int = 0x21000000,
    peripherals: int = 0x40000000,
    uart: int = 0x4000,
    tick_picoseconds: int = 40_000,
) -> Machine:
    """An Arm MPS2 board: 4 MB of flash's place, 4 MB and 16 MB of RAM, CMSDK peripherals."""
    defines = {
        "REDS_UART": peripherals + uart,
        "REDS_TIMER": peripherals,
        "REDS_TICK_PICOSECONDS": tick_picoseconds,
    }
    return Machine(
        name, core, Memory(flash, 4 << 20), Memory(ram, 4 << 20), Memory(requests, 16 << 20),
        defines,
    )  # fmt: skip


MACHINES = {
    machine.name: machine
    for machine in (
        _mps2("mps2-an385", "Cortex-M3"),
        _mps2("mps2-an386", "Cortex-M4F"),
        _mps2("mps2-an500", "Cortex-M7", requests=0x60000000),
        # It starts in the secure state, whose addresses these are; its timer has 20 MHz.
        _mps2(
            "mps2-an505",
            "Cortex-M33",
            flash=0x10000000,
            ram=0x38000000,
            requests=0x80000000,
            peripherals=0x50000000,
            uart=0x200000,
            tick_picoseconds=50_000,
        ),
        # Of its 256 KB of flash the last 64 hold requests; a Cortex-M0 at 16 MHz.
        Machine(
            "microbit",
            "Cortex-M0",
            Memory(0, 192 << 10),
            Memory(0x20000000, 16 << 10),
            Memory(192 << 10, 64 << 10),
            {"REDS_NRF51": 1, "REDS_TICK_PICOSECONDS": 62_500},
        ),
    )
}

CORTEX_M4 = MACHINES["mps2-an386"]
"""The one whose cycles redsc estimates."""
