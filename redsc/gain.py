"""What a subnetwork is worth, by its widths: what the search maximises.

`gains` are those of `--objective importance`; the other objectives make theirs in objective.py. A
linear op's gain there is the importance of the weights it keeps. Kept are the leading units of its
input and output groups, so the gain is a 2-D prefix sum, exact for every pair of widths.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from redsc import ir
from redsc.cost import Pair, pair
from redsc.groups import Axis, Grouping, Segment, Widths

Importance = Mapping[str, np.ndarray]
"""Nonnegative importance of every weight, by op name, shaped like the op's kernel."""


@dataclass(frozen=True, eq=False)
class Gains:
    """What widths are worth (float64), such as the importance kept, as prefix sums over units.

    pairs[a, b][w_a, w_b] has shape (units_a + 1, units_b + 1), units[a][w] (units_a + 1,);
    a pair may hold one group twice.
    """

    pairs: Mapping[Pair, np.ndarray]
    units: Mapping[str, np.ndarray]

    def total(self, widths: Widths) -> float:
        """What the subnetwork with these widths is worth."""
        pairs = sum(float(table[widths[a], widths[b]]) for (a, b), table in self.pairs.items())
        return pairs + sum(float(table[widths[a]]) for a, table in self.units.items())


def gains(
    graph: ir.Graph,
    grouping: Grouping,
    importance: Importance,
    unit_importance: Mapping[str, np.ndarray] | None = None,
) -> Gains:
    """Importance kept of a lowered graph whose units already stand in order of importance.

    unit_importance: nonnegative (units,) by group, added on top; ops and groups that are absent
    from either mapping count nothing.
    """
    units = {name: np.zeros(group.units) for name, group in grouping.groups.items()}
    for name, extra in (unit_importance or {}).items():
        units[name] += extra
    pairs: dict[Pair, np.ndarray] = {}
    for op in graph.linear_ops:
        if op.name not in importance:
            continue
        scores = np.asarray(importance[op.name], dtype=np.float64)
        assert scores.shape == op.kernel.shape, f"{op.name}: importance {scores.shape}"
        assert np.isfinite(scores).all(), f"{op.name}: importance is not finite"
        assert scores.min(initial=0) >= 0, f"{op.name}: negative importance"
        inputs, outputs = grouping.axes[op.inputs[0]], grouping.axes[op.name]
        scores = scores.sum(axis=tuple(range(scores.ndim - 2)))
        if isinstance(op, ir.DepthwiseConv2D):
            for segment, part in _split(inputs, scores, 0):
                units[segment.group] += part.sum(axis=1)
            continue
        for source, rows in _split(inputs, scores, 0):
            for target, block in _split(outputs, rows, 1):
                key = pair(grouping, source, target)
                block = block if key == (source.group, target.group) else block.T
                pairs[key] = pairs.get(key, 0) + block
    return Gains(
        {key: _prefix_sums(matrix) for key, matrix in pairs.items()},
        {name: _prefix_sums(vector) for name, vector in units.items()},
    )


def _split(axis: Axis, scores: np.ndarray, dimension: int) -> list[tuple[Segment, np.ndarray]]:
    """Per segment of a channel axis the scores summed over its repeats: units along dimension."""
    parts, start = [], 0
    moved = np.moveaxis(scores, dimension, 0)
    for segment in axis:
        count = segment.channels(segment.units)
        block = moved[start : start + count]
        shape = (segment.outer, segment.units, segment.inner, *block.shape[1:])
        per_unit = block.reshape(shape).sum(axis=(0, 2))
        parts.append((segment, np.moveaxis(per_unit, 0, dimension)))
        start += count
    return parts


def _prefix_sums(scores: np.ndarray) -> np.ndarray:
    result = np.zeros([size + 1 for size in scores.shape])
    inner = scores
    for dimension in range(scores.ndim):
        inner = inner.cumsum(axis=dimension)
    result[tuple(slice(1, None) for _ in scores.shape)] = inner
    return result
