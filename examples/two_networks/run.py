"""Two networks in one firmware, sharing one arena: which digit an image shows, and if it is one.

    python examples/two_networks/run.py [DIR]

Trains the digits example's network and an autoencoder on the same images, compiles both, puts the
second one's folder and this example's main.cpp into the first one's project (DIR, build/two by
default), and runs it on the emulated Cortex-M4.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
DIGITS = HERE.parent / "digits"
NOVELTY, NOVELTY_DATA = HERE / "novelty.h5", HERE / "novelty.npz"
EPOCHS = 60


def train_novelty() -> None:
    """Writes an autoencoder of digits and its data: images are its targets too, in 0 ... 1."""
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tf_keras as keras

    keras.utils.set_random_seed(0)
    with np.load(DIGITS / "digits.npz") as digits:
        data = {name: digits[name] for name in digits.files if name.startswith("x")}
    data.update({f"y{name[1:]}": x.reshape(len(x), 64) / 16 for name, x in data.items()})
    layers = keras.layers
    inputs = keras.Input((8, 8, 1))
    x: Any = layers.Flatten()(layers.Rescaling(1 / 16)(inputs))
    for units in (48, 16, 48):
        x = layers.Dense(units, use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    network = keras.Model(inputs, layers.Dense(64, activation="sigmoid")(x), name="novelty")
    network.compile(keras.optimizers.Adam(3e-3), "mse")
    validation = (data["x_val"], data["y_val"])
    network.fit(data["x_train"], data["y_train"], 64, EPOCHS, verbose=0, validation_data=validation)
    np.savez_compressed(NOVELTY_DATA, **data)
    network.save(NOVELTY, save_format="h5", include_optimizer=False)


def redsc(*arguments: str | Path) -> None:
    subprocess.run([sys.executable, "-m", "redsc", *map(str, arguments)], check=True)


def main() -> None:
    project = Path(sys.argv[1] if len(sys.argv) > 1 else "build/two")
    other = project.with_name(f"{project.name}_novelty")
    subprocess.run([sys.executable, DIGITS / "train.py"], check=True)
    if not NOVELTY.exists():
        train_novelty()
    digits_data, novelty_data = DIGITS / "digits.npz", NOVELTY_DATA
    redsc("compile", DIGITS / "digits.h5", "--data", digits_data, "--name", "digits", "-o", project)
    redsc("compile", NOVELTY, "--data", novelty_data, "--name", "novelty", "-o", other)
    shutil.copytree(other / "lib" / "novelty", project / "lib" / "novelty", dirs_exist_ok=True)
    shutil.copy(HERE / "main.cpp", project / "src" / "main.cpp")
    from redsc import toolchain

    environment = {**os.environ, **toolchain.offline_environment()}
    pio = [sys.executable, "-m", "platformio", "run", "-e", "emulator", "-t", "upload"]
    subprocess.run(pio, cwd=project, env=environment, check=True)


if __name__ == "__main__":
    main()
