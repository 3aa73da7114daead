"""Nestings are compared as they will be trained."""

from __future__ import annotations

import numpy as np
import pytest

from redsc import contest, data, distribution, groups, ir, recipe
from redsc.trainer import Trainer
from tests.test_finetune import depthwise, task_data


def nestings(graph: ir.Graph) -> tuple[groups.Grouping, list[list[dict[str, int]]]]:
    """A crippled one, half the units, and nearly all."""
    grouping = groups.find_groups(graph)

    def at(share: float) -> dict[str, int]:
        return {
            g.name: g.units if g.fixed else max(1, round(share * g.units))
            for g in grouping.groups.values()
        }

    return grouping, [[at(0.01), at(0.05)], [at(0.5), at(0.6)], [at(0.8), at(0.9)]]


def losses(graph, dataset, folder=None, seen=None, options=None):
    grouping, candidates = nestings(graph)
    given = options or recipe.Options(epochs=30, batch_size=16, learning_rate=1e-2)
    return contest.losses(
        graph, grouping, candidates, dataset, recipe.suited(given, graph, dataset),
        distribution.connect("one-device"),
        lambda *line: seen.append(line) if seen is not None else None, folder,
    )  # fmt: skip


@pytest.mark.slow
def test_what_can_learn_wins_repeatably_and_is_kept(tmp_path):
    graph = depthwise()
    dataset = task_data(graph.input.shape)
    seen: list[tuple[int, int, str]] = []
    found = losses(graph, dataset, tmp_path, seen)
    assert seen[-1][:2] == (60, 60)
    assert found.shape == (3,)
    assert found[0] > found[1:].max() + 0.1
    assert np.array_equal(losses(graph, dataset), found)
    again: list[tuple[int, int, str]] = []
    assert np.array_equal(losses(graph, dataset, tmp_path, again), found)
    assert not again  # read, not trained again


@pytest.mark.slow
def test_loss_weights_of_the_levels_are_no_matter():
    graph = depthwise()
    options = recipe.Options(epochs=1, batch_size=16, loss_weights=(1.0, 2.0, 3.0))
    assert np.isfinite(losses(graph, task_data(graph.input.shape), options=options)).all()


@pytest.mark.slow
def test_divergence_decides_nothing():
    graph = depthwise()
    dataset = task_data(graph.input.shape)
    bad = data.Split(np.full_like(dataset.train.x, np.inf), dataset.train.y)
    broken = data.Data("classification", bad, dataset.validation, None)
    options = recipe.Options(epochs=1, batch_size=16, mixing=False, distillation=0.5)
    assert np.isnan(losses(graph, broken, options=options)).all()


def test_steps_are_a_share_of_the_training():
    split = data.Split(np.zeros((3200, 1), np.float32), np.zeros(3200, np.int64))
    steps = [contest.steps(recipe.Options(epochs=count), split) for count in (10, 1, 100)]
    assert steps == [250, 60, 800]


def test_an_untrained_trainer_starts_from_the_given_network():
    graph = depthwise()
    dataset = task_data(graph.input.shape)
    grouping, candidates = nestings(graph)
    options = recipe.suited(recipe.Options(epochs=1), graph, dataset)
    trainer = Trainer(
        graph, grouping, [*candidates[1], grouping.full_widths], dataset, options,
        distribution.connect("one-device"),
    )  # fmt: skip
    for op, start in zip(graph.linear_ops, trainer.untrained[-1].linear_ops, strict=True):
        assert np.array_equal(op.kernel, start.kernel)
