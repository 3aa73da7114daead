"""Channel axes: what a slice or a new order of units does to every tensor."""

from __future__ import annotations

from dataclasses import replace

import graphs as reference
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from redsc import groups, ir, tf_network
from redsc.groups import Segment


@given(
    st.lists(
        st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=3
    ),
    st.randoms(use_true_random=False),
)
def test_channel_indices_against_enumeration(sizes: list[tuple[int, int, int]], rng) -> None:
    axis = tuple(Segment(f"g{i}", *size) for i, size in enumerate(sizes))
    units = {s.group: rng.sample(range(s.units), rng.randint(1, s.units)) for s in axis}
    expected, start = [], 0
    for s in axis:
        for outer in range(s.outer):
            for unit in units[s.group]:
                for inner in range(s.inner):
                    expected.append(start + (outer * s.units + unit) * s.inner + inner)
        start += s.units * s.inner * s.outer
    arrays = {name: np.array(kept) for name, kept in units.items()}
    assert groups.channel_indices(axis, arrays).tolist() == expected
    assert groups.axis_width(axis, {g: len(k) for g, k in units.items()}) == len(expected)


@pytest.mark.slow
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(graph=reference.random_graphs(), seed=st.integers(0, 99))
def test_a_new_order_of_units_changes_no_output(graph: ir.Graph, seed: int) -> None:
    rng = np.random.default_rng(seed)
    grouping = groups.find_groups(graph)
    order = {
        name: np.arange(group.units) if group.fixed else rng.permutation(group.units)
        for name, group in grouping.groups.items()
    }
    x = rng.normal(size=(3, *graph.input.shape)).astype(np.float32)
    before = tf_network.predict(graph, x)
    after = tf_network.predict(groups.select_units(graph, grouping, order), x)
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(graph=reference.random_graphs(), data=st.data())
def test_a_slice_equals_zeroing_what_it_drops(graph: ir.Graph, data: st.DataObject) -> None:
    """Dropping units must equal keeping them with zero kernels, norms and biases."""
    grouping = groups.find_groups(graph)
    widths = {
        name: group.units if group.fixed else data.draw(st.integers(1, group.units))
        for name, group in grouping.groups.items()
    }
    narrow = groups.select_units(graph, grouping, groups.prefixes(widths))
    ir.check(narrow, lowered=True)
    index = {
        name: groups.channel_indices(axis, groups.prefixes(widths))
        for name, axis in grouping.axes.items()
    }

    def silence(op: ir.Op) -> ir.Op:
        if not isinstance(op, ir.LinearOp):
            return op
        kept = np.zeros(op.out_channels, np.float32)
        kept[index[op.name]] = 1
        shape = op.kernel.shape[2:] if isinstance(op, ir.DepthwiseConv2D) else (-1,)
        norm = op.norm
        if norm is not None:
            norm = replace(norm, gamma=norm.gamma * kept, beta=norm.beta * kept)
        bias = None if op.bias is None else op.bias * kept
        return replace(op, kernel=op.kernel * kept.reshape(shape), bias=bias, norm=norm)

    silent = graph.with_ops(silence(op) for op in graph.ops)
    x = np.random.default_rng(0).normal(size=(2, *graph.input.shape)).astype(np.float32)
    np.testing.assert_allclose(
        tf_network.predict(narrow, x), tf_network.predict(silent, x), rtol=1e-4, atol=1e-4
    )


def test_residual_networks_share_a_group_and_ends_are_fixed() -> None:
    net = reference.GraphBuilder("residual", (4, 4, 3))
    a = net.conv(8)
    b = net.conv(8, (1, 1))
    net.add(a, b)
    net.global_average()
    net.dense(5)
    grouping = groups.find_groups(net.graph())
    assert grouping.axes[a][0].group == grouping.axes[b][0].group == a
    assert [group.name for group in grouping.free] == [a]


def test_an_axis_that_cannot_be_traced_stays_at_full_width() -> None:
    net = reference.GraphBuilder("reshaped", (12,))
    first = net.dense(12)
    net.append(ir.Reshape("image", (first,), (2, 2, 3)))
    net.conv(4)
    net.global_average()
    net.dense(2)
    grouping = groups.find_groups(net.graph())
    assert grouping.groups[first].fixed
    assert len(grouping.free) == 1


@pytest.mark.parametrize("shape", [(2, 3, 4), (1, 1, 8), (3, 2, 2)])
def test_flatten_repeats_the_channels(shape: tuple[int, int, int]) -> None:
    net = reference.GraphBuilder("flat", shape)
    source = net.conv(4, (1, 1))
    flat = net.flatten()
    net.dense(3)
    axis = groups.find_groups(net.graph()).axes[flat]
    assert axis == (Segment(source, 4, outer=shape[0] * shape[1]),)
