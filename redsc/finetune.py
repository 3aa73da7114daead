"""Trains all levels together: one set of kernels, one batch-norm per level.

Shared kernels are sliced per level, every level has its own batch-norm (slimmable networks: Yu et
al., ICLR 2019), the narrow levels learn from the widest one's output as it is at that step
(in-place distillation and sandwich rule: Yu & Huang, ICCV 2019), and from a point on the forward
pass computes with int8's rounding (Jacob et al., CVPR 2018), using the scale of the full-width
kernel, which all levels share on the device. Validation data chooses; test data is never seen.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from redsc import calibrate, groups, ir, loss
from redsc.data import BATCH_SIZE, Data, Split
from redsc.groups import Grouping, Widths
from redsc.level_network import LevelNetwork, SharedKernels
from redsc.tf_network import Tensor, forward, tensorflow

log = logging.getLogger("redsc")

Progress = Callable[[int, int, str], None]
"""Called after every epoch with its number from 1, the number of epochs, and a line of metrics."""

_SAMPLES_SEEN = 60_000
_EPOCHS = (10, 40)
"""Default epochs: as many as see about _SAMPLES_SEEN samples, within these bounds."""

_STREAM_STEPS = 1000
"""Training steps of an epoch when the data is streamed, and so of unknown, or endless, length."""

_NORM_SAMPLES = 512
"""Training samples on which batch-norm statistics and activation ranges are measured."""

_LEVELS_PER_STEP = 4


@dataclass(frozen=True)
class Options:
    """epochs None: chosen by the size of the training set. 0: batch-norm re-estimated alone.

    distillation: share of a level's loss that comes from its teacher's output, the rest from the
    labels; the widest level's teacher is the network as it was given. float_share: part of the
    epochs before rounding to int8 is simulated; 1 never simulates it. patience: epochs without a
    better validation score, once it is simulated, before training ends; None is a third of the
    epochs, at least 4. loss_weights: one per level, narrowest first; None weighs all levels alike
    (the REDS paper, arXiv 2311.13349, takes the square root of each level's parameter share).
    """

    epochs: int | None = None
    seed: int = 0
    batch_size: int = BATCH_SIZE
    learning_rate: float = 1e-3
    distillation: float = 0.5
    float_share: float = 0.6
    patience: int | None = None
    loss_weights: tuple[float, ...] | None = None


def finetune(
    graph: ir.Graph,
    grouping: Grouping,
    level_widths: Sequence[Widths],
    data: Data,
    options: Options | None = None,
    progress: Progress | None = None,
    warnings: list[str] | None = None,
) -> tuple[ir.Graph, ...]:
    """One trained float network per level, in the order of `level_widths`, narrowest first.

    graph: lowered, its units in order of importance. Every level's kernels are the leading slices
    of the last one's, bit for bit; biases and norms are its own. A layer without batch-norm comes
    out with one of mean 0, variance 1, epsilon 0, a free scale and shift. Same seed and data,
    same result. Training that diverges stops at the best state so far and appends to `warnings`.
    """
    options = options or Options()
    levels = tuple(
        _recalibrated(graph, grouping, widths, data.train, options.seed) for widths in level_widths
    )
    epochs = _epochs(options, data.train)
    if epochs == 0:
        return levels
    trainer = _Trainer(graph, levels, level_widths, data, options, epochs)
    best = _train(trainer, progress or _no_progress, warnings if warnings is not None else [])
    return levels if best is None else best


def _no_progress(epoch: int, epochs: int, text: str) -> None:
    pass


def _epochs(options: Options, train: Split) -> int:
    if options.epochs is not None:
        return options.epochs
    return int(np.clip(round(_SAMPLES_SEEN / len(train)), *_EPOCHS))


def _float_epochs(share: float, epochs: int) -> int:
    """Epochs before int8 is simulated; at least the last one does, unless the share is 1."""
    return epochs if share >= 1 else min(round(share * epochs), epochs - 1)


def _recalibrated(
    graph: ir.Graph, grouping: Grouping, widths: Widths, train: Split, seed: int
) -> ir.Graph:
    """A level before training; the full network keeps the statistics it was trained with."""
    if dict(widths) == grouping.full_widths:
        return graph
    narrow = groups.select_units(graph, grouping, groups.prefixes(widths))
    return calibrate.recalibrate_norms(narrow, train.sample(_NORM_SAMPLES, seed)[0])


@dataclass(frozen=True)
class _Scores:
    """Of the levels on validation data, in simulated int8 once that has begun."""

    losses: tuple[float, ...]
    scores: tuple[float, ...]
    task: str

    @property
    def key(self) -> tuple[float, float]:
        """Larger is better. Few validation samples tie often: then the loss decides."""
        mean_loss = float(np.mean(self.losses))
        return (float(np.mean(self.scores)) if self.task == "classification" else 0.0, -mean_loss)

    def __str__(self) -> str:
        name = "accuracy %" if self.task == "classification" else "mse"
        factor = 100 if self.task == "classification" else 1
        return f"validation {name} " + " ".join(f"{factor * s:.4g}" for s in self.scores)


class _Trainer:
    """Variables, optimizer and compiled steps of one training run."""

    def __init__(
        self,
        graph: ir.Graph,
        levels: Sequence[ir.Graph],
        level_widths: Sequence[Widths],
        data: Data,
        options: Options,
        epochs: int,
    ) -> None:
        tf = tensorflow()
        self.original, self.data, self.options, self.epochs = graph, data, options, epochs
        self.float_epochs = _float_epochs(options.float_share, epochs)
        self.kernels = SharedKernels(levels[-1])
        self.levels = [
            LevelNetwork(self.kernels, level, widths)
            for level, widths in zip(levels, level_widths, strict=True)
        ]
        self.weights = options.loss_weights or (1.0,) * len(levels)
        self.generator = np.random.default_rng(options.seed)
        self.probe = tf.constant(data.train.sample(_NORM_SAMPLES, options.seed)[0])
        self.batches = _endless(data.train, options.batch_size, self.generator)
        if data.train.stream is None:
            self.steps = max(len(data.train) // options.batch_size, 1)
        else:
            self.steps = _STREAM_STEPS
        schedule = tf.keras.optimizers.schedules.CosineDecay(
            options.learning_rate, epochs * self.steps
        )
        self.optimizer = tf.keras.optimizers.legacy.Adam(schedule)
        self._compiled: dict[tuple[tuple[int, ...], bool], Any] = {}

    def step(self, number: int, quantized: bool) -> Tensor:
        """One update on the next batch; returns the loss."""
        chosen = _levels_of_step(number, len(self.levels))
        key = (chosen, quantized)
        if key not in self._compiled:
            self._compiled[key] = self._compile(chosen, quantized)
        x, y = next(self.batches)
        return self._compiled[key](x, y)

    def _compile(self, chosen: tuple[int, ...], quantized: bool) -> Any:
        tf, levels = tensorflow(), [self.levels[number] for number in chosen]
        variables = [
            *self.kernels.variables,
            *(variable for level in levels for variable in level.trainable),
        ]

        @tf.function(autograph=False, reduce_retracing=True)
        def update(x: Tensor, y: Tensor) -> Tensor:
            with tf.GradientTape() as tape:
                total = self._loss(levels, x, y, quantized)
            gradients = tape.gradient(total, variables, unconnected_gradients="zero")
            gradients, _ = tf.clip_by_global_norm(gradients, 5.0)
            self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
            for level in levels:
                level.keep_scales_positive()
            return total

        return update

    def _loss(self, levels: list[LevelNetwork], x: Tensor, y: Tensor, quantized: bool) -> Tensor:
        """Weighted mean over levels, widest first, of loss on labels and distance from the teacher.

        The original network teaches the widest level, and that one the others.
        """
        tf, task, soft = tensorflow(), self.data.task, self.options.distillation
        teacher = forward(self.original, x)
        teacher_graph, terms, weights = self.original, [], []
        kernels = self.kernels.read(quantized)
        for level in levels:
            values = level.forward(x, training=True, quantized=quantized, kernels=kernels)
            hard = loss.per_sample(level.graph, values, y, task)
            distance = loss.distillation(level.graph, values, teacher, task)
            weight = self.weights[self.levels.index(level)]
            weights.append(weight)
            terms.append(weight * tf.reduce_mean((1 - soft) * hard + soft * distance))
            if teacher_graph is self.original:
                teacher, teacher_graph = values, level.graph
        return tf.add_n(terms) / sum(weights)

    def measure(self) -> None:
        """Statistics of every norm and ranges of every tensor, as the kernels are now."""
        for level in self.levels:
            level.measure(self.probe)

    def validate(self, quantized: bool) -> _Scores:
        task, losses, scores = self.data.task, [], []
        for level in self.levels:
            level_loss, level_score, count = 0.0, 0.0, 0
            for x, y in self.data.validation.batches(256):
                outputs, batch_loss = level.evaluate(x, y, task, quantized)
                level_loss += float(batch_loss)
                level_score += len(x) * loss.score(outputs, y, level.graph, task)
                count += len(x)
            losses.append(level_loss / count)
            scores.append(level_score / count)
        return _Scores(tuple(losses), tuple(scores), task)

    def graphs(self) -> tuple[ir.Graph, ...]:
        """The levels as they are now."""
        return tuple(level.to_graph() for level in self.levels)


def _endless(
    split: Split, size: int, generator: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    size = min(size, len(split))
    while True:
        yield from split.batches(size, generator)


def _levels_of_step(number: int, count: int) -> tuple[int, ...]:
    """Levels trained in a step, widest first: all, or the sandwich of both ends and two between.

    The two rotate through neighbouring pairs, so that few combinations need compiling.
    """
    if count <= _LEVELS_PER_STEP:
        return tuple(reversed(range(count)))
    inner = list(range(1, count - 1))
    start = 2 * (number % -(-len(inner) // 2))
    between = sorted({inner[start], inner[min(start + 1, len(inner) - 1)]}, reverse=True)
    return (count - 1, *between, 0)


def _train(
    trainer: _Trainer, progress: Progress, warnings: list[str]
) -> tuple[ir.Graph, ...] | None:
    """Runs all epochs; the levels of the best validated one, None when there is none."""
    patience = trainer.options.patience or max(trainer.epochs // 3, 4)
    best: tuple[ir.Graph, ...] | None = None
    best_key, best_epoch = (-np.inf, -np.inf), 0
    for epoch in range(trainer.epochs):
        quantized = epoch >= trainer.float_epochs
        if epoch == trainer.float_epochs:
            # Scores in int8 do not compare with those before it, and only int8 is deployed.
            best_key, best_epoch = (-np.inf, -np.inf), epoch
            trainer.measure()
        losses = [
            trainer.step(epoch * trainer.steps + number, quantized)
            for number in range(trainer.steps)
        ]
        mean_loss = float(np.mean([float(value) for value in losses]))
        trainer.measure()
        scores = trainer.validate(quantized)
        if not np.isfinite([mean_loss, *scores.losses]).all():
            warnings.append(_divergence(epoch, trainer.epochs, best is not None))
            break
        progress(epoch + 1, trainer.epochs, f"loss {mean_loss:.4g}, {scores}")
        if scores.key > best_key:
            best, best_key, best_epoch = trainer.graphs(), scores.key, epoch
        elif quantized and epoch - best_epoch >= patience:
            break
    return best


def _divergence(epoch: int, epochs: int, kept: bool) -> str:
    state = "the best levels before it are kept" if kept else "the levels are left untrained"
    return (
        f"training diverged (a loss was not finite) in epoch {epoch + 1} of {epochs}, {state}; "
        "try fewer --epochs, and check the scale of the data"
    )
