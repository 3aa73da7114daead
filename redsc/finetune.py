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
from redsc.trainer import Trainer, digest, starting_levels

log = logging.getLogger("redsc")

Progress = Callable[[int, int, str], None]
"""Called after every epoch with its number from 1, the number of epochs, and a line of metrics."""

_INT8_LOSS = 1.02
"""Validation loss in simulated int8 over that in float, above which training simulates int8.
Below, there is nothing to win: simulation costs time and its gradients are noisier."""

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
        best = _train(trainer, progress or _no_progress, warnings, file)
    return trainer.untrained if best is None else best


def _no_progress(epoch: int, epochs: int, text: str) -> None:
    pass


def _float_epochs(share: float, epochs: int) -> int:
    """Epochs before int8 is simulated; at least the last one does, unless the share is 1."""
    return epochs if share >= 1 else min(round(share * epochs), epochs - 1)


@dataclass
class _Run:
    """How far training is. `best` is the trainer's state in its best epoch, None before one."""

    epoch: int = 0
    quantized: bool = False
    best: Arrays | None = None
    best_key: tuple[float, float] = (-np.inf, -np.inf)
    best_epoch: int = 0

    def save(self, file: Path, trainer: Trainer) -> None:
        numbers = [
            self.epoch, self.quantized, *self.best_key, self.best_epoch, trainer.outgrown
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
        like: Arrays = {"run": np.zeros(6)}
        like |= {f"{part}/{name}": v for part in ("now", "best") for name, v in state.items()}
        arrays = checkpoint.load_chiefs(file, like, trainer.cluster)
        if arrays is None:
            return cls()
        epoch, quantized, score, negative_loss, best_epoch, outgrown = arrays["run"].tolist()
        trainer.outgrown = bool(outgrown)
        log.warning("training goes on after epoch %d of %d", epoch, trainer.epochs)
        trainer.restore({name: arrays[f"now/{name}"] for name in state})
        trainer.batches.skip(int(epoch) * trainer.batches.steps)
        best = {name: arrays[f"best/{name}"] for name in state} if np.isfinite(score) else None
        return cls(int(epoch), bool(quantized), best, (score, negative_loss), int(best_epoch))


def _train(
    trainer: Trainer, progress: Progress, warnings: list[str], file: Path | None
) -> tuple[ir.Graph, ...] | None:
    """Runs all epochs; the levels of the best validated one, None when there is none."""
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
        trainer.compare_with_teacher(scores)
        progress(run.epoch, trainer.epochs, f"loss {mean_loss:.4g}, {scores}")
        if scores.key > run.best_key:
            run.best, run.best_key, run.best_epoch = trainer.state(), scores.key, run.epoch
        elif run.epoch > first_stop and run.epoch - run.best_epoch >= patience:
            break
        due = time.monotonic() > saved + _CHECKPOINT_SECONDS
        if file is not None and due and trainer.cluster.is_chief:
            run.save(file, trainer)
            saved = time.monotonic()
    if run.best is None:
        return None
    trainer.restore(run.best)
    return trainer.graphs()


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


def _divergence(epoch: int, epochs: int, kept: bool) -> str:
    state = "the best levels before it are kept" if kept else "the levels are left untrained"
    return (
        f"training diverged (a loss was not finite) in epoch {epoch + 1} of {epochs}, {state}; "
        "try a smaller --learning-rate or fewer --epochs, and check the scale of the data"
    )
