"""Confusion, accuracy per class, calibration, agreement: against plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_loss import network

from redsc import classification, ir, loss


@st.composite
def answers(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(samples, classes) probabilities, the classes they name, the true ones."""
    samples, classes = draw(st.integers(1, 40)), draw(st.integers(2, 5))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    probability = generator.dirichlet(
        np.full(classes, draw(st.sampled_from((0.1, 1, 10)))), samples
    )
    if draw(st.booleans()):  # as int8 gives them: on the edges of bins, ties, zeros
        probability = np.round(probability * 15) / 15
    return probability, probability.argmax(axis=1), generator.integers(0, classes, samples)


@given(answers())
def test_confusion_counts_every_pair(case: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    probability, predicted, y = case
    classes = probability.shape[1]
    matrix = classification.confusion(y, predicted, classes)
    for i in range(classes):
        for j in range(classes):
            assert matrix[i, j] == sum(a == i and b == j for a, b in zip(y, predicted, strict=True))
    for i, accuracy in enumerate(classification.class_accuracy(matrix)):
        mine = [b == i for a, b in zip(y, predicted, strict=True) if a == i]
        assert accuracy == pytest.approx(np.mean(mine)) if mine else math.isnan(accuracy)


@given(answers())
def test_calibration_agrees_with_a_plain_loop(
    case: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    probability, predicted, y = case
    found = classification.calibration(probability, predicted, y, smallest=1e-3)
    likelihood, expected_error = 0.0, 0.0
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(classification.BINS)]
    for row, guess, true in zip(probability, predicted, y, strict=True):
        likelihood -= math.log(max(row[true], 1e-3)) / len(y)
        number = next(m for m in range(1, 16) if row[guess] <= m / 15 or m == 15)
        bins[number - 1].append((row[guess], guess == true))
    for number, content in enumerate(bins):
        assert found.samples[number] == len(content)
        if not content:
            assert math.isnan(found.accuracy[number])
            assert math.isnan(found.confidence[number])
            continue
        confidence, accuracy = np.mean(content, axis=0)
        assert found.confidence[number] == pytest.approx(confidence)
        assert found.accuracy[number] == pytest.approx(accuracy)
        expected_error += len(content) / len(y) * abs(accuracy - confidence)
    assert found.expected_error == pytest.approx(expected_error)
    assert found.negative_log_likelihood == pytest.approx(likelihood)


def test_half_sure_and_half_right_is_calibrated_and_sure_and_wrong_is_not() -> None:
    half = np.full((4, 2), 0.5)
    y = np.array([0, 1, 0, 1])
    assert classification.calibration(half, np.zeros(4, int), y).expected_error == 0
    sure = np.array([[0.0, 1.0]] * 4)
    wrong = classification.calibration(sure, np.ones(4, int), np.zeros(4, int), 1 / 512)
    assert wrong.expected_error == 1
    assert wrong.negative_log_likelihood == pytest.approx(math.log(512))


VALUES = np.random.default_rng(0).normal(0, 3, (50, 4))


@pytest.mark.parametrize(
    ("outputs", "last"),
    [(1, None), (1, ir.Logistic), (4, None), (4, ir.Softmax), (4, ir.Logistic)],
)
def test_probabilities_are_those_of_the_classes_predicted(
    outputs: int, last: type[ir.Op] | None
) -> None:
    graph = network(outputs, last)
    values = VALUES[:, :outputs]
    if last is not None:
        values = np.exp(values)
        values /= values.sum(axis=1, keepdims=True) if last is ir.Softmax else 1 + values
    probability = classification.probabilities(values, graph)
    assert probability.shape == (50, classification.class_count(graph))
    np.testing.assert_allclose(probability.sum(axis=1), 1)
    np.testing.assert_array_equal(probability.argmax(axis=1), loss.predictions(values, graph))
    if outputs == 4 and last is not ir.Logistic:
        wanted = np.exp(VALUES) / np.exp(VALUES).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(probability, wanted)
    if outputs == 1:
        np.testing.assert_allclose(probability[:, 1], 1 / (1 + np.exp(-VALUES[:, 0])))


def test_a_softmax_in_int8_stays_as_the_application_sees_it() -> None:
    values = np.array([[200 / 256, 60 / 256, 0]])
    np.testing.assert_array_equal(
        classification.probabilities(values, network(3, ir.Softmax)), values
    )


def test_sigmoids_that_are_all_zero_favour_no_class() -> None:
    probability = classification.probabilities(np.zeros((1, 4)), network(4, ir.Logistic))
    np.testing.assert_array_equal(probability, np.full((1, 4), 0.25))


def test_logits_may_be_large() -> None:
    for outputs in (1, 3):
        found = classification.probabilities(np.full((2, outputs), -1e4), network(outputs, None))
        assert np.isfinite(found).all()


def test_levels_agree_where_they_answer_alike() -> None:
    levels = [np.array([0, 1, 2, 3]), np.array([0, 1, 2, 0]), np.array([1, 1, 2, 3])]
    np.testing.assert_array_equal(
        classification.agreement(levels), [[1, 0.75, 0.75], [0.75, 1, 0.5], [0.75, 0.5, 1]]
    )
    difference = classification.mean_squared_difference([np.zeros((2, 3)), np.full((2, 3), 2)])
    np.testing.assert_array_equal(difference, [[0, 4], [4, 0]])
