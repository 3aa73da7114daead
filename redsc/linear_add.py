"""An int8 addition as one multiply-add for each input, proven for all pairs of inputs.

TFLite (integer_ops/add.h, AddFunc) scales both inputs to a common scale in 20 more bits, rounds,
adds, scales to the output's and rounds twice. What comes out is, but for rarely one of the 65,536
pairs of int8 values,

    saturate((input1 * weight1 + input2 * weight2 + offset) >> SHIFT)

with an offset that few choices of weights leave no room for. So all pairs are tried here, and the
kernel has nothing to round.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass

import numpy as np

from redsc import fixed_point
from redsc.constants import ADD_LEFT_SHIFT, AddConstants

SHIFT = 21
"""A sum has room for scales of both inputs that are together four times the output's."""

_REACH = 3
"""Weights so far from the rounded ones are tried."""

_VALUES = np.arange(-128, 128, dtype=np.int64)
_NO_BOUND = 1 << 62


@dataclass(frozen=True)
class LinearAdd:
    """int32 weights of the inputs, and offset."""

    weight1: int
    weight2: int
    offset: int


NONE = LinearAdd(0, 0, 0)


@functools.lru_cache(maxsize=256)
def find(constants: AddConstants) -> LinearAdd | None:
    """Weights and offset that give TFLite's output for every pair; None where none were found."""
    output = outputs(constants)
    total = constants.output_multiplier * 2.0 ** (constants.output_shift - 31)
    ideal = [
        multiplier * 2.0 ** (shift - 31 + ADD_LEFT_SHIFT + SHIFT) * total
        for _, multiplier, shift in _inputs(constants)
    ]
    reach = range(-_REACH, _REACH + 1)
    for step1, step2 in sorted(
        itertools.product(reach, reach), key=lambda s: abs(s[0]) + abs(s[1])
    ):
        weight1, weight2 = round(ideal[0]) + step1, round(ideal[1]) + step2
        sums = _VALUES[:, None] * weight1 + _VALUES * weight2
        # What keeps output << SHIFT <= sum + offset < output + 1 << SHIFT, of saturated ones one.
        least = np.where(output == -128, -_NO_BOUND, (output << SHIFT) - sums).max()
        most = np.where(output == 127, _NO_BOUND, (output + 1 << SHIFT) - 1 - sums).min()
        if least <= most:
            offset = int(least + most) // 2
            reached = offset, sums.min() + offset, sums.max() + offset
            fits = all(-(1 << 31) <= value < 1 << 31 for value in reached)
            return LinearAdd(weight1, weight2, offset) if fits else None
    return None


def outputs(constants: AddConstants) -> np.ndarray:
    """int64 (256, 256): TFLite's sum of every pair of int8 values, saturated to int8."""
    scaled = [
        fixed_point.multiply_by_quantized_multiplier(
            (_VALUES - zero_point) << ADD_LEFT_SHIFT, np.int64(multiplier), np.int64(shift)
        )
        for zero_point, multiplier, shift in _inputs(constants)
    ]
    total = fixed_point.multiply_by_quantized_multiplier(
        scaled[0][:, None] + scaled[1],
        np.int64(constants.output_multiplier),
        np.int64(constants.output_shift),
    )
    return np.clip(total + constants.output_zero_point, -128, 127)


def _inputs(c: AddConstants) -> tuple[tuple[int, int, int], ...]:
    """Zero point, multiplier and shift of each input."""
    return (
        (c.input1_zero_point, c.input1_multiplier, c.input1_shift),
        (c.input2_zero_point, c.input2_multiplier, c.input2_shift),
    )
