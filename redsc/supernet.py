"""One network of any widths at once: trained at random ones, then asked how good given ones are.

How accurate a subnetwork will get is hard to foretell from the weights of a network that was
never trained to lose units. So a copy of the network learns to work at any widths (universally
slimmable networks: Yu & Huang, ICCV 2019; one-shot search: Guo et al., ECCV 2020). After that the
loss of any widths is measured, not guessed, with batch-norm re-estimated and without training.

Widths change from step to step, so units are masked, not sliced: one compiled step serves all.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from redsc import calibrate, checkpoint, cost, groups, ir, loss, objective, recipe
from redsc.data import Data, Split, Task
from redsc.distribution import Cluster, moments
from redsc.groups import Grouping, Widths
from redsc.tf_network import Tensor, activate, apply, linear, tensorflow
from redsc.training import Batches, Descent

log = logging.getLogger("redsc")

_WIDTHS_PER_STEP = 2
"""Random widths that a step trains beside the full ones."""

_NARROWEST = 0.2
"""Smallest share of units that random widths have in common; single groups may have less."""

_SPREAD = 0.5
"""Each group's share is the common one times exp(-_SPREAD … _SPREAD)."""

_SHARE = 0.25
_STEPS = (60, 400)
"""Steps at random widths: a share of those that train the levels, within bounds."""

_EVALUATION_MACS = 1e9
_EVALUATION_SAMPLES = (64, 512)
"""Samples on which batch-norm is re-estimated, and half of those on which widths are measured: as
many as take this much work, within bounds."""

_LEARNING_RATE = 1e-3
_WARMUP_STEPS = 20
_DISTILLATION = 0.5


class Supernet:
    """A lowered graph, its units in order of importance, of any widths.

    Batch-norms normalise with the moments of the widths at hand, never with stored ones; gamma
    and beta are shared by all widths.
    """

    def __init__(self, graph: ir.Graph, grouping: Grouping) -> None:
        tf = tensorflow()
        self.graph, self.grouping = graph, grouping
        self.kernels = {op.name: tf.Variable(op.kernel) for op in graph.linear_ops}
        self._normed = {op.name: calibrate.has_statistics(op.norm) for op in graph.linear_ops}
        scales, offsets = {}, {}
        for op in graph.linear_ops:
            if self._normed[op.name]:
                assert op.norm is not None
                scales[op.name], offsets[op.name] = op.norm.gamma, op.norm.beta
            else:
                scales[op.name], offsets[op.name] = op.scale, op.offset
        self.scales = {name: tf.Variable(np.float32(scale)) for name, scale in scales.items()}
        self.offsets = {name: tf.Variable(np.float32(offset)) for name, offset in offsets.items()}
        sizes = [group.units for group in grouping.groups.values()]
        self._starts = dict(zip(grouping.groups, np.cumsum([0, *sizes]), strict=False))
        self._units = int(sum(sizes))
        self._channels = {name: self._unit_of_channel(axis) for name, axis in grouping.axes.items()}
        self._evaluate = tf.function(self._evaluate_once, autograph=False, reduce_retracing=True)

    @property
    def variables(self) -> list[Any]:
        return [*self.kernels.values(), *self.scales.values(), *self.offsets.values()]

    def _unit_of_channel(self, axis: groups.Axis) -> np.ndarray:
        """int64 (channels,): place of each channel's unit in a mask."""
        parts = []
        for segment in axis:
            units = self._starts[segment.group] + np.arange(segment.units)
            shape = (segment.outer, segment.units, segment.inner)
            parts.append(np.broadcast_to(units[:, None], shape).reshape(-1))
        return np.concatenate(parts)

    def mask(self, widths: Widths) -> np.ndarray:
        """float32 (units of all groups,): 1 for units that are kept."""
        mask = np.zeros(self._units, np.float32)
        for name, start in self._starts.items():
            mask[start : start + widths[name]] = 1
        return mask

    def forward(
        self, x: Tensor, mask: Tensor, measured: dict[str, tuple[Tensor, Tensor]] | None = None
    ) -> dict[str, Tensor]:
        """Every tensor for raw inputs `x`; units that are masked are 0.

        measured: moments of each norm's input. Empty, those of `x` are stored there; filled, they
        are used.
        """
        tf = tensorflow()
        given = dict(measured or {})

        def run_linear(op: ir.LinearOp, value: Tensor) -> Tensor:
            product = linear(op, value, self.kernels[op.name])
            if self._normed[op.name]:
                assert op.norm is not None
                mean, variance = given.get(op.name) or moments(product)
                if measured is not None:
                    measured[op.name] = (mean, variance)
                epsilon = max(op.norm.epsilon, 1e-12)
                product = (product - mean) * tf.math.rsqrt(variance + epsilon)
            product = product * self.scales[op.name] + self.offsets[op.name]
            return self._masked(op, activate(op.activation, product), mask)

        values: dict[str, Tensor] = {}
        for op in self.graph.ops:
            inputs = [values[name] for name in op.inputs] or [x]
            value = apply(op, inputs, run_linear)
            # The only other op that makes something of nothing.
            values[op.name] = (
                self._masked(op, value, mask) if isinstance(op, ir.Logistic) else value
            )
        return values

    def _masked(self, op: ir.Op, value: Tensor, mask: Tensor) -> Tensor:
        return value * tensorflow().gather(mask, self._channels[op.name])

    def losses(
        self,
        level_widths: Sequence[Widths],
        calibration: np.ndarray,
        x: np.ndarray,
        y: np.ndarray,
        task: Task,
    ) -> np.ndarray:
        """float64 (widths,): mean loss on (x, y), batch-norm re-estimated on `calibration`.

        All inputs are raw.
        """
        return np.array(
            [
                float(self._evaluate(calibration, x, y, self.mask(widths), task))
                for widths in level_widths
            ]
        )

    def _evaluate_once(
        self, calibration: Tensor, x: Tensor, y: Tensor, mask: Tensor, task: Task
    ) -> Tensor:
        measured: dict[str, tuple[Tensor, Tensor]] = {}
        self.forward(calibration, mask, measured)
        values = self.forward(x, mask, measured)
        return tensorflow().reduce_mean(loss.per_sample(self.graph, values, y, task))

    def step_loss(self, x: Tensor, y: Tensor, masks: Tensor, task: Task) -> Tensor:
        """Mean loss at each of the masks; the first one, full, teaches the others."""
        tf = tensorflow()
        teacher: Mapping[str, Tensor] = {}
        terms: list[Tensor] = []
        for mask in tf.unstack(masks):
            values = self.forward(x, mask)
            hard = tf.reduce_mean(loss.per_sample(self.graph, values, y, task))
            if terms:
                soft = tf.reduce_mean(loss.distillation(self.graph, values, teacher, task))
                terms.append((1 - _DISTILLATION) * hard + _DISTILLATION * soft)
            else:
                teacher = values
                terms.append(hard)
        return tf.add_n(terms) / len(terms)

    def random_masks(self, generator: np.random.Generator) -> np.ndarray:
        """float32 (widths, units of all groups): the full widths, then random ones."""
        full = self.grouping.full_widths
        masks = [self.mask(full)]
        for _ in range(_WIDTHS_PER_STEP):
            share = np.exp(generator.uniform(np.log(_NARROWEST), 0))
            around = full | {g.name: round(share * g.units) for g in self.grouping.free}
            masks.append(self.mask(objective.near(self.grouping, around, generator, _SPREAD)))
        return np.stack(masks)


def steps(options: recipe.Options, train: Split) -> int:
    """Steps at random widths, for a training of the levels with these `suited` options."""
    return int(np.clip(_SHARE * recipe.steps(options, train), *_STEPS))


def measure(
    network: Supernet, data: Data, split: Split, seed: int, cluster: Cluster
) -> Callable[[Sequence[Widths]], np.ndarray]:
    """How good widths are: their loss on samples of `split`, batch-norm re-estimated on training
    samples. Everywhere as the chief measured it: a search that saw another last bit elsewhere
    could ask for other widths."""
    count = int(np.clip(_EVALUATION_MACS / cost.macs(network.graph), *_EVALUATION_SAMPLES))
    calibration, _ = data.train.sample(count, seed)
    x, y = split.sample(2 * count, seed + 1)
    task: Task = data.task
    least = loss.negligible(y, task)

    def losses(level_widths: Sequence[Widths]) -> np.ndarray:
        found = network.losses(level_widths, calibration, x, y, task)
        return np.maximum(cluster.from_chief({"losses": found})["losses"], least)

    return losses


def train(
    graph: ir.Graph,
    grouping: Grouping,
    data: Data,
    steps: int,
    batch_size: int,
    seed: int,
    cluster: Cluster,
    progress: Callable[[int, int, str], None],
    folder: Path | None = None,
) -> Supernet | None:
    """A Supernet that starts from `graph` and learns for `steps` steps at random widths.

    Same seed and data, same result. `folder` keeps the result, so that a search which is
    interrupted need not train again. None when a loss is not finite. Raises ClusterError when
    another worker is gone.
    """
    with cluster.explained():
        with cluster.strategy.scope():
            network = Supernet(graph, grouping)
            descent = Descent(cluster, network.variables, _LEARNING_RATE, steps, _WARMUP_STEPS)
        file = None
        if folder is not None:
            start = _state(network).values()
            name = checkpoint.digest(
                "supernet", steps, batch_size, seed, *start, data.train.x, data.train.y
            )
            file = folder / f"{name}.npz"
            known = checkpoint.load_chiefs(file, _state(network), cluster)
            if known is not None:
                for number, variable in enumerate(network.variables):
                    variable.assign(known[f"{number}"])
                Batches(data.train, batch_size, seed).skip(steps)
                return network
        if not _descend(network, descent, data, steps, batch_size, seed, progress):
            return None
        if file is not None and cluster.is_chief:
            checkpoint.save(file, _state(network))
        return network


def _descend(
    network: Supernet,
    descent: Descent,
    data: Data,
    steps: int,
    batch_size: int,
    seed: int,
    progress: Callable[[int, int, str], None],
) -> bool:
    """Takes all steps; whether every loss was finite, which ends them."""
    batches = Batches(data.train, batch_size, seed)
    task: Task = data.task
    step = descent.compile(
        network.variables, lambda x, y, masks: network.step_loss(x, y, masks, task)
    )
    generator = np.random.default_rng(seed)
    endless = itertools.chain.from_iterable(map(batches.epoch, itertools.count()))
    for number, samples in enumerate(itertools.islice(endless, steps)):
        descent.at_step(number)
        value = float(step(samples, network.random_masks(generator)))
        if not np.isfinite(value):
            log.info("training at random widths diverged in step %d of %d", number + 1, steps)
            return False
        if (number + 1) % 25 == 0 or number + 1 == steps:
            progress(number + 1, steps, f"random widths, loss {value:.4g}")
    return True


def _state(network: Supernet) -> checkpoint.Arrays:
    return {f"{number}": variable.numpy() for number, variable in enumerate(network.variables)}
