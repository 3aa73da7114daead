"""Search time against layers, channel step and number of levels.

    python benchmarks/search.py [--quick] [--seed N]

Kernels are random and importance is |w| with units sorted, so that prefixes carry more; with
"flat" every weight matters alike, which leaves the solver the most ties. Seconds are wall clock
of one search each, and of its slowest level; "use" is the smallest share of a budget used.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import graphs

from redsc import cost, ir
from redsc.groups import find_groups
from redsc.nesting import SearchOptions, find_levels

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


def cases(seed: int, quick: bool) -> Iterator[tuple[str, ir.Graph, int | None, int, bool]]:
    """name, network, channel step (None: default), number of levels, flat importance."""
    ds_cnn = graphs.ds_cnn(seed=seed)
    mobilenet, resnet = graphs.mobilenet_v1(seed=seed), graphs.resnet(seed=seed)
    for name, graph in (("DS-CNN", ds_cnn), ("MobileNetV1-0.25", mobilenet), ("ResNet-8", resnet)):
        for step in (8, 4, None):
            yield name, graph, step, 4, False
        yield name, graph, None, 4, True
        for count in (2, 10):
            yield name, graph, None, count, False
    if not quick:
        yield "DS-CNN", ds_cnn, 2, 4, False
        yield "MobileNetV1-0.25", mobilenet, 4, 4, True
    for blocks in (2, 4, 8, 16) if quick else (2, 4, 8, 16, 32):
        name = f"DS-CNN, {blocks} blocks"
        yield name, graphs.ds_cnn(blocks=blocks, seed=seed), 8, 4, False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="leave out the slowest cases")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(
        "network | linear ops | groups | step | importance | levels | s | slowest s | proven | use"
    )
    print("---|---|---|---|---|---|---|---|---|---")
    for name, graph, step, count, flat in cases(options.seed, options.quick):
        search = SearchOptions(percents=LEVELS[count], channel_step=step)
        nesting = find_levels(graph, find_groups(graph), importance(graph, flat), search)
        used = min(100 * x.macs / cost.macs(graph) / x.percent for x in nesting.levels)
        print(
            f"{name} | {len(graph.linear_ops)} | {len(find_groups(graph).free)} "
            f"| {step or 'default'} | {'flat' if flat else 'sorted |w|'} | {len(nesting.levels)} "
            f"| {nesting.seconds:.2f} | {max(x.seconds for x in nesting.levels):.2f} "
            f"| {'yes' if nesting.proven_optimal else f'gap {nesting.gap:.1e}'} | {used:.1%}",
            flush=True,
        )


if __name__ == "__main__":
    main()
