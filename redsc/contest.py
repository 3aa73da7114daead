"""Which of several nestings trains best: all of them are trained together for a while.

A supernet tells which groups' widths matter most, but not how much: at widths that it rarely sees,
with scales and shifts that all widths share, its loss is many times what training brings it to. So
nestings that go more or less far its way, uniform ones among them, are compared as they will be
trained: over shared kernels, each level with batch-norms of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from redsc import checkpoint, ir, loss, recipe, trainer
from redsc.data import Data, Split
from redsc.distribution import Cluster
from redsc.groups import Grouping, Widths
from redsc.recipe import Options
from redsc.training import Batches

_SHARE = 0.25
_STEPS = (60, 800)
"""Steps of all nestings together: a share of those that train the levels, within bounds."""

_LEVELS = 3
"""Levels of a nesting that are compared, of many the narrowest, the widest and those between."""


def steps(options: Options, train: Split) -> int:
    """Steps that compare nestings, for a training of the levels with these `suited` options."""
    return int(np.clip(_SHARE * recipe.steps(options, train), *_STEPS))


def losses(
    graph: ir.Graph,
    grouping: Grouping,
    nestings: Sequence[Sequence[Widths]],
    data: Data,
    options: Options,
    cluster: Cluster,
    progress: Callable[[int, int, str], None],
    folder: Path | None = None,
) -> np.ndarray:
    """float64 (nestings,): mean over levels of log validation loss; all NaN when training diverged.

    nestings: each narrowest level first, without the full network; as many levels each. `folder`
    keeps the result. Raises ClusterError when another worker is gone.
    """
    count, total = len(nestings[0]), steps(options, data.train)
    options = replace(options, loss_weights=None)
    compared = sorted({round(i) for i in np.linspace(0, count - 1, min(count, _LEVELS))})
    narrow = [[nesting[number] for number in compared] for nesting in nestings]
    level_widths = [*itertools.chain.from_iterable(narrow), grouping.full_widths]
    file = None
    if folder is not None:
        name = trainer.digest(graph, level_widths, data, options, total, len(nestings))
        file = folder / f"contest-{name}.npz"
        known = checkpoint.load_chiefs(file, {"losses": np.zeros(len(nestings))}, cluster)
        if known is not None:
            Batches(data.train, options.batch_size, options.seed).skip(total)
            return known["losses"]
    with cluster.explained():
        training = trainer.Trainer(graph, grouping, level_widths, data, options, cluster, total)
        found = _compare(training, len(nestings), len(compared), total, progress)
    # One that diverged does so again, and has not read all that a resumed run would skip.
    if file is not None and cluster.is_chief and np.isfinite(found).all():
        checkpoint.save(file, {"losses": found})
    return found


def untrained_losses(
    graph: ir.Graph,
    grouping: Grouping,
    nestings: Sequence[Sequence[Widths]],
    data: Data,
    options: Options,
    cluster: Cluster,
) -> np.ndarray:
    """As `losses`, of levels that stay untrained: batch-norm is re-estimated alone."""
    x, _ = data.train.sample(trainer.NORM_SAMPLES, options.seed)
    found = np.array(
        [
            [
                loss.mean(level, data.validation, data.task)
                for level in trainer.untrained(
                    graph, grouping, [*nesting, grouping.full_widths], x, options.tables
                )[:-1]
            ]
            for nesting in nestings
        ]
    )
    return _mean_logs(cluster.from_chief({"losses": found})["losses"], data)


def _compare(
    training: trainer.Trainer,
    nestings: int,
    levels: int,
    total: int,
    progress: Callable[[int, int, str], None],
) -> np.ndarray:
    """The nestings take turns: a step trains the full network and the levels of one of them."""
    full = nestings * levels
    endless = itertools.chain.from_iterable(map(training.batches.epoch, itertools.count()))
    generator = np.random.default_rng((training.options.seed, 2))
    for number, (x, y) in enumerate(itertools.islice(endless, total)):
        first = number % nestings * levels
        chosen = (full, *reversed(range(first, first + levels)))
        value = float(training.step(number, chosen, x, y, generator))
        if not np.isfinite(value):
            return np.full(nestings, np.nan)
        if (number + 1) % 25 == 0 or number + 1 == total:
            progress(number + 1, total, f"{nestings} nestings, loss {value:.4g}")
    training.measure()
    found = np.array(training.validate(quantized=False).losses[:full])
    return _mean_logs(found.reshape(nestings, levels), training.data)


def _mean_logs(losses: np.ndarray, data: Data) -> np.ndarray:
    """float64 (nestings,): of validation losses (nestings, levels)."""
    least = loss.negligible(data.validation.y, data.task)
    return np.log(np.maximum(losses, least)).mean(axis=1)
