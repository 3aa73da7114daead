"""The latency estimate: a formula in the channels, whose table fits the emulated Cortex-M4."""

from __future__ import annotations

from pathlib import Path

import firmware_build
import graphs
import numpy as np
import pytest
from firmware_build import needs_emulator
from hypothesis import given
from hypothesis import strategies as st

from redsc import boards, groups, ir, kernels, latency, memory, quantize, runner
from redsc.latency import Layer
from redsc.plan import build_plan

TARGET = latency.target("nano33ble")
SIZES = st.tuples(st.integers(1, 20), st.integers(1, 20))


@given(
    st.builds(Layer, st.sampled_from(sorted(TARGET.cycles)), SIZES, SIZES, SIZES),
    st.integers(0, 300),
    st.integers(0, 300),
)
def test_the_form_of_a_layer_is_its_work(layer, inputs, outputs):
    """Holds only while every count of work is linear in inputs, outputs and their product."""
    cycles = TARGET.cycles[layer.kernel]
    work = layer.work(inputs, outputs)
    assert set(work) == set(cycles)
    picoseconds = sum(cycles[name] * count for name, count in work.items()) * 1e12 / 64e6
    rounding_ps = 0.5 * (inputs + 1) * (outputs + 1)
    assert TARGET.form(layer)(inputs, outputs) == pytest.approx(picoseconds, abs=rounding_ps + 0.1)


def test_no_work_takes_less_than_nothing():
    """So wider levels never take less, which the search counts on."""
    assert all(factor >= 0 for work in TARGET.cycles.values() for factor in work.values())


def test_kernels_have_an_estimate_of_their_own_where_they_have_a_fast_way():
    net = graphs.GraphBuilder("net", (9, 7, 3))
    net.conv(8, (3, 3), (2, 2))
    net.conv(8, (1, 1))
    net.depthwise()
    net.depthwise(size=(3, 1))
    net.depthwise(multiplier=2)
    net.flatten()
    net.dense(5)
    layers = list(latency.layers(net.graph()).values())
    assert layers == [
        Layer("conv2d", (5, 4), (9, 7), (3, 3)),
        Layer("conv2d_1x1", (5, 4), (5, 4), (1, 1)),
        Layer("depthwise_conv2d_3x3", (5, 4), (5, 4), (3, 3)),
        Layer("depthwise_conv2d", (5, 4), (5, 4), (3, 1)),
        Layer("portable_depthwise_conv2d", (5, 4), (5, 4), (3, 3)),
        Layer("dense", (1, 1), (5, 4), (1, 1)),  # reads the 20 positions run by run
    ]


def test_the_table_has_every_kernel():
    proven = {"add_proven", "conv2d_proven", "dense_proven", "depthwise_conv2d_proven"}
    names = {name.removesuffix("_proven") for name in proven | set(kernels.GENERIC.values())}
    fast = {"conv2d_1x1", "depthwise_conv2d_3x3", "depthwise_conv2d_3x3_stride2"}
    fast.add("portable_depthwise_conv2d")
    assert set(TARGET.cycles) == names | fast


def test_every_board_is_a_target():
    assert all(latency.target(name).hz > 0 for name in boards.BOARDS)


def test_milliseconds():
    target = latency.Target(1_000_000, {"dense": {**dict.fromkeys(TARGET.cycles["dense"], 0),
                                                  "product": 2, "call": 100}})  # fmt: skip
    net = graphs.GraphBuilder("net", (5,))
    net.dense(3)
    assert latency.latency_ps(net.graph(), target) == (2 * 15 + 100) * 1_000_000
    assert latency.milliseconds(net.graph(), target) == 0.13


@pytest.mark.slow
@needs_emulator
@pytest.mark.parametrize(
    "graph",
    [graphs.ds_cnn(24, 2), graphs.resnet(8, 2, 16), graphs.vgg(), graphs.autoencoder(100, 40)],
    ids=lambda graph: graph.name,
)
def test_the_estimate_is_near_what_the_emulator_executes(graph: ir.Graph, tmp_path: Path):
    """Within 15 % of every level's cycles. It fails when a kernel changes: run
    benchmarks/latency.py --write then."""
    grouping = groups.find_groups(graph)
    levels = []
    for percent, widths in ((50.0, halved(grouping)), (100.0, grouping.full_widths)):
        narrow = groups.select_units(graph, grouping, groups.prefixes(widths))
        # As of a ReLU, so that saturation clamps.
        ranges = dict.fromkeys((op.name for op in graph.ops), (0.0, 1.0))
        levels.append(quantize.FloatLevel(percent, widths, narrow, ranges))
    network = quantize.quantize(graph, grouping, levels)
    arenas = memory.plan_levels([level.graph for level in network.levels], kernels.scratch_bytes)
    plan = build_plan(network, arenas)
    program = firmware_build.build(plan, "emulator", tmp_path)
    inputs = np.zeros((1, *graph.input.shape), np.int8)
    runs = runner.run_emulator(program, plan, inputs, estimate_cycles=True)
    for level, run in zip(network.levels, runs, strict=True):
        assert run.cycles is not None
        measured_ps = run.cycles * 1e12 / TARGET.hz
        assert latency.latency_ps(level.graph, TARGET) == pytest.approx(measured_ps, rel=0.15)


def halved(grouping: groups.Grouping) -> dict[str, int]:
    """Half of every free group, in steps of 4."""
    halves = {group.name: max(4, group.units // 8 * 4) for group in grouping.free}
    return {**grouping.full_widths, **halves}
