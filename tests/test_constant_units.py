"""Units that do nothing go, and nothing else changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from dead_units import plant
from graphs import GraphBuilder, autoencoder, ds_cnn, random_graphs, resnet, vgg
from hypothesis import given, settings
from hypothesis import strategies as st

from redsc import (
    bounds,
    constant_units,
    cost,
    groups,
    importance,
    ir,
    oracle,
    quantize,
    tf_network,
    tflite,
)
from tests.test_quantize import needs_oracle, quantized

NONE = ir.Activation.NONE
LOW, HIGH = -3.0, 3.0


def samples(graph: ir.Graph, count: int = 4) -> np.ndarray:
    """Within the bounds; the first two are the bounds."""
    x = np.random.default_rng(0).uniform(LOW, HIGH, (count, *graph.input.shape))
    x[0], x[1] = LOW, HIGH
    return x.astype(np.float32)


def drop(graph: ir.Graph) -> constant_units.Simplified:
    return constant_units.drop(graph, bounds.constants(bounds.bounds(graph, LOW, HIGH)))


def dropped_from(graph: ir.Graph) -> constant_units.Simplified:
    """The simplified network, proved to be the same function."""
    simplified = drop(graph)
    ir.check(simplified.graph, lowered=True)
    x = samples(graph)
    wanted, actual = (tf_network.predict(net, x) for net in (graph, simplified.graph))
    np.testing.assert_allclose(actual, wanted, rtol=0, atol=1e-5 * max(np.abs(wanted).max(), 1e-6))
    return simplified


def with_constants(graph: ir.Graph, name: str, values: dict[int, float]) -> ir.Graph:
    """A layer's channels made constants (before its activation)."""
    op = graph[name]
    assert isinstance(op, ir.LinearOp)
    kernel, bias = op.kernel.copy(), np.zeros(op.out_channels)
    for channel, value in values.items():
        kernel[..., channel], bias[channel] = 0, value
    new = replace(op, kernel=ir.read_only(kernel), bias=ir.read_only(bias), norm=None)
    return graph.with_ops(new if other is op else other for other in graph.ops)


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(graph=random_graphs(), seed=st.integers(0, 2**16))
def test_bounds_hold(graph: ir.Graph, seed: int) -> None:
    graph = plant(graph, 0.3, seed)
    tensors = bounds.bounds(graph, LOW, HIGH)
    for name, value in tf_network.forward(graph, samples(graph)).items():
        low, high = tensors[name]
        slack = 1e-4 * max(np.abs(low).max(), np.abs(high).max(), 1e-6)
        assert np.all(low - slack <= value.numpy()), name
        assert np.all(value.numpy() <= high + slack), name


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(graph=random_graphs(), seed=st.integers(0, 2**16))
def test_function_stays_and_nothing_more_can_go(graph: ir.Graph, seed: int) -> None:
    simplified = dropped_from(plant(graph, 0.4, seed))
    again = drop(simplified.graph)
    assert again.dropped == 0
    assert cost.macs(again.graph) == cost.macs(simplified.graph)


@pytest.mark.parametrize("make", [resnet, vgg, autoencoder])
def test_a_network_without_such_units_is_left_alone(make: Callable[[], ir.Graph]) -> None:
    graph = make()
    assert drop(graph).graph is graph


def test_planted_units_of_a_separable_network_go() -> None:
    graph = plant(ds_cnn(16, 3), 0.5, 1)
    simplified = dropped_from(graph)
    assert simplified.dropped > 12
    assert cost.macs(simplified.graph) < 0.7 * cost.macs(graph)


def _with_dead_units(graph: ir.Graph, first: int) -> ir.Graph:
    """Channels from `first` on are 0 behind every convolution; their readers' weights are small."""

    def dead(op: ir.Op) -> ir.Op:
        if not isinstance(op, ir.Conv2D | ir.DepthwiseConv2D | ir.Dense):
            return op
        kernel, norm = op.kernel.copy(), op.norm
        if not isinstance(op, ir.DepthwiseConv2D) and kernel.shape[-2] > first:
            kernel[..., first:, :] *= np.float32(0.1)
        if norm is not None:
            mean, beta = norm.mean.copy(), norm.beta.copy()
            mean[first:], beta[first:] = 0, -1
            norm = replace(norm, mean=ir.read_only(mean), beta=ir.read_only(beta))
            if isinstance(op, ir.Conv2D):
                kernel[..., first:] = 0
        return replace(op, kernel=ir.read_only(kernel), norm=norm)

    return graph.with_ops(dead(op) for op in graph.ops)


def _int8_outputs(graph: ir.Graph, x: np.ndarray, shares: tuple[float, ...]) -> list[np.ndarray]:
    """Of every level, at uniform shares of the widths."""
    network = quantized(graph, x, shares)
    raw = quantize.quantize_input(network, x)
    return [oracle.run(tflite.write(level), raw)[0] for level in network.levels]


@needs_oracle
def test_dead_units_go_without_a_change_of_any_levels_bytes() -> None:
    graph = _with_dead_units(ds_cnn(16, 3), first=11)
    simplified = drop(graph)
    assert simplified.dropped == 4 * 5
    x = samples(graph, 32)
    wanted = _int8_outputs(graph, x, (6.5 / 16, 1))
    actual = _int8_outputs(simplified.graph, x, (6.5 / 11, 1))
    for level, other in zip(wanted, actual, strict=True):
        assert np.ptp(level.astype(int)) > 20
        np.testing.assert_array_equal(level, other)


def sequential(size: tuple[int, int], padding: ir.Padding) -> ir.Graph:
    net = GraphBuilder("two", (5, 5, 2))
    net.conv(6, norm=False)
    net.conv(3, size, padding=padding)
    return net.graph()


@pytest.mark.parametrize(
    ("size", "padding", "kept"),
    [
        ((1, 1), "same", [0, 3, 4, 5]),  # no window reaches over the border
        ((3, 3), "valid", [0, 3, 4, 5]),
        ((3, 3), "same", [0, 1, 3, 4, 5]),  # only the 0 goes
    ],
)
def test_padding_keeps_constants_other_than_zero(
    size: tuple[int, int], padding: ir.Padding, kept: list[int]
) -> None:
    graph = sequential(size, padding)
    graph = with_constants(graph, graph.ops[1].name, {1: 0.75, 2: -0.5})
    assert dropped_from(graph).kept[graph.ops[1].name].tolist() == kept


def test_a_padded_convolution_that_forgot_a_constant_lets_it_go() -> None:
    """Decay takes the weights that read a constant as well: a bias does the same for less."""
    graph = sequential((3, 3), "same")
    first, last = (op.name for op in graph.linear_ops)
    graph = with_constants(graph, first, {1: 0.75, 2: 0.5})
    op = graph[last]
    assert isinstance(op, ir.LinearOp)
    kernel = op.kernel.copy()
    kernel[:, :, 1] *= np.float32(1e-30)
    kernel[:, :, 2] *= np.float32(1e-10)
    faint = replace(op, kernel=ir.read_only(kernel))
    graph = graph.with_ops(faint if other is op else other for other in graph.ops)
    assert dropped_from(graph).kept[first].tolist() == [0, 2, 3, 4, 5]


def test_a_padded_depthwise_hands_on_no_constant_but_of_zero() -> None:
    def behind(padding: ir.Padding, value: float) -> list[int]:
        net = GraphBuilder("separable", (5, 5, 2))
        first = net.conv(4, norm=False)
        net.depthwise(2, padding=padding, norm=False)
        net.conv(3, (1, 1))
        graph = with_constants(net.graph(), first, {1: value})
        return dropped_from(graph).kept[first].tolist()

    assert behind("same", 0.75) == [0, 1, 2, 3]  # smaller at the border
    assert behind("valid", 0.75) == [0, 2, 3]
    assert behind("same", -0.75) == [0, 2, 3]  # 0 behind the ReLU


def test_saturation_makes_a_constant_of_a_border() -> None:
    """The depthwise behind a positive constant is below 0 everywhere."""
    net = GraphBuilder("separable", (5, 5, 2))
    first = net.conv(4, norm=False)
    second = net.depthwise(norm=False)
    net.conv(3, (1, 1))
    graph = with_constants(net.graph(), first, {1: 0.75})
    op = graph[second]
    assert isinstance(op, ir.LinearOp)
    assert op.bias is not None
    bias = op.bias.copy()
    bias[1] = -0.75 * np.abs(op.kernel[:, :, 1]).sum() - 1
    low = replace(op, bias=ir.read_only(bias))
    graph = graph.with_ops(low if other is op else other for other in graph.ops)
    assert dropped_from(graph).kept[first].tolist() == [0, 2, 3]


def test_global_pooling_makes_one_value_of_a_border() -> None:
    net = GraphBuilder("pooled", (5, 5, 2))
    first = net.conv(4, norm=False)
    net.depthwise()
    net.global_average()
    net.dense(3, activation=NONE)
    graph = with_constants(net.graph(), first, {1: 0.75})
    assert dropped_from(graph).kept[first].tolist() == [0, 2, 3]


def test_a_sum_is_constant_if_both_its_terms_are() -> None:
    net = GraphBuilder("residual", (5, 5, 2))
    skip = net.conv(4, norm=False)
    body = net.conv(4, activation=NONE, norm=False)
    net.add(skip, body)
    net.conv(3, (1, 1))
    graph = with_constants(net.graph(), body, {1: 0.25, 2: -9.0})
    assert dropped_from(graph).dropped == 0  # the skip connection's are not
    graph = with_constants(graph, skip, {1: 0.5, 2: 0.5})
    # The 0.5 is read by the body's padded convolution; -8.5 is 0 behind the sum, but 0.5 before.
    assert dropped_from(graph).dropped == 0
    graph = with_constants(graph, skip, {1: -0.5, 2: -0.5})
    assert dropped_from(graph).kept[skip].tolist() == [0, 3]


def test_concatenation_and_flattening_find_the_unit() -> None:
    net = GraphBuilder("joined", (4, 4, 2))
    left = net.conv(4, norm=False)
    right = net.conv(5, source="input", norm=False)
    net.concatenate(left, right)
    net.flatten()
    net.dense(3, activation=NONE)
    graph = with_constants(net.graph(), left, {3: 1.5})
    graph = with_constants(graph, right, {0: 2.5, 4: -1.0})
    simplified = dropped_from(graph)
    assert simplified.kept[left].tolist() == [0, 1, 2]
    assert simplified.kept[right].tolist() == [1, 2, 3]


def test_what_only_read_dropped_units_goes_too() -> None:
    net = GraphBuilder("chain", (4, 4, 2))
    first, second = net.conv(4, (1, 1), norm=False), net.conv(4, (1, 1), norm=False)
    net.conv(3, (1, 1))
    graph = net.graph()
    op = graph[second]
    assert isinstance(op, ir.LinearOp)
    kernel = op.kernel.copy()
    kernel[:, :, 2, [0, 1, 2]] = 0  # only unit 3 of the second layer reads unit 2 of the first
    graph = graph.with_ops(
        replace(op, kernel=ir.read_only(kernel)) if other is op else other for other in graph.ops
    )
    assert dropped_from(graph).dropped == 0
    last = graph.ops[-1]
    assert isinstance(last, ir.LinearOp)
    unread = last.kernel.copy()
    unread[:, :, 3] = 0
    graph = graph.with_ops((*graph.ops[:-1], replace(last, kernel=ir.read_only(unread))))
    simplified = dropped_from(graph)
    assert simplified.kept[second].tolist() == [0, 1, 2]
    assert simplified.kept[first].tolist() == [0, 1, 3]


def test_a_group_keeps_a_unit_and_outputs_keep_all() -> None:
    graph = sequential((1, 1), "same")
    first, last = (op.name for op in graph.linear_ops)
    graph = with_constants(graph, first, dict.fromkeys(range(6), 1.0))
    simplified = dropped_from(with_constants(graph, last, {0: 1.0}))
    assert simplified.kept[first].tolist() == [0]
    assert simplified.kept[last].tolist() == [0, 1, 2]


def test_rankings_tell_the_numbers_units_had() -> None:
    graph = with_constants(sequential((1, 1), "same"), "conv_1", {1: 0.75, 2: -0.5})
    simplified = dropped_from(graph)
    grouping = groups.find_groups(simplified.graph)
    ranking = importance.rank(simplified.graph, grouping, importance.magnitude(simplified.graph))
    units = simplified.original_numbers(ranking)["conv_1"].units
    assert sorted(units.tolist()) == [0, 3, 4, 5]
