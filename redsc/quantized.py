"""The int8 network as data: what quantize.py makes, and tflite.py, plan.py and verify.py read.

Numerics are TFLite's own (DESIGN, numerics): symmetric per-output-channel int8 weights in
[-127, 127], asymmetric per-tensor int8 activations, int32 biases. A level is exactly a standard
TFLite network; all levels read one int8 store.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from redsc import ir
from redsc.groups import Grouping


@dataclass(frozen=True)
class QuantParams:
    """real = scale * (q - zero_point). scale is a float32 value, zero_point in -128 … 127."""

    scale: float
    zero_point: int


@dataclass(frozen=True, eq=False)
class QuantizedLinear:
    """Constants of one Conv2D, DepthwiseConv2D or Dense at one level, compact (no strides).

    weights: int8, TFLite layout: (out, height, width, in), (1, height, width, out), (out, in).
    weight_scale: float32 (out,), the scale the level's .tflite declares.
    bias: int32 (out,), in units of input scale * weight_scale.
    """

    weights: np.ndarray
    weight_scale: np.ndarray
    bias: np.ndarray

    def rows(self, op: ir.LinearOp) -> np.ndarray:
        """weights as (out, products)."""
        if isinstance(op, ir.DepthwiseConv2D):
            return self.weights.reshape(-1, self.weights.shape[-1]).T
        return self.weights.reshape(len(self.weights), -1)


@dataclass(frozen=True, eq=False)
class QuantizedLevel:
    """`graph` is the level's own (narrow) float graph; tensors and linear are by op name."""

    percent: float
    widths: Mapping[str, int]
    graph: ir.Graph
    tensors: Mapping[str, QuantParams]
    linear: Mapping[str, QuantizedLinear]


@dataclass(frozen=True, eq=False)
class QuantizedNetwork:
    """Levels 0 (smallest) … L-1 over one store.

    graph and grouping are those of the store, whose widths are the top level's: weights that no
    level reads are not stored. weights: int8 by op name, TFLite layout, full store width.
    """

    graph: ir.Graph
    grouping: Grouping
    weights: Mapping[str, np.ndarray]
    levels: tuple[QuantizedLevel, ...]
