"""The networks of the study, at any widths: for 49 x 10 speech features, one for images.

`FAMILIES[name](keras, classes, widths)` builds one; `widths` are units of the groups in redsc's
order, None for the full network.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples" / "speech"))

from train import ds_cnn

Widths = tuple[int, ...] | None


def ds_cnn_s(keras: Any, classes: int, widths: Widths = None) -> Any:
    return ds_cnn(keras, classes, widths or (64,) * 5)


def ds_cnn_s_images(keras: Any, classes: int, widths: Widths = None) -> Any:
    """DS-CNN-S for 28 x 28 pixels of 0 … 255, as the REDS paper has it."""
    return for_bytes(keras, ds_cnn(keras, classes, widths or (64,) * 5, shape=(28, 28, 1)))


def for_bytes(keras: Any, network: Any) -> Any:
    """`network` for inputs of 0 … 255 instead of 0 … 1."""
    inputs = keras.Input(network.input_shape[1:])
    return keras.Sequential([inputs, keras.layers.Rescaling(1 / 255), network])


def _conv(layers: Any, x: Any, filters: int, size: Any, strides: Any = 1) -> Any:
    x = layers.Conv2D(filters, size, strides=strides, padding="same", use_bias=False)(x)
    return layers.BatchNormalization()(x)


def cnn(keras: Any, classes: int, widths: Widths = None) -> Any:
    """Like "Hello Edge"'s CNN-S: two convolutions, a linear bottleneck, a dense layer."""
    first, second, bottleneck, hidden = widths or (28, 30, 16, 128)
    layers = keras.layers
    inputs = keras.Input((49, 10, 1))
    x = layers.ReLU()(_conv(layers, inputs, first, (10, 4)))
    x = layers.ReLU()(_conv(layers, x, second, (10, 4), (2, 1)))
    x = layers.MaxPooling2D((2, 2))(x)
    x = layers.Dense(bottleneck)(layers.Flatten()(x))
    x = layers.ReLU()(layers.BatchNormalization()(layers.Dense(hidden, use_bias=False)(x)))
    x = layers.Dropout(0.2)(x)
    return keras.Model(inputs, layers.Dense(classes, activation="softmax")(x), name="cnn")


def dense(
    keras: Any,
    classes: int,
    widths: Widths = None,
    shape: tuple[int, int, int] = (49, 10, 1),
) -> Any:
    """Like "Hello Edge"'s DNN-S: three hidden layers of 144."""
    layers = keras.layers
    inputs = keras.Input(shape)
    x = layers.Flatten()(inputs)
    for units in widths or (144,) * 3:
        x = layers.Dense(units, use_bias=False)(x)
        x = layers.Dropout(0.2)(layers.ReLU()(layers.BatchNormalization()(x)))
    return keras.Model(inputs, layers.Dense(classes, activation="softmax")(x), name="dense")


def resnet(keras: Any, classes: int, widths: Widths = None) -> Any:
    """A ResNet-8: three stages of one residual block; the first reads a strided convolution."""
    first, stem, middle, second, last, third = widths or (16, 16, 32, 32, 64, 64)
    layers = keras.layers
    inputs = keras.Input((49, 10, 1))
    x = layers.ReLU()(_conv(layers, inputs, stem, 3, (2, 1)))
    for hidden, filters, strides in ((first, stem, 1), (middle, second, 2), (last, third, 2)):
        y = layers.ReLU()(_conv(layers, x, hidden, 3, strides))
        y = _conv(layers, y, filters, 3)
        skip = x if strides == 1 else _conv(layers, x, filters, 1, strides)
        x = layers.ReLU()(layers.Add()([y, skip]))
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, layers.Dense(classes, activation="softmax")(x), name="resnet")


FAMILIES: Mapping[str, Callable[..., Any]] = {
    "ds_cnn_s": ds_cnn_s,
    "ds_cnn_s_images": ds_cnn_s_images,
    "mlperf_kws": ds_cnn_s,  # the published one is like it
    "cnn": cnn,
    "dense": dense,
    "resnet": resnet,
}
