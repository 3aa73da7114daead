"""Compiles with data: what the options of training change, and what an interruption does not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import redsc
from redsc import checkpoint, config, finetune, pipeline, training
from redsc.progress import Progress
from tests.data_files import write_network
from tests.test_cli import run

SHAPE = (8, 6, 1)
LEVELS = (50.0, 100.0)

RESHUFFLED = """
import numpy as np
import tensorflow as tf

def load():
    stored = np.load({path!r})
    x, y = stored["x"], stored["y"]
    train = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x))  # anew in every pass
    def noisy(x, y):
        return x + np.random.normal(scale=0.1, size=x.shape).astype(np.float32), y
    def mapped(x, y):
        x, y = tf.numpy_function(noisy, (x, y), (tf.float32, tf.int64))
        return tf.ensure_shape(x, {shape}), tf.ensure_shape(y, ())
    held = tf.data.Dataset.from_tensor_slices((x, y)).take(40)
    return train.map(mapped), held, held
"""


@pytest.fixture(autouse=True)
def own_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDSC_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(finetune, "_CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(training, "STREAM_STEPS", 40)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network in model.h5; data it can learn as data.npz and as a function in sets.py."""
    folder = tmp_path_factory.mktemp("training")
    rng = np.random.default_rng(0)
    centres, y = rng.normal(size=(3, *SHAPE)), rng.integers(0, 3, 200)
    x = (centres[y] + rng.normal(size=(200, *SHAPE))).astype(np.float32)
    np.savez(folder / "data.npz", x=x, y=y)
    (folder / "sets.py").write_text(RESHUFFLED.format(path=str(folder / "data.npz"), shape=SHAPE))
    write_network(folder / "model.h5", SHAPE, convolutions=2, classes=3)
    return folder


class Interrupted(Progress):
    """Raises KeyboardInterrupt at a step whose line begins with `text`."""

    def __init__(self, text: str, number: int) -> None:
        super().__init__()
        self._text, self._number = text, number

    def step(self, number: int, count: int, text: str = "") -> None:
        super().step(number, count, text)
        if text.startswith(self._text) and number >= self._number:
            raise KeyboardInterrupt


def compiled(
    folder: Path, output: Path, data: str, progress: Progress | None = None, **options
) -> dict[str, bytes]:
    """What decides the levels' outputs: their files' bytes."""
    settings = config.CompileOptions(
        folder / "model.h5", output, data=data,
        **{"levels": LEVELS, "epochs": 3, "verify": False, **options},
    )  # fmt: skip
    pipeline.compile_model(settings, progress or Progress())
    return {path.name: path.read_bytes() for path in output.glob("levels/*.tflite")}


@pytest.mark.slow
@pytest.mark.parametrize("data", ["data.npz", "sets.py:load"])
def test_an_interrupted_compile_ends_with_the_same_bytes(
    folder: Path, tmp_path: Path, data: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whether it was stopped at random widths or in the levels' training; a stream that is
    shuffled anew in every pass goes on where it was."""
    spec = str(folder / data)
    whole = compiled(folder, tmp_path / "whole", spec, objective="probes")
    assert len(whole) == 2
    for text, number in (("random widths", 50), ("loss", 1), ("loss", 3)):
        with pytest.raises(KeyboardInterrupt):
            compiled(
                folder, tmp_path / "again", spec, Interrupted(text, number), objective="probes"
            )
    assert not (tmp_path / "again").exists()
    caplog.clear()
    assert compiled(folder, tmp_path / "again", spec, objective="probes") == whole
    assert "training goes on after epoch 2 of 3" in caplog.text


def test_checkpoints_of_another_version_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    own = checkpoint.folder("a training")
    assert checkpoint.folder("a training") == own
    monkeypatch.setattr(redsc, "__version__", "another")
    assert checkpoint.folder("a training") != own


@pytest.mark.slow
def test_what_changes_training_changes_the_levels(folder: Path, tmp_path: Path) -> None:
    spec = str(folder / "data.npz")
    variants: tuple[dict, ...] = (
        {},
        {"teacher": "full"},
        {"distillation": 0.0},
        {"mixing": True},
        {"hints": 1.0},
        {"loss_weights": (1.0, 5.0)},
        {"class_weights": (1.0, 1.0, 5.0)},
        {"tables": "multipliers"},
    )
    found = [
        compiled(folder, tmp_path / f"{number}", spec, objective="harmonic", **options)
        for number, options in enumerate(variants)
    ]
    assert len({levels["level_0.tflite"] for levels in found}) == len(variants)


@pytest.mark.slow
def test_weights_of_a_level_that_is_left_out_go_with_it(folder: Path, tmp_path: Path) -> None:
    """Of 8 units no quarter of the MACs is left at the narrowest width asked for."""
    spec = str(folder / "data.npz")
    kept = compiled(
        folder, tmp_path / "kept", spec, levels=None, min_width=6, loss_weights=(9.0, 9.0, 1.0, 2.0)
    )
    report = json.loads((tmp_path / "kept/report/report.json").read_text())
    training = report["training"]
    assert (training["epochs"], training["steps"]) == (3, 3 * (144 // 32))
    assert (training["teacher"], training["random_width_steps"]) == ("original", 0)
    percents = tuple(level["budget_percent"] for level in report["levels"])
    assert percents == (75, 100)
    asked = compiled(
        folder, tmp_path / "asked", spec, levels=percents, min_width=6, loss_weights=(1.0, 2.0)
    )
    assert kept == asked


@pytest.mark.slow
def test_widths_that_train_best_are_chosen_and_the_others_told(
    folder: Path, tmp_path: Path
) -> None:
    compiled(
        folder, tmp_path / "build", str(folder / "data.npz"),
        min_width=1, channel_step=1, objective="probes",
    )  # fmt: skip
    report = json.loads((tmp_path / "build/report/report.json").read_text())
    candidates = report["search"]["candidates"]
    assert len(candidates) > 1
    assert candidates[0]["from"] == "harmonic"
    best = min(candidates, key=lambda candidate: candidate["log_loss"])
    assert [candidate["chosen"] for candidate in candidates] == [c is best for c in candidates]
    steps = [report["training"][f"{name}_steps"] for name in ("random_width", "comparing")]
    assert steps == [60, 60]


@pytest.mark.parametrize("order", ["bottom-up", "top-down", "joint"])
def test_any_order_finds_nested_levels(folder: Path, tmp_path: Path, order: str) -> None:
    output = tmp_path / "build"
    options = ("-o", output, "--no-verify", "--levels", "50,100", "--order", order)
    assert run("compile", folder / "model.h5", *options).returncode == 0
    levels = json.loads((output / "report/report.json").read_text())["levels"]
    assert [level["budget_percent"] for level in levels] == [50, 100]
    narrow, wide = (level["widths"] for level in levels)
    assert all(narrow[group] <= wide[group] for group in wide)
