"""Batches, learning rates and mixed samples."""

import numpy as np
import pytest

from redsc import data, distribution, recipe, training
from redsc.tf_network import predict, tensorflow
from tests.test_finetune import depthwise, task_data


def test_mixed_samples_lie_between_two_of_the_batch():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(16, 5, 2)).astype(np.float32)
    y = np.arange(16)
    mixed_x, first, second, share = training.mixed(x, y, generator)
    assert np.array_equal(first, y)
    assert sorted(second) == sorted(y)
    assert np.all((share >= 0.5) & (share <= 1))
    assert mixed_x.dtype == share.dtype == np.float32
    weight = share[:, None, None]
    np.testing.assert_allclose(mixed_x, weight * x[first] + (1 - weight) * x[second], atol=1e-6)
    assert not np.array_equal(second, y)


def test_batches_depend_on_seed_and_epoch_alone():
    x = np.arange(100, dtype=np.float32)[:, None]
    split = data.Split(x, x)

    def epoch(number, seed=0):
        batches = training.Batches(split, 32, seed)
        return [batch.ravel().tolist() for batch, _ in batches.epoch(number)]

    assert len(epoch(0)) == training.Batches(split, 32, 0).steps == 3
    assert epoch(1) == epoch(1)
    assert epoch(0) != epoch(1)
    assert epoch(0) != epoch(0, seed=1)


def test_a_stream_goes_on_where_it_is_taken_up(monkeypatch):
    monkeypatch.setattr(training, "STREAM_STEPS", 5)

    def stream(generator):
        return ((np.float32([n]), np.float32([n])) for n in generator.permutation(100))

    x = np.zeros((8, 1), np.float32)
    whole, resumed = (training.Batches(data.Split(x, x, stream), 8, 0) for _ in range(2))
    seen = [[x.ravel().tolist() for x, _ in whole.epoch(number)] for number in range(4)]
    resumed.skip(3 * 5)
    assert [x.ravel().tolist() for x, _ in resumed.epoch(3)] == seen[3]
    assert seen[3] != seen[0]


def test_the_rate_warms_up_and_falls_to_nothing():
    variable = tensorflow().Variable(0.0)
    cluster = distribution.connect("one-device")
    descent = training.Descent(cluster, [variable], 0.1, steps=100, warmup_steps=40)
    rates = []
    for step in range(100):
        descent.at_step(step)
        rates.append(float(descent._rate))
    assert np.argmax(rates) == 10
    assert max(rates) == pytest.approx(0.1)
    assert np.all(np.diff(rates[:11]) > 0)
    assert np.all(np.diff(rates[10:]) < 0)
    assert 0 < rates[-1] < 1e-4


def test_an_overfitted_network_learns_from_mixed_samples():
    graph = depthwise()
    x = np.random.default_rng(0).normal(0, 10, (2000, *graph.input.shape)).astype(np.float32)
    answers = predict(graph, x)
    right = data.Split(x, answers.argmax(axis=-1))
    wrong = data.Split(x[:200], answers[:200].argmin(axis=-1))
    overfitted = data.Data("classification", right, wrong, None)
    assert recipe.suited(recipe.Options(), graph, overfitted).mixing
    general = data.Data("classification", right, right, None)
    assert not recipe.suited(recipe.Options(), graph, general).mixing


def test_few_data_learn_from_the_network_as_far_as_it_is_right():
    graph = depthwise()
    dataset = task_data(graph.input.shape)
    few = recipe.suited(recipe.Options(), graph, dataset)
    assert (few.mixing, few.teacher, few.learning_rate) == (False, "original", 5e-4)
    # The network is not trained: no better than half.
    assert (few.distillation, few.hints) == (0.5, 0.0)
    x, answers = dataset.train.x, predict(graph, dataset.train.x).argmax(axis=-1)
    answers[:4] = (answers[:4] + 1) % 3
    known = data.Data("classification", data.Split(x, answers), dataset.validation, None)
    few = recipe.suited(recipe.Options(), graph, known)
    assert few.distillation == pytest.approx(1 - 4 / len(x))
    assert few.hints == 5.0
    assert recipe.suited(recipe.Options(teacher="full"), graph, known).hints == 0.0
    given = recipe.Options(distillation=0.2, mixing=False, teacher="full", epochs=3)
    assert recipe.suited(given, graph, dataset) == recipe.Options(
        distillation=0.2,
        mixing=False,
        teacher="full",
        epochs=3,
        learning_rate=5e-4,
        hints=0.0,
    )
    many = np.zeros((2000, *graph.input.shape), np.float32)
    split = data.Split(many, np.zeros(2000, np.int64))
    full = data.Data("classification", split, dataset.validation, None)
    assert recipe.suited(recipe.Options(), graph, full) == recipe.Options(
        epochs=30,
        learning_rate=4e-3,
        distillation=0.5,
        teacher="full",
        mixing=False,
        hints=0.0,
    )
