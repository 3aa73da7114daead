"""What a target board has. A new board is an entry here and an environment in platformio.ini."""

from __future__ import annotations

from dataclasses import dataclass

from redsc.errors import InfeasibleError


@dataclass(frozen=True)
class Board:
    """flash_bytes is what a sketch may use; ram_bytes is all there is, the system's share too."""

    name: str
    flash_bytes: int
    ram_bytes: int


BOARDS = {board.name: board for board in (Board("nano33ble", 983_040, 262_144),)}


def check_fits(board: Board, arena_bytes: int, flash_bytes: int) -> None:
    """Raises InfeasibleError when the widest level's arena or all flash data exceed the board."""
    for what, option, need, limit in (
        ("RAM arena", "--max-ram-bytes", arena_bytes, board.ram_bytes),
        ("weights and tables", "--max-flash-bytes", flash_bytes, board.flash_bytes),
    ):
        if need > limit:
            raise InfeasibleError(
                f"{board.name}: the {what} need {need:,} B, the board has {limit:,} B; "
                f"let the search fit the network with {option} (code, stack and the system need "
                "their share too)"
            )
