"""How much each weight, and so each unit, matters; and the reorder that puts the best first.

An importance is one float64 array per linear op, shaped like its kernel. Each op's array sums to
the op's share of the network's MACs. So a MAC is worth the same on average in every layer, and a
search weighs layers by how unevenly their importance is spread, not by how large their gradients
happen to be: raw sums differ by orders of magnitude between layers and starve some of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from redsc import cost, groups, ir, loss
from redsc.data import Task
from redsc.groups import Axis, Grouping
from redsc.tf_network import Tensor, activate, forward, linear, tensorflow

Importance = Mapping[str, np.ndarray]
"""By linear op: float64, shape of the kernel, all >= 0, summing to 1 over the network."""


def magnitude(graph: ir.Graph) -> dict[str, np.ndarray]:
    """|weight| as the activation sees it: times the batch-norm's scale and its chance to fire.

    A batch-norm's output is about normal with mean beta and deviation |gamma|; the chance that a
    ReLU passes it weighs its channel, so that one that never fires counts (nearly) nothing.
    """
    return _normalised(graph, {op.name: _magnitude(op) for op in graph.linear_ops})


def _magnitude(op: ir.LinearOp) -> np.ndarray:
    weight = np.abs(op.scale)
    if op.norm is not None and op.activation is not ir.Activation.NONE:
        ratio = op.norm.beta / np.maximum(np.abs(op.norm.gamma), 1e-12)
        weight = weight * [0.5 * math.erfc(-r / math.sqrt(2)) for r in ratio.astype(np.float64)]
    return np.abs(op.kernel.astype(np.float64)) * _per_channel(op, weight)


def _per_channel(op: ir.LinearOp, values: np.ndarray) -> np.ndarray:
    """Values by output channel, shaped to multiply the kernel."""
    match op:
        case ir.DepthwiseConv2D():
            return values.reshape(op.kernel.shape[2:])
        case _:
            return values


def taylor(graph: ir.Graph, x: np.ndarray, y: np.ndarray, task: Task) -> dict[str, np.ndarray]:
    """Mean over samples of |w · ∂L/∂w|, L a single sample's loss (raw inputs `x`, targets `y`).

    The absolute value is taken per sample: gradients of opposite signs, which cancel in a batch,
    do not mean that a weight is unused. Batch-norm runs with its stored statistics, so one
    sample's gradient does not depend on others; samples therefore run one by one, exactly, at
    1-20 ms each: use a few hundred. Biases and batch-norms enter through the weights that read
    their unit: w · ∂L/∂w of those is the loss's first-order change if the unit's whole output
    went away.
    """
    tf = tensorflow()
    kernels = {op.name: tf.constant(op.kernel) for op in graph.linear_ops}
    totals = {name: tf.Variable(tf.zeros_like(kernel)) for name, kernel in kernels.items()}

    def run_linear(op: ir.LinearOp, value: Tensor) -> Tensor:
        product = linear(op, value, kernels[op.name])
        product = product * op.scale.astype(np.float32) + op.offset.astype(np.float32)
        return activate(op.activation, product)

    @tf.function(autograph=False)
    def add_sample(sample: Tensor, target: Tensor) -> None:
        with tf.GradientTape() as tape:
            tape.watch(kernels)
            values = forward(graph, sample[None], run_linear)
            sample_loss = loss.per_sample(graph, values, target[None], task)
        gradients = tape.gradient(sample_loss, kernels, unconnected_gradients="zero")
        for name, gradient in gradients.items():
            totals[name].assign_add(tf.abs(kernels[name] * gradient))

    for sample, target in zip(x, y, strict=True):
        add_sample(tf.constant(sample), tf.constant(target))
    return _normalised(graph, {name: total.numpy() for name, total in totals.items()})


def _normalised(graph: ir.Graph, raw: Importance) -> dict[str, np.ndarray]:
    """Each op's array scaled to sum to its share of MACs; one that is all zero is spread evenly."""
    macs = cost.op_macs(graph)
    total_macs, result = sum(macs.values()), {}
    for name, array in raw.items():
        array = np.nan_to_num(array.astype(np.float64), posinf=0.0)
        total = array.sum()
        spread = array / total if total > 0 else np.full(array.shape, 1 / array.size)
        result[name] = spread * (macs[name] / total_macs)
    return result


def unit_scores(
    graph: ir.Graph, grouping: Grouping, importance: Importance
) -> dict[str, np.ndarray]:
    """float64 (units,) per group: the importance of every weight that makes or reads the unit.

    Each op counts in parts of its own sum here, so that the layers that share a group have equal
    say in its order, whatever their MACs.
    """
    scores = {name: np.zeros(group.units) for name, group in grouping.groups.items()}
    for op in graph.linear_ops:
        array = importance[op.name] / max(importance[op.name].sum(), 1e-300)
        spatial = tuple(range(array.ndim - 2))
        by_pair = array.sum(axis=spatial)
        _add_by_unit(scores, grouping.axes[op.inputs[0]], by_pair.sum(axis=1))
        if not isinstance(op, ir.DepthwiseConv2D):  # its output units are its input's
            _add_by_unit(scores, grouping.axes[op.name], by_pair.sum(axis=0))
    return scores


def _add_by_unit(scores: dict[str, np.ndarray], axis: Axis, values: np.ndarray) -> None:
    """Adds the values of an axis's channels to the units that own them."""
    start = 0
    for segment in axis:
        end = start + segment.channels(segment.units)
        blocks = values[start:end].reshape(segment.outer, segment.units, segment.inner)
        scores[segment.group] = scores[segment.group] + blocks.sum(axis=(0, 2))
        start = end


def order(graph: ir.Graph, grouping: Grouping, importance: Importance) -> dict[str, np.ndarray]:
    """Per group, unit numbers by falling score; equals and fixed groups keep their order."""
    return {
        name: np.arange(len(score))
        if grouping.groups[name].fixed
        else np.argsort(-score, kind="stable")
        for name, score in unit_scores(graph, grouping, importance).items()
    }


def reorder(
    graph: ir.Graph, grouping: Grouping, importance: Importance
) -> tuple[ir.Graph, dict[str, np.ndarray]]:
    """`graph` and `importance` with every group's best units first; the function is unchanged."""
    units = order(graph, grouping, importance)
    index = {name: groups.channel_indices(axis, units) for name, axis in grouping.axes.items()}
    moved = {
        op.name: groups.select_kernel(op, importance[op.name], index[op.inputs[0]], index[op.name])
        for op in graph.linear_ops
    }
    return groups.select_units(graph, grouping, units), moved
