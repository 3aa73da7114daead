"""Losses and scores of a task, from a network's outputs; TensorFlow only where gradients flow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from redsc import distribution, ir
from redsc.data import Data, Split, Task
from redsc.errors import UsageError
from redsc.tf_network import Tensor, forward, tensorflow

_BATCH_SIZE = 256


def head(graph: ir.Graph) -> tuple[str, type[ir.Op] | None]:
    """The tensor that carries logits or predictions, and the final Softmax or Logistic, if any."""
    op = graph[graph.output]
    while isinstance(op, ir.Reshape):
        op = graph[op.inputs[0]]
    if isinstance(op, ir.Softmax | ir.Logistic):
        return op.inputs[0], type(op)
    return graph.output, None


def output_bounds(graph: ir.Graph) -> tuple[float, float]:
    """What the network's output can reach, by its last activation."""
    op = graph[graph.output]
    while isinstance(op, ir.Reshape | ir.Pool2D):
        op = graph[op.inputs[0]]
    match op:
        case ir.Softmax() | ir.Logistic():
            return 0.0, 1.0
        case ir.Tanh():
            return -1.0, 1.0
        case ir.LinearOp(activation=ir.Activation.RELU) | ir.Add(activation=ir.Activation.RELU):
            return 0.0, math.inf
        case ir.LinearOp(activation=ir.Activation.RELU6) | ir.Add(activation=ir.Activation.RELU6):
            return 0.0, 6.0
    return -math.inf, math.inf


def class_weights(
    given: Sequence[float] | str | None, dataset: Data, classes: int
) -> tuple[float, ...] | None:
    """What a sample of each class counts in training, 1 on average over the classes.

    given "balanced": inversely to how many training samples a class has (of a stream, in the part
    that is known); a class without any counts 1. Raises UsageError when there are no classes, or
    not as many weights as classes.
    """
    if given is None:
        return None
    if dataset.task != "classification":
        raise UsageError(f"class-weights: the task is {dataset.task}, there are no classes")
    if not isinstance(given, str):
        if len(given) != classes:
            raise UsageError(f"class-weights: {len(given)} weights for {classes} classes")
        return tuple((np.array(given) / np.mean(given)).tolist())
    counts = np.bincount(dataset.train.y, minlength=classes)
    weights = 1 / np.maximum(counts, 1)
    seen = counts > 0
    return tuple(np.where(seen, weights / weights[seen].mean(), 1.0).tolist())


def negligible(y: np.ndarray, task: Task) -> float:
    """A loss on samples of these targets that is as good as 0, for whoever takes logarithms."""
    share, size = 1e-6, 1.0
    if task != "classification":
        size = float(np.mean(np.square(y, dtype=np.float64)))
    return share * size or np.finfo(np.float32).tiny


def per_sample(graph: ir.Graph, values: Mapping[str, Tensor], y: Tensor, task: Task) -> Tensor:
    """float32 (samples,): cross-entropy for classification, else mean squared error.

    y: int64 (samples,) or float32 (samples, *output shape), as redsc.data gives them. A network
    that ends without Softmax or Logistic is taken to give logits, as Keras's from_logits does.
    """
    tf = tensorflow()
    if task != "classification":
        difference = _flat(values[graph.output]) - _flat(tf.cast(y, tf.float32))
        return tf.reduce_mean(difference**2, axis=1)
    tensor, kind = head(graph)
    logits = _flat(values[tensor])
    if kind is ir.Logistic or logits.shape[1] == 1:
        return tf.reduce_mean(_sigmoid_losses(logits, y), axis=1)
    return tf.nn.sparse_softmax_cross_entropy_with_logits(tf.cast(y, tf.int64), logits)


def mean(graph: ir.Graph, split: Split, task: Task) -> float:
    """Of `per_sample`, over a split."""
    parts = [
        per_sample(graph, forward(graph, x), y, task).numpy() for x, y in split.batches(_BATCH_SIZE)
    ]
    return float(np.mean(np.concatenate(parts)))


def _sigmoid_losses(logits: Tensor, y: Tensor) -> Tensor:
    tf = tensorflow()
    classes = logits.shape[1]
    labels = tf.cast(y, tf.float32)[:, None] if classes == 1 else tf.one_hot(y, classes)
    return tf.nn.sigmoid_cross_entropy_with_logits(labels, logits)


def distillation(
    graph: ir.Graph, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], task: Task
) -> Tensor:
    """float32 (samples,): distance of a level's output from the teacher's, which is a constant."""
    tf = tensorflow()
    tensor, kind = head(graph)
    if task != "classification":
        target = tf.stop_gradient(_flat(teacher[graph.output]))
        return tf.reduce_mean((_flat(student[graph.output]) - target) ** 2, axis=1)
    ours, theirs = _flat(student[tensor]), tf.stop_gradient(_flat(teacher[tensor]))
    if kind is ir.Logistic or ours.shape[1] == 1:
        losses = tf.nn.sigmoid_cross_entropy_with_logits(tf.sigmoid(theirs), ours)
        return tf.reduce_mean(losses, axis=1)
    return tf.nn.softmax_cross_entropy_with_logits(tf.nn.softmax(theirs), ours)


def hint(ours: Tensor, theirs: Tensor) -> Tensor:
    """float32 (samples,): mean squared distance of hidden units from the teacher's, a constant.

    In standard deviations of the teacher's units over the global batch, so that layers compare.
    """
    tf = tensorflow()
    theirs = tf.stop_gradient(theirs)
    _, variance = distribution.moments(theirs)
    distance = (ours - theirs) ** 2 / (tf.reduce_mean(variance) + 1e-6)
    return tf.reduce_mean(distance, axis=list(range(1, len(distance.shape))))


def _flat(value: Tensor) -> Tensor:
    return tensorflow().reshape(value, (-1, int(np.prod(value.shape[1:]))))


def predictions(outputs: np.ndarray, graph: ir.Graph) -> np.ndarray:
    """int64 (samples,): the class that each of outputs (samples, *output shape) names.

    A single output names class 1 above 0.5 when it is a probability, above 0 when a logit.
    """
    outputs = outputs.reshape(len(outputs), -1)
    if outputs.shape[1] > 1:
        return outputs.argmax(axis=1)
    threshold = 0.5 if head(graph)[1] is ir.Logistic else 0.0
    return (outputs[:, 0] > threshold).astype(np.int64)


def accuracy(
    outputs: np.ndarray, y: np.ndarray, graph: ir.Graph, weights: np.ndarray | None = None
) -> float:
    """Share of samples whose predicted class is `y`, or of their weights; outputs (samples,
    *output shape)."""
    if weights is not None and not weights.any():
        return 0.0
    return float(np.average(predictions(outputs, graph) == y, weights=weights))


def mean_squared_error(outputs: np.ndarray, y: np.ndarray) -> float:
    difference = outputs.reshape(len(outputs), -1) - y.reshape(len(y), -1)
    return float(np.mean(difference.astype(np.float64) ** 2))


def score(
    outputs: np.ndarray,
    y: np.ndarray,
    graph: ir.Graph,
    task: Task,
    weights: np.ndarray | None = None,
) -> float:
    """`accuracy` of a classifier, `mean_squared_error` of anything else."""
    if task == "classification":
        return accuracy(outputs, y, graph, weights)
    return mean_squared_error(outputs, y)
