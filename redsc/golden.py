"""What a board must answer: the outputs that the ladder proved, and their checksums.

`compile` stores every level's output for every verification input. The first input is the
pattern that a board makes by itself (docs/serial-protocol.md).
"""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from redsc import ir, oracle, runner, tflite, toolchain, verify
from redsc.errors import UsageError

PATTERN_SEED = 1

StepCrcs = Callable[[int, int], tuple[int, ...] | None]
"""(level, sample) → CRC-32 of every step's output; None when nothing here can compute them."""


@dataclass(frozen=True, eq=False)
class Golden:
    """One build. inputs: int8 (samples, *shape); outputs: int8 (levels, samples, output_bytes)."""

    model_crc: int
    step_names: tuple[str, ...]
    inputs: np.ndarray
    outputs: np.ndarray
    step_crcs: StepCrcs

    @property
    def level_count(self) -> int:
        return len(self.outputs)

    @property
    def input_bytes(self) -> int:
        return self.inputs[0].size

    @property
    def output_bytes(self) -> int:
        return int(self.outputs.shape[2])

    def input_crc(self, sample: int) -> int:
        return zlib.crc32(self.inputs[sample].tobytes())

    def output_crc(self, level: int, sample: int) -> int:
        return zlib.crc32(self.outputs[level, sample].tobytes())


def pattern(shape: ir.Shape, seed: int = PATTERN_SEED) -> np.ndarray:
    """int8 of a shape: the serial protocol's pattern, top bytes of a congruential generator."""
    values = np.empty(int(np.prod(shape)), np.int8)
    state = seed
    for index in range(len(values)):
        state = (state * 1664525 + 1013904223) & 0xFFFFFFFF
        values[index] = (state >> 24) - 128
    return values.reshape(shape)


def read(directory: Path) -> Golden:
    """The golden outputs of an existing build.

    Raises UsageError when they are missing or of another shape, VerificationError when a level's
    file was changed.
    """
    tflites = verify.read_levels(directory)
    interface = tflite.interface(tflites)
    inputs = verify.read_inputs(directory, interface)
    outputs = _read_outputs(directory, interface, len(inputs))
    try:
        model = (directory / "model.tflite").read_bytes()
    except OSError as error:
        raise UsageError(
            f"{directory / 'model.tflite'}: cannot be read ({error.strerror}); compile again"
        ) from None
    return Golden(
        zlib.crc32(model),
        tuple(step.name for step in interface.steps),
        inputs,
        outputs,
        lambda level, sample: _step_crcs(directory, tflites, interface, level, inputs[sample]),
    )


def _read_outputs(directory: Path, interface: tflite.Interface, samples: int) -> np.ndarray:
    path = directory / "verify" / "outputs.npy"
    if not path.exists():
        raise UsageError(
            f"{path}: missing, so there is nothing to compare a board with; compile again, "
            "without --no-verify and with g++ or tflite-micro installed"
        )
    try:
        outputs = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(f"{path}: cannot be read ({error}); compile again") from None
    expected = (interface.level_count, samples, interface.output_bytes)
    if outputs.dtype != np.int8 or outputs.shape != expected:
        raise UsageError(
            f"{path}: holds {outputs.dtype} {outputs.shape}, expected int8 {expected}; "
            "compile again"
        )
    return np.asarray(outputs)


def _step_crcs(
    directory: Path,
    tflites: Sequence[bytes],
    interface: tflite.Interface,
    level: int,
    sample: np.ndarray,
) -> tuple[int, ...] | None:
    """From the interpreter where it is installed, else from the host's kernels."""
    if oracle.available():
        tensors = verify.interpret(level, tflites[level], sample[np.newaxis], interface)
    elif toolchain.find("g++"):
        with tempfile.TemporaryDirectory(prefix="redsc_trace_") as workspace:
            program = toolchain.build(directory, "verify_native", Path(workspace)).program
            runs = runner.run_host(program, interface, sample[np.newaxis], trace=True)
        tensors = runs[level].tensors
    else:
        return None
    return tuple(zlib.crc32(tensors[step.name].tobytes()) for step in interface.steps)
