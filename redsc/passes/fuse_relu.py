"""A ReLU or ReLU6 right behind a convolution, dense layer or Add becomes its activation."""

from __future__ import annotations

from dataclasses import replace

from redsc import ir
from redsc.passes.rewire import bypass, only_reader


def fuse_relu(graph: ir.Graph) -> ir.Graph:
    """Where nothing else reads the layer; a second ReLU joins the first."""
    fused: dict[str, ir.Op] = {}
    removed: dict[str, str] = {}
    for op in graph.ops:
        if not isinstance(op, (ir.LinearOp, ir.Add)):
            continue
        last, activation = op.name, op.activation
        while isinstance(relu := only_reader(graph, last), ir.Relu):
            activation = _both(activation, relu.activation)
            removed[relu.name] = op.name
            last = relu.name
        fused[op.name] = replace(op, activation=activation)
    return bypass(graph.with_ops(fused.get(op.name, op) for op in graph.ops), removed)


def _both(first: ir.Activation, second: ir.Activation) -> ir.Activation:
    """One activation for two in a row: min(max(x, 0), 6) with either in front of ReLU is itself."""
    return ir.Activation.RELU6 if ir.Activation.RELU6 in (first, second) else second
