"""Where the kernel of thin images runs, and in how much room; test_kernels proves its bytes."""

import graphs
import numpy as np
import pytest

from redsc import ir, kernels, memory, thin
from redsc.plan import build_plan
from redsc.plan_structs import Fallback

RELU = ir.Activation.RELU


def conv(channels=3, window=(3, 3), strides=(1, 1), dilation=(1, 1), activation=RELU):
    kernel = np.zeros((*window, channels, 8), np.float32)
    return ir.Conv2D(
        "conv", ("input",), kernel, strides=strides, dilation=dilation, activation=activation
    )


@pytest.mark.parametrize(
    ("op", "output", "runs"),
    [
        (conv(), (32, 32, 8), True),
        (conv(1), (28, 28, 8), True),
        (conv(3, strides=(2, 2)), (48, 48, 8), True),
        (conv(4), (32, 32, 8), False),  # 12 products in a line
        (conv(2, (3, 5)), (32, 32, 8), True),
        (conv(2, (3, 6)), (32, 32, 8), False),
        (conv(3, (5, 3)), (32, 32, 8), False),
        (conv(3, dilation=(1, 2)), (32, 32, 8), False),
        (conv(3, activation=ir.Activation.NONE), (32, 32, 8), False),  # no one product
        (conv(), (32, 5, 8), False),  # lanes of 2 compute 8
        (conv(), (32, 7, 8), True),
        (conv(), (32, 1200, 8), False),  # three lines of it are more than is kept
    ],
)
def test_it_runs_windows_of_three_short_lines(op, output, runs):
    assert (thin.rows(op, output, 1 << 20) > 0) == runs


def test_lanes_by_hand():
    # Windows of 9 values every 6; the last of 12 begins at 66, and what it reads ends at 76.
    assert thin.lanes(48, 3, 2, 3) == thin.Lanes(pairs=5, windows=12, groups=19, phases=1)
    # Every 3: half of them begin at an odd value.
    assert thin.lanes(32, 3, 1, 3) == thin.Lanes(pairs=5, windows=8, groups=8, phases=2)
    assert thin.lanes(28, 3, 1, 1) == thin.Lanes(pairs=2, windows=7, groups=3, phases=2)
    assert thin.Lanes(pairs=5, windows=12, groups=19, phases=1).line_bytes == 4 * 76 * 2


def test_as_many_lines_as_there_is_room_for():
    op, output = conv(strides=(2, 2)), (48, 48, 8)
    counts = [thin.rows(op, output, room) for room in range(0, 8000, 50)]
    assert counts == sorted(counts)
    assert counts[0] == 0
    assert counts[-1] == 2  # three take 7 lines of 608 bytes, more than 4096
    for count in (1, 2):
        size = thin.scratch_bytes(op, output, count)
        assert thin.rows(op, output, size) == count
        assert thin.rows(op, output, size - 1) == count - 1


def test_it_is_planned_where_every_level_has_room():
    net = graphs.GraphBuilder("net", (16, 16, 3))
    net.conv(8)
    net.conv(8)
    net.flatten()
    net.dense(4, activation=ir.Activation.NONE)
    graph = net.graph()
    network = graphs.two_levels(graph, graphs.halves(graph))
    fast = memory.plan_levels([level.graph for level in network.levels], kernels.scratch_bytes)
    least = memory.plan_level(network.levels[0].graph, kernels.scratch_bytes)

    def chosen(arenas):
        step = build_plan(network, arenas).steps[0]
        return step.kernel, step.fallbacks[:1]

    assert chosen(fast) == ("conv2d_thin_one_product", ())
    no_room = Fallback("conv2d_thin_one_product", "room", 1)
    assert chosen([least, fast[1]]) == ("conv2d_one_product", (no_room,))
