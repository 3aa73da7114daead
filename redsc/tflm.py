"""What TensorFlow Lite Micro's interpreter needs beside the plan, read from the flatbuffer it runs.

The interpreter runs the full-width .tflite, but for biases and scales of weights; redsc's ops find
their steps by output tensors, read their weights from the flatbuffer, and put every tensor where
the plan has it (firmware/reds/src/tflm). So the arena is the plan's, and the interpreter's own
records behind it.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from redsc import tflite
from redsc.memory import align
from redsc.plan_structs import Plan
from redsc.quantized import QuantizedLevel

# Measured on Cortex-M4 with TF_LITE_STATIC_MEMORY (tests/tflm_arena_test.cc): the interpreter of
# February 2023 needs 1010 + 32 per op + 12 per tensor, that of August 2026 96 bytes less, and both
# 24 bytes per tensor while they plan. The rest is a margin for other versions.
_BASE_BYTES = 1152
_OP_BYTES = 32
_TENSOR_BYTES = 12
_PLANNING_TENSOR_BYTES = 28

CODE_BYTES = 20_000
"""Flash of the interpreter and its glue on Cortex-M4, about: docs/performance.md has figures."""


@dataclass(frozen=True, eq=False)
class TflmModel:
    """What the struct of the same name in reds/tflm_network.h has beside the plan.

    ops: code in TFLite's schema and name of every kind of op. step_tensors: index of each step's
    output tensor. weights_offsets: where each of the plan's weights lies in the flatbuffer, bytes.
    """

    flatbuffer: bytes
    ops: tuple[tuple[int, str], ...]
    step_tensors: tuple[int, ...]
    weights_offsets: tuple[int, ...]
    arena_bytes: int

    @property
    def crc32(self) -> int:
        return zlib.crc32(self.flatbuffer)

    def extra_flash_bytes(self, plan: Plan) -> int:
        """About what this takes beyond the standalone runtime, whose weights it holds."""
        return len(self.flatbuffer) - plan.weights_bytes + CODE_BYTES

    def extra_ram_bytes(self, plan: Plan) -> int:
        """What this takes beyond the standalone runtime."""
        return self.arena_bytes - max(plan.arena_bytes)


def build(plan: Plan, level: QuantizedLevel) -> TflmModel:
    """For the plan of a network and its widest level."""
    flatbuffer = tflite.write_bare(level)
    contents = tflite.contents(flatbuffer)
    index = {name: number for number, name in enumerate(contents.tensor_names)}
    offsets = [contents.constant_offsets[f"{name}/weights"] for name in contents.linear_names]
    for array, offset in zip(plan.weights, offsets, strict=True):
        stored = flatbuffer[offset : offset + array.values.nbytes]
        assert stored == array.values.tobytes(), f"{array.name} is not in the flatbuffer"
    return TflmModel(
        flatbuffer=flatbuffer,
        ops=contents.op_kinds,
        step_tensors=tuple(index[step.name] for step in plan.steps),
        weights_offsets=tuple(offsets),
        arena_bytes=_arena_bytes(plan, contents),
    )


def _arena_bytes(plan: Plan, contents: tflite.Contents) -> int:
    """Activations and the interpreter's records; `Network::arena_used_bytes` tells the truth."""
    tensors = len(contents.tensor_names)
    records = _BASE_BYTES + _OP_BYTES * contents.op_count + _TENSOR_BYTES * tensors
    # While it plans, the interpreter keeps more about each tensor, where the activations will be.
    activations = max(align(max(plan.arena_bytes)), _PLANNING_TENSOR_BYTES * tensors)
    return align(activations + records)
