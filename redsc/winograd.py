"""Winograd's algorithm F(4x4, 3x3) for convolutions: where it can run, and in how much room.

The kernel and its algebra stand in firmware/reds/src/dsp/conv2d_winograd.cc.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from redsc import ir

TILES = 4
"""Tiles, each of 4 x 4 outputs, that one block of the product takes."""

CHANNELS = 2
"""Channels computed by one block."""

SIDE = 4
POINTS = 36

SHORT_WORDS = 4
"""Of four input channels: so many and fewer are multiplied without loops over them."""

MOST_WASTE = 1.8
"""Outputs computed, in whole blocks, for each one that there is. At 1.78, of 6 x 6 outputs, it
takes 0.75 of the direct kernel's estimated cycles for 64 channels, 1.13 for 8 to 16; at 1.6, of
5 x 8, 0.67 and 1.0."""

SUM_LIMIT = 1 << 25
"""A tile's first output comes out as 576 times its accumulator without the bias, modulo 2^32. The
9 in it is undone exactly; what is left, 64 accumulators, is an int32 where these are below this."""


@dataclass(frozen=True)
class Tiling:
    """tiles: windows transformed at once; channels: whose transformed weights are kept, all or
    those of one block."""

    tiles: int
    channels: int


def suits(op: ir.Conv2D, output: ir.Shape) -> bool:
    """Whether it can compute an op, and of so many pixels without much waste."""
    is_3x3 = (*op.kernel.shape[:2], *op.strides, *op.dilation) == (3, 3, 1, 1, 1, 1)
    computed = SIDE**2 * computed_tiles(output)
    return is_3x3 and computed <= MOST_WASTE * math.prod(output[:2])


def is_quicker(op: ir.Conv2D, output: ir.Shape) -> bool:
    """Whether it takes fewer cycles than the direct kernel, at these channels.

    Both in round figures of what is fitted to the emulated Cortex-M4 (benchmarks/latency.py). Few
    input channels, or few pixels, do not pay for its transforms.
    """
    inputs, outputs = op.kernel.shape[2:]
    pixels, pairs = math.prod(output[:2]), -(-outputs // CHANNELS)
    words, products = -(-inputs // 4), -(-9 * inputs // 4)  # of four channels; of four products
    blocks, tiles = -(-pixels // 4), computed_tiles(output)
    lines_in_parts = 3 if inputs % 4 else 0
    direct = blocks * (pairs * (66 + 32 * products) + 150 + 41 * products + 66 * lines_in_parts)
    block = (3600 if words <= SHORT_WORDS else 4000) + 1170 * words
    transformed = tiles * 850 * words + tiles // TILES * pairs * block
    return transformed < direct


def computed_tiles(output: ir.Shape) -> int:
    """Of whole blocks."""
    tiles = -(-output[0] // SIDE) * -(-output[1] // SIDE)
    return TILES * -(-tiles // TILES)


def tiling(op: ir.Conv2D, output: ir.Shape, room: int) -> Tiling | None:
    """How to run an op in so many bytes, so that weights are transformed as rarely as can be; None
    where there is too little room or it does not suit."""
    if not suits(op, output):
        return None
    all_tiles = computed_tiles(output)
    all_channels = CHANNELS * -(-op.kernel.shape[3] // CHANNELS)
    once = [Tiling(TILES, all_channels), Tiling(all_tiles, CHANNELS)]
    smallest = min(once, key=lambda way: scratch_bytes(op, way))
    if scratch_bytes(op, smallest) <= room:
        return smallest
    inputs = _padded_inputs(op)
    tiles = (room - _rest_bytes(inputs)) // _transformed_bytes(inputs) - CHANNELS
    return Tiling(tiles - tiles % TILES, CHANNELS) if tiles >= TILES else None


def scratch_bytes(op: ir.Conv2D, way: Tiling) -> int:
    """int16 windows and weights, and the larger one of a block's sums and a window's pixels."""
    inputs = _padded_inputs(op)
    return (way.tiles + way.channels) * _transformed_bytes(inputs) + _rest_bytes(inputs)


def _padded_inputs(op: ir.Conv2D) -> int:
    return 4 * -(-op.kernel.shape[2] // 4)


def _transformed_bytes(inputs: int) -> int:
    """Of a window, and of an output channel's weights."""
    return 2 * POINTS * inputs


def _rest_bytes(inputs: int) -> int:
    return max(4 * POINTS * CHANNELS * TILES, POINTS * inputs)
