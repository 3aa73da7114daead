"""Reshapes that change nothing go; of several in a row the last one stays."""

from __future__ import annotations

from dataclasses import replace

from redsc import ir
from redsc.passes.rewire import bypass


def simplify_reshapes(graph: ir.Graph) -> ir.Graph:
    """Each Reshape reads past the Reshapes before it; one to its input's own shape is bypassed."""
    shapes = ir.shapes(graph)
    ops: dict[str, ir.Op] = {}
    removed: dict[str, str] = {}
    for op in graph.ops:
        if isinstance(op, ir.Reshape):
            source = op.inputs[0]
            while isinstance(before := ops[source], ir.Reshape):
                source = before.inputs[0]
            op = replace(op, inputs=(source,))
            if shapes[source] == op.shape:
                removed[op.name] = source
        ops[op.name] = op
    return bypass(graph.with_ops(ops.values()), removed)
