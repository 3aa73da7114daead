"""A training's first step on one device and on two, in a process of two logical CPUs;
tests/test_distribution.py.

    python tests/first_step.py RESULT

Writes to RESULT (npz), each as STRATEGY/NAME: the step's loss, its gradients as one vector, and the
mean and variance of its batch as every replica finds them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from redsc import distribution, recipe, training
from redsc.trainer import Trainer
from tests.test_finetune import depthwise, level_widths, task_data
from tests.training_worker import split_cpu

BETA = 0.9
"""Adam's first one, which redsc leaves as it is."""


def first_step(strategy: str) -> dict[str, np.ndarray]:
    cluster = distribution.connect(strategy)
    graph = depthwise()
    grouping, widths = level_widths(graph)
    dataset = task_data(graph.input.shape)
    options = recipe.Options(epochs=1, batch_size=16, mixing=True, hints=0.1)
    trainer = Trainer(
        graph, grouping, widths, dataset, recipe.suited(options, graph, dataset), cluster
    )
    x, y = next(trainer.batches.epoch(0))
    loss = trainer.step(0, (1, 0), x, y, np.random.default_rng(0))
    # After one step Adam's means, which come before its means of squares, are a share of them.
    _, *means = trainer.descent.variables
    means = means[: len(means) // 2]
    gradients = np.concatenate([mean.numpy().ravel() for mean in means]) / (1 - BETA)
    moments = cluster.strategy.run(distribution.moments, args=cluster.rows(x))
    mean, variance = (
        np.stack([value.numpy() for value in cluster.strategy.experimental_local_results(values)])
        for values in moments
    )
    return {"loss": loss.numpy(), "gradients": gradients, "mean": mean, "variance": variance}


def main() -> None:
    split_cpu()
    training._LARGEST_GRADIENT = 1e9  # a sum and a mean would be cut to the same length
    found = {
        f"{strategy}/{name}": array
        for strategy in ("one-device", "mirrored")
        for name, array in first_step(strategy).items()
    }
    np.savez(sys.argv[1], **found)


if __name__ == "__main__":
    main()
