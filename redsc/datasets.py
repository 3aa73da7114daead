"""Readers of published data sets: `--data NAME:PATH`, where PATH holds the files as published.

Nothing is downloaded, and nothing in a file is executed. What is missing, damaged or unfit for
the network is a UsageError that names the file.
"""

from __future__ import annotations

import gzip
import math
import struct
import tarfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from redsc import class_folders, sources, speech_commands
from redsc.sources import Network

CLOTHES = (
    "t-shirt", "trouser", "pullover", "dress", "coat",
    "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
OBJECTS = (
    "airplane", "automobile", "bird", "cat", "deer",
    "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
PEOPLE = ("non_person", "person")

_DAMAGE = (OSError, EOFError, zlib.error, tarfile.TarError, struct.error)
_MOST_SAMPLES = 60_000
"""Of a file as published; one that claims more is damaged, and would fill the memory."""


def fashion_mnist(path: Path, network: Network, seed: int) -> dict[str, Any]:
    """uint8 (samples, 28, 28) and class numbers, of the four IDX files, packed or not.

    http://yann.lecun.com/exdb/mnist describes the format; MNIST's own files have the same names.
    """
    arrays: dict[str, Any] = {}
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images = _idx(path, f"{prefix}-images-idx3-ubyte", 3, network)
        labels = _idx(path, f"{prefix}-labels-idx1-ubyte", 1, network)
        if len(images) != len(labels):
            raise network.error(
                f"{prefix}-images has {len(images)} images, {prefix}-labels {len(labels)} labels; "
                "get both again"
            )
        arrays |= {f"x_{split}": images, f"y_{split}": labels}
    return _labelled(arrays, CLOTHES, network)


def _idx(path: Path, name: str, dimensions: int, network: Network) -> np.ndarray:
    """A file of unsigned bytes: 0, 0, 8, the number of dimensions; their sizes; the values."""
    files = [path / name, path / f"{name}.gz"]
    file = next((f for f in files if f.is_file()), None)
    if file is None:
        raise network.error(f"no file {files[0]} or {files[1].name}; put the published files there")
    try:
        unpack: Callable[[Path, str], Any] = gzip.open if file.suffix == ".gz" else Path.open
        with unpack(file, "rb") as unpacked:
            magic = unpacked.read(4)
            shape = struct.unpack(f">{dimensions}I", unpacked.read(4 * dimensions))
            if magic != bytes((0, 0, 8, dimensions)) or shape[0] > _MOST_SAMPLES:
                raise OSError(f"its header is {magic.hex()} {shape}")
            if any(size != 28 for size in shape[1:]):
                raise OSError(f"its images have the size {shape[1:]}")
            size = math.prod(shape)
            content = unpacked.read(size + 1)
    except _DAMAGE as error:
        raise _damaged(file, str(error), network) from None
    if len(content) != size:
        raise _damaged(file, f"it does not hold the {size} values that it says", network)
    return np.frombuffer(content, np.uint8).reshape(shape)


def cifar_10(path: Path, network: Network, seed: int) -> dict[str, Any]:
    """uint8 (samples, 32, 32, 3) and class numbers, of the binary version, packed or not.

    https://www.cs.toronto.edu/~kriz/cifar.html: records of a label and 3 · 32 · 32 bytes, all red
    ones first. The Python version holds pickles, which could execute anything: it is refused.
    """
    train = [f"data_batch_{number}.bin" for number in range(1, 6)]
    files = _cifar_files(path, [*train, "test_batch.bin"], network)
    arrays: dict[str, Any] = {}
    for split, names in (("train", train), ("test", ["test_batch.bin"])):
        records = np.concatenate([_records(files[name], name, network) for name in names])
        images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        arrays |= {f"x_{split}": images, f"y_{split}": records[:, 0]}
    return _labelled(arrays, OBJECTS, network)


_RECORD_BYTES = 1 + 3 * 32 * 32
_BATCH_BYTES = 10_000 * _RECORD_BYTES


def _cifar_files(path: Path, names: list[str], network: Network) -> dict[str, bytes]:
    for folder in (path, path / "cifar-10-batches-bin"):
        if (folder / names[0]).is_file():
            return {name: _content(folder / name, network) for name in names}
    archive = path / "cifar-10-binary.tar.gz"
    if not archive.is_file():
        pickled = ("data_batch_1", "cifar-10-batches-py", "cifar-10-python.tar.gz")
        found = next((name for name in pickled if (path / name).exists()), None)
        refused = "" if found is None else f"{found} holds pickles, which are never read; "
        raise network.error(
            f"no {names[0]} or {archive.name} in {path}; {refused}get the binary version, "
            f"{archive.name}, from https://www.cs.toronto.edu/~kriz/cifar.html"
        )
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(archive) as members:
            for member in members:
                name = Path(member.name).name
                if name in names and member.isfile() and member.size <= _BATCH_BYTES:
                    content = members.extractfile(member)
                    assert content is not None
                    files[name] = content.read()
    except _DAMAGE as error:
        raise _damaged(archive, str(error), network) from None
    for name in names:
        if name not in files:
            raise _damaged(archive, f"it holds no {name}", network)
    return files


def _content(file: Path, network: Network) -> bytes:
    try:
        with file.open("rb") as content:
            return content.read(_BATCH_BYTES + 1)
    except OSError as error:
        raise network.error(f"{file}: {error.strerror}; get the file again") from None


def _records(content: bytes, name: str, network: Network) -> np.ndarray:
    if not content or len(content) % _RECORD_BYTES or len(content) > _BATCH_BYTES:
        detail = f"{len(content)} bytes are not 1 … 10000 records of {_RECORD_BYTES}"
        raise _damaged(Path(name), detail, network)
    return np.frombuffer(content, np.uint8).reshape(-1, _RECORD_BYTES)


def visual_wake_words(path: Path, network: Network, seed: int) -> dict[str, Any]:
    """Images with and without people, of MLPerf Tiny's vw_coco2014_96, split by seed."""
    inside = path / "vw_coco2014_96"
    folder = inside if inside.is_dir() else path
    if not all((folder / name).is_dir() for name in PEOPLE):
        archive = path / "vw_coco2014_96.tar.gz"
        packed = f"; unpack it: tar xzf {archive.name}" if archive.is_file() else ""
        raise network.error(
            f"no folders person and non_person in {folder}; expected the content of MLPerf Tiny's "
            f"{archive.name}{packed}"
        )
    return dict(class_folders.read(folder, network, seed))


def _labelled(arrays: dict[str, Any], classes: tuple[str, ...], network: Network) -> dict[str, Any]:
    """Arrays with their labels, which a network that reconstructs its input does not need."""
    if network.reconstructs:
        return {key: array for key, array in arrays.items() if key.startswith("x")}
    sources.check_classes(classes, network)
    for key, array in arrays.items():
        if key.startswith("y") and len(array) and array.max() >= len(classes):
            raise network.error(
                f"{key} holds the label {array.max()}, the last one is {len(classes) - 1}; get the "
                "published files again"
            )
    return arrays


def _damaged(file: Path, detail: str, network: Network) -> Exception:
    return network.error(f"{file} is damaged ({detail}); get the published file again")


READERS = {
    "speech-commands": speech_commands.read,
    "fashion-mnist": fashion_mnist,
    "cifar-10": cifar_10,
    "visual-wake-words": visual_wake_words,
}


CLASS_NAMES = {
    "speech-commands": speech_commands.CLASSES,
    "fashion-mnist": CLOTHES,
    "cifar-10": OBJECTS,
    "visual-wake-words": PEOPLE,
}


def class_names(spec: str) -> tuple[str, ...]:
    """Of the classes 0, 1, … of a published data set."""
    return CLASS_NAMES[spec.partition(":")[0]]


def names_reader(spec: str) -> bool:
    """Whether `spec` is NAME:PATH of a published data set."""
    name, colon, _ = spec.partition(":")
    return bool(colon) and name in READERS


def read(network: Network, seed: int) -> Mapping[str, Any]:
    """The data set that `network.source` names: sources by split, or arrays by npz key."""
    name, _, path = network.source.partition(":")
    if not Path(path).is_dir():
        raise network.error(f"no such folder; {name}:PATH names the folder of the published files")
    return READERS[name](Path(path), network, seed)
