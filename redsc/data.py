"""The user's data, `--data SPEC`: read, checked and split once.

Values stay in the Keras model's own raw units; only shapes are adapted to the network (a missing
axis of size 1 added, Conv1D's time axis as height). Everything wrong is a UsageError.
"""

from __future__ import annotations

import difflib
import math
import os
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from redsc import class_folders, datasets, sources, user_datasets
from redsc.errors import UsageError
from redsc.ir import Shape
from redsc.sources import Network, Source, essential

Task = Literal["classification", "reconstruction", "regression"]

BATCH_SIZE = 32
"""Samples per training step, and so the fewest a training split may have."""

_KEYS = ("x_train", "y_train", "x_val", "y_val", "x_test", "y_test", "x", "y")


@dataclass(frozen=True, eq=False)
class Split:
    """Samples of one split.

    x: float32 (samples, *input shape), raw units. y: int64 (samples,) class numbers, or float32
    (samples, *output shape) targets. A set larger than memory, or augmented, has `stream`,
    which starts a new pass over all its (x, y) samples; x and y are then a bounded part of it, or
    the samples as they were recorded, for calibration.
    """

    x: np.ndarray
    y: np.ndarray
    stream: sources.Samples | None = None

    def __len__(self) -> int:
        return len(self.x)

    def batches(
        self, size: int, generator: np.random.Generator | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """One pass in batches, shuffled with a generator; a last smaller batch then is dropped.

        A stream shuffles itself: that of a user's function is its tf.data pipeline's task.
        """
        if self.stream is not None:
            samples = self.stream(generator)
            yield from sources.batched(samples, size, drop_remainder=generator is not None)
            return
        order = np.arange(len(self)) if generator is None else generator.permutation(len(self))
        stop = len(self) if generator is None else len(self) // size * size
        for start in range(0, stop, size):
            chosen = order[start : start + size]
            yield self.x[chosen], self.y[chosen]

    def sample(self, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """At most `count` samples, chosen by seed."""
        chosen = np.random.default_rng(seed).permutation(len(self))[:count]
        return self.x[chosen], self.y[chosen]


@dataclass(frozen=True, eq=False)
class Data:
    """`test` is None when the user gave none: accuracy is then not measured. class_names: of class
    0, 1, …, where the data say them."""

    task: Task
    train: Split
    validation: Split
    test: Split | None
    warnings: tuple[str, ...] = ()
    class_names: tuple[str, ...] | None = None


def load(
    spec: str,
    input_shape: Shape,
    output_shape: Shape,
    seed: int,
    batch_size: int = BATCH_SIZE,
    output_bounds: tuple[float, float] = (-math.inf, math.inf),
) -> Data:
    """Data that fit such a network.

    spec: `FILE.npz`, a folder of class folders, `module:function` or `file.py:function`, or
    `NAME:PATH` of a published set (`datasets.READERS`). An npz holds x_train, y_train and
    optionally x_val, y_val, x_test, y_test; or x, y, split by `seed`. Without any y the network
    must reconstruct its input. Validation data that is missing comes out of the training data.
    output_bounds: what the network can give; targets beyond are warned about. Raises UsageError,
    with what was expected and what was got.
    """
    network = Network(spec, input_shape, output_shape, output_bounds)
    given = _read(network, seed)
    if any(isinstance(value, Source) for value in given.values()):
        splits = _from_sources(given, network)
    else:
        splits = _from_arrays(given, network, seed)
    names = _class_names(network) if splits.task == "classification" else None
    return replace(_complete(splits, network, seed, batch_size), class_names=names)


def _class_names(network: Network) -> tuple[str, ...] | None:
    """Of class folders and of published sets; an npz and a function have numbers alone."""
    spec = network.source
    if datasets.names_reader(spec):
        return datasets.class_names(spec)
    return class_folders.names(Path(spec), network) if Path(spec).is_dir() else None


def _read(network: Network, seed: int) -> Mapping[str, Any]:
    """Sources by split, or arrays by npz key."""
    spec = network.source
    if datasets.names_reader(spec):
        return datasets.read(network, seed)
    if Path(spec).is_dir():
        return class_folders.read(Path(spec), network, seed)
    if not user_datasets.names_function(spec):
        return _read_npz(Path(spec))
    given = user_datasets.call(spec, seed)
    if any(user_datasets.is_dataset(value) for value in given.values()):
        return _as_sources(given, network)
    return given


@dataclass(frozen=True, eq=False)
class _Splits:
    train: Split
    validation: Split | None
    test: Split | None
    task: Task
    warnings: tuple[str, ...] = ()


def _read_npz(path: Path) -> dict[str, Any]:
    """All arrays of the file; nothing in it is executed."""
    if not path.is_file():
        raise UsageError(f"data {path}: no such file or folder{_other_forms(str(path))}")
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as members:
                if sum(info.file_size for info in members.infolist()) > _memory_bytes() // 2:
                    raise MemoryError
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise UsageError(f"data {path}: a single array; write x and y with np.savez")
        with archive:
            unknown = [key for key in archive.files if key not in _KEYS]
            if unknown:
                raise UsageError(f"data {path}: {_unknown_key(unknown[0])}")
            return {key: archive[key] for key in archive.files}
    except MemoryError:
        raise UsageError(
            f"data {path}: unpacked it takes more than half of this machine's memory; give a "
            "module:function that returns tf.data datasets"
        ) from None
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, NotImplementedError) as error:
        detail = "it holds Python objects" if "allow_pickle" in str(error) else str(error)
        raise UsageError(
            f"data {path}: cannot be read as .npz ({detail}); write it with np.savez from arrays "
            "of numbers"
        ) from None


def _other_forms(spec: str) -> str:
    """What else than a file may be meant."""
    if spec.endswith(".npz"):
        return ""
    close = difflib.get_close_matches(spec.partition(":")[0], datasets.READERS, n=1)
    if ":" in spec and close:
        return f"; did you mean {close[0]}:PATH?"
    return " (a Python function is named module:function, a published set NAME:PATH)"


def _memory_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _unknown_key(key: str) -> str:
    close = difflib.get_close_matches(key, _KEYS, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"unknown key {key!r}{hint} (known: {', '.join(_KEYS)})"


def _from_arrays(given: Mapping[str, Any], network: Network, seed: int) -> _Splits:
    """Splits of in-memory arrays under npz keys."""
    for key in given:
        if key not in _KEYS:
            raise network.error(_unknown_key(key))
    if "x" in given and any(key not in ("x", "y") for key in given):
        raise network.error("has both x and split arrays; give x, y or x_train, y_train, …")
    name = "x" if "x" in given else "x_train"
    if name not in given:
        raise network.error(f"has no x_train and no x (found: {', '.join(given) or 'nothing'})")
    for key in given:
        if key.startswith("y") and key.replace("y", "x", 1) not in given:
            raise network.error(f"has {key} but no {key.replace('y', 'x', 1)}")
    task = _task(given.get(name.replace("x", "y", 1)), network)
    if name == "x":
        whole = _split(given, "", task, network)
        order = np.random.default_rng(seed).permutation(len(whole))
        cut = sources.held_out(len(whole), sources.TEST_FRACTION)
        return _Splits(_part(whole, order[cut:]), None, _part(whole, order[:cut]), task)
    splits = [
        _split(given, suffix, task, network) if "x" + suffix in given else None
        for suffix in ("_train", "_val", "_test")
    ]
    assert splits[0] is not None
    return _Splits(splits[0], splits[1], splits[2], task)


def _split(given: Mapping[str, Any], suffix: str, task: Task, network: Network) -> Split:
    x = inputs(given["x" + suffix], "x" + suffix, network)
    y = given.get("y" + suffix)
    if y is None and task != "reconstruction":
        raise network.error(f"has x{suffix} but no y{suffix}")
    y = x.reshape(-1, *network.output_shape) if y is None else y
    return Split(x, targets(y, len(x), "y" + suffix, task, network))


def _part(split: Split, chosen: np.ndarray) -> Split:
    return Split(split.x[chosen], split.y[chosen])


def _numbers(array: Any, name: str, network: Network) -> np.ndarray:
    array = np.asarray(array)
    if array.dtype.kind not in "fiub":
        raise network.error(f"{name} has dtype {array.dtype}; expected numbers")
    if array.ndim == 0 or len(array) == 0:
        raise network.error(f"{name} is empty")
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):
            wrong = ~np.isfinite(array.astype(np.float32))
        if wrong.any():
            raise network.error(
                f"{name} holds NaN, infinity or values beyond float32 ({wrong.sum()})"
            )
    return array


def inputs(array: Any, name: str, network: Network) -> np.ndarray:
    """float32 (samples, *input shape): axes of size 1 may be missing or extra."""
    array = _numbers(array, name, network)
    if essential(array.shape[1:]) != essential(network.input_shape):
        raise network.error(
            f"{name} has samples of shape {array.shape[1:]}; the network takes "
            f"{network.input_shape}"
        )
    return np.ascontiguousarray(array.reshape(len(array), *network.input_shape), dtype=np.float32)


def _task(y: Any, network: Network) -> Task:
    """What the targets ask for, judged by the training split's."""
    if y is None:
        if network.reconstructs:
            return "reconstruction"
        raise network.error(
            f"has no targets y, and the network's output {network.output_shape} is not of its "
            f"input's shape {network.input_shape}"
        )
    y = np.asarray(y)
    if _one_hot(y, network) or _class_numbers(y, network):
        return "classification"
    if network.reconstructs and y.ndim > 1:
        return "reconstruction"
    return "regression"


def _one_hot(y: np.ndarray, network: Network) -> bool:
    rows = y.reshape(len(y), -1) if y.ndim > 1 and len(y) else y
    if rows.ndim != 2 or rows.shape[1] != network.outputs or network.outputs < 2:
        return False
    return y.dtype.kind in "fiub" and bool(
        np.all((rows == 0) | (rows == 1)) and np.all(rows.sum(axis=1) == 1)
    )


def _class_numbers(y: np.ndarray, network: Network) -> bool:
    """Whole numbers, one per sample; with a single output only 0 and 1 are classes."""
    if y.ndim == 0 or y.size != len(y) or y.dtype.kind not in "fiub":
        return False
    if y.dtype.kind == "f" and not np.array_equal(y, np.round(y)):
        return False
    return network.outputs > 1 or bool(np.all((y == 0) | (y == 1)))


def targets(y: Any, samples: int, name: str, task: Task, network: Network) -> np.ndarray:
    """int64 (samples,) class numbers, or float32 (samples, *output shape)."""
    y = _numbers(y, name, network)
    if len(y) != samples:
        raise network.error(f"{name} has {len(y)} samples, {name.replace('y', 'x', 1)} {samples}")
    if task == "classification":
        return _classes(y, name, network)
    if y.size != samples * network.outputs:
        raise network.error(
            f"{name} has samples of shape {y.shape[1:]}; the network gives {network.output_shape}"
        )
    return np.ascontiguousarray(y.reshape(samples, *network.output_shape), dtype=np.float32)


def _classes(y: np.ndarray, name: str, network: Network) -> np.ndarray:
    if _one_hot(y, network):
        return y.reshape(len(y), -1).argmax(axis=1)
    if not _class_numbers(y, network):
        raise network.error(
            f"{name} has shape {y.shape} and dtype {y.dtype}; expected class numbers (samples,) or "
            f"one-hot (samples, {network.outputs})"
        )
    labels = y.reshape(-1).astype(np.int64)
    classes = max(network.outputs, 2)
    if labels.min() < 0 or labels.max() >= classes:
        hint = "; count classes from 0" if labels.min() == 1 and labels.max() == classes else ""
        raise network.error(
            f"{name} holds labels {labels.min()} … {labels.max()}; the network has {classes} "
            f"classes, 0 … {classes - 1}{hint}"
        )
    return labels


def _as_sources(given: Mapping[str, Any], network: Network) -> dict[str, Source]:
    """What a function returned by split name, if it is all tf.data datasets."""
    for name, dataset in given.items():
        if name not in ("train", "val", "test"):
            raise network.error(f"function returned {name!r}; expected train, val and test")
        if not user_datasets.is_dataset(dataset):
            raise network.error(f"{name!r} is a {type(dataset).__name__}, others are datasets")
    if "train" not in given:
        raise network.error("function returned no 'train' dataset")
    return {
        name: user_datasets.source(dataset, network.input_shape, f"data {network.source}: {name}")
        for name, dataset in given.items()
    }


def _from_sources(given: Mapping[str, Source], network: Network) -> _Splits:
    """Splits collected where they fit in memory; a training split that does not is streamed."""
    if given["train"].endless and "val" not in given:
        raise network.error(
            "dataset 'train' never ends, so samples kept for validation would come again in "
            "training; return a 'val' dataset too, or leave out repeat()"
        )
    parts = {
        name: sources.collect(source, f"data {network.source}: {name}", sources.MEMORY_BYTES)
        for name, source in given.items()
    }
    for name, part in parts.items():
        if not part.x:
            raise network.error(f"dataset {name!r} is empty")
    y = parts["train"].y
    task = _task(None if y is None else np.stack(y), network)
    splits: dict[str, Split] = {}
    warnings: list[str] = []
    for name, source in given.items():
        complete = parts[name].complete
        streamed = name == "train" and (
            source.varies or not complete or sources.is_augmented(source, parts[name])
        )
        arrays = _stacked(name, parts.pop(name))  # of large splits no more copies than must be
        split = _split(arrays, "_" + name, task, network)
        if streamed:
            split = replace(split, stream=_checked_stream(source.samples, task, network))
        elif not complete:
            memory = f"does not fit in {sources.MEMORY_BYTES >> 20} MiB"
            reason = "never ends" if source.endless else memory
            warnings.append(
                f"data {network.source}: dataset {name!r} {reason}; its first {len(split)} "
                "samples are used"
            )
        splits[name] = split
    return _Splits(splits["train"], splits.get("val"), splits.get("test"), task, tuple(warnings))


def _stacked(name: str, part: sources.Collected) -> dict[str, np.ndarray]:
    """As the arrays of an npz file."""
    arrays = {"x_" + name: np.stack(part.x)}
    if part.y is not None:
        arrays["y_" + name] = np.stack(part.y)
    return arrays


def _checked_stream(samples: sources.Samples, task: Task, network: Network) -> sources.Samples:
    def stream(
        generator: np.random.Generator | None,
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for x, y in samples(generator):
            arrays = {"x_train": np.asarray(x)[None]}
            if y is not None:
                arrays["y_train"] = np.asarray(y)[None]
            split = _split(arrays, "_train", task, network)
            yield split.x[0], split.y[0]

    return stream


def _complete(splits: _Splits, network: Network, seed: int, batch_size: int) -> Data:
    """Cut validation out of training data if need be, and check what only whole splits show."""
    train, validation = splits.train, splits.validation
    if validation is None:
        train, validation = _cut_validation(train, seed)
    if len(train) < batch_size:
        kept = len(splits.train) - len(train)
        note = f" ({kept} of {len(splits.train)} are kept for validation)" if kept else ""
        raise network.error(
            f"{len(train)} training samples are fewer than a batch of {batch_size}{note}; give "
            "more data"
        )
    if splits.task == "classification" and len(np.unique(train.y)) < 2:
        raise network.error(f"all training labels are {train.y[0]}: one class cannot be learned")
    warnings = (*splits.warnings, *_doubts(splits.task, train.y, network))
    return Data(splits.task, train, validation, splits.test, warnings)


def _doubts(task: Task, y: np.ndarray, network: Network) -> list[str]:
    """Tells of targets that are unlikely to be meant so, and that the network cannot give."""
    low, high = network.output_bounds
    if task == "regression" and (low, high) == (0, 1) and network.outputs > 1:
        return [
            f"data {network.source}: the targets are neither class numbers nor one-hot rows, so "
            "the levels are trained and scored by mean squared error; accuracy is not measured"
        ]
    beyond = np.mean((y < low) | (y > high))
    if task == "classification" or not beyond:
        return []
    found = (
        f"{beyond:.0%} of the training targets ({y.min():.6g} … {y.max():.6g}) lie outside "
        f"{low:g} … {high:g}, which is all that the network's last activation gives"
    )
    if network.outputs == 1 and (low, high) == (0, 1) and np.array_equal(y, np.round(y)):
        raise network.error(f"{found}; number the two classes 0 and 1")
    return [f"data {network.source}: {found}; scale the targets, or train a network that fits them"]


def _cut_validation(train: Split, seed: int) -> tuple[Split, Split]:
    """A tenth of the training samples as validation; of a stream, every tenth of the known part."""
    if train.stream is None:
        order = np.random.default_rng(seed).permutation(len(train))
        cut = sources.held_out(len(train), sources.VALIDATION_FRACTION)
        return _part(train, order[cut:]), _part(train, order[:cut])
    source, every = train.stream, round(1 / sources.VALIDATION_FRACTION)
    known = np.arange(len(train))
    held = known % every == 0

    def rest(
        generator: np.random.Generator | None,
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for number, pair in enumerate(source(generator)):
            if number >= len(held) or not held[number]:
                yield pair

    return replace(_part(train, known[~held]), stream=rest), _part(train, known[held])
