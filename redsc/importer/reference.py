"""The user's network rebuilt in Keras from checked options and weights: what proofs compare with.

Only built-in layers are constructed, and only from normalised options; no configuration of the
file is ever given to Keras.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from redsc.importer.load import LoadedModel
from redsc.keras_network import Layer
from redsc.keras_options import INERT_LAYERS, ActivationSpec
from redsc.tf_network import tensorflow


def _keras(version: int) -> Any:
    """The Keras that wrote the file: tf_keras is Keras 2."""
    tensorflow()
    if version == 2:
        import tf_keras

        return tf_keras
    import keras

    return keras


def reference_model(loaded: LoadedModel) -> Any:
    """A Keras model (of the file's own Keras) with the user's layers and weights."""
    keras = _keras(loaded.keras_version)
    tensors: dict[str, Any] = {}
    built: list[tuple[Any, str]] = []
    for layer in loaded.network.layers:
        sources = [tensors[name] for name in layer.inputs]
        if layer.class_name == "InputLayer":
            tensors[layer.name] = keras.Input(layer.options["shape"], dtype="float32")
        elif layer.class_name in INERT_LAYERS:
            tensors[layer.name] = sources[0]
        else:
            made = _layer(keras, loaded, layer)
            several = layer.class_name in ("Add", "Concatenate")
            tensors[layer.name] = made(sources if several else sources[0])
            built.append((made, layer.name))
    model = keras.Model(
        tensors[loaded.network.inputs[0]], tensors[loaded.network.outputs[0]], name="reference"
    )
    for made, name in built:
        if loaded.weights[name] and type(made).__name__ != "Normalization":
            made.set_weights([np.asarray(array) for array in loaded.weights[name]])
    return model


def reference_predict(loaded: LoadedModel, x: np.ndarray, batch_size: int = 64) -> np.ndarray:
    """Float output of the user's own network for raw inputs, shaped as redsc.ir has it.

    x: (samples, *shape), shape the Keras model's or the graph's own. Returns float32 (samples,
    *output shape of the graph).
    """
    model = reference_model(loaded)
    x = np.asarray(x, np.float32).reshape(len(x), *loaded.input_shape)
    parts = [
        np.asarray(model(x[i : i + batch_size], training=False))
        for i in range(0, len(x), batch_size)
    ]
    result = np.concatenate(parts)
    if len(loaded.output_shape) == 2:
        result = result[:, :, None]
    return result


def _layer(keras: Any, loaded: LoadedModel, layer: Layer) -> Any:
    options: dict[str, Any] = dict(layer.options)
    if "activation" in options:
        options["activation"] = _activation(keras, options["activation"])
    if layer.class_name == "LeakyReLU" and loaded.keras_version == 2:
        options["alpha"] = options.pop("negative_slope")
    if layer.class_name == "Normalization":
        options = _normalization(options, loaded.weights[layer.name])
    if layer.class_name == "Rescaling":
        options = {name: _plain(value) for name, value in options.items()}
    if layer.class_name.startswith(("Depthwise", "Separable")):
        options.pop("groups", None)
    if layer.class_name == "ZeroPadding1D":
        options.pop("data_format", None)
    if layer.class_name == "BatchNormalization" and "axis" in options:
        options["axis"] = options["axis"][0]
    if layer.class_name in ("Concatenate", "Softmax"):
        options["axis"] = -1
    return getattr(keras.layers, layer.class_name)(**options)


def _normalization(options: dict[str, Any], weights: tuple[np.ndarray, ...]) -> dict[str, Any]:
    """Statistics learnt from data become constants: set_weights() would leave them unused."""
    axis = options.get("axis", (-1,))
    mean, variance = options.get("mean"), options.get("variance")
    if mean is None:
        mean, variance = (tuple(array.reshape(-1).tolist()) for array in weights[:2])
    assert mean is not None
    assert variance is not None
    return {
        "axis": None if not axis else axis[0], "mean": _plain(mean), "variance": _plain(variance),
    }  # fmt: skip


def _plain(values: tuple[float, ...]) -> float | list[float]:
    return values[0] if len(values) == 1 else list(values)


def _activation(keras: Any, spec: ActivationSpec) -> Any:
    match spec.kind:
        case "leaky_relu":
            return lambda x: tensorflow().nn.leaky_relu(x, spec.slope)
        case "relu6":
            return lambda x: tensorflow().nn.relu6(x)
        case _:
            return spec.kind
