"""MFCC against TensorFlow's own ops, which every keyword-spotting recipe uses."""

from __future__ import annotations

import numpy as np
import pytest

from redsc.mfcc import Settings, mfcc
from redsc.tf_network import tensorflow


@pytest.mark.parametrize(
    ("rate", "stride_ms", "shape"),
    [(16_000, 20, (49, 10, 1)), (16_000, 40, (25, 10, 1)), (8_000, 20, (49, 10, 1))],
)
def test_mfcc_is_tensorflows(rate: int, stride_ms: int, shape: tuple[int, int, int]) -> None:
    settings = Settings(sample_rate_hz=rate, stride_ms=stride_ms)
    noise = np.random.default_rng(0).standard_normal((3, settings.clip_samples))
    clips = (0.1 * noise * [[1.0], [0.001], [0.0]]).astype(np.float32)
    tf = tensorflow()
    expected = [
        tf.raw_ops.Mfcc(
            spectrogram=tf.raw_ops.AudioSpectrogram(
                input=clip[:, np.newaxis],
                window_size=settings.window_samples,
                stride=settings.stride_samples,
                magnitude_squared=True,
            ),
            sample_rate=rate,
            upper_frequency_limit=settings.high_hz,
            lower_frequency_limit=settings.low_hz,
            filterbank_channel_count=settings.mel_bands,
            dct_coefficient_count=settings.coefficients,
        ).numpy()[0]
        for clip in clips
    ]
    features = mfcc(clips, settings)
    assert settings.shape == features.shape[1:] == shape
    np.testing.assert_allclose(features[..., 0], np.stack(expected), atol=1e-4)
