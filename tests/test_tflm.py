"""The emitted project under TensorFlow Lite Micro's own interpreter, and levels from interrupts.

Tests that need the library run where PLATFORMIO_LIB_EXTRA_DIRS names the folder that holds the
library's folder: tensorflow/tflite-micro-arduino-examples (2023), or a source tree of today.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import graphs as reference
import numpy as np
import pytest
from firmware_build import needs_emulator
from test_firmware import NETWORKS, check_runs, expected, plan_of, random_network, samples

from redsc import project, runner, tflite, tflm, toolchain
from redsc.config import CompileOptions
from redsc.machines import CORTEX_M4
from redsc.plan_structs import Plan
from redsc.quantized import QuantizedNetwork

HERE = Path(__file__).parent
RUNTIMES = [
    pytest.param("verify_emulator", id="standalone"),
    pytest.param("verify_emulator_tflm", id="tflm"),
]


def needs_library(environment: str = "tflm") -> None:
    if environment.endswith("tflm") and not toolchain.offers_tflm():
        pytest.skip(f"{toolchain.TFLM_VARIABLE} offers no TensorFlow Lite Micro library")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all, so that the library is built once."""
    return tmp_path_factory.mktemp("workspace")


def emit(
    network: QuantizedNetwork, directory: Path, program: str | None = None, name: str = "model"
) -> Plan:
    """An emitted project, whose verification program may be another one."""
    plan = plan_of(network)
    tflites = [tflite.write(level) for level in network.levels]
    levels = [
        {"level": n, "macs": 1, "macs_percent": 1.0, "parameters": 1, "arena_bytes": size}
        for n, size in enumerate(plan.arena_bytes)
    ]
    directory.mkdir()
    model = tflm.build(plan, network.levels[-1])
    options = CompileOptions(Path("m.h5"), name=name)
    project.write(directory, network.graph, plan, model, levels, tflites, options)
    if program is not None:
        shutil.copy(HERE / program, directory / "verify" / "main.cpp")
    return plan


def run_program(program: Path) -> str:
    """What a program of the emulated board prints; its status must be 0."""
    command = [*CORTEX_M4.qemu, "-kernel", str(program)]
    finished = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False
    )
    assert finished.returncode == 0, finished.stdout[-2000:]
    return finished.stdout


def numbers(text: str, kind: str) -> list[dict[str, int]]:
    lines = [line for line in text.splitlines() if line.startswith(f"{kind} ")]
    return [
        {name: int(value) for name, value in re.findall(r"(?!sum)(\b\w+)=(\d+)\b", line)}
        for line in lines
    ]


@needs_emulator
@pytest.mark.slow
@pytest.mark.parametrize("environment", RUNTIMES)
def test_levels_change_from_an_interrupt(environment: str, tmp_path: Path, workspace: Path) -> None:
    needs_library(environment)
    network = random_network(reference.resnet(channels=8, stages=1, size=4), 5, level_count=4)
    emit(network, tmp_path / "project", "interrupt_test.cc")
    program = toolchain.build(tmp_path / "project", environment, workspace).program
    text = run_program(program)
    seen = numbers(text, "seen")
    assert sum(level["n"] for level in seen) == 12_000
    assert all(level["n"] > 500 for level in seen)
    (interrupts,), (loans,), (wrong,) = (
        numbers(text, kind) for kind in ("interrupts", "loans", "wrong")
    )
    assert interrupts["inside"] > 5_000
    assert loans["n"] > 500
    assert loans["refused"] > 500
    assert wrong == {"torn": 0, "level": 0, "damaged": 0}


@needs_emulator
@pytest.mark.slow
@pytest.mark.parametrize("name", ["dilated", "branches", "raw_audio", "autoencoder"])
def test_every_level_equals_the_interpreter_and_standalone(
    name: str, tmp_path: Path, workspace: Path
) -> None:
    needs_library()
    graph = NETWORKS[name]()
    network, x = random_network(graph, seed=len(name)), samples(graph, 4)
    plan, want = emit(network, tmp_path / "project"), expected(network, x)
    for environment in ("verify_emulator", "verify_emulator_tflm"):
        program = toolchain.build(tmp_path / "project", environment, workspace).program
        runs = runner.run_emulator(program, plan, x, trace=True)
        check_runs(runs, want, plan, network.graph.output)
        outputs = np.stack([run.outputs for run in runs])
        assert len({output.tobytes() for output in outputs}) > 1


@needs_emulator
@pytest.mark.slow
@pytest.mark.parametrize("name", ["branches", "autoencoder"])
def test_an_arena_too_small_is_a_status(name: str, tmp_path: Path, workspace: Path) -> None:
    """Of any size; what the compiler plans is enough, and not much more. The program also starts
    models with wrong parts."""
    needs_library()
    network = random_network(NETWORKS[name](), seed=len(name))
    emit(network, tmp_path / "project", "tflm_arena_test.cc")
    program = toolchain.build(tmp_path / "project", "verify_emulator_tflm", workspace).program
    text = run_program(program)
    assert "Cannot register" in text
    assert numbers(text, "refusals") == [{"missed": 0}]
    (arena,) = numbers(text, "arena")
    assert arena["used"] <= arena["enough"] <= arena["have"]
    assert arena["have"] - arena["enough"] < 600


@needs_emulator
@pytest.mark.slow
@pytest.mark.parametrize("environment", RUNTIMES)
def test_two_networks_share_an_arena(environment: str, tmp_path: Path, workspace: Path) -> None:
    needs_library(environment)
    for name, seed in (("model", 3), ("other", 4)):
        kind = "ds_cnn" if name == "model" else "branches"
        network = random_network(NETWORKS[kind](), seed)
        emit(network, tmp_path / name, "two_networks_test.cc", name)
    shutil.copytree(tmp_path / "other/lib/other", tmp_path / "model/lib/other")
    run_program(toolchain.build(tmp_path / "model", environment, workspace).program)


def test_the_variable_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(toolchain.TFLM_VARIABLE, raising=False)
    assert not toolchain.offers_tflm()
    monkeypatch.setenv(toolchain.TFLM_VARIABLE, os.sep)
    assert toolchain.offers_tflm()
