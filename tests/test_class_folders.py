"""Folders of class folders: images and sounds."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from redsc import data, mfcc, sources
from redsc.errors import UsageError
from tests.data_files import write_png, write_wav

IMAGE, SOUND = (4, 6, 1), (1600,)
RATE = 16_000


def images(folder: Path, classes: tuple[str, ...] = ("cat", "ant"), count: int = 30) -> Path:
    """Image n of the class that comes as number c is full of 100 c + n."""
    for number, name in enumerate(classes):
        for index in range(count):
            write_png(folder / name / f"{index}.png", np.full(IMAGE, 100 * number + index))
    return folder


def sounds(folder: Path, lengths: tuple[int, ...] = (1200, 1600, 2000), rate: int = RATE) -> Path:
    """20 sounds each of two classes, all samples of sound n of class c are 1000 c + n."""
    for number, name in enumerate(("low", "high")):
        for index in range(20):
            samples = np.full(lengths[index % len(lengths)], 1000 * number + index)
            write_wav(folder / name / f"{index}.WAV", samples, rate)
    return folder


def load(folder: Path, input_shape=IMAGE, output_shape=(2,), seed=0):
    return data.load(str(folder), input_shape, output_shape, seed, batch_size=8)


def refused(folder: Path, *parts: str, **options) -> None:
    with pytest.raises(UsageError) as caught:
        load(folder, **options)
    for part in parts:
        assert part in str(caught.value)


def test_a_folder_is_split_by_seed_and_classes_are_in_alphabetical_order(tmp_path, caplog, capsys):
    caplog.set_level(logging.INFO, "redsc")
    folder = images(tmp_path / "set")
    result = load(folder)
    assert [len(s) for s in (result.train, result.validation, result.test)] == [43, 5, 12]
    splits = (result.train, result.validation, result.test)
    values = np.concatenate([split.x for split in splits])
    labels = np.concatenate([split.y for split in splits])
    assert sorted(values[:, 0, 0, 0]) == [*range(30), *range(100, 130)]
    assert np.array_equal(values, np.broadcast_to(values[:, :1, :1], values.shape))
    assert np.array_equal(labels, values[:, 0, 0, 0] < 50)  # ant 0, cat 1
    assert any("classes 0 ant, 1 cat" in record.getMessage() for record in caplog.records)
    assert capsys.readouterr().out == ""
    again, other = load(folder), load(folder, seed=2**40 + 1)
    assert np.array_equal(result.train.x, again.train.x)
    assert np.array_equal(result.test.x, again.test.x)
    assert not np.array_equal(result.test.x, other.test.x)
    assert len(np.unique(result.train.y[:10])) == 2  # not one class after the other


def test_given_splits_are_kept_and_validation_may_miss(tmp_path):
    folder = tmp_path / "set"
    images(folder / "train")
    images(folder / "test", count=3)
    result = load(folder)
    assert [len(s) for s in (result.train, result.validation, result.test)] == [54, 6, 6]
    images(folder / "val", count=4)
    result = load(folder)
    assert [len(s) for s in (result.train, result.validation, result.test)] == [60, 8, 6]
    assert sorted(result.test.x[:, 0, 0, 0]) == [0, 1, 2, 100, 101, 102]
    refused(images(folder / "more").parent, "more beside train", "train, val, test")


@pytest.mark.parametrize(
    ("input_shape", "pixel"),
    [((2, 3, 3), [10, 20, 30]), ((2, 3, 4), [10, 20, 30, 255]), ((8, 8, 3), [10, 20, 30])],
)
def test_images_are_resized_and_have_the_networks_channels(tmp_path, input_shape, pixel):
    for name in "ab":
        for index in range(20):
            write_png(tmp_path / name / f"{index}.PNG", np.full((4, 6, 3), (10, 20, 30)))
    x = load(tmp_path, input_shape=input_shape).train.x
    assert x.shape[1:] == input_shape
    np.testing.assert_allclose(x, np.broadcast_to(np.float32(pixel), x.shape), rtol=1e-5)


def test_a_network_without_channel_axis_takes_grey_images(tmp_path):
    assert load(images(tmp_path), input_shape=(4, 1, 6)).train.x.shape[1:] == (4, 1, 6)


def test_a_network_that_reconstructs_takes_images_as_targets(tmp_path):
    result = load(images(tmp_path, ("all",), 60), output_shape=IMAGE)
    assert result.task == "reconstruction"
    assert np.array_equal(result.train.x, result.train.y)


def test_the_waveform_is_cut_or_filled_to_the_networks_length(tmp_path):
    result = load(sounds(tmp_path), input_shape=SOUND)
    assert result.train.x.shape[1:] == SOUND
    for x, y in zip(result.train.x, result.train.y, strict=True):
        index = round(float(x[0]) * 32768) - (0 if y else 1000)  # high 0, low 1
        length = min((1200, 1600, 2000)[index % 3], 1600)
        wanted = np.zeros(1600, np.float32)
        wanted[:length] = (index + (0 if y else 1000)) / 32768
        assert np.array_equal(x, wanted)


@pytest.mark.parametrize(
    ("shape", "rate", "stride_ms"), [((49, 10, 1), 16_000, 20), ((25, 1, 12), 8000, 40)]
)
def test_a_network_of_frames_and_coefficients_sees_mfcc(tmp_path, shape, rate, stride_ms):
    sounds(tmp_path, (rate // 2, 2 * rate), rate)
    coefficients = shape[1] * shape[2]
    settings = mfcc.Settings(rate, stride_ms=stride_ms, coefficients=coefficients)
    clips = np.zeros((40, rate), np.float32)
    for index in range(40):
        clips[index, : (rate // 2, rate)[index % 2]] = (1000 * (index // 20) + index % 20) / 32768
    expected = mfcc.mfcc(clips, settings).reshape(40, *shape)
    result = load(tmp_path, input_shape=shape)
    splits = (result.train, result.validation, result.test)
    got = np.concatenate([split.x for split in splits]).reshape(40, -1)
    expected = expected.reshape(40, -1)
    nearest = np.abs(got[:, None] - expected).max(axis=2)
    assert np.array_equal(np.sort(nearest.argmin(axis=0)), np.arange(40))
    np.testing.assert_allclose(nearest.min(axis=0), 0, atol=1e-3)
    labels = np.concatenate([split.y for split in splits])
    assert np.array_equal(labels, nearest.argmin(axis=1) < 20)


def test_wrong_folders_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "no class folders")
    folder = images(tmp_path / "three", ("a", "b", "c"), 10)
    refused(folder, "3 classes (a, b, c)", "2 apart")
    refused(folder, "3 classes", "5 apart", output_shape=(5,))
    refused(folder, "(7,)", "(height, width, channels)", input_shape=(7,), output_shape=(3,))
    (folder / "d").mkdir()
    refused(folder, str(folder / "d"), "no file", output_shape=(4,))
    write_wav(folder / "d" / "x.wav", np.zeros(9))
    refused(folder, "sounds and images", "x.wav", output_shape=(4,))
    few = images(tmp_path / "few", count=1)
    refused(few, "2 files are too few")
    split = tmp_path / "split"
    images(split / "train", ("a", "b"), 10)
    images(split / "test", ("a", "c"), 10)
    refused(split, "a, c", "a, b")


def test_damaged_images_are_named(tmp_path):
    folder = images(tmp_path)
    damaged = folder / "cat" / "7.png"
    damaged.write_bytes(damaged.read_bytes()[:40])
    refused(folder, str(damaged), "replace or delete it")
    damaged.write_bytes(b"")
    refused(folder, str(damaged))


def test_wrong_sounds_are_named(tmp_path):
    folder = sounds(tmp_path)
    refused(folder, "(48, 16)", "49 frames", input_shape=(48, 16))
    refused(folder, "(3, 3, 3)", input_shape=(3, 3, 3))
    refused(folder, "1200 samples", "takes 49", input_shape=(49, 1, 1))
    odd = folder / "low" / "3.WAV"
    sound = odd.read_bytes()
    write_wav(odd, np.zeros(1600), 22_050)
    refused(folder, str(odd), "22050 Hz", "16000 Hz", input_shape=SOUND)
    write_wav(odd, np.zeros(1600), channels=2)
    refused(folder, str(odd), "2 channels", input_shape=SOUND)
    for content in (b"", b"hello", sound[:30], sound[:-9]):
        odd.write_bytes(content)
        refused(folder, str(odd), input_shape=SOUND)
    for rate in (4000, 11_025):
        refused(
            sounds(tmp_path / str(rate), rate=rate), f"{rate} Hz", "16000", input_shape=(49, 10)
        )


def test_a_folder_larger_than_memory_is_streamed_in_another_order_every_pass(tmp_path, monkeypatch):
    images(tmp_path)
    monkeypatch.setattr(sources, "MEMORY_BYTES", 2000)
    whole = load(tmp_path)
    assert len(whole.train) == 20  # 24 pixels and a label of 4 bytes take 100
    assert len(whole.test) == 12
    passes = [
        [int(v) for x, _ in whole.train.batches(1, np.random.default_rng(0)) for v in x[:, 0, 0, 0]]
        for _ in range(2)
    ]
    assert len(passes[0]) == 43
    assert passes[0] != passes[1]
    assert sorted(passes[0]) == sorted(passes[1])
    held = {*whole.validation.x[:, 0, 0, 0], *whole.test.x[:, 0, 0, 0]}
    assert held.isdisjoint(passes[0])
    again = load(tmp_path).train.batches(1, np.random.default_rng(0))
    assert [int(x[0, 0, 0, 0]) for x, _ in again] == passes[0]
