"""Fidelity, and what the test split says of a level's outputs."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from test_quantize import quantized

from redsc import (
    class_plots,
    data,
    distribution,
    ir,
    loss,
    measure,
    oracle,
    quality,
    quantize,
    report,
    tf_network,
    tflite,
    verify,
)
from redsc.progress import Progress
from tests import graphs


def test_fidelity_is_signal_over_error_and_equal_classes():
    real = np.array([[3.0, 4.0], [5.0, 0.0]])
    same = report.fidelity(real, real)
    assert same == {"sqnr_db": report.SQNR_CAP_DB, "argmax_agreement": 1.0}
    swapped = report.fidelity(real, np.array([[4.0, 3.0], [5.0, 0.0]]))
    assert swapped == {
        "sqnr_db": pytest.approx(10 * np.log10(50 / 2), abs=0.005),
        "argmax_agreement": 0.5,
    }


def test_every_position_of_a_map_has_a_class_and_a_single_output_has_none():
    real = np.zeros((2, 3, 1, 2))
    real[..., 0] = 1
    other = real.copy()
    other[0, 0, 0] = (0, 1)
    assert report.fidelity(real, other)["argmax_agreement"] == round(5 / 6, 4)
    assert report.fidelity(np.ones((4, 1)), np.zeros((4, 1)))["argmax_agreement"] is None


def test_a_warning_tells_when_the_widest_level_strays_from_float():
    def levels(*decibels):
        return [{"fidelity": {"sqnr_db": value}} for value in decibels]

    assert quality.fidelity_warnings(levels(3.0, 25.0)) == []
    assert quality.fidelity_warnings(levels(None)) == []
    (warning,) = quality.fidelity_warnings(levels(25.0, 6.02))
    assert "by 6.02 dB only (its error is 50% of them)" in warning


def small(outputs: int, last: type[ir.Op] | None, task: data.Task) -> tuple[Any, ...]:
    """A network of two levels that differ, data that it half fits, and samples."""
    net = graphs.GraphBuilder("net", (3,))
    net.dense(6)
    net.dense(outputs, activation=ir.Activation.NONE)
    if last is not None:
        net.append(last("last", (net.last,)))
    graph = net.graph()
    x = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    network = quantized(graph, x, (0.5, 1.0))
    y = loss.predictions(tf_network.predict(graph, x), graph)
    y[::2] = 0
    targets = y if task == "classification" else x[:, :outputs]
    split = data.Split(x, targets)
    return network, data.Data(task, split, split, split), measure.Samples(x, "", synthetic=False)


def evaluate(network: Any, dataset: data.Data | None, samples: measure.Samples) -> quality.Quality:
    """With the interpreter's int8 where it is installed."""
    tflites = [tflite.write(level) for level in network.levels]
    ladder = verify.Ladder(tuple(verify.Verdict() for _ in network.levels))
    with Progress() as progress:
        return quality.evaluate(network.graph, network, tflites, ladder, dataset, samples, progress)


@pytest.mark.parametrize(
    ("outputs", "last"), [(4, ir.Softmax), (4, None), (1, ir.Logistic), (1, None)]
)
def test_a_classifiers_figures_belong_together(outputs: int, last: type[ir.Op] | None) -> None:
    network, dataset, samples = small(outputs, last, "classification")
    found = evaluate(network, dataset, samples)
    assert dataset.test is not None
    counts = np.bincount(dataset.test.y, minlength=max(outputs, 2))
    assert found.shared["classes"] == {
        "names": [str(number) for number in range(max(outputs, 2))],
        "samples": counts.tolist(),
    }
    assert ("int8" in found.confusion) == oracle.available()
    for kind, matrices in found.confusion.items():
        for matrix, level in zip(matrices, found.levels, strict=True):
            np.testing.assert_array_equal(matrix.sum(axis=1), counts)
            assert level[f"accuracy_{kind}"] == pytest.approx(matrix.trace() / 40)
            right = [
                share * samples
                for share, samples in zip(level[f"class_accuracy_{kind}"], counts, strict=True)
                if samples
            ]
            assert sum(right) == pytest.approx(matrix.trace(), abs=1e-3)
            assert sum(level[f"calibration_{kind}"]["bins"]["samples"]) == 40
    rows = list(csv.DictReader(io.StringIO(quality.confusion_csv(found))))
    assert sum(int(row["samples"]) for row in rows) == 40 * 2 * len(found.confusion)
    if oracle.available():
        narrow, wide = found.predictions["int8"]
        alike = np.mean(narrow == wide)
        assert 0 < alike < 1
        assert found.shared["agreement"] == {
            "argmax": [[1.0, alike], [alike, 1.0]], "mean_squared_difference": None,
        }  # fmt: skip


def test_anything_else_has_errors_and_differences() -> None:
    network, dataset, samples = small(2, None, "regression")
    found = evaluate(network, dataset, samples)
    assert found.shared["classes"] is None
    assert found.confusion == {}
    assert found.shared["agreement"]["argmax"] is None
    for level in found.levels:
        assert level["accuracy_float"] is level["class_accuracy_float"] is None
        assert level["mean_squared_error_float"] > 0
    if oracle.available():
        inputs = quantize.quantize_input(network, samples.x)
        narrow, wide = (
            quantize.dequantize_array(
                oracle.run(tflite.write(level), inputs)[0], level.tensors[network.graph.output]
            )
            for level in network.levels
        )
        matrix = found.shared["agreement"]["mean_squared_difference"]
        difference = np.mean((narrow - wide) ** 2)
        assert difference > 0
        np.testing.assert_allclose(matrix, [[0, difference], [difference, 0]])


def test_without_data_only_fidelity_and_agreement_are_known() -> None:
    network, dataset, samples = small(4, ir.Softmax, "classification")
    found = evaluate(network, None, samples)
    assert found.shared["classes"] is None
    assert all(level["calibration_int8"] is None for level in found.levels)
    # The test split's inputs are the samples.
    assert found.shared["agreement"] == evaluate(network, dataset, samples).shared["agreement"]


def test_the_most_confused_pairs_come_in_order() -> None:
    matrix = np.array([[9, 2, 0], [0, 9, 5], [2, 0, 9]])
    assert class_plots.most_confused(matrix, 5) == [(1, 2, 5), (0, 1, 2), (2, 0, 2)]
    assert class_plots.most_confused(matrix, 1) == [(1, 2, 5)]


@pytest.mark.parametrize("classes", [2, class_plots.MATRIX_CLASSES + 1])
def test_pictures_of_any_number_of_classes_and_levels(classes: int) -> None:
    network, dataset, samples = small(classes, ir.Softmax, "classification")
    found = evaluate(network, dataset, samples)
    levels = [{"level": number, **level} for number, level in enumerate(found.levels)]
    drawn = class_plots.draw({"levels": levels, **found.shared}, found.confusion)
    assert set(drawn) == {"confusion.png", "calibration.png"}
    assert all(png.startswith(b"\x89PNG") for png in drawn.values())
    assert class_plots.draw({"levels": levels}, {}) == {}


def test_lists_of_numbers_are_a_line_of_the_report() -> None:
    given = {"a": [1, None, -2.5e-7], "b": [[1], [2]], "c": ["[\n1\n]", "x"], "d": [], "e": [{}]}
    text = report.to_json(given)
    assert json.loads(text) == given
    assert '"a": [1, null, -2.5e-07],' in text


def test_tables_per_class_say_what_is_known() -> None:
    network, dataset, samples = small(4, ir.Softmax, "classification")
    found = evaluate(network, dataset, samples)
    levels = [{"level": number, **level} for number, level in enumerate(found.levels)]
    shared = {**found.shared, "classes": {**found.shared["classes"], "names": ["[b]", *"xyz"]}}
    text = drawn({"levels": levels, **shared})
    assert "class [b]" in text
    assert "expected error, float" in text
    assert ("same class as level …, int8" in text) == oracle.available()
    assert drawn({"levels": [{"level": 0}]}) == ""  # a report of an earlier version


def drawn(shown: dict[str, Any]) -> str:
    stream = io.StringIO()
    report._draw_classes(shown, Console(file=stream, width=100))
    return stream.getvalue()


def test_a_network_that_does_not_know_the_data_is_doubted() -> None:
    graph = graphs.ds_cnn(8, 1, (8, 6, 1), 3)
    x = np.random.default_rng(0).normal(0, 10, (300, 8, 6, 1)).astype(np.float32)
    right = loss.predictions(tf_network.predict(graph, x), graph)
    wrong = (right + 1) % 3

    cluster = distribution.connect("one-device")

    def doubts(y: np.ndarray, names: tuple[str, ...] | None = None) -> list[str]:
        split = data.Split(x, y)
        dataset = data.Data("classification", split, split, None, class_names=names)
        return quality.doubts(graph, dataset, cluster)

    assert doubts(right) == []
    (text,) = doubts(wrong)
    assert "recognises 0.0% of 300 training samples" in text
    (text,) = doubts(wrong, ("cat", "dog", "owl"))
    assert "(here: 0 cat, 1 dog, 2 owl)" in text
    split = data.Split(x, x[:, 0, 0])
    assert quality.doubts(graph, data.Data("regression", split, split, None), cluster) == []
