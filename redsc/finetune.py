"""Trains all levels together: one set of kernels, one batch-norm per level.

Shared kernels are sliced per level, every level has its own batch-norm (slimmable networks: Yu et
al., ICLR 2019), and the narrow levels learn from the widest one's output as it is at that step
(in-place distillation and sandwich rule: Yu & Huang, ICCV 2019). Where the levels lose by int8's
rounding, the last part of training computes with it (Jacob et al., CVPR 2018), using the scale of
the full-width kernel, which all levels share on the device. Validation data chooses, in simulated
int8; test data is never seen.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from redsc import calibrate, checkpoint, distribution, groups, ir, loss
from redsc.checkpoint import Arrays
from redsc.data import BATCH_SIZE, Data, Split
from redsc.distribution import Cluster
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
_LARGEST_GRADIENT = 5.0

_INT8_LOSS = 1.02
"""Validation loss in simulated int8 over that in float, above which training simulates int8.
Below, there is nothing to win: simulation costs time and its gradients are noisier."""

_CHECKPOINT_SECONDS = 10.0
"""Shortest time between two checkpoints."""


@dataclass(frozen=True)
class Options:
    """epochs None: chosen by the size of the training set. 0: batch-norm re-estimated alone.

    distillation: share of a level's loss that comes from its teacher's output, the rest from the
    labels. teacher: of the narrow levels, "full" the widest level at the same step, "original" the
    network as it was given, which always teaches the widest one. hints: weight of a further loss,
    the squared distance of the last hidden units from the teacher's same units in their standard
    deviations (FitNets: Romero et al., ICLR 2015); a reconstruction beside the classification.
    int8_from: part of the epochs after which rounding to int8 is simulated, if it pays; 1 never
    does. patience: epochs without a better validation score before training ends; None is a third
    of the epochs, at least 4. loss_weights: one per level, narrowest first; None weighs all levels
    alike (the REDS paper, arXiv 2311.13349, takes the square root of each level's parameter
    share). class_weights: one per class, mean 1. all_levels: every level in every step, instead
    of the sandwich when there are more than four.
    """

    epochs: int | None = None
    seed: int = 0
    batch_size: int = BATCH_SIZE
    learning_rate: float = 1e-3
    warmup_steps: int = 40
    distillation: float = 0.5
    teacher: Literal["full", "original"] = "full"
    hints: float = 0.0
    int8_from: float = 0.6
    patience: int | None = None
    loss_weights: tuple[float, ...] | None = None
    class_weights: tuple[float, ...] | None = None
    all_levels: bool = False


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
    `warnings`. Raises ClusterError when another worker is gone.
    """
    options = options or Options()
    levels = tuple(
        _recalibrated(graph, grouping, widths, data.train, options.seed) for widths in level_widths
    )
    epochs = _epochs(options, data.train)
    if epochs == 0:
        return levels
    cluster = cluster or distribution.connect("one-device")
    warnings = warnings if warnings is not None else []
    trainer = _Trainer(graph, levels, level_widths, data, options, epochs, cluster)
    file = None
    if folder is not None:
        name = _digest(graph, level_widths, data, options, epochs)
        file = folder / f"{name}.npz"
    with cluster.explained():
        best = _train(trainer, progress or _no_progress, warnings, file)
    return levels if best is None else best


def _no_progress(epoch: int, epochs: int, text: str) -> None:
    pass


def _digest(
    graph: ir.Graph, level_widths: Sequence[Widths], data: Data, options: Options, epochs: int
) -> str:
    norms = [op.norm for op in graph.linear_ops]
    arrays = [
        *(op.kernel for op in graph.linear_ops),
        *(array for n in norms if n for array in (n.gamma, n.beta, n.mean, n.variance)),
        *(array for split in (data.train, data.validation) for array in (split.x, split.y)),
    ]
    widths = [sorted(level.items()) for level in level_widths]
    return checkpoint.digest(widths, options, epochs, *arrays)


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
    """Of the levels on validation data."""

    losses: tuple[float, ...]
    scores: tuple[float, ...]
    task: str

    @property
    def loss(self) -> float:
        return float(np.mean(self.losses))

    @property
    def key(self) -> tuple[float, float]:
        """Larger is better. Few validation samples tie often: then the loss decides."""
        return (float(np.mean(self.scores)) if self.task == "classification" else 0.0, -self.loss)

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
        cluster: Cluster,
    ) -> None:
        tf = tensorflow()
        self.original, self.data, self.options, self.epochs = graph, data, options, epochs
        self.cluster = cluster
        self.steps = (
            _STREAM_STEPS if data.train.stream else max(len(data.train) // options.batch_size, 1)
        )
        self.probe = tf.constant(data.train.sample(_NORM_SAMPLES, options.seed)[0])
        self.weights = options.loss_weights or (1.0,) * len(levels)
        with cluster.strategy.scope():
            self.kernels = SharedKernels(levels[-1])
            self.levels = [
                LevelNetwork(self.kernels, level, widths)
                for level, widths in zip(levels, level_widths, strict=True)
            ]
            self.rate = tf.Variable(0.0, trainable=False)
            self.optimizer = tf.keras.optimizers.legacy.Adam(self.rate)
            # Slots for everything at once, whichever levels the first step trains.
            self.optimizer._create_all_weights(self._trainable(self.levels))
        self._compiled: dict[tuple[tuple[int, ...], bool], Any] = {}
        self._stream = _endless_stream(data.train, options) if data.train.stream else None

    def _trainable(self, levels: Sequence[LevelNetwork]) -> list[Any]:
        return [*self.kernels.variables, *(v for level in levels for v in level.trainable)]

    def run_epoch(self, epoch: int, quantized: bool) -> float:
        """All steps of an epoch; the mean loss. The batches depend on seed and epoch alone."""
        losses = []
        for number, (x, y) in enumerate(self._batches(epoch), epoch * self.steps):
            self.rate.assign(self._learning_rate(number))
            chosen = _levels_of_step(number, len(self.levels), self.options.all_levels)
            key = (chosen, quantized)
            if key not in self._compiled:
                self._compiled[key] = self._compile(chosen, quantized)
            losses.append(self._compiled[key](*self.cluster.rows(x, y)))
        return float(np.mean([float(value) for value in losses]))

    def _batches(self, epoch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        if self._stream is not None:
            return itertools.islice(self._stream, self.steps)
        generator = np.random.default_rng((self.options.seed, epoch))
        size = min(self.options.batch_size, len(self.data.train))
        return itertools.islice(self.data.train.batches(size, generator), self.steps)

    def skip(self, epochs: int) -> None:
        """Leaves out what earlier epochs took from a stream."""
        if self._stream is not None:
            for _ in itertools.islice(self._stream, epochs * self.steps):
                pass

    def _learning_rate(self, step: int) -> float:
        """Linear warm-up, then half a cosine to zero."""
        last = self.epochs * self.steps
        warm = min(self.options.warmup_steps, last // 10)
        if step < warm:
            return self.options.learning_rate * (step + 1) / (warm + 1)
        return (
            self.options.learning_rate * 0.5 * (1 + np.cos(np.pi * (step - warm) / (last - warm)))
        )

    def _compile(self, chosen: tuple[int, ...], quantized: bool) -> Any:
        tf, strategy = tensorflow(), self.cluster.strategy
        levels = [self.levels[number] for number in chosen]
        variables = self._trainable(levels)

        def step(x: Tensor, y: Tensor) -> Tensor:
            with tf.GradientTape() as tape:
                total = self._loss(levels, x, y, quantized)
            gradients = tape.gradient(total, variables, unconnected_gradients="zero")
            gradients = distribution.mean_over_replicas(gradients)
            gradients, _ = tf.clip_by_global_norm(gradients, _LARGEST_GRADIENT)
            self.optimizer.apply_gradients(
                zip(gradients, variables, strict=True), experimental_aggregate_gradients=False
            )
            return total

        @tf.function(autograph=False, reduce_retracing=True)
        def update(x: Tensor, y: Tensor) -> Tensor:
            total = strategy.run(step, args=(x, y))
            return strategy.reduce(tf.distribute.ReduceOp.MEAN, total, axis=None)

        return update

    def _loss(self, levels: list[LevelNetwork], x: Tensor, y: Tensor, quantized: bool) -> Tensor:
        """Weighted mean over levels, widest first, of loss on labels and distance from the teacher.

        The original network teaches the widest level, and that one, or itself, the others.
        """
        tf, task, options = tensorflow(), self.data.task, self.options
        teacher, terms, weights = forward(self.original, x), [], []
        kernels = self.kernels.read(quantized)
        importances = _sample_weights(options.class_weights, y)
        grouping = groups.find_groups(self.original)
        for place, level in enumerate(levels):
            values = level.forward(x, training=True, quantized=quantized, kernels=kernels)
            hard = loss.per_sample(level.graph, values, y, task) * importances
            soft = loss.distillation(level.graph, values, teacher, task)
            total = (1 - options.distillation) * hard + options.distillation * soft
            if options.hints:
                hidden = level.graph.linear_ops[-1].inputs[0]
                theirs = tf.gather(teacher[hidden], level.index_in(grouping, hidden), axis=-1)
                total += options.hints * loss.hint(values[hidden], theirs)
            weight = self.weights[self.levels.index(level)]
            weights.append(weight)
            terms.append(weight * tf.reduce_mean(total))
            if place == 0 and options.teacher == "full":
                teacher, grouping = values, self.kernels.grouping
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

    def _named(self) -> dict[str, Any]:
        """Every variable that decides how training goes on, by a name of its own."""
        variables = [
            *self.kernels.variables,
            *(variable for level in self.levels for variable in level.variables),
            *self.optimizer.variables(),
        ]
        return {f"{number}": variable for number, variable in enumerate(variables)}

    def state(self) -> Arrays:
        return {name: variable.numpy() for name, variable in self._named().items()}

    def restore(self, state: Arrays) -> None:
        for name, variable in self._named().items():
            variable.assign(state[name])

    def graphs(self) -> tuple[ir.Graph, ...]:
        """The levels as they are now."""
        return tuple(level.to_graph() for level in self.levels)


def _sample_weights(class_weights: tuple[float, ...] | None, y: Tensor) -> Tensor:
    """What a sample's label counts; 1 without class weights."""
    if class_weights is None:
        return 1.0
    return tensorflow().gather(np.asarray(class_weights, np.float32), y)


def _endless_stream(split: Split, options: Options) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    generator = np.random.default_rng(options.seed)
    while True:
        yield from split.batches(min(options.batch_size, len(split)), generator)


def _levels_of_step(number: int, count: int, all_levels: bool = False) -> tuple[int, ...]:
    """Levels trained in a step, widest first: all, or the sandwich of both ends and two between.

    The two rotate through neighbouring pairs, so that few combinations need compiling.
    """
    if all_levels or count <= _LEVELS_PER_STEP:
        return tuple(reversed(range(count)))
    inner = list(range(1, count - 1))
    start = 2 * (number % -(-len(inner) // 2))
    between = sorted({inner[start], inner[min(start + 1, len(inner) - 1)]}, reverse=True)
    return (count - 1, *between, 0)


@dataclass
class _Run:
    """How far training is. `best` is the trainer's state in its best epoch, None before one."""

    epoch: int = 0
    quantized: bool = False
    best: Arrays | None = None
    best_key: tuple[float, float] = (-np.inf, -np.inf)
    best_epoch: int = 0

    def save(self, file: Path, trainer: _Trainer) -> None:
        numbers = [self.epoch, self.quantized, *self.best_key, self.best_epoch]
        arrays = {"run": np.array(numbers, np.float64)}
        arrays |= {f"now/{name}": value for name, value in trainer.state().items()}
        # Always there, so that its shapes are known wherever a checkpoint is sent.
        best = trainer.state() if self.best is None else self.best
        arrays |= {f"best/{name}": value for name, value in best.items()}
        checkpoint.save(file, arrays)

    @classmethod
    def resume(cls, file: Path, trainer: _Trainer) -> _Run:
        """Where the chief's checkpoint, if there is one, left off; the trainer is put there."""
        state = trainer.state()
        arrays: Arrays = {"run": np.full(5, -1.0)}
        arrays |= {f"{part}/{name}": v for part in ("now", "best") for name, v in state.items()}
        found = checkpoint.load(file) if trainer.cluster.is_chief else None
        if found is not None and found.keys() == arrays.keys():
            arrays = found
        arrays = trainer.cluster.from_chief(arrays)
        epoch, quantized, score, negative_loss, best_epoch = arrays["run"].tolist()
        if epoch < 0:
            return cls()
        log.warning("training goes on after epoch %d of %d", epoch, trainer.epochs)
        trainer.restore({name: arrays[f"now/{name}"] for name in state})
        trainer.skip(int(epoch))
        best = {name: arrays[f"best/{name}"] for name in state} if np.isfinite(score) else None
        return cls(int(epoch), bool(quantized), best, (score, negative_loss), int(best_epoch))


def _train(
    trainer: _Trainer, progress: Progress, warnings: list[str], file: Path | None
) -> tuple[ir.Graph, ...] | None:
    """Runs all epochs; the levels of the best validated one, None when there is none."""
    patience = trainer.options.patience or max(trainer.epochs // 3, 4)
    float_epochs = _float_epochs(trainer.options.int8_from, trainer.epochs)
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
        progress(run.epoch, trainer.epochs, f"loss {mean_loss:.4g}, {scores}")
        if scores.key > run.best_key:
            run.best, run.best_key, run.best_epoch = trainer.state(), scores.key, run.epoch
        elif run.epoch > float_epochs and run.epoch - run.best_epoch >= patience:
            break
        due = time.monotonic() > saved + _CHECKPOINT_SECONDS
        if file is not None and due and trainer.cluster.is_chief:
            run.save(file, trainer)
            saved = time.monotonic()
    if run.best is None:
        return None
    trainer.restore(run.best)
    return trainer.graphs()


def _int8_pays(trainer: _Trainer) -> bool:
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
