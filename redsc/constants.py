"""What TFLite Micro computes from a .tflite before the first inference, one function per op kind.

Every constant comes from the values *as written in the file* (float32 scales) with TFLite Micro's
own types: double products for convolutions and per-channel dense layers, float products for
per-tensor dense layers and LeakyReLU. Sources: tensorflow/lite/kernels/kernel_util.cc and
tensorflow/lite/micro/kernels/*_common.cc.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from redsc import fixed_point, ir
from redsc.quantized import QuantizedLevel, QuantizedLinear, QuantParams

INT8_MIN, INT8_MAX = -128, 127
ADD_LEFT_SHIFT = 20


@dataclass(frozen=True, eq=False)
class LinearConstants:
    """multiplier int32 (out,), shift int8 (out,): TFLite's exponent, positive is left."""

    bias: np.ndarray
    multiplier: np.ndarray
    shift: np.ndarray
    input_zero_point: int
    output_zero_point: int
    activation_min: int
    activation_max: int


@dataclass(frozen=True)
class AddConstants:
    input1_zero_point: int
    input1_multiplier: int
    input1_shift: int
    input2_zero_point: int
    input2_multiplier: int
    input2_shift: int
    output_zero_point: int
    output_multiplier: int
    output_shift: int
    activation_min: int
    activation_max: int


@dataclass(frozen=True)
class LeakyReluConstants:
    input_zero_point: int
    output_zero_point: int
    alpha_multiplier: int
    alpha_shift: int
    identity_multiplier: int
    identity_shift: int


@dataclass(frozen=True)
class SoftmaxConstants:
    multiplier: int
    left_shift: int
    diff_min: int


def activation_range(activation: ir.Activation, output: QuantParams) -> tuple[int, int]:
    """int8 clamp of a fused activation (CalculateActivationRangeQuantized, float32 division)."""

    def quantize(real: float) -> int:
        steps = fixed_point.round_half_away(np.float32(real) / np.float32(output.scale))
        return output.zero_point + int(steps)

    match activation:
        case ir.Activation.RELU:
            return max(INT8_MIN, quantize(0.0)), INT8_MAX
        case ir.Activation.RELU6:
            return max(INT8_MIN, quantize(0.0)), min(INT8_MAX, quantize(6.0))
        case _:
            return INT8_MIN, INT8_MAX


def linear(op: ir.LinearOp, level: QuantizedLevel) -> LinearConstants:
    """Requantisation of Conv2D, DepthwiseConv2D and Dense at one level."""
    return requantisation(
        op, level.linear[op.name], level.tensors[op.inputs[0]], level.tensors[op.name]
    )


def requantisation(
    op: ir.LinearOp, quantized: QuantizedLinear, source: QuantParams, target: QuantParams
) -> LinearConstants:
    """The same, from source to target."""
    scales = quantized.weight_scale
    if isinstance(op, ir.Dense) and len(scales) == 1:
        product = np.asarray(np.float32(source.scale) * scales, np.float64)
    else:
        product = np.float64(source.scale) * scales.astype(np.float64)
    multiplier, shift = fixed_point.quantize_multiplier(product / np.float64(target.scale))
    low, high = activation_range(op.activation, target)
    return LinearConstants(
        bias=quantized.bias,
        multiplier=multiplier,
        shift=shift,
        input_zero_point=source.zero_point,
        output_zero_point=target.zero_point,
        activation_min=low,
        activation_max=high,
    )


def add(op: ir.Add, tensors: Mapping[str, QuantParams]) -> AddConstants:
    """CalculateOpDataAdd for int8; tensors: parameters by op name."""
    first, second = (tensors[name] for name in op.inputs)
    output = tensors[op.name]
    twice_max = 2 * np.float64(max(first.scale, second.scale))
    reals = np.array([
        np.float64(first.scale) / twice_max,
        np.float64(second.scale) / twice_max,
        twice_max / ((1 << ADD_LEFT_SHIFT) * np.float64(output.scale)),
    ])  # fmt: skip
    multipliers, shifts = fixed_point.quantize_multiplier(reals)
    low, high = activation_range(op.activation, output)
    return AddConstants(
        input1_zero_point=first.zero_point,
        input1_multiplier=int(multipliers[0]),
        input1_shift=int(shifts[0]),
        input2_zero_point=second.zero_point,
        input2_multiplier=int(multipliers[1]),
        input2_shift=int(shifts[1]),
        output_zero_point=output.zero_point,
        output_multiplier=int(multipliers[2]),
        output_shift=int(shifts[2]),
        activation_min=low,
        activation_max=high,
    )


def leaky_relu(op: ir.LeakyRelu, level: QuantizedLevel) -> LeakyReluConstants:
    """CalculateOpDataLeakyRelu: float32 products. alpha is not negative."""
    source, target = level.tensors[op.inputs[0]], level.tensors[op.name]
    scale, out = np.float32(source.scale), np.float32(target.scale)
    reals = np.array([scale * np.float32(op.alpha) / out, scale / out], np.float64)
    multipliers, shifts = fixed_point.quantize_multiplier(reals)
    return LeakyReluConstants(
        input_zero_point=source.zero_point,
        output_zero_point=target.zero_point,
        alpha_multiplier=int(multipliers[0]),
        alpha_shift=int(shifts[0]),
        identity_multiplier=int(multipliers[1]),
        identity_shift=int(shifts[1]),
    )


def lookup(op: ir.Logistic | ir.Tanh, level: QuantizedLevel) -> np.ndarray:
    """int8 (256,): output for input q at index q + 128 (integer_ops/logistic.h, tanh.h)."""
    integer_bits = 4
    source = level.tensors[op.inputs[0]]
    multiplier, shift = fixed_point.quantize_multiplier(
        np.float64(source.scale) * 2.0 ** (31 - integer_bits)
    )
    radius = fixed_point.input_radius(integer_bits, int(shift))
    x = np.arange(INT8_MIN, INT8_MAX + 1) - source.zero_point
    inside = np.clip(x, -radius, radius)
    q4 = fixed_point.multiply_by_quantized_multiplier(inside, multiplier, shift)
    if isinstance(op, ir.Logistic):
        real = fixed_point.logistic(q4, integer_bits)
        y = fixed_point.rounding_divide_by_pot(real, 31 - 8) + INT8_MIN
    else:
        y = fixed_point.rounding_divide_by_pot(fixed_point.tanh(q4, integer_bits), 31 - 7)
    y = np.where(x <= -radius, INT8_MIN, np.where(x >= radius, INT8_MAX, y))
    return np.clip(y, INT8_MIN, INT8_MAX).astype(np.int8)


def softmax(op: ir.Softmax, level: QuantizedLevel) -> SoftmaxConstants:
    """PreprocessSoftmaxScaling with beta 1 and 5 integer bits."""
    integer_bits = 5
    scale = np.float64(level.tensors[op.inputs[0]].scale)
    real = min(scale * (1 << (31 - integer_bits)), (1 << 31) - 1.0)
    multiplier, shift = fixed_point.quantize_multiplier(np.float64(real))
    return SoftmaxConstants(
        multiplier=int(multiplier),
        left_shift=int(shift),
        diff_min=-fixed_point.input_radius(integer_bits, int(shift)),
    )
