"""How long an inference takes on a target: an estimate, as a formula in the channels of its ops.

A kernel's work is counted in products, outputs, values packed and so on. Each count is a multiple
of channels read times channels written, plus multiples of either, plus a constant; so is the time,
and the knapsack takes it as exactly as it does MACs. What a unit of work takes stands in
targets/NAME.json, which benchmarks/latency.py fits to the emulated Cortex-M4.

Not modelled: wait states of the flash, caches, and what grows in steps: channels that do not fill
a kernel's block of 2 or 4, tiles that get larger when a level reads less, weights that a level
narrower than the store has to copy together.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

from redsc import ir, kernels, resources

PICOSECONDS_PER_MS = 10**9


@dataclass(frozen=True)
class Layer:
    """What of an op decides its kernel's work, but for the channels: height and width of its
    output, of its input (of what a Reshape in between views) and of its window, 1 where there
    are none."""

    kernel: str
    output: tuple[int, int]
    source: tuple[int, int]
    window: tuple[int, int]

    def work(self, inputs: int, outputs: int) -> dict[str, int]:
        """Units of work by name, with that many channels read and written."""
        pixels, taps = math.prod(self.output), math.prod(self.window)
        match self.kernel:
            case "conv2d" | "conv2d_1x1":
                tiles = -(-pixels // kernels.MOST_TILE_PIXELS)
                return {
                    "product": pixels * taps * inputs * outputs,
                    "weight": tiles * taps * inputs * outputs,
                    "packed": pixels * taps * inputs,
                    "output": pixels * outputs,
                    "channel": tiles * outputs,
                    "line": pixels * self.window[0],
                    "call": 1,
                }
            case (
                "depthwise_conv2d"
                | "depthwise_conv2d_3x3"
                | "depthwise_conv2d_3x3_stride2"
                | "portable_depthwise_conv2d"
            ):
                return {
                    "product": pixels * taps * outputs,
                    "output": pixels * outputs,
                    "packed": math.prod(self.source) * outputs,
                    "row": self.source[0] * outputs,
                    "channel": outputs,
                    "call": 1,
                }
            case "dense":
                return {
                    "product": inputs * outputs,
                    "run": math.prod(self.source) * outputs,
                    "packed": inputs,
                    "output": outputs,
                    "call": 1,
                }
            case _:
                return {
                    "tap": pixels * taps * outputs,
                    "output": pixels * outputs,
                    "pixel": pixels,
                    "row": self.output[0],
                    "call": 1,
                }


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
    """A processor at a clock rate; cycles of a unit of work, by kernel and name of the work."""

    hz: int
    cycles: Mapping[str, Mapping[str, float]]

    def form(self, layer: Layer) -> Form:
        """Picoseconds of a layer as a function of the channels it reads and writes."""

        def at(inputs: int, outputs: int) -> float:
            work = layer.work(inputs, outputs)
            return sum(self.cycles[layer.kernel][name] * count for name, count in work.items())

        constant, one_in, one_out = at(0, 0), at(1, 0), at(0, 1)
        parts = (at(1, 1) - one_in - one_out + constant, one_in - constant, one_out - constant)
        picoseconds = 1000 * PICOSECONDS_PER_MS / self.hz
        return Form(*(round(part * picoseconds) for part in (*parts, constant)))


@functools.cache
def target(name: str) -> Target:
    """A target that redsc knows: its file in redsc/targets."""
    data = json.loads((resources.targets_dir() / f"{name}.json").read_text(encoding="utf-8"))
    return Target(data["hz"], {key: value["cycles"] for key, value in data["kernels"].items()})


def layers(graph: ir.Graph) -> dict[str, Layer]:
    """Of every op that runs, by name. A Reshape is a view and runs nothing."""
    shapes = ir.shapes(graph)
    result = {}
    for op in graph.ops:
        if isinstance(op, ir.Input | ir.Reshape):
            continue
        source = op.inputs[0]
        while isinstance(graph[source], ir.Reshape):
            source = graph[source].inputs[0]
        window = _window(op)
        result[op.name] = Layer(
            _kernel(op, shapes[op.name], window),
            _area(shapes[op.name]),
            _area(shapes[source]),
            window,
        )
    return result


def latency_ps(graph: ir.Graph, target: Target) -> int:
    """Estimated picoseconds of one inference."""
    shapes = ir.shapes(graph)
    return sum(
        target.form(layer)(shapes[graph[name].inputs[0]][-1], shapes[name][-1])
        for name, layer in layers(graph).items()
    )


def milliseconds(graph: ir.Graph, target: Target) -> float:
    """Estimated milliseconds of one inference, rounded to thousandths for people."""
    return round(latency_ps(graph, target) / PICOSECONDS_PER_MS, 3)


def _area(shape: ir.Shape) -> tuple[int, int]:
    return (shape[0], shape[1]) if len(shape) == 3 else (1, 1)


def _window(op: ir.Op) -> tuple[int, int]:
    match op:
        case ir.Conv2D() | ir.DepthwiseConv2D():
            return op.kernel.shape[0], op.kernel.shape[1]
        case ir.Pool2D():
            return op.size
    return 1, 1


def _kernel(op: ir.Op, output: ir.Shape, window: tuple[int, int]) -> str:
    """The kernel that is expected to run an op: which requantisation is proved is not yet known,
    the short one nearly always is. Fast ways of one kernel count as kernels of their own."""
    name = kernels.choose(op, output, proven=True).replace("::", "_").removesuffix("_proven")
    match op:
        case ir.Conv2D() if window == (1, 1):
            return f"{name}_1x1"
    return name
