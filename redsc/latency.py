"""How long an inference takes on a target: an estimate, from how often its kernels' loops run.

What each loop takes stands in targets/NAME.json, which benchmarks/latency.py fits to the emulated
Cortex-M4. The estimate of a level counts its loops as the plan has them (redsc/kernel_work.py).
The search needs a formula: a layer's `Form` in the channels that it reads and writes, nearest to
that estimate over the widths that the layer may have, which the knapsack takes as exactly as it
does MACs.

Not modelled: wait states of the flash, caches, and what depends on data (Softmax).
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import nnls

from redsc import boards, geometry, groups, ir, kernels, thin, winograd
from redsc.groups import Grouping, Widths
from redsc.kernel_work import Call
from redsc.plan_structs import Channels, Run

PICOSECONDS_PER_MS = 10**9

_ROOM = 1 << 30
"""Scratch that is enough for anything."""

_SHARES = (0.25, 0.5, 0.75, 1.0)
"""Of a layer's channels: where its Form is fitted."""


@dataclass(frozen=True)
class Layer:
    """An op at any widths. full: the call at full width, with all the scratch it can use."""

    full: Call

    def call(self, inputs: int, outputs: int) -> Call:
        """With that many channels read and written, where a level of the full store has them."""
        repeat = self.full.inputs.repeat
        length = inputs // repeat
        reads = Channels((Run(0, length),), repeat, self.full.inputs.stride, length * repeat)
        return replace(self.full, inputs=reads, outputs=Channels((Run(0, outputs),), 1, 0, outputs))

    @property
    def reads_all(self) -> bool:
        """Whether every channel written is made of all that are read."""
        return self.full.kernel.startswith(("conv2d", "dense"))


@dataclass(frozen=True)
class Form:
    """product * inputs * outputs + input * inputs + output * outputs + constant."""

    product: int
    input: int
    output: int
    constant: int

    def __call__(self, inputs: int, outputs: int) -> int:
        return (
            self.product * inputs * outputs
            + self.input * inputs
            + self.output * outputs
            + self.constant
        )


@dataclass(frozen=True)
class Target:
    """A processor at a clock rate; cycles of a loop, by kernel and name."""

    hz: int
    cycles: Mapping[str, Mapping[str, float]]

    def cycles_of(self, call: Call) -> float:
        own = self.cycles[call.kernel]
        return sum(own[name] * count for name, count in call.work.items())

    def picoseconds(self, call: Call) -> float:
        return self.cycles_of(call) * 1000 * PICOSECONDS_PER_MS / self.hz

    def form(self, layer: Layer) -> Form:
        """Picoseconds as a function of the channels read and written: of least squared relative
        error where both are shares of the full layer's, each factor at least 0."""
        most_in, most_out = layer.full.inputs.count, layer.full.outputs.count
        step_in = layer.full.inputs.repeat * 4
        if layer.reads_all:
            points = list(itertools.product(_widths(most_in, step_in), _widths(most_out, 4)))
        else:
            points = [(width, width) for width in _widths(most_out, 4)]
        rows, times = [], []
        for inputs, outputs in points:
            terms = (inputs * outputs, inputs, outputs, 1)
            used = terms if layer.reads_all else (0, 0, outputs, 1)
            rows.append(used)
            times.append(self.picoseconds(layer.call(inputs, outputs)))
        return Form(*(round(factor) for factor in fit(np.array(rows, float), np.array(times))))


def fit(counts: np.ndarray, times: np.ndarray) -> np.ndarray:
    """float64 (terms,): what each term takes, at least 0, so that counts (rows, terms) of them come
    nearest to times (rows,), by least squared relative error."""
    relative = counts / times[:, None]
    scale = np.maximum(np.linalg.norm(relative, axis=0), 1e-300)
    factors: np.ndarray = nnls(relative / scale, np.ones(len(times)))[0] / scale
    return factors


def _widths(most: int, step: int) -> list[int]:
    """Multiples of `step` near shares of `most`, and that."""
    return sorted({min(most, max(step, round(share * most / step) * step)) for share in _SHARES})


@functools.cache
def target(name: str) -> Target | None:
    """That of a target's file (redsc.boards); None where nothing was measured for it."""
    data = boards.read(name)
    if "kernels" not in data or not data.get("dsp"):  # DSP kernels' loops are counted
        return None
    return Target(data["hz"], {key: value["cycles"] for key, value in data["kernels"].items()})


def forms(graph: ir.Graph, target: Target) -> dict[str, Form]:
    """Of every op that runs, in the channels that a subnetwork's reads and writes."""
    grouping = groups.find_groups(graph)
    room = dict.fromkeys((op.name for op in graph.ops), _ROOM)
    full = calls(graph, graph, grouping, grouping.full_widths, room)
    return {name: target.form(Layer(call)) for name, call in full.items()}


def latency_ps(graph: ir.Graph, narrow: ir.Graph, target: Target) -> int:
    """Picoseconds of a subnetwork by its network's forms: what the search adds up."""
    shapes = ir.shapes(narrow)
    return sum(
        form(shapes[narrow[name].inputs[0]][-1], shapes[name][-1])
        for name, form in forms(graph, target).items()
    )


def calls(
    level: ir.Graph,
    store: ir.Graph,
    grouping: Grouping,
    widths: Widths,
    scratch_bytes: Mapping[str, int],
    chosen: Mapping[str, str] | None = None,
) -> dict[str, Call]:
    """Of every op that runs at a level, by name. A Reshape is a view and runs nothing.

    level: the store's network at `widths`, of `grouping`'s groups. scratch_bytes: of its kernels,
    as planned. chosen: kernels, as the plan has them. Before quantisation they are not known;
    then they are those of proved requantisations, which nearly all are, and of one product behind
    a ReLU.
    """
    units, shapes = groups.prefixes(widths), ir.shapes(level)

    def channels(name: str) -> Channels:
        axis = grouping.axes[name]
        return geometry.compress(groups.channel_indices(axis, units), axis)

    result = {}
    for op in level.ops:
        if isinstance(op, ir.Input | ir.Reshape):
            continue
        before, after = shapes[op.inputs[0]], shapes[op.name]
        scratch = scratch_bytes.get(op.name, 0)
        reads, writes = channels(op.inputs[0]), channels(op.name)
        if chosen is None:
            has_winograd = isinstance(op, ir.Conv2D) and winograd.tiling(op, after, scratch)
            is_thin = isinstance(op, ir.Conv2D) and thin.rows(op, after, scratch)
            kernel = kernels.choose(
                store[op.name],
                after,
                True,
                after[-1],
                geometry.is_plain(reads, writes),
                bool(has_winograd),
                isinstance(op, ir.LinearOp) and op.activation is not ir.Activation.NONE,
                bool(is_thin),
            )
        else:
            kernel = chosen[op.name]
        whole, tile, store_inputs = store[op.name], (0, 0), 0
        if isinstance(op, ir.LinearOp) and isinstance(whole, ir.LinearOp):
            tile = kernels.tile(op, after, kernel, scratch)
            store_inputs = whole.kernel.shape[-2]
        window = None
        if isinstance(op, ir.Conv2D | ir.DepthwiseConv2D | ir.Pool2D):
            window = geometry.window(op, before, after)
        result[op.name] = Call(
            kernel=kernel,
            inputs=reads,
            outputs=writes,
            window=window,
            store_inputs=store_inputs,
            tile=tile,
            positions=math.prod(after[:-1]),
            lines=after[0] if len(after) == 3 else 1,
            joined=len(op.inputs),
        )
    return result


def milliseconds(calls: Mapping[str, Call], target: Target) -> float:
    """Estimated milliseconds of one inference, rounded to thousandths for people."""
    return round(sum(map(target.picoseconds, calls.values())) / PICOSECONDS_PER_MS, 3)
