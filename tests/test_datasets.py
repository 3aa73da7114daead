"""Readers of published image sets, on small files in exactly their formats."""

from __future__ import annotations

import gzip
import pickle
import shutil
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redsc import data, datasets
from redsc.errors import UsageError
from redsc.sources import Network
from tests.data_files import cifar_10, fashion_mnist, packed, write_idx, write_png


def load(name, folder, input_shape, output_shape=(10,), seed=0):
    return data.load(f"{name}:{folder}", input_shape, output_shape, seed)


def refused(name, folder, input_shape, *parts, **options):
    with pytest.raises(UsageError) as caught:
        load(name, folder, input_shape, **options)
    for part in parts:
        assert part in str(caught.value)


FASHION, CIFAR, VISUAL = (28, 28, 1), (32, 32, 3), (8, 8, 3)


@pytest.mark.parametrize("suffix", [".gz", ""])
@pytest.mark.parametrize("input_shape", [FASHION, (28, 28), (28, 1, 28)])
def test_fashion_mnist(tmp_path, suffix, input_shape):
    result = load("fashion-mnist", fashion_mnist(tmp_path, suffix=suffix), input_shape)
    assert [len(s) for s in (result.train, result.validation, result.test)] == [45, 5, 12]
    assert result.test.x.shape[1:] == input_shape
    x = result.test.x.reshape(-1, 28, 28)
    assert np.array_equal(x[:, 5, 5], np.arange(12))
    assert np.all(x[:, 0, 27] == 200)
    assert np.all(x[:, 27, 0] != 200)
    assert np.array_equal(result.test.y, np.arange(12) % 10)
    assert np.array_equal(result.train.y, result.train.x.reshape(-1, 28, 28)[:, 5, 5] % 10)


def test_an_autoencoder_takes_the_images_alone(tmp_path):
    result = load("fashion-mnist", fashion_mnist(tmp_path), FASHION, FASHION)
    assert result.task == "reconstruction"


def test_fashion_mnist_that_is_damaged_names_the_file(tmp_path):
    def case(*parts, **options):
        refused("fashion-mnist", tmp_path, FASHION, *parts, **options)

    refused("fashion-mnist", tmp_path / "none", FASHION, "none", "no such folder")
    case("train-images-idx3-ubyte", "put the published files there")
    fashion_mnist(tmp_path)
    case("10 classes (t-shirt", "network tells 12 apart", output_shape=(12,))
    images = tmp_path / "t10k-images-idx3-ubyte.gz"
    content = gzip.decompress(images.read_bytes())
    huge = struct.pack(">4B3I", 0, 0, 8, 3, 2**31, 28, 28)
    signed = struct.pack(">4B3I", 0, 0, 9, 3, 12, 28, 28)
    for wrong in (content[:-1], content + b"0", content[:9], b"", huge, signed + content[16:]):
        images.write_bytes(gzip.compress(wrong))
        case(str(images), "get the published file again")
    for wrong in (b"hello", gzip.compress(content)[:-20], b""):
        images.write_bytes(wrong)
        case(str(images), "get the published file again")
    write_idx(images, np.zeros((11, 28, 28)))
    case("11 images", "12 labels")
    write_idx(images, np.zeros((12, 27, 28)))
    case(str(images), "(27, 28)")
    write_idx(images, np.zeros((12, 28, 28)))
    write_idx(tmp_path / "t10k-labels-idx1-ubyte.gz", np.full(12, 10))
    case("y_test", "label 10")


@pytest.mark.parametrize("form", ["inside", "itself", "archive"])
def test_cifar_10(tmp_path, form):
    folder = cifar_10(tmp_path / "sets")
    if form == "itself":
        folder = folder / "cifar-10-batches-bin"
    if form == "archive":
        packed(folder, tmp_path / "packed" / "cifar-10-binary.tar.gz")
        folder = tmp_path / "packed"
    result = load("cifar-10", folder, CIFAR)
    assert [len(s) for s in (result.train, result.validation, result.test)] == [45, 5, 10]
    expected = np.arange(10)[:, None] + [0, 1, 2]
    assert np.array_equal(result.test.x[:, 7, 8], expected)
    assert np.all(result.test.x[:, 31, 31, 1] == 250)
    assert np.array_equal(result.test.y, np.arange(10))
    assert np.array_equal(result.train.y, result.train.x[:, 0, 0, 0])


def test_pickles_are_never_read(tmp_path):
    class Trap:
        def __reduce__(self):
            return (exit, (3,))

    inside = tmp_path / "cifar-10-batches-py"
    inside.mkdir()
    (inside / "data_batch_1").write_bytes(pickle.dumps(Trap()))
    for folder in (tmp_path, inside):
        refused("cifar-10", folder, CIFAR, "pickles", "never read", "cifar-10-binary.tar.gz")


def test_cifar_10_that_is_damaged_names_the_file(tmp_path):
    refused("cifar-10", tmp_path, CIFAR, "no data_batch_1.bin", "kriz/cifar.html")
    inside = cifar_10(tmp_path) / "cifar-10-batches-bin"
    refused("cifar-10", tmp_path, CIFAR, "10 classes (airplane", output_shape=(4,))
    batch = inside / "data_batch_3.bin"
    content = batch.read_bytes()
    for wrong in (b"", content[:-1], content * 1001):
        batch.write_bytes(wrong)
        refused("cifar-10", tmp_path, CIFAR, "data_batch_3.bin", "3073")
    batch.write_bytes(bytes([10]) + content[1:])
    refused("cifar-10", tmp_path, CIFAR, "y_train", "label 10")
    batch.unlink()
    refused("cifar-10", tmp_path, CIFAR, str(batch), "get the file again")
    archive = packed(tmp_path, tmp_path.parent / "packed" / "cifar-10-binary.tar.gz")
    refused("cifar-10", archive.parent, CIFAR, str(archive), "data_batch_3.bin")
    archive.write_bytes(archive.read_bytes()[:300])
    refused("cifar-10", archive.parent, CIFAR, str(archive))
    archive.write_bytes(b"hello")
    refused("cifar-10", archive.parent, CIFAR, str(archive))


@settings(max_examples=40, deadline=None)
@given(content=st.binary(max_size=64) | st.binary(max_size=48).map(lambda b: b"\0\0\x08\x03" + b))
def test_no_bytes_at_all_crash_the_idx_reader(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("idx")
    (folder / "file").write_bytes(content)
    with pytest.raises(UsageError, match="file is damaged"):
        datasets._idx(folder, "file", 3, Network("x", FASHION, (10,)))


@pytest.mark.parametrize("inside", ["vw_coco2014_96", ""])
def test_visual_wake_words(tmp_path, inside):
    for number, name in enumerate(("person", "non_person")):
        for index in range(30):
            pixels = np.full((96, 96, 3), 100 * number + index)
            write_png(tmp_path / inside / name / f"COCO_{index}.png", pixels)
    result = load("visual-wake-words", tmp_path, VISUAL, (2,))
    assert [len(s) for s in (result.train, result.validation, result.test)] == [43, 5, 12]
    assert np.array_equal(result.train.y, result.train.x[:, 0, 0, 0] < 50)  # person is 1
    refused("visual-wake-words", tmp_path, VISUAL, "2 classes (non_person, person)")
    shutil.rmtree(tmp_path / inside / "person")
    refused("visual-wake-words", tmp_path, VISUAL, "person and non_person", output_shape=(2,))
    (tmp_path / "vw_coco2014_96.tar.gz").touch()
    hint = "unpack it: tar xzf vw_coco2014_96.tar.gz" if not inside else "no folders"
    refused("visual-wake-words", tmp_path, VISUAL, hint, output_shape=(2,))
