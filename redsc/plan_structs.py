"""The device's structs as data, field by field.

Classes with a `FLASH_BYTES` mirror the structs of firmware/reds/include/reds/plan.h: same names,
same fields, same order, sizes on a 32-bit target. `Symbol`s are names of arrays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from redsc.quantized import QuantParams

MAX_INPUTS = 10
NO_SLOT = 0xFFFF


class Symbol(str):
    """A C++ name or address, printed as it is."""


@dataclass(frozen=True, eq=False)
class Array:
    """values has the C type's numpy dtype: int8, int32 or uint32."""

    name: Symbol
    values: np.ndarray


@dataclass(frozen=True)
class Run:
    FLASH_BYTES: ClassVar[int] = 8
    offset: int
    length: int


@dataclass(frozen=True)
class Channels:
    """Kept channels of a store's axis; `runs` holds the Runs themselves."""

    FLASH_BYTES: ClassVar[int] = 20
    runs: tuple[Run, ...]
    repeat: int
    stride: int
    count: int


@dataclass(frozen=True)
class Window:
    FLASH_BYTES: ClassVar[int] = 48
    input_height: int
    input_width: int
    output_height: int
    output_width: int
    kernel_height: int
    kernel_width: int
    stride_height: int
    stride_width: int
    dilation_height: int
    dilation_width: int
    pad_top: int
    pad_left: int


@dataclass(frozen=True)
class LinearLevel:
    FLASH_BYTES: ClassVar[int] = 28
    inputs: Symbol | None
    outputs: Symbol
    bias: Symbol
    multiplier: Symbol
    shift: Symbol | None
    input_zero_point: int
    output_zero_point: int
    activation_min: int
    activation_max: int
    tile_height: int
    tile_width: int


@dataclass(frozen=True)
class AddLevel:
    FLASH_BYTES: ClassVar[int] = 40
    size: int
    input1_multiplier: int
    input2_multiplier: int
    output_multiplier: int
    weight1: int
    weight2: int
    offset: int
    input1_shift: int
    input2_shift: int
    output_shift: int
    left_shift: int
    input1_zero_point: int
    input2_zero_point: int
    output_zero_point: int
    activation_min: int
    activation_max: int


@dataclass(frozen=True)
class ConcatenateLevel:
    FLASH_BYTES: ClassVar[int] = 4
    channels: Symbol


@dataclass(frozen=True)
class PoolLevel:
    FLASH_BYTES: ClassVar[int] = 4
    channels: int


@dataclass(frozen=True)
class PadLevel:
    FLASH_BYTES: ClassVar[int] = 8
    channels: int
    zero_point: int


@dataclass(frozen=True)
class LeakyReluLevel:
    FLASH_BYTES: ClassVar[int] = 16
    size: int
    identity_multiplier: int
    alpha_multiplier: int
    identity_shift: int
    alpha_shift: int
    input_zero_point: int
    output_zero_point: int


@dataclass(frozen=True)
class LookupLevel:
    FLASH_BYTES: ClassVar[int] = 8
    size: int
    table: Symbol


@dataclass(frozen=True)
class SoftmaxLevel:
    FLASH_BYTES: ClassVar[int] = 20
    rows: int
    depth: int
    multiplier: int
    left_shift: int
    diff_min: int


Level = (
    LinearLevel | AddLevel | ConcatenateLevel | PoolLevel | PadLevel | LeakyReluLevel
    | LookupLevel | SoftmaxLevel
)  # fmt: skip


@dataclass(frozen=True)
class Fallback:
    """A faster kernel that an op's shape would take, and what stood against it.

    reason and count: "proof", which so many channels lack, of all levels together (of an addition:
    so many levels); "room", which so many levels lack; "tables", of which levels that share theirs
    would need so many bytes more.
    """

    faster: str
    reason: str
    count: int


@dataclass(frozen=True)
class Step:
    """One op call. `kind` is the op's struct in plan.h, `fields` its members before `levels`.
    fallbacks: the fastest kernel first."""

    FLASH_BYTES: ClassVar[int] = 20
    name: str
    kind: str
    kernel: str
    fields: tuple[int | Window | Symbol, ...]
    levels: tuple[Level, ...]
    inputs: tuple[int, ...]
    output: int
    scratch: int
    output_bytes: tuple[int, ...]  # per level
    fallbacks: tuple[Fallback, ...]

    @property
    def flash_bytes(self) -> int:
        """Step, op, levels and the array of input slots."""
        members = sum(f.FLASH_BYTES if isinstance(f, Window) else 4 for f in self.fields) + 4
        levels = sum(level.FLASH_BYTES for level in self.levels)
        return self.FLASH_BYTES + members + levels + 2 * len(self.inputs)


@dataclass(frozen=True, eq=False)
class Plan:
    """offsets: (levels, slots) bytes from the arena's start. Input and output lie at the same
    offset at every level and have one size and one quantisation. activation_slots: every
    activation's slot, in the network's order."""

    FLASH_BYTES: ClassVar[int] = 56
    steps: tuple[Step, ...]
    weights: tuple[Array, ...]
    arrays: tuple[Array, ...]
    channels: tuple[tuple[Symbol, Channels], ...]
    offsets: tuple[tuple[int, ...], ...]
    activation_slots: tuple[int, ...]
    arena_bytes: tuple[int, ...]  # per level
    input_offset: int
    output_offset: int
    input_bytes: int
    output_bytes: int
    input: QuantParams
    output: QuantParams

    @property
    def kernels(self) -> dict[str, str]:
        """By op name."""
        return {step.name: step.kernel for step in self.steps}

    @property
    def level_count(self) -> int:
        return len(self.offsets)

    @property
    def weights_bytes(self) -> int:
        return sum(array.values.nbytes for array in self.weights)

    @property
    def data_bytes(self) -> int:
        """Flash of weights and tables."""
        return self.weights_bytes + self.tables_bytes

    @property
    def tables_bytes(self) -> int:
        """Flash of everything but weights and code."""
        lists = sum(c.FLASH_BYTES + len(c.runs) * Run.FLASH_BYTES for _, c in self.channels)
        return (
            self.FLASH_BYTES
            + sum(step.flash_bytes for step in self.steps)
            + sum(array.values.nbytes for array in self.arrays)
            + lists
            + sum(4 * len(row) for row in self.offsets)
            + 4 * len(self.arena_bytes)
        )
