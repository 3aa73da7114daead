"""The options of Keras layers: which ones decide what a layer computes, and how each is read.

Values come from untrusted files. A reader turns one into a number, a short text or a tuple of
them, or raises ValueError; nothing else ever reaches a Keras constructor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ActivationSpec:
    """An activation function: `kind` as below; `slope` is leaky_relu's.

    kind: linear, relu, relu6, leaky_relu, sigmoid, tanh, softmax, or anything else the file says.
    """

    kind: str
    slope: float = 0.0


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 2**31:
        raise ValueError("is not a positive whole number")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool | int) or value not in (0, 1):  # Keras takes 1 for True
        raise ValueError("is not true or false")
    return bool(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("is not a text")
    return value


def _number(value: Any) -> float:
    if isinstance(value, dict) and "value" in value:  # a NumPy scalar, as Keras 2 wrote some
        value = value["value"]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError("is not a finite number")
    return float(value)


def _optional_number(value: Any) -> float | None:
    return None if value is None else _number(value)


def _numbers(value: Any) -> tuple[float, ...] | None:
    """A number, or (nested) lists of them, flat; None stays None."""
    if value is None:
        return None
    if isinstance(value, dict) and isinstance(value.get("config"), dict):  # a serialised array
        value = value["config"].get("value")
    if not isinstance(value, list):
        return (_number(value),)
    return tuple(number for part in value for number in _numbers(part) or ())


def _whole_tuple(length: int) -> Callable[[Any], tuple[int, ...]]:
    def read(value: Any) -> tuple[int, ...]:
        values = value if isinstance(value, list) else [value] * length
        if len(values) != length:
            raise ValueError(f"does not have {length} values")
        return tuple(_whole(part) for part in values)

    return read


def _optional_whole_tuple(length: int) -> Callable[[Any], tuple[int, ...] | None]:
    read = _whole_tuple(length)
    return lambda value: None if value is None else read(value)


def _axes(value: Any) -> tuple[int, ...] | None:
    values = value if isinstance(value, list) else [value]
    if values == [None]:
        return None
    if not all(isinstance(part, int) and not isinstance(part, bool) for part in values):
        raise ValueError("is not an axis")
    return tuple(values)


def _target_shape(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(
        isinstance(part, int) and (part == -1 or part > 0) for part in value
    ):
        raise ValueError("is not a shape")
    return tuple(value)


def _amount(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 2**16:
        raise ValueError("is not a whole number from 0 to 65536")
    return value


def _padding_1d(value: Any) -> tuple[int, int]:
    before, after = value if isinstance(value, list) and len(value) == 2 else (value, value)
    return _amount(before), _amount(after)


def _padding_2d(value: Any) -> tuple[tuple[int, int], tuple[int, int]]:
    rows, columns = value if isinstance(value, list) and len(value) == 2 else (value, value)
    return _padding_1d(rows), _padding_1d(columns)


def relu_spec(max_value: float | None, slope: float, threshold: float) -> ActivationSpec:
    """The activation of a ReLU layer with these options."""
    if threshold == 0 and slope == 0 and max_value is None:
        return ActivationSpec("relu")
    if threshold == 0 and slope == 0 and max_value == 6:
        return ActivationSpec("relu6")
    if threshold == 0 and max_value is None:
        return ActivationSpec("leaky_relu", slope)
    return ActivationSpec(f"relu with max_value={max_value}, slope={slope}, threshold={threshold}")


LEAKY_RELU_FUNCTION_SLOPE = 0.2
"""Slope of the activation named "leaky_relu" in Keras 2 (tf.nn.leaky_relu) and 3 alike."""


def read_activation(value: Any) -> ActivationSpec:
    """An `activation` option: a name, a serialised built-in function, or an activation layer."""
    if value is None:
        return ActivationSpec("linear")
    if isinstance(value, str):
        slope = LEAKY_RELU_FUNCTION_SLOPE if value == "leaky_relu" else 0.0
        return ActivationSpec(value, slope)
    if isinstance(value, dict):
        class_name, config = value.get("class_name"), value.get("config")
        own = is_keras_module(value.get("module"))
        if class_name == "function" and isinstance(config, str) and own:
            return read_activation(config)
        if class_name in ("ReLU", "LeakyReLU", "Softmax", "Activation") and own:
            return layer_activation(class_name, read_options(class_name, config or {})[0])
        return ActivationSpec(f"custom function {config!r:.60}")
    raise ValueError("is not an activation")


def layer_activation(class_name: str, options: Mapping[str, Any]) -> ActivationSpec:
    """What an activation layer, or a layer with an `activation` option, computes in the end."""
    match class_name:
        case "ReLU":
            max_value, slope = options.get("max_value"), options.get("negative_slope", 0.0)
            return relu_spec(max_value, slope, options.get("threshold", 0.0))
        case "LeakyReLU":
            return ActivationSpec("leaky_relu", options.get("negative_slope", 0.3))
        case "Softmax":
            return ActivationSpec("softmax")
        case _:
            return options.get("activation", ActivationSpec("linear"))


def is_keras_module(module: Any) -> bool:
    """Whether a serialised object's `module` is Keras itself; old formats name none."""
    roots = ("keras", "tf_keras", "tensorflow")
    return module is None or (isinstance(module, str) and module.split(".")[0] in roots)


Reader = Callable[[Any], Any]


def _convolution(rank: int, *own: tuple[str, Reader]) -> dict[str, Reader]:
    size = _whole_tuple(rank)
    common: dict[str, Reader] = {
        "kernel_size": size, "strides": size, "dilation_rate": size, "padding": _text,
        "data_format": _text, "groups": _whole, "use_bias": _flag, "activation": read_activation,
    }  # fmt: skip
    return common | dict(own)


def _pooling(rank: int) -> dict[str, Reader]:
    return {
        "pool_size": _whole_tuple(rank), "strides": _optional_whole_tuple(rank),
        "padding": _text, "data_format": _text,
    }  # fmt: skip


_FILTERS, _MULTIPLIER = ("filters", _whole), ("depth_multiplier", _whole)
_GLOBAL_POOLING: dict[str, Reader] = {"data_format": _text, "keepdims": _flag}

OPTIONS: dict[str, dict[str, Reader]] = {
    "Conv1D": _convolution(1, _FILTERS),
    "Conv2D": _convolution(2, _FILTERS),
    "DepthwiseConv1D": _convolution(1, _MULTIPLIER),
    "DepthwiseConv2D": _convolution(2, _MULTIPLIER),
    "SeparableConv1D": _convolution(1, _FILTERS, _MULTIPLIER),
    "SeparableConv2D": _convolution(2, _FILTERS, _MULTIPLIER),
    "Dense": {"units": _whole, "use_bias": _flag, "activation": read_activation},
    "BatchNormalization": {"axis": _axes, "epsilon": _number, "center": _flag, "scale": _flag},
    "Activation": {"activation": read_activation},
    "ReLU": {"max_value": _optional_number, "negative_slope": _number, "threshold": _number},
    "LeakyReLU": {"negative_slope": _number},
    "Softmax": {"axis": _axes},
    "Add": {},
    "Concatenate": {"axis": _axes},
    "MaxPooling1D": _pooling(1),
    "MaxPooling2D": _pooling(2),
    "AveragePooling1D": _pooling(1),
    "AveragePooling2D": _pooling(2),
    "GlobalMaxPooling1D": _GLOBAL_POOLING,
    "GlobalMaxPooling2D": _GLOBAL_POOLING,
    "GlobalAveragePooling1D": _GLOBAL_POOLING,
    "GlobalAveragePooling2D": _GLOBAL_POOLING,
    "Flatten": {"data_format": _text},
    "Reshape": {"target_shape": _target_shape},
    "ZeroPadding1D": {"padding": _padding_1d, "data_format": _text},
    "ZeroPadding2D": {"padding": _padding_2d, "data_format": _text},
    "Rescaling": {"scale": _numbers, "offset": _numbers},
    "Normalization": {"axis": _axes, "mean": _numbers, "variance": _numbers, "invert": _flag},
}
"""Options that decide what a layer computes, by class; every other option must be inert."""

_REQUIRED = {
    "Conv1D": ("filters", "kernel_size"), "Conv2D": ("filters", "kernel_size"),
    "SeparableConv1D": ("filters", "kernel_size"), "SeparableConv2D": ("filters", "kernel_size"),
    "DepthwiseConv1D": ("kernel_size",), "DepthwiseConv2D": ("kernel_size",),
    "Dense": ("units",), "BatchNormalization": ("epsilon",), "Activation": ("activation",),
    "Softmax": ("axis",), "Concatenate": ("axis",), "Reshape": ("target_shape",),
    "MaxPooling1D": ("pool_size",), "MaxPooling2D": ("pool_size",),
    "AveragePooling1D": ("pool_size",), "AveragePooling2D": ("pool_size",),
    "ZeroPadding1D": ("padding",), "ZeroPadding2D": ("padding",), "Rescaling": ("scale",),
}  # fmt: skip
"""Options Keras always writes; without them a layer is not what its class name says."""

INERT_LAYERS = (
    "Dropout", "SpatialDropout1D", "SpatialDropout2D", "GaussianDropout", "GaussianNoise",
    "AlphaDropout", "ActivityRegularization", "Identity", "RandomFlip", "RandomRotation",
    "RandomTranslation", "RandomZoom", "RandomContrast", "RandomBrightness",
)  # fmt: skip
"""Layers that do nothing in inference and are dropped."""

_RENAMED = {"alpha": "negative_slope"}
_INERT_OPTIONS = {
    "name", "trainable", "dtype", "batch_input_shape", "batch_shape", "input_shape", "input_dtype",
    "momentum", "activity_regularizer", "synchronized", "renorm_momentum", "fused", "autocast",
    "build_config", "lora_rank", "lora_alpha", "stateful", "expects_training_arg",
}  # fmt: skip
_INERT_ENDINGS = ("_initializer", "_regularizer", "_constraint")


def read_options(class_name: str, config: Any) -> tuple[dict[str, Any], list[str]]:
    """(normalised options, faults) of a layer's raw configuration."""
    if not isinstance(config, Mapping):
        return {}, ["its configuration is not an object"]
    options, faults, readers = {}, [], OPTIONS[class_name]
    for raw_name, value in config.items():
        name = raw_name if raw_name in readers else _RENAMED.get(str(raw_name), str(raw_name))
        if name in readers:
            try:
                options[name] = readers[name](value)
            except (ValueError, TypeError, OverflowError) as fault:
                faults.append(f"option {raw_name} = {value!r:.60} {fault}")
        elif value and name not in _INERT_OPTIONS and not name.endswith(_INERT_ENDINGS):
            faults.append(f"option {raw_name} = {value!r:.60} is not known to redsc")
    missing = [name for name in _REQUIRED.get(class_name, ()) if name not in config]
    if class_name == "LeakyReLU" and not {"alpha", "negative_slope"} & set(config):
        missing.append("negative_slope")
    return options, faults + [f"option {name} is missing" for name in missing]
