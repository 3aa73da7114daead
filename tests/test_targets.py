"""Targets: what their files say, and the same bytes on the emulator of each one's core."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import firmware_build
import numpy as np
import pytest
import zoo
from firmware_build import needs_emulator
from graphs import GraphBuilder
from test_cli import run
from test_firmware import check_runs, expected, random_network, samples
from test_quantize import quantized

from redsc import boards, config, ir, kernels, latency, memory, runner, toolchain
from redsc.errors import ToolchainError, UsageError
from redsc.plan import build_plan
from redsc.plan_structs import Plan
from redsc.quantized import QuantizedNetwork


def small() -> ir.Graph:
    """Every kind of kernel with a DSP version, and others, within 16 KB of RAM."""
    net = GraphBuilder("small", (12, 12, 8))
    net.conv(8)
    net.depthwise()
    net.depthwise(strides=(2, 2))
    skip = net.conv(6, (1, 1))
    net.add(skip, net.conv(6, activation=ir.Activation.NONE))
    net.max_pool()
    net.leaky_relu()
    net.global_average()
    net.dense(9)
    net.dense(4, activation=ir.Activation.NONE)
    net.softmax()
    return net.graph()


def plan_for(network: QuantizedNetwork, board: boards.Board) -> Plan:
    scratch = kernels.scratch_bytes if board.dsp else None
    arenas = memory.plan_levels([level.graph for level in network.levels], scratch)
    return build_plan(network, arenas, dsp=board.dsp)


QUICK = ("microbit", "cortex-m33")


@needs_emulator
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in boards.NAMES]
)
def test_every_core_computes_the_interpreters_bytes(name: str, tmp_path: Path) -> None:
    graph, board = small(), boards.board(name)
    x = samples(graph, 4)
    used = set()
    # Between them they take every DSP kernel for short requantisations.
    ordinary = quantized(graph, np.random.default_rng(0).normal(size=(8, 12, 12, 8)), (0.7, 1.0))
    for network in (ordinary, random_network(graph, 3), random_network(graph, 5)):
        plan = plan_for(network, board)
        used.update(step.kernel for step in plan.steps)
        program = firmware_build.build(plan, name, tmp_path)
        runs = runner.run_emulator(program, plan, x, trace=True, machine=board.machine)
        check_runs(runs, expected(network, x), plan, graph.output)
        assert all(run.instructions for run in runs)
    dsp = {"conv2d_proven", "conv2d_winograd", "depthwise_conv2d_proven", "depthwise_conv2d_3x3"}
    dsp |= {"depthwise_conv2d_3x3_stride2", "dense_proven", "add_proven", "conv2d_one_product"}
    dsp |= {"depthwise_conv2d_3x3_one_product", "depthwise_conv2d_3x3_stride2_one_product"}
    assert used >= dsp if board.dsp else all(kernel.startswith("portable::") for kernel in used)


@needs_emulator
@pytest.mark.slow
@pytest.mark.parametrize(("name", "status"), [("cortex-m0plus", 3), ("cortex-m3", 0)])
def test_code_for_a_core_that_must_align_faults_where_it_does_not(
    name: str, status: int, tmp_path: Path
) -> None:
    """On QEMU's Cortex-M3, which stands for a Cortex-M0+ that QEMU does not have."""
    source = tmp_path / "main.cc"
    source.write_text("""#include <stdint.h>
      static const uint32_t words[2] = {0, 0};
      int main(int, char**) {
        uint32_t word;
        asm volatile("ldr %0, [%1]" : "=r"(word) : "r"(reinterpret_cast<uintptr_t>(words) + 1));
        return static_cast<int>(word);
      }""")
    program = firmware_build.link([source], [], name, tmp_path / "program.elf")
    command = [*boards.board(name).machine.qemu, "-kernel", str(program)]
    assert toolchain.run(command, tmp_path, 60).returncode == status


def test_portable_kernels_need_no_scratch() -> None:
    network = random_network(small(), seed=4)
    arenas = [
        max(plan_for(network, boards.board(name)).arena_bytes)
        for name in ("cortex-m3", "cortex-m7")
    ]
    assert arenas[0] < arenas[1]


@needs_emulator
def test_cycles_are_a_cortex_m4s(tmp_path: Path) -> None:
    network = random_network(small(), seed=4)
    board = boards.board("cortex-m7")
    plan = plan_for(network, board)
    x = np.zeros((1, *network.graph.input.shape), np.int8)
    with pytest.raises(ToolchainError, match="cycles of a Cortex-M7 are not known"):
        runner.run_emulator(
            tmp_path / "a.elf", plan, x, estimate_cycles=True, machine=board.machine
        )


# Compiles only, so it needs no emulator as the others here do.
@pytest.mark.skipif(not toolchain.find("arm-none-eabi-g++"), reason="no cross compiler")
@pytest.mark.parametrize(
    ("flags", "is_refused"),
    [
        ("-mcpu=cortex-m4 -mfloat-abi=soft", True),
        ("-mcpu=cortex-m33 -mfloat-abi=soft", True),
        ("-mcpu=cortex-m33+nodsp -mfloat-abi=soft", False),
        ("-mcpu=cortex-m3", False),
        ("-mcpu=cortex-m0plus", False),
        ("-mcpu=cortex-m4 -mfloat-abi=soft -DREDS_PORTABLE_KERNELS", False),
        ("-mcpu=cortex-m4 -mfloat-abi=softfp -mfpu=fpv4-sp-d16", False),
    ],
)
@pytest.mark.parametrize("source", ["dense.cc", "dense_rows.S"])
def test_a_core_with_half_of_what_dsp_kernels_need_is_told(
    flags: str, is_refused: bool, source: str
) -> None:
    path = firmware_build.REDS / "src" / "dsp" / source
    include = f"-I{firmware_build.REDS / 'include'}"
    command = ["arm-none-eabi-gcc", "-mthumb", *flags.split(), include, "-c", str(path)]
    finished = toolchain.run([*command, "-o", "/dev/null"], path.parent, 60)
    assert (finished.returncode != 0) == is_refused, finished.stderr
    assert ("REDS_PORTABLE_KERNELS" in finished.stderr) == is_refused


@needs_emulator
@pytest.mark.slow
def test_compile_for_a_core_proves_it_there(tmp_path: Path) -> None:
    model, project = tmp_path / "net.h5", tmp_path / "fw"
    zoo.ZOO["ds_cnn"]("small").save(model)
    levels = ("--levels", "50,100")
    finished = run("compile", model, "-o", project, *levels, "--target", "microbit", "--json", "-q")
    assert finished.returncode == 0, finished.stderr
    report = json.loads(finished.stdout)
    assert all(level["verified"]["emulator"] for level in report["levels"])
    assert all(level["estimated_latency_ms"] is None for level in report["levels"])
    assert (report["board"]["name"], report["runtime"]["name"]) == ("microbit", "standalone")
    assert "nano33ble" not in (project / "platformio.ini").read_text()
    assert not (project / "tools").exists()
    bench = json.loads(run("bench", project, "--emulator", "--json").stdout)
    assert bench["target"] == "QEMU microbit, Cortex-M0"
    assert bench["limits"] == {"flash_bytes": 262_144, "ram_bytes": 16_384}
    for level in bench["levels"]:
        assert level["instructions"] > 0
        assert level["estimated_cycles"] is level["predicted_cycles"] is None


def test_every_target_is_listed() -> None:
    listed = run("targets").stdout.splitlines()
    assert [line.split()[0] for line in listed] == list(boards.NAMES)
    assert {entry["name"] for entry in json.loads(run("targets", "--json").stdout)} == set(
        boards.NAMES
    )


# --- Files ---


def board_file(folder: Path, **changed: Any) -> str:
    data = {**boards.read("cortex-m3"), **changed}
    path = folder / "mine.json"
    path.write_text(json.dumps({key: value for key, value in data.items() if value is not None}))
    return str(path)


def test_a_users_file_is_a_target(tmp_path: Path) -> None:
    path = board_file(tmp_path, ram_bytes=20_000, core_ram_bytes=1_000)
    board = boards.board(path)
    assert (board.name, board.ram_bytes, board.core_ram_bytes) == ("mine", 20_000, 1_000)
    assert latency.target(path) is None
    options = config.merge({}, {"model": Path("a.h5"), "target": path})
    assert (options.target, options.runtime) == (path, "standalone")
    assert config.merge({}, {"model": Path("a.h5")}).runtime == "tflm"
    toml = tmp_path / "redsc.toml"
    toml.write_text("target = 'mine.json'")
    assert config.read(toml) == {"target": path}


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"emulator": None}, "emulator is missing"),
        ({"emulator": "pc"}, "'pc' is not one of mps2-an385"),
        ({"ram_bytes": "20k"}, "ram_bytes = '20k'"),
        ({"ram_bytes": -1}, "ram_bytes = -1"),
        ({"dsp": 1}, "dsp = 1"),
        ({"cpu_flags": "-mthumb"}, "cpu_flags = '-mthumb'"),
        ({"cpu_flags": [1]}, "cpu_flags"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(
    tmp_path: Path, changed: dict[str, Any], told: str
) -> None:
    with pytest.raises(UsageError, match=told):
        boards.board(board_file(tmp_path, **changed))


def test_a_target_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'uno' is not one of cortex-m0plus"):
        boards.board("uno")
    with pytest.raises(UsageError, match="cannot be read"):
        boards.board(str(tmp_path / "none.json"))


def test_latency_is_no_budget_where_it_was_not_measured() -> None:
    given = {"model": Path("a.h5"), "target": "cortex-m3"}
    for more in ({"budget": ("macs", "latency")}, {"max_latency_ms": 3.0}):
        with pytest.raises(UsageError, match="on cortex-m3 was not measured"):
            config.merge({}, {**given, **more})
