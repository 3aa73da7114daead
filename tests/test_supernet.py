"""A masked network of any widths is the sliced one; training it is repeatable."""

import numpy as np
import pytest

from redsc import calibrate, data, distribution, groups, loss, objective, recipe, supernet
from redsc.supernet import Supernet
from redsc.tf_network import forward, tensorflow
from tests import graphs
from tests.test_finetune import depthwise, mixed, task_data

CLUSTER = distribution.connect("one-device")


def sliced_loss(graph, grouping, widths, calibration, split):
    """Of the narrow graph itself, batch-norm re-estimated."""
    narrow = groups.select_units(graph, grouping, groups.prefixes(widths))
    narrow = calibrate.recalibrate_norms(narrow, calibration)
    values = forward(narrow, tensorflow().constant(split.x))
    return float(np.mean(loss.per_sample(narrow, values, split.y, "classification")))


@pytest.mark.parametrize("build", [depthwise, mixed], ids=lambda build: build.__name__)
def test_masked_widths_are_the_sliced_network(build):
    graph = build()
    grouping = groups.find_groups(graph)
    dataset = task_data(graph.input.shape)
    network = Supernet(graph, grouping)
    generator = np.random.default_rng(0)
    chosen = [
        objective.near(grouping, grouping.full_widths, generator, spread=1.5) for _ in range(4)
    ]
    calibration = dataset.train.x[:64]
    split = dataset.validation
    found = network.losses(chosen, calibration, split.x, split.y, "classification")
    wanted = [sliced_loss(graph, grouping, widths, calibration, split) for widths in chosen]
    np.testing.assert_allclose(found, wanted, rtol=1e-4)
    assert len({round(value, 6) for value in wanted}) >= 3


@pytest.fixture(autouse=True)
def quick_learning(monkeypatch):
    monkeypatch.setattr(supernet, "_LEARNING_RATE", 1e-2)


def trained(dataset, graph, seed=0, folder=None, seen=None):
    return supernet.train(
        graph, groups.find_groups(graph), dataset, steps=30, batch_size=16, seed=seed,
        cluster=CLUSTER, folder=folder,
        progress=lambda *line: seen.append(line) if seen is not None else None,
    )  # fmt: skip


@pytest.mark.slow
def test_training_at_random_widths_helps_them_repeatably(tmp_path):
    graph = depthwise()
    dataset = task_data(graph.input.shape)
    grouping = groups.find_groups(graph)
    half = {g.name: g.units if g.fixed else g.units // 2 for g in grouping.groups.values()}
    seen: list[tuple[int, int, str]] = []
    network = trained(dataset, graph, folder=tmp_path, seen=seen)
    assert seen[-1][:2] == (30, 30)
    before = supernet.measure(Supernet(graph, grouping), dataset, dataset.validation, 0, CLUSTER)(
        [half]
    )
    after = supernet.measure(network, dataset, dataset.validation, 0, CLUSTER)([half])
    assert after < 0.9 * before
    again, other = trained(dataset, graph), trained(dataset, graph, seed=1)
    for one, same, different in zip(
        network.variables, again.variables, other.variables, strict=True
    ):
        assert np.array_equal(one.numpy(), same.numpy())
        assert not np.array_equal(one.numpy(), different.numpy())
    resumed: list[tuple[int, int, str]] = []
    kept = trained(dataset, graph, folder=tmp_path, seen=resumed)
    assert not resumed
    for one, same in zip(network.variables, kept.variables, strict=True):
        assert np.array_equal(one.numpy(), same.numpy())


@pytest.mark.slow
def test_divergence_ends_it_early(tmp_path):
    graph = depthwise()
    dataset = task_data(graph.input.shape)
    bad = data.Split(np.full_like(dataset.train.x, np.inf), dataset.train.y)
    seen: list[tuple[int, int, str]] = []
    broken = data.Data("classification", bad, dataset.validation, None)
    assert trained(broken, graph, seen=seen, folder=tmp_path) is None
    assert not seen
    assert not list(tmp_path.iterdir())  # nothing that a next run would go on with


def test_steps_are_a_share_of_the_training():
    split = data.Split(np.zeros((3200, 1), np.float32), np.zeros(3200, np.int64))
    steps = [supernet.steps(recipe.Options(epochs=count), split) for count in (10, 1, 100)]
    assert steps == [250, 60, 400]


@pytest.mark.slow
def test_an_autoencoder_is_measured_by_its_error():
    graph = graphs.autoencoder(12, 8, 3)
    generator = np.random.default_rng(0)
    x = (generator.normal(size=(64, 2)) @ generator.normal(size=(2, 12))).astype(np.float32)
    split = data.Split(x, x)
    dataset = data.Data("reconstruction", split, split, None)
    grouping = groups.find_groups(graph)
    full = [grouping.full_widths]
    before = supernet.measure(Supernet(graph, grouping), dataset, dataset.validation, 0, CLUSTER)(
        full
    )
    after = supernet.measure(trained(dataset, graph), dataset, dataset.validation, 0, CLUSTER)(full)
    assert 0 < after < before
