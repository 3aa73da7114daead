"""A batch-norm right behind a convolution or dense layer becomes that layer's `norm`."""

from __future__ import annotations

from dataclasses import replace

from redsc import ir
from redsc.passes.rewire import bypass, only_reader


def fuse_batch_norm(graph: ir.Graph) -> ir.Graph:
    """Where the layer has neither norm nor activation yet, and nothing else reads it."""
    fused: dict[str, ir.Op] = {}
    removed: dict[str, str] = {}
    for op in graph.linear_ops:
        norm = only_reader(graph, op.name)
        free = op.norm is None and op.activation is ir.Activation.NONE
        if free and isinstance(norm, ir.BatchNormalization):
            fused[op.name] = replace(op, norm=norm.norm)
            removed[norm.name] = op.name
    return bypass(graph.with_ops(fused.get(op.name, op) for op in graph.ops), removed)
