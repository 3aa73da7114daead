"""benchmarks: what the scripts compute, and what they print where cycles are not estimated."""

import sys
from pathlib import Path
from unittest import mock

import pytest
from firmware_build import needs_emulator

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import cache_orders
import kernels
import models

from redsc import cycles, groups, ir
from redsc.bench import NOT_ESTIMATED
from redsc.errors import ToolchainError


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


def network_of_two_levels(*cycles: int | None) -> models.Network:
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
            {"instructions": 987, "ops": {"conv": 654}, "estimated_cycles": own,
             "estimated_op_cycles": {} if own is None else {"conv": own}}
            for own in cycles
        ],
    }  # fmt: skip
    return models.network_of("ds_cnn", report, bench, bare_flash_bytes=140)


def test_a_levels_share_of_cycles_over_its_share_of_macs(capsys: pytest.CaptureFixture[str]):
    network = network_of_two_levels(660, 1000)
    assert network.ratio(network.levels[0]) == pytest.approx(1.32)
    assert (network.data_bytes, network.code_bytes, network.bare_code_bytes) == (120, 30, 20)
    assert models.to_json(network)["levels"][0]["share_ratio"] == pytest.approx(1.32)
    models.print_tables([network], ops=True)
    text = capsys.readouterr().out
    assert NOT_ESTIMATED not in text
    assert "| ds_cnn | 0 | 200 | 50.0% | 987 | 660 | 66.0% | 1.32 |" in text
    assert "| conv | 660 | 1,000 |" in text


def test_channel_steps_stand_side_by_side(capsys: pytest.CaptureFixture[str]):
    models.print_steps(
        {1: [network_of_two_levels(700, 990)], 4: [network_of_two_levels(660, 1000)]}
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[2:] == [
        "| ds_cnn | 1 | 50 % | 200 | 700 | 1.41 | 990 |",
        "| ds_cnn | 4 | 50 % | 200 | 660 | 1.32 | 1,000 |",
    ]


def test_networks_without_cycles_have_instructions(capsys: pytest.CaptureFixture[str]):
    network = network_of_two_levels(None, None)
    assert models.to_json(network)["levels"][0]["share_ratio"] is None
    models.print_tables([network], ops=True)
    text = capsys.readouterr().out
    assert text.startswith(NOT_ESTIMATED)
    assert "| ds_cnn | 0 | 200 | 50.0% | 987 | – | – | – |" in text
    assert "| conv | 654 | 654 |" in text


@needs_emulator
@pytest.mark.slow
def test_kernels_without_cycles_have_instructions(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    plugin = mock.Mock(side_effect=ToolchainError("no compiler"))
    monkeypatch.setattr(cycles, "plugin", plugin)
    rows = kernels.measure(kernels.conv((4, 4), 1, 16, 16))
    assert plugin.called
    assert all(row.instructions > 0 and row.cycles is None for row in rows)
    full = rows[-1].instructions
    share = next(row.instructions / full for row in rows if row.fewer == 4)
    kernels.print_tables(rows)
    text = capsys.readouterr().out
    assert text.startswith(NOT_ESTIMATED)
    assert f"| {full:,} | – | – | – | – | – |" in text
    assert "Instructions over those of the full width" in text
    assert f"| {share:.3f} |" in text
    kernels.print_tables(rows, every_width=True)
    assert f"| {full:,} | – | – | – |" in capsys.readouterr().out
