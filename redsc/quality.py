"""What a compile's outputs are worth: fidelity, accuracy, confusion, calibration, agreement.

int8 figures are of the real int8 arithmetic, never of simulated quantisation.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from redsc import (
    classification,
    data,
    ir,
    loss,
    oracle,
    quantize,
    report,
    runner,
    tf_network,
    tflite,
    verify,
)
from redsc.distribution import Cluster
from redsc.measure import Samples
from redsc.progress import Progress
from redsc.quantized import QuantizedNetwork

KINDS = ("float", "int8")
"""Arithmetics in which a level's outputs are measured."""

CLASS_SCORES = ("accuracy", "class_accuracy", "calibration")
"""What a classifier is measured by, in each of them."""

EVALUATION_BATCH = 128
"""Samples that a core of the host runs at once, at every level: seconds even of large networks."""


_DOUBTED_SAMPLES = 512
_KNOWN = 0.95
"""A network that is right so often is not doubted, whatever classes there are."""

_NAMED_CLASSES = 4
"""Class names that a warning lists."""

LEAST_SQNR_DB = 10.0
"""Signal to quantisation noise below which the widest level's int8 outputs are worth a warning."""


@dataclass(frozen=True, eq=False)
class Quality:
    """What outputs say of the levels: the report's keys of each, and those of all.

    confusion: by arithmetic, float or int8, a matrix per level as `classification.confusion`
    makes it; empty unless there are classes and test samples. predictions: arrays of
    report/predictions.npz, "true" (samples,), "original" (samples,), float and int8 (levels,
    samples); empty likewise.
    """

    levels: list[dict[str, Any]]
    shared: dict[str, Any]
    confusion: Mapping[str, Sequence[np.ndarray]]
    predictions: Mapping[str, np.ndarray]


def evaluate(
    original: ir.Graph,
    network: QuantizedNetwork,
    tflites: Sequence[bytes],
    ladder: verify.Ladder,
    dataset: data.Data | None,
    samples: Samples,
    progress: Progress,
) -> Quality:
    """Fidelity to the level's own float network, and what the test split says, per level.

    original: the network as it was given, which the test split is asked about too.

    int8 outputs come from the host's proven kernels, else from the interpreter; without either
    they are not measured. Anything but a classifier has mean_squared_error instead of accuracy.
    Classes whose names the data do not say are called by number.
    """
    test = None if dataset is None else dataset.test
    x = samples.x if test is None else test.x
    outputs = {"float": [tf_network.predict(level.graph, x) for level in network.levels]}
    int8 = _int8_outputs(network, tflites, ladder, x, progress)
    if int8 is not None:
        outputs["int8"] = int8
    nothing = {f"{name}_{kind}": None for name in CLASS_SCORES for kind in KINDS}
    levels: list[dict[str, Any]] = [dict(nothing) for _ in network.levels]
    confusion: dict[str, list[np.ndarray]] = {}
    for number, level in enumerate(levels):
        real, quantised = outputs["float"][number], None if int8 is None else int8[number]
        level["fidelity"] = {"sqnr_db": None, "argmax_agreement": None}
        if quantised is not None:
            level["fidelity"] = report.fidelity(real, quantised)
        if dataset is None or test is None:
            continue
        if dataset.task != "classification":
            for kind, output in (("float", real), ("int8", quantised)):
                error = None if output is None else loss.mean_squared_error(output, test.y)
                level[f"mean_squared_error_{kind}"] = error
            continue
        for kind, answers in outputs.items():
            facts, matrix = _classified(network, answers[number], test.y, kind)
            level.update({f"{name}_{kind}": fact for name, fact in facts.items()})
            confusion.setdefault(kind, []).append(matrix)
    shared: dict[str, Any] = {
        "classes": None,
        "agreement": _agreement(network, dataset, int8),
        "original": {"accuracy": None, "mean_squared_error": None},
    }
    predictions: dict[str, np.ndarray] = {}
    if dataset is not None and test is not None:
        if confusion:
            shared["classes"] = _class_facts(confusion["float"][0], dataset.class_names)
        given = tf_network.predict(original, x)
        name = "accuracy" if dataset.task == "classification" else "mean_squared_error"
        shared["original"][name] = loss.score(given, test.y, original, dataset.task)
        if confusion:
            predictions = {"true": test.y, "original": loss.predictions(given, original)}
            for kind, of_levels in outputs.items():
                made = [loss.predictions(output, network.graph) for output in of_levels]
                predictions[kind] = np.stack(made)
    smallest = np.uint8 if confusion and len(confusion["float"][0]) <= 256 else np.uint16
    small = {name: array.astype(smallest) for name, array in predictions.items()}
    return Quality(levels, shared, confusion, small)


def _classified(
    network: QuantizedNetwork, outputs: np.ndarray, y: np.ndarray, kind: str
) -> tuple[dict[str, Any], np.ndarray]:
    """What a level's outputs (samples, *output shape) say of the classes `y`, and the confusion."""
    graph = network.graph
    predicted = loss.predictions(outputs, graph)
    smallest = classification.SMALLEST_PROBABILITY
    if kind == "int8" and loss.head(graph)[1] is not None:
        smallest = network.levels[-1].tensors[graph.output].scale / 2
    probability = classification.probabilities(outputs, graph)
    calibration = classification.calibration(probability, predicted, y, smallest)
    confusion = classification.confusion(y, predicted, classification.class_count(graph))
    facts = {
        "accuracy": float(np.mean(predicted == y)),
        "class_accuracy": _numbers(classification.class_accuracy(confusion)),
        "calibration": {
            "expected_error": round(calibration.expected_error, 6),
            "negative_log_likelihood": round(calibration.negative_log_likelihood, 6),
            "bins": {
                "samples": calibration.samples.tolist(),
                "confidence": _numbers(calibration.confidence),
                "accuracy": _numbers(calibration.accuracy),
            },
        },
    }
    return facts, confusion


def _numbers(values: np.ndarray) -> list[float | None]:
    """Six digits are plenty for people and scripts; what is not defined is null."""
    return [None if np.isnan(value) else round(float(value), 6) for value in values]


def _class_facts(confusion: np.ndarray, names: Sequence[str] | None) -> dict[str, Any]:
    return {
        "names": list(names or map(str, range(len(confusion)))),
        "samples": confusion.sum(axis=1).tolist(),
    }


def _agreement(
    network: QuantizedNetwork, dataset: data.Data | None, int8: Sequence[np.ndarray] | None
) -> dict[str, Any]:
    """How alike any two levels answer, in int8: levels × levels."""
    result: dict[str, Any] = {"argmax": None, "mean_squared_difference": None}
    if int8 is None:
        return result
    if not is_classifier(network, dataset):
        difference = classification.mean_squared_difference(int8)
        return {**result, "mean_squared_difference": difference.tolist()}
    answers = [
        output.argmax(axis=-1) if dataset is None else loss.predictions(output, network.graph)
        for output in int8
    ]
    return {**result, "argmax": classification.agreement(answers).round(6).tolist()}


def confusion_csv(quality: Quality) -> str:
    """A row per level, arithmetic and pair of classes that occurs."""
    header = ("level", "arithmetic", "true", "predicted", "samples")
    table: list[tuple[Any, ...]] = []
    for kind, matrices in quality.confusion.items():
        names = quality.shared["classes"]["names"]
        for number, matrix in enumerate(matrices):
            pairs = zip(*np.nonzero(matrix), strict=True)
            table += [(number, kind, names[i], names[j], matrix[i, j]) for i, j in pairs]
    return report.csv_text(header, table)


def _int8_outputs(
    network: QuantizedNetwork,
    tflites: Sequence[bytes],
    ladder: verify.Ladder,
    x: np.ndarray,
    progress: Progress,
) -> list[np.ndarray] | None:
    """Every level's real-valued outputs for raw inputs x, computed in int8."""
    if ladder.host_program is None and not oracle.available():
        return None
    interface = tflite.interface(tflites)
    params = network.levels[-1].tensors[network.graph.output]

    def run(raw: np.ndarray) -> list[np.ndarray]:
        inputs = quantize.quantize_input(network, raw)
        if ladder.host_program is not None:
            runs = runner.run_host(ladder.host_program, interface, inputs)
            outputs = [run.outputs for run in runs]
        else:
            outputs = [oracle.run(model, inputs)[0] for model in tflites]
        shape = (len(inputs), *interface.output_shape)
        return [quantize.dequantize_array(output.reshape(shape), params) for output in outputs]

    parts: list[list[np.ndarray]] = []
    workers = os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(x), EVALUATION_BATCH * workers):
            progress.step(start, len(x), f"{start} of {len(x)} samples")
            stop = start + EVALUATION_BATCH * workers
            batches = [x[i : i + EVALUATION_BATCH] for i in range(start, stop, EVALUATION_BATCH)]
            parts += pool.map(run, [batch for batch in batches if len(batch)])
    return [np.concatenate(level) for level in zip(*parts, strict=True)]


def doubts(graph: ir.Graph, dataset: data.Data, cluster: Cluster) -> list[str]:
    """Tells of a classifier that knows no more of the training data than how often each class
    comes: its classes are numbered otherwise, its values in another unit, or it was not trained.
    All workers say what the chief measured, for it can end the compile (--strict)."""
    if dataset.task != "classification":
        return []
    x, y = dataset.train.sample(_DOUBTED_SAMPLES, seed=0)
    right = loss.accuracy(tf_network.predict(graph, x), y, graph)
    right = float(cluster.from_chief({"right": np.array(right)})["right"])
    chance = float(np.bincount(y).max()) / len(y)
    if right > min(chance + 2 * math.sqrt(chance * (1 - chance) / len(y)), _KNOWN):
        return []
    names = dataset.class_names or ()
    numbered = ", ".join(f"{number} {name}" for number, name in enumerate(names[:_NAMED_CLASSES]))
    more = ", …" if len(names) > _NAMED_CLASSES else ""
    numbering = f" (here: {numbered}{more})" if names else ""
    return [
        f"the network as given recognises {right:.1%} of {len(y)} training samples, and one class "
        f"alone is {chance:.1%} of them: are the classes numbered as when it was trained"
        f"{numbering}, and the values in its own units (here {x.min():.6g} … {x.max():.6g})?"
    ]


def fidelity_warnings(levels: Sequence[Mapping[str, Any]]) -> list[str]:
    """Tells when int8 does not follow even the widest level's float network."""
    sqnr_db = levels[-1]["fidelity"]["sqnr_db"]
    if sqnr_db is None or sqnr_db >= LEAST_SQNR_DB:
        return []
    return [
        f"int8 follows the widest level's float outputs by {sqnr_db:g} dB only (its error is "
        f"{10 ** (-sqnr_db / 20):.0%} of them): are inputs or channels of very different size, or "
        "is the assumed input range far from the real one?"
    ]


def is_classifier(network: QuantizedNetwork, dataset: data.Data | None) -> bool:
    """Whether the largest output is the answer: by the data, else by a softmax at the end."""
    if dataset is not None:
        return dataset.task == "classification"
    return any(isinstance(op, ir.Softmax) for op in network.graph.ops)
