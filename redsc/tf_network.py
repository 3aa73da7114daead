"""TensorFlow edge 2: runs a graph of redsc.ir in float, differentiably.

Importance, calibration, fine-tuning and the float side of every proof use this one definition.
`import tensorflow` happens inside functions, so that importing redsc stays quick.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from redsc import ir, quiet

Tensor = Any  # a tf.Tensor; TensorFlow has no types worth importing it for
Linear = Callable[[ir.LinearOp, Tensor], Tensor]


@functools.cache
def tensorflow() -> Any:
    """TensorFlow with Keras 2 behind tf.keras, quiet; the only way redsc imports it."""
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # one order of summation on every CPU
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with quiet.silenced(quiet.STDERR):  # no log level reaches its greeting
        import tensorflow as tf
    tf.get_logger().setLevel("ERROR")
    return tf


def linear(op: ir.LinearOp, x: Tensor, kernel: Tensor | None = None) -> Tensor:
    """kernel · x of a linear op, without bias, norm or activation."""
    tf = tensorflow()
    kernel = op.kernel if kernel is None else kernel
    match op:
        case ir.Conv2D():
            # CPUs have no gradient of a dilated convolution; of one with a dilated kernel they do
            kernel = _dilate(kernel, op.dilation)
            return tf.nn.conv2d(x, kernel, op.strides, op.padding.upper())
        case ir.DepthwiseConv2D():
            return _depthwise(op, x, kernel)
        case ir.Dense():
            return tf.matmul(x, kernel)
    raise AssertionError(op)


def _dilate(kernel: Tensor, dilation: tuple[int, int]) -> Tensor:
    """A (height, width, in, out) kernel with dilation - 1 zeros between its taps."""
    tf = tensorflow()
    for axis, rate in enumerate(dilation):
        if rate > 1:
            taps = tf.expand_dims(kernel, axis + 1)
            spread = tf.pad(taps, [[0, rate - 1] if i == axis + 1 else [0, 0] for i in range(5)])
            shape = list(kernel.shape)
            shape[axis] *= rate
            end = shape[axis] - rate + 1
            kernel = tf.gather(tf.reshape(spread, shape), range(end), axis=axis)
    return kernel


def _depthwise(op: ir.DepthwiseConv2D, x: Tensor, kernel: Tensor) -> Tensor:
    """tf.nn.depthwise_conv2d takes square strides only, so unequal ones compute and drop."""
    tf = tensorflow()
    if op.strides[0] == op.strides[1]:
        strides = [1, *op.strides, 1]
        return tf.nn.depthwise_conv2d(x, kernel, strides, op.padding.upper(), dilations=op.dilation)
    pads = []
    for axis in (0, 1):
        size, window = x.shape[axis + 1], op.kernel.shape[axis]
        args = (size, window, op.strides[axis], op.dilation[axis], op.padding)
        before, out = ir.padding_before(*args), ir.conv_output_size(*args)
        span = (out - 1) * op.strides[axis] + (window - 1) * op.dilation[axis] + 1
        pads.append([before, max(span - size - before, 0)])
    x = tf.pad(x, [[0, 0], *pads, [0, 0]])
    full = tf.nn.depthwise_conv2d(x, kernel, [1, 1, 1, 1], "VALID", dilations=op.dilation)
    return full[:, :: op.strides[0], :: op.strides[1]]


def activate(activation: ir.Activation, x: Tensor) -> Tensor:
    tf = tensorflow()
    match activation:
        case ir.Activation.RELU:
            return tf.nn.relu(x)
        case ir.Activation.RELU6:
            return tf.nn.relu6(x)
        case _:
            return x


def affine_linear(op: ir.LinearOp, x: Tensor) -> Tensor:
    """A linear op as it runs in inference: activation(scale * (kernel · x) + offset)."""
    y = linear(op, x) * op.scale.astype(np.float32) + op.offset.astype(np.float32)
    return activate(op.activation, y)


def apply(op: ir.Op, inputs: list[Tensor], run_linear: Linear = affine_linear) -> Tensor:
    """Output of one op for a batch; the input op takes the user's raw values."""
    tf = tensorflow()
    match op:
        case ir.Input():
            rescale, offset = (np.asarray(x, np.float32) for x in (op.rescale, op.offset))
            return tf.cast(inputs[0], tf.float32) * rescale + offset
        case ir.LinearOp():
            return run_linear(op, inputs[0])
        case ir.BatchNormalization():
            scale = op.norm.scale
            offset = op.norm.beta - op.norm.mean * scale
            return inputs[0] * scale.astype(np.float32) + offset.astype(np.float32)
        case ir.Relu():
            return activate(op.activation, inputs[0])
        case ir.LeakyRelu():
            return tf.nn.leaky_relu(inputs[0], op.alpha)
        case ir.Logistic():
            return tf.sigmoid(inputs[0])
        case ir.Tanh():
            return tf.tanh(inputs[0])
        case ir.Softmax():
            return tf.nn.softmax(inputs[0])
        case ir.Add():
            return activate(op.activation, inputs[0] + inputs[1])
        case ir.Concatenate():
            return tf.concat(inputs, axis=-1)
        case ir.MaxPool2D():
            return tf.nn.max_pool2d(inputs[0], op.size, op.strides, op.padding.upper())
        case ir.AveragePool2D():
            return tf.nn.avg_pool2d(inputs[0], op.size, op.strides, op.padding.upper())
        case ir.Reshape():
            return tf.reshape(inputs[0], (-1, *op.shape))
        case ir.Pad():
            return tf.pad(inputs[0], [(0, 0), *op.padding, (0, 0)])
    raise AssertionError(op)


def forward(graph: ir.Graph, x: Tensor, run_linear: Linear = affine_linear) -> dict[str, Tensor]:
    """Every tensor of the network for a batch `x` of raw inputs, by name.

    `run_linear` replaces how Conv2D, DepthwiseConv2D and Dense run: training variables, fake
    quantisation and statistics all come in there.
    """
    values: dict[str, Tensor] = {}
    for op in graph.ops:
        inputs = [values[name] for name in op.inputs] or [x]
        values[op.name] = apply(op, inputs, run_linear)
    return values


def predict(graph: ir.Graph, x: np.ndarray, batch_size: int = 256) -> np.ndarray:
    """Network output (samples, *output shape) float32 for raw inputs (samples, *input shape)."""
    run = tensorflow().function(lambda batch: forward(graph, batch)[graph.output], autograph=False)
    parts = [run(x[i : i + batch_size]).numpy() for i in range(0, len(x), batch_size)]
    return np.concatenate(parts)


def ranges(
    graph: ir.Graph, x: np.ndarray, batch_size: int = 256
) -> Mapping[str, tuple[float, float]]:
    """Smallest and largest value of every tensor over raw inputs `x`."""
    tf = tensorflow()

    @tf.function(autograph=False)
    def extremes(batch: Tensor) -> dict[str, Tensor]:
        values = forward(graph, batch)
        return {n: tf.stack([tf.reduce_min(v), tf.reduce_max(v)]) for n, v in values.items()}

    parts = [extremes(x[i : i + batch_size]) for i in range(0, len(x), batch_size)]
    return {
        name: (
            float(min(part[name][0] for part in parts)),
            float(max(part[name][1] for part in parts)),
        )
        for name in parts[0]
    }
