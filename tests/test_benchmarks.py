"""benchmarks: what the scripts compute, without the emulator."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import cache_orders
import kernels
import models

from redsc import groups, ir


def test_floors_are_sums_of_instructions():
    conv, dense = kernels.FLOORS["conv"], kernels.FLOORS["dense"]
    assert conv.cycles_per_mac == (8 + 5 + 3) / 16
    assert dense.cycles_per_mac == (8 + 8 + 5 + 3) / 16
    # Two products in one instruction at best.
    assert all(floor.multiplies * 2 >= floor.macs for floor in kernels.FLOORS.values())


@pytest.mark.parametrize("case", kernels.CASES, ids=lambda case: case.name)
def test_both_sides_of_an_op_narrow(case: kernels.Case):
    graph, name = kernels.network(case)
    grouping = groups.find_groups(graph)
    full = ir.shapes(graph)
    for share, fewer, widths in kernels.levels(grouping):
        narrow = groups.select_units(graph, grouping, groups.prefixes(widths))
        shapes = ir.shapes(narrow)
        tensors = (
            [name] if narrow[name].inputs == (graph.input.name,) else [name, *graph[name].inputs]
        )
        for tensor in tensors:
            units = full[tensor][-1]
            expected = units - fewer if fewer is not None else round(share * units)
            assert shapes[tensor][-1] == expected
    assert ir.shapes(narrow) == full


def test_misses_are_read_by_their_names():
    text = "desc: D1 cache: 32768 B\nevents: Ir D1mr D1mw\nfn=main\n3 5 1 1\nsummary: 90 7 4\n"
    assert cache_orders.d1_misses(text) == 11


def test_a_levels_share_of_cycles_over_its_share_of_macs():
    report = {
        "model": {"path": "a/b.h5", "macs": 400},
        "flash": {"weights_bytes": 100, "tables_bytes": 20},
        "warnings": [],
        "levels": [
            {"budget_percent": p, "macs": 4 * p, "arena_bytes": p, "least_arena_bytes": p - 1,
             "widths": {"conv": p}}
            for p in (50, 100)
        ],
    }  # fmt: skip
    bench = {
        "flash_bytes": 150,
        "levels": [
            {"instructions": 9, "estimated_cycles": cycles, "estimated_op_cycles": {"conv": cycles}}
            for cycles in (660, 1000)
        ],
    }
    network = models.network_of("ds_cnn", report, bench)
    assert network.ratio(network.levels[0]) == pytest.approx(1.32)
    assert (network.data_bytes, network.code_bytes) == (120, 30)
    assert models.to_json(network)["levels"][0]["share_ratio"] == pytest.approx(1.32)
