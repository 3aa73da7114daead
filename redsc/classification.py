"""How a classifier errs: confusion, accuracy per class, calibration; and how levels differ.

Everything here is arithmetic on outputs that were computed elsewhere: a level's int8 outputs come
from the real int8 arithmetic, its float ones from the float network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from redsc import ir, loss

BINS = 15
"""Of equal width, as in Guo et al., On Calibration of Modern Neural Networks, ICML 2017."""

SMALLEST_PROBABILITY = 1e-7
"""A true class that got less counts as this in the log-likelihood; Keras's epsilon."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """Whether a classifier is right as often as it is sure; its confidence is the probability of
    the class it names.

    confidence, accuracy: float64 (bins,), means over the samples of a bin, NaN where it has none.
    samples: int64 (bins,). Bin m of M holds confidences in (m / M, (m + 1) / M].
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    samples: np.ndarray
    negative_log_likelihood: float

    @property
    def expected_error(self) -> float:
        """Mean over samples of |accuracy - confidence| of their bin, 0 … 1 (Guo et al., eq. 3)."""
        weights = self.samples / self.samples.sum()
        return float(np.nansum(weights * np.abs(self.accuracy - self.confidence)))


def class_count(graph: ir.Graph) -> int:
    """Classes of a classifier: its outputs; a single output tells two classes apart."""
    return max(2, int(np.prod(ir.shapes(graph)[graph.output])))


def probabilities(outputs: np.ndarray, graph: ir.Graph) -> np.ndarray:
    """float64 (samples, classes) of outputs (samples, *output shape) in real values.

    A softmax's outputs are taken as they are, for that is what an application sees: in int8 they
    are multiples of 1/256 and add up to about 1. Logits go through a softmax. A single output is
    the probability, or through a sigmoid the logit, of class 1. Several sigmoids are divided by
    their sum, as in one-vs-rest classifiers (scikit-learn's OneVsRestClassifier).
    """
    values = outputs.reshape(len(outputs), -1).astype(np.float64)
    kind = loss.head(graph)[1]
    if values.shape[1] == 1:
        if kind is None:
            values = np.exp(-np.logaddexp(0, -values))
        return np.concatenate([1 - values, values], axis=1)
    if kind is ir.Softmax:
        return values
    if kind is ir.Logistic:
        total = values.sum(axis=1, keepdims=True)
        even = np.full_like(values, 1 / values.shape[1])  # int8 sigmoids may all be 0
        return np.divide(values, total, out=even, where=total > 0)
    values = np.exp(values - values.max(axis=1, keepdims=True))
    return values / values.sum(axis=1, keepdims=True)


def calibration(
    probability: np.ndarray,
    predicted: np.ndarray,
    y: np.ndarray,
    smallest: float = SMALLEST_PROBABILITY,
    bins: int = BINS,
) -> Calibration:
    """Calibration of `probability`, float64 (samples, classes), and of the classes `predicted`.

    y, predicted: int64 (samples,). smallest: what a smaller probability of the true class counts
    as; for probabilities in int8, half a step, the largest that int8 may have rounded to 0.
    """
    rows = np.arange(len(y))
    confidence = probability[rows, predicted]
    inner_edges = np.arange(1, bins) / bins
    index = np.digitize(confidence, inner_edges, right=True)
    samples = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean_confidence = np.bincount(index, confidence, bins) / samples
        accuracy = np.bincount(index, predicted == y, bins) / samples
    likelihood = np.log(np.maximum(probability[rows, y], smallest))
    return Calibration(mean_confidence, accuracy, samples, float(-likelihood.mean()))


def confusion(y: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """int64 (classes, classes): samples of class `row` that are taken for class `column`.

    y, predicted: int64 (samples,), 0 … classes - 1.
    """
    return np.bincount(y * classes + predicted, minlength=classes**2).reshape(classes, classes)


def class_accuracy(confusion: np.ndarray) -> np.ndarray:
    """float64 (classes,): share of each class's samples that are recognised (its recall).

    NaN for a class without samples.
    """
    with np.errstate(invalid="ignore"):
        return confusion.diagonal() / confusion.sum(axis=1)


def agreement(answers: Sequence[np.ndarray]) -> np.ndarray:
    """float64 (levels, levels): share of samples to which two levels give the same answer.

    answers: a level each, int64, the classes named; of a map, one at each position.
    """
    return np.array([[np.mean(a == b) for b in answers] for a in answers])


def mean_squared_difference(outputs: Sequence[np.ndarray]) -> np.ndarray:
    """float64 (levels, levels) between the outputs, a level each, of two levels."""
    wide = [output.astype(np.float64) for output in outputs]
    return np.array([[np.mean((a - b) ** 2) for b in wide] for a in wide])
