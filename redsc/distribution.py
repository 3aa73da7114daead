"""One training run on several devices, or several machines: `--strategy` and tf.distribute.

Every worker runs the same command and does everything but the training's arithmetic redundantly:
it reads the whole data, and of each global batch its replicas take their rows. Gradients and
batch-norm moments are averaged over all replicas, so the number of replicas changes results only
by float rounding. What must not differ at all (the order of units, the levels' widths, a
checkpoint) is the chief's. Only the chief writes a project.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from redsc.errors import ClusterError, UsageError
from redsc.tf_network import Tensor, tensorflow

log = logging.getLogger("redsc")

STRATEGIES = ("one-device", "mirrored", "multi-worker")

_TIMEOUT_SECONDS = 120.0
"""Longest wait for the other workers in one exchange; they compile their own steps meanwhile."""

_MEETING_SECONDS = 600.0
"""Longest wait for all workers to be started."""

_RETRY_SECONDS = 0.2


@dataclass(frozen=True, eq=False)
class Cluster:
    """The devices that train together. `worker` is this process's number among `workers`."""

    strategy: Any
    worker: int = 0
    workers: int = 1

    @property
    def replicas(self) -> int:
        return int(self.strategy.num_replicas_in_sync)

    @property
    def is_chief(self) -> bool:
        return self.worker == 0

    def rows(self, *arrays: np.ndarray) -> tuple[Any, ...]:
        """Every replica's rows of a global batch, each an equal part; of this process's replicas.

        Raises UsageError when they cannot be equal: means over replicas would weigh unequally.
        """
        count = self.replicas
        if count == 1:
            return arrays
        if len(arrays[0]) % count:
            raise UsageError(
                f"a batch of {len(arrays[0])} samples cannot be split evenly over {count} "
                f"replicas; give a --batch-size that is a multiple of {count}"
            )
        tf = tensorflow()

        def own(array: np.ndarray) -> Any:
            return self.strategy.experimental_distribute_values_from_function(
                lambda context: tf.constant(
                    array[context.replica_id_in_sync_group :: context.num_replicas_in_sync]
                )
            )

        return tuple(own(array) for array in arrays)

    def from_chief(self, arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The chief's arrays of float32, float64 or counters, on every worker.

        All workers must call it with the same names and shapes.
        """
        if self.workers == 1:
            return dict(arrays)
        tf = tensorflow()
        given = {name: np.asarray(array) for name, array in arrays.items()}
        # One exchange of float64, which holds float32 and the counters exactly: the chief's first
        # replica brings the values, all others zeros.
        flat = np.concatenate([array.reshape(-1).astype(np.float64) for array in given.values()])

        def own(context: Any) -> Tensor:
            speaks = self.is_chief and context.replica_id_in_sync_group == 0
            return tf.constant(flat if speaks else np.zeros_like(flat))

        @tf.function(autograph=False)
        def exchange(values: Tensor) -> Tensor:
            def total(value: Tensor) -> Tensor:
                context = tf.distribute.get_replica_context()
                return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(value))

            return self.strategy.experimental_local_results(
                self.strategy.run(total, args=(values,))
            )[0]

        with self.explained():
            values = self.strategy.experimental_distribute_values_from_function(own)
            received = exchange(values).numpy()
        ends = np.cumsum([array.size for array in given.values()])[:-1]
        return {
            name: part.reshape(array.shape).astype(array.dtype)
            for (name, array), part in zip(given.items(), np.split(received, ends), strict=True)
        }

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Turns TensorFlow's words for a worker that is gone into ClusterError."""
        if self.workers == 1:
            yield
            return
        errors = tensorflow().errors
        try:
            yield
        except (
            errors.UnavailableError,
            errors.DeadlineExceededError,
            errors.AbortedError,
            errors.CancelledError,
            errors.InternalError,
        ) as error:
            reason = str(error).strip().splitlines()[0]
            raise ClusterError(
                f"worker {self.worker} of {self.workers} lost another one ({reason}). Start the "
                "same command again on all workers: training goes on from the chief's last "
                "checkpoint"
            ) from error


def connect(name: str) -> Cluster:
    """The cluster of a --strategy. multi-worker reads TF_CONFIG and must come before any other
    use of TensorFlow; it waits for all workers. Raises UsageError, ClusterError."""
    if name == "one-device":
        return Cluster(tensorflow().distribute.get_strategy())
    if name == "mirrored":
        return Cluster(_mirrored())
    workers, worker = _task()
    _meet(workers, worker)
    tf = tensorflow()
    options = tf.distribute.experimental.CommunicationOptions(timeout_seconds=_TIMEOUT_SECONDS)
    try:
        strategy = tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)
    except (tf.errors.OpError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ClusterError(
            f"worker {worker} of {len(workers)} cannot reach the others ({', '.join(workers)}): "
            f"{reason}"
        ) from error
    return Cluster(strategy, worker, len(workers))


def _meet(workers: Sequence[str], worker: int) -> None:
    """Waits until this worker has called every other one at its address, and all have called it.

    TensorFlow would wait for an hour, and could not be interrupted. Raises ClusterError when one
    does not come, or the own port is taken.
    """
    ends = time.monotonic() + _MEETING_SECONDS
    others = {number: address for number, address in enumerate(workers) if number != worker}
    silent, called = set(others), set[int]()
    told = False
    try:
        # TensorFlow takes the port over when all have met.
        with socket.create_server(("", _port(workers[worker])), backlog=len(workers)) as own:
            own.settimeout(_RETRY_SECONDS)
            while silent or called != set(others):
                called |= {
                    number
                    for number in others
                    if number not in called and _call(others[number], worker)
                }
                silent -= _callers(own)
                missing = [others[n] for n in others if n in silent or n not in called]
                if missing and time.monotonic() > ends:
                    raise ClusterError(
                        f"worker {worker} of {len(workers)} waited {_MEETING_SECONDS:g} s for "
                        f"{', '.join(missing)}: start the same command there, with its own index "
                        "in TF_CONFIG, and see that nothing blocks the ports"
                    )
                if missing and not told:
                    log.warning("waiting for the workers at %s", ", ".join(missing))
                    told = True
    except (OSError, ValueError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ClusterError(
            f"worker {worker} of {len(workers)} cannot listen at {workers[worker]}: {reason}; "
            "TF_CONFIG gives every worker a free port"
        ) from None


def _call(address: str, worker: int) -> bool:
    """Whether somebody took the call, with which a worker says its number."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        with socket.create_connection((host, _port(address)), timeout=2) as line:
            line.sendall(f"{worker}\n".encode())
            return True
    except OSError:
        return False


def _callers(own: socket.socket) -> set[int]:
    """Numbers of workers that call within _RETRY_SECONDS; strangers are not heard."""
    try:
        line, _ = own.accept()
    except TimeoutError:
        return set()
    with line, contextlib.suppress(OSError, ValueError):
        line.settimeout(2)
        return {int(line.makefile().readline(16))}
    return set()


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])


def _mirrored() -> Any:
    """All GPUs, else all logical CPUs (one, unless TensorFlow was told to split it)."""
    tf = tensorflow()
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if len(devices) == 1:
        log.warning(
            "strategy mirrored: there is one device, %s; the others gain nothing", devices[0].name
        )
    return tf.distribute.MirroredStrategy([device.name for device in devices])


def _task() -> tuple[list[str], int]:
    """Addresses of all workers and this one's number, from TF_CONFIG."""
    example = (
        '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, '
        '"task": {"type": "worker", "index": 0}}'
    )
    text = os.environ.get("TF_CONFIG", "")
    try:
        config = json.loads(text)
        workers, task = config["cluster"]["worker"], config["task"]
        index = int(task["index"])
        valid = (
            isinstance(workers, list)
            and set(config["cluster"]) == {"worker"}
            and task["type"] == "worker"
            and 0 <= index < len(workers)
        )
    except (ValueError, KeyError, TypeError):
        valid = False
    if not valid:
        raise UsageError(
            f"--strategy multi-worker needs TF_CONFIG, on every worker with its own index, like "
            f"{example}; it is {text!r}"
        )
    return [str(address) for address in workers], index


def replicas_in_step() -> int:
    """Replicas of the step that is being traced; 1 outside of `strategy.run`."""
    context = tensorflow().distribute.get_replica_context()
    return 1 if context is None else int(context.num_replicas_in_sync)


def mean_over_replicas(value: Any) -> Any:
    """A tensor's, or a list of tensors', mean over all replicas of the step; differentiable."""
    if replicas_in_step() == 1:
        return value
    tf = tensorflow()
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.MEAN, value)


def moments(value: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance per channel, of all replicas' samples as if they were one batch."""
    tf, axes = tensorflow(), list(range(len(value.shape) - 1))
    if replicas_in_step() == 1:
        mean, variance = tf.nn.moments(value, axes)
        return mean, variance
    mean = mean_over_replicas(tf.reduce_mean(value, axes))
    return mean, mean_over_replicas(tf.reduce_mean((value - mean) ** 2, axes))
