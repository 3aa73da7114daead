"""Google Speech Commands, on a small folder of its layout."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from redsc import audio, data, mfcc, speech_commands
from redsc.errors import UsageError
from redsc.sources import Network
from redsc.speech_commands import CLASSES, CLIP_SAMPLES, WORDS
from tests.data_files import speech, write_wav

RAW, FEATURES = (CLIP_SAMPLES,), (49, 10, 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return speech(tmp_path_factory.mktemp("speech"), train=4, held=2, others=("bed", "zero"))


def load(folder: Path, input_shape=RAW, output_shape=(12,), seed=0) -> data.Data:
    return data.load(f"speech-commands:{folder}", input_shape, output_shape, seed)


def passes(train: data.Split, seed: int, count: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """x and y of some training passes."""
    generator = np.random.default_rng(seed)
    batches = [batch for _ in range(count) for batch in train.batches(1, generator)]
    return np.concatenate([x for x, _ in batches]), np.concatenate([y for _, y in batches])


def refused(folder: Path, *parts: str, **options) -> None:
    with pytest.raises(UsageError) as caught:
        load(folder, **options)
    for part in parts:
        assert part in str(caught.value)


def test_the_published_lists_split_and_a_tenth_is_silence_and_unknown(folder):
    result = load(folder)
    words = dict.fromkeys(range(2, 12), 4)
    assert Counter(result.train.y.tolist()) == {0: 4, 1: 4, **words}
    for split in (result.validation, result.test):
        assert Counter(split.y.tolist()) == {0: 2, 1: 2, **dict.fromkeys(words, 2)}
        assert split.stream is None
    files = {path.name: audio.read_wav(path)[1] for path in (folder / "yes").iterdir()}
    listed = (folder / "testing_list.txt").read_text().split()
    expected = [audio.fitted(files[Path(n).name], CLIP_SAMPLES) for n in listed if "yes/" in n]
    got = result.test.x[result.test.y == CLASSES.index("yes")]
    assert sorted(x.tobytes() for x in got) == sorted(x.tobytes() for x in expected)


def test_classes_are_the_recipes_and_words_sound_like_themselves(folder):
    assert CLASSES[:4] == ("silence", "unknown", "yes", "no")
    test = load(folder).test
    tones = np.abs(np.fft.rfft(test.x)).argmax(axis=1)
    for label, tone in zip(test.y, tones, strict=True):
        if label > 1:
            assert tone == 100 * (WORDS.index(CLASSES[label]) + 1)
        if label == 1:
            assert tone in (1100, 1200)


@pytest.mark.parametrize(
    ("shape", "stride_ms"),
    [(FEATURES, 20), ((49, 1, 10), 20), ((25, 10, 1), 40), ((490,), 20), ((250,), 40)],
)
def test_networks_see_features_of_the_papers_settings(folder, shape, stride_ms):
    settings = mfcc.Settings(stride_ms=stride_ms)
    expected = mfcc.mfcc(load(folder).test.x, settings)
    got = load(folder, shape).test
    assert got.x.shape[1:] == shape
    np.testing.assert_allclose(got.x, expected.reshape(-1, *shape), atol=1e-3)


def test_passes_are_augmented_anew_and_reproducible(folder):
    train = load(folder).train
    x, y = passes(train, 0, count=2)
    again, _ = passes(load(folder).train, 0, count=2)
    assert np.array_equal(x, again)
    first, second = x[: len(train)], x[len(train) :]
    assert not {sample.tobytes() for sample in first} & {sample.tobytes() for sample in second}
    assert Counter(y[: len(train)].tolist()) == Counter(train.y.tolist())
    assert not np.array_equal(y[: len(train)], y[len(train) :])
    assert not np.array_equal(passes(train, 1)[0], first)
    assert np.abs(x).max() <= 1


def test_augmentation_is_the_recipes(folder):
    train = load(folder).train
    assert np.array_equal(load(folder).train.x, train.x)  # without a generator: as recorded
    x, y = passes(train, 3, count=30)
    words, silence = x[y > 1], x[y == 0]
    # The tones have an amplitude of 0.3, noise at the largest volume of 0.06: where the end of a
    # word holds no tone, it tells whether there is noise, and the beginning how far it was shifted.
    ends = np.abs(words[:, 15_700:]).max(axis=1)
    words, ends = words[ends < 0.1], ends[ends < 0.1]
    assert ends.max() * 32768 / 20_000 <= 0.1
    assert np.mean(ends > 0) == pytest.approx(0.8, abs=0.1)
    beginnings = np.argmax(words[ends == 0] != 0, axis=1)
    assert 800 < beginnings.max() <= 1601
    assert 0.1 < np.mean(beginnings > 1) < 0.6
    loudness = np.abs(silence).max(axis=1) * 32768 / 20_000
    assert loudness.min() < 0.2
    assert 0.8 < loudness.max() <= 1


def test_seeds_choose_unknown_words_and_order(folder):
    first, other = load(folder), load(folder, seed=1)
    assert not np.array_equal(first.train.y, other.train.y)
    unknown = [
        {x.tobytes() for x in result.train.x[result.train.y == 1]} for result in (first, other)
    ]
    assert unknown[0] != unknown[1]


@given(st.integers(-9, 9))
def test_shifting_fills_with_zeros(samples):
    sound = np.arange(1.0, 10.0)
    padded = np.pad(sound, 9)
    assert np.array_equal(speech_commands.shifted(sound, samples), padded[9 - samples :][:9])


def test_what_is_missing_or_damaged_is_named(tmp_path):
    def case(*parts, **options):
        refused(tmp_path, *parts, **options)

    refused(tmp_path / "none", "no such folder")
    case("_background_noise_", "speech_commands_v0.02.tar.gz")
    (tmp_path / "speech_commands_v0.02.tar.gz").touch()
    case("unpack it: tar xzf speech_commands_v0.02.tar.gz")
    speech(tmp_path, train=4, held=1)
    case("12 classes (silence, unknown, yes", "10 apart", output_shape=(10,))
    case("(8000,)", "(16000,)", input_shape=(8000,))
    case("(40, 10)", "49 frames", input_shape=(40, 10))
    clip = tmp_path / "yes" / "00000000_nohash_0.wav"
    content = clip.read_bytes()
    for wrong in (b"", b"hello", content[:20], content[:-7]):
        clip.write_bytes(wrong)
        case(str(clip), "replace or delete it")
    write_wav(clip, np.zeros(8000), 8000)
    case(str(clip), "8000 Hz", "16000 Hz")
    clip.write_bytes(content)
    noise = write_wav(tmp_path / "_background_noise_" / "white_noise.wav", np.zeros(9000))
    case(str(noise), "9000 samples", "at least 1 s")
    noise.unlink()
    (tmp_path / "testing_list.txt").rename(tmp_path / "list")
    case("testing_list.txt", "No such file")
    (tmp_path / "testing_list.txt").write_text("\n")
    case("no test clips")
    (tmp_path / "go").rename(tmp_path / "_go")
    case("go", "unpack")


def test_features_for_a_network_are_unique():
    for frames in range(2, 200):
        network = Network("x", (frames, 10, 1), (12,))
        try:
            settings = audio.view(network, 16_000).settings
        except UsageError:
            continue
        assert settings is not None
        assert settings.shape == (frames, 10, 1)
        assert (frames - 1) * settings.stride_ms == settings.clip_ms - settings.window_ms
