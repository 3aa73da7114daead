"""The trainable form of a level: shared kernels, its own norms, optional int8 rounding."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from redsc import calibrate, distribution, groups, ir, loss
from redsc.cost import Tables
from redsc.data import Task
from redsc.groups import Grouping, Widths
from redsc.quantized import QuantParams
from redsc.tf_network import Tensor, activate, apply, linear, tensorflow

_SMALLEST_SCALE = 1e-3
"""Floor of |gamma| in training, as a share of the layer's largest at the start: channels whose
gamma vanishes at one level would blow up their bias in units of the weights' scale."""

_RANGE_SAMPLES = 256
"""Samples, of those that are measured, on which tensors' ranges are."""

Moments = Mapping[str, tuple[Tensor, Tensor]]
"""Mean and variance of every norm's input, by op name."""

_UNROUNDED = (
    ir.Softmax, ir.Logistic, ir.Tanh,  # TFLite prescribes their output, finer than training needs
    ir.MaxPool2D, ir.AveragePool2D, ir.Reshape, ir.Pad, ir.Concatenate,  # inherit their inputs'
)  # fmt: skip


class SharedKernels:
    """One variable per linear op, as wide as the widest level."""

    def __init__(self, graph: ir.Graph) -> None:
        tf = tensorflow()
        self.graph, self.grouping = graph, groups.find_groups(graph)
        self.by_name = {op.name: tf.Variable(op.kernel, name=op.name) for op in graph.linear_ops}
        from tensorflow_model_optimization.quantization.keras import quantizers

        self._quantizer = quantizers.LastValueQuantizer(
            num_bits=8, per_axis=True, symmetric=True, narrow_range=True
        )
        self._ranges = {
            op.name: {
                end: tf.Variable(
                    tf.zeros(op.out_channels),
                    trainable=False,
                    synchronization=tf.VariableSynchronization.ON_READ,
                    aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
                )
                for end in ("min_var", "max_var")
            }
            for op in graph.linear_ops
        }

    @property
    def variables(self) -> list[Any]:
        return list(self.by_name.values())

    def read(self, quantized: bool) -> dict[str, Tensor]:
        """All whole kernels; quantized: rounded as the int8 store will hold them."""
        return {
            op.name: self._rounded(op)
            if quantized
            else tensorflow().convert_to_tensor(self.by_name[op.name])
            for op in self.graph.linear_ops
        }

    def _rounded(self, op: ir.LinearOp) -> Tensor:
        """Symmetric per output channel at full width; the gradient passes unchanged."""
        tf, kernel = tensorflow(), self.by_name[op.name]
        # The quantizer's channels are the last axis; a depthwise kernel's are its last two.
        channels = tf.reshape(kernel, (*kernel.shape[:-2], 1, -1)) if _depthwise(op) else kernel
        quantized = self._quantizer(channels, training=True, weights=self._ranges[op.name])
        return tf.reshape(quantized, kernel.shape)


def _depthwise(op: ir.LinearOp) -> bool:
    return isinstance(op, ir.DepthwiseConv2D)


class LevelNetwork:
    """A level over shared kernels. `graph` is narrow; its parameters start the variables.

    Batch-norm statistics are not moving averages: training steps use the batch's, and `measure`
    stores exact ones of given samples before a level is evaluated or exported.

    widest: the level whose requantisation tables this one shares, none where it has its own.
    With "multipliers" it has the widest level's gamma and variance, and a beta and mean of its
    own; with "everything" it has nothing of its own. It must then run, and be measured, after the
    widest level.
    """

    def __init__(
        self,
        kernels: SharedKernels,
        graph: ir.Graph,
        widths: Widths,
        tables: Tables = "per-level",
        widest: LevelNetwork | None = None,
    ) -> None:
        tf = tensorflow()
        self._tables: Tables = "per-level" if widest is None else tables
        self._widest = None if tables == "per-level" else widest
        self.kernels, self.graph = kernels, graph
        self._units = groups.prefixes({name: widths[name] for name in kernels.grouping.groups})
        self._index = {
            name: self.index_in(kernels.grouping, name) for name in kernels.grouping.axes
        }
        self._has_statistics = {
            op.name: calibrate.has_statistics(op.norm) for op in graph.linear_ops
        }
        norms = {op.name: _starting_norm(op) for op in graph.linear_ops}
        self._epsilon = {name: norm.epsilon for name, norm in norms.items()}
        self.gamma = {
            name: tf.Variable(norm.gamma, constraint=_keeps_sign(norm.gamma))
            for name, norm in norms.items()
        }
        self.beta = {name: tf.Variable(norm.beta) for name, norm in norms.items()}
        self.mean = {n: tf.Variable(norm.mean, trainable=False) for n, norm in norms.items()}
        self.variance = {
            n: tf.Variable(norm.variance, trainable=False) for n, norm in norms.items()
        }
        self.ranges = {op.name: tf.Variable([0.0, 0.0], trainable=False) for op in graph.ops}
        self._measure = tf.function(self._measure_once, autograph=False)
        self._evaluate = tf.function(self._evaluate_once, autograph=False, reduce_retracing=True)

    def index_in(self, grouping: Grouping, tensor: str) -> np.ndarray:
        """Where this level's channels of a tensor lie in those of a wider network."""
        return groups.channel_indices(grouping.axes[tensor], self._units)

    @property
    def trainable(self) -> list[Any]:
        """The level's own gammas and betas."""
        gammas = self.gamma.values() if self._tables == "per-level" else ()
        betas = self.beta.values() if self._tables != "everything" else ()
        return [*gammas, *betas]

    @property
    def stored_moments(self) -> Moments:
        return {name: (self.mean[name], self.variance[name]) for name in self.mean}

    def _shared(self, op: str, values: Tensor) -> Tensor:
        """The level's channels of a vector over the widest level's."""
        return tensorflow().gather(values, self._index[op])

    def _gamma(self, op: str) -> Tensor:
        if self._widest is None:
            return self.gamma[op]
        return self._shared(op, self._widest.gamma[op])

    def _beta(self, op: str) -> Tensor:
        if self._widest is None or self._tables != "everything":
            return self.beta[op]
        return self._shared(op, self._widest.beta[op])

    @property
    def variables(self) -> list[Any]:
        """Everything that is not the shared kernels', in an order of its own."""
        parts = (self.gamma, self.beta, self.mean, self.variance, self.ranges)
        return [variable for part in parts for variable in part.values()]

    def forward(
        self,
        x: Tensor,
        training: bool,
        quantized: bool,
        kernels: Mapping[str, Tensor] | None = None,
        statistics: dict[str, tuple[Tensor, Tensor]] | None = None,
        widest: Moments | None = None,
    ) -> dict[str, Tensor]:
        """Every tensor for raw inputs `x`; in training norms use, and report, batch moments.

        kernels: what SharedKernels.read gave, when several levels run in one step. widest: in
        training, the widest level's moments, of which a level with shared tables takes its own.
        """
        full = self.kernels.read(quantized) if kernels is None else kernels

        def run_linear(op: ir.LinearOp, value: Tensor) -> Tensor:
            product = linear(op, value, self._slice(op, full[op.name]))
            mean, variance = self.mean[op.name], self.variance[op.name]
            if training and self._has_statistics[op.name]:
                mean, variance = self._batch_moments(op.name, product, widest)
                if statistics is not None:
                    statistics[op.name] = (mean, variance)
            scale = self._gamma(op.name) * tensorflow().math.rsqrt(
                variance + max(self._epsilon[op.name], 1e-12)
            )
            product = product * scale + (self._beta(op.name) - mean * scale)
            return activate(op.activation, product)

        values: dict[str, Tensor] = {}
        for op in self.graph.ops:
            inputs = [values[name] for name in op.inputs] or [x]
            value = apply(op, inputs, run_linear)
            rounded = quantized and not isinstance(op, _UNROUNDED)
            values[op.name] = self._round(op.name, value) if rounded else value
        return values

    def _slice(self, op: ir.LinearOp, kernel: Tensor) -> Tensor:
        inputs, outputs = self._index[op.inputs[0]], self._index[op.name]
        kernel = _leading(kernel, -2, inputs)
        return kernel if isinstance(op, ir.DepthwiseConv2D) else _leading(kernel, -1, outputs)

    def _batch_moments(
        self, op: str, product: Tensor, widest: Moments | None
    ) -> tuple[Tensor, Tensor]:
        if self._widest is None:
            return distribution.moments(product)
        assert widest is not None
        mean, variance = (self._shared(op, value) for value in widest[op])
        return (
            distribution.moments(product)[0] if self._tables == "multipliers" else mean
        ), variance

    def _round(self, name: str, value: Tensor) -> Tensor:
        low, high = tensorflow().unstack(self.ranges[name])
        return tensorflow().quantization.fake_quant_with_min_max_vars(value, low, high)

    def measure(self, x: Tensor) -> dict[str, calibrate.Range]:
        """Stores norm statistics of raw inputs `x`, in float, as one batch; every tensor's range.

        The ranges are as `calibrate.activation_ranges` finds them on the first samples of `x`.
        """
        found = {}
        for name, (ends, counts) in self._measure(x).items():
            low, high = ends.numpy().tolist()
            # The network's input is never clipped.
            is_input = name == self.graph.input.name
            found[name] = (
                (low, high) if is_input else calibrate.clipped_range(counts.numpy(), (low, high))
            )
        return found

    def _measure_once(self, x: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        tf = tensorflow()
        statistics: dict[str, tuple[Tensor, Tensor]] = {}
        widest = None if self._widest is None else self._widest.stored_moments
        values = self.forward(
            x, training=True, quantized=False, statistics=statistics, widest=widest
        )
        for name, (mean, variance) in statistics.items():
            self.mean[name].assign(mean)
            self.variance[name].assign(variance)
        histograms = {}
        for name, value in values.items():
            few = value[:_RANGE_SAMPLES]
            few = tf.where(tf.math.is_finite(few), few, 0)  # diverged: the loss will tell
            low, high = tf.minimum(tf.reduce_min(few), 0), tf.maximum(tf.reduce_max(few), 0)
            high = tf.maximum(high, low + 1e-6)
            histograms[name] = (tf.stack([low, high]), calibrate.histogram(few, low, high))
        return histograms

    def use(self, tensors: Mapping[str, QuantParams]) -> None:
        """Simulated int8 rounds every tensor as these parameters say."""
        for name, variable in self.ranges.items():
            params = tensors[name]
            variable.assign([params.scale * (end - params.zero_point) for end in (-128, 127)])

    def evaluate(
        self, x: np.ndarray, y: np.ndarray, task: Task, quantized: bool
    ) -> tuple[np.ndarray, float]:
        """Outputs for raw inputs `x`, and the sum of their losses; stored statistics."""
        outputs, total = self._evaluate(x, y, task, quantized)
        return outputs.numpy(), float(total)

    def _evaluate_once(
        self, x: Tensor, y: Tensor, task: Task, quantized: bool
    ) -> tuple[Tensor, Tensor]:
        values = self.forward(x, training=False, quantized=quantized)
        total = tensorflow().reduce_sum(loss.per_sample(self.graph, values, y, task))
        return values[self.graph.output], total

    def to_graph(self) -> ir.Graph:
        """The level as it is now; kernels are float32 slices of the shared ones."""

        def current(op: ir.Op) -> ir.Op:
            if not isinstance(op, ir.LinearOp):
                return op
            kernel = groups.select_kernel(
                op,
                self.kernels.by_name[op.name].numpy(),
                self._index[op.inputs[0]],
                self._index[op.name],
            )
            norm = ir.BatchNorm(
                gamma=ir.read_only(np.asarray(self._gamma(op.name))),
                beta=ir.read_only(np.asarray(self._beta(op.name))),
                mean=ir.read_only(self.mean[op.name].numpy()),
                variance=ir.read_only(self.variance[op.name].numpy()),
                epsilon=self._epsilon[op.name],
            )
            return replace(op, kernel=ir.read_only(kernel), bias=None, norm=norm)

        return self.graph.with_ops(current(op) for op in self.graph.ops)


def _keeps_sign(gamma: np.ndarray) -> Callable[[Tensor], Tensor]:
    """A constraint: every gamma stays on its starting side of zero, the same at all levels, and
    off zero by a share of the layer's largest."""
    sign = np.where(gamma < 0, -1.0, 1.0).astype(np.float32)
    floor = np.float32(_SMALLEST_SCALE * max(float(np.abs(gamma).max()), 1e-6))
    return lambda current: sign * tensorflow().maximum(sign * current, floor)


def _starting_norm(op: ir.LinearOp) -> ir.BatchNorm:
    """The norm of kernel · x alone: the bias goes into the mean, or is a free norm's beta."""
    zeros, ones = np.zeros(op.out_channels, np.float32), np.ones(op.out_channels, np.float32)
    bias = zeros if op.bias is None else op.bias
    if op.norm is None:
        return ir.BatchNorm(ones, bias, zeros, ones, epsilon=0.0)
    return replace(op.norm, mean=op.norm.mean - bias)


def _leading(kernel: Tensor, axis: int, index: np.ndarray) -> Tensor:
    """`kernel` at `index` along `axis`, by a plain slice where it is a prefix."""
    count = kernel.shape[axis]
    if len(index) == count:
        return kernel
    if np.array_equal(index, np.arange(len(index))):
        return kernel[..., : len(index), :] if axis == -2 else kernel[..., : len(index)]
    return tensorflow().gather(kernel, index, axis=len(kernel.shape) + axis)
