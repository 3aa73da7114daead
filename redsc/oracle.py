"""The reference all of redsc's integer arithmetic answers to: the TFLite Micro interpreter.

The `tflite-micro` wheel is optional (extra `verify`); `available()` says whether it is there.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

import numpy as np

ARENA_BYTES = 256 << 20
"""Holds every tensor of any network a Nano can run, all preserved. Only what is used is touched."""


def available() -> bool:
    """Whether the interpreter can be imported here."""
    return importlib.util.find_spec("tflite_micro") is not None


def run(
    model: bytes, inputs: np.ndarray, trace: Sequence[int] = ()
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Outputs (samples, *shape) int8 of a .tflite for int8 inputs (samples, *shape).

    `trace` asks for more tensors by index in the file; each comes back as (samples, *shape).
    Raises RuntimeError when the interpreter cannot prepare the network; why is on stderr then.
    """
    from tflite_micro.python.tflite_micro import runtime

    interpreter = runtime.Interpreter.from_bytes(
        model,
        arena_size=ARENA_BYTES,
        intrepreter_config=runtime.InterpreterConfig.kPreserveAllTensors,
    )
    outputs, traced = [], [[] for _ in trace]  # type: ignore[var-annotated]
    for sample in inputs:
        interpreter.set_input(sample[np.newaxis], 0)
        interpreter.invoke()
        outputs.append(interpreter.get_output(0)[0])
        for values, index in zip(traced, trace, strict=True):
            values.append(interpreter.GetTensor(index, 0)["tensor_data"][0].copy())
    return np.stack(outputs), [np.stack(values) for values in traced]
