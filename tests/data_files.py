"""Small data sets in the formats in which the real ones are published."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import wave
from pathlib import Path

import numpy as np

from redsc import speech_commands
from redsc.tf_network import tensorflow


def write_network(path: Path, shape: tuple[int, ...], convolutions: int, classes: int) -> Path:
    """A Keras classifier of a few convolutions of 8 channels, each with batch-norm."""
    tensorflow()
    import tf_keras as keras

    layers = keras.layers
    keras.utils.set_random_seed(0)
    network = keras.Sequential([keras.Input(shape)])
    for _ in range(convolutions):
        network.add(layers.Conv2D(8, 3, use_bias=False))
        network.add(layers.BatchNormalization())
        network.add(layers.ReLU())
    network.add(layers.GlobalAveragePooling2D())
    network.add(layers.Dense(classes, activation="softmax"))
    network.save(path)
    return path


def write_wav(path: Path, samples: np.ndarray, rate: int = 16_000, channels: int = 1) -> Path:
    """16-bit PCM of samples in -32768 … 32767."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.asarray(samples).astype("<i2").tobytes())
    return path


def write_png(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tensorflow().io.encode_png(pixels.astype(np.uint8)).numpy())
    return path


def write_idx(path: Path, values: np.ndarray) -> Path:
    """http://yann.lecun.com/exdb/mnist: 0, 0, 8, number of dimensions, sizes, bytes."""
    header = struct.pack(f">4B{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    content = header + values.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def fashion_mnist(folder: Path, counts: tuple[int, int] = (50, 12), suffix: str = ".gz") -> Path:
    """Image n is full of n, its label n % 10."""
    folder.mkdir(parents=True, exist_ok=True)
    for prefix, count in zip(("train", "t10k"), counts, strict=True):
        numbers = np.arange(count)
        images = np.broadcast_to(numbers[:, None, None], (count, 28, 28)).copy()
        images[:, 0, 27] = 200  # the end of the first row
        write_idx(folder / f"{prefix}-images-idx3-ubyte{suffix}", images)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte{suffix}", numbers % 10)
    return folder


def cifar_10(folder: Path, count: int = 10) -> Path:
    """Six batches; image n of a batch is n red, n + 1 green, n + 2 blue, its label n % 10."""
    inside = folder / "cifar-10-batches-bin"
    inside.mkdir(parents=True)
    for name in [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]:
        records = [
            bytes([n % 10, *[n] * 1024, *[n + 1] * 1023, 250, *[n + 2] * 1024])
            for n in range(count)
        ]
        (inside / f"{name}.bin").write_bytes(b"".join(records))
    return folder


def packed(folder: Path, archive: Path) -> Path:
    """The folder's content as a .tar.gz."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w:gz") as members:
        for path in sorted(folder.iterdir()):
            members.add(path, path.name)
        extra = tarfile.TarInfo("readme.html")
        members.addfile(extra, io.BytesIO())
    return archive


def speech(folder: Path, train: int = 4, held: int = 2, others: tuple[str, ...] = ("bed",)) -> Path:
    """Speech Commands with `train` clips of each word, and `held` for validation and test each.

    Clips differ in length; those of word w sound at (w + 1) · 100 Hz.
    """
    lists: dict[str, list[str]] = {"validation_list.txt": [], "testing_list.txt": []}
    for number, word in enumerate((*speech_commands.WORDS, *others)):
        for index in range(train + 2 * held):
            name = f"{word}/{index:08x}_nohash_0.wav"
            time = np.arange(14_000 + 1000 * (index % 4)) / 16_000
            sound = 10_000 * np.sin(2 * np.pi * 100 * (number + 1) * time)
            write_wav(folder / name, sound)
            if index >= train:
                lists[("validation_list.txt", "testing_list.txt")[index % 2]].append(name)
    for name, lines in lists.items():
        (folder / name).write_text("\n".join(lines) + "\n")
    noise = np.random.default_rng(0).integers(-20_000, 20_000, 40_000)
    write_wav(folder / "_background_noise_" / "white_noise.wav", noise)
    write_wav(folder / "_background_noise_" / "running_tap.wav", noise[::-1])
    return folder
