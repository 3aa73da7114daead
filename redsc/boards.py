"""What a target board has. A new board is an entry here and an environment in platformio.ini."""

from __future__ import annotations

from dataclasses import dataclass

from redsc.errors import InfeasibleError


@dataclass(frozen=True)
class Board:
    """flash_bytes is what a sketch may use; ram_bytes is all there is, the system's share too.

    core_flash_bytes and core_ram_bytes are what an empty sketch takes of them: estimates.
    """

    name: str
    flash_bytes: int
    ram_bytes: int
    core_flash_bytes: int
    core_ram_bytes: int

    def most_arena_bytes(self, max_ram_bytes: int | None) -> int:
        """What an arena may take: what the user allows, or what the core leaves."""
        return max_ram_bytes or self.ram_bytes - self.core_ram_bytes


BOARDS = {
    board.name: board
    for board in (
        # The core's share is estimated from published builds, not built here. arduino-cli says of
        # an empty sketch for arduino:mbed_nano:nano33ble 85,328 B of flash and 44,552 B of global
        # variables, 32 KiB of which are the main thread's stack (README of kierdavis/underglow;
        # within 1 KB of Blink's in forum.arduino.cc/t/1123184). The variables do not include what
        # the core's linker script reserves: 512 B for vectors and a crash record, 2,048 B of
        # interrupt stack. The heap gets what is left.
        Board(
            name="nano33ble",
            flash_bytes=983_040,
            ram_bytes=262_144,
            core_flash_bytes=85_328,
            core_ram_bytes=44_552 + 512 + 2_048,
        ),
    )
}

SKETCH_CODE_BYTES = 19_000
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
    for memory, part, option, part_bytes, used, limit in (
        ("RAM", "arena", "--max-ram-bytes", arena_bytes, usage.ram_bytes, board.ram_bytes),
        ("flash", "weights and tables", "--max-flash-bytes", data_bytes, usage.flash_bytes,
         board.flash_bytes),
    ):  # fmt: skip
        largest = part_bytes - (used - limit)
        if used > limit:
            raise InfeasibleError(
                f"{board.name}: {memory}: {part} {part_bytes:,} B, with code and the Arduino core "
                f"about {used:,} B; the board has {limit:,} B; compile with {option} {largest}"
            )
