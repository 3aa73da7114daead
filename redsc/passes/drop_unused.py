"""Ops whose results nobody reads go."""

from __future__ import annotations

from redsc import ir


def drop_unused(graph: ir.Graph) -> ir.Graph:
    """Keeps the input and everything the output depends on."""
    needed = {graph.output, graph.input.name}
    for op in reversed(graph.ops):
        if op.name in needed:
            needed.update(op.inputs)
    return graph.with_ops(op for op in graph.ops if op.name in needed)
