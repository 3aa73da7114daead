"""A ReLU behind max pooling, Reshape or zero padding moves in front of it, where it can fuse."""

from __future__ import annotations

from dataclasses import replace

from redsc import ir
from redsc.passes.rewire import only_reader


def hoist_relu(graph: ir.Graph) -> ir.Graph:
    """Exact: ReLU is monotone and keeps zeros, so it commutes with these ops."""
    moved = True
    while moved:
        graph, moved = _hoist_once(graph)
    return graph


def _hoist_once(graph: ir.Graph) -> tuple[ir.Graph, bool]:
    for op in graph.ops:
        relu = only_reader(graph, op.name)
        if isinstance(op, (ir.MaxPool2D, ir.Reshape, ir.Pad)) and isinstance(relu, ir.Relu):
            # The two ops swap places and names, so that readers and output stay as they are.
            first = replace(relu, name=op.name, inputs=op.inputs)
            second = replace(op, name=relu.name, inputs=(op.name,))
            swapped = {op.name: first, relu.name: second}
            return graph.with_ops(swapped.get(o.name, o) for o in graph.ops), True
    return graph, False
