"""How much each parameter, and so each unit, matters; and the reorder that puts the best first.

Every parameter counts once: an entry of a kernel, for the unit that makes it and the unit that
reads it; a channel's batch-norm or bias, for the channel's own unit. An op's scores sum to the
op's share of the network's MACs. So a MAC is worth the same on average in every layer, and a
search that maximises importance (`--objective importance`; by default it does not) weighs layers by
how unevenly theirs is spread, not by how large their gradients happen to be: raw sums differ by
orders of magnitude between layers and starve some of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from redsc import cost, groups, ir, loss
from redsc.data import Task
from redsc.groups import Axis, Grouping
from redsc.tf_network import Tensor, activate, forward, linear, tensorflow

ByOp = Mapping[str, np.ndarray]
"""An array for every linear op, by name."""

GRADIENT_METHODS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "taylor": abs,
    "first-order": lambda change: change,
    "fisher": lambda change: change * change,
}
"""What a sample adds, given w · ∂L/∂w, the first-order change of its loss if w went away.

taylor: |w · ∂L/∂w|; gradients of opposite signs do not mean that a weight is unused.
first-order: w · ∂L/∂w, so |w · Σ ∂L/∂w| in the end: the gradient of the whole batch, as the REDS
paper (arXiv 2311.13349) takes it. Samples that pull in opposite directions cancel.
fisher: (w · ∂L/∂w)², the diagonal of the empirical Fisher information, which stands for the loss's
curvature (Theis et al., arXiv 1801.05787; Molchanov et al., CVPR 2019). Few samples that matter
much weigh more than in taylor.
"""

METHODS = (*GRADIENT_METHODS, "magnitude", "random")


@dataclass(frozen=True, eq=False)
class Scores:
    """What the parameters are worth: float64, all >= 0, summing to 1 over the network.

    weights: shaped like the kernels. channels: (out_channels,), of what a channel has beside its
    weights.
    """

    weights: ByOp
    channels: ByOp


@dataclass(frozen=True, eq=False)
class Ranking:
    """A group's units, most important first.

    units: int64 (units,), their numbers before the reorder. scores: float64 (units,), falling, in
    parts of the group's sum.
    """

    units: np.ndarray
    scores: np.ndarray


def score(
    method: str, graph: ir.Graph, samples: tuple[np.ndarray, np.ndarray, Task] | None, seed: int
) -> Scores:
    """Scores by one of METHODS. samples: raw inputs, targets and task, for those with gradients."""
    if method == "magnitude":
        return magnitude(graph)
    if method == "random":
        return random(graph, seed)
    assert samples is not None, f"{method} needs samples"
    return by_gradient(method, graph, *samples)


def random(graph: ir.Graph, seed: int) -> Scores:
    """A control: no weight is better than another, so every order of a group is as likely."""
    generator = np.random.default_rng(seed)
    return _normalised(
        graph, {op.name: generator.random(op.kernel.shape) for op in graph.linear_ops}
    )


def magnitude(graph: ir.Graph) -> Scores:
    """|weight| as the activation sees it: times the batch-norm's scale and its chance to fire.

    A batch-norm's output is about normal with mean beta and deviation |gamma|; the chance that a
    ReLU passes it weighs its channel, so that one that never fires counts (nearly) nothing. The
    batch-norm counts in the weights it multiplies, hence not once more by itself.
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


def taylor(graph: ir.Graph, x: np.ndarray, y: np.ndarray, task: Task) -> Scores:
    """`by_gradient` with the method of that name."""
    return by_gradient("taylor", graph, x, y, task)


def by_gradient(method: str, graph: ir.Graph, x: np.ndarray, y: np.ndarray, task: Task) -> Scores:
    """Scores from w · ∂L/∂w, L a single sample's loss (raw inputs `x`, targets `y`).

    GRADIENT_METHODS says what becomes of it. Batch-norm runs with its stored statistics, so one
    sample's gradient does not depend on others; samples therefore run one by one, exactly, at
    1-20 ms each: use a few hundred.

    A batch-norm counts per channel and sample as γ · ∂L/∂γ + β · ∂L/∂β: what the loss would change
    by, to first order, if the channel's whole output went away, since both are parts of that one
    sum. A layer's bias in front of a batch-norm is in it already; without one, b · ∂L/∂b counts.
    Means and variances are statistics, not parameters.
    """
    tf = tensorflow()
    term = GRADIENT_METHODS[method]
    kernels = {op.name: tf.constant(op.kernel) for op in graph.linear_ops}
    gates = {op.name: tf.ones(op.out_channels) for op in graph.linear_ops}
    parameters = (kernels, gates)
    totals = tf.nest.map_structure(lambda value: tf.Variable(tf.zeros_like(value)), parameters)

    def run_linear(op: ir.LinearOp, value: Tensor) -> Tensor:
        product = linear(op, value, kernels[op.name]) * op.scale.astype(np.float32)
        offset, gate = op.offset.astype(np.float32), gates[op.name]
        # At a gate of 1 its gradient is γ ∂L/∂γ + β ∂L/∂β, or b ∂L/∂b.
        product = product + gate * offset if op.norm is None else gate * (product + offset)
        return activate(op.activation, product)

    @tf.function(autograph=False)
    def add_sample(sample: Tensor, target: Tensor) -> None:
        with tf.GradientTape() as tape:
            tape.watch(parameters)
            values = forward(graph, sample[None], run_linear)
            sample_loss = loss.per_sample(graph, values, target[None], task)
        gradients = tape.gradient(sample_loss, parameters, unconnected_gradients="zero")
        for total, value, gradient in zip(
            *map(tf.nest.flatten, (totals, parameters, gradients)), strict=True
        ):
            total.assign_add(term(value * gradient))

    for sample, target in zip(x, y, strict=True):
        add_sample(tf.constant(sample), tf.constant(target))
    return _normalised(
        graph,
        *({name: np.abs(total.numpy()) for name, total in of.items()} for of in totals),
    )


def _normalised(graph: ir.Graph, weights: ByOp, channels: ByOp | None = None) -> Scores:
    """Each op's scores scaled to sum to its share of MACs; if all are zero, spread evenly."""
    macs = cost.op_macs(graph)
    total_macs = sum(macs.values())
    by_weight, by_channel = {}, {}
    for op in graph.linear_ops:
        own = np.zeros(op.out_channels) if channels is None else channels[op.name]
        kernel, own = (
            np.nan_to_num(array.astype(np.float64), posinf=0.0) for array in (weights[op.name], own)
        )
        total = kernel.sum() + own.sum()
        if total == 0:
            kernel, total = np.ones_like(kernel), kernel.size
        share = macs[op.name] / total_macs
        by_weight[op.name] = kernel / total * share
        by_channel[op.name] = own / total * share
    return Scores(by_weight, by_channel)


def unit_importance(grouping: Grouping, scores: Scores) -> dict[str, np.ndarray]:
    """float64 (units,) per group: what its units own beside weights, as `gain.gains` takes it."""
    result = {name: np.zeros(group.units) for name, group in grouping.groups.items()}
    for name, channels in scores.channels.items():
        _add_by_unit(result, grouping.axes[name], channels)
    return result


def unit_scores(graph: ir.Graph, grouping: Grouping, scores: Scores) -> dict[str, np.ndarray]:
    """float64 (units,) per group: the importance of all that makes, shapes or reads the unit.

    That is its producers' filters, their batch-norms or biases, depthwise kernels and the rows of
    its consumers. Each op counts in parts of its own sum here, so that the layers that share a
    group have equal say in its order, whatever their MACs.
    """
    result = {name: np.zeros(group.units) for name, group in grouping.groups.items()}
    for op in graph.linear_ops:
        weights, channels = scores.weights[op.name], scores.channels[op.name]
        total = max(weights.sum() + channels.sum(), 1e-300)
        by_pair = weights.sum(axis=tuple(range(weights.ndim - 2))) / total
        _add_by_unit(result, grouping.axes[op.inputs[0]], by_pair.sum(axis=1))
        if not isinstance(op, ir.DepthwiseConv2D):  # its output units are its input's
            _add_by_unit(result, grouping.axes[op.name], by_pair.sum(axis=0))
        _add_by_unit(result, grouping.axes[op.name], channels / total)
    return result


def _add_by_unit(scores: dict[str, np.ndarray], axis: Axis, values: np.ndarray) -> None:
    """Adds the values of an axis's channels to the units that own them."""
    start = 0
    for segment in axis:
        end = start + segment.channels(segment.units)
        blocks = values[start:end].reshape(segment.outer, segment.units, segment.inner)
        scores[segment.group] = scores[segment.group] + blocks.sum(axis=(0, 2))
        start = end


def rank(graph: ir.Graph, grouping: Grouping, scores: Scores) -> dict[str, Ranking]:
    """The free groups' units by falling score; equals keep their order."""
    result = {}
    for name, values in unit_scores(graph, grouping, scores).items():
        if not grouping.groups[name].fixed:
            units = np.argsort(-values, kind="stable")
            result[name] = Ranking(units, values[units] / max(values.sum(), 1e-300))
    return result


def order(graph: ir.Graph, grouping: Grouping, scores: Scores) -> dict[str, np.ndarray]:
    """Per group, unit numbers by falling score; fixed groups keep their order."""
    ranking = rank(graph, grouping, scores)
    return {
        name: ranking[name].units if name in ranking else np.arange(group.units)
        for name, group in grouping.groups.items()
    }


def reorder(graph: ir.Graph, grouping: Grouping, scores: Scores) -> tuple[ir.Graph, Scores]:
    """`graph` and `scores` with every group's best units first; the function is unchanged."""
    units = order(graph, grouping, scores)
    return groups.select_units(graph, grouping, units), select(graph, grouping, scores, units)


def select(
    graph: ir.Graph, grouping: Grouping, scores: Scores, units: Mapping[str, np.ndarray]
) -> Scores:
    """`scores` of `groups.select_units(graph, grouping, units)`."""
    index = {name: groups.channel_indices(axis, units) for name, axis in grouping.axes.items()}
    return Scores(
        {
            op.name: groups.select_kernel(
                op, scores.weights[op.name], index[op.inputs[0]], index[op.name]
            )
            for op in graph.linear_ops
        },
        {name: channels[index[name]] for name, channels in scores.channels.items()},
    )
