"""Trains all levels together, epoch by epoch, resumable; validation data chooses the best epoch.

Where the levels lose by int8's rounding, the last part of training computes with it (Jacob et al.,
CVPR 2018), using the scale of the full-width kernel, which all levels share on the device.
Validation data chooses, in simulated int8; test data is never seen.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from redsc import checkpoint, distribution, ir, recipe
from redsc.checkpoint import Arrays
from redsc.data import Data
from redsc.distribution import Cluster
from redsc.errors import UsageError
from redsc.groups import Grouping, Widths
from redsc.recipe import Options
from redsc.trainer import Trainer, digest, standard_error, starting_levels

log = logging.getLogger("redsc")

Progress = Callable[[int, int, str], None]
"""Called after every epoch with its number from 1, the number of epochs, and a line of metrics."""

_INT8_LOSS = 1.02
"""Validation loss in simulated int8 over that in float, above which training simulates int8.
Below, there is nothing to win: simulation costs time and its gradients are noisier."""

_MORE_ERROR = 1.1
"""A widest level's squared error over the original network's that is worse. Of an accuracy, one
standard error less is."""

_CHECKPOINT_SECONDS = 10.0
"""Shortest time between two checkpoints."""


def finetune(
    graph: ir.Graph,
    grouping: Grouping,
    level_widths: Sequence[Widths],
    data: Data,
    options: Options | None = None,
    progress: Progress | None = None,
    warnings: list[str] | None = None,
    cluster: Cluster | None = None,
    folder: Path | None = None,
) -> tuple[ir.Graph, ...]:
    """One trained float network per level, in the order of `level_widths`, narrowest first.

    graph: lowered, its units in order of importance. Every level's kernels are the leading slices
    of the last one's, bit for bit; biases and norms are its own. A layer without batch-norm comes
    out with one of mean 0, variance 1, epsilon 0, a free scale and shift. Same seed and data,
    same result, also when it was interrupted: `folder` keeps checkpoints, named by everything that
    decides the result. Training that diverges stops at the best state so far and appends to
    `warnings`. Raises ClusterError when another worker is gone, UsageError for weights that are not
    one per level.
    """
    options = recipe.suited(options or Options(), graph, data)
    if options.loss_weights is not None and len(options.loss_weights) != len(level_widths):
        raise UsageError(
            f"loss-weights: {len(options.loss_weights)} weights for {len(level_widths)} levels"
        )
    if options.epochs == 0:
        return starting_levels(graph, grouping, level_widths, data, options)
    cluster = cluster or distribution.connect("one-device")
    warnings = warnings if warnings is not None else []
    file = None
    if folder is not None:
        name = digest(graph, level_widths, data, options)
        file = folder / f"{name}.npz"
    with cluster.explained():
        trainer = Trainer(graph, grouping, level_widths, data, options, cluster)
        run = _train(trainer, progress or _no_progress, warnings, file)
        if run.best is None:
            return trainer.untrained
        trainer.restore(run.best)
        warnings += _shortfall(trainer, run.widest_score)
    return trainer.graphs()


def _no_progress(epoch: int, epochs: int, text: str) -> None:
    pass


def _float_epochs(share: float, epochs: int) -> int:
    """Epochs before int8 is simulated; at least the last one does, unless the share is 1."""
    return epochs if share >= 1 else min(round(share * epochs), epochs - 1)


@dataclass
class _Run:
    """How far training is. `best` is the trainer's state in its best epoch, the last one whose
    scores were near the highest so far, None before one; widest_score that of its widest level."""

    epoch: int = 0
    quantized: bool = False
    best: Arrays | None = None
    best_epoch: int = 0
    widest_score: float = 0.0
    highest: tuple[float, float] = (-np.inf, -np.inf)

    def save(self, file: Path, trainer: Trainer) -> None:
        numbers = [
            self.epoch, self.quantized, self.best_epoch, self.widest_score, *self.highest,
            trainer.outgrown,
        ]  # fmt: skip
        arrays = {"run": np.array(numbers, np.float64)}
        arrays |= {f"now/{name}": value for name, value in trainer.state().items()}
        # Always there, so that its shapes are known wherever a checkpoint is sent.
        best = trainer.state() if self.best is None else self.best
        arrays |= {f"best/{name}": value for name, value in best.items()}
        checkpoint.save(file, arrays)

    @classmethod
    def resume(cls, file: Path, trainer: Trainer) -> _Run:
        """Where the chief's checkpoint, if there is one, left off; the trainer is put there."""
        state = trainer.state()
        like: Arrays = {"run": np.zeros(7)}
        like |= {f"{part}/{name}": v for part in ("now", "best") for name, v in state.items()}
        arrays = checkpoint.load_chiefs(file, like, trainer.cluster)
        if arrays is None:
            return cls()
        epoch, quantized, best_epoch, widest, score, loss, outgrown = arrays["run"].tolist()
        trainer.outgrown = bool(outgrown)
        log.warning("training goes on after epoch %d of %d", epoch, trainer.epochs)
        trainer.restore({name: arrays[f"now/{name}"] for name in state})
        trainer.batches.skip(int(epoch) * trainer.batches.steps)
        best = {name: arrays[f"best/{name}"] for name in state} if best_epoch else None
        return cls(
            int(epoch), bool(quantized), best, int(best_epoch), widest, highest=(score, loss)
        )


def _train(trainer: Trainer, progress: Progress, warnings: list[str], file: Path | None) -> _Run:
    """Runs all epochs, unless scores stay below the highest for long.

    Of epochs whose scores differ by chance the last one is best, whose learning rate was smallest;
    the highest score itself is often a lucky one of many (one-standard-error rule: Breiman et al.,
    Classification and Regression Trees, 1984, section 3.4.3).
    """
    patience = trainer.options.patience or max(trainer.epochs // 3, 4)
    float_epochs = _float_epochs(trainer.options.int8_from, trainer.epochs)
    # Scores may turn again when int8 is simulated.
    first_stop = float_epochs if float_epochs < trainer.epochs else 0
    run, saved = (_Run() if file is None else _Run.resume(file, trainer)), time.monotonic()
    while run.epoch < trainer.epochs:
        if run.epoch == float_epochs:
            run.quantized = _int8_pays(trainer)
        mean_loss = trainer.run_epoch(run.epoch, run.quantized)
        trainer.measure()
        scores = trainer.validate(quantized=True)
        if not np.isfinite([mean_loss, *scores.losses]).all():
            warnings.append(_divergence(run.epoch, trainer.epochs, run.best is not None))
            break
        run.epoch += 1
        trainer.compare_with_teacher(scores.losses[-1])
        progress(run.epoch, trainer.epochs, f"loss {mean_loss:.4g}, {scores}")
        run.highest = max(run.highest, scores.key)
        if scores.is_near(run.highest):
            run.best, run.best_epoch = trainer.state(), run.epoch
            run.widest_score = scores.scores[-1]
        elif run.epoch > first_stop and run.epoch - run.best_epoch >= patience:
            break
        due = time.monotonic() > saved + _CHECKPOINT_SECONDS
        if file is not None and due and trainer.cluster.is_chief:
            run.save(file, trainer)
            saved = time.monotonic()
    return run


def _int8_pays(trainer: Trainer) -> bool:
    """Whether rounding to int8 costs enough on validation data that training should see it."""
    trainer.measure()
    rounded, exact = trainer.validate(quantized=True).loss, trainer.validate(quantized=False).loss
    pays = rounded > _INT8_LOSS * exact
    log.info(
        "validation loss %.4g in simulated int8, %.4g in float: int8 is %s",
        rounded, exact, "simulated from here on" if pays else "not simulated in training",
    )  # fmt: skip
    return pays


def _shortfall(trainer: Trainer, score: float) -> list[str]:
    """Tells when the widest level's `score` is worse than the original's, by more than chance."""
    data, original = trainer.data, trainer.scores_of_original[1]
    if data.task == "classification":
        is_worse = original - score > standard_error(original, len(data.validation))
        what = f"is right for {score:.2%} of the validation data, the network as given for"
        figures = f"{what} {original:.2%}"
    else:
        is_worse = score > _MORE_ERROR * original
        what = f"has a mean squared error of {score:.4g} on validation data, the network as given"
        figures = f"{what} of {original:.4g}"
    if not is_worse:
        return []
    return [
        f"the widest level {figures}: these samples may teach less than it knew. Give more of "
        "them, or stay closer to it with --teacher original --hints 5"
    ]


def _divergence(epoch: int, epochs: int, kept: bool) -> str:
    state = "the best levels before it are kept" if kept else "the levels are left untrained"
    return (
        f"training diverged (a loss was not finite) in epoch {epoch + 1} of {epochs}, {state}; "
        "try a smaller --learning-rate or fewer --epochs, and check the scale of the data"
    )
