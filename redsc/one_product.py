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

_MISSING_BITS = range(4, 13)
"""Shifts to the right for which a multiplier nearby often has an offset where one has none."""

_GENERAL_BITS, _MOST_BITS = 15, 20
"""Of more, no offset that holds for all accumulators fits; of still more, int64 holds no rises."""

_RISES = np.arange(1, 256, dtype=np.int64)
_REACH = 32  # multipliers so far from the rounded one are tried, ...
_DIGITS = 26  # ... in steps that change so many digits: finer ones seldom move a rise
_FAR = 1 << 50  # no accumulator


@dataclass(frozen=True, eq=False)
class OneProduct:
    """offset, multiplier: int32 (out,), the bias in the offset. is_exact: bool (out,); where it is
    not, the others mean nothing."""

    offset: np.ndarray
    multiplier: np.ndarray
    is_exact: np.ndarray


def find(constants: LinearConstants, channels: np.ndarray) -> OneProduct:
    """channels: int8 weights as (out, products)."""
    lowest, highest = accumulator_range(constants, channels)
    # Offsets with which no sum leaves int32. The bias, with which a kernel begins, is among them.
    least, most = -(1 << 31) - (lowest << SUM_SHIFT), (1 << 31) - 1 - (highest << SUM_SHIFT)
    # First for all accumulators, so that levels which share multipliers share these as well.
    offset, multiplier, is_exact = _find_for_all(constants)
    is_exact &= (least <= offset) & (offset <= most)
    left = np.flatnonzero(~is_exact & _is_eligible(constants, _MOST_BITS))
    offset[left], multiplier[left], is_exact[left] = _find(
        constants, left, (lowest[left], highest[left]), (least[left], most[left])
    )
    offset = np.where(is_exact, (constants.bias.astype(np.int64) << SUM_SHIFT) + offset, 0)
    return OneProduct(offset.astype(np.int32), multiplier.astype(np.int32), is_exact)


def is_missed(constants: LinearConstants) -> np.ndarray:
    """bool (out,): whether nothing holds for all accumulators, but may with a multiplier that
    differs by some millionths."""
    is_usual = np.isin(-constants.shift.astype(np.int64), _MISSING_BITS)
    is_usual &= _is_eligible(constants, _GENERAL_BITS)
    return is_usual & ~_find_for_all(constants)[2]


def _is_eligible(constants: LinearConstants, most_bits: int) -> np.ndarray:
    right = -constants.shift.astype(np.int64)
    is_relu = constants.output_zero_point == INT8_MIN
    return is_relu & (constants.multiplier > 0) & (right >= 1) & (right <= most_bits)


def _find_for_all(constants: LinearConstants) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As _find, of all channels and accumulators, whether or not sums stay in int32."""
    count = len(constants.multiplier)
    offset, multiplier = np.zeros((2, count), np.int64)
    found = np.zeros(count, bool)
    own = np.flatnonzero(_is_eligible(constants, _GENERAL_BITS))
    far = np.full(len(own), _FAR)
    offset[own], multiplier[own], found[own] = _find(
        constants, own, (-far, far), (-far << SUM_SHIFT, far << SUM_SHIFT)
    )
    return offset, multiplier, found


def _find(
    constants: LinearConstants,
    which: np.ndarray,
    accumulators: tuple[np.ndarray, np.ndarray],
    offsets: tuple[np.ndarray, np.ndarray],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of channels `which`: int64 offsets without the bias and within `offsets`, int64 multipliers,
    and whether there are any with which the output rises where it should within `accumulators`."""
    low, high = (end[:, None] for end in accumulators)
    factor = constants.multiplier[which].astype(np.int64)
    right = -constants.shift[which].astype(np.int64)
    rises = _rises(factor, right)
    # Where the output is to have risen, and where not yet; none at the ends.
    first = np.where(rises <= high, np.maximum(rises, low), _FAR) << SUM_SHIFT
    last = np.where(rises > low, np.minimum(rises - 1, high), -_FAR) << SUM_SHIFT
    # A channel may stay at one end of int8: so do then a large product, alike at all levels.
    is_low, is_high = (
        (first == _FAR << SUM_SHIFT).all(axis=1),
        (last == -_FAR << SUM_SHIFT).all(axis=1),
    )
    ideal = factor * 2.0 ** (1 + SHIFT - SUM_SHIFT - right)
    ideal = np.where(is_low | is_high, 1 << 30, ideal)
    step = 2.0 ** np.maximum(np.frexp(ideal)[1] - _DIGITS, 0)
    offset, multiplier = np.zeros((2, len(which)), np.int64)
    found = np.zeros(len(which), bool)
    for turn in sorted(range(-_REACH, _REACH + 1), key=abs):
        tried = np.rint(ideal + turn * step).astype(np.int64)
        left = np.flatnonzero(~found & (tried > 0) & (tried < 1 << 31))
        # The least sum, offset included, with which the output is so far above -128.
        reached = -(-((_RISES + INT8_MIN) << 32 + SHIFT) // tried[left, None])
        least = (reached - first[left]).max(axis=1)
        most = (reached - 1 - last[left]).min(axis=1)
        chosen = np.where(is_high[left], 1 << 30, (least + most) // 2)
        chosen = np.where(is_low[left], -1 << 30, chosen)
        least, most = np.maximum(least, offsets[0][left]), np.minimum(most, offsets[1][left])
        fits = least <= most
        found[left[fits]] = True
        multiplier[left[fits]] = tried[left[fits]]
        offset[left[fits]] = np.clip(chosen, least, most)[fits]
        if found.all():
            break
    return offset, multiplier, found


def _rises(multiplier: np.ndarray, right: np.ndarray) -> np.ndarray:
    """int64 (out, 255): the least accumulators for which TFLite's output is 1 … 255 above -128."""
    halves = (_RISES << right[:, None]) - (1 << right[:, None] - 1)
    return -(-((halves << 31) - (1 << 30)) // multiplier[:, None])
