"""What a board has, and what is told when it is too small."""

from __future__ import annotations

import re

import pytest

from redsc import boards
from redsc.errors import InfeasibleError

NANO = boards.board("nano33ble")


def test_an_estimate_has_the_cores_share() -> None:
    guess = boards.estimate(NANO, data_bytes=30_000, arena_bytes=5_000)
    code_bytes = boards.SKETCH_CODE_BYTES
    assert guess.flash_bytes == NANO.core_flash_bytes + 30_000 + code_bytes
    assert guess.ram_bytes == NANO.core_ram_bytes + 5_000
    built = boards.estimate(NANO, 30_000, 5_000, code_bytes=11_000, static_ram_bytes=5_600)
    assert built.flash_bytes == NANO.core_flash_bytes + 41_000
    assert built.ram_bytes == NANO.core_ram_bytes + 5_600


def check(data_bytes: int, arena_bytes: int, static_ram_bytes: int | None = None) -> None:
    usage = boards.estimate(NANO, data_bytes, arena_bytes, static_ram_bytes=static_ram_bytes)
    boards.check_fits(NANO, data_bytes, arena_bytes, usage)


@pytest.mark.parametrize(
    ("data_bytes", "arena_bytes", "option"),
    [(0, 220_000, "--max-ram-bytes"), (900_000, 0, "--max-flash-bytes")],
)
def test_the_largest_limit_that_fits_is_named(
    data_bytes: int, arena_bytes: int, option: str
) -> None:
    with pytest.raises(InfeasibleError) as error:
        check(data_bytes, arena_bytes)
    named = re.search(rf"compile with {option} (\d+)$", str(error.value))
    assert named is not None, error.value
    largest = int(named[1])
    data_bytes, arena_bytes = min(data_bytes, largest), min(arena_bytes, largest)
    check(data_bytes, arena_bytes)
    with pytest.raises(InfeasibleError):
        check(data_bytes + bool(data_bytes), arena_bytes + bool(arena_bytes))


def test_it_says_what_is_too_large() -> None:
    with pytest.raises(InfeasibleError) as error:
        check(30_000, 220_000, static_ram_bytes=220_600)
    assert error.value.exit_code == 4
    assert str(error.value) == (
        "nano33ble: RAM: arena 220,000 B, with code and the Arduino core about 267,712 B; the "
        "board has 262,144 B; compile with --max-ram-bytes 214432"
    )
