"""One sign per channel, shared by all levels: negative gammas move into kernel, bias and mean."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from redsc import ir


def positive_gamma(graph: ir.Graph) -> ir.Graph:
    """gamma * (y - mean) = -gamma * (-y - -mean), so that norm.gamma ≥ 0 everywhere, exactly."""
    return graph.with_ops(_positive(op) if isinstance(op, ir.LinearOp) else op for op in graph.ops)


def _positive(op: ir.LinearOp) -> ir.LinearOp:
    if op.norm is None or not (op.norm.gamma < 0).any():
        return op
    sign = np.where(op.norm.gamma < 0, np.float32(-1), np.float32(1))
    by_kernel = sign
    if isinstance(op, ir.DepthwiseConv2D):
        by_kernel = sign.reshape(op.kernel.shape[2:])
    norm = replace(
        op.norm, gamma=ir.read_only(op.norm.gamma * sign), mean=ir.read_only(op.norm.mean * sign)
    )
    return replace(
        op,
        kernel=ir.read_only(op.kernel * by_kernel),
        bias=None if op.bias is None else ir.read_only(op.bias * sign),
        norm=norm,
    )
