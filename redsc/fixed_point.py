"""TFLite's fixed-point arithmetic, number for number, on numpy int64 arrays.

Sources: tensorflow/lite/kernels/internal/quantization_util.cc (QuantizeMultiplier), common.cc
(MultiplyByQuantizedMultiplier, double rounding) and gemmlowp's fixedpoint.h. The C++ twin is
firmware/reds; tests hold both against the interpreter.
"""

from __future__ import annotations

import numpy as np

INT32_MIN, INT32_MAX = -(1 << 31), (1 << 31) - 1


def round_half_away(x: np.ndarray) -> np.ndarray:
    """Round to nearest, ties away from zero (TfLiteRound): float in, float out."""
    x = np.asarray(x)
    return np.trunc(x + np.copysign(np.asarray(0.5, x.dtype), x))


def quantize_multiplier(real: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float64 `real` >= 0 as (multiplier int32, shift int8): real ≈ multiplier * 2^(shift - 31).

    Shifts below -31 flush the multiplier to zero (QuantizeMultiplier).
    """
    fraction, shift = np.frexp(np.asarray(real, np.float64))
    multiplier = round_half_away(fraction * (1 << 31)).astype(np.int64)
    carry = multiplier == 1 << 31
    multiplier = np.where(carry, multiplier // 2, multiplier)
    shift = np.where(carry, shift + 1, shift)
    flushed = (shift < -31) | (multiplier == 0)
    multiplier, shift = np.where(flushed, 0, multiplier), np.where(flushed, 0, shift)
    return multiplier.astype(np.int32), shift.astype(np.int8)


def saturating_rounding_doubling_high_mul(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(2 * a * b) / 2^32, rounded to nearest, ties away; the one overflow case saturates."""
    product = np.asarray(a, np.int64) * np.asarray(b, np.int64)
    nudge = np.where(product >= 0, 1 << 30, 1 - (1 << 30))
    total = product + nudge
    # C++ divides towards zero; a shift would round down
    return np.minimum(np.sign(total) * (np.abs(total) >> 31), INT32_MAX)


def rounding_divide_by_pot(x: np.ndarray, exponent: np.ndarray | int) -> np.ndarray:
    """x / 2^exponent, rounded to nearest, ties away from zero."""
    x, exponent = np.asarray(x, np.int64), np.asarray(exponent, np.int64)
    mask = (np.int64(1) << exponent) - 1
    threshold = (mask >> 1) + (x < 0)
    return (x >> exponent) + ((x & mask) > threshold)


def multiply_by_quantized_multiplier(
    x: np.ndarray, multiplier: np.ndarray, shift: np.ndarray
) -> np.ndarray:
    """x * multiplier * 2^(shift - 31) with gemmlowp's two roundings; int64 in int32 range."""
    shift = np.asarray(shift, np.int64)
    shifted = np.asarray(x, np.int64) << np.maximum(shift, 0)
    high = saturating_rounding_doubling_high_mul(shifted, multiplier)
    return rounding_divide_by_pot(high, np.maximum(-shift, 0))


# gemmlowp::FixedPoint: raw int32 with `bits` integer bits, value = raw / 2^(31 - bits).


def _saturate(x: np.ndarray) -> np.ndarray:
    return np.clip(x, INT32_MIN, INT32_MAX)


def _rescale(raw: np.ndarray, from_bits: int, to_bits: int) -> np.ndarray:
    shift = from_bits - to_bits
    if shift >= 0:
        return _saturate(np.asarray(raw, np.int64) << shift)
    return rounding_divide_by_pot(raw, -shift)


_mul = saturating_rounding_doubling_high_mul


def _exp_on_minus_one_quarter_to_zero(a: np.ndarray) -> np.ndarray:
    """exp of Q0.31 values in [-1/4, 0): a Taylor expansion around -1/8."""
    constant_term, one_third = 1895147668, 715827883
    x = a + (1 << 28)
    x2 = _mul(x, x)
    x3 = _mul(x2, x)
    x4_over_4 = rounding_divide_by_pot(_mul(x2, x2), 2)
    tail = rounding_divide_by_pot(_mul(x4_over_4 + x3, np.int64(one_third)) + x2, 1)
    return constant_term + _mul(np.int64(constant_term), x + tail)


def exp_on_negative_values(a: np.ndarray, integer_bits: int) -> np.ndarray:
    """exp(a) as Q0.31 for a <= 0 with `integer_bits` <= 5 integer bits."""
    a = np.asarray(a, np.int64)
    fractional_bits = 31 - integer_bits
    quarter = 1 << (fractional_bits - 2)
    remainder_in_quarter = (a & (quarter - 1)) - quarter
    result = _exp_on_minus_one_quarter_to_zero(_rescale(remainder_in_quarter, integer_bits, 0))
    remainder = remainder_in_quarter - a
    factors = (1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242)
    for exponent, factor in zip(range(-2, 5), factors, strict=True):
        if integer_bits > exponent:
            bit = (remainder >> (fractional_bits + exponent)) & 1
            result = np.where(bit == 1, _mul(result, np.int64(factor)), result)
    return np.where(a == 0, INT32_MAX, result)


def _reciprocal_of_half_one_plus(a: np.ndarray) -> np.ndarray:
    """2 / (1 + a) as Q2.29 for Q0.31 a in [0, 1]: three Newton-Raphson steps."""
    total = a + INT32_MAX
    half_denominator = (total + 1) // 2  # RoundingHalfSum of non-negative values
    x = 1515870810 + _mul(half_denominator, np.int64(-1010580540))
    for _ in range(3):
        error = (1 << 29) - _mul(half_denominator, x)
        x = x + _rescale(_mul(x, error), 4, 2)
    return x


def logistic(a: np.ndarray, integer_bits: int) -> np.ndarray:
    """1 / (1 + exp(-a)) as Q0.31 (gemmlowp::logistic)."""
    a = np.asarray(a, np.int64)
    x = _reciprocal_of_half_one_plus(exp_on_negative_values(-np.abs(a), integer_bits))
    positive = _rescale(x, 1, 0)  # halving is exact: one integer bit less
    return np.where(a == 0, 1 << 30, np.where(a > 0, positive, INT32_MAX - positive))


def tanh(a: np.ndarray, integer_bits: int) -> np.ndarray:
    """tanh(a) as Q0.31 (gemmlowp::tanh)."""
    a = np.asarray(a, np.int64)
    # doubling is exact: the same raw value with one integer bit more
    x = _reciprocal_of_half_one_plus(exp_on_negative_values(-np.abs(a), integer_bits + 1))
    magnitude = _rescale(x - (1 << 29), 2, 0)
    return np.where(a == 0, 0, np.sign(a) * magnitude)


def input_radius(integer_bits: int, left_shift: int, total_signed_bits: int = 31) -> int:
    """Largest input difference that still matters (CalculateInputRadius)."""
    radius = ((1 << integer_bits) - 1) * 2.0 ** (total_signed_bits - integer_bits)
    return int(np.floor(radius / 2.0**left_shift))
