"""Levels over one set of kernels while they learn: a step of training, measuring, validating.

Shared kernels are sliced per level, every level has its own batch-norm (slimmable networks: Yu et
al., ICLR 2019), and the narrow levels learn from the widest one's output as it is at that step
(in-place distillation and sandwich rule: Yu & Huang, ICCV 2019).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from redsc import calibrate, checkpoint, groups, ir, loss, quantize
from redsc.checkpoint import Arrays
from redsc.cost import Tables
from redsc.data import Data
from redsc.distribution import Cluster
from redsc.groups import Grouping, Widths
from redsc.level_network import LevelNetwork, SharedKernels
from redsc.recipe import Options
from redsc.tf_network import Tensor, forward, tensorflow
from redsc.training import Batches, Descent, mixed

NORM_SAMPLES = 512
"""Training samples on which batch-norm statistics and activation ranges are measured."""

_LEVELS_PER_STEP = 4

_COMPARISONS = 5
"""Of the widest level with its teacher, at least so many in a training: after every epoch, and
within it where there are fewer. In two epochs of Fashion-MNIST (DS-CNN-S, 1,687 steps each) a level
that had not quite outgrown it after the first was taught to the end, and had a validation loss of
0.280; with three comparisons an epoch 0.265."""


def digest(
    graph: ir.Graph, level_widths: Sequence[Widths], data: Data, options: Options, *more: int
) -> str:
    """A name of everything that decides a training of levels."""
    norms = [op.norm for op in graph.linear_ops]
    arrays = [
        *(op.kernel for op in graph.linear_ops),
        *(array for n in norms if n for array in (n.gamma, n.beta, n.mean, n.variance)),
        *(array for split in (data.train, data.validation) for array in (split.x, split.y)),
    ]
    widths = [sorted(level.items()) for level in level_widths]
    return checkpoint.digest(widths, options, *more, *arrays)


def untrained(
    graph: ir.Graph,
    grouping: Grouping,
    level_widths: Sequence[Widths],
    x: np.ndarray,
    tables: Tables = "per-level",
) -> tuple[ir.Graph, ...]:
    """The levels, narrowest first, with what they do not share of batch-norm re-estimated on raw
    inputs `x`. The full network keeps the statistics it was trained with."""
    store = graph
    if dict(level_widths[-1]) != grouping.full_widths:
        store = groups.select_units(graph, grouping, groups.prefixes(level_widths[-1]))
        store = calibrate.recalibrate_norms(store, x)
    levels = [store]
    for widths in reversed(level_widths[:-1]):
        narrow = groups.select_units(store, groups.find_groups(store), groups.prefixes(widths))
        if tables != "everything":
            narrow = calibrate.recalibrate_norms(narrow, x, mean_only=tables == "multipliers")
        levels.insert(0, narrow)
    return tuple(levels)


def starting_levels(
    graph: ir.Graph,
    grouping: Grouping,
    level_widths: Sequence[Widths],
    data: Data,
    options: Options,
) -> tuple[ir.Graph, ...]:
    x, _ = data.train.sample(NORM_SAMPLES, options.seed)
    return untrained(graph, grouping, level_widths, x, options.tables)


@dataclass(frozen=True)
class Scores:
    """Of the levels on validation data. weights: what the user has each level count; samples: of
    the data."""

    losses: tuple[float, ...]
    scores: tuple[float, ...]
    task: str
    weights: tuple[float, ...]
    samples: int

    @property
    def loss(self) -> float:
        return float(np.average(self.losses, weights=self.weights))

    @property
    def key(self) -> tuple[float, float]:
        """Larger is better. Few validation samples tie often: then the loss tells."""
        score = float(np.average(self.scores, weights=self.weights))
        return (score if self.task == "classification" else 0.0, -self.loss)

    def is_near(self, highest: tuple[float, float]) -> bool:
        """Whether below the `highest` key by chance at most, a standard error of an accuracy."""
        if self.task != "classification":
            return self.key >= highest
        return self.key[0] >= highest[0] - standard_error(highest[0], self.samples)

    def __str__(self) -> str:
        name = "accuracy %" if self.task == "classification" else "mse"
        factor = 100 if self.task == "classification" else 1
        return f"validation {name} " + " ".join(f"{factor * s:.4g}" for s in self.scores)


def standard_error(accuracy: float, samples: int) -> float:
    """Of an accuracy on so many samples; as if one more was right and one wrong, so that all right
    is not certainty."""
    share = (accuracy * samples + 1) / (samples + 2)
    return float(np.sqrt(share * (1 - share) / samples))


class Trainer:
    """Variables, optimizer and compiled steps of one training run. outgrown: whether the widest
    level is better than the original network, which then teaches it no more.

    graph: its units in order of importance. untrained: the levels that training starts from, the
    widest last, whose kernels the others' are slices of. steps: of the whole training, which are
    those of all epochs unless given.
    """

    def __init__(
        self,
        graph: ir.Graph,
        grouping: Grouping,
        level_widths: Sequence[Widths],
        data: Data,
        options: Options,
        cluster: Cluster,
        steps: int | None = None,
    ) -> None:
        tf = tensorflow()
        assert options.epochs is not None
        assert options.learning_rate is not None
        self.original, self.data, self.options = graph, data, options
        self.untrained = levels = starting_levels(graph, grouping, level_widths, data, options)
        self.epochs = options.epochs
        self.cluster = cluster
        self.batches = Batches(data.train, options.batch_size, options.seed)
        self.probe = tf.constant(data.train.sample(NORM_SAMPLES, options.seed)[0])
        self.weights = options.loss_weights or (1.0,) * len(levels)
        with cluster.strategy.scope():
            self.kernels = SharedKernels(levels[-1])
            widest = LevelNetwork(self.kernels, levels[-1], level_widths[-1])
            self.levels = [
                LevelNetwork(self.kernels, level, widths, options.tables, widest)
                for level, widths in zip(levels[:-1], level_widths[:-1], strict=True)
            ]
            self.levels.append(widest)
            self.descent = Descent(
                cluster,
                self._trainable(self.levels),
                options.learning_rate,
                steps or self.epochs * self.batches.steps,
                options.warmup_steps,
            )
        self.outgrown = False
        self._compiled: dict[tuple[tuple[int, ...], bool, bool], Any] = {}

    def _trainable(self, levels: Sequence[LevelNetwork]) -> list[Any]:
        return [*self.kernels.variables, *(v for level in levels for v in level.trainable)]

    def run_epoch(self, epoch: int, quantized: bool) -> float:
        """All steps of an epoch; the mean loss."""
        losses = []
        generator = np.random.default_rng((self.options.seed, epoch, 1))
        first, comparisons = epoch * self.batches.steps, -(-_COMPARISONS // self.epochs)
        interval = -(-self.batches.steps // comparisons)
        for number, (x, y) in enumerate(self.batches.epoch(epoch), first):
            if number > first and (number - first) % interval == 0:
                self._compare_within_epoch()
            chosen = levels_of_step(number, len(self.levels), self.options.all_levels)
            losses.append(self.step(number, chosen, x, y, generator, quantized))
        return float(np.mean([float(value) for value in losses]))

    def step(
        self,
        number: int,
        chosen: tuple[int, ...],
        x: np.ndarray,
        y: np.ndarray,
        generator: np.random.Generator,
        quantized: bool = False,
    ) -> Tensor:
        """Step `number` from 0, of the `chosen` levels, the widest first; its loss."""
        self.descent.at_step(number)
        samples = mixed(x, y, generator) if self.options.mixing else (x, y)
        return self._step(chosen, quantized)(samples)

    def _step(self, chosen: tuple[int, ...], quantized: bool) -> Any:
        key = (chosen, quantized, self.outgrown)
        if key not in self._compiled:
            levels = [self.levels[number] for number in chosen]
            self._compiled[key] = self.descent.compile(
                self._trainable(levels), lambda *batch: self._loss(levels, quantized, *batch)
            )
        return self._compiled[key]

    def _loss(
        self,
        levels: list[LevelNetwork],
        quantized: bool,
        x: Tensor,
        y: Tensor,
        y_other: Tensor | None = None,
        share: Tensor | None = None,
    ) -> Tensor:
        """Weighted mean over levels, widest first, of loss on labels and distance from the teacher.

        The original network teaches the widest level, until that has outgrown it, and that one, or
        itself, the others. Of mixed samples y is the target of a share, y_other that of the rest.
        """
        tf, task, options = tensorflow(), self.data.task, self.options
        soft_share = options.distillation
        assert soft_share is not None
        teacher, terms, weights = forward(self.original, x), [], []
        kernels = self.kernels.read(quantized)
        widest: dict[str, tuple[Tensor, Tensor]] = {}

        def labelled(level: LevelNetwork, values: Mapping[str, Tensor], y: Tensor) -> Tensor:
            return loss.per_sample(level.graph, values, y, task) * sample_weights(y)

        def sample_weights(y: Tensor) -> Tensor:
            return _sample_weights(options.class_weights, y)

        grouping = groups.find_groups(self.original)
        for place, level in enumerate(levels):
            statistics = {} if place else widest
            values = level.forward(x, True, quantized, kernels, statistics, widest)
            hard, weights_of_samples = labelled(level, values, y), sample_weights(y)
            if share is not None:
                hard = share * hard + (1 - share) * labelled(level, values, y_other)
                others = sample_weights(y_other)
                weights_of_samples = share * weights_of_samples + (1 - share) * others
            soft = loss.distillation(level.graph, values, teacher, task) * weights_of_samples
            own_teacher = place == 0 and options.teacher == "full"
            share_of_teacher = 0.0 if own_teacher and self.outgrown else soft_share
            total = (1 - share_of_teacher) * hard + share_of_teacher * soft
            if options.hints:
                hidden = level.graph.linear_ops[-1].inputs[0]
                theirs = tf.gather(teacher[hidden], level.index_in(grouping, hidden), axis=-1)
                total += options.hints * loss.hint(values[hidden], theirs)
            weight = self.weights[self.levels.index(level)]
            weights.append(weight)
            terms.append(weight * tf.reduce_mean(total))
            if place == 0 and options.teacher == "full":
                teacher, grouping = values, self.kernels.grouping
        return tf.add_n(terms) / (sum(weights) or 1.0)  # a step may have none that weighs

    def measure(self) -> None:
        """Statistics of every norm, and every tensor's int8 parameters, as the kernels are now."""
        ranges: list[quantize.Ranges] = []
        for level in reversed(self.levels):  # the widest first: others may share its statistics
            ranges.insert(0, level.measure(self.probe))
        graphs, shared = self.graphs(), self.options.tables != "per-level"
        params = quantize.tensor_params(graphs[-1], graphs, ranges, shared)
        for level, tensors in zip(self.levels, params, strict=True):
            level.use(tensors)

    def validate(self, quantized: bool) -> Scores:
        losses, scores = zip(*self._scored_levels(self.levels, quantized), strict=True)
        return Scores(losses, scores, self.data.task, self.weights, len(self.data.validation))

    def _scored_levels(
        self, levels: Sequence[LevelNetwork], quantized: bool
    ) -> list[tuple[float, float]]:
        """Loss and score of each on validation data, with the statistics measured last."""
        task = self.data.task

        def scored(level: LevelNetwork) -> tuple[float, float]:
            return self._scored(level.graph, lambda x, y: level.evaluate(x, y, task, quantized))

        return self._agreed(list(map(scored, levels)))

    @functools.cached_property
    def scores_of_original(self) -> tuple[float, float]:
        """Loss and score of the network as it was given, in float, on validation data."""

        def run(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, float]:
            values = forward(self.original, x)
            losses = loss.per_sample(self.original, values, y, self.data.task)
            return values[self.original.output].numpy(), float(losses.numpy().sum())

        return self._agreed([self._scored(self.original, run)])[0]

    def _agreed(self, found: list[tuple[float, float]]) -> list[tuple[float, float]]:
        """The chief's: what they decide must be the same everywhere; the last bit may differ."""
        told = self.cluster.from_chief({"found": np.array(found)})["found"]
        return [(mean_loss, score) for mean_loss, score in told.tolist()]

    def _scored(
        self,
        graph: ir.Graph,
        evaluate: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, float]],
    ) -> tuple[float, float]:
        """Mean loss and score on validation data of a network that `evaluate` gives outputs and
        summed losses of; the score weighted by class."""
        task, total, score, count, counted = self.data.task, 0.0, 0.0, 0, 0.0
        for x, y in self.data.validation.batches(256):
            outputs, batch_loss = evaluate(x, y)
            total += batch_loss
            count += len(x)
            weights = np.ones(len(x))
            if self.options.class_weights is not None:
                weights = np.array(self.options.class_weights)[y]
            batch_weight = float(weights.sum())
            score += batch_weight * loss.score(outputs, y, graph, task, weights)
            counted += batch_weight
        return total / count, score / counted if counted else 0.0

    def compare_with_teacher(self, widest_loss: float) -> None:
        """Lets the widest level learn from labels alone once it is better than the original."""
        self.outgrown = widest_loss < self.scores_of_original[0]

    def _compare_within_epoch(self) -> None:
        """The same, in float, while the original teaches the widest level."""
        if self.options.teacher == "full" and self.options.distillation and not self.outgrown:
            widest = self.levels[-1]
            widest.measure(self.probe)
            ((widest_loss, _),) = self._scored_levels([widest], quantized=False)
            self.compare_with_teacher(widest_loss)

    def _named(self) -> dict[str, Any]:
        """Every variable that decides how training goes on, by a name of its own."""
        variables = [
            *self.kernels.variables,
            *(variable for level in self.levels for variable in level.variables),
            *self.descent.variables,
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


def levels_of_step(number: int, count: int, all_levels: bool = False) -> tuple[int, ...]:
    """Levels trained in a step, widest first: all, or the sandwich of both ends and two between.

    The two rotate through neighbouring pairs, so that few combinations need compiling.
    """
    if all_levels or count <= _LEVELS_PER_STEP:
        return tuple(reversed(range(count)))
    inner = list(range(1, count - 1))
    start = 2 * (number % -(-len(inner) // 2))
    between = sorted({inner[start], inner[min(start + 1, len(inner) - 1)]}, reverse=True)
    return (count - 1, *between, 0)
