"""What a board's records say, as data: `info`, `bench`, `trace`, `crc`.

Functions read the records of one answer and raise DamagedError when something is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from redsc.errors import UsageError
from redsc.serial_records import DamagedError, Record, of_kind, only

PROTOCOL_VERSION = 1

T = TypeVar("T")


@dataclass(frozen=True)
class Board:
    """What `info` says. hz is 0 where time is counted in instructions."""

    name: str
    runtime: str
    model_crc: int
    levels: int
    steps: int
    input_bytes: int
    output_bytes: int
    arena_bytes: int
    arena_used_bytes: int
    unit: str
    hz: int


@dataclass(frozen=True)
class Times:
    """n measurements, in the board's unit."""

    n: int
    min: int
    median: int
    max: int


@dataclass(frozen=True)
class LevelFigures:
    """One level's part of `bench`. steps: one inference, step by step."""

    switch: Times
    first: Times
    inference: Times
    steps: tuple[int, ...]
    arena_bytes: int
    input_crc: int
    output_crc: int


def read_info(records: Sequence[Record]) -> Board:
    """Raises UsageError when the board speaks another version of the protocol."""
    version = only(records, "reds").number("version")
    if version != PROTOCOL_VERSION:
        raise UsageError(
            f"the board speaks version {version} of the serial protocol, this redsc "
            f"{PROTOCOL_VERSION}; compile and flash again with this redsc"
        )
    kinds = ("reds", "model", "tensors", "arena", "clock")
    of = {kind: only(records, kind) for kind in kinds}
    return Board(
        name=of["reds"].text("board"),
        runtime=of["reds"].text("runtime"),
        model_crc=of["model"].crc("crc"),
        levels=of["model"].number("levels"),
        steps=of["model"].number("steps"),
        input_bytes=of["tensors"].number("input"),
        output_bytes=of["tensors"].number("output"),
        arena_bytes=of["arena"].number("have"),
        arena_used_bytes=of["arena"].number("used"),
        unit=of["clock"].text("unit"),
        hz=of["clock"].number("hz"),
    )


def read_bench(records: Sequence[Record], board: Board) -> tuple[LevelFigures, ...]:
    return tuple(
        _read_level(
            [record for record in records if record.fields.get("level") == str(level)], board.steps
        )
        for level in range(board.levels)
    )


def _read_level(own: Sequence[Record], step_count: int) -> LevelFigures:
    crc = only(own, "crc")
    return LevelFigures(
        switch=_read_times(own, "switch"),
        first=_read_times(own, "first"),
        inference=_read_times(own, "time"),
        steps=read_steps(own, step_count, lambda step: step.number("time")),
        arena_bytes=only(own, "arena").number("bytes"),
        input_crc=crc.crc("input"),
        output_crc=crc.crc("output"),
    )


def _read_times(own: Sequence[Record], kind: str) -> Times:
    record = only(own, kind)
    return Times(*(record.number(name) for name in ("n", "min", "median", "max")))


def read_steps(records: Sequence[Record], count: int, read: Callable[[Record], T]) -> tuple[T, ...]:
    """One value per step of the plan, in its order."""
    values = {step.number("step"): read(step) for step in of_kind(records, "step")}
    if sorted(values) != list(range(count)):
        raise DamagedError(f"{len(values)} steps came instead of {count}")
    return tuple(values[step] for step in range(count))


def read_crc(records: Sequence[Record], level: int) -> tuple[int, int]:
    """CRC-32 of the last inference's input and output, which was at `level`."""
    record = only(records, "crc")
    if record.number("level") != level:
        raise DamagedError(f"it ran level {record.number('level')} instead of {level}")
    return record.crc("input"), record.crc("output")
