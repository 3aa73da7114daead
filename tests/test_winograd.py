"""Winograd's algorithm in integers, as firmware/reds/src/dsp/conv2d_winograd.cc has it: its
algebra, its bounds, and where the compiler takes it."""

from __future__ import annotations

import math

import graphs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from redsc import constants, ir, kernels, memory, thin, winograd
from redsc.plan import build_plan
from redsc.plan_structs import Fallback

PIXELS = np.array([
    [4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0],
    [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1],
])  # fmt: skip
TAPS = np.array([[1, 0, 0], [1, 1, 1], [1, -1, 1], [1, 2, 4], [1, -2, 4], [0, 0, 1]])
OUTPUTS = np.array([
    [6, -4, -4, 1, 1, 0], [0, -2, 2, 1, -1, 0], [0, -1, -1, 1, 1, 0], [0, -1, 1, 2, -2, 6],
])  # fmt: skip
TIMES = np.array([24, 12, 6, 6])
"""What an output along one side comes out as times."""

INVERSE_OF_9 = 954437177


def test_one_side_is_a_convolution_times_a_constant():
    for tap in range(3):
        for pixel in range(6):
            products = (TAPS[:, tap] * PIXELS[:, pixel]) @ OUTPUTS.T
            assert products.tolist() == [
                times * (pixel == output + tap) for output, times in enumerate(TIMES)
            ]


def int32(values):
    return (np.asarray(values, np.int64) + (1 << 31)) % (1 << 32) - (1 << 31)


@given(st.integers(0, 2**32), st.sampled_from([4, 64, 115]), st.integers(-128, 127))
def test_accumulators_are_exact(seed, channels, zero_point):
    random = np.random.default_rng(seed)
    values = [-128, 127] if random.random() < 0.5 else np.arange(-128, 128)
    x = random.choice(values, (6, 6, channels)) - zero_point
    w = random.choice(values, (3, 3, channels))
    accumulators = np.array(
        [[(x[i : i + 3, j : j + 3] * w).sum() for j in range(4)] for i in range(4)]
    )
    pixels = np.einsum("ai,bj,ijc->abc", PIXELS, PIXELS, x)
    taps = np.einsum("ai,bj,ijc->abc", TAPS, TAPS, w)
    assert np.abs(pixels).max() <= 68 * 255
    assert np.abs(taps).max() <= 49 * 128
    sums = int32((pixels * taps).sum(axis=2))
    outputs = int32(OUTPUTS @ int32(sums @ OUTPUTS.T))
    powers = np.outer([8, 4, 2, 2], [8, 4, 2, 2])
    assert np.array_equal(int32(outputs * INVERSE_OF_9), accumulators * powers)


def conv(inputs=16, outputs=8, window=(3, 3), **changes):
    return ir.Conv2D("conv", ("input",), np.zeros((*window, inputs, outputs)), **changes)


@pytest.mark.parametrize(
    ("inputs", "outputs", "side", "is_quicker"),
    [
        (3, 16, 32, True),
        (64, 64, 6, True),
        (1, 32, 8, False),
        (8, 16, 6, False),
        (1, 4, 6, False),
        (4, 8, 6, False),
        (8, 4, 6, True),
        (4, 12, 32, True),
    ],
)
def test_where_it_is_quicker(inputs: int, outputs: int, side: int, is_quicker: bool):
    """As measured on the emulator."""
    op = ir.Conv2D("op", ("input",), np.zeros((3, 3, inputs, outputs)))
    assert winograd.is_quicker(op, (side, side, outputs)) == is_quicker


def test_which_ops_it_suits():
    assert winograd.suits(conv(), (8, 8, 8))
    assert winograd.suits(conv(), (6, 6, 8))  # 4 tiles of 4 x 4
    assert not winograd.suits(conv(), (5, 5, 8))  # the same for 25 pixels
    assert not winograd.suits(conv(), (4, 4, 8))
    assert winograd.suits(conv(), (4, 21, 8))  # 6 tiles, which take 2 blocks of 4
    assert not winograd.suits(conv(strides=(2, 1)), (8, 8, 8))
    assert not winograd.suits(conv(dilation=(2, 2)), (8, 8, 8))
    assert not winograd.suits(conv(window=(3, 1)), (8, 8, 8))


@given(
    st.integers(1, 130), st.integers(1, 130), st.integers(1, 40), st.integers(1, 40),
    st.integers(0, 100_000),
)  # fmt: skip
def test_a_tiling_fits_its_room_and_is_found_again_in_it(inputs, outputs, height, width, room):
    op, output = conv(inputs, outputs), (height, width, outputs)
    way = winograd.tiling(op, output, room)
    if way is None:
        least = winograd.Tiling(winograd.TILES, winograd.CHANNELS)
        assert not winograd.suits(op, output) or winograd.scratch_bytes(op, least) > room
        return
    size = winograd.scratch_bytes(op, way)
    assert size <= room
    assert winograd.tiling(op, output, size) == way
    assert way.tiles % winograd.TILES == 0
    assert 0 < way.tiles <= winograd.computed_tiles(output)
    assert winograd.computed_tiles(output) * winograd.SIDE**2 >= math.prod(output[:2])
    assert way.channels in (winograd.CHANNELS, outputs, outputs + 1)


@pytest.mark.parametrize(("channels", "exact"), [(115, True), (116, False)])
def test_sums_must_stay_below_the_limit(channels, exact):
    """Whatever the bias: it is added behind the shift."""
    extreme = constants.LinearConstants(
        bias=np.full(1, 1 << 29, np.int32),
        multiplier=np.full(1, 1 << 30, np.int32),
        shift=np.full(1, -10, np.int8),
        input_zero_point=-128,
        output_zero_point=0,
        activation_min=-128,
        activation_max=127,
    )
    weights = np.full((1, 9 * channels), -127, np.int8)
    assert kernels.is_winograd_exact(extreme, weights) == exact


def test_one_kernel_runs_all_levels_so_each_must_have_room(monkeypatch):
    monkeypatch.setattr(thin, "MOST_PRODUCTS", 0)  # or another kernel runs the first one
    graph = graphs.vgg()
    halves = graphs.halves(graph)
    network = graphs.two_levels(graph, halves)
    fast = memory.plan_levels([level.graph for level in network.levels], kernels.scratch_bytes)
    least = memory.plan_level(network.levels[0].graph, kernels.scratch_bytes)

    def convolutions(arenas):
        steps = build_plan(network, arenas).steps
        return [(step.kernel, step.fallbacks) for step in steps if step.kind == "Conv2D"]

    assert convolutions(fast) == 4 * [("conv2d_winograd_one_product", ())]
    no_room = Fallback("conv2d_winograd_one_product", "room", 1)
    assert convolutions([least, fast[1]]) == 4 * [("conv2d_one_product", (no_room,))]
    monkeypatch.setattr(winograd, "SUM_LIMIT", 1)
    passed = [fallbacks for _, fallbacks in convolutions(fast)]
    assert passed == [
        (Fallback("conv2d_winograd_one_product", "proof", op.out_channels + halves[op.name]),)
        for op in graph.ops
        if isinstance(op, ir.Conv2D)
    ]


def test_no_room_is_planned_where_it_does_not_pay():
    net = graphs.GraphBuilder("net", (6, 6, 8))
    net.conv(16)
    graph = net.graph()
    room = {net.last: 100_000}
    direct = kernels.conv2d_scratch_bytes(graph[net.last], (6, 6, 16), room[net.last])
    assert kernels.scratch_bytes(graph, room, graph)[net.last] == direct
    assert kernels.scratch_bytes(graph, room)[net.last] != direct  # Winograd's
