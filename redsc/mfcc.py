"""Mel-frequency cepstral coefficients of 1 s clips: what keyword spotters see.

Settings and arithmetic are those of TensorFlow's speech-commands example, which the REDS paper,
"Hello Edge" (arXiv 1711.07128) and MLPerf Tiny follow: `tf.raw_ops.AudioSpectrogram` and
`tf.raw_ops.Mfcc` give the same numbers (tests hold them to it). A device computes them frame by
frame with a real FFT of `fft_length` points and two small constant matrices.

Of a clip of `clip_samples` values x in -1 … 1 (int16 / 32768), frame t is the `window_samples`
values from t · `stride_samples` on. Then, per frame:

1. windowed[n] = x[n] · (0.5 - 0.5 cos(2π n / window_samples)), zeros up to fft_length
2. magnitude[k] = |FFT(windowed)[k]|, k = 0 … fft_length / 2
3. energy[m] = Σ_k mel[k, m] · magnitude[k], m = 0 … mel_bands - 1
4. mfcc[c] = sqrt(2 / mel_bands) Σ_m ln(max(energy[m], 1e-12)) cos(π c (m + 0.5) / mel_bands)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_LEAST_ENERGY = 1e-12


@dataclass(frozen=True)
class Settings:
    """Defaults: 49 frames of 10 coefficients, the paper's for CNN and DS-CNN (its DNN: stride 40).

    Lengths are in milliseconds; `sample_rate_hz` must make them whole numbers of samples.
    """

    sample_rate_hz: int = 16_000
    clip_ms: int = 1000
    window_ms: int = 40
    stride_ms: int = 20
    coefficients: int = 10
    mel_bands: int = 40
    low_hz: float = 20.0
    high_hz: float = 4000.0

    @property
    def clip_samples(self) -> int:
        return self.sample_rate_hz * self.clip_ms // 1000

    @property
    def window_samples(self) -> int:
        return self.sample_rate_hz * self.window_ms // 1000

    @property
    def stride_samples(self) -> int:
        return self.sample_rate_hz * self.stride_ms // 1000

    @property
    def frames(self) -> int:
        return (self.clip_samples - self.window_samples) // self.stride_samples + 1

    @property
    def fft_length(self) -> int:
        """The power of two that holds a window."""
        return 1 << (self.window_samples - 1).bit_length()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the features of one clip, as networks take them."""
        return self.frames, self.coefficients, 1


def mfcc(clips: np.ndarray, settings: Settings) -> np.ndarray:
    """float32 (clips, frames, coefficients, 1) of float (clips, clip_samples) in -1 … 1."""
    assert clips.shape[1:] == (settings.clip_samples,), clips.shape
    windows = np.lib.stride_tricks.sliding_window_view(clips, settings.window_samples, axis=1)
    frames = windows[:, :: settings.stride_samples] * hann(settings.window_samples)
    magnitude = np.abs(np.fft.rfft(frames, settings.fft_length))
    # One product of all frames: a stack of them would start and join threads clip by clip.
    rows = magnitude.reshape(-1, magnitude.shape[2])
    energy = np.maximum(rows @ mel_matrix(settings), _LEAST_ENERGY)
    features = np.log(energy) @ dct_matrix(settings)
    return features.astype(np.float32).reshape(len(clips), *settings.shape)


def hann(size: int) -> np.ndarray:
    """The periodic Hann window, float64 (size,)."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)


def mel_matrix(settings: Settings) -> np.ndarray:
    """float64 (fft_length / 2 + 1, mel_bands): triangles, evenly spaced in mel.

    As mfcc_mel_filterbank.cc: band m rises from centre m - 1 to centre m and falls to centre
    m + 1; bins below low_hz and above high_hz count nothing.
    """
    low, high = _mel(settings.low_hz), _mel(settings.high_hz)
    spacing = (high - low) / (settings.mel_bands + 1)
    hz_per_bin = settings.sample_rate_hz / settings.fft_length
    bins = np.arange(settings.fft_length // 2 + 1)
    position = (_mel(bins * hz_per_bin) - low) / spacing  # in bands; band m's centre is m + 1
    bands = np.arange(1, settings.mel_bands + 1)
    triangles = np.maximum(0.0, 1.0 - np.abs(position[:, np.newaxis] - bands))
    first = int(1.5 + settings.low_hz / hz_per_bin)
    last = int(settings.high_hz / hz_per_bin)
    triangles[(bins < first) | (bins > last)] = 0.0
    return triangles


def _mel(hz: float | np.ndarray) -> np.ndarray:
    return 1127.0 * np.log1p(np.asarray(hz, dtype=np.float64) / 700.0)


def dct_matrix(settings: Settings) -> np.ndarray:
    """float64 (mel_bands, coefficients): the DCT-II."""
    bands = np.arange(settings.mel_bands) + 0.5
    angles = np.pi / settings.mel_bands * np.outer(bands, np.arange(settings.coefficients))
    return np.sqrt(2.0 / settings.mel_bands) * np.cos(angles)
