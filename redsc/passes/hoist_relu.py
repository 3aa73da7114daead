"""A ReLU behind max pooling, Reshape or zero padding moves in front of it, where it can fuse."""

from __future__ import annotations

from dataclasses import replace

from redsc import ir
from redsc.passes.rewire import only_reader


def hoist_relu(graph: ir.Graph) -> ir.Graph:
    """Exact: ReLU is monotone and keeps zeros, so it commutes with these ops.

    Only where it arrives behind a convolution, dense layer or Add that nothing else reads.
    """
    for relu in (op for op in graph.ops if isinstance(op, ir.Relu)):
        chain: list[ir.Op] = []
        above = graph[relu.inputs[0]]
        while isinstance(above, (ir.MaxPool2D, ir.Reshape, ir.Pad)) and _single(graph, above):
            chain.insert(0, above)
            above = graph[above.inputs[0]]
        if chain and isinstance(above, (ir.LinearOp, ir.Add)) and _single(graph, above):
            graph = _rotate(graph, chain, graph[relu.name])
    return graph


def _single(graph: ir.Graph, op: ir.Op) -> bool:
    return only_reader(graph, op.name) is not None


def _rotate(graph: ir.Graph, chain: list[ir.Op], relu: ir.Op) -> ir.Graph:
    """chain → relu becomes relu → chain; names stay in place, so readers and output do too."""
    names = [*(op.name for op in chain), relu.name]
    new = {names[0]: replace(relu, name=names[0], inputs=chain[0].inputs)}
    for op, name, source in zip(chain, names[1:], names, strict=False):
        new[name] = replace(op, name=name, inputs=(source,))
    return graph.with_ops(new.get(op.name, op) for op in graph.ops)
