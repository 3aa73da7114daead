"""Which channel axes must keep the same units in the same order, and how to keep only some.

A *group* is a set of units that live and die together. A channel axis is a tuple of segments,
each one group repeated: `inner` times per unit (a depthwise multiplier) and `outer` times as a
whole (Flatten's positions). Channel (o, u, i) of a segment lies at (o * units + u) * inner + i.

Everything that shrinks or reorders a network goes through `select_units`; nothing else needs to
know how an axis is laid out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from redsc import ir

Widths = Mapping[str, int]
"""Leading units kept of each group, by group name."""


@dataclass(frozen=True)
class Segment:
    """One group's part of a channel axis: units * inner * outer channels."""

    group: str
    units: int
    inner: int = 1
    outer: int = 1

    def channels(self, width: int) -> int:
        return self.outer * width * self.inner


Axis = tuple[Segment, ...]


@dataclass(frozen=True)
class Group:
    """`fixed` groups stay at full width: network input, output, and axes that cannot be traced."""

    name: str
    units: int
    fixed: bool


@dataclass(frozen=True)
class Grouping:
    """Groups by name (of the first op that makes their units) and the axis of every tensor."""

    groups: Mapping[str, Group]
    axes: Mapping[str, Axis]

    @property
    def free(self) -> tuple[Group, ...]:
        """Groups whose width may change, in network order."""
        return tuple(group for group in self.groups.values() if not group.fixed)

    @property
    def full_widths(self) -> dict[str, int]:
        return {name: group.units for name, group in self.groups.items()}


class _Builder:
    """Union-find over group names while the network is walked once."""

    def __init__(self) -> None:
        self.units: dict[str, int] = {}
        self.parent: dict[str, str] = {}
        self.fixed: set[str] = set()

    def new(self, name: str, units: int, fixed: bool = False) -> Axis:
        self.units[name] = units
        self.parent[name] = name
        if fixed:
            self.fixed.add(name)
        return (Segment(name, units),)

    def root(self, name: str) -> str:
        while self.parent[name] != name:
            name = self.parent[name]
        return name

    def fix(self, *axes: Axis) -> None:
        self.fixed.update(segment.group for axis in axes for segment in axis)

    def unify(self, a: Axis, b: Axis) -> Axis:
        def layout(axis: Axis) -> list[tuple[int, int, int]]:
            return [(segment.units, segment.inner, segment.outer) for segment in axis]

        if layout(a) != layout(b):
            self.fix(a, b)  # for example Add(Concatenate(8, 8), Conv(16)): kept at full width
            return a
        for left, right in zip(a, b, strict=True):
            first, second = self.root(left.group), self.root(right.group)
            if first != second:
                self.parent[second] = first  # the earlier op names the group
        return a

    def reshape(self, op: ir.Reshape, before: ir.Shape, axis: Axis) -> Axis:
        channels, wanted = before[-1], op.shape[-1]
        if wanted == channels:
            return axis
        if wanted % channels == 0:
            repeat = wanted // channels
            if len(axis) == 1:
                return (replace(axis[0], outer=axis[0].outer * repeat),)
            return axis * repeat
        repeat = channels // wanted
        if channels % wanted == 0 and len(axis) == 1 and axis[0].outer % repeat == 0:
            return (replace(axis[0], outer=axis[0].outer // repeat),)
        self.fix(axis)
        return self.new(op.name, wanted, fixed=True)

    def axis(self, op: ir.Op, shape: ir.Shape, before: list[ir.Shape], inputs: list[Axis]) -> Axis:
        match op:
            case ir.Input():
                return self.new(op.name, shape[-1], fixed=True)
            case ir.Conv2D() | ir.Dense():
                return self.new(op.name, op.out_channels)
            case ir.DepthwiseConv2D():
                return tuple(replace(s, inner=s.inner * op.multiplier) for s in inputs[0])
            case ir.Add():
                return self.unify(*inputs)
            case ir.Concatenate():
                return tuple(segment for axis in inputs for segment in axis)
            case ir.Reshape():
                return self.reshape(op, before[0], inputs[0])
            case ir.Softmax():
                self.fix(inputs[0])  # its sum runs over all units
                return inputs[0]
            case _:
                return inputs[0]


def find_groups(graph: ir.Graph) -> Grouping:
    """Group the units of every channel axis of a graph."""
    builder, shapes = _Builder(), ir.shapes(graph)
    axes: dict[str, Axis] = {}
    for op in graph.ops:
        before = [shapes[name] for name in op.inputs]
        axes[op.name] = builder.axis(op, shapes[op.name], before, [axes[n] for n in op.inputs])
    builder.fix(axes[graph.output])
    fixed = {builder.root(name) for name in builder.fixed}
    groups = {
        name: Group(name, units, name in fixed)
        for name, units in builder.units.items()
        if builder.root(name) == name
    }
    return Grouping(
        groups,
        {
            name: tuple(replace(segment, group=builder.root(segment.group)) for segment in axis)
            for name, axis in axes.items()
        },
    )


def axis_width(axis: Axis, widths: Widths) -> int:
    """Channels of an axis when each group keeps `widths` units."""
    return sum(segment.channels(widths[segment.group]) for segment in axis)


def channel_indices(axis: Axis, units: Mapping[str, np.ndarray]) -> np.ndarray:
    """int64 positions, in the full axis, of the channels whose units are kept, in kept order.

    `units[group]` lists unit numbers: `arange(width)` slices, a permutation reorders.
    """
    parts, start = [], 0
    for segment in axis:
        outer, inner = np.arange(segment.outer), np.arange(segment.inner)
        kept = np.asarray(units[segment.group], dtype=np.int64)
        block = (outer[:, None, None] * segment.units + kept[:, None]) * segment.inner + inner
        parts.append(start + block.reshape(-1))
        start += segment.channels(segment.units)
    return np.concatenate(parts)


def prefixes(widths: Widths) -> dict[str, np.ndarray]:
    """The `units` argument that keeps the leading units of every group."""
    return {group: np.arange(width) for group, width in widths.items()}


def select_units(graph: ir.Graph, grouping: Grouping, units: Mapping[str, np.ndarray]) -> ir.Graph:
    """`graph` with only `units` of each group, in that order: slices and reorders alike."""
    index = {name: channel_indices(axis, units) for name, axis in grouping.axes.items()}

    def select(op: ir.Op) -> ir.Op:
        if isinstance(op, ir.Reshape):
            return replace(op, shape=(*op.shape[:-1], len(index[op.name])))
        if not isinstance(op, ir.LinearOp):
            return op
        inputs, outputs = index[op.inputs[0]], index[op.name]
        return replace(
            op,
            kernel=ir.read_only(select_kernel(op, op.kernel, inputs, outputs)),
            bias=None if op.bias is None else ir.read_only(op.bias[outputs]),
            norm=None if op.norm is None else _select_norm(op.norm, outputs),
        )

    return graph.with_ops(select(op) for op in graph.ops)


def select_kernel(
    op: ir.LinearOp, kernel: np.ndarray, inputs: np.ndarray, outputs: np.ndarray
) -> np.ndarray:
    """Rows and columns of an array shaped like `op.kernel` (so also of its importance)."""
    match op:
        case ir.Conv2D():
            return kernel[:, :, inputs][:, :, :, outputs]
        case ir.DepthwiseConv2D():
            return kernel[:, :, inputs]
        case ir.Dense():
            return kernel[inputs][:, outputs]
    raise AssertionError(op)


def _select_norm(norm: ir.BatchNorm, channels: np.ndarray) -> ir.BatchNorm:
    return ir.BatchNorm(
        gamma=ir.read_only(norm.gamma[channels]),
        beta=ir.read_only(norm.beta[channels]),
        mean=ir.read_only(norm.mean[channels]),
        variance=ir.read_only(norm.variance[channels]),
        epsilon=norm.epsilon,
    )
