"""Winograd's algorithm F(4x4, 3x3) for convolutions: where it can run, its room and its cost.

The kernel and its algebra stand in firmware/reds/src/dsp/conv2d_winograd.cc.
"""

from __future__ import annotations

from dataclasses import dataclass

from redsc import ir

TILES = 4
"""Tiles, each of 4 x 4 outputs, that one block of the product takes."""

CHANNELS = 2
"""Channels computed by one block."""

POINTS = 36
SIDE = 4

SUM_LIMIT = 1 << 25
"""A tile's first output comes out as 576 times its accumulator without the bias, modulo 2^32. The
9 in it is undone exactly; what is left, 64 accumulators, is an int32 where these are below this."""


@dataclass(frozen=True)
class Tiling:
    """tiles: windows transformed at once; channels: whose weights are kept transformed, all or
    those of one block; passes: how often all weights are transformed."""

    tiles: int
    channels: int
    passes: int


def tiling(op: ir.Conv2D, output: ir.Shape, room: int) -> Tiling | None:
    """The best way to run an op in so many bytes; None where there is none, or none that is faster
    than the direct kernel."""
    inputs, outputs = op.kernel.shape[2:]
    if (
        (*op.kernel.shape[:2], *op.strides, *op.dilation) != (3, 3, 1, 1, 1, 1)
        or inputs % 4
        or outputs % CHANNELS
    ):
        return None
    blocks = -(-_tiles(output) // TILES)
    fitting = min((room - _rest_bytes(inputs)) // _channel_bytes(inputs) - CHANNELS, TILES * blocks)
    fitting -= fitting % TILES
    ways = [Tiling(TILES, outputs, 1), Tiling(TILES * blocks, CHANNELS, 1)]
    if fitting > 0:
        ways.append(Tiling(fitting, CHANNELS, -(-TILES * blocks // fitting)))
    ways = [way for way in ways if scratch_bytes(op, way) <= room]
    if not ways:
        return None
    best = min(ways, key=lambda way: (way.passes, scratch_bytes(op, way)))
    return best if _cycles(op, output, best.passes) < _direct_cycles(op, output) else None


def scratch_bytes(op: ir.Conv2D, way: Tiling) -> int:
    """int16 windows and weights, and the larger one of a block's sums and a window's pixels."""
    inputs = op.kernel.shape[2]
    return (way.tiles + way.channels) * _channel_bytes(inputs) + _rest_bytes(inputs)


def _channel_bytes(inputs: int) -> int:
    """Of a transformed window, and of an output channel's transformed weights."""
    return 2 * POINTS * inputs


def _rest_bytes(inputs: int) -> int:
    return max(4 * POINTS * CHANNELS * TILES, POINTS * inputs)


def _tiles(output: ir.Shape) -> int:
    return -(-output[0] // SIDE) * -(-output[1] // SIDE)


def _cycles(op: ir.Conv2D, output: ir.Shape, passes: int) -> int:
    """As counted in conv2d_winograd_tiles.S."""
    inputs, outputs = op.kernel.shape[2:]
    tiles = _tiles(output)
    block = POINTS * (16 * inputs // 2 + 30) + TILES * CHANNELS * 360 + 150
    return (
        tiles * (220 * inputs + 200)
        + passes * outputs * (80 * inputs + 20)
        + -(-tiles // TILES) * outputs // CHANNELS * block
    )


def _direct_cycles(op: ir.Conv2D, output: ir.Shape) -> int:
    """As counted in conv2d_channels.S, for tiles of as many pixels as there are."""
    inputs, outputs = op.kernel.shape[2:]
    pixels, products = output[0] * output[1], 9 * inputs
    return pixels * (3 * products + 70) + outputs * pixels * (products + products // 14 + 10)
