"""Convolutions of a thin image, one of few channels: how its kernel reads windows of three lines of
at most ten products each, as the first layer of a network has them.

The kernel stands in firmware/reds/src/dsp/conv2d_thin.cc.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from redsc import ir

LINES = 3
MOST_PRODUCTS = 10
LANES = 4
CHANNELS = 2
"""Computed at once."""

MOST_WASTE = 1.2
"""Outputs computed, in four whole quarters of a line, for each one that there is."""

LINES_BYTES, MOST_LINES_BYTES = 4096, 16384
"""Packed lines it keeps in scratch, and the most of what one line of outputs may take."""


@dataclass(frozen=True)
class Lanes:
    """How a line is packed, for a quarter of its windows in each lane.

    pairs: of products that a window's line takes. windows: of a lane. groups: of four values of a
    lane. phases: copies of a line, each a value ahead of the one before.
    """

    pairs: int
    windows: int
    groups: int
    phases: int

    @property
    def line_bytes(self) -> int:
        return self.phases * self.groups * 2 * LANES * 4

    @property
    def edge_bytes(self) -> int:
        """Of all lanes of a line as int8, one value more with a second phase."""
        return LANES * 4 * -(-(4 * self.groups + self.phases - 1) // 4)


def lanes(output_width: int, kernel_width: int, stride: int, channels: int) -> Lanes:
    """Of lines of so many outputs; channels of the image."""
    step, windows = stride * channels, -(-output_width // LANES)
    pairs = 2 if kernel_width * channels <= 4 else 5
    groups = -(-((windows - 1) * step + 2 * pairs) // 4)
    return Lanes(pairs, windows, groups, phases=1 + step % 2)


def suits(op: ir.Conv2D, output: ir.Shape) -> bool:
    """Whether it can compute an op, one with a ReLU, in lines that lanes do not lengthen much."""
    is_thin = math.prod(op.kernel.shape[1:3]) <= MOST_PRODUCTS
    return (
        is_thin
        and op.activation is not ir.Activation.NONE
        and (op.kernel.shape[0], *op.dilation) == (LINES, 1, 1)
        and LANES * _lanes(op, output).windows <= MOST_WASTE * output[1]
        and _lines_bytes(op, output, 1) <= MOST_LINES_BYTES
    )


def rows(op: ir.Conv2D, output: ir.Shape, room: int) -> int:
    """Lines of outputs that it takes at once in so many bytes; 0 where it cannot run."""
    if not suits(op, output) or scratch_bytes(op, output, 1) > room:
        return 0
    count = 1
    while (
        count < output[0]
        and _lines_bytes(op, output, count + 1) <= LINES_BYTES
        and scratch_bytes(op, output, count + 1) <= room
    ):
        count += 1
    return count


def scratch_bytes(op: ir.Conv2D, output: ir.Shape, rows: int) -> int:
    """int16 weights and lines, and what lies at the image's edges."""
    found = _lanes(op, output)
    pairs_of_channels = -(-op.kernel.shape[3] // CHANNELS)
    weights = pairs_of_channels * LINES * found.pairs * CHANNELS * 4
    return weights + _lines_bytes(op, output, rows) + found.edge_bytes


def _lanes(op: ir.Conv2D, output: ir.Shape) -> Lanes:
    return lanes(output[1], op.kernel.shape[1], op.strides[1], op.kernel.shape[2])


def _lines_bytes(op: ir.Conv2D, output: ir.Shape, rows: int) -> int:
    return ((rows - 1) * op.strides[0] + LINES) * _lanes(op, output).line_bytes
