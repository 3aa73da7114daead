"""From the graph as imported to the kinds of op every later stage handles.

Each pass is graph -> graph and keeps the network's function; `lower` is their order.
"""

from __future__ import annotations

from collections.abc import Callable

from redsc import ir
from redsc.passes.convolve_one_channel import convolve_one_channel
from redsc.passes.drop_unused import drop_unused
from redsc.passes.fuse_batch_norm import fuse_batch_norm
from redsc.passes.fuse_padding import fuse_padding
from redsc.passes.fuse_relu import fuse_relu
from redsc.passes.hoist_relu import hoist_relu
from redsc.passes.lower_elementwise import lower_batch_norm, lower_relu
from redsc.passes.positive_gamma import positive_gamma
from redsc.passes.separate_fixed_scales import separate_fixed_scales
from redsc.passes.simplify_reshapes import simplify_reshapes

PASSES: tuple[Callable[[ir.Graph], ir.Graph], ...] = (
    drop_unused,
    simplify_reshapes,
    convolve_one_channel,
    fuse_batch_norm,
    lower_batch_norm,
    hoist_relu,
    fuse_relu,
    fuse_padding,
    separate_fixed_scales,
    lower_relu,
    simplify_reshapes,
    positive_gamma,
    drop_unused,
)


def lower(graph: ir.Graph) -> ir.Graph:
    """A graph of ir.LOWERED_OPS with the same function; batch-norms and ReLUs are fused."""
    for step in PASSES:
        graph = step(graph)
        ir.check(graph)
    ir.check(graph, lowered=True)
    return graph
