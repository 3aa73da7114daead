"""What every tensor can hold at most and at least, for every input within given bounds.

Interval arithmetic, element by element, so that the border of a padded convolution is known apart
from its inside. Loose for units that work (bounds grow with every layer), sharp for those that do
nothing: a kernel near 1e-28 moves nothing however large its inputs are.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from redsc import ir
from redsc.tf_network import apply, linear, tensorflow

Bounds = tuple[np.ndarray, np.ndarray]
"""Least and largest value of every element: float64, both of the tensor's shape."""

RESOLUTION = 2.0**-23
"""float32 tells two numbers apart that differ by more than this share of themselves."""


def bounds(graph: ir.Graph, low: float, high: float) -> dict[str, Bounds]:
    """Of every tensor of a lowered graph by name, for inputs within low … high (network units)."""
    shape = graph.input.shape
    result: dict[str, Bounds] = {graph.input.name: (np.full(shape, low), np.full(shape, high))}
    for op in graph.ops[1:]:
        result[op.name] = _output_bounds(op, [result[name] for name in op.inputs])
    return result


def _output_bounds(op: ir.Op, inputs: list[Bounds]) -> Bounds:
    match op:
        case ir.LinearOp():
            low, high = _linear_bounds(op, *inputs[0])
            return _activated(op.activation, low), _activated(op.activation, high)
        case ir.Softmax():
            return np.zeros_like(inputs[0][0]), np.ones_like(inputs[0][1])
        case _:  # never falls where an input rises
            lows, highs = zip(*inputs, strict=True)
            return _applied(op, lows), _applied(op, highs)


def _linear_bounds(op: ir.LinearOp, low: np.ndarray, high: np.ndarray) -> Bounds:
    """Before the activation."""
    scale = op.scale.reshape(op.kernel.shape[2:] if isinstance(op, ir.DepthwiseConv2D) else -1)
    kernel = op.kernel.astype(np.float64) * scale

    def product(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return np.asarray(linear(op, tensorflow().constant(x[None]), weights))[0]

    middle = product((low + high) / 2, kernel) + op.offset
    reach = product((high - low) / 2, np.abs(kernel))
    return middle - reach, middle + reach


def _activated(activation: ir.Activation, x: np.ndarray) -> np.ndarray:
    match activation:
        case ir.Activation.RELU:
            return np.maximum(x, 0)
        case ir.Activation.RELU6:
            return np.clip(x, 0, 6)
        case _:
            return x


def _applied(op: ir.Op, inputs: tuple[np.ndarray, ...]) -> np.ndarray:
    tf = tensorflow()
    return np.asarray(apply(op, [tf.constant(x[None], tf.float64) for x in inputs]))[0]


def constants(tensors: Mapping[str, Bounds]) -> dict[str, np.ndarray]:
    """float64 (channels,) per tensor: what a channel holds at every position for every input.

    NaN where inputs or positions differ by more than float32 resolves.
    """
    return {name: _constants(*of) for name, of in tensors.items()}


def _constants(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    channels = low.shape[-1]
    least = low.reshape(-1, channels).min(axis=0)
    largest = high.reshape(-1, channels).max(axis=0)
    size = np.maximum(np.abs(least), np.abs(largest))
    return np.where(largest - least <= RESOLUTION * size, (least + largest) / 2, np.nan)
