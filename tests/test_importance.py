"""Scores of weights and units, and a reorder that leaves the function unchanged."""

import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redsc import cost, gain, groups, importance, importance_plots, ir, measure
from redsc.importance import Scores
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


def random_scores(graph: ir.Graph, seed: int) -> Scores:
    """Unlike importance.random also of channels."""
    rng = np.random.default_rng(seed)
    return Scores(
        {op.name: rng.random(op.kernel.shape) for op in graph.linear_ops},
        {op.name: rng.random(op.out_channels) for op in graph.linear_ops},
    )


def assert_reorder_keeps_function(graph: ir.Graph, scores: Scores) -> None:
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
    assert_reorder_keeps_function(graph, random_scores(graph, 1))


def test_importance_moves_with_its_weights():
    graph = concatenating()
    grouping = groups.find_groups(graph)
    scores = Scores(
        {op.name: np.abs(op.kernel).astype(np.float64) for op in graph.linear_ops},
        {op.name: np.abs(op.offset) for op in graph.linear_ops},
    )
    reordered, moved = importance.reorder(graph, grouping, scores)
    for op in reordered.linear_ops:
        np.testing.assert_array_equal(moved.weights[op.name], np.abs(op.kernel))
        np.testing.assert_array_equal(moved.channels[op.name], np.abs(op.offset))


def test_each_layer_sums_to_its_share_of_macs():
    graph = graphs.vgg(4, 8)
    scores = importance.magnitude(graph).weights
    assert sum(array.sum() for array in scores.values()) == pytest.approx(1)
    first, second = graph.linear_ops[:2]  # same maps, 3 against 4 input channels
    assert scores[second.name].sum() / scores[first.name].sum() == pytest.approx(4 / 3)


def test_unit_scores_agree_with_a_plain_loop():
    graph = concatenating()
    grouping = groups.find_groups(graph)
    scores = random_scores(graph, 2)
    result = importance.unit_scores(graph, grouping, scores)
    for name, group in grouping.groups.items():
        for unit in range(group.units):
            kept = {n: np.arange(g.units) for n, g in grouping.groups.items()}
            kept[name] = np.delete(kept[name], unit)
            lost = 0.0
            for op in graph.linear_ops:
                weights, channels = scores.weights[op.name], scores.channels[op.name]
                pairs = weights.sum(axis=tuple(range(weights.ndim - 2)))
                inputs, outputs = grouping.axes[op.inputs[0]], grouping.axes[op.name]
                parts = [(inputs, pairs.sum(axis=1)), (outputs, channels)]
                if not isinstance(op, ir.DepthwiseConv2D):
                    parts.append((outputs, pairs.sum(axis=0)))
                total = weights.sum() + channels.sum()
                for axis, values in parts:
                    left = values[groups.channel_indices(axis, kept)].sum()
                    lost += (values.sum() - left) / total
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
    array = importance.magnitude(graph).weights[op.name]
    by_channel = array.sum(axis=(0, 1, 2))
    assert set(np.argsort(by_channel)[:3]) == {2, 5, 6}
    assert by_channel[[2, 5, 6]].max() < 1e-6 * by_channel.max()


TERMS = {
    "taylor": lambda change: np.abs(change).mean(axis=0),
    "first-order": lambda change: np.abs(change.sum(axis=0)),
    "fisher": lambda change: (change**2).mean(axis=0),
}
"""Of w · ∂L/∂w, samples first."""


@pytest.mark.parametrize("method", TERMS)
def test_methods_combine_weight_times_gradient(method):
    """A linear network with squared loss has the gradient in closed form."""
    rng = np.random.default_rng(0)
    net = graphs.GraphBuilder("linear", (3,))
    net.dense(2, activation=ir.Activation.NONE)
    graph = net.graph()
    op = graph.linear_ops[0]
    x, y = rng.normal(size=(7, 3)).astype(np.float32), rng.normal(size=(7, 2)).astype(np.float32)
    residual = x @ op.kernel + op.bias - y  # the loss is its mean square over 2 outputs
    gradients = x[:, :, None] * residual[:, None, :]
    wanted, own = TERMS[method](gradients * op.kernel), TERMS[method](residual * op.bias)
    got, total = importance.by_gradient(method, graph, x, y, "regression"), wanted.sum() + own.sum()
    np.testing.assert_allclose(got.weights[op.name], wanted / total, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(got.channels[op.name], own / total, rtol=1e-3, atol=1e-6)


def test_opposite_gradients_cancel_in_a_batch_and_not_per_sample():
    net = graphs.GraphBuilder("linear", (2,))
    net.dense(1, activation=ir.Activation.NONE)
    kernel, bias = ir.read_only(np.array([[1.0], [2.0]])), ir.read_only(np.zeros(1))
    graph = net.graph()
    graph = graph.with_ops(
        replace(op, kernel=kernel, bias=bias) if isinstance(op, ir.Dense) else op
        for op in graph.ops
    )
    x = np.array([[1, 2], [1, 2]], np.float32)
    y = np.array([[5 + 3], [5 - 3]], np.float32)  # the network says 5
    (name,) = (op.name for op in graph.linear_ops)
    for method, wanted in (("taylor", (0.2, 0.8)), ("first-order", (0.5, 0.5))):
        scores = importance.by_gradient(method, graph, x, y, "regression")
        np.testing.assert_allclose(scores.weights[name][:, 0], wanted, err_msg=method)


def changes(graph: ir.Graph, x: np.ndarray, y: np.ndarray) -> Iterator[tuple[str, str, np.ndarray]]:
    """(op, "weights" or "channels", w · ∂L/∂w of every sample) of a network of dense layers, by
    finite differences: what the loss does when a weight, or a norm's gamma and beta, or a bias
    grow by a factor."""
    step, ops = 1e-6, graph.linear_ops

    def losses(name: str, kernel: np.ndarray | float, own: np.ndarray | float) -> np.ndarray:
        values = x.astype(np.float64)
        for op in ops:
            mine = op.name == name
            values = values @ (op.kernel * (kernel if mine else 1.0))
            if op.norm is None:
                values = values + op.bias * (own if mine else 1.0)
            else:
                values = (values * op.scale + op.offset) * (own if mine else 1.0)
            if op.activation is ir.Activation.RELU:
                values = np.maximum(values, 0)
        return np.log(np.exp(values).sum(axis=1)) - values[np.arange(len(y)), y]

    def change(name: str, which: str, index: tuple[int, ...], shape: tuple[int, ...]) -> np.ndarray:
        grow = np.zeros(shape)
        grow[index] = step
        if which == "weights":
            up, down = losses(name, 1 + grow, 1.0), losses(name, 1 - grow, 1.0)
        else:
            up, down = losses(name, 1.0, 1 + grow), losses(name, 1.0, 1 - grow)
        return (up - down) / (2 * step)

    for op in ops:
        for which, shape in (("weights", op.kernel.shape), ("channels", (op.out_channels,))):
            found = [change(op.name, which, index, shape) for index in np.ndindex(*shape)]
            yield op.name, which, np.array(found).T.reshape(len(x), *shape)


@given(seed=st.integers(0, 2**16))
@settings(max_examples=4, deadline=None)
def test_gradients_are_what_the_loss_does_when_a_parameter_changes(seed):
    net = graphs.GraphBuilder("dense", (3,), seed)
    net.dense(4, norm=True)
    net.dense(5)
    net.dense(3, activation=ir.Activation.NONE)
    net.softmax()
    graph, macs = net.graph(), cost.op_macs(net.graph())
    x = np.random.default_rng(seed).normal(size=(5, 3)).astype(np.float32)
    y = np.arange(5) % 3
    found = list(changes(graph, x, y))
    for method, combine in TERMS.items():
        raw = {(name, which): combine(change) for name, which, change in found}
        scores = importance.by_gradient(method, graph, x, y, "classification")
        for op in graph.linear_ops:
            wanted = [raw[op.name, which] for which in ("weights", "channels")]
            share = macs[op.name] / sum(macs.values()) / sum(array.sum() for array in wanted)
            for got, array in zip(
                (scores.weights[op.name], scores.channels[op.name]), wanted, strict=True
            ):
                np.testing.assert_allclose(got, array * share, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("method", importance.METHODS)
def test_scores_are_shares_of_macs_and_leave_the_network_alone(method):
    graph = graphs.ds_cnn(4, 1, (9, 5, 1), classes=3)
    before = [array.tobytes() for array in arrays(graph)]
    rng = np.random.default_rng(0)
    samples = (rng.normal(size=(3, 9, 5, 1)).astype(np.float32), np.arange(3), "classification")
    scores = importance.score(method, graph, samples, seed=5)
    again = importance.score(method, graph, samples, seed=5)
    assert [array.tobytes() for array in arrays(graph)] == before
    macs = cost.op_macs(graph)
    for op in graph.linear_ops:
        weights, channels = scores.weights[op.name], scores.channels[op.name]
        assert weights.shape == op.kernel.shape
        assert channels.shape == (op.out_channels,)
        assert min(weights.min(), channels.min()) >= 0
        assert weights.sum() + channels.sum() == pytest.approx(macs[op.name] / sum(macs.values()))
        assert weights.tobytes() == again.weights[op.name].tobytes()
        assert channels.tobytes() == again.channels[op.name].tobytes()
        assert (channels.sum() > 0) == (method in importance.GRADIENT_METHODS)


def arrays(graph: ir.Graph) -> Iterator[np.ndarray]:
    for op in graph.linear_ops:
        yield op.kernel
        if op.bias is not None:
            yield op.bias
        if op.norm is not None:
            yield from (op.norm.gamma, op.norm.beta, op.norm.mean, op.norm.variance)


@pytest.mark.slow
@given(graph=graphs.random_graphs(3, 4), method=st.sampled_from(importance.METHODS[:-1]))
@settings(max_examples=6, deadline=None)
def test_units_keep_their_scores_in_any_order(graph, method):
    grouping, rng = groups.find_groups(graph), np.random.default_rng(0)
    units = {
        name: np.arange(group.units) if group.fixed else rng.permutation(group.units)
        for name, group in grouping.groups.items()
    }
    shape = (3, *ir.shapes(graph)[graph.output])
    x = rng.normal(size=(3, *graph.input.shape)).astype(np.float32)
    samples = (x, rng.normal(size=shape).astype(np.float32), "regression")
    before = importance.select(graph, grouping, importance.score(method, graph, samples, 0), units)
    after = importance.score(method, groups.select_units(graph, grouping, units), samples, 0)
    for kind in ("weights", "channels"):
        for name, wanted in getattr(before, kind).items():
            largest = max(wanted.max(), 1e-12)
            np.testing.assert_allclose(
                getattr(after, kind)[name], wanted, rtol=1e-3, atol=1e-4 * largest
            )


def test_random_prefers_no_unit_and_no_weight_whatever_the_network():
    net = graphs.GraphBuilder("dense", (3,))
    net.dense(4)
    net.dense(2)
    graph = net.graph()
    huge = graph.linear_ops[0].kernel.copy()
    huge[:, 0] = 1e6
    graph = graph.with_ops(
        replace(op, kernel=ir.read_only(huge)) if op is graph.linear_ops[0] else op
        for op in graph.ops
    )
    grouping = groups.find_groups(graph)
    hidden = grouping.free[0].name
    orders = []
    for seed in range(240):
        ranking = importance.rank(graph, grouping, importance.random(graph, seed))[hidden]
        assert sorted(ranking.units) == [0, 1, 2, 3]
        orders.append(tuple(ranking.units.tolist()))
    assert set(orders) == set(itertools.permutations(range(4)))
    # A unit leads 60 times on average, with a deviation of 6.7.
    leads = np.bincount([units[0] for units in orders], minlength=4)
    assert leads.min() > 33
    assert leads.max() < 87
    again = importance.rank(graph, grouping, importance.random(graph, 0))[hidden]
    assert tuple(again.units.tolist()) == orders[0]


def test_units_that_own_more_are_worth_more_to_the_search():
    graph = concatenating()
    grouping = groups.find_groups(graph)
    scores = random_scores(graph, 3)
    own = importance.unit_importance(grouping, scores)
    total = sum(array.sum() for array in scores.channels.values())
    assert sum(array.sum() for array in own.values()) == pytest.approx(total)
    kept = gain.gains(graph, grouping, scores.weights, own).total(grouping.full_widths)
    assert kept == pytest.approx(total + sum(array.sum() for array in scores.weights.values()))
    group = max(grouping.free, key=lambda group: group.units)
    without = {**grouping.full_widths, group.name: group.units - 1}
    narrow = groups.select_units(graph, grouping, groups.prefixes(without))
    left = importance.select(graph, grouping, scores, groups.prefixes(without))
    assert narrow.linear_ops[0].out_channels == len(left.channels[narrow.linear_ops[0].name])
    assert gain.gains(graph, grouping, scores.weights, own).total(without) == pytest.approx(
        sum(array.sum() for of in (left.weights, left.channels) for array in of.values())
    )


def test_importance_csv_says_which_level_brings_a_unit():
    ranking = {"conv": importance.Ranking(np.array([2, 0, 1]), np.array([0.5, 0.3, 0.2]))}
    levels = [{"level": 0, "widths": {"conv": 1}}, {"level": 1, "widths": {"conv": 2}}]
    assert measure.importance_csv(ranking, levels).splitlines() == [
        "group,rank,unit,score,narrowest_level",
        "conv,0,2,0.5,0",
        "conv,1,0,0.3,1",
        "conv,2,1,0.2,",
    ]


def test_pictures_of_scores_are_the_same_every_time_and_none_without_groups():
    ranking = {
        name: importance.Ranking(np.arange(units), np.full(units, 1 / units))
        for name, units in (("conv", 1), ("dense", 9))
    }
    levels = [{"level": k, "widths": {"conv": 1, "dense": 4 * k}} for k in (0, 1, 2)]
    report = {"levels": levels, "importance": {"method": "taylor"}}
    drawn = importance_plots.draw(report, ranking)
    assert drawn["importance.png"].startswith(b"\x89PNG")
    assert importance_plots.draw(report, ranking) == drawn
    assert importance_plots.draw(report, {}) == {}


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
    found = [*scores.weights.values(), *scores.channels.values()]
    assert sum(array.sum() for array in found) == pytest.approx(1)
    assert all((array >= 0).all() for array in found)
