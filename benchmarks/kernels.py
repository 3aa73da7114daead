"""Single ops on the emulated Cortex-M4: instructions and estimated cycles at many widths.

    python benchmarks/kernels.py [--all | --json] [PART OF A NAME …]

Every op stands in a network of its own, behind one that makes its channels and before one that
reads them, so that both sides narrow as they do in a level: to a share of the channels, and by
one, two, three and four channels. Kernels and weights are those of one plan with all these levels.

The floor is what the instructions of the innermost block take if nothing else did (FLOORS), plus
3 cycles per output with one product, else 5: two or four for requantisation, one to store it.
Packing, unpacking, loops, borders and calls are what stands above it. It is of kernels that
multiply as often as MACs are counted; Winograd's do not.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import emulated
import numpy as np
from graphs import GraphBuilder

from redsc import cost, groups, ir, kernels
from redsc.bench import NOT_ESTIMATED

SHARES = (0.25, 0.5, 0.75)
STEPS = (4, 3, 2, 1)
LEAST_FOR_STEPS = 16
"""Channels fewer than the full width's, and how many these must be."""


@dataclass(frozen=True)
class Floor:
    """Cycles of an innermost block: `multiplies` with two products each, what unpacks their
    operands, and loads in bursts, of which one of n words takes n + 1 cycles."""

    macs: int
    multiplies: int
    unpacks: int
    bursts: tuple[int, ...]

    @property
    def cycles_per_mac(self) -> float:
        loads = sum(words + 1 for words in self.bursts)
        return (self.multiplies + self.unpacks + loads) / self.macs


FLOORS = {
    # 2 channels by 4 pixels, two products each: 4 words of pixels, 2 of weights.
    "conv": Floor(macs=16, multiplies=8, unpacks=0, bursts=(4, 2)),
    # A line of 3 taps for 8 neighbouring outputs, two multiplications each: 5 words of pixels.
    "depthwise": Floor(macs=24, multiplies=16, unpacks=0, bursts=(5,)),
    # For stride 2, a word of pixels starts 1 output instead of 2.
    "depthwise_stride2": Floor(macs=24, multiplies=16, unpacks=0, bursts=(9,)),
    # 4 rows by 4 products: 4 words of int8 weights, which SXTB16 takes apart, 2 of inputs.
    "dense": Floor(macs=16, multiplies=8, unpacks=8, bursts=(4, 2)),
}


@dataclass(frozen=True)
class Case:
    """An op by what appends it; `channels` are appended first by a 1x1 convolution, 0: it reads
    the network's input. floor: None for an op that multiplies nothing."""

    name: str
    shape: ir.Shape
    channels: int
    append: Callable[[GraphBuilder], str]
    floor: str | None


@dataclass(frozen=True)
class Row:
    """One op at one width: the channels it reads and writes, which are a share of all or some
    fewer; elements: of its (first) input."""

    op: str
    kernel: str
    share: float | None
    fewer: int | None
    inputs: int
    outputs: int
    macs: int
    elements: int
    instructions: int
    cycles: int | None
    floor_cycles: float | None

    @property
    def per_mac(self) -> float | None:
        """Of an op without MACs: per element read."""
        return None if self.cycles is None else self.cycles / (self.macs or self.elements)

    @property
    def above_floor(self) -> float | None:
        if self.cycles is None or self.floor_cycles is None:
            return None
        return self.cycles / self.floor_cycles


def conv(
    side: tuple[int, int], size: int | tuple[int, int], inputs: int, outputs: int, stride: int = 1
) -> Case:
    window = size if isinstance(size, tuple) else (size, size)
    what = "pointwise" if window == (1, 1) else f"conv {window[0]}x{window[1]}"
    what += f" stride {stride}" if stride > 1 else ""
    reads_image = inputs <= 3
    return Case(
        f"{what} {inputs}->{outputs}, {side[0]}x{side[1]}",
        (*side, inputs if reads_image else 1),
        0 if reads_image else inputs,
        lambda net: net.conv(outputs, window, (stride, stride)),
        "conv",
    )


def depthwise(side: tuple[int, int], channels: int, stride: int) -> Case:
    return Case(
        f"depthwise 3x3 stride {stride} {channels}, {side[0]}x{side[1]}",
        (*side, 1),
        channels,
        lambda net: net.depthwise(strides=(stride, stride)),
        "depthwise" if stride == 1 else "depthwise_stride2",
    )


def dense(inputs: int, outputs: int) -> Case:
    return Case(f"dense {inputs}->{outputs}", (8,), inputs, lambda net: net.dense(outputs), "dense")


def add(side: tuple[int, int], channels: int) -> Case:
    return Case(
        f"add {channels}, {side[0]}x{side[1]}",
        (*side, 1),
        channels,
        lambda net: net.add(net.last, net.conv(channels, (1, 1))),
        None,
    )


def average(side: tuple[int, int], channels: int) -> Case:
    def append(net: GraphBuilder) -> str:
        return net.append(ir.AveragePool2D("average", (net.last,), side, side))

    name = f"average pool {channels}, {side[0]}x{side[1]}"
    return Case(name, (*side, 1), channels, append, None)


CASES = (
    conv((25, 5), 1, 64, 64),
    conv((48, 48), 1, 8, 16),
    conv((6, 6), 1, 128, 128),
    depthwise((25, 5), 64, 1),
    depthwise((24, 24), 32, 1),
    depthwise((48, 48), 16, 2),
    depthwise((6, 6), 128, 1),
    conv((49, 10), (10, 4), 1, 64, stride=2),
    conv((96, 96), 3, 3, 8, stride=2),
    conv((32, 32), 3, 3, 16),
    conv((32, 32), 3, 16, 16),
    conv((16, 16), 3, 32, 32),
    conv((8, 8), 3, 64, 64),
    dense(640, 128),
    dense(128, 128),
    add((32, 32), 16),
    average((25, 5), 64),
)


def network(case: Case) -> tuple[ir.Graph, str]:
    """A network with the op, and the op's name."""
    net = GraphBuilder("case", case.shape)
    if case.channels:
        net.dense(case.channels) if len(case.shape) == 1 else net.conv(case.channels, (1, 1))
    name = case.append(net)
    if len(net.shape()) == 3:
        net.flatten() if net.shape()[:2] == (1, 1) else net.global_average()
    net.dense(1, activation=ir.Activation.NONE)
    return net.graph(), name


Level = tuple[float | None, int | None, dict[str, int]]
"""Share of the channels, or how many fewer, and the widths."""


def levels(grouping: groups.Grouping) -> list[Level]:
    """The full width, share 1, comes last."""

    def narrowed(width: Callable[[int], int]) -> dict[str, int]:
        return {**grouping.full_widths, **{g.name: width(g.units) for g in grouping.free}}

    result: list[Level] = [
        (share, None, narrowed(lambda units, share=share: round(share * units))) for share in SHARES
    ]
    if all(group.units >= LEAST_FOR_STEPS for group in grouping.free):
        result += [(None, step, narrowed(lambda units, step=step: units - step)) for step in STEPS]
    return [*result, (1.0, None, narrowed(int))]


def measure(case: Case) -> list[Row]:
    """The op at every width."""
    graph, name = network(case)
    grouping = groups.find_groups(graph)
    wanted = levels(grouping)
    x = np.random.default_rng(0).normal(size=(8, *case.shape)).astype(np.float32)
    measured = emulated.measure(graph, grouping, [widths for *_, widths in wanted], x)
    kernel = next(step.kernel for step in measured.plan.steps if step.name == name)
    rows = []
    narrowed = [level.graph for level in measured.network.levels]
    for (share, fewer, _), narrow, run in zip(wanted, narrowed, measured.runs, strict=True):
        shapes = ir.shapes(narrow)
        source, macs = shapes[narrow[name].inputs[0]], cost.op_macs(narrow).get(name, 0)
        floor = None
        if case.floor is not None:
            outputs = math.prod(shapes[name])
            per_output = 3 if kernel.endswith(kernels.ONE_PRODUCT) else 5
            floor = FLOORS[case.floor].cycles_per_mac * macs + per_output * outputs
        rows.append(
            Row(
                op=case.name,
                kernel=kernel,
                share=share,
                fewer=fewer,
                inputs=source[-1],
                outputs=shapes[name][-1],
                macs=macs,
                elements=math.prod(source),
                instructions=run.step_instructions[name],
                cycles=run.step_cycles.get(name),
                floor_cycles=floor,
            )
        )
    return rows


# --- printing ------------------------------------------------------------------------------------


def shown(value: float | None, form: str) -> str:
    """A dash for what was not estimated, or has no floor."""
    return "–" if value is None else format(value, form)


def print_shares(rows: Sequence[Row]) -> None:
    """Per op its cycles per MAC at each share."""
    shares = (*SHARES, 1.0)
    print("| op | kernel | instructions | estimated cycles | per MAC at ", end="")
    print(" | ".join(f"{share:.0%}" for share in shares), "| floor | × floor |")
    print("|---|---|" + "---:|" * (len(shares) + 4))
    for own in by_op(rows):
        full = own[-1]
        cells = [shown(row.per_mac, ".2f") for row in own if row.share is not None]
        floor = None if full.floor_cycles is None else full.floor_cycles / full.macs
        print(f"| {full.op} | {full.kernel} | {full.instructions:,} | {shown(full.cycles, ',')} |",
              " | ".join([*cells, shown(floor, ".2f"), shown(full.above_floor, ".2f")]),
              "|")  # fmt: skip


def print_steps(rows: Sequence[Row]) -> None:
    """Per op what a few channels less take, in instructions where there are no cycles."""
    print(f"| op | {' | '.join(f'{step} fewer' for step in STEPS)} |")
    print("|---|" + "---:|" * len(STEPS))
    for own in by_op(rows):
        full = own[-1]
        steps = [row for row in own if row.fewer is not None]
        if steps:
            cells = (
                f"{(row.cycles or row.instructions) / (full.cycles or full.instructions):.3f}"
                for row in steps
            )
            print(f"| {full.op} | {' | '.join(cells)} |")


def print_all(rows: Sequence[Row]) -> None:
    print("| op | kernel | reads | writes | MACs | instructions | estimated cycles | per MAC |",
          "× floor |")  # fmt: skip
    print("|---|---|" + "---:|" * 7)
    for row in rows:
        print(f"| {row.op} | {row.kernel} | {row.inputs} | {row.outputs} | {row.macs:,} |",
              f"{row.instructions:,} | {shown(row.cycles, ',')} | {shown(row.per_mac, '.2f')} |",
              f"{shown(row.above_floor, '.2f')} |")  # fmt: skip


def print_tables(rows: Sequence[Row], *, every_width: bool = False) -> None:
    what = "Cycles"
    if any(row.cycles is None for row in rows):
        print(f"{NOT_ESTIMATED}\n")
        what = "Instructions"
    if every_width:
        print_all(rows)
    else:
        print_shares(rows)
        print(f"\n{what} over those of the full width, with fewer channels read and written:\n")
        print_steps(rows)


def by_op(rows: Sequence[Row]) -> list[list[Row]]:
    names = dict.fromkeys(row.op for row in rows)
    return [[row for row in rows if row.op == name] for name in names]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ops", nargs="*", metavar="PART", help="only ops whose names hold one")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--all", action="store_true", help="a line for every width")
    how.add_argument("--json", action="store_true", help="everything, as JSON")
    options = parser.parse_args()
    rows: list[Row] = []
    for case in CASES:
        if not options.ops or any(part in case.name for part in options.ops):
            print(f"measuring {case.name}", file=sys.stderr, flush=True)
            rows += measure(case)
    if options.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        print_tables(rows, every_width=options.all)


if __name__ == "__main__":
    main()
