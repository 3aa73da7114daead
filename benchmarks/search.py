"""Search time against layers, channel step, number of levels and budgets.

    python benchmarks/search.py [--quick] [--seed N]

Kernels are random and importance is |w| with units sorted, so that prefixes carry more; with
"flat" every weight matters alike, which leaves the solver the most ties. Seconds are wall clock
of one search each, and of its slowest level; "use" is the share of the budget that a level uses,
of several that of which it uses most, and the smallest of all levels.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import graphs

from redsc import cost, ir, latency
from redsc.gain import gains
from redsc.groups import find_groups, prefixes, select_units
from redsc.nesting import Nesting, SearchOptions, find_levels
from redsc.search import Budget, Fixed

BUDGETS: tuple[tuple[Budget, ...], ...] = (
    ("latency",),
    ("flash",),
    ("macs", "ram"),
    ("macs", "ram", "flash", "latency"),
)
LEVELS = {2: (50, 100), 4: (25, 50, 75, 100), 10: tuple(range(10, 101, 10))}


def importance(graph: ir.Graph, flat: bool) -> dict[str, np.ndarray]:
    result = {}
    for op in graph.linear_ops:
        scores = np.abs(op.kernel).astype(np.float64)
        for axis in (scores.ndim - 2, scores.ndim - 1):
            others = tuple(i for i in range(scores.ndim) if i != axis)
            order = np.argsort(-scores.sum(axis=others), kind="stable")
            scores = np.take(scores, order, axis=axis)
        result[op.name] = np.full_like(scores, 1 / scores.size) if flat else scores / scores.sum()
    return result


@dataclass(frozen=True)
class Case:
    """channel step None is the default; flat: every weight matters alike."""

    name: str
    graph: ir.Graph
    step: int | None = None
    levels: int = 4
    flat: bool = False
    budget: tuple[Budget, ...] = ("macs",)


def cases(seed: int, quick: bool) -> Iterator[Case]:
    ds_cnn = graphs.ds_cnn(seed=seed)
    mobilenet, resnet = graphs.mobilenet_v1(seed=seed), graphs.resnet(seed=seed)
    for name, graph in (("DS-CNN", ds_cnn), ("MobileNetV1-0.25", mobilenet), ("ResNet-8", resnet)):
        for step in (8, 4, None):
            yield Case(name, graph, step)
        yield Case(name, graph, flat=True)
        for count in (2, 10):
            yield Case(name, graph, levels=count)
        for budget in BUDGETS:
            if "ram" in budget and graph is mobilenet:
                continue  # its image alone is half of its peak
            yield Case(name, graph, budget=budget)
    if not quick:
        yield Case("DS-CNN", ds_cnn, 2)
        yield Case("MobileNetV1-0.25", mobilenet, 4, flat=True)
    for blocks in (2, 4, 8, 16) if quick else (2, 4, 8, 16, 32):
        yield Case(f"DS-CNN, {blocks} blocks", graphs.ds_cnn(blocks=blocks, seed=seed), 8)


def least_use(case: Case, found: Nesting) -> float:
    """See above; costs are counted on the sliced networks."""
    target = latency.target(SearchOptions.target)
    measures: dict[Budget, Callable[[ir.Graph], int]] = {
        "macs": cost.macs,
        "ram": cost.peak_activation_bytes,
        "flash": cost.weights_bytes,
        "latency": lambda graph: latency.latency_ps(graph, target),
    }
    grouping, uses = find_groups(case.graph), []
    for level in found.levels:
        narrow = select_units(case.graph, grouping, prefixes(level.widths))
        shares = (measures[kind](narrow) / measures[kind](case.graph) for kind in case.budget)
        uses.append(100 * max(shares) / level.percent)
    return min(uses)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="leave out the slowest cases")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    columns = (
        "network", "linear ops", "groups", "step", "importance", "budget", "levels", "s",
        "slowest s", "proven", "use",
    )  # fmt: skip
    print(f"| {' | '.join(columns)} |")
    print("|---" * len(columns) + "|")
    for case in cases(options.seed, options.quick):
        graph, grouping = case.graph, find_groups(case.graph)
        search = SearchOptions(LEVELS[case.levels], case.budget, channel_step=case.step)
        objective = Fixed(gains(graph, grouping, importance(graph, case.flat)))
        found = find_levels(graph, grouping, objective, search)
        cells = (
            case.name, len(graph.linear_ops), len(grouping.free), case.step or "default",
            "flat" if case.flat else "sorted", ", ".join(case.budget), len(found.levels),
            f"{found.seconds:.2f}", f"{max(x.seconds for x in found.levels):.2f}",
            "yes" if found.proven_optimal else f"gap {found.gap:.1e}",
            f"{least_use(case, found):.1%}",
        )  # fmt: skip
        print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
