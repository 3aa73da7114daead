"""The Free Spoken Digit Dataset as features: read, split by speaker or index, augmented.

`digit_speaker_index.wav`, 8 kHz mono 16-bit (github.com/Jakobovski/free-spoken-digit-dataset,
CC BY-SA 4.0). A clip is 1 s: a shorter recording stands in silence, of a longer one the middle is
taken. The silence is a microphone's, not zeros: the logarithm of nothing would stretch the range of
the features tenfold, of which int8 has 256 steps. Features are redsc.mfcc's 49 frames of 10
coefficients.
"""

from __future__ import annotations

import wave
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from redsc.mfcc import Settings, mfcc

SETTINGS = Settings(sample_rate_hz=8000)
SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
TEST_INDICES, VALIDATION_INDICES = range(5), range(5, 8)
"""Of every digit and speaker; the former are the data set's own test split."""

SPEED = (0.8, 1.25)
SHIFT_MS = 100
NOISE_PROBABILITY = 0.8
TRAINING_SNR_DB, TEST_SNR_DB = (0.0, 25.0), (5.0, 15.0)
HISS = 3e-4
"""Standard deviation of the white noise in every clip, of full scale: -70 dB."""

COPIES = 10
"""Augmented copies of every training recording."""


@dataclass(frozen=True, eq=False)
class Recordings:
    """clips: float32 (recordings, clip samples) in -1 … 1, centred; the rest (recordings,)."""

    clips: np.ndarray
    digits: np.ndarray
    speakers: np.ndarray
    indices: np.ndarray

    def __getitem__(self, chosen: np.ndarray) -> Recordings:
        return Recordings(
            self.clips[chosen], self.digits[chosen], self.speakers[chosen], self.indices[chosen]
        )


def read(folder: Path) -> Recordings:
    """All recordings of a folder of digit_speaker_index.wav, in order of their names."""
    inside = folder / "recordings"  # where the data set's archive has them
    paths = sorted((inside if inside.is_dir() else folder).glob("[0-9]_*_*.wav"))
    if not paths:
        raise SystemExit(
            f"{folder}: no files like 3_theo_7.wav; give the folder recordings of the Free Spoken "
            "Digit Dataset"
        )
    names = [path.stem.split("_") for path in paths]
    return Recordings(
        clips=np.stack([_clip(path) for path in paths]),
        digits=np.array([int(digit) for digit, _, _ in names]),
        speakers=np.array([speaker for _, speaker, _ in names]),
        indices=np.array([int(index) for _, _, index in names]),
    )


def _clip(path: Path) -> np.ndarray:
    with wave.open(str(path)) as file:
        if (file.getframerate(), file.getsampwidth()) != (SETTINGS.sample_rate_hz, 2):
            raise SystemExit(f"{path}: not 16 bit at {SETTINGS.sample_rate_hz} Hz")
        pcm = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    return _centred(pcm.astype(np.float32) / 32768, SETTINGS.clip_samples)


def _centred(x: np.ndarray, size: int) -> np.ndarray:
    excess = len(x) - size
    if excess >= 0:
        return x[excess // 2 : excess // 2 + size]
    return np.pad(x, (-excess // 2, -excess - (-excess // 2)))


def features(clips: np.ndarray) -> np.ndarray:
    """float32 (clips, 49, 10, 1)."""
    parts = [mfcc(clips[i : i + 256], SETTINGS) for i in range(0, len(clips), 256)]
    return np.concatenate(parts)


def augmented(clips: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Every clip faster or slower, and so higher or lower, moved, and most with noise.

    The pitch stands for speakers that are not in the training data.
    """
    clips = _at_speed(clips, generator.uniform(*SPEED, len(clips)))
    most = SHIFT_MS * SETTINGS.sample_rate_hz // 1000
    shifts = generator.integers(-most, most + 1, len(clips))
    padded = np.pad(clips, ((0, 0), (most, most)))
    columns = most - shifts[:, np.newaxis] + np.arange(clips.shape[1])
    moved = np.take_along_axis(padded, columns, axis=1)
    noisy = add_noise(moved, TRAINING_SNR_DB, generator)
    return np.where(generator.random((len(clips), 1)) < NOISE_PROBABILITY, noisy, moved)


def _at_speed(clips: np.ndarray, speeds: np.ndarray) -> np.ndarray:
    """Clips played at other speeds, around their middle."""
    time = np.arange(clips.shape[1]) - clips.shape[1] / 2
    played = [
        np.interp(time * speed, time, clip, left=0, right=0)
        for clip, speed in zip(clips, speeds, strict=True)
    ]
    return np.stack(played).astype(np.float32)


def add_noise(
    clips: np.ndarray, snr_db: tuple[float, float], generator: np.random.Generator
) -> np.ndarray:
    """Noise of a spectrum between white and brown, each clip its own, at a random ratio.

    The ratio is of the speech's power while it lasts (over its non-zero samples) to the noise's.
    """
    count, size = clips.shape
    exponent = generator.uniform(0, 2, (count, 1))
    frequency = np.maximum(np.arange(size // 2 + 1), 1.0)
    spectrum = np.fft.rfft(generator.standard_normal(clips.shape)) * frequency ** (-exponent / 2)
    noise = np.fft.irfft(spectrum, size)
    spoken = np.maximum((clips != 0).sum(axis=1, keepdims=True), 1)
    power = (clips.astype(np.float64) ** 2).sum(axis=1, keepdims=True) / spoken
    ratio = 10 ** (generator.uniform(*snr_db, (count, 1)) / 10)
    wanted = np.sqrt(power / ratio / np.mean(noise**2, axis=1, keepdims=True))
    return (clips + wanted * noise).astype(np.float32)


def split(recordings: Recordings, left_out: str | None) -> dict[str, np.ndarray]:
    """Masks (recordings,) of train, val and test.

    left_out None: by index, all speakers in each. A speaker: tested on that one, validated on the
    next one, trained on the other four, so that validation says something of unknown speakers.
    """
    if left_out is None:
        test = np.isin(recordings.indices, TEST_INDICES)
        validation = np.isin(recordings.indices, VALIDATION_INDICES)
    else:
        following = SPEAKERS[(SPEAKERS.index(left_out) + 1) % len(SPEAKERS)]
        test = recordings.speakers == left_out
        validation = recordings.speakers == following
    return {"train": ~test & ~validation, "val": validation, "test": test}


def dataset(
    recordings: Recordings, masks: Mapping[str, np.ndarray], noisy: bool, seed: int
) -> dict[str, np.ndarray]:
    """The arrays of redsc's npz: x_train, y_train, x_val, … .

    Training data is augmented, COPIES times. noisy: validation and test recordings get noise too.
    """
    generator = np.random.default_rng(seed)
    arrays: dict[str, np.ndarray] = {}
    for name, mask in masks.items():
        part = recordings[mask]
        clips, digits = part.clips, part.digits
        if name == "train":
            clips = np.concatenate([augmented(clips, generator) for _ in range(COPIES)])
            digits = np.tile(digits, COPIES)
        elif noisy:
            clips = add_noise(clips, TEST_SNR_DB, generator)
        clips = clips + HISS * generator.standard_normal(clips.shape, np.float32)
        arrays["x_" + name], arrays["y_" + name] = features(clips), digits
    return arrays
