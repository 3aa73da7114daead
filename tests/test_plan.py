"""Plans: run lists, shared tables, sizes, and the proof behind four-instruction requantisation."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import firmware_build
import graphs as reference
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_firmware import NETWORKS, plan_of, random_network

from redsc import (
    constants,
    fixed_point,
    geometry,
    groups,
    ir,
    kernels,
    linear_add,
    measure,
    memory,
    one_product,
    plan,
    plan_structs,
    report,
)
from redsc.constants import LinearConstants
from redsc.quantized import QuantParams


def expand(channels: plan_structs.Channels) -> list[int]:
    return [
        repeat * channels.stride + run.offset + i
        for repeat in range(channels.repeat)
        for run in channels.runs
        for i in range(run.length)
    ]


@given(st.sets(st.integers(0, 40), min_size=1))
def test_compress_keeps_any_positions(positions: set[int]) -> None:
    indices = np.array(sorted(positions))
    assert expand(geometry.compress(indices)) == indices.tolist()


@given(
    st.lists(
        st.tuples(st.integers(1, 9), st.integers(1, 3), st.integers(1, 9)), min_size=1, max_size=3
    ),
    st.integers(1, 5),
)
def test_compress_finds_flattened_concatenations(
    parts: list[tuple[int, int, int]], positions: int
) -> None:
    """Whatever is concatenated and flattened needs at most one run per part."""
    axis = tuple(groups.Segment(f"g{i}", units, inner) for i, (units, inner, _) in enumerate(parts))
    widths = {f"g{i}": min(units, width) for i, (units, _, width) in enumerate(parts)}
    indices = groups.channel_indices(axis * positions, groups.prefixes(widths))
    channels = geometry.compress(indices, axis * positions)
    assert expand(channels) == indices.tolist()
    assert len(channels.runs) <= len(parts)


def test_equal_and_shorter_tables_are_stored_once() -> None:
    tables = plan._Tables()
    long, short = np.arange(9, dtype=np.int32), np.arange(4, dtype=np.int32)
    assert tables.array(long) == tables.array(long.copy()) == tables.array(short)
    assert tables.array(long.astype(np.int8)) != tables.array(long)
    assert len(tables.arrays) == 2


def expanded_bytes(built: plan_structs.Plan, level: plan_structs.Level) -> int:
    """int16 input of the DSP dense kernel, every run padded to a multiple of 4."""
    assert isinstance(level, plan_structs.LinearLevel)
    channels = {f"&{name}": channels for name, channels in built.channels}[str(level.inputs)]
    return 2 * channels.repeat * sum(-(-run.length // 4) * 4 for run in channels.runs)


@pytest.mark.parametrize("name", NETWORKS)
def test_levels_fit_their_arenas(name: str) -> None:
    network = random_network(NETWORKS[name](), 4)
    scratch = kernels.scratch_bytes
    arenas = memory.plan_levels([level.graph for level in network.levels], scratch)
    built = plan.build_plan(network, arenas)
    for number, (level, arena) in enumerate(zip(network.levels, arenas, strict=True)):
        needed = scratch(level.graph)
        for step in built.steps:
            offsets = built.offsets[number]
            assert offsets[step.output] + step.output_bytes[number] <= arena.size_bytes
            assert (step.scratch == plan_structs.NO_SLOT) == (step.name not in needed)
            if step.name in needed:
                assert offsets[step.scratch] + needed[step.name] <= arena.size_bytes
            if step.kind == "Dense":
                assert needed[step.name] >= expanded_bytes(built, step.levels[number])
    assert built.arena_bytes == tuple(arena.size_bytes for arena in arenas)


# The mutual independence of the two sides is the point: the firmware's four instructions here,
# TFLite's two roundings in fixed_point.
def four_instructions(
    sums: np.ndarray, multiplier: int, right_shift: int, zero_point: int
) -> np.ndarray:
    """simd.h's ProvenRequantization; asserts that nothing leaves int32 on the way."""

    def int32(x: np.ndarray) -> np.ndarray:
        assert np.all((x >= -(1 << 31)) & (x < 1 << 31))
        return x

    doubled = int32(sums * 2)
    rounding = int32(np.array((1 << (right_shift - 1)) + (zero_point << right_shift)))
    addend = int32(rounding + (sums >> 31))
    high = int32(addend + ((doubled * multiplier + (1 << 31)) >> 32))
    return np.clip(high >> right_shift, -128, 127)


@given(
    multiplier=st.one_of(st.just(0), st.integers(1 << 30, (1 << 31) - 1)),
    shift=st.integers(-31, 3),
    bias=st.integers(-(1 << 30), 1 << 30),
    weights=st.lists(st.integers(-127, 127), min_size=1, max_size=4),
    input_zero_point=st.integers(-128, 127),
    output_zero_point=st.integers(-128, 127),
)
def test_proven_requantisation_is_exact(
    multiplier: int,
    shift: int,
    bias: int,
    weights: list[int],
    input_zero_point: int,
    output_zero_point: int,
) -> None:
    c = LinearConstants(
        bias=np.array([bias], np.int32),
        multiplier=np.array([multiplier], np.int32),
        shift=np.array([shift], np.int8),
        input_zero_point=input_zero_point,
        output_zero_point=output_zero_point,
        activation_min=-128,
        activation_max=127,
    )
    channels = np.array([weights], np.int8)
    low, high = (int(end[0]) for end in kernels.accumulator_range(c, channels))
    x = np.array(np.meshgrid(*[[-128, 0, 127]] * len(weights))).reshape(len(weights), -1)
    reached = np.array(weights) @ (x - input_zero_point) + bias
    assert low == reached.min()
    assert high == reached.max()
    if not kernels.is_proven(c, channels):
        return
    # every rounding boundary near the middle, both ends, and a spread between them
    step = max(1, (high - low) // 5000)
    sums = np.concatenate((np.arange(low, high + 1, step), [high], np.arange(-600, 600)))
    sums = sums[(sums >= low) & (sums <= high)].astype(np.int64)
    exact = fixed_point.multiply_by_quantized_multiplier(sums, np.int64(multiplier), shift)
    exact = np.clip(exact + output_zero_point, -128, 127)
    assert np.array_equal(four_instructions(sums, multiplier, -shift, output_zero_point), exact)


channel = st.tuples(
    st.integers(1 << 30, (1 << 31) - 1), st.integers(-14, -1), st.integers(-(1 << 22), 1 << 22)
)


@given(
    channels=st.lists(channel, min_size=1, max_size=8),
    products=st.integers(1, 600),
    input_zero_point=st.integers(-128, 127),
    seed=st.integers(0, 1 << 32),
)
def test_one_product_is_exact(
    channels: list[tuple[int, int, int]], products: int, input_zero_point: int, seed: int
) -> None:
    multiplier, shift, bias = np.array(channels).T
    weights = np.random.default_rng(seed).integers(-127, 128, (len(channels), products))
    c = LinearConstants(
        bias=bias.astype(np.int32),
        multiplier=multiplier.astype(np.int32),
        shift=shift.astype(np.int8),
        input_zero_point=input_zero_point,
        output_zero_point=-128,
        activation_min=-128,
        activation_max=127,
    )
    rows = weights.astype(np.int8)
    found = one_product.find(c, rows)
    lowest, highest = kernels.accumulator_range(c, rows)
    for i in np.flatnonzero(found.is_exact):
        low, high = int(lowest[i]), int(highest[i])
        # on both sides of every place where the output rises, and between them
        rises = ((np.arange(256) - 0.5) * 2.0 ** (31 - shift[i]) / multiplier[i]).astype(np.int64)
        near = (rises[:, None] + np.arange(-3, 4)).reshape(-1)
        sums = np.concatenate((near, np.linspace(low, high, 3000).astype(np.int64)))
        sums = sums[(sums >= low) & (sums <= high)]
        wanted = fixed_point.multiply_by_quantized_multiplier(sums, multiplier[i], shift[i]) - 128
        shifted = (sums - bias[i] << one_product.SUM_SHIFT) + found.offset[i]
        assert shifted.min() >= -(1 << 31)
        assert shifted.max() < 1 << 31
        output = shifted * found.multiplier[i] >> 32 + one_product.SHIFT
        assert np.array_equal(np.clip(output, -128, 127), np.clip(wanted, -128, 127))


def test_most_requantisations_are_one_product() -> None:
    random = np.random.default_rng(0)
    rows = random.integers(-127, 128, (4000, 20)).astype(np.int8)
    c = LinearConstants(
        bias=random.integers(-1000, 1000, 4000).astype(np.int32),
        multiplier=random.integers(1 << 30, 1 << 31, 4000).astype(np.int32),
        shift=random.integers(-10, -3, 4000).astype(np.int8),
        input_zero_point=-128,
        output_zero_point=-128,
        activation_min=-128,
        activation_max=127,
    )
    assert one_product.find(c, rows).is_exact.mean() > 0.98
    assert 0 < one_product.is_missed(c).mean() < 0.02
    other = replace(c, output_zero_point=-127)
    assert not one_product.find(other, rows).is_exact.any()
    assert not one_product.is_missed(other).any()


def test_channels_that_stay_at_an_end_of_int8_are_one_product() -> None:
    """Whatever their shift is, and alike at all levels."""
    c = LinearConstants(
        bias=np.array([-9000, 5_000_000], np.int32),
        multiplier=np.array([1 << 30, 1 << 30], np.int32),
        shift=np.array([-17, -13], np.int8),
        input_zero_point=0,
        output_zero_point=-128,
        activation_min=-128,
        activation_max=127,
    )
    offsets = []
    for products in (1, 5):
        found = one_product.find(c, np.ones((2, products), np.int8))
        assert found.is_exact.all()
        sums = (np.arange(-128, 128)[:, None] * products << one_product.SUM_SHIFT) + found.offset
        outputs = np.clip(sums * found.multiplier >> 32 + one_product.SHIFT, -128, 127)
        assert np.array_equal(np.unique(outputs, axis=0), [[-128, 127]])
        offsets.append(found.offset.tolist())
    assert offsets[0] == offsets[1]


def test_levels_keep_sharing_what_they_share(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = reference.ds_cnn(channels=8, blocks=1)
    widths = reference.halves(graph)
    network = reference.two_levels(graph, widths, shared_scales=True)
    convolution = next(op.name for op in graph.ops if isinstance(op, ir.Conv2D))
    assert plan_of(network).kernels[convolution] == "conv2d_one_product"
    find = one_product.find

    def unlike(c: LinearConstants, rows: np.ndarray) -> one_product.OneProduct:
        made = find(c, rows)
        return replace(made, multiplier=made.multiplier + len(rows))

    monkeypatch.setattr(one_product, "find", unlike)
    made = plan_of(network)
    assert made.kernels[convolution] == "conv2d_proven"
    (passed,) = next(step.fallbacks for step in made.steps if step.name == convolution)
    assert passed.faster == "conv2d_one_product"
    assert passed.reason == "tables"
    # the narrow level's own multipliers, for the shifts
    assert passed.count == widths[convolution] * 4 - graph[convolution].out_channels


def addition(scales: Sequence[float], zero_points: Sequence[int]) -> constants.AddConstants:
    """Of tensors with these parameters: two inputs and the output."""
    graph = ir.Graph(
        "sum",
        (ir.Input("a", (), (1,)), ir.Pad("b", ("a",), ((0, 0), (0, 0))), ir.Add("y", ("a", "b"))),
        "y",
    )
    floats = [float(np.float32(scale)) for scale in scales]
    params = {n: QuantParams(*p) for n, *p in zip("aby", floats, zero_points, strict=True)}
    return constants.add(graph["y"], params)


@given(
    scales=st.tuples(*[st.floats(2.0**-12, 2.0**4, width=32)] * 3),
    zero_points=st.tuples(*[st.integers(-128, 127)] * 3),
)
def test_proven_addition_is_exact(
    scales: tuple[float, float, float], zero_points: tuple[int, int, int]
) -> None:
    c = addition(scales, zero_points)
    linear = linear_add.find(c)
    if linear is None:  # ties, which TFLite rounds away from zero, or no room
        return
    x = np.arange(-128, 128)
    exact = fixed_point.multiply_by_quantized_multiplier
    first = exact((x - zero_points[0]) << 20, c.input1_multiplier, c.input1_shift)
    second = exact((x - zero_points[1]) << 20, c.input2_multiplier, c.input2_shift)
    wanted = exact(first[:, None] + second, c.output_multiplier, c.output_shift) + zero_points[2]
    sums = x[:, None] * linear.weight1 + x * linear.weight2 + linear.offset
    assert np.abs(sums).max() < 1 << 31
    assert np.array_equal(np.clip(sums >> linear_add.SHIFT, -128, 127), np.clip(wanted, -128, 127))


def test_most_channels_are_proven() -> None:
    ordinary = plan_of(random_network(reference.ds_cnn(channels=8, blocks=1), 12, level_count=1))
    assert any(step.kernel.endswith("_proven") for step in ordinary.steps)


def test_channels_without_a_proof_are_counted_and_told() -> None:
    network = random_network(reference.ds_cnn(channels=8, blocks=1), 4)
    made = plan_of(network)
    facts = measure.kernel_facts(network, made)
    assert facts["by_op"] == made.kernels
    counts = facts["unproven_channels"]
    for op in network.graph.linear_ops:
        channels = [level.linear[op.name] for level in network.levels]
        exact = [
            kernels.proven_channels(constants.linear(level.graph[op.name], level), own.rows(op))
            for level, own in zip(network.levels, channels, strict=True)
        ]
        if made.kernels[op.name].endswith(kernels.ONE_PRODUCT):
            assert op.name not in counts
        else:
            assert counts.get(op.name, 0) == sum(np.sum(~each) for each in exact)
    assert counts
    how, not_taken = report._kernels({"kernels": facts})
    assert "the general way" in how
    told = [tuple(fallback.values()) for fallback in facts["fallbacks"]]
    wanted = [(op, made.kernels[op] + "_proven", "proof", count) for op, count in counts.items()]
    for op in network.graph.linear_ops:
        found = [
            one_product.find(
                constants.linear(level.graph[op.name], level), level.linear[op.name].rows(op)
            )
            for level in network.levels
        ]
        inexact = sum(int(np.sum(~each.is_exact)) for each in found)
        if isinstance(op, ir.Conv2D) and inexact:
            wanted.append((op.name, "conv2d_one_product", "proof", inexact))
    assert sorted(told) == sorted(wanted)
    for name, faster, _, count in told:
        assert f"{faster} for {name} (no proof for {count} channels)" in not_taken


@firmware_build.needs_emulator
def test_struct_sizes_are_the_devices(tmp_path: Path) -> None:
    names = {"Run", "Channels", "Window", "LinearLevel", "Step", "Plan"}
    levels = {
        "AddLevel": "Add", "ConcatenateLevel": "Concatenate", "PoolLevel": "MaxPool2D",
        "PadLevel": "Pad", "LeakyReluLevel": "LeakyRelu", "LookupLevel": "Lookup",
        "SoftmaxLevel": "Softmax",
    }  # fmt: skip
    sized = {
        name: cls.FLASH_BYTES
        for name, cls in inspect.getmembers(plan_structs, inspect.isclass)
        if "FLASH_BYTES" in vars(cls)
    }
    assert set(sized) == names | set(levels)
    lines = ['#include "reds/plan.h"']
    for name, size in sized.items():
        struct = f"{levels[name]}::Level" if name in levels else name
        lines.append(f'static_assert(sizeof(reds::{struct}) == {size}, "{name}");')
    source = tmp_path / "sizes.cc"
    source.write_text("\n".join(lines) + "\n")
    include = f"-I{firmware_build.REDS / 'include'}"
    command = [*firmware_build.compiler("emulator"), include, "-c", str(source), "-o", "/dev/null"]
    firmware_build.run(command)


@firmware_build.needs_emulator
@pytest.mark.parametrize("name", ["branches", "ds_cnn"])
def test_reported_bytes_are_the_objects(name: str, tmp_path: Path) -> None:
    """tables_bytes is what the compiler makes of model_plan.cc, alignment gaps aside."""
    built = plan_of(random_network(NETWORKS[name](), 1))
    firmware_build.write_model(built, tmp_path)
    model, target = tmp_path / "lib/model", tmp_path / "plan.o"
    includes = [f"-I{model}", f"-I{firmware_build.REDS / 'include'}"]
    firmware_build.run([
        *firmware_build.compiler("emulator"), *includes,
        "-c", str(model / "model_plan.cc"), "-o", str(target),
    ])  # fmt: skip
    symbols = firmware_build.run(["arm-none-eabi-nm", "-S", "-C", str(target)]).splitlines()
    rows = [line.split(maxsplit=3) for line in symbols]
    data = [row for row in rows if len(row) == 4 and row[2] in "rRdD"]
    assert not [row for row in data if row[2] in "dD"], "tables belong to flash"
    inspected = ("step_names", "step_output_bytes", "description")
    size = sum(int(row[1], 16) for row in data if not row[3].endswith(inspected))
    assert size == built.tables_bytes
