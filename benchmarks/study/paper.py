"""Repeats a table of the REDS paper (arXiv 2311.13349): trains its network, compiles it, compares.

The paper's budgets count a layer's inputs in full, so its "25 %" network has 10-24 % of the MACs;
redsc's has 25 %. The paper's accuracy is in float.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import networks
import train

from redsc import data, pipeline
from redsc.config import Budget, CompileOptions
from redsc.progress import Progress
from redsc.tf_network import tensorflow

_L_STRIDES = ((2, 1), 2, 1, 1, 1, 1)


@dataclasses.dataclass(frozen=True)
class Table:
    """A network of the paper; `accuracies` are the paper's in percent at a percentage of `budget`,
    empty where it gives none, `original` that of the network alone."""

    build: Callable[[Any, int], Any]
    classes: int
    accuracies: Mapping[float, float]
    original: float | None = None
    budget: Budget = "macs"


def _at_quarters(*accuracies: float) -> dict[float, float]:
    return dict(zip((100.0, 75.0, 50.0, 25.0), accuracies, strict=True))


def _speech(build: Callable[[Any, int], Any], *accuracies: float) -> Table:
    return Table(build, 12, _at_quarters(*accuracies))


def _images(shape: tuple[int, int, int], original: float, *accuracies: float) -> Table:
    def build(keras: Any, classes: int) -> Any:
        return networks.for_bytes(keras, train.ds_cnn(keras, classes, shape=shape))

    return Table(build, 10, _at_quarters(*accuracies), original)


def _dnn(width: int) -> Callable[[Any, int], Any]:
    return lambda keras, classes: networks.dense(keras, classes, (width,) * 3, (25, 10, 1))


def _mobilenet(keras: Any, classes: int) -> Any:
    """MobileNetV1-0.25 at 96 x 96, from random weights."""
    network = keras.applications.MobileNet((96, 96, 3), 0.25, weights=None, classes=classes)
    return networks.for_bytes(keras, network)


TABLES: Mapping[str, Mapping[str, Table]] = {
    "speech-commands": {
        "ds-cnn-s": _speech(train.ds_cnn, 93.4, 93.2, 92.1, 89.6),
        "ds-cnn-s-ten-levels": Table(
            train.ds_cnn,
            12,
            dict(zip(
                range(10, 101, 10),
                (58.5, 84.1, 87.6, 89.4, 91.0, 92.3, 92.6, 92.8, 93.3, 93.5),
                strict=True,
            )),
        ),
        "ds-cnn-l": _speech(
            lambda keras, classes: train.ds_cnn(keras, classes, (276,) * 6, _L_STRIDES),
            94.45, 94.33, 94.17, 93.2,
        ),
        "cnn-s": _speech(networks.cnn, 91.60, 90.63, 88.39, 79.52),
        "cnn-l": _speech(
            lambda keras, classes: networks.cnn(keras, classes, (60, 76, 58, 128)),
            92.83, 92.74, 91.95, 90.24,
        ),
        "dnn-s": _speech(_dnn(144), 83.52, 82.29, 78.36, 64.42),
        "dnn-l": _speech(_dnn(436), 86.46, 86.38, 85.62, 82.61),
    },
    "fashion-mnist": {"ds-cnn-s": _images((28, 28, 1), 90.59, 91.6, 91.51, 90.75, 89.22)},
    "cifar-10": {"ds-cnn-s": _images((32, 32, 3), 79.36, 81.07, 80.17, 76.72, 68.66)},
    "visual-wake-words": {"mobilenet": Table(_mobilenet, 2, {}, budget="ram")},
}  # fmt: skip
"""By data set and network, the first network being the default."""


def repeat(spec: str, name: str | None, steps: int, epochs: int | None, folder: Path) -> None:
    """Trains, unless `folder` holds the trained network already, compiles, and prints."""
    published = spec.partition(":")[0]
    tables = TABLES.get(published, {})
    name = name or next(iter(tables), None)
    table = tables.get(name or "")
    if table is None:
        known = [f"{of}: {', '.join(names)}" for of, names in TABLES.items()]
        sys.exit(f"the paper has no {name or 'network'} on {published}, but\n" + "\n".join(known))
    folder.mkdir(parents=True, exist_ok=True)
    model = folder / f"{published}-{name}-{steps}.h5"
    if not model.exists():
        _train(table, spec, steps, model)
    options = CompileOptions(
        model, model.with_suffix(""), data=spec, epochs=epochs, budget=(table.budget,),
        levels=tuple(sorted(table.accuracies)) or None,
    )  # fmt: skip
    with Progress() as progress:
        report = pipeline.compile_model(options, progress)
    assert report is not None
    print(_text(table, report))


def _train(table: Table, spec: str, steps: int, model: Path) -> None:
    tensorflow()
    import tf_keras as keras

    keras.utils.set_random_seed(0)
    network = table.build(keras, table.classes)
    dataset = data.load(spec, network.input_shape[1:], (table.classes,), 0, train.BATCH_SIZE)
    train.train(network, dataset.train, steps, 0)
    network.save(model)


def _text(table: Table, report: Mapping[str, Any]) -> str:
    lines = [f"{'level':>6} {'MACs':>7} {'float':>7} {'int8':>7} {'paper':>7}"]
    for level in report["levels"]:
        paper = _percent(table.accuracies.get(level["budget_percent"]))
        lines.append(
            f"{level['budget_percent']:>4g} % {level['macs_percent']:>5.1f} % "
            f"{100 * level['accuracy_float']:>7.2f} {100 * level['accuracy_int8']:>7.2f} "
            f"{paper:>7}"
        )
    original = 100 * report["original"]["accuracy"]
    lines.append(
        f"{'alone':>6} {'100.0 %':>7} {original:>7.2f} {'':>7} {_percent(table.original):>7}"
    )
    return "\n".join(lines)


def _percent(accuracy: float | None) -> str:
    return "-" if accuracy is None else f"{accuracy:.2f}"
