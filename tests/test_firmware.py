"""The firmware computes TFLite Micro's bytes: every tensor, every level, on every target."""

from __future__ import annotations

import math
import re
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import firmware_build
import graphs as reference
import integer_reference
import numpy as np
import pytest
from firmware_build import needs_emulator, needs_host
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from redsc import (
    emit,
    groups,
    ir,
    kernels,
    memory,
    oracle,
    quantize,
    runner,
    tf_network,
    tflite,
)
from redsc.plan import build_plan
from redsc.plan_structs import Plan
from redsc.quantized import QuantizedNetwork

NONE = ir.Activation.NONE


def random_network(graph: ir.Graph, seed: int, level_count: int = 3) -> QuantizedNetwork:
    """Nested random widths; measured ranges distorted, so that zero points lie anywhere, outputs
    saturate, and multipliers need left shifts."""
    rng = np.random.default_rng(seed)
    grouping = groups.find_groups(graph)
    draws = {
        name: np.sort(rng.integers(1, group.units + 1, level_count))
        for name, group in grouping.groups.items()
    }
    x = rng.normal(size=(8, *graph.input.shape)).astype(np.float32)
    levels = []
    for number in range(level_count):
        top = number == level_count - 1
        widths = {
            name: group.units if group.fixed or top else int(draws[name][number])
            for name, group in grouping.groups.items()
        }
        narrow = groups.select_units(graph, grouping, groups.prefixes(widths))
        ranges = _distort(tf_network.ranges(narrow, x), quantize._ties(graph), rng)
        levels.append(
            quantize.FloatLevel(100.0 * (number + 1) / level_count, widths, narrow, ranges)
        )
    return quantize.quantize(graph, grouping, levels)


def _distort(
    ranges: Mapping[str, tuple[float, float]], ties: Mapping[str, str], rng: np.random.Generator
) -> quantize.Ranges:
    """Ranges stretched and shifted, tied tensors alike."""
    stretch = {name: 10.0 ** rng.choice([0, 0, 0, -1, 0.5, -2.5]) for name in ranges}
    shift = {name: rng.choice([0, 0, 1, -1]) * rng.uniform(0, 0.8) for name in ranges}
    result = {}
    for name, (low, high) in ranges.items():
        root = ties[name]
        offset = shift[root] * (ranges[root][1] - ranges[root][0])
        result[name] = (low * stretch[root] + offset, high * stretch[root] + offset)
    return result


def plan_of(network: QuantizedNetwork) -> Plan:
    arenas = memory.plan_levels([level.graph for level in network.levels], kernels.scratch_bytes)
    return build_plan(network, arenas)


def samples(graph: ir.Graph, count: int, seed: int = 0) -> np.ndarray:
    """Random int8 inputs; the first two are the extremes."""
    x = np.random.default_rng(seed).integers(-128, 128, (count, *graph.input.shape))
    x[0], x[1] = -128, 127
    return x.astype(np.int8)


Expected = list[dict[str, np.ndarray]]


def expected(network: QuantizedNetwork, x: np.ndarray) -> Expected:
    """Every tensor of every level: the interpreter's, where it is installed, else the numpy
    reference's. int8 (samples, elements) by name."""
    result = []
    for level in network.levels:
        names = [op.name for op in level.graph.ops]
        if oracle.available():
            _, values = oracle.run(tflite.write(level), x, range(len(names)))
        else:
            each = [integer_reference.tensors(level, sample) for sample in x]
            values = [np.stack([one[name] for one in each]) for name in names]
        result.append({n: v.reshape(len(x), -1) for n, v in zip(names, values, strict=True)})
    return result


def check_runs(runs: tuple[runner.LevelRun, ...], want: Expected, plan: Plan, output: str) -> None:
    for number, (level, tensors) in enumerate(zip(runs, want, strict=True)):
        for step in plan.steps:
            different = np.argwhere(level.tensors[step.name] != tensors[step.name])
            assert not len(different), (number, step.name, step.kernel, different[:3])
        assert np.array_equal(level.outputs, tensors[output]), (number, "output")


def check_everywhere(network: QuantizedNetwork, folder: Path, x: np.ndarray) -> None:
    plan, want = plan_of(network), expected(network, x)
    for target in firmware_build.TARGETS:
        program = firmware_build.build(plan, target, folder)
        run = runner.run_host if target == "host" else runner.run_emulator
        check_runs(run(program, plan, x, trace=True), want, plan, network.graph.output)


# --- Networks that together reach every kernel and every kind of axis ---


def dilated(seed: int = 0) -> ir.Graph:
    """Dilation, unequal strides, valid padding, ReLU6, a depthwise multiplier, odd widths."""
    net = reference.GraphBuilder("dilated", (13, 9, 3), seed)
    net.conv(7, (3, 2), (2, 1), padding="valid", activation=ir.Activation.RELU6)
    _replace_last(net, dilation=(1, 2), strides=(1, 1))
    net.depthwise(2, (3, 1))
    net.conv(5, (3, 3))
    _replace_last(net, dilation=(2, 2))
    net.depthwise(1, (2, 4), (2, 1), padding="valid")
    net.conv(9, (1, 1), (2, 2), activation=NONE)
    net.append(ir.Tanh(net.fresh("tanh"), (net.last,)))
    return net.graph()


def _replace_last(net: reference.GraphBuilder, **changes: object) -> None:
    op = replace(net.ops.pop(), **changes)  # type: ignore[arg-type]
    net.append(op)


def branches(seed: int = 0) -> ir.Graph:
    """Concatenated and flattened axes, so weights are read in runs; residual; leaky; pooling."""
    net = reference.GraphBuilder("branches", (6, 5, 2), seed)
    stem = net.conv(6)
    left = net.conv(5, (1, 1), source=stem)
    right = net.conv(3, source=stem)
    net.concatenate(left, right, stem)
    joined = net.conv(8, (2, 2))
    body = net.conv(8, (1, 1), activation=NONE)
    net.add(joined, body)
    net.leaky_relu()
    net.append(
        ir.MaxPool2D(net.fresh("pool"), (net.last,), (3, 2), (2, 2), "same"),
    )
    net.pad()
    other = net.conv(4, (1, 1))
    net.concatenate(other, net.conv(3, (1, 1)))
    net.append(ir.AveragePool2D(net.fresh("average"), (net.last,), (2, 2), (1, 1), "same"))
    net.flatten()
    net.dense(11)
    net.dense(6, activation=NONE)
    net.softmax()
    return net.graph()


def raw_audio(seed: int = 0) -> ir.Graph:
    """Starts with a depthwise layer on the raw input; time is H, W is 1; one output unit."""
    net = reference.GraphBuilder("raw_audio", (40, 1, 1), seed)
    net.depthwise(4, (9, 1), (3, 1))
    net.conv(6, (5, 1), (2, 1))
    net.depthwise(1, (3, 1))
    net.conv(10, (1, 1))
    net.global_average()
    net.dense(5, norm=True)
    net.dense(1, activation=NONE)
    net.append(ir.Logistic(net.fresh("logistic"), (net.last,)))
    return net.graph()


def reshaped(seed: int = 0) -> ir.Graph:
    """Columns become channels, so that even output channels are kept in repeated runs."""
    net = reference.GraphBuilder("reshaped", (4, 5, 2), seed)
    net.conv(6)
    net.append(ir.Reshape(net.fresh("reshape"), (net.last,), (1, 4, 30)))
    net.depthwise(2, (1, 3))
    net.depthwise(1, (1, 2))
    net.conv(5, (1, 2))
    net.flatten()
    net.dense(7, activation=NONE)
    return net.graph()


def depthwise_3x3(height: int = 9, width: int = 17, channels: int = 12, seed: int = 0) -> ir.Graph:
    """Every stride and padding of 3x3 windows side by side, over the same image."""
    net = reference.GraphBuilder("depthwise_3x3", (height, width, 2), seed)
    image, outputs = net.conv(channels, (1, 1)), []
    for strides in ((1, 1), (2, 2), (1, 2), (2, 1)):
        for padding in ("same", "valid"):
            net.depthwise(strides=strides, source=image, padding=padding)
            net.flatten()
            outputs.append(net.dense(1, activation=NONE))
    net.concatenate(*outputs)
    return net.graph()


def thin_image() -> ir.Graph:
    """Images of one and of three channels, read by windows of three lines."""
    net = reference.GraphBuilder("thin_image", (17, 24, 1))
    net.conv(3, (3, 3), strides=(1, 2))
    net.conv(6, (3, 3), padding="valid")
    net.global_average()
    net.dense(4)
    return net.graph()


def several_3x3() -> ir.Graph:
    """So many convolutions that one of them requantises with one product, although ranges are
    distorted."""
    net = reference.GraphBuilder("several_3x3", (11, 18, 6))
    image = net.conv(6, (1, 1))
    net.concatenate(*(net.conv(4, source=image) for _ in range(6)))
    net.global_average()
    net.dense(4)
    return net.graph()


NETWORKS = {
    "depthwise_3x3": depthwise_3x3,
    "dilated": dilated,
    "reshaped": reshaped,
    "branches": branches,
    "raw_audio": raw_audio,
    "ds_cnn": lambda: reference.ds_cnn(channels=10, blocks=2, shape=(13, 7, 1)),
    "resnet": lambda: reference.resnet(channels=6, stages=2, size=8),
    "vgg": lambda: reference.vgg(channels=5, size=8),
    "autoencoder": lambda: reference.autoencoder(features=33, hidden=18, bottleneck=3),
    "thin_image": thin_image,
    "several_3x3": several_3x3,
}

QUICK = ("dilated", "branches", "ds_cnn")


@needs_host
@needs_emulator
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in NETWORKS],
)
def test_every_target_computes_the_interpreters_bytes(name: str, tmp_path: Path) -> None:
    graph = NETWORKS[name]()
    check_everywhere(random_network(graph, seed=len(name)), tmp_path, samples(graph, 4))


@needs_host
@needs_emulator
@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(reference.random_graphs(max_blocks=5, max_units=9), st.integers(0, 2**16))
def test_random_networks_on_every_target(
    tmp_path_factory: pytest.TempPathFactory, graph: ir.Graph, seed: int
) -> None:
    network = random_network(graph, seed)
    check_everywhere(network, tmp_path_factory.mktemp("random"), samples(graph, 4, seed))


@needs_host
@needs_emulator
@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(3, 40), st.integers(3, 40), st.integers(1, 24), st.integers(0, 2**16))
def test_depthwise_3x3_of_any_size(
    tmp_path_factory: pytest.TempPathFactory, height: int, width: int, channels: int, seed: int
) -> None:
    graph = depthwise_3x3(height, width, channels, seed)
    network = random_network(graph, seed)
    check_everywhere(network, tmp_path_factory.mktemp("depthwise"), samples(graph, 3, seed))


@needs_host
@pytest.mark.slow
@pytest.mark.parametrize("family", ["ds_cnn", "resnet", "mobilenet_v1", "autoencoder"])
def test_full_size_networks_on_every_target(family: str, tmp_path: Path) -> None:
    graph = getattr(reference, family)()
    network = random_network(graph, seed=1)
    check_everywhere(network, tmp_path, samples(graph, 2))


@pytest.mark.slow
def test_these_networks_use_every_kernel() -> None:
    used = set()
    for name, make in NETWORKS.items():
        for seed in (2, len(name)):
            used.update(step.kernel for step in plan_of(random_network(make(), seed)).steps)
    every = set(kernels.GENERIC.values()) | {
        "dense",
        "dense_proven",
        "add",
        "add_proven",
        "portable::depthwise_conv2d",
    }
    every |= {"conv2d", "conv2d_proven", "conv2d_one_product", "conv2d_winograd"}
    every |= {"conv2d_thin_one_product", "conv2d_winograd_one_product"}
    every |= {"depthwise_conv2d", "depthwise_conv2d_proven"}
    every |= {"depthwise_conv2d_3x3", "depthwise_conv2d_3x3_stride2"}
    every |= {"depthwise_conv2d_3x3_one_product", "depthwise_conv2d_3x3_stride2_one_product"}
    assert used == every


@pytest.mark.skipif(not oracle.available(), reason="tflite-micro is not installed")
@pytest.mark.parametrize("name", NETWORKS)
def test_the_numpy_reference_is_the_interpreter(name: str) -> None:
    graph = NETWORKS[name]()
    network, x = random_network(graph, seed=3, level_count=2), samples(graph, 3)
    for level, tensors in zip(network.levels, expected(network, x), strict=True):
        for number, sample in enumerate(x):
            for tensor, values in integer_reference.tensors(level, sample).items():
                assert np.array_equal(values.reshape(-1), tensors[tensor][number]), tensor


# --- What the run time promises beside numbers ---


@pytest.mark.slow
@needs_host
def test_network_contract(tmp_path: Path) -> None:
    """Arena checks, levels out of range, latching, two networks side by side, quantisation."""
    graph = NETWORKS["ds_cnn"]()
    plans = {name: plan_of(random_network(graph, seed)) for name, seed in (("a", 5), ("b", 6))}
    folders = []
    for name, plan in plans.items():
        firmware_build.write_model(plan, tmp_path, name)
        folders.append(tmp_path / "lib" / name)
    sources = [Path(__file__).parent / "network_test.cc"]
    sources += [source for folder in folders for source in sorted(folder.glob("*.cc"))]
    program = firmware_build.link(sources, folders, "host", tmp_path / "program")
    finished = subprocess.run([program], capture_output=True, text=True, timeout=60, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr


@pytest.mark.slow
@needs_emulator
def test_instruction_counts_repeat_and_switching_costs_the_same_everywhere(tmp_path: Path) -> None:
    switches = set()
    for name in ("ds_cnn", "autoencoder"):
        graph = NETWORKS[name]()
        plan = plan_of(random_network(graph, 2))
        program = firmware_build.build(plan, "emulator", tmp_path / name)
        first, second = (runner.run_emulator(program, plan, samples(graph, 2)) for _ in range(2))
        assert [run.instructions for run in first] == [run.instructions for run in second]
        assert all(run.instructions for run in first)
        switches.update(run.switch_instructions for run in first)
    assert len(switches) == 1


@needs_emulator
def test_dsp_kernels_are_used_or_refused(tmp_path: Path) -> None:
    graph = NETWORKS["ds_cnn"]()
    plan, x = plan_of(random_network(graph, 2)), samples(graph, 2)
    counts = []
    for target in ("emulator", "emulator_portable"):
        program = firmware_build.build(plan, target, tmp_path)
        counts.append(runner.run_emulator(program, plan, x)[-1].instructions)
    assert counts[0] is not None
    assert counts[1] is not None
    assert 3 * counts[0] < counts[1]
    header = f"-I{firmware_build.REDS / 'include'}"
    source = tmp_path / "a.cc"
    source.write_text('#include "reds/kernels.h"\n')
    command = [*firmware_build.compiler("emulator"), header, "-c", str(source), "-o", "/dev/null"]
    firmware_build.run(command)
    refused = subprocess.run(
        [*command, "-U__ARM_FEATURE_DSP"], capture_output=True, text=True, check=False
    )
    assert refused.returncode != 0
    assert "REDS_PORTABLE_KERNELS" in refused.stderr


def test_only_used_kernels_are_linked(tmp_path: Path) -> None:
    graph = NETWORKS["autoencoder"]()
    plan = plan_of(random_network(graph, 2))
    text = emit.emit_model(plan)["lib/model/model_plan.cc"]
    assert re.search(r"reds::dense(_proven)?>", text)
    if firmware_build.shutil.which("arm-none-eabi-g++") is None:
        return
    program = firmware_build.build(plan, "emulator", tmp_path)
    symbols = firmware_build.run(["arm-none-eabi-nm", "-C", str(program)])
    assert "reds::dsp::dense" in symbols
    for absent in ("conv2d", "softmax", "portable::"):
        assert absent not in symbols


def test_sizes_multiply(tmp_path: Path) -> None:
    """What the report calls weights is what the store holds."""
    network = random_network(NETWORKS["branches"](), 1)
    plan = plan_of(network)
    assert plan.weights_bytes == sum(w.size for w in network.weights.values())
    assert plan.input_bytes == math.prod(network.graph.input.shape)
