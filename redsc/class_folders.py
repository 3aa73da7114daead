"""A folder of class folders: images or sounds, through Keras' own loaders.

FOLDER/<class>/… is split by seed; FOLDER/train, FOLDER/val and FOLDER/test are taken as they are.
The names of the class folders in alphabetical order are the classes 0, 1, …

The loaders mix all file names by seed, and in every pass again, within a buffer; the same seed
gives the same order in the same pass. What they hold out is the same in every pass.
"""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from redsc import audio, sources
from redsc.sources import Network, Source, essential
from redsc.tf_network import tensorflow

IMAGES = (".bmp", ".gif", ".jpeg", ".jpg", ".png")
SOUNDS = (".wav",)
_SPLITS = ("train", "val", "test")
_COLOURS = {1: "grayscale", 3: "rgb", 4: "rgba"}
_BATCH_SIZE = 32

log = logging.getLogger("redsc")

Files = Mapping[str, tuple[Path, ...]]
"""The files of every class, in the order of the classes."""


@dataclass(frozen=True, eq=False)
class _Loader:
    """One of Keras' loaders with its options, and what the network sees of a batch it gives."""

    load: Callable[..., Any]
    see: Callable[[np.ndarray], np.ndarray]
    decode: Callable[[Path], Any]
    sample_bytes: int


def read(path: Path, network: Network, seed: int) -> dict[str, Source]:
    """Splits of the folder. Anything that does not fit the network, or is damaged: a UsageError."""
    folders = _splits(path, network)
    files = {name: _files(folder, network) for name, folder in folders.items()}
    _check_classes(files, network)
    every = [file for found in files.values() for group in found.values() for file in group]
    loader = _loader(every, network)
    counts = {name: sum(map(len, found.values())) for name, found in files.items()}
    load = functools.partial(_load, loader, network, seed % 2**32)
    datasets = {name: load(folders[name]) for name in folders if name not in ("", "train")}
    if "" in folders:
        test = sources.held_out(counts[""], sources.TEST_FRACTION)
        val = sources.held_out(counts[""] - test, sources.VALIDATION_FRACTION)
        datasets["train"], held = _load_pair(load, path, counts[""], test + val, network)
        datasets["test"] = held.unbatch().take(test).batch(_BATCH_SIZE)
        datasets["val"] = held.unbatch().skip(test).batch(_BATCH_SIZE)
    elif "val" in folders:
        datasets["train"] = load(folders["train"])
    else:
        val = sources.held_out(counts["train"], sources.VALIDATION_FRACTION)
        datasets["train"], datasets["val"] = _load_pair(
            load, folders["train"], counts["train"], val, network
        )
    return {name: _source(dataset, loader, every, network) for name, dataset in datasets.items()}


def names(path: Path, network: Network) -> tuple[str, ...]:
    """Of the classes 0, 1, …"""
    folder = next(iter(_splits(path, network).values()))
    return tuple(one.name for one in _folders(folder))


def _check_classes(files: Mapping[str, Files], network: Network) -> None:
    first = next(iter(files))
    for name, found in files.items():
        if list(found) != list(files[first]):
            raise network.error(
                f"{name} has the classes {', '.join(found)}; {first} has {', '.join(files[first])}"
            )
    if not network.reconstructs:
        sources.check_classes(list(files[first]), network)


def _folders(path: Path) -> list[Path]:
    return sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))


def _splits(path: Path, network: Network) -> dict[str, Path]:
    """The folders of class folders: train, val and test, or the one that is to be split."""
    train = path / "train"
    if not (train.is_dir() and _folders(train)):
        return {"": path}
    unknown = [folder.name for folder in _folders(path) if folder.name not in _SPLITS]
    if unknown:
        raise network.error(f"has {unknown[0]} beside train; expected {', '.join(_SPLITS)} alone")
    return {name: path / name for name in _SPLITS if (path / name).is_dir()}


def _files(path: Path, network: Network) -> Files:
    found = {
        folder.name: tuple(
            file for file in sorted(folder.rglob("*")) if file.suffix.lower() in IMAGES + SOUNDS
        )
        for folder in _folders(path)
    }
    if not found:
        raise network.error(
            f"no class folders in {path}; expected FOLDER/CLASS/… or FOLDER/train/CLASS/…"
        )
    for name, files in found.items():
        if not files:
            kinds = ", ".join(IMAGES + SOUNDS)
            raise network.error(f"class folder {path / name} holds no file of {kinds}")
    return found


def _loader(files: list[Path], network: Network) -> _Loader:
    sounds = [file for file in files if file.suffix.lower() in SOUNDS]
    if not sounds:
        return _image_loader(network)
    if len(sounds) < len(files):
        image = next(file for file in files if file.suffix.lower() in IMAGES)
        raise network.error(f"holds sounds and images ({sounds[0]}, {image}); give one of them")
    return _sound_loader(files, network)


def _image_loader(network: Network) -> _Loader:
    """Images resized to the network's height and width, in 0 … 255."""
    shape = network.input_shape
    if len(shape) != 3 or shape[2] not in _COLOURS:
        shape = (*essential(shape), 1)  # a row of a grey image may be a step of Conv1D
    if len(shape) != 3:
        raise network.error(
            f"holds images, and the network takes {network.input_shape}; expected (height, width, "
            "channels) with 1, 3 or 4 channels"
        )
    tf = tensorflow()
    load = functools.partial(
        tf.keras.utils.image_dataset_from_directory,
        color_mode=_COLOURS[shape[2]],
        image_size=shape[:2],
    )

    def decode(file: Path) -> Any:
        content = tf.io.read_file(str(file))
        return tf.io.decode_image(content, channels=shape[2], expand_animations=False)

    return _Loader(load, lambda images: images, decode, 4 * int(np.prod(shape)))


def _sound_loader(files: list[Path], network: Network) -> _Loader:
    """Sounds cut or filled with zeros to the network's length, or MFCC of their first second."""
    headers = [audio.wav_header(file) for file in files]
    rate = headers[0][0]
    for file, (other, _) in zip(files, headers, strict=True):
        if other != rate:
            raise network.error(
                f"{files[0]} has {rate} Hz, {file} {other} Hz; convert them to one sample rate"
            )
    view = audio.view(network, rate)
    shortest = min(samples for _, samples in headers)
    if view.settings is None and shortest > view.clip_samples:
        raise network.error(
            f"the shortest sound has {shortest} samples; the network takes {view.clip_samples}, "
            "so every sound would be cut. Raw samples or (frames, coefficients) are expected"
        )
    cut = sum(samples > view.clip_samples for _, samples in headers)
    log.info(
        "data %s: %d Hz, clips of %d samples, %d of %d files are cut to it, %s",
        network.source, rate, view.clip_samples, cut, len(files), view.settings or "no features",
    )  # fmt: skip
    tf = tensorflow()
    load = functools.partial(
        tf.keras.utils.audio_dataset_from_directory, output_sequence_length=view.clip_samples
    )
    return _Loader(
        load,
        lambda clips: view.of(clips[..., 0]),
        lambda file: tf.audio.decode_wav(tf.io.read_file(str(file))),
        4 * view.clip_samples,
    )


def _load(loader: _Loader, network: Network, seed: int, path: Path, **held_out: Any) -> Any:
    """The folder's dataset, in batches; or a pair, where the options hold some files out."""
    # The loader shuffles within 8 batches: they shall take a small part of the memory.
    fitting = sources.MEMORY_BYTES // (32 * loader.sample_bytes)
    with contextlib.redirect_stdout(io.StringIO()):  # results alone go there
        return loader.load(
            str(path),
            label_mode=None if network.reconstructs else "int",
            batch_size=max(1, min(_BATCH_SIZE, fitting)),
            seed=seed,
            **held_out,
        )


def _load_pair(
    load: Callable[..., Any], path: Path, files: int, held: int, network: Network
) -> tuple[Any, Any]:
    """The folder's dataset without `held` of its files; and theirs, in one order in every pass."""
    if held >= files:
        raise network.error(f"{files} files are too few to hold some out")
    fraction = (held + 0.5) / files  # the loader rounds down
    train, rest = load(path, validation_split=fraction, subset="both")
    return train, rest


def _source(dataset: Any, loader: _Loader, files: list[Path], network: Network) -> Source:
    errors = tensorflow().errors

    def start(_: np.random.Generator | None) -> Iterator[tuple[Any, Any]]:
        try:
            for batch in dataset.as_numpy_iterator():
                x, y = (batch, itertools.repeat(None)) if network.reconstructs else batch
                yield from zip(loader.see(x), y, strict=False)
        except errors.OpError as error:
            for file in files:  # the error does not say which
                try:
                    loader.decode(file)
                except errors.OpError as reason:
                    raise network.error(
                        f"{file} cannot be read ({_first_line(reason)}); replace or delete it"
                    ) from None
            raise network.error(_first_line(error)) from error

    return Source(start)


def _first_line(error: Any) -> str:
    line = str(error.message).strip().splitlines()[0]
    return line.partition("}} ")[2] or line  # without the name of the op
