"""Every pass keeps the network's function and does what it is for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import integer_reference
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redsc import calibrate, groups, ir, passes, quantize, tf_network
from redsc.passes import (
    convolve_one_channel,
    drop_unused,
    fuse_batch_norm,
    fuse_padding,
    fuse_relu,
    hoist_relu,
    lower_batch_norm,
    lower_relu,
    positive_gamma,
    simplify_reshapes,
)

RNG = np.random.default_rng(5)
RELU, RELU6, NONE = ir.Activation.RELU, ir.Activation.RELU6, ir.Activation.NONE


def conv(name: str, source: str, into: int, out: int, **fields: Any) -> ir.Conv2D:
    kernel = ir.read_only(RNG.normal(0, 0.5, (3, 3, into, out)))
    bias = ir.read_only(RNG.normal(0, 1, out))
    return ir.Conv2D(name, (source,), kernel, bias, padding="same", **fields)


def norm(channels: int, seed: int = 0) -> ir.BatchNorm:
    rng = np.random.default_rng(seed)
    return ir.BatchNorm(
        gamma=ir.read_only(rng.normal(0, 1, channels)),
        beta=ir.read_only(rng.normal(0, 1, channels)),
        mean=ir.read_only(rng.normal(0, 1, channels)),
        variance=ir.read_only(rng.uniform(0.1, 2, channels)),
        epsilon=1e-3,
    )


def graph(*ops: ir.Op, shape: ir.Shape = (6, 6, 3), output: str = "") -> ir.Graph:
    result = ir.Graph("test", (ir.Input("in", (), shape), *ops), output or ops[-1].name)
    ir.check(result)
    return result


def same_function(before: ir.Graph, after: ir.Graph) -> None:
    ir.check(after)
    x = np.random.default_rng(1).normal(0, 2, (3, *before.input.shape)).astype(np.float32)
    wanted, actual = tf_network.predict(before, x), tf_network.predict(after, x)
    assert np.isfinite(actual).all()
    np.testing.assert_allclose(actual, wanted, rtol=0, atol=1e-4 * max(np.abs(wanted).max(), 1e-6))


def kinds(net: ir.Graph) -> list[str]:
    return [type(op).__name__ for op in net.ops[1:]]


def test_batch_norm_fuses_into_its_layer() -> None:
    before = graph(conv("c", "in", 3, 4), ir.BatchNormalization("b", ("c",), norm(4)))
    after = fuse_batch_norm(before)
    assert kinds(after) == ["Conv2D"]
    assert after.output == "c"
    same_function(before, after)


@pytest.mark.parametrize("obstacle", ["second reader", "output", "activation", "norm"])
def test_batch_norm_stays_where_it_cannot_fuse(obstacle: str) -> None:
    fields: dict[str, Any] = {}
    if obstacle == "activation":
        fields["activation"] = RELU
    if obstacle == "norm":
        fields["norm"] = norm(4, 1)
    ops: list[ir.Op] = [
        conv("c", "in", 3, 4, **fields),
        ir.BatchNormalization("b", ("c",), norm(4)),
    ]
    if obstacle == "second reader":
        ops.append(ir.Add("a", ("c", "b")))
    before = graph(*ops, output="c" if obstacle == "output" else "")
    assert "BatchNormalization" in kinds(fuse_batch_norm(before))
    same_function(before, passes.lower(before))


@pytest.mark.parametrize("first", [RELU, RELU6])
@pytest.mark.parametrize("second", [RELU, RELU6])
def test_relus_in_a_row_join(first: ir.Activation, second: ir.Activation) -> None:
    before = graph(conv("c", "in", 3, 4), ir.Relu("r", ("c",), first), ir.Relu("s", ("r",), second))
    after = fuse_relu(before)
    assert kinds(after) == ["Conv2D"]
    same_function(before, after)


def test_relu_fuses_into_add_but_not_past_a_second_reader() -> None:
    add = ir.Add("a", ("in", "in"))
    assert kinds(fuse_relu(graph(add, ir.Relu("r", ("a",), RELU)))) == ["Add"]
    shared = graph(add, ir.Relu("r", ("a",), RELU), ir.Add("b", ("a", "r")))
    assert kinds(fuse_relu(shared)) == ["Add", "Relu", "Add"]
    lowered = passes.lower(shared)
    assert kinds(lowered) == ["Add", "DepthwiseConv2D", "Add"]
    same_function(shared, lowered)


def test_relu_moves_in_front_of_pooling_reshape_and_padding() -> None:
    before = graph(
        conv("c", "in", 3, 4),
        ir.MaxPool2D("m", ("c",), (2, 2), (2, 2)),
        ir.Pad("p", ("m",), ((1, 0), (0, 1))),
        ir.Reshape("f", ("p",), (64,)),
        ir.Relu("r", ("f",), RELU6),
    )
    after = fuse_relu(hoist_relu(before))
    assert kinds(after) == ["Conv2D", "MaxPool2D", "Pad", "Reshape"]
    same_function(before, after)


def test_relu_stays_behind_pooling_when_nothing_can_take_it() -> None:
    before = graph(ir.MaxPool2D("m", ("in",), (2, 2), (2, 2)), ir.Relu("r", ("m",), RELU))
    assert kinds(hoist_relu(before)) == ["MaxPool2D", "Relu"]
    average = graph(
        conv("c", "in", 3, 4),
        ir.AveragePool2D("m", ("c",), (2, 2), (2, 2)),
        ir.Relu("r", ("m",), RELU),
    )
    lowered = passes.lower(average)
    assert kinds(lowered) == ["Conv2D", "AveragePool2D", "DepthwiseConv2D"]
    same_function(average, lowered)


@pytest.mark.parametrize("shape", [(6, 6, 3), (5,)])
def test_what_cannot_fuse_becomes_a_depthwise_convolution(shape: ir.Shape) -> None:
    before = graph(
        ir.BatchNormalization("b", ("in",), norm(shape[-1])),
        ir.Relu("r", ("b",), RELU6),
        ir.Relu("s", ("in",), RELU),
        ir.Add("a", ("r", "s")),
        shape=shape,
    )
    for after in (lower_relu(lower_batch_norm(before)), passes.lower(before)):
        assert not {"BatchNormalization", "Relu"} & set(kinds(after))
        same_function(before, after)
    depthwise = [op for op in passes.lower(before).ops if isinstance(op, ir.DepthwiseConv2D)]
    assert [op.activation for op in depthwise] == [RELU6, RELU]


def test_generated_names_avoid_names_of_the_user() -> None:
    before = graph(
        ir.Dense("b/expand", ("in",), ir.read_only(RNG.normal(size=(5, 4)))),
        ir.LeakyRelu("b/depthwise", ("b/expand",), 0.1),
        ir.BatchNormalization("b", ("b/depthwise",), norm(4)),
        shape=(5,),
    )
    same_function(before, passes.lower(before))


@settings(max_examples=25, deadline=None)
@given(
    gamma=st.lists(st.sampled_from([-2.0, -1e-20, -0.0, 0.0, 1e-30, 0.5]), min_size=4, max_size=4),
    variance=st.sampled_from([0.0, 1e-38, 0.3]),
    scale=st.sampled_from([1.0, 1e-32]),
    kind=st.sampled_from(["conv", "depthwise", "dense"]),
)
def test_gammas_become_positive(
    gamma: list[float], variance: float, scale: float, kind: str
) -> None:
    """Exactly: signs move, no value is rounded."""
    sizes = {"conv": (3, 3, 2, 4), "depthwise": (3, 3, 2, 2), "dense": (2, 4)}
    kernel = ir.read_only(RNG.normal(size=sizes[kind]) * scale)
    own = replace(norm(4), gamma=ir.read_only(gamma), variance=ir.read_only(np.full(4, variance)))
    classes = {"conv": ir.Conv2D, "depthwise": ir.DepthwiseConv2D, "dense": ir.Dense}
    op = classes[kind]("op", ("in",), kernel, ir.read_only(RNG.normal(size=4)), own)
    before = graph(op, shape=(2,) if kind == "dense" else (4, 4, 2))
    after = positive_gamma(before)
    new = after["op"]
    assert isinstance(new, ir.LinearOp)
    assert new.norm is not None
    assert (new.norm.gamma >= 0).all()
    np.testing.assert_array_equal(np.abs(new.kernel), np.abs(kernel))
    same_function(before, after)
    np.testing.assert_array_equal(new.offset, before.linear_ops[0].offset)


def int8_outputs(net: ir.Graph) -> list[np.ndarray]:
    """Of the quantised network, for the corners of int8 and noise."""
    x = np.random.default_rng(2).normal(0, 1, (16, *net.input.shape)).astype(np.float32)
    grouping = groups.find_groups(net)
    ranges = calibrate.activation_ranges(net, x)
    full = quantize.FloatLevel(100, grouping.full_widths, net, ranges)
    level = quantize.quantize(net, grouping, [full]).levels[0]
    inputs = np.random.default_rng(3).integers(-128, 128, (4, *net.input.shape), np.int8)
    inputs[0], inputs[1] = -128, 127
    return [integer_reference.tensors(level, one)[net.output] for one in inputs]


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_padding_fuses_exactly_where_same_adds_the_same_zeros(data: st.DataObject) -> None:
    size = data.draw(st.tuples(st.integers(3, 7), st.integers(3, 7)))
    window = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    strides = data.draw(st.sampled_from([(1, 1), (2, 2)]))
    dilation = data.draw(st.sampled_from([(1, 1), (1, 2)])) if strides == (1, 1) else (1, 1)
    zeros = st.tuples(st.integers(0, 2), st.integers(0, 2))
    pad = ir.Pad("pad", ("in",), (data.draw(zeros), data.draw(zeros)))
    kinds_of_layer = ((ir.Conv2D, (*window, 3, 4)), (ir.DepthwiseConv2D, (*window, 3, 1)))
    kind, shape = data.draw(st.sampled_from(kinds_of_layer))
    kernel = ir.read_only(RNG.normal(0, 0.5, shape))
    layer = kind("layer", ("pad",), kernel, strides=strides, dilation=dilation, activation=RELU)
    try:
        before = graph(pad, layer, shape=(*size, 3))
    except AssertionError:  # the window is larger than the padded image
        return
    after = drop_unused(fuse_padding(before))
    same = replace(layer, inputs=("in",), padding="same")
    x = np.ones((1, *before.input.shape), np.float32)
    wanted, own = (tf_network.predict(graph(*ops, shape=(*size, 3)), x)
                   for ops in ((pad, replace(layer, kernel=np.abs(kernel))),
                               (replace(same, kernel=np.abs(kernel)),)))  # fmt: skip
    equal = wanted.shape == own.shape and np.array_equal(wanted, own)
    assert equal == ("Pad" not in kinds(after))
    if equal:
        for one, other in zip(int8_outputs(before), int8_outputs(after), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("size", "zeros"), [(6, (0, 1)), (7, (1, 1))])
def test_padding_of_a_keras_mobilenet_fuses(size: int, zeros: tuple[int, int]) -> None:
    kernel = ir.read_only(RNG.normal(0, 1, (3, 3, 3, 1)))
    layer = ir.DepthwiseConv2D("d", ("pad",), kernel, strides=(2, 2), norm=norm(3))
    before = graph(ir.Pad("pad", ("in",), (zeros, zeros)), layer, shape=(size, size, 3))
    after = passes.lower(before)
    assert kinds(after) == ["DepthwiseConv2D"]
    same_function(before, after)


def test_padding_that_others_read_stays() -> None:
    pad = ir.Pad("pad", ("in",), ((1, 1), (1, 1)))
    wide = replace(conv("c", "pad", 3, 3), padding="valid")
    before = graph(pad, wide, ir.Add("sum", ("c", "c")), ir.Pad("p2", ("sum",), ((1, 1), (1, 1))),
                   ir.Add("end", ("p2", "pad")))  # fmt: skip
    after = drop_unused(fuse_padding(before))
    assert kinds(after) == ["Pad", "Conv2D", "Add", "Pad", "Add"]
    assert after["c"].inputs == ("in",)
    same_function(before, after)


def test_reshapes_that_say_nothing_go() -> None:
    before = graph(
        ir.Reshape("same", ("in",), (6, 6, 3)),
        ir.Reshape("flat", ("same",), (108,)),
        ir.Reshape("row", ("flat",), (1, 1, 108)),
        ir.Reshape("back", ("row",), (6, 6, 3)),
        conv("c", "back", 3, 4),
        ir.Reshape("end", ("c",), (6, 6, 4)),
    )
    after = drop_unused(simplify_reshapes(before))
    assert kinds(after) == ["Conv2D"]
    assert after.output == "c"
    same_function(before, after)


def test_reshape_that_others_read_stays() -> None:
    before = graph(
        ir.Reshape("flat", ("in",), (108,)),
        ir.Reshape("row", ("flat",), (1, 1, 108)),
        ir.LeakyRelu("a", ("row",), 0.1),
        ir.Reshape("a_flat", ("a",), (108,)),
        ir.Add("sum", ("flat", "a_flat")),
    )
    after = drop_unused(simplify_reshapes(before))
    assert kinds(after).count("Reshape") == 3
    same_function(before, after)


def test_unused_ops_go() -> None:
    before = graph(conv("c", "in", 3, 4), conv("unused", "in", 3, 2), output="c")
    assert kinds(drop_unused(before)) == ["Conv2D"]


def test_lower_is_a_list_of_passes_that_settles() -> None:
    before = graph(
        conv("c", "in", 3, 4),
        ir.BatchNormalization("b", ("c",), norm(4)),
        ir.MaxPool2D("m", ("b",), (2, 2), (2, 2)),
        ir.Relu("r", ("m",), RELU),
        ir.BatchNormalization("b2", ("r",), norm(4, 2)),
    )
    once = passes.lower(before)
    same_function(before, once)
    assert kinds(passes.lower(once)) == kinds(once) == ["Conv2D", "MaxPool2D", "DepthwiseConv2D"]


def test_a_depthwise_over_one_channel_has_units_to_leave_out() -> None:
    kernel = ir.read_only(RNG.normal(0, 1, (3, 2, 1, 8)))
    first = ir.DepthwiseConv2D(
        "first", ("in",), kernel, norm=norm(8), activation=RELU, strides=(2, 1), padding="same"
    )
    second = ir.DepthwiseConv2D("second", ("first",), ir.read_only(RNG.normal(0, 1, (3, 3, 8, 2))))
    before = graph(first, second, conv("last", "second", 16, 4), shape=(9, 8, 1))
    after = convolve_one_channel(before)
    x = RNG.normal(0, 1, (4, 9, 8, 1)).astype(np.float32)
    np.testing.assert_allclose(
        tf_network.predict(after, x), tf_network.predict(before, x), rtol=1e-5, atol=1e-5
    )
    assert isinstance(after["first"], ir.Conv2D)
    assert after["second"] is second
    free = [group for group in groups.find_groups(after).groups.values() if not group.fixed]
    assert [group.units for group in free] == [8]
    assert all(group.fixed for group in groups.find_groups(before).groups.values())
