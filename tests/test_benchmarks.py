"""benchmarks: what the scripts compute, without the emulator."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import kernels

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
