"""Zero padding in front of a convolution becomes the convolution's own, if "same" means just that.

Keras' MobileNets pad in front of every convolution of stride 2. As an op of its own that costs a
copy of the tensor, in time and in RAM.
"""

from __future__ import annotations

from dataclasses import replace

from redsc import ir


def fuse_padding(graph: ir.Graph) -> ir.Graph:
    """Where "same" adds the very same zeros; a Pad that nobody reads any more is left behind."""
    shapes = ir.shapes(graph)

    def fused(op: ir.Op) -> ir.Op:
        if not isinstance(op, ir.Conv2D | ir.DepthwiseConv2D) or op.padding != "valid":
            return op
        pad = graph[op.inputs[0]]
        if not isinstance(pad, ir.Pad):
            return op
        wide = replace(op, inputs=pad.inputs, padding="same")
        return wide if _same_zeros(pad, wide, shapes[pad.inputs[0]], shapes[op.name]) else op

    return graph.with_ops(fused(op) for op in graph.ops)


def _same_zeros(
    pad: ir.Pad, op: ir.Conv2D | ir.DepthwiseConv2D, before: ir.Shape, after: ir.Shape
) -> bool:
    """Whether `op`, which pads for itself, has the same windows as behind `pad`.

    Zeros at the end that no window reaches do not matter.
    """
    axes = zip(before[:2], op.kernel.shape[:2], op.strides, op.dilation, strict=True)
    return all(
        ir.padding_before(*axis, op.padding) == zeros[0]
        and ir.conv_output_size(*axis, op.padding) == outputs
        for axis, zeros, outputs in zip(axes, pad.padding, after[:2], strict=True)
    )
