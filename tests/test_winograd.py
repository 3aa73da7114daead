"""Winograd's algorithm in integers, as firmware/reds/src/dsp/conv2d_winograd.cc has it: its algebra,
its bounds, and where the compiler takes it."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

PIXELS = np.array([
    [4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0],
    [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1],
])  # fmt: skip
TAPS = np.array([[1, 0, 0], [1, 1, 1], [1, -1, 1], [1, 2, 4], [1, -2, 4], [0, 0, 1]])
OUTPUTS = np.array([
    [6, -4, -4, 1, 1, 0], [0, -2, 2, 1, -1, 0], [0, -1, -1, 1, 1, 0], [0, -1, 1, 2, -2, 6],
])  # fmt: skip
TIMES = np.array([24, 12, 6, 6])
"""What an output along one side comes out as times."""

INVERSE_OF_9 = 954437177


def test_one_side_is_a_convolution_times_a_constant():
    for tap in range(3):
        for pixel in range(6):
            products = (TAPS[:, tap] * PIXELS[:, pixel]) @ OUTPUTS.T
            assert products.tolist() == [
                times * (pixel == output + tap) for output, times in enumerate(TIMES)
            ]


def int32(values):
    return (np.asarray(values, np.int64) + (1 << 31)) % (1 << 32) - (1 << 31)


@given(st.integers(0, 2**32), st.sampled_from([4, 64, 115]), st.integers(-128, 127))
def test_accumulators_are_exact(seed, channels, zero_point):
    random = np.random.default_rng(seed)
    ends = random.random() < 0.5  # of int8's range
    draw = (lambda *s: random.choice([-128, 127], s)) if ends else (lambda *s: random.integers(-128, 128, s))
    x, w = draw(6, 6, channels) - zero_point, draw(3, 3, channels)
    accumulators = np.array([
        [(x[i : i + 3, j : j + 3] * w).sum() for j in range(4)] for i in range(4)
    ])
    pixels = np.einsum("ai,bj,ijc->abc", PIXELS, PIXELS, x)
    taps = np.einsum("ai,bj,ijc->abc", TAPS, TAPS, w)
    assert np.abs(pixels).max() <= 68 * 255
    assert np.abs(taps).max() <= 49 * 128
    sums = int32((pixels * taps).sum(axis=2))
    outputs = int32(OUTPUTS @ int32(sums @ OUTPUTS.T))
    powers = np.outer([8, 4, 2, 2], [8, 4, 2, 2])
    assert np.array_equal(int32(outputs * INVERSE_OF_9), accumulators * powers)
