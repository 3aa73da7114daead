"""Networks on the emulated Cortex-M4 at widths that are given, not searched for: what
kernels.py and latency.py measure."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import firmware_build

from redsc import groups, ir, kernels, memory, plan, quantize, runner, tf_network
from redsc.plan_structs import Plan
from redsc.quantized import QuantizedNetwork

Widths = Mapping[str, int]


@dataclass(frozen=True, eq=False)
class Measured:
    """A network and what its plan took: arenas and runs of its levels, in their order."""

    network: QuantizedNetwork
    arenas: tuple[memory.ArenaPlan, ...]
    plan: Plan
    runs: tuple[runner.LevelRun, ...]


def measure(
    graph: ir.Graph, grouping: groups.Grouping, levels: Sequence[Widths], x: np.ndarray
) -> Measured:
    """Every op's instructions and, if they can be, estimated cycles at every level, widest last,
    quantised by these raw inputs (samples, *shape)."""
    floats = []
    for widths in levels:
        narrow = groups.select_units(graph, grouping, groups.prefixes(widths))
        floats.append(quantize.FloatLevel(100.0, widths, narrow, tf_network.ranges(narrow, x)))
    network = quantize.quantize(graph, grouping, floats)
    arenas = memory.plan_levels([level.graph for level in network.levels], kernels.scratch_bytes)
    device_plan = plan.build_plan(network, arenas)
    with tempfile.TemporaryDirectory() as folder:
        program = firmware_build.build(device_plan, "emulator", Path(folder))
        inputs = np.zeros((1, *graph.input.shape), np.int8)
        runs = runner.profile_emulator(program, device_plan, inputs)
    return Measured(network, arenas, device_plan, runs)
