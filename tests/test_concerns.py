"""Every kind of op is known to every concern: what ir.py declares, nobody forgets.

A concern is a module that asks an op for its kind. Each runs on a small network of each kind; a
kind it does not know ends in an exception, or fails the comparison named in the test.
"""

from __future__ import annotations

from collections.abc import Callable

import integer_reference
import numpy as np
import pytest
from graphs import GraphBuilder
from test_firmware import plan_of, random_network

from redsc import cost, emit, groups, ir, kernels, latency, oracle, tf_network, tflite


def network(*extra: Callable[[GraphBuilder], str]) -> ir.Graph:
    """A convolution whose units may be fewer, the kind in question, a dense layer that reads it."""
    net = GraphBuilder("one_kind", (4, 4, 2))
    net.conv(5, (2, 2))
    for append in extra:
        append(net)
    net.flatten()
    net.dense(3, activation=ir.Activation.NONE)
    return net.graph()


def add(net: GraphBuilder) -> str:
    return net.add(net.last, net.conv(5, (1, 1)))


def concatenate(net: GraphBuilder) -> str:
    return net.concatenate(net.last, net.conv(4, (1, 1)))


def logistic(net: GraphBuilder) -> str:
    return net.append(ir.Logistic("logistic", (net.last,)))


def tanh(net: GraphBuilder) -> str:
    return net.append(ir.Tanh("tanh", (net.last,)))


EXAMPLES: dict[type[ir.Op], ir.Graph] = {
    ir.Input: network(),
    ir.Conv2D: network(),
    ir.Dense: network(),
    ir.Reshape: network(),
    ir.DepthwiseConv2D: network(lambda net: net.depthwise(2)),
    ir.LeakyRelu: network(GraphBuilder.leaky_relu),
    ir.Logistic: network(logistic),
    ir.Tanh: network(tanh),
    ir.Softmax: network(GraphBuilder.softmax),
    ir.Add: network(add),
    ir.Concatenate: network(concatenate),
    ir.MaxPool2D: network(GraphBuilder.max_pool),
    ir.AveragePool2D: network(GraphBuilder.global_average, lambda net: net.dense(4)),
    ir.Pad: network(GraphBuilder.pad),
}
"""A new kind of op: add a network that has it."""

KINDS = pytest.mark.parametrize("kind", ir.LOWERED_OPS, ids=lambda kind: kind.__name__)


def narrowed(graph: ir.Graph) -> tuple[ir.Graph, dict[str, int]]:
    """The subnetwork that keeps about half of every group, and its widths."""
    grouping = groups.find_groups(graph)
    widths = {
        name: group.units if group.fixed else (group.units + 1) // 2
        for name, group in grouping.groups.items()
    }
    return groups.select_units(graph, grouping, groups.prefixes(widths)), widths


@KINDS
def test_example_has_the_kind(kind: type[ir.Op]) -> None:
    assert any(isinstance(op, kind) for op in EXAMPLES[kind].ops)


@KINDS
def test_groups_and_shapes_narrow_it(kind: type[ir.Op]) -> None:
    graph = EXAMPLES[kind]
    narrow, widths = narrowed(graph)
    ir.check(narrow, lowered=True)
    axes = groups.find_groups(graph).axes
    for name, shape in ir.shapes(narrow).items():
        assert shape[-1] == groups.axis_width(axes[name], widths), name


@KINDS
def test_cost_model_counts_its_subnetwork(kind: type[ir.Op]) -> None:
    graph = EXAMPLES[kind]
    narrow, widths = narrowed(graph)
    target = latency.target("nano33ble")
    model = cost.cost_model(graph, groups.find_groups(graph), target)
    assert model.macs(widths) == cost.macs(narrow)
    assert model.peak_activation_bytes(widths) == cost.peak_activation_bytes(narrow)
    assert model.weights_bytes(widths) == cost.weights_bytes(narrow)
    assert model.latency_ps(widths) == latency.latency_ps(graph, narrow, target)


@KINDS
def test_float_network_computes_its_shape(kind: type[ir.Op]) -> None:
    graph = EXAMPLES[kind]
    x = np.random.default_rng(0).normal(size=(2, *graph.input.shape)).astype(np.float32)
    values = tf_network.forward(graph, x)
    assert {n: tuple(v.shape[1:]) for n, v in values.items()} == ir.shapes(graph)


@KINDS
def test_int8_references_agree(kind: type[ir.Op]) -> None:
    """quantize, tflite and constants, against the interpreter where it is installed."""
    quantized = random_network(EXAMPLES[kind], seed=1)
    x = np.random.default_rng(1).integers(-128, 128, (3, *EXAMPLES[kind].input.shape), np.int8)
    for level in quantized.levels:
        names = [op.name for op in level.graph.ops]
        mine = [integer_reference.tensors(level, sample) for sample in x]
        indices = tflite.tensor_indices(tflite.write(level))
        assert set(names) <= set(indices)
        if not oracle.available():
            continue
        _, theirs = oracle.run(tflite.write(level), x, [indices[name] for name in names])
        for name, values in zip(names, theirs, strict=True):
            for one, value in zip(mine, values, strict=True):
                assert np.array_equal(one[name].reshape(-1), value.reshape(-1)), name


@KINDS
def test_plan_holds_and_prints_it(kind: type[ir.Op]) -> None:
    quantized = random_network(EXAMPLES[kind], seed=2)
    plan = plan_of(quantized)
    ops = {op.name: op for op in quantized.graph.ops}
    if kind not in (ir.Input, ir.Reshape):  # these two compute nothing
        assert any(isinstance(ops[step.name], kind) for step in plan.steps)
    text = "".join(emit.emit_model(plan).values())
    for step in plan.steps:
        output = ir.shapes(quantized.graph)[step.name]
        choices = [
            kernels.choose(ops[step.name], output, proven, one_product=one_product)
            for proven in (False, True)
            for one_product in (False, True)
        ]
        assert step.kernel in choices
        assert step.kernel in text
