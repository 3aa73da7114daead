"""What passes share: taking ops out of a graph, and naming new ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from redsc import ir


def bypass(graph: ir.Graph, removed: Mapping[str, str]) -> ir.Graph:
    """`graph` without the ops `removed`, whose readers read the op each is mapped to instead."""

    def source(name: str) -> str:
        while name in removed:
            name = removed[name]
        return name

    kept = (op for op in graph.ops if op.name not in removed)
    rewired = (
        replace(op, inputs=tuple(source(name) for name in op.inputs))
        if any(name in removed for name in op.inputs)
        else op
        for op in kept
    )
    return graph.with_ops(rewired, source(graph.output))


def only_reader(graph: ir.Graph, name: str) -> ir.Op | None:
    """The one op that reads a tensor, if it is one and the tensor is not the network's output."""
    consumers = graph.consumers(name)
    return consumers[0] if len(consumers) == 1 and name != graph.output else None


def unique_name(graph: ir.Graph, name: str) -> str:
    """`name`, or with a number behind it if an op is called so."""
    names, candidate, number = {op.name for op in graph.ops}, name, 1
    while candidate in names:
        candidate, number = f"{name}_{number}", number + 1
    return candidate
