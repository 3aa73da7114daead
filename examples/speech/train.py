"""Trains DS-CNN-S on spoken digits or on Google Speech Commands.

    python examples/speech/train.py FOLDER [--left-out SPEAKER] [--steps N]

FOLDER holds the Free Spoken Digit Dataset's recordings (3_theo_7.wav, …) or Speech Commands
v0.02 (backward/, bed/, …, validation_list.txt). Writes speech.h5 (Keras 2) beside this file; for
spoken digits also speech.npz. Then:

    redsc compile examples/speech/speech.h5 --data examples/speech/speech.npz
    redsc compile examples/speech/speech.h5 --data speech-commands:FOLDER

DS-CNN-S is "Hello Edge"'s (Zhang et al., arXiv 1711.07128): a 10 x 4 convolution of stride 2 and
four depthwise-separable blocks, 64 channels.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import spoken_digits

from redsc import data
from redsc.tf_network import tensorflow

HERE = Path(__file__).resolve().parent
MODEL, DATA = HERE / "speech.h5", HERE / "speech.npz"
BATCH_SIZE, STEPS, LEARNING_RATE, SEED = 64, 1500, 2e-3, 0


def ds_cnn(
    keras: Any,
    classes: int,
    widths: Sequence[int] = (64,) * 5,
    strides: Sequence[Any] = (2, 1, 1, 1, 1),
    shape: tuple[int, int, int] = (49, 10, 1),
) -> Any:
    """`widths` and `strides` are of the convolution and of the blocks; those given are DS-CNN-S."""
    layers = keras.layers
    inputs = keras.Input(shape)
    x = layers.Conv2D(widths[0], (10, 4), strides[0], padding="same", use_bias=False)(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    for filters, stride in zip(widths[1:], strides[1:], strict=True):
        x = layers.DepthwiseConv2D(3, stride, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
        x = layers.Conv2D(filters, 1, use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, layers.Dense(classes, activation="softmax")(x), name="ds_cnn")


def train(
    network: Any,
    split: data.Split,
    steps: int,
    seed: int,
    rate: float = LEARNING_RATE,
    batch_size: int = BATCH_SIZE,
) -> None:
    """Adam on cross-entropy, in place; the rate falls along a cosine to zero."""
    keras = sys.modules["tf_keras"]
    schedule = keras.optimizers.schedules.CosineDecay(rate, steps)
    network.compile(keras.optimizers.legacy.Adam(schedule), "sparse_categorical_crossentropy")
    generator, size = np.random.default_rng(seed), min(batch_size, len(split))

    def batches() -> Any:
        while True:  # a pass drops what fills no batch
            yield from split.batches(size, generator)

    epochs = max(count for count in range(1, 11) if steps % count == 0)  # for progress
    network.fit(batches(), steps_per_epoch=steps // epochs, epochs=epochs, verbose=2)


def load(folder: Path, left_out: str | None) -> tuple[data.Data, str]:
    """The data, and what to give to `redsc compile --data`."""
    if (folder / "validation_list.txt").is_file():
        spec, classes = f"speech-commands:{folder}", 12
    else:
        print("reading the recordings and making features", flush=True)
        recordings = spoken_digits.read(folder)
        masks = spoken_digits.split(recordings, left_out)
        np.savez(DATA, **spoken_digits.dataset(recordings, masks, noisy=False, seed=SEED))
        spec, classes = str(DATA), 10
    return data.load(spec, (49, 10, 1), (classes,), SEED), spec


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--left-out", choices=spoken_digits.SPEAKERS)
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    tensorflow()
    import tf_keras as keras

    keras.utils.set_random_seed(SEED)
    dataset, spec = load(arguments.folder, arguments.left_out)
    network = ds_cnn(keras, 12 if spec.startswith("speech-commands") else 10)
    train(network, dataset.train, arguments.steps, SEED)
    assert dataset.test is not None
    answers = network.predict(dataset.test.x, verbose=0).argmax(axis=1)
    network.save(MODEL)
    print(f"test accuracy {100 * np.mean(answers == dataset.test.y):.2f} %; wrote {MODEL}")
    print(f"next: redsc compile {MODEL} --data {spec}")


if __name__ == "__main__":
    main()
