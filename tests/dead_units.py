"""Networks with units that do nothing planted into them: constants, and units that nobody reads."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from redsc import groups, ir

FAINT = 1e-28
"""What weight decay leaves of a kernel whose batch-norm makes a constant of its output."""


def plant(graph: ir.Graph, share: float, seed: int) -> ir.Graph:
    """`graph` with about that share of every free group's units made constant or unread.

    Constant ones have faint kernels and offsets of either sign in every layer that makes them;
    the others' readers have faint weights for them, or 0.
    """
    rng = np.random.default_rng(seed)
    grouping = groups.find_groups(graph)
    # 0: lives, 1: constant, 2: nobody reads it
    fates = {
        name: rng.choice(3, group.units, p=(1 - share, share * 2 / 3, share / 3))
        for name, group in grouping.groups.items()
        if not group.fixed
    }

    def channels(tensor: str, fate: int) -> np.ndarray:
        units = {
            name: np.flatnonzero(fates[name] == fate) if name in fates else np.array([], np.int64)
            for name in grouping.groups
        }
        return groups.channel_indices(grouping.axes[tensor], units)

    def planted(op: ir.Op) -> ir.Op:
        if not isinstance(op, ir.LinearOp) or isinstance(op, ir.DepthwiseConv2D):
            return op
        kernel, norm = op.kernel.copy(), op.norm
        constant = channels(op.name, 1)
        kernel[..., constant] *= np.float32(FAINT)
        kernel[..., channels(op.inputs[0], 2), :] *= np.float32(rng.choice([0, FAINT]))
        if norm is not None:
            variance, mean = norm.variance.copy(), norm.mean.copy()
            variance[constant], mean[constant] = 1e-40, 0
            norm = replace(norm, variance=ir.read_only(variance), mean=ir.read_only(mean))
        return replace(op, kernel=ir.read_only(kernel), norm=norm)

    return graph.with_ops(planted(op) for op in graph.ops)
