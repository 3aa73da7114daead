"""What a network costs: MACs, parameters, int8 activation memory, flash, estimated time.

Two views of one definition, which tests hold equal. Functions of a graph count a network that
exists. A `CostModel` holds the same costs of every subnetwork as exact integer forms of the
widths — products of two widths for convolution and dense, linear for the rest — so that the
search never has to build one.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import numpy as np

from redsc import ir, latency
from redsc.groups import Axis, Grouping, Segment, Widths

TABLE_BYTES_PER_CHANNEL = 9
"""int32 bias, int32 multiplier and int8 shift of one output channel of a linear op at one level.
One product needs no shift, but whether it serves is known only once the levels are trained."""

Tables = Literal["per-level", "multipliers", "everything"]
"""What of the requantisation tables all levels share with the widest one: nothing, multipliers and
shifts (so batch-norm's scale), or biases too (all of batch-norm, as in the REDS paper)."""

TABLES: tuple[Tables, ...] = get_args(Tables)

SHARED_TABLE_BYTES: Mapping[Tables, int] = {"per-level": 0, "multipliers": 5, "everything": 9}
"""Of TABLE_BYTES_PER_CHANNEL what is stored once; the rest is every level's own."""


# --- a graph -------------------------------------------------------------------------------------


def op_macs(graph: ir.Graph) -> dict[str, int]:
    """Multiply-accumulates of every Conv2D, DepthwiseConv2D and Dense, by op name.

    The usual definition: no bias, no pooling, no elementwise ops, and padded windows counted in
    full, as MLPerf Tiny's figures do.
    """
    shapes = ir.shapes(graph)
    return {op.name: _positions(op, shapes) * op.kernel.size for op in graph.linear_ops}


def macs(graph: ir.Graph) -> int:
    """Multiply-accumulates of one inference."""
    return sum(op_macs(graph).values())


def parameters(graph: ir.Graph) -> int:
    """Kernels, biases and the four arrays of each batch-norm, as Keras counts them."""
    total = 0
    for op in graph.ops:
        if isinstance(op, ir.LinearOp):
            total += op.kernel.size + (0 if op.bias is None else op.bias.size)
        if isinstance(op, (ir.LinearOp, ir.BatchNormalization)) and op.norm is not None:
            total += 4 * op.norm.gamma.size
    return total


def weights_bytes(graph: ir.Graph) -> int:
    """int8 weights of all linear ops."""
    return sum(op.kernel.size for op in graph.linear_ops)


def table_bytes(graph: ir.Graph) -> int:
    """Requantisation tables of one level."""
    return sum(op.out_channels for op in graph.linear_ops) * TABLE_BYTES_PER_CHANNEL


def tensor_bytes(graph: ir.Graph) -> dict[str, int]:
    """int8 size of every tensor; a Reshape's is that of the tensor it views."""
    return {name: math.prod(shape) for name, shape in ir.shapes(graph).items()}


def peak_activation_bytes(graph: ir.Graph) -> int:
    """Largest sum of int8 tensors alive at one op: its inputs, its output, all still needed."""
    sizes = tensor_bytes(graph)
    return max(sum(sizes[name] for name in alive) for alive in live_tensors(graph).values())


# --- lifetimes -----------------------------------------------------------------------------------


def storage(graph: ir.Graph) -> dict[str, str]:
    """For every tensor the tensor that owns its memory: a Reshape is a view of its input."""
    owner: dict[str, str] = {}
    for op in graph.ops:
        owner[op.name] = owner[op.inputs[0]] if isinstance(op, ir.Reshape) else op.name
    return owner


def lifetimes(graph: ir.Graph) -> dict[str, tuple[int, int]]:
    """First and last op position at which each memory-owning tensor is alive, both inclusive.

    The network input is alive from the first op, the output to the last.
    """
    owner = storage(graph)
    result: dict[str, tuple[int, int]] = {}
    for position, op in enumerate(graph.ops):
        for name in (*op.inputs, op.name):
            root = owner[name]
            result[root] = (result.get(root, (position, position))[0], position)
    output = owner[graph.output]
    result[output] = (result[output][0], len(graph.ops) - 1)
    return result


def live_tensors(graph: ir.Graph) -> dict[str, tuple[str, ...]]:
    """Memory-owning tensors alive while each op runs, by op name; views run nothing."""
    spans = lifetimes(graph)
    return {
        op.name: tuple(name for name, (first, last) in spans.items() if first <= position <= last)
        for position, op in enumerate(graph.ops)
        if not isinstance(op, ir.Reshape)
    }


# --- every subnetwork at once --------------------------------------------------------------------


@dataclass(frozen=True)
class Term:
    """Cost per unit of one group, or per pair of units of two: multiply by the width(s)."""

    macs: int = 0
    weights_bytes: int = 0
    channels: int = 0
    """Output channels of linear ops: entries of a requantisation table."""
    latency_ps: int = 0

    def __add__(self, other: Term) -> Term:
        return Term(
            self.macs + other.macs,
            self.weights_bytes + other.weights_bytes,
            self.channels + other.channels,
            self.latency_ps + other.latency_ps,
        )

    def __mul__(self, amount: int) -> Term:
        return Term(
            self.macs * amount,
            self.weights_bytes * amount,
            self.channels * amount,
            self.latency_ps * amount,
        )


Pair = tuple[str, str]


@dataclass(frozen=True)
class CostModel:
    """Costs of the subnetwork with widths w, exactly.

    macs = sum of pairs[a, b].macs * w[a] * w[b] + sum of units[a].macs * w[a] + constant.macs,
    weights_bytes, channels and latency_ps alike (only the last has a constant, and is 0 without
    a target); live[op] is the sum of bytes per unit * w over everything alive at the op. A pair
    may hold one group twice (a convolution inside a residual stage). scratch[op], of ops whose
    kernels have some that one group decides, names the group and holds the bytes at each of its
    widths: (units + 1,). weights_bytes holds what is stored once, own_table_bytes what every
    level adds per channel.
    """

    pairs: Mapping[Pair, Term]
    units: Mapping[str, Term]
    live: Mapping[str, Mapping[str, int]]
    scratch: Mapping[str, tuple[str, np.ndarray]] = field(default_factory=dict)
    own_table_bytes: int = TABLE_BYTES_PER_CHANNEL
    constant: Term = Term()

    def cost(self, widths: Widths) -> Term:
        """Everything but memory."""
        total = self.constant
        for (a, b), term in self.pairs.items():
            total += term * (widths[a] * widths[b])
        for group, term in self.units.items():
            total += term * widths[group]
        return total

    def macs(self, widths: Widths) -> int:
        return self.cost(widths).macs

    def weights_bytes(self, widths: Widths) -> int:
        return self.cost(widths).weights_bytes

    def table_bytes(self, widths: Widths) -> int:
        return self.cost(widths).channels * self.own_table_bytes

    def latency_ps(self, widths: Widths) -> int:
        return self.cost(widths).latency_ps

    def peak_activation_bytes(self, widths: Widths) -> int:
        return max(
            sum(size * widths[group] for group, size in row.items()) for row in self.live.values()
        )

    def least_arena_bytes(self, widths: Widths) -> int:
        """A lower bound of the planned arena: tensors alive at an op and its scratch."""
        return max(
            sum(self.bytes_at(op, group, widths[group]) for group in row)
            for op, row in self.live.items()
        )

    def bytes_at(self, op: str, group: str, width: int) -> int:
        """What a width of a group adds, at an op, to tensors alive and scratch."""
        source, table = self.scratch.get(op, ("", ()))
        return self.live[op][group] * width + (int(table[width]) if group == source else 0)


def cost_model(
    graph: ir.Graph,
    grouping: Grouping,
    target: latency.Target | None = None,
    tables: Tables = "per-level",
) -> CostModel:
    """The CostModel of a lowered graph; `grouping` is `find_groups(graph)`.

    Shared tables count like weights; where a channel axis has several segments, so that a level's
    channels are no prefix of the widest one's, nothing is shared.
    """
    shapes = ir.shapes(graph)
    prefixes = all(len(grouping.axes[op.name]) == 1 for op in graph.linear_ops)
    shared = SHARED_TABLE_BYTES[tables] if prefixes else 0
    pairs: defaultdict[Pair, Term] = defaultdict(Term)
    units: defaultdict[str, Term] = defaultdict(Term)
    for op in graph.linear_ops:
        positions, window = _positions(op, shapes), math.prod(op.kernel.shape[:-2])
        for out in grouping.axes[op.name]:
            channels = out.channels(1)
            units[out.group] += Term(weights_bytes=shared * channels, channels=channels)
            if isinstance(op, ir.DepthwiseConv2D):
                weights = window * out.channels(1)
                units[out.group] += Term(weights * positions, weights)
                continue
            for segment in grouping.axes[op.inputs[0]]:
                weights = window * segment.channels(1) * out.channels(1)
                pairs[pair(grouping, segment, out)] += Term(weights * positions, weights)
    per_unit = {name: _bytes_per_unit(shapes[name], axis) for name, axis in grouping.axes.items()}
    own = TABLE_BYTES_PER_CHANNEL - shared
    model = CostModel(pairs, units, _live_rows(graph, per_unit), own_table_bytes=own)
    return model if target is None else _with_latency(model, graph, grouping, target)


def _with_latency(
    model: CostModel, graph: ir.Graph, grouping: Grouping, target: latency.Target
) -> CostModel:
    pairs, units, constant = dict(model.pairs), dict(model.units), model.constant
    for name, form in latency.forms(graph, target).items():
        constant += Term(latency_ps=form.constant)
        inputs, outputs = grouping.axes[graph[name].inputs[0]], grouping.axes[name]
        for factor, axis in ((form.input, inputs), (form.output, outputs)):
            for segment in axis:
                more = Term(latency_ps=factor * segment.channels(1))
                units[segment.group] = units.get(segment.group, Term()) + more
        for source, out in itertools.product(inputs, outputs) if form.product else ():
            key = pair(grouping, source, out)
            more = Term(latency_ps=form.product * source.channels(1) * out.channels(1))
            pairs[key] = pairs.get(key, Term()) + more
    return replace(model, pairs=pairs, units=units, constant=constant)


def pair(grouping: Grouping, a: Segment, b: Segment) -> Pair:
    """Key of two groups: one order for a → b and b → a, that of the grouping."""
    order = list(grouping.groups)
    first, second = sorted((a.group, b.group), key=order.index)
    return first, second


def _positions(op: ir.LinearOp, shapes: Mapping[str, ir.Shape]) -> int:
    """How often each weight is used: output positions, 1 for Dense."""
    return math.prod(shapes[op.name][:-1])


def _bytes_per_unit(shape: ir.Shape, axis: Axis) -> dict[str, int]:
    """Bytes that one unit of each group adds to an int8 tensor."""
    result: defaultdict[str, int] = defaultdict(int)
    for segment in axis:
        result[segment.group] += math.prod(shape[:-1]) * segment.channels(1)
    return result


def _live_rows(
    graph: ir.Graph, per_unit: Mapping[str, Mapping[str, int]]
) -> dict[str, dict[str, int]]:
    rows: dict[str, dict[str, int]] = {}
    for op, alive in live_tensors(graph).items():
        row: defaultdict[str, int] = defaultdict(int)
        for name in alive:
            for group, size in per_unit[name].items():
                row[group] += size
        rows[op] = dict(row)
    return rows
