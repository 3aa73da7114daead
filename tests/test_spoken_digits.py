"""examples/speech: recordings are split, augmented and made into features, and trained on."""

import sys
from pathlib import Path

import numpy as np
import pytest

from redsc import data
from tests.data_files import speech, write_wav

sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "speech"))

import spoken_digits
import train

RATE_HZ = spoken_digits.SETTINGS.sample_rate_hz


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two digits of every speaker, ten each: tones of half a second, or of one and a half."""
    folder = tmp_path_factory.mktemp("recordings")
    time = np.arange(RATE_HZ * 3 // 2) / RATE_HZ
    for number, speaker in enumerate(spoken_digits.SPEAKERS):
        for digit in (3, 7):
            for index in range(10):
                tone = np.sin(2 * np.pi * (200 + 50 * number + 20 * digit) * time) * 8000
                tone = tone[: len(tone) // (3 if digit == 3 else 1)]
                write_wav(folder / f"{digit}_{speaker}_{index}.wav", tone, RATE_HZ)
    return folder


@pytest.fixture(scope="module")
def recordings(folder) -> spoken_digits.Recordings:
    return spoken_digits.read(folder)


def test_short_recordings_stand_in_silence_and_of_long_ones_the_middle_is_taken(recordings):
    assert recordings.clips.shape == (120, RATE_HZ)
    spoken = (recordings.clips != 0).mean(axis=1)
    assert np.all(np.abs(spoken[recordings.digits == 3] - 0.5) < 0.01)
    assert np.all(spoken[recordings.digits == 7] > 0.97)
    short = recordings.clips[recordings.digits == 3]
    assert not short[:, : RATE_HZ // 4 - 1].any()
    assert not short[:, -RATE_HZ // 4 + 1 :].any()


@pytest.mark.parametrize("left_out", [None, *spoken_digits.SPEAKERS])
def test_every_recording_is_in_one_split(recordings, left_out):
    masks = spoken_digits.split(recordings, left_out)
    assert np.all(sum(mask.astype(int) for mask in masks.values()) == 1)
    speakers = {name: set(recordings.speakers[mask]) for name, mask in masks.items()}
    if left_out is None:
        assert set(recordings.indices[masks["test"]]) == set(spoken_digits.TEST_INDICES)
        assert not set(recordings.indices[masks["train"]]) & {*range(8)}
    else:
        assert speakers["test"] == {left_out}
        assert len(speakers["val"]) == 1
        assert not speakers["train"] & (speakers["test"] | speakers["val"])


def test_noise_has_the_ratio_asked_for():
    generator = np.random.default_rng(0)
    clips = np.zeros((50, RATE_HZ), np.float32)
    clips[:, : RATE_HZ // 2] = generator.normal(0, 0.1, (50, RATE_HZ // 2))
    noise = spoken_digits.add_noise(clips, (5.0, 15.0), generator) - clips
    ratio_db = 10 * np.log10(0.01 / np.mean(noise**2, axis=1))  # to speech while it lasts
    assert 4.8 < ratio_db.min() < 7
    assert 13 < ratio_db.max() < 15.2


def test_augmented_clips_differ_and_come_again_for_a_seed(recordings):
    clips = recordings.clips[:20]
    first, again = (spoken_digits.augmented(clips, np.random.default_rng(5)) for _ in range(2))
    assert first.shape == clips.shape
    np.testing.assert_array_equal(first, again)
    assert not np.any([np.array_equal(a, b) for a, b in zip(first, clips, strict=True)])


def test_features_span_a_range_that_int8_can_hold(recordings):
    masks = spoken_digits.split(recordings, "theo")
    arrays = spoken_digits.dataset(recordings, masks, noisy=False, seed=0)
    assert len(arrays["x_train"]) == spoken_digits.COPIES * masks["train"].sum()
    assert arrays["x_test"].shape[1:] == (49, 10, 1)
    for name in ("train", "val", "test"):
        assert len(arrays["x_" + name]) == len(arrays["y_" + name])
        assert arrays["x_" + name].min() > -60  # digital zeros would be -247
    noisy = spoken_digits.dataset(recordings, {"test": masks["test"]}, noisy=True, seed=0)
    assert np.mean(noisy["x_test"][..., 0, 0]) > np.mean(arrays["x_test"][..., 0, 0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("of", "options", "classes", "tested"),
    [("digits", ("--left-out", "theo"), 10, 20), ("commands", (), 12, 24)],
)
def test_what_is_trained_is_saved_with_its_accuracy(
    folder, tmp_path, monkeypatch, capsys, of, options, classes, tested
):
    given = folder if of == "digits" else speech(tmp_path / "speech")
    monkeypatch.setattr(train, "MODEL", tmp_path / "speech.h5")
    monkeypatch.setattr(train, "DATA", tmp_path / "speech.npz")
    monkeypatch.setattr(sys, "argv", ["train.py", str(given), "--steps", "4", *options])
    train.main()
    *_, told, following = capsys.readouterr().out.splitlines()
    model, spec = following.removeprefix("next: redsc compile ").split(" --data ")
    test = data.load(spec, (49, 10, 1), (classes,), seed=0).test
    assert len(test) == tested
    network = sys.modules["tf_keras"].models.load_model(model)
    assert network.optimizer.iterations == 4
    right = network.predict(test.x, verbose=0).argmax(axis=1) == test.y
    assert told == f"test accuracy {100 * np.mean(right):.2f} %; wrote {model}"
