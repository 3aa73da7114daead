"""Google Speech Commands (Warden, arXiv 1804.03209) as twelve classes, the REDS paper's recipe.

That recipe is TensorFlow's speech-commands example (`input_data.py`) with the published lists of
validation and test files. Of every split as many silent clips and as many other words as a tenth
of its ten words' clips are added, chosen by seed. Silence is background noise at a volume of
0 … 1. In training passes every clip is shifted by up to 100 ms, and with a probability of 0.8
background noise is added at a volume of up to 0.1.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from redsc import audio, sources
from redsc.audio import View
from redsc.ir import Shape
from redsc.sources import Network, Source, essential

WORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
CLASSES = ("silence", "unknown", *WORDS)
"""In the order of their numbers."""

RATE_HZ = CLIP_SAMPLES = 16_000
ARCHIVE = "speech_commands_v0.02.tar.gz"
_NOISE = "_background_noise_"
_LISTS = {"val": "validation_list.txt", "test": "testing_list.txt"}
_SILENCE_SHARE = _UNKNOWN_SHARE = 0.1
_SHIFT_SAMPLES = RATE_HZ // 10
_NOISE_PROBABILITY, _NOISE_VOLUME = 0.8, 0.1
_FLAT_FEATURES: dict[Shape, Shape] = {(490,): (49, 10), (250,): (25, 10)}
"""Networks that begin with a dense layer may take the paper's features as a row."""

_CHUNK = 64
"""Clips whose features are computed together."""


@dataclass(frozen=True)
class _Clip:
    """path None: silence."""

    path: Path | None
    label: int


def read(path: Path, network: Network, seed: int) -> dict[str, Source]:
    """Splits of the unpacked archive. Anything missing, damaged or unfit is a UsageError."""
    sources.check_classes(CLASSES, network)
    features = _FLAT_FEATURES.get(essential(network.input_shape), network.input_shape)
    view = audio.view(replace(network, input_shape=features), RATE_HZ)
    if view.clip_samples != CLIP_SAMPLES:
        raise network.error(
            f"the network takes {network.input_shape}; expected ({CLIP_SAMPLES},) samples, or "
            "(frames, coefficients) as (49, 10, 1) or (25, 10, 1), or a row of these, (490,) or "
            "(250,)"
        )
    if not (path / _NOISE).is_dir():
        packed = f"; unpack it: tar xzf {ARCHIVE}" if (path / ARCHIVE).is_file() else ""
        raise network.error(
            f"no folder {path / _NOISE}; expected the content of {ARCHIVE} in {path}{packed}"
        )
    noises = tuple(_noise(file, network) for file in sorted((path / _NOISE).glob("*.wav")))
    if not noises:
        raise network.error(f"{path / _NOISE} holds no .wav; unpack {ARCHIVE} again")
    splits = _split(path, network)
    return {
        name: _source(_chosen(splits[name], [seed, number]), noises, view, [seed, number], network)
        for number, name in enumerate(("train", "val", "test"))
    }


def _noise(file: Path, network: Network) -> np.ndarray:
    rate, samples = audio.read_wav(file)
    if rate != RATE_HZ or len(samples) < CLIP_SAMPLES:
        raise network.error(
            f"{file} has {len(samples)} samples of {rate} Hz; expected at least 1 s of {RATE_HZ} Hz"
        )
    return samples


def _split(path: Path, network: Network) -> dict[str, list[_Clip]]:
    """The clips of every split in the order of their names, other words labelled unknown."""
    listed: dict[str, str] = {}
    for split, name in _LISTS.items():
        try:
            lines = (path / name).read_text(encoding="utf-8").split()
        except (OSError, UnicodeDecodeError) as error:
            raise network.error(f"{path / name}: {error}; it comes with {ARCHIVE}") from None
        listed |= dict.fromkeys(lines, split)
    missing = [word for word in WORDS if not (path / word).is_dir()]
    if missing:
        raise network.error(f"no folder {path / missing[0]}; unpack {ARCHIVE} again")
    clips: dict[str, list[_Clip]] = {"train": [], "val": [], "test": []}
    for folder in sorted(path.iterdir()):
        if not folder.is_dir() or folder.name.startswith(("_", ".")):
            continue
        word = folder.name
        label = CLASSES.index(word if word in WORDS else "unknown")
        for file in sorted(folder.glob("*.wav")):
            split = listed.get(f"{word}/{file.name}", "train")
            clips[split].append(_Clip(file, label))
    for name, found in clips.items():
        if not any(clip.label >= CLASSES.index(WORDS[0]) for clip in found):
            raise network.error(f"no {name} clips of {', '.join(WORDS)} in {path}")
    return clips


def _chosen(clips: list[_Clip], seed: list[int]) -> list[_Clip]:
    """All clips of the ten words, a tenth as many of other words, and of silence, mixed."""
    generator = np.random.default_rng(seed)
    unknown = [clip for clip in clips if clip.label == CLASSES.index("unknown")]
    words = [clip for clip in clips if clip.label != CLASSES.index("unknown")]
    others = generator.permutation(len(unknown))[: math.ceil(_UNKNOWN_SHARE * len(words))]
    silence = [_Clip(None, CLASSES.index("silence"))] * math.ceil(_SILENCE_SHARE * len(words))
    mixed = [*words, *(unknown[number] for number in others), *silence]
    return [mixed[number] for number in generator.permutation(len(mixed))]


def _source(
    clips: list[_Clip],
    noises: tuple[np.ndarray, ...],
    view: View,
    seed: list[int],
    network: Network,
) -> Source:
    """Without a generator clean clips in one order; with one shuffled and augmented."""

    def start(generator: np.random.Generator | None) -> Iterator[tuple[np.ndarray, int]]:
        random = np.random.default_rng(seed) if generator is None else generator
        order = np.arange(len(clips)) if generator is None else random.permutation(len(clips))
        numbers = iter(order)
        while chunk := [clips[number] for number in itertools.islice(numbers, _CHUNK)]:
            heard = [_heard(c, noises, random, generator is not None, network) for c in chunk]
            seen = view.of(np.stack(heard)).reshape(len(chunk), *network.input_shape)
            yield from zip(seen, (clip.label for clip in chunk), strict=True)

    return Source(start, varies=True)


def _heard(
    clip: _Clip,
    noises: tuple[np.ndarray, ...],
    random: np.random.Generator,
    augment: bool,
    network: Network,
) -> np.ndarray:
    """float32 (CLIP_SAMPLES,) in -1 … 1."""
    if clip.path is None:
        return _with_noise(np.zeros(CLIP_SAMPLES, np.float32), noises, random, random.uniform())
    rate, samples = audio.read_wav(clip.path)
    if rate != RATE_HZ:
        raise network.error(f"{clip.path} has {rate} Hz; expected {RATE_HZ} Hz")
    sound = audio.fitted(samples, CLIP_SAMPLES)
    if not augment:
        return sound
    sound = shifted(sound, int(random.integers(-_SHIFT_SAMPLES, _SHIFT_SAMPLES + 1)))
    if random.uniform() >= _NOISE_PROBABILITY:
        return sound
    return _with_noise(sound, noises, random, random.uniform(0, _NOISE_VOLUME))


def shifted(sound: np.ndarray, samples: int) -> np.ndarray:
    """Later by `samples`, earlier where negative, with zeros where nothing was."""
    result = np.zeros_like(sound)
    if samples >= 0:
        result[samples:] = sound[: len(sound) - samples]
    else:
        result[:samples] = sound[-samples:]
    return result


def _with_noise(
    sound: np.ndarray, noises: tuple[np.ndarray, ...], random: np.random.Generator, volume: float
) -> np.ndarray:
    noise = noises[random.integers(len(noises))]
    start = random.integers(len(noise) - CLIP_SAMPLES + 1)
    added = np.float32(volume) * noise[start : start + CLIP_SAMPLES]
    return np.clip(sound + added, -1.0, 1.0)
