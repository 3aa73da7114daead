"""From a checked Keras network and its weights to `redsc.ir`, layer by layer.

Tensors of shape (time, channels) become (time, 1, channels). A layer's activation becomes an op
of its own; the passes fuse it again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from redsc import ir
from redsc.keras_network import Layer, Network, weight_shapes
from redsc.keras_options import INERT_LAYERS, ActivationSpec, layer_activation

Weights = Mapping[str, tuple[np.ndarray, ...]]
_NORMALIZATION_EPSILON = 1e-7  # keras.config.epsilon(), the least standard deviation


def convert(network: Network, weights: Weights, shapes: Mapping[str, ir.Shape]) -> ir.Graph:
    """The graph of a network that support.check and the weights' shapes have passed."""
    converter = _Converter(weights, shapes)
    for layer in network.layers:
        converter.layer(layer)
    graph = ir.Graph(network.name, tuple(converter.ops), converter.tensor[network.outputs[0]])
    graph = absorb_input_scaling(graph)
    ir.check(graph)
    return graph


def channels_last_shape(shape: ir.Shape) -> ir.Shape:
    """The shape redsc.ir gives a Keras tensor."""
    return (shape[0], 1, shape[1]) if len(shape) == 2 else shape


class _Converter:
    """Ops so far, and the op that holds each Keras layer's output."""

    def __init__(self, weights: Weights, shapes: Mapping[str, ir.Shape]) -> None:
        self.weights = weights
        self.shapes = shapes
        self.ops: list[ir.Op] = []
        self.tensor: dict[str, str] = {}
        self.names: set[str] = set()

    def unique(self, name: str) -> str:
        candidate, number = name, 1
        while candidate in self.names:
            candidate, number = f"{name}_{number}", number + 1
        self.names.add(candidate)
        return candidate

    def add(self, op: ir.Op) -> str:
        op = replace(op, name=self.unique(op.name))
        self.ops.append(op)
        return op.name

    def layer(self, layer: Layer) -> None:
        sources = tuple(self.tensor[name] for name in layer.inputs)
        before = [self.shapes[name] for name in layer.inputs]
        out = self.body(layer, sources, before)
        self.tensor[layer.name] = self.activation(layer, out)

    def activation(self, layer: Layer, tensor: str) -> str:
        spec = layer_activation(layer.class_name, layer.options)
        own = layer.class_name in ("Activation", "ReLU", "LeakyReLU", "Softmax")
        name = layer.name if own else f"{layer.name}/{spec.kind}"
        op = _activation_op(spec, name, tensor)
        return tensor if op is None else self.add(op)

    def body(self, layer: Layer, sources: tuple[str, ...], before: list[ir.Shape]) -> str:
        name, options = layer.name, layer.options
        match layer.class_name:
            case "InputLayer":
                return self.add(ir.Input(name, (), channels_last_shape(options["shape"])))
            case "Conv1D" | "Conv2D" | "DepthwiseConv1D" | "DepthwiseConv2D":
                return self.convolution(layer, sources[0], before[0])
            case "SeparableConv1D" | "SeparableConv2D":
                return self.separable(layer, sources[0], before[0])
            case "Dense":
                return self.dense(layer, sources[0], before[0])
            case "BatchNormalization":
                return self.add(ir.BatchNormalization(name, sources, self.norm(layer, before[0])))
            case "Rescaling" | "Normalization":
                return self.add(
                    ir.BatchNormalization(name, sources, self.scaling(layer, before[0]))
                )
            case "Add":
                total = sources[0]
                for source in sources[1:]:
                    total = self.add(ir.Add(name, (total, source)))
                return total
            case "Concatenate":
                return self.add(ir.Concatenate(name, sources))
            case "MaxPooling1D" | "MaxPooling2D" | "AveragePooling1D" | "AveragePooling2D":
                return self.pool(layer, sources[0])
            case (
                "GlobalMaxPooling1D" | "GlobalMaxPooling2D"
                | "GlobalAveragePooling1D" | "GlobalAveragePooling2D"
            ):  # fmt: skip
                return self.global_pool(layer, sources[0], before[0])
            case "Flatten" | "Reshape":
                shape = channels_last_shape(self.shapes[name])
                return self.add(ir.Reshape(name, sources, shape))
            case "ZeroPadding1D":
                return self.add(ir.Pad(name, sources, (options["padding"], (0, 0))))
            case "ZeroPadding2D":
                return self.add(ir.Pad(name, sources, options["padding"]))
            case _:
                assert layer.class_name in INERT_LAYERS or layer.class_name in (
                    "Activation", "ReLU", "LeakyReLU", "Softmax",
                ), layer.class_name  # fmt: skip
                return sources[0]

    def named_weights(self, layer: Layer, before: ir.Shape) -> dict[str, np.ndarray]:
        names = weight_shapes(layer, before)
        return dict(zip(names, self.weights[layer.name], strict=True))

    def window(self, layer: Layer, source: str, before: ir.Shape) -> tuple[str, dict[str, Any]]:
        """Source (behind causal padding) and the fields strides, dilation, padding."""
        options = layer.options
        size = options["kernel_size"]
        strides = options.get("strides", (1,) * len(size))
        dilation = options.get("dilation_rate", (1,) * len(size))
        padding: Literal["same", "valid"] = "valid"
        if options.get("padding", "valid") == "same":
            padding = "same"
        elif options.get("padding") == "causal" and size[0] > 1:
            front = (size[0] - 1) * dilation[0]
            source = self.add(ir.Pad(f"{layer.name}/causal", (source,), ((front, 0), (0, 0))))
        return source, {"strides": _pair(strides), "dilation": _pair(dilation), "padding": padding}

    def convolution(self, layer: Layer, source: str, before: ir.Shape) -> str:
        arrays = self.named_weights(layer, before)
        source, fields = self.window(layer, source, before)
        bias = _optional(arrays.get("bias"))
        if "kernel" in arrays:
            kernel = _kernel(arrays["kernel"])
            return self.add(ir.Conv2D(layer.name, (source,), kernel, bias, **fields))
        kernel = _kernel(arrays["depthwise_kernel"])
        return self.add(ir.DepthwiseConv2D(layer.name, (source,), kernel, bias, **fields))

    def separable(self, layer: Layer, source: str, before: ir.Shape) -> str:
        arrays = self.named_weights(layer, before)
        source, fields = self.window(layer, source, before)
        depthwise = ir.DepthwiseConv2D(
            f"{layer.name}/depthwise", (source,), _kernel(arrays["depthwise_kernel"]), **fields
        )
        between = self.add(depthwise)
        kernel, bias = _kernel(arrays["pointwise_kernel"]), _optional(arrays.get("bias"))
        return self.add(ir.Conv2D(layer.name, (between,), kernel, bias))

    def dense(self, layer: Layer, source: str, before: ir.Shape) -> str:
        arrays = self.named_weights(layer, before)
        bias = _optional(arrays.get("bias"))
        if len(before) == 1:
            return self.add(ir.Dense(layer.name, (source,), ir.read_only(arrays["kernel"]), bias))
        kernel = ir.read_only(arrays["kernel"][None, None])  # acts on each position's channels
        return self.add(ir.Conv2D(layer.name, (source,), kernel, bias))

    def norm(self, layer: Layer, before: ir.Shape) -> ir.BatchNorm:
        arrays, channels = self.named_weights(layer, before), before[-1]
        return ir.BatchNorm(
            gamma=ir.read_only(arrays.get("gamma", np.ones(channels))),
            beta=ir.read_only(arrays.get("beta", np.zeros(channels))),
            mean=ir.read_only(arrays["moving_mean"]),
            variance=ir.read_only(arrays["moving_variance"]),
            epsilon=layer.options["epsilon"],
        )

    def scaling(self, layer: Layer, before: ir.Shape) -> ir.BatchNorm:
        """Rescaling x * scale + offset, or Normalization (x - mean) / deviation, per channel."""
        channels, options = before[-1], layer.options
        if layer.class_name == "Rescaling":
            scale = _spread(options["scale"], channels)
            offset = _spread(options.get("offset") or (0.0,), channels)
        else:
            arrays = self.named_weights(layer, before)
            mean = _spread(arrays.get("mean", options.get("mean")), channels)
            variance = _spread(arrays.get("variance", options.get("variance")), channels)
            scale = 1 / np.maximum(np.sqrt(variance), _NORMALIZATION_EPSILON)
            offset = -mean * scale
        return affine_norm(scale, offset)

    def pool(self, layer: Layer, source: str) -> str:
        size = layer.options["pool_size"]
        strides = layer.options.get("strides") or size
        padding: ir.Padding = "same" if layer.options.get("padding") == "same" else "valid"
        kind = ir.MaxPool2D if layer.class_name.startswith("Max") else ir.AveragePool2D
        return self.add(kind(layer.name, (source,), _pair(size), _pair(strides), padding))

    def global_pool(self, layer: Layer, source: str, before: ir.Shape) -> str:
        size = channels_last_shape(before)[:2]
        kind = ir.MaxPool2D if layer.class_name.startswith("GlobalMax") else ir.AveragePool2D
        pooled = kind(f"{layer.name}/pool", (source,), (size[0], size[1]), (size[0], size[1]))
        shape = channels_last_shape(self.shapes[layer.name])
        return self.add(ir.Reshape(layer.name, (self.add(pooled),), shape))


def affine_norm(scale: np.ndarray, offset: np.ndarray) -> ir.BatchNorm:
    """y = scale * x + offset as a batch-norm with mean 0, variance 1 and epsilon 0."""
    return ir.BatchNorm(
        gamma=ir.read_only(scale),
        beta=ir.read_only(offset),
        mean=ir.read_only(np.zeros(len(scale))),
        variance=ir.read_only(np.ones(len(scale))),
        epsilon=0.0,
    )


def absorb_input_scaling(graph: ir.Graph) -> ir.Graph:
    """Move Rescaling and Normalization right behind the input into its own scaling."""
    while True:
        source, consumers = graph.input, graph.consumers(graph.input.name)
        if len(consumers) != 1 or graph.output in (source.name, consumers[0].name):
            return graph
        (op,) = consumers
        if not isinstance(op, ir.BatchNormalization) or not _is_positive_scaling(op.norm):
            return graph
        scale, offset = (_joined(x) for x in (op.norm.gamma, op.norm.beta))
        absorbed = replace(
            source, rescale=source.rescale * scale, offset=source.offset * scale + offset
        )
        rest = (
            replace(o, inputs=tuple(source.name if n == op.name else n for n in o.inputs))
            for o in graph.ops[1:]
            if o is not op
        )
        graph = graph.with_ops([absorbed, *rest])


def _is_positive_scaling(norm: ir.BatchNorm) -> bool:
    """Whether a batch-norm is `affine_norm` of positive scales."""
    plain = norm.epsilon == 0 and not norm.mean.any() and bool((norm.variance == 1).all())
    return plain and bool((norm.gamma > 0).all())


def _joined(values: np.ndarray) -> float | np.ndarray:
    """One number where all channels have the same."""
    return float(values[0]) if np.ptp(values) == 0 else values.astype(np.float64)


def _activation_op(spec: ActivationSpec, name: str, source: str) -> ir.Op | None:
    match spec.kind:
        case "linear":
            return None
        case "relu":
            return ir.Relu(name, (source,), ir.Activation.RELU)
        case "relu6":
            return ir.Relu(name, (source,), ir.Activation.RELU6)
        case "leaky_relu":
            return ir.LeakyRelu(name, (source,), spec.slope)
        case "sigmoid":
            return ir.Logistic(name, (source,))
        case "tanh":
            return ir.Tanh(name, (source,))
        case "softmax":
            return ir.Softmax(name, (source,))
    raise AssertionError(spec)


def _pair(values: Sequence[int]) -> tuple[int, int]:
    return (values[0], 1) if len(values) == 1 else (values[0], values[1])


def _kernel(array: np.ndarray) -> np.ndarray:
    """A convolution kernel with two window axes."""
    return ir.read_only(array[:, None] if array.ndim == 3 else array)


def _optional(array: np.ndarray | None) -> np.ndarray | None:
    return None if array is None else ir.read_only(array)


def _spread(values: Any, channels: int) -> np.ndarray:
    """float64 (channels,) of one number or one per channel."""
    flat = np.asarray(values, np.float64).reshape(-1)
    return np.broadcast_to(flat, (channels,)) if math.prod(flat.shape) == 1 else flat
