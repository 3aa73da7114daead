"""Networks of every family redsc takes, as users build them: deterministic, with lived-in weights.

`ZOO[name](size, keras)` builds one. Batch-norm statistics are those of the network's own
activations, perturbed; some gammas are negative or tiny: nothing is freshly initialised.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from redsc.tf_network import tensorflow

Model = Any  # a Keras 2 or Keras 3 model
Body = Callable[[Any, Any, bool], Any]  # (keras.layers, input tensor, full size) -> output tensor


def keras2() -> Any:
    tensorflow()
    import tf_keras

    return tf_keras


def keras3() -> Any:
    tensorflow()
    import keras

    return keras


# --- Families: each is (input shape, body) by size ---


def _conv_norm(
    nn: Any, x: Any, filters: int, size: Any = 3, strides: int = 1, **options: Any
) -> Any:
    x = nn.Conv2D(filters, size, strides=strides, padding="same", use_bias=False, **options)(x)
    return nn.BatchNormalization()(x)


def _separable_block(nn: Any, x: Any, filters: int, strides: int = 1, six: bool = False) -> Any:
    x = nn.DepthwiseConv2D(3, strides=strides, padding="same", use_bias=False)(x)
    x = nn.ReLU(6.0)(nn.BatchNormalization()(x)) if six else nn.ReLU()(nn.BatchNormalization()(x))
    x = _conv_norm(nn, x, filters, 1)
    return nn.ReLU(6.0)(x) if six else nn.ReLU()(x)


def ds_cnn(nn: Any, x: Any, full: bool) -> Any:
    filters, blocks = (64, 4) if full else (8, 2)
    x = nn.Conv2D(filters, (10, 4), strides=2, padding="same")(x)
    x = nn.Dropout(0.2)(nn.Activation("relu")(nn.BatchNormalization()(x)))
    for _ in range(blocks):
        x = nn.DepthwiseConv2D(3, padding="same")(x)
        x = nn.Activation("relu")(nn.BatchNormalization()(x))
        x = nn.Conv2D(filters, 1)(x)
        x = nn.Activation("relu")(nn.BatchNormalization()(x))
    x = nn.AveragePooling2D((x.shape[1], x.shape[2]))(nn.Dropout(0.4)(x))
    return nn.Dense(12, activation="softmax")(nn.Flatten()(x))


def mobilenet_v1(nn: Any, x: Any, full: bool) -> Any:
    filters = (16, 32, 32, 64, 64, *[128] * 6, 256, 256) if full else (8, 12, 12, 16)
    strides = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1) if full else (1, 2, 1, 2)
    x = nn.ReLU(6.0)(_conv_norm(nn, x, 8 if full else 4, 3, 2))
    for width, stride in zip(filters, strides, strict=True):
        x = _separable_block(nn, x, width, stride, six=True)
    x = nn.Dropout(0.1)(nn.GlobalAveragePooling2D()(x))
    return nn.Dense(2, activation="softmax")(x)


def resnet8(nn: Any, x: Any, full: bool) -> Any:
    widths = (16, 32, 64) if full else (4, 8)
    x = nn.Activation("relu")(_conv_norm(nn, x, widths[0]))
    for number, width in enumerate(widths):
        stride = 1 if number == 0 else 2
        y = nn.Activation("relu")(_conv_norm(nn, x, width, 3, stride))
        y = _conv_norm(nn, y, width)
        if stride == 2:
            x = nn.Conv2D(width, 1, strides=2, padding="same")(x)
        x = nn.Activation("relu")(nn.Add()([x, y]))
    x = nn.AveragePooling2D(x.shape[1])(x)
    return nn.Dense(10, activation="softmax")(nn.Flatten()(x))


def resnet_preactivation(nn: Any, x: Any, full: bool) -> Any:
    widths = (16, 16, 32, 32) if full else (4, 4, 8)
    x = nn.Conv2D(widths[0], 3, padding="same", use_bias=False)(x)
    before = widths[0]
    for width in widths:
        y = nn.ReLU()(nn.BatchNormalization()(x))
        stride = 1 if width == before else 2
        if stride == 2:
            x = nn.Conv2D(width, 1, strides=2, use_bias=False)(y)
        y = nn.Conv2D(width, 3, strides=stride, padding="same", use_bias=False)(y)
        y = nn.ReLU()(nn.BatchNormalization()(y))
        y = nn.Conv2D(width, 3, padding="same")(y)
        x, before = nn.Add()([x, y]), width
    x = nn.GlobalAveragePooling2D()(nn.ReLU()(nn.BatchNormalization()(x)))
    return nn.Dense(10)(x)


def streaming_wake_word(nn: Any, x: Any, full: bool) -> Any:
    widths = (128, 128, 128, 32) if full else (8, 6)
    for number, width in enumerate(widths):
        x = nn.DepthwiseConv2D((3, 1), padding="valid", use_bias=number == 0)(x)
        x = nn.ReLU()(_conv_norm(nn, x, width, 1))
    x = nn.AveragePooling2D((x.shape[1], 1))(x)
    return nn.Dense(3, activation="softmax")(nn.Flatten()(x))


def vgg(nn: Any, x: Any, full: bool) -> Any:
    for width in (16, 32, 64) if full else (4, 6):
        x = nn.Conv2D(width, 3, padding="same", activation="relu")(x)
        x = nn.ReLU()(nn.BatchNormalization()(nn.Conv2D(width, 3, padding="same")(x)))
        x = nn.MaxPooling2D()(x)
    x = nn.Dense(64 if full else 12, activation="relu")(nn.Flatten()(x))
    return nn.Dense(10, activation="softmax")(nn.Dropout(0.5)(x))


def dense(nn: Any, x: Any, full: bool) -> Any:
    for width in (144, 144, 96) if full else (16, 12):
        x = nn.Dense(width, activation="relu")(x)
    return nn.Dense(12, activation="softmax")(x)


def autoencoder(nn: Any, x: Any, full: bool) -> Any:
    features = x.shape[-1]
    for width in (128, 128, 128, 128, 8, 128, 128, 128, 128) if full else (16, 4, 16):
        x = nn.Activation("relu")(nn.BatchNormalization()(nn.Dense(width)(x)))
    return nn.Dense(features)(x)


def densenet(nn: Any, x: Any, full: bool) -> Any:
    growth = 12 if full else 4
    x = nn.Conv2D(growth, 3, padding="same", use_bias=False)(x)
    for _ in range(4 if full else 2):
        y = nn.ReLU()(nn.BatchNormalization()(x))
        y = nn.Conv2D(growth, 3, padding="same", use_bias=False)(y)
        x = nn.Concatenate()([x, y])
    x = nn.AveragePooling2D(2)(nn.ReLU()(nn.BatchNormalization()(x)))
    return nn.Dense(10, activation="softmax")(nn.GlobalAveragePooling2D()(x))


def inception(nn: Any, x: Any, full: bool) -> Any:
    width = 16 if full else 4
    x = nn.ReLU()(_conv_norm(nn, x, width, 3, 2))
    for _ in range(2):
        a = nn.Conv2D(width, 1, activation="relu")(x)
        b = nn.ReLU()(_conv_norm(nn, nn.Conv2D(width // 2, 1, activation="relu")(x), width))
        c = nn.Conv2D(width // 2, 1)(nn.MaxPooling2D(3, strides=1, padding="same")(x))
        x = nn.Concatenate()([a, b, nn.ReLU()(c)])
    x = nn.AveragePooling2D(3, strides=2, padding="same")(x)
    return nn.Dense(10, activation="softmax")(nn.GlobalMaxPooling2D()(x))


def conv1d_causal(nn: Any, x: Any, full: bool) -> Any:
    width = 32 if full else 6
    for dilation in (1, 2, 4) if full else (1, 2):
        x = nn.Conv1D(width, 3, padding="causal", dilation_rate=dilation)(x)
        x = nn.LeakyReLU(0.1)(nn.BatchNormalization()(x))
    x = nn.MaxPooling1D(2)(x)
    x = nn.SeparableConv1D(width, 3, padding="same", activation="relu")(x)
    x = nn.Conv1D(width, 5, strides=2, padding="same", activation="relu")(x)
    x = nn.GlobalAveragePooling1D()(nn.AveragePooling1D(2, padding="same")(x))
    return nn.Dense(6, activation="softmax")(x)


def depthwise_multiplier(nn: Any, x: Any, full: bool) -> Any:
    width = 16 if full else 4
    x = nn.DepthwiseConv2D(3, depth_multiplier=4, padding="same")(x)
    x = nn.ReLU()(nn.BatchNormalization()(x))
    x = nn.ReLU()(_conv_norm(nn, x, width, 1))
    x = nn.DepthwiseConv2D(3, depth_multiplier=2, strides=2, padding="same", activation="relu")(x)
    x = nn.Conv2D(width, 1, activation="relu")(x)
    return nn.Dense(5)(nn.GlobalAveragePooling2D()(x))


def dilated(nn: Any, x: Any, full: bool) -> Any:
    width = 16 if full else 4
    x = nn.ReLU()(_conv_norm(nn, x, width))
    x = nn.ReLU()(_conv_norm(nn, x, width, 3, dilation_rate=2))
    x = nn.DepthwiseConv2D(3, dilation_rate=(2, 2), padding="valid", activation="relu6")(x)
    x = nn.Conv2D(width, (3, 2), dilation_rate=(1, 2), padding="valid", activation="relu")(x)
    return nn.Dense(4, activation="softmax")(nn.GlobalAveragePooling2D()(x))


def separable(nn: Any, x: Any, full: bool) -> Any:
    width = 24 if full else 6
    x = nn.SeparableConv2D(width, 3, padding="same", activation="relu")(x)
    x = nn.SeparableConv2D(width, 3, strides=2, depth_multiplier=2, use_bias=False)(x)
    x = nn.ReLU()(nn.BatchNormalization()(x))
    x = nn.ZeroPadding2D(((0, 1), (1, 0)))(x)
    x = nn.ReLU()(_conv_norm(nn, x, width, 1))
    return nn.Dense(10, activation="softmax")(nn.Flatten()(x))


def norm_everywhere(nn: Any, x: Any, full: bool) -> Any:
    """Batch-norm on the input, after ReLU, after Add, after Concatenate, after pooling, on (C,)."""
    width = 16 if full else 4
    x = nn.BatchNormalization()(x)
    x = nn.BatchNormalization()(nn.Conv2D(width, 3, padding="same", activation="relu")(x))
    y = nn.Conv2D(width, 3, padding="same", activation="relu")(x)
    x = nn.ReLU()(nn.BatchNormalization()(nn.Add()([x, y, nn.Conv2D(width, 1)(y)])))
    x = nn.BatchNormalization(scale=False)(nn.Concatenate()([x, y]))
    x = nn.ReLU()(nn.BatchNormalization(center=False)(nn.MaxPooling2D(2)(x)))
    x = nn.BatchNormalization()(nn.GlobalAveragePooling2D()(x))
    x = nn.LeakyReLU(0.2)(nn.BatchNormalization()(nn.Dense(12, use_bias=False)(x)))
    return nn.Dense(5)(x)


def normalization_input(nn: Any, x: Any, full: bool) -> Any:
    channels = x.shape[-1]
    mean, variance = np.linspace(-1, 2, channels), np.linspace(0.5, 4, channels)
    x = nn.Normalization(mean=mean.tolist(), variance=variance.tolist())(x)
    x = nn.ReLU()(_conv_norm(nn, x, 16 if full else 4, 3, 2))
    return nn.Dense(4, activation="softmax")(nn.GlobalAveragePooling2D()(x))


def rescaling_input(nn: Any, x: Any, full: bool) -> Any:
    x = nn.Rescaling(1 / 127.5, offset=-1.0)(x)
    x = nn.ReLU()(_conv_norm(nn, x, 16 if full else 4, 3, 2))
    x = _separable_block(nn, x, 24 if full else 6)
    return nn.Dense(4, activation="softmax")(nn.GlobalAveragePooling2D(keepdims=True)(x))


def sigmoid_output(nn: Any, x: Any, full: bool) -> Any:
    x = nn.Conv2D(16 if full else 4, 3, strides=2, activation="tanh")(x)
    x = nn.Conv2D(16 if full else 4, 3, activation="sigmoid")(x)
    return nn.Dense(1, activation="sigmoid")(nn.Flatten()(x))


def tanh_output(nn: Any, x: Any, full: bool) -> Any:
    x = nn.Dense(32 if full else 8)(x)
    x = nn.LeakyReLU(0.3)(nn.BatchNormalization()(x))
    return nn.Activation("tanh")(nn.Dense(3)(x))


def dead_channels(nn: Any, x: Any, full: bool) -> Any:
    """A trained network's dead channels; `_finish` makes them so in layers called dead…"""
    width = 16 if full else 8
    x = nn.Conv2D(width, 3, padding="same", use_bias=False, name="dead_conv")(x)
    x = nn.ReLU()(nn.BatchNormalization(name="dead_conv_norm")(x))
    x = nn.DepthwiseConv2D(3, strides=2, padding="same", use_bias=False, name="dead_depthwise")(x)
    x = nn.ReLU()(nn.BatchNormalization(name="dead_depthwise_norm")(x))
    x = nn.ReLU()(_conv_norm(nn, x, width, 1))
    return nn.Dense(4, activation="softmax")(nn.GlobalAveragePooling2D()(x))


def nested(nn: Any, x: Any, full: bool) -> Any:
    keras = keras3() if nn.__name__.startswith("keras.") else keras2()
    width = 16 if full else 4
    stem = keras.Sequential(
        [nn.Conv2D(width, 3, name="c"), nn.BatchNormalization(name="b"), nn.ReLU()], name="stem"
    )
    inside = keras.Input((x.shape[1] - 2, x.shape[2] - 2, width))
    y = nn.ReLU()(
        nn.BatchNormalization(name="b")(nn.Conv2D(width, 3, padding="same", name="c")(inside))
    )
    block = keras.Model(inside, nn.Add()([inside, y]), name="block")
    x = block(stem(x))
    return nn.Dense(3, activation="softmax")(nn.GlobalAveragePooling2D()(x))


FAMILIES: dict[str, tuple[tuple[int, ...], tuple[int, ...], Body]] = {
    "ds_cnn": ((25, 10, 1), (49, 10, 1), ds_cnn),
    "mobilenet_v1": ((24, 24, 3), (96, 96, 3), mobilenet_v1),
    "resnet8": ((12, 12, 3), (32, 32, 3), resnet8),
    "resnet_preactivation": ((8, 8, 3), (32, 32, 3), resnet_preactivation),
    "streaming_wake_word": ((12, 1, 10), (30, 1, 40), streaming_wake_word),
    "vgg": ((8, 8, 3), (32, 32, 3), vgg),
    "dense": ((20,), (250,), dense),
    "autoencoder": ((20,), (640,), autoencoder),
    "densenet": ((8, 8, 3), (32, 32, 3), densenet),
    "inception": ((12, 12, 3), (32, 32, 3), inception),
    "conv1d_causal": ((32, 3), (128, 9), conv1d_causal),
    "depthwise_multiplier": ((8, 8, 2), (32, 32, 3), depthwise_multiplier),
    "dilated": ((12, 12, 2), (32, 32, 3), dilated),
    "separable": ((9, 9, 3), (32, 32, 3), separable),
    "norm_everywhere": ((8, 8, 3), (32, 32, 3), norm_everywhere),
    "normalization_input": ((8, 8, 3), (32, 32, 3), normalization_input),
    "rescaling_input": ((8, 8, 3), (32, 32, 3), rescaling_input),
    "sigmoid_output": ((9, 9, 1), (28, 28, 1), sigmoid_output),
    "tanh_output": ((10,), (32,), tanh_output),
    "dead_channels": ((8, 8, 3), (32, 32, 3), dead_channels),
    "nested": ((8, 8, 3), (32, 32, 3), nested),
}


def inputs(name: str, shape: tuple[int, ...], count: int, seed: int = 0) -> np.ndarray:
    """float32 (count, *shape): raw inputs of the range a family expects."""
    rng = np.random.default_rng(seed)
    if name == "rescaling_input":
        return rng.integers(0, 256, (count, *shape)).astype(np.float32)
    return rng.normal(0.3, 1.2, (count, *shape)).astype(np.float32)


def build(name: str, size: str = "small", keras: Any = None) -> Model:
    """A network of a family, small or full, in Keras 2 (default) or 3."""
    keras = keras or keras2()
    small, large, body = FAMILIES[name]
    full = size == "full"
    source = keras.Input(large if full else small)
    model = keras.Model(source, body(keras.layers, source, full), name=name)
    return _finish(keras, name, model)


def _finish(keras: Any, name: str, model: Model) -> Model:
    """Deterministic weights, and batch-norm statistics of a network that has been trained."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    layers = list(_leaves(model))
    norms = [layer for layer in layers if type(layer).__name__ == "BatchNormalization"]
    for layer in layers:
        if layer not in norms and type(layer).__name__ != "Normalization":
            layer.set_weights([_draw(rng, array) for array in layer.get_weights()])
    for layer in norms:
        _draw_affine(rng, layer)
        layer.momentum = 0.0
    if norms:
        model(inputs(name, tuple(model.input_shape[1:]), 32, seed=7), training=True)
    for layer in norms:
        layer.momentum = 0.99
        *affine, mean, variance = layer.get_weights()
        mean += rng.normal(0, 0.2, mean.shape) * np.sqrt(variance)
        layer.set_weights([*affine, mean, variance * rng.uniform(0.6, 1.6, mean.shape)])
    for layer in layers:
        if layer.name.startswith("dead_") and layer not in norms:
            _kill(layer, model.get_layer(f"{layer.name}_norm"))
    _spread_outputs(keras, name, model)
    return model


def _spread_outputs(keras: Any, name: str, model: Model) -> None:
    """Scale the last dense layer so that different inputs get different answers, as trained."""
    last = [layer for layer in model.layers if type(layer).__name__ == "Dense"][-1]
    features = keras.Model(model.input, last.input)
    values = np.asarray(features(inputs(name, tuple(model.input_shape[1:]), 32, seed=8)))
    kernel, bias = last.get_weights()
    kernel *= 2 / (values @ kernel).std(axis=0).mean()
    last.set_weights([kernel, bias - (values @ kernel).reshape(-1, len(bias)).mean(axis=0)])


def _leaves(model: Model) -> Any:
    for layer in model.layers:
        if hasattr(layer, "layers"):
            yield from _leaves(layer)
        else:
            yield layer


def _draw(rng: np.random.Generator, array: np.ndarray) -> np.ndarray:
    if array.ndim <= 1:
        return rng.normal(0, 0.2, array.shape).astype(np.float32)
    depthwise = array.ndim >= 3 and array.shape[-1] <= 4 and array.shape[-2] > 1
    fan_in = np.prod(array.shape[: -2 if depthwise else -1])
    return rng.normal(0, np.sqrt(2 / fan_in), array.shape).astype(np.float32)


def _draw_affine(rng: np.random.Generator, norm: Any) -> None:
    *affine, mean, variance = norm.get_weights()
    drawn = []
    for position, array in enumerate(affine):
        gamma = position == 0 and norm.scale
        values = rng.uniform(0.5, 1.5, array.shape) if gamma else rng.normal(0, 0.4, array.shape)
        if gamma:
            values[rng.random(array.shape) < 0.2] *= -1
            values[-1] = 1e-5  # all but pruned
        drawn.append(values.astype(np.float32))
    norm.set_weights([*drawn, mean, variance])


def _kill(layer: Any, norm: Any) -> None:
    """Weight decay drove channels 0-2 to nothing; their statistics followed."""
    kernel, *rest = layer.get_weights()
    channels = kernel.reshape(
        -1, kernel.shape[-1] * (kernel.shape[-2] if kernel.shape[-1] == 1 else 1)
    )
    channels[:, :3] *= np.float32(1e-32)
    layer.set_weights([channels.reshape(kernel.shape), *rest])
    gamma, beta, mean, variance = norm.get_weights()
    gamma[0], gamma[1], gamma[2] = 1e-20, -1e-3, 0.0
    mean[:3], variance[0], variance[1], variance[2] = 1e-33, 0.0, 1e-38, 0.0
    beta[0], beta[1], beta[2] = 0.3, -0.5, 0.0
    norm.set_weights([gamma, beta, mean, variance])


def _builder(name: str) -> Callable[..., Model]:
    return lambda size="small", keras=None: build(name, size, keras)


ZOO: dict[str, Callable[..., Model]] = {name: _builder(name) for name in FAMILIES}
