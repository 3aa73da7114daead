"""A Keras network as data: what the file's configuration says, checked for form, executed never.

The importer fills these classes from any file format; support.py judges them; the importer then
converts them to redsc.ir and rebuilds a reference network from nothing but their options.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from redsc.ir import Shape, conv_output_size

OpenShape = tuple[int | None, ...]
"""A shape without batch axis as the file states it; None is an extent it leaves open."""


@dataclass(frozen=True)
class Layer:
    """One call of one layer; nested models are flattened, with names joined by '/'.

    options: normalised options by name (see keras_options). faults: what is malformed or unknown
    in the configuration, as reasons for the user. path: child positions from the outermost model,
    where the weight readers find the arrays. calls: how often the file uses this layer.
    """

    name: str
    class_name: str
    inputs: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    faults: tuple[str, ...] = ()
    origin: str = ""
    dtype: str = "float32"
    path: tuple[int, ...] = ()
    calls: int = 1


@dataclass(frozen=True)
class Network:
    """Layers in topological order; inputs are names of InputLayers, outputs of any layers."""

    name: str
    keras_version: int
    layers: tuple[Layer, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def consumers(self, name: str) -> tuple[Layer, ...]:
        return tuple(layer for layer in self.layers if name in layer.inputs)


def target_shape(target: Sequence[int], elements: int) -> Shape:
    """`target` with its -1 resolved; ValueError when the elements do not fit."""
    known = math.prod(part for part in target if part != -1)
    if target.count(-1) > 1 or (elements % known if -1 in target else elements != known):
        raise ValueError(f"{elements} values do not fit the shape {tuple(target)}")
    return tuple(elements // known if part == -1 else part for part in target)


def output_shape(layer: Layer, inputs: Sequence[Shape]) -> Shape:
    """Shape of a layer's output in Keras's own axes; its constraints must hold."""
    options, first = layer.options, inputs[0] if inputs else ()
    match layer.class_name:
        case "InputLayer":
            return options["shape"]
        case "Dense":
            return (*first[:-1], options["units"])
        case "Conv1D" | "Conv2D" | "SeparableConv1D" | "SeparableConv2D":
            return (*_window(layer, first, "kernel_size"), options["filters"])
        case "DepthwiseConv1D" | "DepthwiseConv2D":
            multiplier = options.get("depth_multiplier", 1)
            return (*_window(layer, first, "kernel_size"), first[-1] * multiplier)
        case "MaxPooling1D" | "MaxPooling2D" | "AveragePooling1D" | "AveragePooling2D":
            return (*_window(layer, first, "pool_size"), first[-1])
        case (
            "GlobalMaxPooling1D" | "GlobalMaxPooling2D"
            | "GlobalAveragePooling1D" | "GlobalAveragePooling2D"
        ):  # fmt: skip
            kept = (1,) * (len(first) - 1) if options.get("keepdims") else ()
            return (*kept, first[-1])
        case "Flatten":
            return (math.prod(first),)
        case "Reshape":
            return target_shape(options["target_shape"], math.prod(first))
        case "ZeroPadding1D":
            return (first[0] + sum(options["padding"]), first[1])
        case "ZeroPadding2D":
            rows, columns = options["padding"]
            return (first[0] + sum(rows), first[1] + sum(columns), first[2])
        case "Concatenate":
            return (*first[:-1], sum(shape[-1] for shape in inputs))
        case _:
            return first


def _window(layer: Layer, before: Shape, size_option: str) -> Shape:
    """Spatial extents behind a sliding window."""
    options, size = layer.options, layer.options[size_option]
    strides = options.get("strides") or (size if size_option == "pool_size" else (1,) * len(size))
    dilation = options.get("dilation_rate") or (1,) * len(size)
    padding = "valid" if options.get("padding", "valid") == "valid" else "same"
    if options.get("padding") == "causal":  # zeros in front, then "valid"
        before = (before[0] + (size[0] - 1) * dilation[0], *before[1:])
        padding = "valid"
    return tuple(
        conv_output_size(*sizes, "same" if padding == "same" else "valid")
        for sizes in zip(before[:-1], size, strides, dilation, strict=True)
    )


def weight_shapes(layer: Layer, before: Shape) -> dict[str, Shape]:
    """Shapes of a layer's weights by Keras's name, in get_weights() order."""
    options, channels = layer.options, before[-1] if before else 0
    shapes: dict[str, Shape] = {}
    size, multiplier = options.get("kernel_size", ()), options.get("depth_multiplier", 1)
    match layer.class_name:
        case "Conv1D" | "Conv2D":
            shapes["kernel"] = (*size, channels, options["filters"])
        case "DepthwiseConv1D" | "DepthwiseConv2D":
            shapes["depthwise_kernel"] = (*size, channels, multiplier)
        case "SeparableConv1D" | "SeparableConv2D":
            ones = (1,) * len(size)
            shapes["depthwise_kernel"] = (*size, channels, multiplier)
            shapes["pointwise_kernel"] = (*ones, channels * multiplier, options["filters"])
        case "Dense":
            shapes["kernel"] = (channels, options["units"])
        case "BatchNormalization":
            names = ["gamma"] * options.get("scale", True) + ["beta"] * options.get("center", True)
            return dict.fromkeys([*names, "moving_mean", "moving_variance"], (channels,))
        case "Normalization" if options.get("mean") is None:
            axes = options.get("axis", (-1,))
            shape = (channels,) if axes else ()
            return {"mean": shape, "variance": shape, "count": ()}
        case _:
            return {}
    if options.get("use_bias", True):
        shapes["bias"] = (output_shape(layer, [before])[-1],)
    return shapes


WEIGHTED_LAYERS = (
    "Conv1D", "Conv2D", "DepthwiseConv1D", "DepthwiseConv2D", "SeparableConv1D", "SeparableConv2D",
    "Dense", "BatchNormalization", "Normalization",
)  # fmt: skip
