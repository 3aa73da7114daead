"""Data sets larger than the memory that samples may take are streamed: the process stays small.

Measured is the largest resident set of a process of its own, which a limit of address space would
not let TensorFlow start in. The same script with a limit that everything fits in must exceed the
ceiling, so that the test can fail.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.data_files import write_png

LIMIT = 32 << 20
"""Bytes of the samples of a split that are kept."""

SET = 512 << 20
CEILING = 400 << 20
"""A few copies of what is kept, batches, TensorFlow's buffers and code."""

SHAPE = (128, 128, 4)
SAMPLES = SET // (4 * 128 * 128 * 4)

SCRIPT = """
import resource, sys
import numpy as np
from redsc import data, sources

def peak():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

spec, limit = sys.argv[1], int(sys.argv[2])
sources.MEMORY_BYTES = limit
from redsc.tf_network import tensorflow
tensorflow().constant(0)
start = peak()
result = data.load(spec, (128, 128, 4), (2,), 0, batch_size=8)
{work}
print(count, result.train.stream is not None, peak() - start)
"""

PASS = "count = sum(len(x) for x, _ in result.train.batches(8, np.random.default_rng(0)))"

TRAINING = """
from redsc import finetune, groups, ir, recipe, training
from tests import graphs
training.STREAM_STEPS = {steps}
net = graphs.GraphBuilder("net", (128, 128, 4))
conv = net.conv(4, (4, 4), (8, 8))
net.global_average()
net.dense(2, activation=ir.Activation.NONE)
net.softmax()
grouping = groups.find_groups(net.graph())
widths = [{{**grouping.full_widths, conv: units}} for units in (2, 4)]
warnings = []
options = recipe.Options(epochs=1, batch_size=8)
finetune.finetune(net.graph(), grouping, widths, result, options, warnings=warnings)
assert not warnings
count = 8 * training.STREAM_STEPS
"""

GENERATOR = """
import numpy as np
import tensorflow as tf

def load():
    def generate():
        for number in range({samples}):
            yield np.full((128, 128, 4), number, np.float32), number % 2
    types = tf.TensorSpec((128, 128, 4), tf.float32), tf.TensorSpec((), tf.int64)
    return tf.data.Dataset.from_generator(generate, output_signature=types)
"""


def grown(spec: str, limit: int, work: str = PASS) -> tuple[int, bool, int]:
    """Samples that `work` took, whether they are streamed, bytes by which the process grew."""
    command = [sys.executable, "-c", SCRIPT.format(work=work), spec, str(limit)]
    root = Path(__file__).parents[1]  # where TRAINING finds the tests' networks
    printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root).stdout
    count, streamed, growth = printed.split()
    return int(count), streamed == "True", int(growth)


@pytest.mark.slow
@pytest.mark.parametrize("limit", [LIMIT, 2 * SET])
def test_a_generator_larger_than_memory_is_streamed(tmp_path: Path, limit: int) -> None:
    (tmp_path / "sets.py").write_text(GENERATOR.format(samples=SAMPLES))
    count, streamed, growth = grown(f"{tmp_path}/sets.py:load", limit)
    if limit == LIMIT:
        assert streamed
        assert count == SAMPLES - 16  # 13 of the 127 that fit are validation, 3 fill no batch
        assert growth < CEILING
    else:
        assert not streamed
        assert growth > CEILING


@pytest.mark.slow
def test_training_keeps_nothing_of_a_generator_larger_than_memory(tmp_path: Path) -> None:
    (tmp_path / "sets.py").write_text(GENERATOR.format(samples=SAMPLES))
    work = TRAINING.format(steps=SAMPLES // 8)
    count, streamed, growth = grown(f"{tmp_path}/sets.py:load", LIMIT, work)
    assert streamed
    assert count > SAMPLES - 16  # into a second pass
    assert growth < CEILING


@pytest.mark.slow
def test_a_folder_larger_than_memory_is_streamed(tmp_path: Path) -> None:
    for number, name in enumerate("ab"):
        picture = write_png(tmp_path / name / "0.png", np.full(SHAPE, number))
        for index in range(1, SAMPLES // 2):
            (tmp_path / name / f"{index}.png").hardlink_to(picture)
    count, streamed, growth = grown(str(tmp_path), LIMIT)
    assert streamed
    assert count == 1472  # 72 % of 2048, in batches of 8
    assert growth < CEILING
