"""Where an op's values lie: its window over the image, its channels in the store."""

from __future__ import annotations

import numpy as np

from redsc import groups, ir
from redsc.plan_structs import Channels, Run, Window


def compress(indices: np.ndarray, axis: groups.Axis = ()) -> Channels:
    """A short run list, repeated evenly, of increasing channel positions on an axis.

    Runs that meet where two segments do are joined only where that makes the list shorter.
    """
    sizes = [segment.channels(segment.units) for segment in axis]
    candidates = (_compress(indices, np.array([], np.int64)), _compress(indices, np.cumsum(sizes)))
    return min(candidates, key=lambda channels: len(channels.runs))


def _compress(indices: np.ndarray, boundaries: np.ndarray) -> Channels:
    breaks = np.flatnonzero((np.diff(indices) != 1) | np.isin(indices[1:], boundaries)) + 1
    starts = indices[np.concatenate(([0], breaks)).astype(np.int64)]
    lengths = np.diff(np.concatenate(([0], breaks, [len(indices)])))
    count = len(starts)
    for period in range(1, count + 1):
        strides = np.unique(starts[period:] - starts[:-period])
        if count % period or len(strides) > 1:
            continue
        if np.array_equal(lengths[period:], lengths[:-period]):
            break
    runs = tuple(
        Run(int(s), int(n)) for s, n in zip(starts[:period], lengths[:period], strict=True)
    )
    stride = int(strides[0]) if len(strides) else 0
    return Channels(runs, count // period, stride, len(indices))


def is_plain(reads: Channels, writes: Channels) -> bool:
    """Whether an op reads one run of channels, or one repeated, and writes one."""
    return len(reads.runs) == len(writes.runs) == writes.repeat == 1


def window(
    op: ir.Conv2D | ir.DepthwiseConv2D | ir.Pool2D, before: ir.Shape, after: ir.Shape
) -> Window:
    """Of an op that reads and writes these shapes."""
    kernel = op.size if isinstance(op, ir.Pool2D) else op.kernel.shape[:2]
    dilation = (1, 1) if isinstance(op, ir.Pool2D) else op.dilation
    top, left = (
        ir.padding_before(size, window, stride, rate, op.padding)
        for size, window, stride, rate in zip(before[:2], kernel, op.strides, dilation, strict=True)
    )
    return Window(
        input_height=before[0],
        input_width=before[1],
        output_height=after[0],
        output_width=after[1],
        kernel_height=kernel[0],
        kernel_width=kernel[1],
        stride_height=op.strides[0],
        stride_width=op.strides[1],
        dilation_height=dilation[0],
        dilation_width=dilation[1],
        pad_top=top,
        pad_left=left,
    )
