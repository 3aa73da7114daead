"""What a compile with data says of its levels, computed again from what it wrote."""

from __future__ import annotations

import csv
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from redsc import oracle
from redsc.fixed_point import round_half_away
from redsc.tf_network import tensorflow
from tests.data_files import write_network
from tests.test_cli import run

pytestmark = pytest.mark.slow
# The interpreter's wheel is for Linux on x86-64 and Python below 3.12 alone (setup.cfg).
needs_oracle = pytest.mark.skipif(not oracle.available(), reason="tflite-micro is not installed")

SHAPE = (8, 6, 1)
CLASS_SAMPLES = (70, 30, 50)
"""Of the test split: unequal, so that rows and columns of a confusion are not mistaken."""


@dataclass(frozen=True)
class Compiled:
    """A project's folder with its report, the network it was made of, and the test split."""

    folder: Path
    report: dict[str, Any]
    model: Path
    x: np.ndarray
    y: np.ndarray

    @property
    def predictions(self) -> dict[str, np.ndarray]:
        return dict(np.load(self.folder / "report" / "predictions.npz"))


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """Two levels of a network that learns classes a little, so that both err and differ."""
    folder = tmp_path_factory.mktemp("analysis")
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 0.2, (3, *SHAPE))
    train, test = rng.integers(0, 3, 300), np.repeat(np.arange(3), CLASS_SAMPLES)
    arrays = {"y_train": train, "y_test": test}
    for part, y in (("train", train), ("test", test)):
        arrays[f"x_{part}"] = centres[y] + rng.normal(size=(len(y), *SHAPE))
    np.savez(folder / "data.npz", **arrays)
    model = write_network(folder / "model.h5", SHAPE, convolutions=2, classes=3)
    result = run(
        "compile", model, "--data", folder / "data.npz", "-o", folder / "build",
        "--levels", "40,100", "--epochs", "3",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    report = json.loads((folder / "build" / "report" / "report.json").read_text())
    return Compiled(folder / "build", report, model, arrays["x_test"], test)


@pytest.fixture(scope="module")
def outputs(compiled: Compiled) -> list[np.ndarray]:
    """The TFLite Micro interpreter's int8 outputs of every level's file for the test split."""
    given = compiled.report["input"]
    real = compiled.x.astype(np.float32).astype(np.float64) * given["rescale"] + given["offset"]
    inputs = round_half_away(real / given["scale"]) + given["zero_point"]
    inputs = np.clip(inputs, -128, 127).astype(np.int8)
    files = [compiled.folder / "levels" / f"level_{number}.tflite" for number in range(2)]
    return [oracle.run(file.read_bytes(), inputs)[0] for file in files]


@needs_oracle
def test_accuracies_and_agreement_are_those_of_the_levels_files(
    compiled: Compiled, outputs: list[np.ndarray]
) -> None:
    answers = [output.argmax(axis=1) for output in outputs]
    assert np.array_equal(compiled.predictions["int8"], answers)
    for level, answer in zip(compiled.report["levels"], answers, strict=True):
        assert level["accuracy_int8"] == np.mean(answer == compiled.y) < 1
        shares = [np.mean(answer[compiled.y == name] == name) for name in range(3)]
        assert level["class_accuracy_int8"] == [round(share, 6) for share in shares]
    alike = round(np.mean(answers[0] == answers[1]), 6)
    assert alike < 1
    assert compiled.report["agreement"]["argmax"] == [[1, alike], [alike, 1]]


@needs_oracle
def test_calibration_is_that_of_the_levels_files(
    compiled: Compiled, outputs: list[np.ndarray]
) -> None:
    rows = np.arange(len(compiled.y))
    for level, output in zip(compiled.report["levels"], outputs, strict=True):
        probability = (output.astype(float) + 128) / 256
        right = output.argmax(axis=1) == compiled.y
        confidence = probability.max(axis=1)
        numbers = np.ceil(15 * confidence).astype(int) - 1
        surplus = np.bincount(numbers, right - confidence, 15)
        likelihood = np.log(np.maximum(probability[rows, compiled.y], 1 / 512))
        found = level["calibration_int8"]
        assert found["bins"]["samples"] == np.bincount(numbers, minlength=15).tolist()
        assert found["expected_error"] == round(np.abs(surplus).sum() / len(rows), 6)
        assert found["negative_log_likelihood"] == round(-likelihood.mean(), 6)


def test_predictions_are_those_that_the_report_counts(compiled: Compiled) -> None:
    tensorflow()
    import tf_keras as keras

    found = compiled.predictions
    given = keras.models.load_model(compiled.model).predict(compiled.x, verbose=0)
    assert np.array_equal(found["true"], compiled.y)
    assert np.array_equal(found["original"], given.argmax(axis=1))
    assert compiled.report["original"]["accuracy"] == np.mean(found["original"] == found["true"])
    for kind in ("float", "int8"):
        accuracies = [level[f"accuracy_{kind}"] for level in compiled.report["levels"]]
        assert accuracies == np.mean(found[kind] == found["true"], axis=1).tolist()


def test_confusion_counts_every_prediction(compiled: Compiled) -> None:
    assert compiled.report["classes"] == {"names": ["0", "1", "2"], "samples": [*CLASS_SAMPLES]}
    found = compiled.predictions
    wanted = Counter(
        (number, kind, true, predicted)
        for kind in ("float", "int8")
        for number in range(2)
        for true, predicted in zip(compiled.y, found[kind][number], strict=True)
    )
    with (compiled.folder / "report" / "confusion.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    counts = {
        (int(row["level"]), row["arithmetic"], int(row["true"]), int(row["predicted"])): int(
            row["samples"]
        )
        for row in rows
    }
    assert len(counts) == len(rows)
    assert counts == wanted


def test_the_summary_has_the_reports_accuracies(compiled: Compiled) -> None:
    with (compiled.folder / "report" / "summary.csv").open() as stream:
        for row, level in zip(csv.DictReader(stream), compiled.report["levels"], strict=True):
            for name in ("accuracy_float", "accuracy_int8"):
                assert float(row[name]) == level[name]


def test_pictures_are_drawn(compiled: Compiled) -> None:
    for name in ("levels", "tradeoff", "importance", "confusion", "calibration"):
        picture = compiled.folder / "report" / f"{name}.png"
        assert picture.read_bytes().startswith(b"\x89PNG"), name
