"""Requantisation as one product, proven for every accumulator that a channel can reach.

Where an output's zero point is -128, as behind a ReLU, TFLite (MultiplyByQuantizedMultiplier, two
roundings) makes of an accumulator a

    saturate(round(round(a * multiplier / 2^31) / 2^-shift) - 128)

which rises 255 times; rounding does not matter below zero. With an offset and a multiplier made for
it,

    saturate(((a << SUM_SHIFT) + offset) * multiplier >> 32 + SHIFT)

rises at the same accumulators. Every rise is compared here. What is left for a kernel are two
instructions, as the zero point and what is added for rounding are in the offset.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from redsc.constants import INT8_MIN, LinearConstants
from redsc.kernels import accumulator_range

SUM_SHIFT = 8
"""The kernels take int8 weights as the upper bytes of int16."""

SHIFT = 11
"""Room for TFLite's shifts from -4 on."""

_LEAST_SHIFT = -20  # beyond it no offset fits in an int32
_RISES = np.arange(1, 256, dtype=np.int64)
_REACH = 32  # multipliers so far from the rounded one are tried, ...
_DIGITS = 26  # ... in steps that change so many digits: finer ones seldom move a rise
_NO_BOUND, _FAR = 1 << 62, 1 << 60


@dataclass(frozen=True, eq=False)
class OneProduct:
    """offset, multiplier: int32 (out,), the bias in the offset. is_exact: bool (out,); where it is
    not, the others mean nothing."""

    offset: np.ndarray
    multiplier: np.ndarray
    is_exact: np.ndarray


def find(constants: LinearConstants, channels: np.ndarray) -> OneProduct:
    """channels: int8 weights as (out, products)."""
    bias = constants.bias.astype(np.int64)
    lowest, highest = accumulator_range(constants, channels)
    # First for all accumulators, so that levels which share multipliers share these as well.
    offset, multiplier, is_exact = _for_all(constants)
    left = np.flatnonzero(~is_exact)
    offset[left], multiplier[left], is_exact[left] = _search(
        constants, left, lowest[left], highest[left]
    )
    for value in (bias, lowest, highest):
        total = (value << SUM_SHIFT) + offset
        is_exact &= (total >= -(1 << 31)) & (total < 1 << 31)
    offset = np.where(is_exact, (bias << SUM_SHIFT) + offset, 0)
    return OneProduct(offset.astype(np.int32), multiplier.astype(np.int32), is_exact)


def holds_for_all(constants: LinearConstants) -> np.ndarray:
    """bool (out,): whether there are constants for every accumulator, whatever the weights are."""
    return _for_all(constants)[2]


def _for_all(constants: LinearConstants) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    every = np.arange(len(constants.multiplier))
    return _search(
        constants, every, np.full(len(every), -_NO_BOUND), np.full(len(every), _NO_BOUND)
    )


def _search(
    constants: LinearConstants, which: np.ndarray, low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """int64 offsets without the bias, int64 multipliers, and whether there are any, for channels
    `which` and accumulators from low to high."""
    offset, multiplier = np.zeros((2, len(which)), np.int64)
    found = np.zeros(len(which), bool)
    if constants.output_zero_point != INT8_MIN:
        return offset, multiplier, found
    factor, right = (
        constants.multiplier[which].astype(np.int64),
        -constants.shift[which].astype(int),
    )
    own = np.flatnonzero((right >= 1) & (right <= -_LEAST_SHIFT) & (factor > 0))
    rises = _rises(factor[own], right[own])
    ideal = factor[own] * 2.0 ** (1 + SHIFT - SUM_SHIFT - right[own])
    offset[own], multiplier[own], found[own] = _find(rises, ideal, low[own], high[own])
    return offset, multiplier, found


def _rises(multiplier: np.ndarray, right: np.ndarray) -> np.ndarray:
    """int64 (out, 255): the least accumulators for which TFLite's output is 1 … 255 above -128."""
    halves = (_RISES << right[:, None]) - (1 << right[:, None] - 1)
    return -(-((halves << 31) - (1 << 30)) // multiplier[:, None])


def _find(
    rises: np.ndarray, ideal: np.ndarray, low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As _search, given where TFLite's output rises, (out, 255), and multipliers of that slope."""
    low, high = low[:, None], high[:, None]
    first = np.where(rises <= high, np.maximum(rises, low) << SUM_SHIFT, _NO_BOUND)
    last = np.where(rises > low, np.minimum(rises - 1, high) << SUM_SHIFT, -_NO_BOUND)
    step = 2.0 ** np.maximum(np.frexp(ideal)[1] - _DIGITS, 0)
    offset, multiplier = np.zeros((2, len(ideal)), np.int64)
    found = np.zeros(len(ideal), bool)
    for turn in sorted(range(-_REACH, _REACH + 1), key=abs):
        tried = np.rint(ideal + turn * step).astype(np.int64)
        left = np.flatnonzero(~found & (tried > 0) & (tried < 1 << 31))
        if len(left) == 0:
            break
        # The least sum, offset included, with which the output is so far above -128.
        reached = -(-((_RISES + INT8_MIN) << 32 + SHIFT) // tried[left, None])
        least = (reached - first[left]).max(axis=1)
        most = (reached - 1 - last[left]).min(axis=1)
        fits = least <= most
        # In the middle; but alike at all levels for a channel that stays at one end of int8.
        end = np.where(most < _FAR, -1 << 30, 1 << 30)
        is_bounded = (least > -_FAR) & (most < _FAR)
        chosen = np.where(is_bounded, (least + most) // 2, np.clip(end, least, most))
        found[left[fits]] = True
        multiplier[left[fits]] = tried[left[fits]]
        offset[left[fits]] = chosen[fits]
    return offset, multiplier, found
