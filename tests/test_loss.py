"""Losses and scores of a task."""

import numpy as np
import pytest

from redsc import data, ir, loss
from redsc.errors import UsageError
from redsc.tf_network import forward
from tests import graphs


def network(outputs: int, last: type[ir.Op] | None) -> ir.Graph:
    net = graphs.GraphBuilder("net", (3,))
    net.dense(outputs, activation=ir.Activation.NONE)
    if last is not None:
        net.append(last("last", (net.last,)))
    return net.graph()


X = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)


@pytest.mark.parametrize("last", [ir.Softmax, None])
def test_cross_entropy_is_of_logits(last):
    graph = network(4, last)
    values = forward(graph, X)
    y = np.array([0, 1, 2, 3, 0, 1])
    logits = values[graph.ops[1].name].numpy().astype(np.float64)
    wanted = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(6), y]
    np.testing.assert_allclose(
        loss.per_sample(graph, values, y, "classification"), wanted, rtol=1e-4
    )


@pytest.mark.parametrize("last", [ir.Logistic, None])
def test_a_single_output_is_a_logit_of_class_1(last):
    graph = network(1, last)
    values = forward(graph, X)
    y = np.array([0, 1, 1, 0, 1, 0])
    probability = 1 / (1 + np.exp(-values[graph.ops[1].name].numpy()[:, 0].astype(np.float64)))
    wanted = -np.log(np.where(y == 1, probability, 1 - probability))
    np.testing.assert_allclose(
        loss.per_sample(graph, values, y, "classification"), wanted, rtol=1e-4
    )
    outputs = values[graph.output].numpy()
    predicted = (probability > 0.5).astype(int)
    assert loss.accuracy(outputs, predicted, graph) == 1
    assert loss.accuracy(outputs, 1 - predicted, graph) == 0


def test_regression_is_mean_squared_error():
    graph = network(4, None)
    values = forward(graph, X)
    y = np.ones((6, 4), np.float32)
    wanted = ((values[graph.output].numpy() - 1) ** 2).mean(axis=1)
    np.testing.assert_allclose(loss.per_sample(graph, values, y, "regression"), wanted, rtol=1e-5)
    assert loss.mean_squared_error(values[graph.output].numpy(), y) == pytest.approx(
        wanted.mean(), rel=1e-5
    )


@pytest.mark.parametrize(
    ("outputs", "last", "task"),
    [
        (4, ir.Softmax, "classification"),
        (1, ir.Logistic, "classification"),
        (4, None, "regression"),
    ],
)
def test_distance_from_the_teacher_is_least_at_the_teacher(outputs, last, task):
    graph = network(outputs, last)
    teacher = forward(graph, X)
    other = forward(graph, X[::-1] + 1)
    same = loss.distillation(graph, teacher, teacher, task).numpy()
    assert np.all(same < loss.distillation(graph, other, teacher, task).numpy())


def test_what_is_negligible_follows_the_targets_unit():
    y = np.array([[3.0, -4.0]], np.float32)
    metres, micrometres = (loss.negligible(y * unit, "regression") for unit in (1, 1e6))
    assert metres == pytest.approx(12.5e-6)
    assert micrometres == pytest.approx(12.5e6)
    assert loss.negligible(np.array([0, 1]), "classification") == 1e-6
    assert loss.negligible(0 * y, "reconstruction") > 0


def test_accuracy_counts_largest_outputs():
    outputs = np.array([[[[0.1, 0.9]]], [[[0.8, 0.2]]], [[[0.4, 0.6]]]])
    assert loss.accuracy(outputs, np.array([1, 0, 0]), network(2, ir.Softmax)) == pytest.approx(
        2 / 3
    )


@pytest.mark.parametrize(
    ("last", "activation", "bounds"),
    [
        (ir.Softmax, ir.Activation.NONE, (0, 1)),
        (ir.Logistic, ir.Activation.NONE, (0, 1)),
        (ir.Tanh, ir.Activation.NONE, (-1, 1)),
        (None, ir.Activation.RELU, (0, np.inf)),
        (None, ir.Activation.RELU6, (0, 6)),
        (None, ir.Activation.NONE, (-np.inf, np.inf)),
    ],
)
def test_outputs_reach_their_bounds_and_no_further(last, activation, bounds):
    net = graphs.GraphBuilder("net", (3,))
    net.dense(4, activation=activation)
    if last is not None:
        net.append(last("last", (net.last,)))
    graph = net.graph()
    outputs = forward(graph, 1e6 * X)[graph.output].numpy()
    assert loss.output_bounds(graph) == bounds
    finite = np.clip(bounds, -1e3, 1e3)
    assert outputs.min() <= finite[0]
    assert outputs.max() >= finite[1]
    assert outputs.min() >= bounds[0]
    assert outputs.max() <= bounds[1]


def test_class_weights_are_one_on_average_and_one_per_class():
    x = np.zeros((6, 3), np.float32)
    split = data.Split(x, np.array([0, 0, 0, 0, 1, 1]))
    dataset = data.Data("classification", split, split, None)
    assert loss.class_weights(None, dataset, 3) is None
    assert loss.class_weights((2.0, 4.0, 6.0), dataset, 3) == (0.5, 1.0, 1.5)
    # class 2 has no sample: it neither counts in the mean nor is left out of training
    np.testing.assert_allclose(loss.class_weights("balanced", dataset, 3), (2 / 3, 4 / 3, 1.0))
    for wrong in ((1.0, 1.0), (1.0,) * 4):
        with pytest.raises(UsageError, match=f"{len(wrong)} weights for 3 classes"):
            loss.class_weights(wrong, dataset, 3)
    regression = data.Data("regression", data.Split(x, x), data.Split(x, x), None)
    with pytest.raises(UsageError, match="there are no classes"):
        loss.class_weights("balanced", regression, 3)
