"""Units that do nothing leave the network before anything else looks at it.

Trained networks hold dead units: batch-norm let their kernels decay to 1e-28 beside a variance
near 0, so all they do is to hand a constant on. In MLPerf Tiny's visual-wake-words network they
are half of all MACs. A unit goes if every convolution or dense layer that reads it finds

- a channel that holds one value at every position, for every input: the product of that value and
  the layer's weights moves into its bias. With zero padding that is only exact for the value 0,
  for at the border a window sees less of it; or
- nothing but weights of 0, or what decay left of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from redsc import groups, ir
from redsc.groups import Axis, Grouping
from redsc.importance import Ranking

NEGLIGIBLE = 2.0**-64
"""A weight this much smaller than another one of its output does not show in float32's sum of
both, even if its input were 2^40 times the other's. Decay leaves 1e-31 beside 0.1."""


@dataclass(frozen=True, eq=False)
class Simplified:
    """`graph` without such units.

    kept: by group, the numbers its units had before, increasing. units: of all groups whose width
    may change, before. dropped: how many of them went.
    """

    graph: ir.Graph
    kept: Mapping[str, np.ndarray]
    units: int
    dropped: int

    def original_numbers(self, ranking: Mapping[str, Ranking]) -> dict[str, Ranking]:
        """A ranking of this graph's units by the numbers they had before."""
        return {
            name: replace(units, units=self.kept[name][units.units])
            for name, units in ranking.items()
        }


def drop(graph: ir.Graph, constants: Mapping[str, np.ndarray]) -> Simplified:
    """The same function, to float32 rounding, of inputs for which `bounds.constants` hold.

    Every group keeps a unit at least; fixed groups keep all. What only read dropped units goes too.
    """
    grouping = groups.find_groups(graph)
    kept = {name: np.arange(group.units) for name, group in grouping.groups.items()}
    before = sum(group.units for group in grouping.free)
    while True:
        units = _useful_units(graph, grouping, constants)
        if all(len(units[name]) == len(kept[name]) for name in kept):
            after = sum(group.units for group in grouping.free)
            return Simplified(graph, kept, before, before - after)
        graph = _without(graph, grouping, constants, units)
        constants = {
            name: constants[name][groups.channel_indices(axis, units)]
            for name, axis in grouping.axes.items()
        }
        grouping = groups.find_groups(graph)
        kept = {name: kept[name][units[name]] for name in kept}


def _useful_units(
    graph: ir.Graph, grouping: Grouping, constants: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Per group the numbers of the units that stay."""
    shapes = ir.shapes(graph)
    idle = {name: np.ones(group.units, bool) for name, group in grouping.groups.items()}
    for op in graph.linear_ops:
        if isinstance(op, ir.DepthwiseConv2D):  # hands its units on, to be read behind it
            continue
        value = constants[op.inputs[0]]
        movable = value == 0 if _reads_padding(op, shapes) else ~np.isnan(value)
        _all_of_unit(idle, grouping.axes[op.inputs[0]], movable | _unread(op))
    result = {}
    for name, group in grouping.groups.items():
        useful = np.flatnonzero(~idle[name])
        if group.fixed:
            useful = np.arange(group.units)
        result[name] = useful if len(useful) else np.arange(1)
    return result


def _unread(op: ir.LinearOp) -> np.ndarray:
    """bool (inputs,): channels of which no output's sum takes notice."""
    sizes = np.abs(op.kernel.reshape(-1, *op.kernel.shape[-2:])).max(axis=0)  # (inputs, outputs)
    return np.all(sizes <= NEGLIGIBLE * sizes.max(axis=0), axis=1)


def _all_of_unit(idle: Mapping[str, np.ndarray], axis: Axis, channels: np.ndarray) -> None:
    """A unit remains idle if all its channels on an axis are so."""
    start = 0
    for segment in axis:
        end = start + segment.channels(segment.units)
        blocks = channels[start:end].reshape(segment.outer, segment.units, segment.inner)
        idle[segment.group][:] &= blocks.all(axis=(0, 2))
        start = end


def _reads_padding(op: ir.LinearOp, shapes: Mapping[str, ir.Shape]) -> bool:
    """Whether some window reaches beyond the image."""
    if not isinstance(op, ir.Conv2D):
        return False
    before, after = shapes[op.inputs[0]][:2], shapes[op.name][:2]
    return any(
        (outputs - 1) * stride + (window - 1) * rate + 1 > size
        for size, outputs, window, stride, rate in zip(
            before, after, op.kernel.shape[:2], op.strides, op.dilation, strict=True
        )
    )


def _without(
    graph: ir.Graph,
    grouping: Grouping,
    constants: Mapping[str, np.ndarray],
    units: Mapping[str, np.ndarray],
) -> ir.Graph:
    """Only `units` of each group, what the others held moved into their readers' biases."""

    def absorb(op: ir.Op) -> ir.Op:
        if not isinstance(op, ir.LinearOp) or isinstance(op, ir.DepthwiseConv2D):
            return op
        value = np.nan_to_num(constants[op.inputs[0]])  # not a number: read by negligible weights
        value[groups.channel_indices(grouping.axes[op.inputs[0]], units)] = 0
        moved = np.einsum("tio,i->o", op.kernel.reshape(-1, *op.kernel.shape[-2:]), value)
        if not moved.any():
            return op
        bias = moved if op.bias is None else op.bias + moved
        return replace(op, bias=ir.read_only(bias))

    return groups.select_units(graph.with_ops(absorb(op) for op in graph.ops), grouping, units)
