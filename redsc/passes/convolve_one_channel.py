"""A depthwise convolution of a single channel is a convolution, whose units a level can leave out.

The units of a depthwise convolution are its input's, so over one raw channel (a spectrogram, as in
TensorFlow's micro_speech) all its outputs would be one unit, which every level must keep.
"""

from __future__ import annotations

from redsc import ir


def convolve_one_channel(graph: ir.Graph) -> ir.Graph:
    """The kernel stays as it is: (height, width, 1, multiplier) is (height, width, 1, out)."""
    return graph.with_ops(_as_convolution(op) for op in graph.ops)


def _as_convolution(op: ir.Op) -> ir.Op:
    match op:
        case ir.DepthwiseConv2D(kernel=kernel) if kernel.shape[2] == 1 and kernel.shape[3] > 1:
            return ir.Conv2D(**vars(op))
    return op
