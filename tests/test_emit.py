"""Emission: deterministic C++ that holds what the plan says, whatever layers are called."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import firmware_build
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_firmware import NETWORKS, plan_of, random_network

from redsc import emit, tflite, tflm
from redsc.plan_structs import Channels, Run, Symbol


def test_files_and_determinism() -> None:
    texts = [emit.emit_model(plan_of(random_network(NETWORKS["vgg"](), 1))) for _ in range(2)]
    assert texts[0] == texts[1]
    assert sorted(texts[0]) == [
        "lib/model/model.h",
        "lib/model/model_plan.cc",
        "lib/model/model_weights.cc",
        "verify/main.cpp",
    ]


def test_the_interpreters_files_name_weights_inside_the_flatbuffer() -> None:
    network = random_network(NETWORKS["branches"](), 1)
    plan = plan_of(network)
    model = tflm.build(plan, network.levels[-1])
    texts = emit.emit_model(plan, crc32=0x1234ABCD, tflm=model)
    text = texts["lib/model/model_tflm.cc"]
    body = re.search(r"flatbuffer\[[^]]*\] = \{\n(.*?)\};", text, re.DOTALL)
    assert body
    printed = np.array([int(v) for v in body[1].split(",")[:-1]], np.int8)
    assert printed.tobytes() == model.flatbuffer
    assert len(model.flatbuffer) < len(tflite.write(network.levels[-1]))
    assert f"{model.crc32:#010x}" in text
    offsets = re.findall(r"weights_\d+ = flatbuffer \+ (\d+);", texts["lib/model/model_plan.cc"])
    for array, offset in zip(plan.weights, map(int, offsets), strict=True):
        stored = model.flatbuffer[offset : offset + array.values.nbytes]
        assert stored == array.values.tobytes()
        assert offset % 16 == 0


def test_weights_are_printed_in_full() -> None:
    plan = plan_of(random_network(NETWORKS["branches"](), 1))
    text = emit.emit_model(plan)["lib/model/model_weights.cc"]
    bodies = re.findall(r"= \{\n(.*?)\};", text, re.DOTALL)
    printed = [np.array([int(v) for v in body.split(",")[:-1]], np.int8) for body in bodies]
    for array, values in zip(plan.weights, printed, strict=True):
        assert np.array_equal(array.values, values)


def test_initializers() -> None:
    channels = Channels((Run(0, 3), Run(8, 2)), 4, 16, 20)
    assert emit.initializer(channels) == "{{{0, 3}, {8, 2}}, 4, 16, 20}"
    assert emit.initializer((Symbol("&a"), None, -1)) == "{&a, nullptr, -1}"


def test_smallest_int32_has_a_literal() -> None:
    assert list(emit._lines(np.array([-(1 << 31), 5], np.int32))) == ["INT32_MIN, 5,"]


@given(st.floats(2.0**-60, 2.0**60, width=32))
def test_floats_read_back_exactly(value: float) -> None:
    text = emit._float(value)
    assert text.endswith("f")
    assert np.float32(text[:-1]) == np.float32(value)
    assert "." in text or "e" in text


@pytest.mark.parametrize("name", ["", "Model", "a-b", "1a", "a b"])
def test_namespaces_are_checked(name: str) -> None:
    plan = plan_of(random_network(NETWORKS["vgg"](), 1))
    with pytest.raises(ValueError, match="namespace"):
        emit.emit_model(plan, name)


@pytest.mark.slow
@firmware_build.needs_host
def test_layer_names_cannot_break_the_code(tmp_path: Path) -> None:
    plan = plan_of(random_network(NETWORKS["vgg"](), 1))
    hostile = ['a\n#error "x"', "*/ }", 'quote"', "slash\\", "Ünï/çode:0", "??/", "tf.nn.relu"]
    steps = tuple(
        replace(step, name=hostile[i % len(hostile)]) for i, step in enumerate(plan.steps)
    )
    firmware_build.build(replace(plan, steps=steps), "host", tmp_path)
