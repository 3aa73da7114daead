"""Sound files, and what a network sees of a clip: its samples, or their MFCC."""

from __future__ import annotations

import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from redsc import mfcc
from redsc.errors import UsageError
from redsc.sources import Network, essential


def wav_header(path: Path) -> tuple[int, int]:
    """Sample rate in Hz and number of samples of a 16-bit mono PCM file; else a UsageError."""
    try:
        with wave.open(str(path), "rb") as file:
            _check(file, path)
            return file.getframerate(), file.getnframes()
    except (wave.Error, EOFError, OSError) as error:
        raise _unreadable(path, error) from None


def read_wav(path: Path) -> tuple[int, np.ndarray]:
    """Sample rate in Hz and float32 (samples,) in -1 … 1 of a 16-bit mono PCM file."""
    try:
        with wave.open(str(path), "rb") as file:
            _check(file, path)
            content = file.readframes(file.getnframes())
            if len(content) != 2 * file.getnframes():
                raise EOFError("the file is cut short")
            samples = np.frombuffer(content, "<i2").astype(np.float32) / 32768
            return file.getframerate(), samples
    except (wave.Error, EOFError, OSError) as error:
        raise _unreadable(path, error) from None


def _check(file: wave.Wave_read, path: Path) -> None:
    if (file.getnchannels(), file.getsampwidth()) != (1, 2):
        raise UsageError(
            f"data {path}: has {file.getnchannels()} channels of {8 * file.getsampwidth()} bits; "
            "convert it to mono, 16 bits"
        )


def _unreadable(path: Path, error: Exception) -> UsageError:
    detail = str(error) or "it is cut short"
    return UsageError(
        f"data {path}: cannot be read as WAV ({detail}); replace or delete it, or convert it to "
        "16-bit mono PCM"
    )


def fitted(samples: np.ndarray, size: int) -> np.ndarray:
    """The first `size` samples, with zeros after a shorter sound."""
    return np.pad(samples[:size], (0, max(0, size - len(samples))))


@dataclass(frozen=True)
class View:
    """What a network sees of clips of `clip_samples`; without settings the samples themselves."""

    clip_samples: int
    settings: mfcc.Settings | None = None

    def of(self, clips: np.ndarray) -> np.ndarray:
        """float32 (clips, *input shape, up to axes of 1) of float32 (clips, clip_samples)."""
        return clips if self.settings is None else mfcc.mfcc(clips, self.settings)


def view(network: Network, rate_hz: int) -> View:
    """Samples for a network that takes a row, MFCC for one that takes frames × coefficients.

    Windows of 40 ms are spread evenly over 1 s, so the stride is 960 ms / (frames - 1). Anything
    else is a UsageError.
    """
    shape, defaults = essential(network.input_shape), mfcc.Settings()
    if len(shape) == 1:
        return View(shape[0])
    span_ms = defaults.clip_ms - defaults.window_ms
    if len(shape) != 2 or span_ms % (shape[0] - 1) or shape[1] > defaults.mel_bands:
        raise network.error(
            f"holds sound, and the network takes {network.input_shape}; expected (samples,) for "
            f"the waveform in -1 … 1, or (frames, coefficients) for MFCC: windows of "
            f"{defaults.window_ms} ms every {span_ms} ms / (frames - 1), a whole number, as 49 "
            f"frames every 20 ms or 25 every 40 ms, and at most {defaults.mel_bands} coefficients"
        )
    settings = mfcc.Settings(
        sample_rate_hz=rate_hz, stride_ms=span_ms // (shape[0] - 1), coefficients=shape[1]
    )
    lengths_ms = (settings.window_ms, settings.stride_ms)
    if any(rate_hz * length % 1000 for length in lengths_ms) or rate_hz < 2 * settings.high_hz:
        raise network.error(
            f"has sound of {rate_hz} Hz; MFCC needs at least {2 * settings.high_hz:g} Hz and a "
            f"whole number of samples in {lengths_ms[0]} ms and in {lengths_ms[1]} ms; convert "
            "the files to 16000 Hz"
        )
    return View(settings.clip_samples, settings)
