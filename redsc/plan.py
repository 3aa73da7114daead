"""Builds the plan: what the device is told about every op at every level.

Arrays with equal contents, and those that begin another one, are stored once.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from redsc import (
    constants,
    cost,
    geometry,
    groups,
    ir,
    kernels,
    linear_add,
    one_product,
    thin,
    winograd,
)  # fmt: skip
from redsc.errors import ModelError
from redsc.memory import ArenaPlan
from redsc.plan_structs import (
    MAX_INPUTS,
    NO_SLOT,
    AddLevel,
    Array,
    Channels,
    ConcatenateLevel,
    Fallback,
    LeakyReluLevel,
    Level,
    LinearLevel,
    LookupLevel,
    PadLevel,
    Plan,
    PoolLevel,
    SoftmaxLevel,
    Step,
    Symbol,
    Window,
)
from redsc.quantized import QuantizedLevel, QuantizedNetwork

_Obstacle = tuple[str, int]
"""A Fallback's reason and count."""

_UNSUITED: _Obstacle = ("shape", 0)
"""What a kernel was not made for is nothing to tell."""


@dataclass(eq=False)
class _Tables:
    """Collects arrays and channel lists, each content once."""

    arrays: list[Array] = field(default_factory=list)
    channels: dict[Channels, Symbol] = field(default_factory=dict)
    _candidates: dict[tuple[str, bytes], list[Array]] = field(default_factory=dict)

    def array(self, values: np.ndarray) -> Symbol:
        """The name of an array that begins with `values`; so add longer arrays first."""
        key = (values.dtype.str, values[:1].tobytes())
        candidates = self._candidates.setdefault(key, [])
        for array in candidates:
            if np.array_equal(array.values[: len(values)], values):
                return array.name
        array = Array(Symbol(f"table_{len(self.arrays)}"), values)
        self.arrays.append(array)
        candidates.append(array)
        return array.name

    def add(self, *arrays: np.ndarray) -> None:
        for values in arrays:
            self.array(values)

    @property
    def array_bytes(self) -> int:
        return sum(array.values.nbytes for array in self.arrays)

    def channel_list(self, indices: np.ndarray, axis: groups.Axis) -> Symbol:
        """The address of a channel list."""
        channels = geometry.compress(indices, axis)
        name = self.channels.setdefault(channels, Symbol(f"channels_{len(self.channels)}"))
        return Symbol(f"&{name}")


def build_plan(network: QuantizedNetwork, arenas: Sequence[ArenaPlan], *, dsp: bool = True) -> Plan:
    """Plan of a quantised network; `arenas` has one memory plan per level, in the same order. dsp:
    for a core with DSP kernels, whose scratch the arenas then have."""
    return _Builder(network, arenas, dsp).build()


class _Builder:
    """Holds what every op's translation needs: the network, its axes and the shared tables."""

    def __init__(self, network: QuantizedNetwork, arenas: Sequence[ArenaPlan], dsp: bool) -> None:
        self.network, self.arenas, self.dsp = network, arenas, dsp
        self.shapes = ir.shapes(network.graph)
        self.level_shapes = [ir.shapes(level.graph) for level in network.levels]
        self.indices = [
            {
                name: groups.channel_indices(axis, groups.prefixes(level.widths))
                for name, axis in network.grouping.axes.items()
            }
            for level in network.levels
        ]
        self.one_products: dict[tuple[str, int], one_product.OneProduct] = {}
        choices = {
            op.name: self.choose(op)
            for op in network.graph.ops
            if not isinstance(op, ir.Input | ir.Reshape)  # these compute nothing
        }
        self.kernels = {name: kernel for name, (kernel, _) in choices.items()}
        self.fallbacks = {name: passed for name, (_, passed) in choices.items()}
        self.tables = _Tables()
        self.weights: list[Array] = []
        self.owner = cost.storage(network.graph)
        self.slots: dict[str, int] = {}

    def build(self) -> Plan:
        graph, top = self.network.graph, self.network.levels[-1]
        steps = tuple(self.step(graph[name]) for name in self.kernels)
        source, target = graph.input.name, graph.output
        activation_slots = tuple(self.slot(op.name) for op in graph.ops)
        return Plan(
            steps=steps,
            weights=tuple(self.weights),
            arrays=tuple(self.tables.arrays),
            channels=tuple((name, channels) for channels, name in self.tables.channels.items()),
            offsets=tuple(self.slot_offsets(arena) for arena in self.arenas),
            activation_slots=activation_slots,
            arena_bytes=tuple(arena.size_bytes for arena in self.arenas),
            input_offset=self.arenas[-1].tensors[source],
            output_offset=self.arenas[-1].tensors[target],
            input_bytes=int(np.prod(self.shapes[source])),
            output_bytes=int(np.prod(self.shapes[target])),
            input=top.tensors[source],
            output=top.tensors[target],
        )

    def slot(self, name: str) -> int:
        """Of a tensor; one that shares memory with another has that one's."""
        return self.slots.setdefault(self.owner.get(name, name), len(self.slots))

    def slot_offsets(self, arena: ArenaPlan) -> tuple[int, ...]:
        """Slots are tensors by name, and scratch buffers by "scratch " and the op's name."""
        offsets = dict(arena.tensors)
        offsets.update({f"scratch {name}": offset for name, offset in arena.scratch.items()})
        return tuple(offsets[name] for name in self.slots)

    def step(self, op: ir.Op) -> Step:
        if len(op.inputs) > MAX_INPUTS:
            raise ModelError(
                f"{op.name}: joins {len(op.inputs)} tensors, TensorFlow Lite Micro takes at most "
                f"{MAX_INPUTS}; join some of them first"
            )
        levels: list[Level] = []
        for number in reversed(range(len(self.network.levels))):  # widest first: see _Tables
            levels.append(self.level(op, number))
        has_scratch = op.name in self.arenas[-1].scratch
        return Step(
            name=op.name,
            kind=self.kind(op),
            kernel=self.kernels[op.name],
            fields=self.fields(op),
            levels=tuple(reversed(levels)),
            inputs=tuple(self.slot(name) for name in op.inputs),
            output=self.slot(op.name),
            scratch=self.slot(f"scratch {op.name}") if has_scratch else NO_SLOT,
            output_bytes=tuple(int(np.prod(shapes[op.name])) for shapes in self.level_shapes),
            fallbacks=self.fallbacks[op.name],
        )

    def kind(self, op: ir.Op) -> str:
        return "Lookup" if isinstance(op, ir.Logistic | ir.Tanh) else type(op).__name__

    def choose(self, op: ir.Op) -> tuple[str, tuple[Fallback, ...]]:
        """The op's kernel: the fastest one for its shape, or where something stands against that
        the next one; and those that were passed."""
        if not self.dsp:
            return kernels.choose(op, self.shapes[op.name], dsp=False), ()
        choose = functools.partial(
            kernels.choose,
            op,
            self.shapes[op.name],
            channels=self.level_shapes[0][op.name][-1],
            is_plain=not isinstance(op, ir.Dense) or self.is_plain(op),  # others do not ask
        )
        obstacles = {
            "is_thin": self.against_thin(op),
            "has_winograd": self.against_winograd(op),
            "one_product": self.against_one_product(op),
            "proven": self.against_proof(op),
        }
        holds = dict.fromkeys(obstacles, True)
        kernel, fallbacks = choose(**holds), []
        for what, obstacle in obstacles.items():
            holds[what] = obstacle is None
            faster, kernel = kernel, choose(**holds)
            if obstacle is not None and obstacle != _UNSUITED and kernel != faster:
                fallbacks.append(Fallback(faster, *obstacle))
        return kernel, tuple(fallbacks)

    def against_thin(self, op: ir.Op) -> _Obstacle | None:
        """Every level needs room for the kernel of thin images."""
        if not isinstance(op, ir.Conv2D) or not thin.suits(op, self.shapes[op.name]):
            return _UNSUITED
        cramped = 0
        for level, shapes, arena in zip(
            self.network.levels, self.level_shapes, self.arenas, strict=True
        ):
            narrow = level.graph[op.name]
            assert isinstance(narrow, ir.Conv2D)
            cramped += thin.rows(narrow, shapes[op.name], arena.scratch_bytes[op.name]) == 0
        return ("room", cramped) if cramped else None

    def against_winograd(self, op: ir.Op) -> _Obstacle | None:
        """Every level needs room for Winograd's algorithm, and sums that it can take."""
        if not isinstance(op, ir.Conv2D) or not winograd.suits(op, self.shapes[op.name]):
            return _UNSUITED
        cramped = inexact = 0
        for level, shapes, arena in zip(
            self.network.levels, self.level_shapes, self.arenas, strict=True
        ):
            narrow = level.graph[op.name]
            assert isinstance(narrow, ir.Conv2D)
            room = arena.scratch_bytes[op.name]
            cramped += winograd.tiling(narrow, shapes[op.name], room) is None
            exact = kernels.winograd_channels(
                constants.linear(narrow, level), level.linear[op.name].rows(narrow)
            )
            inexact += int(np.sum(~exact))
        if cramped:
            return "room", cramped
        return ("proof", inexact) if inexact else None

    def is_plain(self, op: ir.Op) -> bool:
        """Whether channels read and written are plain at every level."""
        axes = self.network.grouping.axes
        return all(
            geometry.is_plain(
                geometry.compress(level[op.inputs[0]], axes[op.inputs[0]]),
                geometry.compress(level[op.name], axes[op.name]),
            )
            for level in self.indices
        )

    def against_proof(self, op: ir.Op) -> _Obstacle | None:
        """Short requantisation must be exact at every level."""
        count = sum(unproven(level.graph[op.name], level) for level in self.network.levels)
        return ("proof", count) if count else None

    def against_one_product(self, op: ir.Op) -> _Obstacle | None:
        """Requantisation as one product must be exact at every level, and levels that share all
        multipliers share as much of its tables."""
        if not isinstance(op, ir.Conv2D | ir.DepthwiseConv2D):
            return _UNSUITED
        multipliers, plain, own = _Tables(), _Tables(), _Tables()
        inexact = 0
        for number in reversed(range(len(self.network.levels))):  # widest first: see _Tables
            level = self.network.levels[number]
            narrow = level.graph[op.name]
            assert isinstance(narrow, ir.LinearOp)
            made, exact = self.one_product(narrow, number), constants.linear(narrow, level)
            inexact += int(np.sum(~made.is_exact))
            if inexact == 0:
                multipliers.add(exact.multiplier)
                plain.add(exact.bias, exact.multiplier, exact.shift)
                own.add(made.offset, made.multiplier)
        if inexact:  # which only behind a ReLU is something to tell
            is_relu = op.activation is not ir.Activation.NONE
            return ("proof", inexact) if is_relu else _UNSUITED
        more_bytes = own.array_bytes - plain.array_bytes
        is_shared = len(multipliers.arrays) == 1
        return ("tables", more_bytes) if is_shared and more_bytes > 0 else None

    def one_product(self, op: ir.LinearOp, number: int) -> one_product.OneProduct:
        """Of one level; found once, to choose the kernel and to fill its tables."""
        key, level = (op.name, number), self.network.levels[number]
        if key not in self.one_products:
            rows = level.linear[op.name].rows(op)
            self.one_products[key] = one_product.find(constants.linear(op, level), rows)
        return self.one_products[key]

    def store(self, op: ir.LinearOp) -> Symbol:
        name = Symbol(f"weights_{len(self.weights)}")
        self.weights.append(Array(name, self.network.weights[op.name].reshape(-1)))
        return name

    def fields(self, op: ir.Op) -> tuple[int | Window | Symbol, ...]:
        """Members of the op's struct in plan.h, without `levels`."""
        before, after = self.shapes[op.inputs[0]], self.shapes[op.name]
        match op:
            case ir.Conv2D():
                return (
                    geometry.window(op, before, after),
                    op.kernel.shape[2],
                    self.store(op),
                )
            case ir.DepthwiseConv2D():
                return (
                    geometry.window(op, before, after),
                    op.multiplier,
                    op.out_channels,
                    self.store(op),
                )
            case ir.Dense():
                return (op.kernel.shape[0], self.store(op))
            case ir.Pool2D():
                return (geometry.window(op, before, after),)
            case ir.Concatenate():
                return (int(np.prod(before[:-1])), len(op.inputs))
            case ir.Pad():
                return (*before[:2], *op.padding[0], *op.padding[1])
            case _:
                return ()

    def level(self, op: ir.Op, number: int) -> Level:
        """The op's record of one level."""
        level, shapes = self.network.levels[number], self.level_shapes[number]
        narrow, size = level.graph[op.name], int(np.prod(shapes[op.name]))
        match narrow:
            case ir.LinearOp():
                return self.linear_level(narrow, number)
            case ir.Add():
                exact = constants.add(narrow, level.tensors)
                made = asdict(exact) | asdict(linear_add.find(exact) or linear_add.NONE)
                return AddLevel(size=size, left_shift=constants.ADD_LEFT_SHIFT, **made)
            case ir.Concatenate():
                widths = np.array([shapes[name][-1] for name in narrow.inputs], np.uint32)
                return ConcatenateLevel(self.tables.array(widths))
            case ir.Pool2D():
                return PoolLevel(shapes[op.name][-1])
            case ir.Pad():
                return PadLevel(shapes[op.name][-1], level.tensors[op.name].zero_point)
            case ir.LeakyRelu():
                return LeakyReluLevel(size=size, **asdict(constants.leaky_relu(narrow, level)))
            case ir.Logistic() | ir.Tanh():
                return LookupLevel(size, self.tables.array(constants.lookup(narrow, level)))
            case ir.Softmax():
                depth = shapes[op.name][-1]
                c = constants.softmax(narrow, level)
                return SoftmaxLevel(size // depth, depth, c.multiplier, c.left_shift, c.diff_min)
        raise AssertionError(op)

    def linear_level(self, op: ir.LinearOp, number: int) -> LinearLevel:
        level, kernel = self.network.levels[number], self.kernels[op.name]
        c = constants.linear(op, level)
        shape = self.level_shapes[number][op.name]
        scratch = self.arenas[number].scratch_bytes.get(op.name, 0)
        tile = kernels.tile(op, shape, kernel, scratch)
        if kernel.endswith(kernels.ONE_PRODUCT):
            made = self.one_product(op, number)
            bias, multiplier, shift = made.offset, made.multiplier, None
        else:
            bias, multiplier, shift = c.bias, c.multiplier, self.tables.array(c.shift)

        def channels(name: str) -> Symbol:
            axis = self.network.grouping.axes[name]
            return self.tables.channel_list(self.indices[number][name], axis)

        return LinearLevel(
            inputs=None if isinstance(op, ir.DepthwiseConv2D) else channels(op.inputs[0]),
            outputs=channels(op.name),
            bias=self.tables.array(bias),
            multiplier=self.tables.array(multiplier),
            shift=shift,
            input_zero_point=c.input_zero_point,
            output_zero_point=c.output_zero_point,
            activation_min=c.activation_min,
            activation_max=c.activation_max,
            tile_height=tile[0],
            tile_width=tile[1],
        )


def unproven(op: ir.Op, level: QuantizedLevel) -> int:
    """Channels of a convolution or a dense layer that four instructions would not requantise
    exactly; 1 for an addition that is not one multiply-add for each input."""
    match op:
        case ir.LinearOp():
            rows = level.linear[op.name].rows(op)
            return int(np.sum(~kernels.proven_channels(constants.linear(op, level), rows)))
        case ir.Add():
            return int(linear_add.find(constants.add(op, level.tensors)) is None)
        case _:
            return 0
