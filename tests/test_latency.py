"""The latency estimate: a formula in the channels, whose table fits the emulated Cortex-M4."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import firmware_build
import graphs
import numpy as np
import pytest
from firmware_build import needs_emulator
from hypothesis import given, settings
from hypothesis import strategies as st

from redsc import groups, ir, kernels, latency, memory, runner, thin
from redsc.kernel_work import Call
from redsc.plan import build_plan

TARGET = latency.target("nano33ble")
assert TARGET is not None


def full_calls(graph: ir.Graph) -> dict[str, Call]:
    grouping = groups.find_groups(graph)
    room = dict.fromkeys((op.name for op in graph.ops), 1 << 20)
    return latency.calls(graph, graph, grouping, grouping.full_widths, room)


@pytest.mark.parametrize(
    "graph",
    [graphs.ds_cnn(), graphs.resnet(), graphs.mobilenet_v1(), graphs.autoencoder(), graphs.vgg()],
    ids=lambda graph: graph.name,
)
@given(share=st.floats(0.2, 1.0))
@settings(max_examples=10, deadline=None)
def test_the_searchs_formula_is_near_the_counted_loops(graph: ir.Graph, share: float):
    grouping = groups.find_groups(graph)
    narrowed = {g.name: max(4, round(g.units * share / 4) * 4) for g in grouping.free}
    widths = {**grouping.full_widths, **narrowed}
    level = groups.select_units(graph, grouping, groups.prefixes(widths))
    scratch = memory.plan_levels([level], kernels.scratch_bytes)[0].scratch_bytes
    calls = latency.calls(level, graph, grouping, widths, scratch)
    counted_ms = latency.milliseconds(calls, TARGET)
    assert latency.latency_ps(graph, level, TARGET) / 1e9 == pytest.approx(counted_ms, rel=0.04)


@given(graphs.random_graphs())
@settings(deadline=None)
def test_no_layers_formula_falls_with_its_channels(graph: ir.Graph):
    """So wider levels never take less, which the search counts on."""
    for form in latency.forms(graph, TARGET).values():
        assert min(form.product, form.input, form.output, form.constant) >= 0


def test_no_loop_takes_less_than_nothing():
    assert all(cycles >= 0 for loops in TARGET.cycles.values() for cycles in loops.values())


def test_every_kernel_has_cycles_for_each_of_its_loops():
    net = graphs.GraphBuilder("net", (9, 7, 3))
    net.conv(8, (3, 3), (2, 2))
    net.depthwise()
    net.depthwise(size=(3, 1))
    net.depthwise(multiplier=2)
    net.max_pool()
    net.pad()
    net.leaky_relu()
    net.conv(4, (1, 1))
    net.concatenate(net.last, net.conv(4, (1, 1)))
    net.add(net.last, net.conv(8, (1, 1)))
    net.append(ir.Tanh("tanh", (net.last,)))
    net.global_average()
    net.dense(5)
    net.softmax()
    found = full_calls(net.graph())
    strided = graphs.GraphBuilder("strided", (8, 8, 4))
    strided.depthwise(strides=(2, 2))
    tiled = graphs.GraphBuilder("tiled", (8, 8, 4))
    tiled.conv(4)
    others = [*full_calls(strided.graph()).values(), *full_calls(tiled.graph()).values()]
    short = [*found.values(), *others]
    both = [c for c in short if "thin" not in c.kernel]  # that has one requantisation alone
    general = [replace(c, kernel=re.sub("_(proven|one_product)$", "", c.kernel)) for c in both]
    proven = [replace(c, kernel=c.kernel.replace("_one_product", "_proven")) for c in both]
    proven = [c for c in proven if not re.search("3x3|winograd", c.kernel)]  # without such a suffix
    calls = [*short, *general, *proven]
    assert {call.kernel for call in calls} == set(TARGET.cycles)
    for call in calls:
        assert set(call.work) == set(TARGET.cycles[call.kernel]), call.kernel
        assert TARGET.cycles_of(call) > 0


def test_loops_of_a_convolution_by_hand():
    net = graphs.GraphBuilder("net", (3, 5, 4))
    net.conv(5)  # 15 pixels of 36 products
    (call,) = full_calls(net.graph()).values()
    work = call.work
    assert call.kernel == "conv2d_one_product"
    assert work["pair"] == 3
    assert work["block"] == 3 * 4
    assert work["block step"] == 3 * 4 * (18 - 8)  # pairs of products behind the first 8
    # Pixels 0, 4, 8 and 11 begin blocks; pixel 11 is taken twice.
    assert work["edge window"] == 13  # all but the 3 in the middle
    assert work["packing"] == 4
    assert work["packed line"] == 4 * 3
    assert work["packed word"] == 4 * 9
    assert work["packed rest"] == 0


def test_loops_of_packing_by_hand():
    net = graphs.GraphBuilder("net", (8, 22, 3))
    net.conv(5, strides=(2, 2))  # 4 x 11 pixels, all but the last line and column inside
    graph = net.graph()
    grouping = groups.find_groups(graph)
    direct, room = {net.last: "conv2d_one_product"}, {net.last: 1 << 14}
    (call,) = latency.calls(graph, graph, grouping, grouping.full_widths, room, direct).values()
    work = call.work
    # Blocks from pixel 0 (0, 0), 12 (1, 1) and 24 (2, 2) go with the one behind them.
    assert work["packing"] == 3 + 5
    assert work["edge window"] == 1 + 1 + 3 * 4
    # 27 bytes in lines of 9: 8 and 1 + 3, 4 and 2 + 2, 4 and 3.
    assert work["packed line"] == 11 * 3
    assert work["packed word"] == 11 * 4
    assert work["packed rest"] == 11 * 3


def test_loops_of_a_thin_convolution_by_hand():
    net = graphs.GraphBuilder("net", (9, 22, 3))
    net.conv(5, strides=(2, 2))  # 5 x 11 outputs, in lanes of 3 windows: 12 a line
    graph = net.graph()
    grouping = groups.find_groups(graph)
    op = graph[net.last]
    # A lane's 3 windows span 2 * 6 + 10 values, six groups of four.
    room = {net.last: thin.scratch_bytes(op, (5, 11, 5), 2)}
    (call,) = latency.calls(graph, graph, grouping, grouping.full_widths, room).values()
    work = call.work
    assert (call.kernel, call.tile) == ("conv2d_thin_one_product", (2, 11))
    assert work["block"] == 3 * 5 * 3  # pairs of channels, lines, windows of a lane
    assert work["block step"] == 3 * 5 * 3 * 15
    assert work["row"] == 3 * 5
    assert work["strip"] == 3 * 3
    # 5, 5 and 3 lines under 2, 2 and 1 lines of outputs, one above the image and one below it.
    assert work["packed line"] == 11
    assert work["packed group"] == 11 * 6
    assert work["word of zeros"] == 2 * 6 * 8
    assert work["edge"] == 11  # the last lane ends a column behind the image
    assert work["weight"] == 6 * 27


def test_loops_of_winograd_by_hand():
    net = graphs.GraphBuilder("net", (11, 16, 18))
    net.conv(5)  # 3 x 4 tiles, of which the last line's are of 3 lines
    (call,) = full_calls(net.graph()).values()
    work = call.work
    assert call.kernel == "conv2d_winograd_one_product"
    assert call.tile == (6, 4)  # all channels, in pairs
    assert work["block"] == 3 * 3
    assert work["block step"] == 3 * 3 * 36 * 10  # pairs of channels read, padded to 20
    assert (work["long block"], work["block pass"]) == (3 * 3, 3 * 3 * 36)
    assert work["tile beside"] == 3 * 4
    assert work["pixel beside"] == 3 * 4 * 4 * 3
    assert work["window word"] == 12 * 5
    assert work["edge window"] == 10  # all but the 2 in the middle
    assert work["weight word"] == 6 * 5
    assert work["copied run"] == 6  # 18 channels are no whole words


@pytest.mark.parametrize(("channels", "copied"), [(20, 12), (18, 13)])
def test_winograd_copies_a_window_whose_words_would_leave_the_image(channels: int, copied: int):
    net = graphs.GraphBuilder("net", (13, 13, channels))
    net.conv(8)  # 4 x 4 tiles; the windows of 4 in the middle are inside, one ends with the image
    (call,) = full_calls(net.graph()).values()
    assert call.kernel == "conv2d_winograd_one_product"
    assert call.work["edge window"] == copied


def test_winograd_is_counted_where_there_is_room():
    net = graphs.GraphBuilder("net", (8, 8, 16))
    net.conv(8)
    graph = net.graph()
    grouping = groups.find_groups(graph)
    (call,) = latency.calls(graph, graph, grouping, grouping.full_widths, {}).values()
    assert call.kernel == "conv2d_one_product"
    # Weights of two channels at a time, once for every four of its tiles.
    room = {net.last: 72 * 16 * (4 + 2) + 1152}
    (call,) = latency.calls(graph, graph, grouping, grouping.full_widths, room).values()
    assert call.kernel == "conv2d_winograd_one_product"
    assert (call.tile, call.work["weight"]) == ((2, 4), 8)
    work = call.work
    assert (work["block"], work["long block"], work["block pass"]) == (4, 0, 0)
    assert work["points at once"] == 4 * 36


@pytest.mark.parametrize(("units", "copied", "taps"), [(8, 0, 0), (6, 18, 0), (4, 0, 8)])
def test_loops_count_how_a_narrow_level_gets_its_weights(units: int, copied: int, taps: int):
    """All together, copied tap by tap, or read tap by tap where these are whole words."""
    net = graphs.GraphBuilder("net", (3, 5, 4))
    net.conv(8)
    net.conv(8)
    graph = net.graph()
    grouping = groups.find_groups(graph)
    widths = {name: min(width, units) for name, width in grouping.full_widths.items()}
    widths |= {group.name: group.units for group in grouping.groups.values() if group.fixed}
    level = groups.select_units(graph, grouping, groups.prefixes(widths))
    first, second = list(latency.calls(level, graph, grouping, widths, {}).values())
    pairs, tiles = second.outputs.count // 2, 4  # without scratch a tile is a block
    assert first.work["copied run"] == first.work["further tap"] == 0
    assert second.work["copied run"] == pairs * tiles * copied
    assert second.work["further tap"] == pairs * tiles * taps


def test_no_table_no_estimate():
    assert TARGET.hz == 64_000_000
    assert latency.target("cortex-m3") is None


def test_milliseconds():
    loops = {**dict.fromkeys(TARGET.cycles["dense_proven"], 0.0), "step": 2.0, "call": 100.0}
    net = graphs.GraphBuilder("net", (5,))
    net.dense(4)
    target = latency.Target(1_000_000, {"dense_proven": loops})
    assert latency.milliseconds(full_calls(net.graph()), target) == 0.104


@pytest.mark.slow
@needs_emulator
@pytest.mark.parametrize(
    "graph",
    [graphs.ds_cnn(24, 2), graphs.resnet(8, 2, 16), graphs.vgg(), graphs.autoencoder(100, 40)],
    ids=lambda graph: graph.name,
)
def test_the_estimate_is_near_what_the_emulator_executes(graph: ir.Graph, tmp_path: Path):
    """Within 5 % of every level's cycles. It fails when a kernel changes: run
    benchmarks/latency.py --write then."""
    grouping = groups.find_groups(graph)
    network = graphs.two_levels(graph, halved(grouping))
    arenas = memory.plan_levels([level.graph for level in network.levels], kernels.scratch_bytes)
    plan = build_plan(network, arenas)
    program = firmware_build.build(plan, "emulator", tmp_path)
    inputs = np.zeros((1, *graph.input.shape), np.int8)
    runs = runner.run_emulator(program, plan, inputs, estimate_cycles=True)
    chosen = plan.kernels
    for level, arena, run in zip(network.levels, arenas, runs, strict=True):
        assert run.cycles is not None
        calls = latency.calls(
            level.graph, network.graph, grouping, level.widths, arena.scratch_bytes, chosen
        )
        measured_ms = run.cycles * 1e3 / TARGET.hz
        assert latency.milliseconds(calls, TARGET) == pytest.approx(measured_ms, rel=0.05)


def halved(grouping: groups.Grouping) -> dict[str, int]:
    """Half of every free group, in steps of 4."""
    halves = {group.name: max(4, group.units // 8 * 4) for group in grouping.free}
    return {**grouping.full_widths, **halves}
