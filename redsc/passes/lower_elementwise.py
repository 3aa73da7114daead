"""What could not be fused becomes a 1×1 depthwise convolution with a kernel of ones.

It has its own requantisation table at every level, which a bare ReLU or batch-norm has not.
"""

from __future__ import annotations

import numpy as np

from redsc import ir
from redsc.passes.rewire import unique_name


def lower_batch_norm(graph: ir.Graph) -> ir.Graph:
    """Batch-norms behind an activation, an Add, a Concatenate, the input …"""
    for op in graph.ops:
        if isinstance(op, ir.BatchNormalization):
            graph = _as_depthwise(graph, op, op.norm, ir.Activation.NONE)
    return graph


def lower_relu(graph: ir.Graph) -> ir.Graph:
    """ReLUs behind average pooling, or behind a tensor that others read without it."""
    for op in graph.ops:
        if isinstance(op, ir.Relu):
            graph = _as_depthwise(graph, op, None, op.activation)
    return graph


def _as_depthwise(
    graph: ir.Graph, op: ir.Op, norm: ir.BatchNorm | None, activation: ir.Activation
) -> ir.Graph:
    """`op` replaced; a (channels,) tensor passes through as (1, 1, channels)."""
    shape, source = ir.shapes(graph)[op.name], op.inputs[0]
    ones = ir.read_only(np.ones((1, 1, shape[-1], 1)))
    if len(shape) == 3:
        new: list[ir.Op] = [
            ir.DepthwiseConv2D(op.name, (source,), ones, norm=norm, activation=activation)
        ]
    else:
        before = unique_name(graph, f"{op.name}/expand")
        inner = unique_name(graph, f"{op.name}/depthwise")
        new = [
            ir.Reshape(before, (source,), (1, 1, *shape)),
            ir.DepthwiseConv2D(inner, (before,), ones, norm=norm, activation=activation),
            ir.Reshape(op.name, (inner,), shape),
        ]
    ops = (part for o in graph.ops for part in (new if o is op else [o]))
    return graph.with_ops(ops)
