"""Samples that are read one after the other, whether or not they all fit in memory.

And what they must fit: every reader of data (`user_datasets`, `class_folders`, `datasets`,
`speech_commands`) is asked for the splits of a `Network`.
"""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from redsc.errors import UsageError
from redsc.ir import Shape

MEMORY_BYTES = 1 << 30
"""Samples of one split kept in memory; a larger training split is streamed."""

ENDLESS_SAMPLES = 4096
"""Kept of a source that repeats for ever: enough for calibration, and to validate or test with."""

_COMPARED_SAMPLES = 64
"""Of a second pass, to see whether they were in the first one."""

VALIDATION_FRACTION = 0.1
"""Of the training samples, where no validation samples are given."""

TEST_FRACTION = 0.2
"""Of all samples, where they are not split."""

_PATIENCE_SECONDS = 10.0

Samples = Callable[[np.random.Generator | None], Iterator[tuple[Any, Any]]]
"""Starts a pass over single (x, y) samples; y is None where there is none.

Without a generator every pass gives the same samples in the same order, if the source can. A
generator decides everything random of a training pass: order and augmentation.
"""

log = logging.getLogger("redsc")


@dataclass(frozen=True)
class Network:
    """What data must fit, and the name to put into messages."""

    source: str
    input_shape: Shape
    output_shape: Shape
    output_bounds: tuple[float, float] = (-math.inf, math.inf)

    @property
    def outputs(self) -> int:
        return math.prod(self.output_shape)

    @property
    def classes(self) -> int:
        """That it can tell apart, if it is a classifier; a single output tells two."""
        return max(self.outputs, 2)

    @property
    def reconstructs(self) -> bool:
        return essential(self.input_shape) == essential(self.output_shape)

    def error(self, message: str) -> UsageError:
        return UsageError(f"data {self.source}: {message}")


def essential(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without its axes of size 1, which data may leave out."""
    return tuple(size for size in shape if size != 1)


def held_out(samples: int, fraction: float) -> int:
    """How many samples are kept for validation or for the test: one at least."""
    return max(1, round(fraction * samples))


def check_classes(names: Sequence[str], network: Network) -> None:
    """Tells the classes' numbers; a UsageError if the network has not as many."""
    if len(names) != network.classes:
        raise network.error(
            f"has {len(names)} classes ({', '.join(names)}); the network tells "
            f"{network.classes} apart"
        )
    numbered = ", ".join(f"{number} {name}" for number, name in enumerate(names))
    log.info("data %s: classes %s", network.source, numbered)


@dataclass(frozen=True, eq=False)
class Source:
    """Samples of one split: they may never end, or be others in every training pass."""

    samples: Samples
    endless: bool = False
    varies: bool = False


@dataclass(frozen=True, eq=False)
class Collected:
    """Samples kept; y is None for a source of x alone; complete when the source has no more."""

    x: list[np.ndarray]
    y: list[np.ndarray] | None
    complete: bool


def collect(source: Source, where: str, limit_bytes: int) -> Collected:
    """The first samples of a pass, as many as fit; of an endless source a fixed number at most."""
    xs: list[np.ndarray] = []
    ys: list[np.ndarray] = []
    most_samples = ENDLESS_SAMPLES if source.endless else None
    used, patient_until = 0, time.monotonic() + _PATIENCE_SECONDS
    for x, y in source.samples(None):
        x = np.asarray(x)
        for kind, value, kept in (("x", x, xs), ("y", y, ys)):
            if kept and np.shape(value) != kept[0].shape:
                raise UsageError(
                    f"{where}: {kind} of sample {len(xs)} has shape {np.shape(value)}, that of the "
                    f"first one {kept[0].shape}"
                )
        used += max(x.nbytes, 4 * x.size) + (0 if y is None else np.asarray(y).nbytes)
        if xs and (used > limit_bytes or len(xs) == most_samples):
            return Collected(xs, ys or None, complete=False)
        xs.append(x)
        if y is not None:
            ys.append(np.asarray(y))
        if time.monotonic() > patient_until:
            patient_until = float("inf")
            log.warning(
                "%s: %d samples so far, still reading: until it ends or fills %d MiB",
                where, len(xs), limit_bytes >> 20,
            )  # fmt: skip
    return Collected(xs, ys or None, complete=True)


def is_augmented(source: Source, first_pass: Collected) -> bool:
    """Whether another pass gives samples that the first, complete one did not."""
    known = {hash(x.tobytes()) for x in first_pass.x}
    again = itertools.islice(source.samples(None), _COMPARED_SAMPLES)
    return any(hash(np.asarray(x).tobytes()) not in known for x, _ in again)


def batched(
    samples: Iterator[tuple[np.ndarray, np.ndarray]], size: int, drop_remainder: bool
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Samples of one shape in batches; a last smaller one may be dropped."""
    pairs: list[tuple[np.ndarray, np.ndarray]] = []
    for pair in samples:
        pairs.append(pair)
        if len(pairs) == size:
            yield np.stack([x for x, _ in pairs]), np.stack([y for _, y in pairs])
            pairs = []
    if pairs and not drop_remainder:
        yield np.stack([x for x, _ in pairs]), np.stack([y for _, y in pairs])
