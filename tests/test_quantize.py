"""Quantised levels are standard TFLite networks, faithful to float and safe in int32."""

from __future__ import annotations

from dataclasses import replace

import graphs as reference
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from redsc import (
    calibrate,
    constants,
    fixed_point,
    groups,
    ir,
    linear_add,
    one_product,
    oracle,
    quantize,
    tf_network,
    tflite,
)
from redsc.quantized import QuantizedLevel, QuantizedNetwork, QuantParams

# The interpreter's wheel is for Linux on x86-64 and Python below 3.12 alone (setup.cfg).
needs_oracle = pytest.mark.skipif(not oracle.available(), reason="tflite-micro is not installed")


def quantized(
    graph: ir.Graph, x: np.ndarray, shares: tuple[float, ...], normalised: bool = False
) -> QuantizedNetwork:
    """Levels at uniform shares of every free group's width, ranges measured on x; normalised:
    batch-norm statistics, too."""
    grouping = groups.find_groups(graph)
    levels = []
    for share in shares:
        widths = {
            name: group.units if group.fixed else max(1, int(group.units * share))
            for name, group in grouping.groups.items()
        }
        narrow = groups.select_units(graph, grouping, groups.prefixes(widths))
        narrow = calibrate.recalibrate_norms(narrow, x) if normalised else narrow
        ranges = tf_network.ranges(narrow, x)
        levels.append(quantize.FloatLevel(100 * share, widths, narrow, ranges))
    return quantize.quantize(graph, grouping, levels)


def inputs(graph: ir.Graph, count: int, seed: int = 0) -> np.ndarray:
    shape = (count, *graph.input.shape)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def sqnr_db(real: np.ndarray, other: np.ndarray) -> float:
    error = float(((real - other) ** 2).sum())
    return 10 * np.log10(float((real**2).sum()) / max(error, 1e-30))


FAMILIES = {
    "ds_cnn": lambda: reference.ds_cnn(channels=16),
    "resnet": reference.resnet,
    "vgg": reference.vgg,
    "autoencoder": reference.autoencoder,
}


@needs_oracle
@pytest.mark.parametrize("family", FAMILIES)
def test_every_tensor_of_every_level_is_close_to_float(family: str) -> None:
    graph = FAMILIES[family]()
    x = inputs(graph, 16)
    network = quantized(graph, x, (0.5, 1.0))
    for level in network.levels:
        names = [op.name for op in level.graph.ops]
        _, traced = oracle.run(
            tflite.write(level), quantize.quantize_input(network, x), range(len(names))
        )
        real = tf_network.forward(level.graph, x)
        for name, values in zip(names, traced, strict=True):
            back = quantize.dequantize_array(values, level.tensors[name])
            assert sqnr_db(real[name].numpy(), back) > 20, (level.percent, name)


@pytest.mark.parametrize("strange", [False, True])
def test_each_level_runs_in_litert(strange: bool) -> None:
    tf = tf_network.tensorflow()
    graph = reference.ds_cnn(channels=8)
    if strange:
        graph = _with_strange_channels(graph)
    x = inputs(graph, 2)
    network = quantized(graph, x, (0.5, 1.0))
    for level in network.levels:
        interpreter = tf.lite.Interpreter(model_content=tflite.write(level))
        interpreter.allocate_tensors()
        details = interpreter.get_input_details()[0]
        interpreter.set_tensor(details["index"], quantize.quantize_input(network, x[:1]))
        interpreter.invoke()
        output = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
        assert output.shape == (1, *ir.shapes(level.graph)[graph.output])


def test_levels_read_the_store() -> None:
    network = quantized(
        reference.ds_cnn(channels=8), inputs(reference.ds_cnn(channels=8), 4), (0.5, 1)
    )
    top, small = network.levels[-1], network.levels[0]
    for name, weights in network.weights.items():
        assert np.array_equal(top.linear[name].weights, weights)
        narrow = small.linear[name].weights
        corner = tuple(slice(0, size) for size in narrow.shape)
        assert np.array_equal(narrow, weights[corner])


def test_network_input_and_output_parameters_do_not_depend_on_the_level() -> None:
    graph = reference.autoencoder()
    network = quantized(graph, inputs(graph, 8), (0.25, 0.5, 1.0))
    for name in (graph.input.name, graph.output):
        assert len({level.tensors[name] for level in network.levels}) == 1


def _before_output(graph: ir.Graph, tops: tuple[float, ...]) -> list[QuantParams]:
    """Parameters, by level, of what the last layer reads, if its range ends at `tops`."""
    last = graph[graph.output].inputs[0]
    ranges = [{op.name: (-1.0, 1.0) for op in graph.ops} | {last: (0.0, top)} for top in tops]
    levels = quantize.tensor_params(graph, [graph] * len(tops), ranges, shared_scales=False)
    return [params[last] for params in levels]


def test_a_last_layer_that_levels_share_whole_reads_one_scale() -> None:
    graph = reference.autoencoder()
    one = _before_output(graph, (5.0, 4.0, 4.5))
    assert one == [QuantParams(float(np.float32(5 / 255)), -128)] * 3
    assert len(set(_before_output(graph, (5.0, 3.3, 4.5)))) == 3, "too coarse for the second"


def test_a_last_layer_with_factors_of_its_own_at_a_level_reads_a_scale_of_its_own() -> None:
    graph = reference.autoencoder()
    last = graph[graph.output]
    assert isinstance(last, ir.Dense)
    ones = np.ones(last.out_channels, np.float32)
    norm = ir.BatchNorm(ones * 2, ones, ones, ones, epsilon=0.0)
    other = graph.with_ops(replace(op, norm=norm) if op is last else op for op in graph.ops)
    ranges = {op.name: (-1.0, 1.0) for op in graph.ops}
    wider = ranges | {last.inputs[0]: (-1.2, 1.2)}

    def scales(first: ir.Graph) -> int:
        params = quantize.tensor_params(graph, [first, graph], [wider, ranges], shared_scales=False)
        return len({own[last.inputs[0]] for own in params})

    assert (scales(graph), scales(other)) == (1, 2)


def test_what_others_read_besides_the_last_layer_has_a_scale_of_its_own_at_every_level() -> None:
    net = reference.GraphBuilder("skip", (8,))
    read_twice = net.dense(4)
    head = net.dense(3, activation=ir.Activation.NONE)
    read_once = net.dense(4, source=read_twice)
    net.concatenate(head, net.dense(3, activation=ir.Activation.NONE))
    graph = net.graph()
    wide = {op.name: (-1.0, 1.0) for op in graph.ops}
    narrow = wide | dict.fromkeys((read_twice, read_once), (-0.9, 0.9))
    params = quantize.tensor_params(graph, [graph, graph], [narrow, wide], shared_scales=False)
    assert params[0][read_once] == params[1][read_once]
    assert params[0][read_twice] != params[1][read_twice]


def test_an_autoencoders_last_table_is_stored_once() -> None:
    graph = reference.autoencoder()
    network = quantized(graph, inputs(graph, 256), (0.5, 0.75, 1.0), normalised=True)
    first, *others = (
        constants.linear(level.graph[graph.output], level) for level in network.levels
    )
    for other in others:
        for name in ("bias", "multiplier", "shift"):
            assert np.array_equal(getattr(first, name), getattr(other, name)), name


def test_writing_is_deterministic_and_aligned() -> None:
    graph = reference.ds_cnn(channels=8)
    level = quantized(graph, inputs(graph, 4), (1.0,)).levels[0]
    data = tflite.write(level)
    assert data == tflite.write(level)
    for linear in level.linear.values():
        assert data.index(linear.bias.tobytes()) % 16 == 0


def _single(op: ir.Op, scale: float, zero_point: int) -> QuantizedLevel:
    graph = ir.Graph("single", (ir.Input("input", (), (256,)), op), op.name)
    params = {"input": QuantParams(float(np.float32(scale)), zero_point)}
    params[op.name] = quantize.FIXED_OUTPUTS.get(type(op), QuantParams(0.05, 3))
    return QuantizedLevel(100, {}, graph, params, {})


@needs_oracle
@pytest.mark.parametrize("kind", [ir.Logistic, ir.Tanh])
@pytest.mark.parametrize("scale", [1e-4, 0.003, 1 / 64, 0.0478, 0.1, 0.37, 1.9, 20.0])
@pytest.mark.parametrize("zero_point", [-128, -7, 0, 127])
def test_lookup_tables_equal_the_interpreter(kind: type, scale: float, zero_point: int) -> None:
    level = _single(kind("op", ("input",)), scale, zero_point)
    x = np.arange(-128, 128).astype(np.int8)[np.newaxis]
    expected, _ = oracle.run(tflite.write(level), x)
    assert np.array_equal(constants.lookup(level.graph["op"], level), expected[0])


def _with_strange_channels(graph: ir.Graph) -> ir.Graph:
    """Dead kernels, variances of 0, tiny and zero gammas, huge offsets, as training leaves them."""
    ops = []
    for op in graph.ops:
        if isinstance(op, ir.LinearOp) and op.norm is not None and op.out_channels >= 6:
            scale = np.ones(op.out_channels, np.float32)
            scale[0], scale[1] = 1e-32, 0
            if isinstance(op, ir.DepthwiseConv2D):
                kernel = op.kernel * scale.reshape(op.kernel.shape[2:])
            else:
                kernel = op.kernel * scale
            norm = op.norm
            variance, gamma, beta = norm.variance.copy(), norm.gamma.copy(), norm.beta.copy()
            variance[0] = variance[2] = 0
            gamma[3], gamma[4] = 1e-20, 0
            beta[5] = 1e4
            norm = replace(norm, variance=variance, gamma=gamma, beta=beta)
            op = replace(op, kernel=ir.read_only(kernel), norm=norm)
        ops.append(op)
    return graph.with_ops(ops)


@needs_oracle
def test_dead_and_tiny_channels() -> None:
    graph = _with_strange_channels(reference.ds_cnn(channels=8))
    x = inputs(graph, 8)
    network = quantized(graph, x, (0.75, 1.0))
    for level in network.levels:
        check_safe_in_int32(network, level)
        names = [op.name for op in level.graph.ops]
        _, traced = oracle.run(
            tflite.write(level), quantize.quantize_input(network, x), range(len(names))
        )
        values = {
            name: quantize.dequantize_array(q, level.tensors[name])
            for name, q in zip(names, traced, strict=True)
        }
        for op in level.graph.linear_ops:
            x_op, step = values[op.inputs[0]], level.tensors[op.name].scale
            real = tf_network.affine_linear(op, x_op).numpy()
            low, high = ((end - level.tensors[op.name].zero_point) * step for end in (-128, 127))
            error = np.abs(np.clip(real, low, high) - values[op.name])
            assert np.all(error <= 1.5 * step + _weight_rounding(op, x_op)), op.name


@needs_oracle
def test_relu6_of_vanishing_values_runs() -> None:
    """The bound 6 of an untrained network's tiny tensors is still an int32 number of steps."""
    net = reference.GraphBuilder("vanishing", (4, 4, 3))
    net.add(net.conv(8), net.conv(8))
    net.depthwise()
    net.flatten()
    net.dense(3, activation=ir.Activation.NONE)
    graph = net.graph()
    ops: list[ir.Op] = []
    for op in graph.ops:
        if isinstance(op, ir.LinearOp) and op.norm is not None:
            norm = replace(op.norm, gamma=op.norm.gamma * np.float32(1e-11), beta=op.norm.beta * 0)
            norm = replace(norm, mean=norm.mean * 0)
            op = replace(op, norm=norm, activation=ir.Activation.RELU6)
        elif isinstance(op, ir.Add):
            op = replace(op, activation=ir.Activation.RELU6)
        ops.append(op)
    graph = graph.with_ops(ops)
    x = inputs(graph, 4)
    network = quantized(graph, x, (0.5, 1.0))
    for level in network.levels:
        check_safe_in_int32(network, level)
        oracle.run(tflite.write(level), quantize.quantize_input(network, x))


def _weight_rounding(op: ir.LinearOp, x: np.ndarray) -> np.ndarray:
    """Most that rounding every weight to int8 can move each output."""
    largest = np.abs(quantize._per_channel(op, op.kernel)).max(axis=1)
    half_step = (largest / 127 / 2).astype(np.float32)
    kernel = np.broadcast_to(
        half_step.reshape(op.kernel.shape[2:]) if isinstance(op, ir.DepthwiseConv2D) else half_step,
        op.kernel.shape,
    )
    return tf_network.linear(op, np.abs(x), kernel).numpy() * op.scale


def check_safe_in_int32(network: QuantizedNetwork, level: QuantizedLevel) -> None:
    """No accumulator, bias or shifted accumulator leaves int32, whatever the input."""
    for op in level.graph.linear_ops:
        table = constants.linear(op, level)
        weights = np.abs(level.linear[op.name].weights.astype(np.int64))
        axes = (0, 1, 2) if isinstance(op, ir.DepthwiseConv2D) else tuple(range(1, weights.ndim))
        reach = weights.sum(axis=axes) * 255 + np.abs(table.bias.astype(np.int64))
        assert np.abs(table.bias.astype(np.int64)).max() <= quantize.BIAS_MAX
        left = np.maximum(table.shift.astype(np.int64), 0)
        assert (reach << left).max() < 2**31, op.name
        scale = level.linear[op.name].weight_scale
        assert scale.min() >= np.finfo(np.float32).tiny
        for params in level.tensors.values():
            assert params.scale >= np.finfo(np.float32).tiny
            assert -128 <= params.zero_point <= 127


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(graph=reference.random_graphs(), magnitude=st.sampled_from([1e-6, 1.0, 1e3]))
def test_random_networks_stay_inside_int32(graph: ir.Graph, magnitude: float) -> None:
    network = quantized(graph, magnitude * inputs(graph, 4), (0.5, 1.0))
    for level in network.levels:
        check_safe_in_int32(network, level)


@given(
    x=st.integers(-(2**31), 2**31 - 1),
    multiplier=st.integers(2**30, 2**31 - 1),
    shift=st.integers(-31, 0),
)
def test_requantisation_is_exact_rounding_in_two_steps(x: int, multiplier: int, shift: int) -> None:
    def away(numerator: int, bits: int) -> int:
        half = (1 << bits) >> 1
        size = (abs(numerator) + half) >> bits
        return size if numerator >= 0 else -size

    product = x * multiplier
    # gemmlowp's first rounding breaks ties upwards for both signs
    high = (product + (1 << 30)) >> 31
    result = fixed_point.multiply_by_quantized_multiplier(
        np.int64(x), np.int64(multiplier), np.int64(shift)
    )
    assert int(result) == away(high, -shift)


@given(st.floats(1e-12, 1e6))
def test_multipliers_are_31_bit_fractions(real: float) -> None:
    multiplier, shift = fixed_point.quantize_multiplier(np.float64(real))
    if multiplier == 0:
        assert real < 2.0**-31
    else:
        assert 2**30 <= int(multiplier) < 2**31
        assert int(multiplier) * 2.0 ** (int(shift) - 31) == pytest.approx(real, rel=2**-30)


@pytest.mark.parametrize("shared", [False, True])
def test_scales_are_chosen_that_make_additions_linear(shared):
    net = reference.GraphBuilder("sum", (4, 4, 2))
    first = net.conv(2)
    second = net.conv(2, activation=ir.Activation.NONE)
    net.add(first, second)
    net.conv(2)
    net.conv(2)  # what the last layer reads may have one scale for all levels
    graph = net.graph()
    (add,) = (op for op in graph.ops if isinstance(op, ir.Add))
    random, widened = np.random.default_rng(0), 0
    for _ in range(60):
        levels = []
        for _ in range(2):
            ranges = {op.name: (-1.0, 1.0) for op in graph.ops}
            ranges[first] = (0.0, float(random.uniform(1, 9)))
            ranges[second] = (-float(random.uniform(1, 9)), float(random.uniform(1, 9)))
            ranges[add.name] = (
                0.0,
                (ranges[first][1] + ranges[second][1]) * random.uniform(0.6, 1),
            )
            levels.append(ranges)
        params = quantize.tensor_params(graph, [graph] * 2, levels, shared)
        params = quantize.with_linear_adds(graph, [graph] * 2, params)
        for ranges, tensors in zip(levels, params, strict=True):
            assert linear_add.find(constants.add(add, tensors)) is not None
            if not shared:
                scale = tensors[add.name].scale
                assert scale == pytest.approx(ranges[add.name][1] / 255, rel=1e-4)
                widened += scale != np.float32(ranges[add.name][1] / 255)
        if shared:
            assert params[0][add.name] == params[1][add.name]
    assert shared or widened > 0


def test_filters_behind_a_relu_requantise_with_one_product(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Scales of weights grow for it where need be, by no more than some millionths."""
    graph = reference.ds_cnn(channels=64)
    x = inputs(graph, 8)
    network = quantized(graph, x, (0.4, 0.7, 1.0))
    monkeypatch.setattr(quantize, "_WIDENINGS", 0)
    before, widened = quantized(graph, x, (0.4, 0.7, 1.0)), 0
    for level, other in zip(network.levels, before.levels, strict=True):
        for op in level.graph.linear_ops:
            own, plain = level.linear[op.name], other.linear[op.name]
            change = own.weight_scale / plain.weight_scale - 1
            if level.tensors[op.name].zero_point != -128:
                assert not change.any()
                continue
            assert one_product.find(constants.linear(op, level), own.rows(op)).is_exact.all()
            assert np.all((change >= 0) & (change < 1e-4))
            widened += np.count_nonzero(change)
            assert np.array_equal(own.weights, plain.weights)
    assert widened > 0
