"""Does one job of the study: trains, compiles, and asks the test split once."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import spoken_digits
import train
from jobs import (
    FASHION,
    FEW,
    FEW_SAMPLES,
    INDEX,
    KEYWORD_FAMILY,
    KEYWORDS,
    METHODS,
    PERCENTS,
    SCRATCH,
    SHORT,
    SHORT_EPOCHS,
    Job,
)
from networks import FAMILIES

from redsc import data, pipeline
from redsc.config import CompileOptions
from redsc.progress import Progress
from redsc.tf_network import tensorflow

BASE_STEPS = 1200
SCRATCH_LEARNING_RATE = 4e-3
"""Of networks trained alone, on validation data better than the base's 0.002 and than 0.008: 92.1,
91.7 and 91.5 % on Fashion-MNIST; a speaker who was not trained with 74, 71 and 73 %. With few
labels it is the base's."""

DIGITS, KEYWORD_CLASSES = 10, 12
KEYWORD_NETWORK = "mlperf_tiny_kws.h5"
KEYWORD_SCALE, KEYWORD_ZERO_POINT = 0.5847029089927673, 83
"""Of the published int8 network's input, in which the benchmark's features are."""

UNAUGMENTED = (FASHION, SHORT, KEYWORDS)
"""Splits without test samples in noise."""


@dataclasses.dataclass(frozen=True)
class Workshop:
    """`recordings` is the Free Spoken Digit Dataset's folder, `fashion` Fashion-MNIST's and
    `keywords` that of MLPerf Tiny's keyword network, if these are there; files are made in
    `folder`."""

    recordings: Path
    fashion: Path | None
    keywords: Path | None
    folder: Path

    def dataset(self, split: str, seed: int) -> str:
        """What to give to --data; validation and test recordings clean, then again with noise."""
        if split in (FASHION, SHORT):
            return f"{FASHION}:{self.fashion}"
        if split in (FEW, KEYWORDS):
            path = self.folder / f"{split}-{seed}.npz"
            with _only_once(path) as missing:
                if missing:
                    few = self._keywords(seed) if split == KEYWORDS else self._few(seed)
                    _save(path, lambda file: np.savez(file, **few))
            return str(path)
        path = self.folder / f"{split}.npz"
        with _only_once(path) as missing:
            if missing:
                everything = spoken_digits.read(self.recordings)
                left_out = None if split == INDEX else split.removeprefix("without-")
                masks = spoken_digits.split(everything, left_out)
                arrays = spoken_digits.dataset(everything, masks, noisy=False, seed=0)
                rest = {name: mask for name, mask in masks.items() if name != "train"}
                noisy = spoken_digits.dataset(everything, rest, noisy=True, seed=1)
                for name, array in noisy.items():
                    arrays[name] = np.concatenate([arrays[name], array])
                _save(path, lambda file: np.savez(file, **arrays))
        return str(path)

    def _few(self, seed: int) -> dict[str, np.ndarray]:
        """The index split with FEW_SAMPLES training samples."""
        with np.load(self.dataset(INDEX, seed)) as file:
            arrays = dict(file)
        count = len(arrays["x_train"])
        chosen = np.random.default_rng(seed + 100).permutation(count)[:FEW_SAMPLES]
        return arrays | {name: arrays[name][chosen] for name in ("x_train", "y_train")}

    def _keywords(self, seed: int) -> dict[str, np.ndarray]:
        """The benchmark's 1,000 features in three splits, drawn by seed."""
        assert self.keywords is not None
        with (self.keywords / "kws01" / "y_labels.csv").open(encoding="utf-8") as file:
            named = [(name, int(label)) for name, _, label in csv.reader(file)]
        bytes_of = [(self.keywords / "kws01" / name).read_bytes() for name, _ in named]
        q = np.stack([np.frombuffer(content, np.int8) for content in bytes_of])
        x = (q.astype(np.float32) - KEYWORD_ZERO_POINT) * np.float32(KEYWORD_SCALE)
        x, y = x.reshape(-1, 49, 10, 1), np.array([label for _, label in named])
        order = np.random.default_rng(seed).permutation(len(x))
        parts = {"train": order[:FEW_SAMPLES], "val": order[FEW_SAMPLES:500], "test": order[500:]}
        return {
            f"{axis}_{name}": array[chosen]
            for name, chosen in parts.items()
            for axis, array in (("x", x), ("y", y))
        }

    def load(self, split: str, seed: int) -> data.Data:
        shape = (28, 28, 1) if split in (FASHION, SHORT) else (49, 10, 1)
        return data.load(self.dataset(split, seed), shape, (_classes(split),), seed)

    def base(self, family: str, split: str, seed: int) -> Path:
        """The trained full network that all methods start from."""
        if family == KEYWORD_FAMILY:
            assert self.keywords is not None
            return self.keywords / KEYWORD_NETWORK
        split = {SHORT: FASHION, FEW: INDEX}.get(split, split)
        path = self.folder / f"{family}-{split}-{seed}.h5"
        with _only_once(path) as missing:
            if missing:
                network = self.trained(family, None, split, seed, BASE_STEPS)
                temporary = path.with_suffix(".new.h5")
                network.save(temporary)
                temporary.replace(path)
        return path

    def trained(
        self,
        family: str,
        widths: tuple[int, ...] | None,
        split: str,
        seed: int,
        steps: int,
        batch_size: int = train.BATCH_SIZE,
        rate: float = train.LEARNING_RATE,
    ) -> Any:
        tensorflow()
        import tf_keras as keras

        keras.utils.set_random_seed(seed)
        network = FAMILIES[family](keras, _classes(split), widths)
        train.train(network, self.load(split, seed).train, steps, seed, rate, batch_size)
        return network

    def compiled(self, model: Path, split: str, seed: int, **options: Any) -> dict[str, Any]:
        """What `redsc compile` reports, and each level's accuracies, clean and noisy."""
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            return self._compiled(Path(folder) / "build", model, split, seed, **options)

    def _compiled(
        self, output: Path, model: Path, split: str, seed: int, **options: Any
    ) -> dict[str, Any]:
        settings = CompileOptions(
            model, output, data=self.dataset(split, seed), seed=seed, verify=False, **options
        )
        with Progress() as progress:
            report = pipeline.compile_model(settings, progress)
        assert report is not None
        predictions = dict(np.load(output / "report" / "predictions.npz"))
        levels = []
        for number, level in enumerate(report["levels"]):
            accuracies = {
                f"{kind}_{part}": accuracy
                for kind in ("float", "int8")
                for part, accuracy in _accuracies(
                    split, predictions[kind][number], predictions["true"]
                )
            }
            groups = [name for name in level["widths"] if name not in report["fixed_groups"]]
            levels.append(
                {
                    "percent": level["budget_percent"],
                    "macs_percent": level["macs_percent"],
                    "widths": [level["widths"][name] for name in groups],
                    **accuracies,
                }
            )
        return {
            "original": dict(_accuracies(split, predictions["original"], predictions["true"])),
            "levels": levels,
            "training": report["training"],
            "candidates": report["search"]["candidates"],
            "search_seconds": report["search"]["seconds"],
            "proven_optimal": report["search"]["proven_optimal"],
            "seconds": report["seconds"],
        }


def run(workshop: Workshop, job: Job, done: dict[str, Any]) -> dict[str, Any]:
    """The result of a job; `done` holds earlier results by key."""
    started = time.monotonic()
    if job.method == SCRATCH:
        result = _from_scratch(workshop, job, done)
    else:
        base = workshop.base(job.family, job.split, job.seed)
        options = dict(METHODS[job.method])
        if job.split == SHORT:
            options["epochs"] = SHORT_EPOCHS
        result = workshop.compiled(base, job.split, job.seed, **options)
    return {
        "key": job.key, **dataclasses.asdict(job), **result,
        "job_seconds": round(time.monotonic() - started, 1),
    }  # fmt: skip


def _from_scratch(workshop: Workshop, job: Job, done: dict[str, Any]) -> dict[str, Any]:
    """Each of redsc's levels as a network of its own, the full one too: as many steps as base,
    supernet and fine-tuning, of as many samples on average."""
    found = done[dataclasses.replace(job, method="redsc").key]
    fine_tuning = found["training"]["steps"] + found["training"]["random_width_steps"]
    steps = BASE_STEPS + fine_tuning
    samples = BASE_STEPS * train.BATCH_SIZE + fine_tuning * found["training"]["batch_size"]
    rate = train.LEARNING_RATE if job.split in (FEW, KEYWORDS) else SCRATCH_LEARNING_RATE
    levels = []
    for percent, level in zip(PERCENTS, found["levels"], strict=True):
        network = workshop.trained(
            job.family, tuple(level["widths"]), job.split, job.seed + 100,
            steps, round(samples / steps), rate,
        )  # fmt: skip
        path = workshop.folder / f"scratch-{job.family}-{job.split}-{job.seed}-{percent}.h5"
        network.save(path)
        alone = workshop.compiled(path, job.split, job.seed, levels=(100.0,), epochs=0)
        levels.append({**alone["levels"][0], "percent": percent})
    return {"original": None, "levels": levels}


def _classes(split: str) -> int:
    return KEYWORD_CLASSES if split == KEYWORDS else DIGITS


def _accuracies(split: str, predicted: np.ndarray, true: np.ndarray) -> Iterator[tuple[str, float]]:
    """Of the clean samples and, of speech, the noisy ones, which follow them."""
    clean = len(true) if split in UNAUGMENTED else math.ceil(len(true) / 2)
    parts = {"clean": slice(None, clean), "noisy": slice(clean, None)}
    for part, chosen in parts.items():
        if len(true[chosen]):
            yield part, float(np.mean(predicted[chosen] == true[chosen]))


@contextmanager
def _only_once(path: Path) -> Iterator[bool]:
    """Whether `path` must be made; other processes wait meanwhile."""
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield not path.exists()


def _save(path: Path, write: Any) -> None:
    temporary = path.with_name(f".{path.name}.new")
    with temporary.open("wb") as file:
        write(file)
    temporary.replace(path)


def read_results(path: Path) -> dict[str, Any]:
    """Results by key; a line that was cut off by an interruption is left out."""
    results = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                result = json.loads(line)
            except ValueError:
                continue
            results[result["key"]] = result
    return results
