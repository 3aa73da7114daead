"""Scores of weights and units, and a reorder that leaves the function unchanged."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

from redsc import groups, importance, ir
from redsc.tf_network import predict
from tests import graphs

FAMILIES = {
    "dense": lambda: graphs.autoencoder(24, 12, 4),
    "cnn": lambda: graphs.vgg(4, 8),
    "depthwise": lambda: graphs.ds_cnn(12, 2, (13, 5, 1)),
    "residual": lambda: graphs.resnet(4, 3, 8),
}


def concatenating() -> ir.Graph:
    net = graphs.GraphBuilder("concatenating", (5, 5, 2))
    stem = net.conv(4)
    left, right = net.conv(3, (1, 1), source=stem), net.depthwise(2, source=stem)
    net.concatenate(left, right, stem)
    net.depthwise()
    net.flatten()
    net.dense(6)
    net.dense(3, activation=ir.Activation.NONE)
    net.softmax()
    return net.graph()


def assert_reorder_keeps_function(graph: ir.Graph, scores) -> None:
    grouping = groups.find_groups(graph)
    reordered, moved = importance.reorder(graph, grouping, scores)
    ir.check(reordered, lowered=True)
    x = np.random.default_rng(0).normal(size=(8, *graph.input.shape)).astype(np.float32)
    wanted = predict(graph, x)
    np.testing.assert_allclose(
        predict(reordered, x), wanted, rtol=0, atol=2e-6 * max(1, np.abs(wanted).max())
    )
    for name, score in importance.unit_scores(reordered, grouping, moved).items():
        if not grouping.groups[name].fixed:
            assert np.all(np.diff(score) <= 1e-12)


@pytest.mark.parametrize("family", [*FAMILIES, "concatenate"])
def test_reorder_keeps_the_function_of_every_family(family):
    graph = concatenating() if family == "concatenate" else FAMILIES[family]()
    assert_reorder_keeps_function(graph, importance.magnitude(graph))


@pytest.mark.slow
@given(graph=graphs.random_graphs())
@settings(max_examples=15, deadline=None)
def test_reorder_keeps_the_function_of_random_networks(graph):
    rng = np.random.default_rng(1)
    scores = {op.name: rng.random(op.kernel.shape) for op in graph.linear_ops}
    assert_reorder_keeps_function(graph, scores)


def test_importance_moves_with_its_weights():
    graph = concatenating()
    grouping = groups.find_groups(graph)
    scores = {op.name: np.abs(op.kernel).astype(np.float64) for op in graph.linear_ops}
    reordered, moved = importance.reorder(graph, grouping, scores)
    for op in reordered.linear_ops:
        np.testing.assert_array_equal(moved[op.name], np.abs(op.kernel))


def test_each_layer_sums_to_its_share_of_macs():
    graph = graphs.vgg(4, 8)
    scores = importance.magnitude(graph)
    assert sum(array.sum() for array in scores.values()) == pytest.approx(1)
    first, second = graph.linear_ops[:2]  # same maps, 3 against 4 input channels
    assert scores[second.name].sum() / scores[first.name].sum() == pytest.approx(4 / 3)


def test_unit_scores_agree_with_a_plain_loop():
    graph = concatenating()
    grouping = groups.find_groups(graph)
    scores = importance.magnitude(graph)
    result = importance.unit_scores(graph, grouping, scores)
    for name, group in grouping.groups.items():
        for unit in range(group.units):
            kept = {n: np.arange(g.units) for n, g in grouping.groups.items()}
            kept[name] = np.delete(kept[name], unit)
            lost = 0.0
            for op in graph.linear_ops:
                array = scores[op.name] / scores[op.name].sum()
                pairs = array.sum(axis=tuple(range(array.ndim - 2)))
                axes = [(grouping.axes[op.inputs[0]], 1)]
                if not isinstance(op, ir.DepthwiseConv2D):
                    axes.append((grouping.axes[op.name], 0))
                for axis, summed in axes:
                    values = pairs.sum(axis=summed)
                    lost += values.sum() - values[groups.channel_indices(axis, kept)].sum()
            assert result[name][unit] == pytest.approx(lost)


def test_dead_channels_come_last():
    graph = graphs.ds_cnn(8, 1, (9, 5, 1))
    op = graph.linear_ops[0]
    kernel, gamma, beta = op.kernel.copy(), op.norm.gamma.copy(), op.norm.beta.copy()
    kernel[..., 2] = 1e-32
    gamma[5] = 1e-9
    beta[6] = -100  # its ReLU never fires
    norm = replace(op.norm, gamma=gamma, beta=beta)
    graph = graph.with_ops(
        replace(o, kernel=kernel, norm=norm) if o is op else o for o in graph.ops
    )
    array = importance.magnitude(graph)[op.name]
    by_channel = array.sum(axis=(0, 1, 2))
    assert set(np.argsort(by_channel)[:3]) == {2, 5, 6}
    assert by_channel[[2, 5, 6]].max() < 1e-6 * by_channel.max()


def test_taylor_is_weight_times_gradient_per_sample():
    """A linear network with squared loss has the gradient in closed form."""
    rng = np.random.default_rng(0)
    net = graphs.GraphBuilder("linear", (3,))
    net.dense(2, activation=ir.Activation.NONE)
    graph = net.graph()
    op = graph.linear_ops[0]
    x, y = rng.normal(size=(7, 3)).astype(np.float32), rng.normal(size=(7, 2)).astype(np.float32)
    residual = x @ op.kernel + op.bias - y  # the loss is its mean square over 2 outputs
    gradients = x[:, :, None] * residual[:, None, :]
    wanted = np.abs(gradients * op.kernel).mean(axis=0)
    got = importance.taylor(graph, x, y, "regression")[op.name]
    np.testing.assert_allclose(got, wanted / wanted.sum(), rtol=1e-4)


def test_taylor_finds_the_units_that_matter():
    """Only unit 1 reaches the output, and opposite gradients of two samples do not cancel."""
    net = graphs.GraphBuilder("two", (1,))
    net.dense(3)
    net.dense(2, activation=ir.Activation.NONE)
    net.softmax()
    graph = net.graph()
    kernels = [np.ones((1, 3)), np.array([[0, 0], [2, -2], [0, 0]])]
    ops = iter(kernels)
    graph = graph.with_ops(
        replace(op, kernel=ir.read_only(next(ops))) if isinstance(op, ir.LinearOp) else op
        for op in graph.ops
    )
    x, y = np.ones((2, 1), np.float32), np.array([0, 1])
    scores = importance.taylor(graph, x, y, "classification")
    grouping = groups.find_groups(graph)
    hidden = grouping.free[0].name
    units = importance.order(graph, grouping, scores)[hidden]
    assert list(units) == [1, 0, 2]
    assert importance.unit_scores(graph, grouping, scores)[hidden][1] > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_taylor_runs_on_every_family(family):
    graph = FAMILIES[family]()
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, *graph.input.shape)).astype(np.float32)
    reconstructs = family == "dense"
    y = x if reconstructs else np.arange(4) % 3
    scores = importance.taylor(graph, x, y, "reconstruction" if reconstructs else "classification")
    assert sum(array.sum() for array in scores.values()) == pytest.approx(1)
    assert all((array >= 0).all() for array in scores.values())
