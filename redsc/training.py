"""What every training here does: batches that can be resumed, a learning rate, a step of Adam."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from redsc import distribution
from redsc.data import Split
from redsc.distribution import Cluster
from redsc.errors import UsageError
from redsc.tf_network import Tensor, tensorflow

STREAM_STEPS = 1000
"""Training steps of an epoch when the data is streamed, and so of unknown, or endless, length."""

_LARGEST_GRADIENT = 5.0


def epoch_steps(split: Split, batch_size: int) -> int:
    """Training steps of an epoch."""
    return max(len(split) // batch_size, 1) if split.stream is None else STREAM_STEPS


class Batches:
    """Global batches of a split, epoch by epoch; they depend on seed and epoch alone."""

    def __init__(self, split: Split, size: int, seed: int) -> None:
        self._split, self._seed = split, seed
        self._size = min(size, len(split))
        self.steps = epoch_steps(split, size)
        self._stream = None if split.stream is None else self._endless()

    def epoch(self, number: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The batches of epoch `number` from 0; of a stream, which goes on, the next ones."""
        if self._stream is not None:
            return itertools.islice(self._stream, self.steps)
        generator = np.random.default_rng((self._seed, number))
        return itertools.islice(self._split.batches(self._size, generator), self.steps)

    def skip(self, steps: int) -> None:
        """Leaves out what earlier steps took from a stream, which may go on from pass to pass."""
        if self._stream is not None:
            for _ in itertools.islice(self._stream, steps):
                pass

    def _endless(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        generator = np.random.default_rng(self._seed)
        while True:
            batch = None
            for batch in self._split.batches(self._size, generator):
                yield batch
            if batch is None:
                raise UsageError(
                    f"the training data gave less than a batch of {self._size} samples in a new "
                    "pass; a dataset must give all its samples again each time it is read"
                )


class Descent:
    """Adam, in steps over all replicas of a cluster; linear warm-up, then half a cosine to 0.

    Must be made within the cluster's scope. variables: all that any step will change.
    """

    def __init__(
        self,
        cluster: Cluster,
        variables: Sequence[Any],
        learning_rate: float,
        steps: int,
        warmup_steps: int,
    ) -> None:
        tf = tensorflow()
        self._cluster, self._learning_rate, self._steps = cluster, learning_rate, steps
        self._warmup_steps = min(warmup_steps, steps // 10)
        self._rate = tf.Variable(0.0, trainable=False)
        self._adam = tf.keras.optimizers.legacy.Adam(self._rate)
        # Slots for everything at once, whichever variables the first step changes.
        self._adam._create_all_weights(list(variables))

    @property
    def variables(self) -> list[Any]:
        return list(self._adam.variables())

    def at_step(self, step: int) -> None:
        """Sets the learning rate of step number `step`, from 0."""
        warm = self._warmup_steps
        if step < warm:
            share = (step + 1) / (warm + 1)
        else:
            share = 0.5 * (1 + np.cos(np.pi * (step - warm) / (self._steps - warm)))
        self._rate.assign(self._learning_rate * share)

    def compile(
        self, variables: Sequence[Any], batch_loss: Callable[..., Tensor]
    ) -> Callable[..., Tensor]:
        """A step on `variables`: global batch and further arguments to its mean loss.

        batch_loss(*samples, *rest) is the mean loss of one replica's rows of the batch's arrays.
        """
        tf, strategy = tensorflow(), self._cluster.strategy

        def update_replica(*arguments: Tensor) -> Tensor:
            with tf.GradientTape() as tape:
                total = batch_loss(*arguments)
            gradients = tape.gradient(total, variables, unconnected_gradients="zero")
            gradients = distribution.mean_over_replicas(gradients)
            gradients, _ = tf.clip_by_global_norm(gradients, _LARGEST_GRADIENT)
            self._adam.apply_gradients(
                zip(gradients, variables, strict=True), experimental_aggregate_gradients=False
            )
            return total

        @tf.function(autograph=False, reduce_retracing=True)
        def update(*arguments: Tensor) -> Tensor:
            total = strategy.run(update_replica, args=arguments)
            return strategy.reduce(tf.distribute.ReduceOp.MEAN, total, axis=None)

        def step(samples: tuple[np.ndarray, ...], *rest: Any) -> Tensor:
            return update(*self._cluster.rows(*samples), *rest)

        return step


def mixed(
    x: np.ndarray, y: np.ndarray, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Every sample mixed with another one of the batch (mixup: Zhang et al., ICLR 2018).

    Returns inputs share · x + (1 - share) · x_other, targets y and y_other, and the shares,
    float32 (samples,), in 0.5 … 1.
    """
    share = generator.uniform(0.5, 1.0, len(x)).astype(np.float32)
    other = generator.permutation(len(x))
    weight = share.reshape(-1, *[1] * (x.ndim - 1))
    return weight * x + (1 - weight) * x[other], y, y[other], share
