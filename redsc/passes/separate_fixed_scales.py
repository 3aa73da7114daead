"""A sigmoid, tanh or softmax that is joined with other tensors gets a requantisation in between.

TFLite prescribes the scale of their outputs, and Concatenate wants one scale for all its inputs
and its output: without this the other inputs would be clipped to ±1.
"""

from __future__ import annotations

from dataclasses import replace

from redsc import ir
from redsc.passes.rewire import unique_name

PRESCRIBED = (ir.Logistic, ir.Tanh, ir.Softmax)
SCALE_KEEPING = (ir.MaxPool2D, ir.AveragePool2D, ir.Reshape, ir.Pad)


def separate_fixed_scales(graph: ir.Graph) -> ir.Graph:
    """Inserts a ReLU-less Relu, which lower_relu makes a depthwise convolution of ones."""
    for join in graph.ops:
        if not isinstance(join, ir.Concatenate):
            continue
        kinds = {_prescribed(graph, name) for name in join.inputs}
        if len(kinds) == 1:
            continue
        inputs = []
        for name in graph[join.name].inputs:
            if _prescribed(graph, name) is not None:
                own = ir.Relu(unique_name(graph, f"{name}/requantize"), (name,), ir.Activation.NONE)
                graph = _insert_before(graph, join.name, own)
                name = own.name
            inputs.append(name)
        joined = replace(graph[join.name], inputs=tuple(inputs))
        graph = graph.with_ops(joined if op.name == join.name else op for op in graph.ops)
    return graph


def _prescribed(graph: ir.Graph, name: str) -> type[ir.Op] | None:
    """The kind of op that prescribes a tensor's scale, if one does."""
    op = graph[name]
    while isinstance(op, SCALE_KEEPING):
        op = graph[op.inputs[0]]
    if isinstance(op, ir.Concatenate):
        kinds = {_prescribed(graph, source) for source in op.inputs}
        return kinds.pop() if len(kinds) == 1 else None
    return type(op) if isinstance(op, PRESCRIBED) else None


def _insert_before(graph: ir.Graph, reader: str, new: ir.Op) -> ir.Graph:
    return graph.with_ops(
        part for op in graph.ops for part in ((new, op) if op.name == reader else (op,))
    )
