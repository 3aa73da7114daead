"""One worker of a distributed training, as a process of its own; tests/test_distribution.py.

    python tests/training_worker.py STRATEGY FOLDER RESULT [die]

Prints a line per epoch and writes what it learnt to RESULT (npz). `die`: this worker ends without
a word after two epochs. STRATEGY mirrored trains on two logical CPUs.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from redsc import distribution, finetune, recipe
from redsc.errors import RedscError
from redsc.tf_network import tensorflow
from tests.test_finetune import depthwise, level_widths, task_data

EPOCHS = 4


def split_cpu() -> None:
    """Into two logical ones; before any other use of TensorFlow."""
    config = tensorflow().config
    cpu = config.list_physical_devices("CPU")[0]
    config.set_logical_device_configuration(cpu, [config.LogicalDeviceConfiguration()] * 2)


def main() -> int:
    strategy, folder, result = sys.argv[1:4]
    dies = sys.argv[4:] == ["die"]
    if strategy == "mirrored":
        split_cpu()
    finetune._CHECKPOINT_SECONDS = 0.0
    distribution._TIMEOUT_SECONDS = 20.0

    def progress(epoch: int, epochs: int, text: str) -> None:
        print(epoch, text, flush=True)
        if dies and epoch == 2:
            os._exit(9)

    try:
        cluster = distribution.connect(strategy)
        graph = depthwise()
        grouping, widths = level_widths(graph)
        levels = finetune.finetune(
            graph, grouping, widths, task_data(graph.input.shape),
            recipe.Options(
                epochs=EPOCHS, batch_size=16, int8_from=0.5, patience=EPOCHS, hints=0.1
            ),
            progress, cluster=cluster, folder=Path(folder),
        )  # fmt: skip
    except RedscError as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        return error.exit_code
    kernels = {op.name: op.kernel for op in levels[-1].linear_ops}
    gammas = {f"{op.name}/gamma": op.norm.gamma for op in levels[0].linear_ops if op.norm}
    np.savez(result, replicas=cluster.replicas, **kernels, **gammas)
    return 0


if __name__ == "__main__":
    sys.exit(main())
