"""Fits the latency estimate (redsc/latency.py) to the emulated Cortex-M4, and tells its error.

    python benchmarks/latency.py [--rows FILE] [--write]

Every op of networks of tests/zoo.py is measured at four random nested widths, and what each loop of
a kernel takes is fitted to those in FITTED. Errors are printed for both lists, networks of the
second are unknown to the fit. --rows keeps the measurements, so that a second run
measures only what is missing. --write replaces the table in redsc/targets/nano33ble.json.

Cycles are themselves an estimate, from every executed instruction (firmware/m4cost).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import emulated
import graphs
import numpy as np
import zoo

from redsc import grid, groups, importer, ir, latency, one_product, passes, plan, resources

LINES = "lines"
PROVEN, GENERAL = "proven", "general"
"""Behind the name of a network whose requantisations are none of one product, or none short."""

FITTED = (
    "lines 21x17", "lines 40x23", "lines 13x30", "lines 10x11", "lines 16x9",
    "lines 28x28x1", "lines 13x40x1",
    "norm_everywhere small general", "vgg small general", "separable full general",
    "lines 12x19 general", "dense full general", "resnet8 small general", "dilated full general",
    "lines 21x17 proven", "lines 40x23 proven", "lines 13x30 proven", "lines 10x11 proven",
    "lines 16x9 proven", "ds_cnn small proven", "inception full proven", "mobilenet_v1 full proven",
    "norm_everywhere small proven", "separable full proven", "vgg full proven",
    "autoencoder small", "conv1d_causal full", "dense full", "depthwise_multiplier full",
    "dilated full", "ds_cnn small", "inception full", "mobilenet_v1 full", "nested full",
    "norm_everywhere small", "rescaling_input full", "resnet_preactivation full",
    "separable full", "separable small", "sigmoid_output full", "tanh_output full", "vgg full",
)  # fmt: skip
TESTED = (
    "lines 19x25", "lines 14x9", "lines 20x17x1", "lines 19x25 proven", "lines 14x9 proven",
    "vgg small proven",
    "ds_cnn full proven", "mobilenet_v1 small proven", "mobilenet_v1 small general",
    "dilated small general", "autoencoder full", "conv1d_causal small", "dense small",
    "densenet full", "depthwise_multiplier small", "dilated small", "ds_cnn full",
    "inception small", "mobilenet_v1 small", "norm_everywhere full", "normalization_input full",
    "resnet8 full", "resnet8 small", "streaming_wake_word full", "vgg small",
)  # fmt: skip
SHARES = (0.25, 0.5, 0.75, 1.0)
"""Of the units, about, that each level keeps."""

HZ = 64_000_000
TABLE = resources.targets_dir() / "nano33ble.json"
Row = dict[str, Any]


# --- measuring -----------------------------------------------------------------------------------


def measure(name: str) -> list[Row]:
    """Every op at every level of a network."""
    with tempfile.TemporaryDirectory() as folder:
        graph, x = network(name, Path(folder))
    grouping = groups.find_groups(graph)
    with contextlib.ExitStack() as stack:
        if name.endswith((PROVEN, GENERAL)):
            none = mock.Mock(is_exact=np.array([False]))
            stack.enter_context(mock.patch.object(one_product, "find", return_value=none))
        if name.endswith(GENERAL):
            stack.enter_context(mock.patch.object(plan, "unproven", return_value=1))
        measured = emulated.measure(graph, grouping, nested_widths(grouping), x)
    if any(run.cycles is None for run in measured.runs):
        sys.exit("cycles are not estimated here: nothing to fit")
    rows = []
    for number, (level, arena, run) in enumerate(
        zip(measured.network.levels, measured.arenas, measured.runs, strict=True)
    ):
        calls = latency.calls(
            level.graph,
            measured.network.graph,
            grouping,
            level.widths,
            arena.scratch_bytes,
            measured.plan.kernels,
        )
        rows += [
            {
                "network": name, "level": number, "op": op, "kernel": call.kernel,
                "work": call.work, "instructions": run.step_instructions[op],
                "cycles": run.step_cycles[op],
            }
            for op, call in calls.items()
        ]  # fmt: skip
    return rows


def network(name: str, folder: Path) -> tuple[ir.Graph, np.ndarray]:
    """A lowered network and raw inputs for it."""
    family, size, *_ = name.split()
    if family == LINES:
        graph = lines_network(*map(int, size.split("x")))
        shape = (8, *graph.input.shape)
        return graph, np.random.default_rng(0).normal(size=shape).astype(np.float32)
    model = folder / f"{family}.h5"
    zoo.ZOO[family](size).save(model)
    graph = passes.lower(importer.load(model).graph)
    return graph, zoo.inputs(family, graph.input.shape, 8)


def lines_network(height: int, width: int, channels: int = 3) -> ir.Graph:
    """Convolutions and depthwise ones at sizes that leave all kinds of rests."""
    net = graphs.GraphBuilder(LINES, (height, width, channels))
    net.conv(10, (3, 3))
    for stride in (1, 2, 1, 2):
        net.depthwise(strides=(stride, stride))
        net.conv(22, (1, 1))
        net.conv(18, (3, 3), (stride, stride))
    net.global_average()
    net.dense(5)
    return net.graph()


def nested_widths(grouping: groups.Grouping) -> list[dict[str, int]]:
    """Multiples of the default step around each share of a group's units, the last one full."""
    generator = np.random.default_rng(0)
    levels: list[dict[str, int]] = []
    for share in SHARES[:-1]:
        widths = grouping.full_widths
        for group in grouping.free:
            step = grid.default_step(group.units)
            below = levels[-1][group.name] if levels else step
            width = step * round(group.units * share * generator.uniform(0.7, 1.3) / step)
            widths[group.name] = min(group.units, max(below, width))
        levels.append(widths)
    return [*levels, grouping.full_widths]


# --- fitting -------------------------------------------------------------------------------------


def fit(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Per kernel its cycles per instruction, and what each of its loops takes."""
    result = {}
    for kernel in sorted({row["kernel"] for row in rows}):
        own = [row for row in rows if row["kernel"] == kernel]
        works = [row["work"] for row in own]
        cycles = np.array([row["cycles"] for row in own], float)
        counts = np.array([list(entry.values()) for entry in works], float)
        factors = latency.fit(counts, cycles)
        result[kernel] = {
            "cycles_per_instruction": round(cycles.sum() / sum(x["instructions"] for x in own), 3),
            "cycles": {
                name: float(f"{factor:.4g}") for name, factor in zip(works[0], factors, strict=True)
            },
        }
    return result


def estimate(row: Row, cycles: Mapping[str, Mapping[str, float]]) -> float:
    own = cycles[row["kernel"]]
    return sum(own[name] * count for name, count in row["work"].items())


def print_errors(
    title: str, names: Sequence[str], rows: Sequence[Row], table: Mapping[str, Any]
) -> None:
    """Estimated over measured cycles, less 1, of every network at every level."""
    cycles = {kernel: entry["cycles"] for kernel, entry in table.items()}
    print(f"\n| {title} | {' | '.join(f'level {i}' for i in range(len(SHARES)))} | full, ms |")
    print("|---|" + "---:|" * (len(SHARES) + 1))
    worst, total = [], 0.0
    for name in names:
        errors = []
        for level in range(len(SHARES)):
            own = [row for row in rows if (row["network"], row["level"]) == (name, level)]
            measured = sum(row["cycles"] for row in own)
            errors.append(sum(estimate(row, cycles) for row in own) / measured - 1)
        cells = " | ".join(f"{error:+.1%}" for error in errors)
        print(f"| {name} | {cells} | {1000 * measured / HZ:.2f} |")
        worst += map(abs, errors)
    total = float(np.mean(worst))
    print(f"mean {total:.1%}, 90 % within {np.quantile(worst, 0.9):.1%}, worst {max(worst):.1%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=Path, help="file of measurements, read and added to")
    parser.add_argument("--write", action="store_true", help=f"replace the table in {TABLE.name}")
    options = parser.parse_args()
    rows: list[Row] = []
    if options.rows is not None and options.rows.exists():
        rows = [json.loads(line) for line in options.rows.read_text().splitlines()]
    for name in (*FITTED, *TESTED):
        if any(row["network"] == name for row in rows):
            continue
        print(f"measuring {name}", file=sys.stderr, flush=True)
        more = measure(name)
        rows += more
        if options.rows is not None:
            with options.rows.open("a") as stream:
                stream.writelines(json.dumps(row) + "\n" for row in more)
    table = fit([row for row in rows if row["network"] in FITTED])
    if options.write:
        known = json.loads(TABLE.read_text())
        TABLE.write_text(json.dumps({**known, "hz": HZ, "kernels": table}, indent=2) + "\n")
    print("| kernel | measured | cycles per instruction | cycles per |")
    print("|---|---:|---:|---|")
    for kernel, entry in table.items():
        count = sum(row["kernel"] == kernel for row in rows if row["network"] in FITTED)
        parts = ", ".join(f"{name} {value:g}" for name, value in entry["cycles"].items() if value)
        print(f"| {kernel} | {count} | {entry['cycles_per_instruction']} | {parts} |")
    print_errors("fitted", FITTED, rows, table)
    print_errors("not fitted", TESTED, rows, table)


if __name__ == "__main__":
    main()
