"""TFLite Micro's reference kernels in numpy, literally: what a quantised level computes.

Independent of the firmware and of the interpreter, so that tests can hold both against it.
Sources: tensorflow/lite/kernels/internal/reference/ and .../reference/integer_ops/.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from redsc import constants, fixed_point, ir
from redsc.quantized import QuantizedLevel


def tensors(level: QuantizedLevel, sample: np.ndarray) -> dict[str, np.ndarray]:
    """Every tensor for one int8 input, by name, int8."""
    values: dict[str, np.ndarray] = {}
    for op in level.graph.ops:
        before = [values[name] for name in op.inputs]
        values[op.name] = _apply(op, level, before) if before else sample
    return values


def _apply(op: ir.Op, level: QuantizedLevel, inputs: Sequence[np.ndarray]) -> np.ndarray:
    x = inputs[0].astype(np.int64)
    zero_point = level.tensors[op.name].zero_point
    match op:
        case ir.LinearOp():
            return _linear(op, level, x)
        case ir.Add():
            return _add(op, level, x, inputs[1].astype(np.int64))
        case ir.Concatenate():
            return np.concatenate(inputs, axis=-1)
        case ir.Reshape():
            return inputs[0].reshape(op.shape)
        case ir.Pad():
            return np.pad(inputs[0], [*op.padding, (0, 0)], constant_values=zero_point)
        case ir.Pool2D():
            return _pool(op, x)
        case ir.LeakyRelu():
            return _leaky_relu(op, level, x)
        case ir.Logistic() | ir.Tanh():
            return constants.lookup(op, level)[x + 128]
        case ir.Softmax():
            return _softmax(op, level, x)
    raise AssertionError(op)


def _windows(x: np.ndarray, op: ir.Conv2D | ir.DepthwiseConv2D | ir.Pool2D) -> np.ndarray:
    """(height, width, taps, channels) int64; NaN-like -(2**40) outside the image."""
    size = op.size if isinstance(op, ir.Pool2D) else op.kernel.shape[:2]
    dilation = (1, 1) if isinstance(op, ir.Pool2D) else op.dilation
    arguments = list(zip(x.shape[:2], size, op.strides, dilation, strict=True))
    out = [ir.conv_output_size(*a, op.padding) for a in arguments]
    before = [ir.padding_before(*a, op.padding) for a in arguments]
    result = np.full((*out, size[0] * size[1], x.shape[2]), OUTSIDE, np.int64)
    for oy, ox in np.ndindex(*out):
        for tap, (ky, kx) in enumerate(np.ndindex(*size)):
            y = oy * op.strides[0] - before[0] + ky * dilation[0]
            column = ox * op.strides[1] - before[1] + kx * dilation[1]
            if 0 <= y < x.shape[0] and 0 <= column < x.shape[1]:
                result[oy, ox, tap] = x[y, column]
    return result


OUTSIDE = -(1 << 40)


def _linear(op: ir.LinearOp, level: QuantizedLevel, x: np.ndarray) -> np.ndarray:
    c = constants.linear(op, level)
    weights = level.linear[op.name].weights.astype(np.int64)
    if isinstance(op, ir.Dense):
        sums = (x - c.input_zero_point) @ weights.T
    else:
        assert isinstance(op, ir.Conv2D | ir.DepthwiseConv2D)
        windows = _windows(x, op)
        products = np.where(windows == OUTSIDE, 0, windows - c.input_zero_point)
        if isinstance(op, ir.Conv2D):
            taps = weights.reshape(len(weights), -1, weights.shape[-1])
            sums = np.einsum("yxti,oti->yxo", products, taps)
        else:
            taps = weights.reshape(-1, weights.shape[-1])
            repeated = np.repeat(products, op.multiplier, axis=-1)
            sums = np.einsum("yxto,to->yxo", repeated, taps)
    scaled = fixed_point.multiply_by_quantized_multiplier(sums + c.bias, c.multiplier, c.shift)
    return _int8(scaled + c.output_zero_point, c.activation_min, c.activation_max)


def _int8(x: np.ndarray, low: int = -128, high: int = 127) -> np.ndarray:
    return np.clip(x, low, high).astype(np.int8)


def _add(op: ir.Add, level: QuantizedLevel, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    c = constants.add(op, level.tensors)
    scale = fixed_point.multiply_by_quantized_multiplier
    left = 1 << constants.ADD_LEFT_SHIFT
    total = scale((a - c.input1_zero_point) * left, c.input1_multiplier, c.input1_shift)
    total = total + scale((b - c.input2_zero_point) * left, c.input2_multiplier, c.input2_shift)
    y = scale(total, c.output_multiplier, c.output_shift) + c.output_zero_point
    return _int8(y, c.activation_min, c.activation_max)


def _pool(op: ir.Pool2D, x: np.ndarray) -> np.ndarray:
    windows = _windows(x, op)
    if isinstance(op, ir.MaxPool2D):
        return _int8(windows.max(axis=2))
    inside = windows != OUTSIDE
    count = inside.sum(axis=2)
    total = np.where(inside, windows, 0).sum(axis=2)
    return _int8(np.sign(total) * ((np.abs(total) + count // 2) // count))


def _leaky_relu(op: ir.LeakyRelu, level: QuantizedLevel, x: np.ndarray) -> np.ndarray:
    c = constants.leaky_relu(op, level)
    scale = fixed_point.multiply_by_quantized_multiplier
    value = x - c.input_zero_point
    positive = scale(value, c.identity_multiplier, c.identity_shift)
    negative = scale(value, c.alpha_multiplier, c.alpha_shift)
    return _int8(np.where(value >= 0, positive, negative) + c.output_zero_point)


def _softmax(op: ir.Softmax, level: QuantizedLevel, x: np.ndarray) -> np.ndarray:
    c = constants.softmax(op, level)
    diff = x - x.max(axis=-1, keepdims=True)
    kept = diff >= c.diff_min
    scaled = fixed_point.saturating_rounding_doubling_high_mul(
        np.where(kept, diff, 0) << c.left_shift, np.int64(c.multiplier)
    )
    exps = fixed_point.exp_on_negative_values(scaled, 5)
    total = np.where(kept, fixed_point.rounding_divide_by_pot(exps, 12), 0)
    total = total.sum(axis=-1, keepdims=True)
    leading_zeros = 32 - np.vectorize(lambda v: int(v).bit_length())(total)
    fraction = (total << leading_zeros) - (1 << 31)
    # 1 / (1 + fraction), from 2 / (1 + fraction) in Q2.29 by halving
    double = fixed_point._reciprocal_of_half_one_plus(fraction)
    scale = np.minimum(double * 2, (1 << 31) - 1)
    product = fixed_point.saturating_rounding_doubling_high_mul(scale, exps)
    shift = 12 - leading_zeros + 31 - 8
    y = fixed_point.rounding_divide_by_pot(product, np.broadcast_to(shift, product.shape)) - 128
    return np.where(kept, _int8(y), np.int8(-128))
