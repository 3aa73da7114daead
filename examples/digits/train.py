"""Trains a depthwise-separable network on scikit-learn's handwritten digits.

    python examples/digits/train.py

The data is inside the scikit-learn package: 1797 real digits of 8 x 8 pixels in 0 ... 16. Writes
digits.h5 (Keras 2) and digits.npz (x_train, y_train, x_val, y_val, x_test, y_test) beside this
file; does nothing when both are there.
"""

from __future__ import annotations

import os
import random
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

HERE = Path(__file__).resolve().parent
MODEL, DATA = HERE / "digits.h5", HERE / "digits.npz"
SEED = 0
EPOCHS = 40


def split_digits() -> dict[str, np.ndarray]:
    """60 % to train, 20 % to validate, 20 % to test, each digit in its share.

    x: float32 (samples, 8, 8, 1) in 0 ... 16; y: int64 (samples,).
    """
    digits = load_digits()
    x = digits.images[..., np.newaxis].astype(np.float32)
    x_train, x_rest, y_train, y_rest = train_test_split(
        x, digits.target, test_size=0.4, random_state=SEED, stratify=digits.target
    )
    x_val, x_test, y_val, y_test = train_test_split(
        x_rest, y_rest, test_size=0.5, random_state=SEED, stratify=y_rest
    )
    return {
        "x_train": x_train,
        "y_train": y_train,
        "x_val": x_val,
        "y_val": y_val,
        "x_test": x_test,
        "y_test": y_test,
    }


def build_network(keras: Any) -> Any:
    """A convolution and four depthwise-separable blocks, as keyword-spotting networks have."""
    layers = keras.layers
    inputs = keras.Input((8, 8, 1))
    x = layers.Rescaling(1 / 16)(inputs)
    x = layers.Conv2D(32, 3, padding="same", use_bias=False)(x)
    x = layers.BatchNormalization()(x)
    x = layers.ReLU()(x)
    for filters, strides in ((32, 1), (64, 2), (64, 1), (64, 1)):
        x = layers.DepthwiseConv2D(3, strides=strides, padding="same", use_bias=False)(x)
        x = layers.BatchNormalization()(x)
        x = layers.ReLU()(x)
        x = layers.Conv2D(filters, 1, use_bias=False)(x)
        x = layers.BatchNormalization()(x)
        x = layers.ReLU()(x)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dropout(0.2)(x)
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(x), name="digits")


def shifted(x: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Every image moved by up to one pixel each way: the training set is small."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows, columns = generator.integers(0, 3, (2, len(x)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (8, 8), axis=(1, 2))
    return windows[np.arange(len(x)), rows, columns].transpose(0, 2, 3, 1)


def train(data: dict[str, np.ndarray]) -> Any:
    """The trained network, with the weights of the best epoch on the validation split."""
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # rounds differently on every processor
    import tensorflow as tf
    import tf_keras as keras

    random.seed(SEED)
    np.random.seed(SEED)
    tf.random.set_seed(SEED)
    tf.config.experimental.enable_op_determinism()
    generator = np.random.default_rng(SEED)
    network = build_network(keras)
    steps = EPOCHS * -(-len(data["x_train"]) // 64)
    network.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(5e-3, steps)),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    best, best_weights = -1.0, network.get_weights()
    for _ in range(EPOCHS):
        x = shifted(data["x_train"], generator)
        network.fit(x, data["y_train"], batch_size=64, verbose=0)
        accuracy = network.evaluate(data["x_val"], data["y_val"], batch_size=360, verbose=0)[1]
        if accuracy >= best:
            best, best_weights = accuracy, network.get_weights()
    network.set_weights(best_weights)
    return network


def main() -> None:
    if MODEL.exists() and DATA.exists():
        print(f"{MODEL.name} is there already", file=sys.stderr)
        return
    data = split_digits()
    network = train(data)
    accuracy = network.evaluate(data["x_test"], data["y_test"], verbose=0)[1]
    np.savez_compressed(DATA, **data)
    with warnings.catch_warnings():  # Keras 2's own format is what most models are still in
        warnings.simplefilter("ignore")
        network.save(MODEL, save_format="h5", include_optimizer=False)
    print(f"{MODEL.name}: {100 * accuracy:.2f} % of {len(data['y_test'])} test digits right")


if __name__ == "__main__":
    main()
