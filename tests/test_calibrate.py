"""Synthetic inputs, activation ranges and re-estimated batch-norms."""

import warnings
from dataclasses import replace

import numpy as np
import pytest

from redsc import calibrate, groups, ir, passes
from redsc.tf_network import forward, linear, predict, ranges
from tests import graphs

TINY = graphs.ds_cnn(8, 1, (13, 6, 1), 4)


def with_input(graph: ir.Graph, **changes) -> ir.Graph:
    return graph.with_ops([replace(graph.input, **changes), *graph.ops[1:]])


def without_norms() -> ir.Graph:
    net = graphs.GraphBuilder("plain", (6, 6, 2))
    net.conv(4, norm=False)
    net.flatten()
    net.dense(3)
    return net.graph()


def measured(graph: ir.Graph, x: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Mean and variance of kernel · x + bias of every linear op, the plain way."""
    values, result = forward(graph, x), {}
    for op in graph.linear_ops:
        y = linear(op, values[op.inputs[0]]).numpy().reshape(-1, op.out_channels)
        y = y.astype(np.float64) + (0 if op.bias is None else op.bias)
        result[op.name] = y.mean(axis=0), y.var(axis=0)
    return result


def with_statistics_of(graph: ir.Graph, x: np.ndarray) -> ir.Graph:
    """`graph` as if trained on x: its norms store what they see there."""
    return calibrate.recalibrate_norms(graph, x)


def correlated(shape, scale, centre, seed=0):
    rng = np.random.default_rng(seed)
    return (centre + scale * rng.normal(size=shape)).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize(("scale", "centre"), [(50.0, -30.0), (0.1, 0.0), (60.0, 128.0)])
def test_input_scale_is_recovered_from_batch_norms(scale, centre):
    """Inputs of unknown scale and centre: the networks' norms tell them."""
    real = correlated((256, *TINY.input.shape), scale, centre)
    graph = with_statistics_of(TINY, real)
    x, text = calibrate.synthetic_inputs(graph, 64, 0)
    assert x.shape == (64, *TINY.input.shape)
    assert x.dtype == np.float32
    assert 0.6 * scale < x.std() < 1.7 * scale
    assert abs(x.mean() - centre) < scale
    assert x.min() < real.min() + scale
    assert x.max() > real.max() - scale
    assert "unmeasured" in text
    assert f"{x.min():.6g}" in text
    assert f"{x.max():.6g}" in text
    wanted, got = measured(graph, real), measured(graph, x)
    for op in graph.linear_ops[:-1]:
        deviation = np.sqrt(wanted[op.name][1] + 1e-3)
        assert np.abs((got[op.name][0] - wanted[op.name][0]) / deviation).mean() < 0.3


@pytest.mark.slow
def test_same_seed_same_inputs_and_another_seed_others():
    first, _ = calibrate.synthetic_inputs(TINY, 8, 3)
    assert np.array_equal(first, calibrate.synthetic_inputs(TINY, 8, 3)[0])
    assert not np.array_equal(first, calibrate.synthetic_inputs(TINY, 8, 4)[0])


def test_a_given_range_is_kept_and_reached():
    for graph in (TINY, without_norms()):
        x, text = calibrate.synthetic_inputs(graph, 16, 0, (-3.0, 7.5))
        assert (x.min(), x.max()) == (-3.0, 7.5)
        assert "--input-range" in text


@pytest.mark.parametrize(
    ("rescale", "offset", "wanted"),
    [
        (1 / 255, 0.0, (0, 255)),
        (1 / 127.5, -1.0, (0, 255)),
        (2.0, -1.0, (0, 1)),
        (1 / 32768, 0.0, (-32768, 32767)),
        (0.5, 0.25, (-8.5, 7.5)),
    ],
)
def test_rescaling_tells_the_raw_range(rescale, offset, wanted):
    graph = with_input(without_norms(), rescale=rescale, offset=offset)
    x, text = calibrate.synthetic_inputs(graph, 16, 0)
    assert (x.min(), x.max()) == wanted
    assert "at the input" in text


@pytest.mark.parametrize(
    "rows",
    [
        ([1, 1], [0, 0], [100, -2], [400, 0.25]),  # gamma, beta, mean, variance
        ([1 / 20, 2], [-5, 4], [0, 0], [1, 1]),
    ],
    ids=["batch-norm", "scale and shift"],
)
def test_a_leading_normalisation_tells_the_range_per_channel(rows):
    norm = ir.BatchNorm(*(ir.read_only(v) for v in rows), epsilon=0.0)
    first = ir.DepthwiseConv2D("norm", ("input",), ir.read_only(np.ones((1, 1, 2, 1))), norm=norm)
    plain = without_norms()
    conv = replace(plain.ops[1], inputs=("norm",))
    graph = plain.with_ops([plain.ops[0], first, conv, *plain.ops[2:]])
    ir.check(graph, lowered=True)
    x, text = calibrate.synthetic_inputs(graph, 64, 0)
    assert (x.min(), x.max()) == (-4, 180)
    assert "normalisation" in text
    if rows[2] != [0, 0]:  # a plain scale and shift holds no statistics to reproduce
        np.testing.assert_allclose(x.mean(axis=(0, 1, 2)), [100, -2], atol=3)
        assert 0.3 < x[1:, :, :, 1].std() < 0.8


def test_a_normalised_vector_tells_its_range():
    """Keras's Normalization of features: lowered, a reshape stands before the depthwise."""
    features = ir.Input("x", (), (2,))
    norm = ir.BatchNorm(*map(ir.read_only, ([1 / 20, 2], [-5, 4], [0, 0], [1, 1])), epsilon=0.0)
    dense = ir.Dense("y", ("norm",), ir.read_only(np.ones((2, 3))))
    graph = passes.lower(
        ir.Graph("tabular", (features, ir.BatchNormalization("norm", ("x",), norm), dense), "y")
    )
    assert isinstance(graph.consumers("x")[0], ir.Reshape)
    x, text = calibrate.synthetic_inputs(graph, 64, 0)
    assert (x.min(), x.max()) == (-4, 180)
    assert "normalisation" in text


def test_without_norms_and_range_the_guess_is_said():
    x, text = calibrate.synthetic_inputs(without_norms(), 16, 0)
    assert (x.min(), x.max()) == (-4, 4)
    assert "guess" in text


def test_ranges_hold_zero_and_keep_the_whole_input():
    x = correlated((32, *TINY.input.shape), 2, 5)
    extremes, result = ranges(TINY, x), calibrate.activation_ranges(TINY, x)
    assert set(result) == {op.name for op in TINY.ops}
    assert result["input"] == (min(extremes["input"][0], 0), extremes["input"][1])
    for name, (low, high) in result.items():
        assert min(extremes[name][0], 0) <= low <= 0 <= high <= max(extremes[name][1], 0)


@pytest.mark.slow
def test_a_lone_outlier_is_clipped_and_an_even_spread_is_not():
    net = graphs.GraphBuilder("identity", (1,))
    op = ir.Dense("dense", ("input",), ir.read_only(np.ones((1, 1))))
    net.append(op)
    graph = net.graph()
    even = np.linspace(-1, 1, 200_000, dtype=np.float32)[:, None]
    low, high = calibrate.activation_ranges(graph, even)["dense"]
    assert high > 0.97
    low, high = calibrate.activation_ranges(graph, np.vstack([even, [[2.0]]]))["dense"]
    assert 0.95 < high < 1.5
    assert -1.0 <= low < -0.95


def test_a_constant_zero_tensor_has_an_empty_range():
    assert calibrate.activation_ranges(without_norms(), np.zeros((4, 6, 6, 2), np.float32))[
        "input"
    ] == (0, 0)


@pytest.mark.parametrize(
    "graph", [TINY, graphs.resnet(4, 2, 8), graphs.autoencoder(12, 6, 3)], ids=lambda g: g.name
)
def test_recalibrated_norms_store_what_they_see(graph):
    x = correlated((64, *graph.input.shape), 3, 1)
    result = calibrate.recalibrate_norms(graph, x)
    seen = measured(result, x)
    for before, op in zip(graph.linear_ops, result.linear_ops, strict=True):
        assert (op.norm is None) == (before.norm is None)
        assert op.kernel is before.kernel
        if op.norm is not None:
            mean, variance = seen[op.name]
            deviation = np.sqrt(variance + 1e-6)
            np.testing.assert_allclose(op.norm.mean / deviation, mean / deviation, atol=1e-3)
            np.testing.assert_allclose(op.norm.variance, variance, rtol=1e-3, atol=1e-6)
            assert op.norm.gamma is before.norm.gamma


def test_recalibration_brings_a_narrow_level_back():
    """Dropping units shifts what later norms see; measured statistics follow."""
    x = correlated((128, *TINY.input.shape), 1, 0)
    full = with_statistics_of(TINY, x)
    grouping = groups.find_groups(full)
    widths = {
        name: group.units if group.fixed else group.units // 2
        for name, group in grouping.groups.items()
    }
    narrow = groups.select_units(full, grouping, groups.prefixes(widths))
    better = calibrate.recalibrate_norms(narrow, x)

    def drift(graph):
        return sum(
            float(np.abs((mean - op.norm.mean) / np.sqrt(op.norm.variance + 1e-3)).mean())
            for op, (mean, _) in zip(graph.linear_ops, measured(graph, x).values(), strict=True)
            if op.norm is not None
        )

    assert drift(better) < 0.01 < drift(narrow)


def test_free_scales_are_left_alone_and_dead_channels_are_safe():
    ones = np.ones(4)
    free = ir.BatchNorm(*(ir.read_only(v) for v in (ones, ones, 0 * ones, ones)), epsilon=0.0)
    plain = without_norms()
    op = plain.linear_ops[0]
    graph = plain.with_ops(replace(o, norm=free) if o is op else o for o in plain.ops)
    x = correlated((8, 6, 6, 2), 1, 0)
    assert calibrate.recalibrate_norms(graph, x).linear_ops[0].norm is free
    kernel = TINY.linear_ops[0].kernel.copy()
    kernel[..., 3] = 0
    dead = TINY.with_ops(
        replace(o, kernel=ir.read_only(kernel)) if o is TINY.linear_ops[0] else o for o in TINY.ops
    )
    x = correlated((8, *TINY.input.shape), 1, 0)
    result = calibrate.recalibrate_norms(dead, x)
    assert result.linear_ops[0].norm.variance[3] == 0
    assert np.isfinite(predict(result, x)).all()


def test_a_variance_beyond_float32_stays_finite():
    """Values near 1e30 are finite, their squares are not."""
    kernel = ir.read_only(1e30 * TINY.linear_ops[0].kernel)
    first = TINY.linear_ops[0]
    huge = TINY.with_ops(replace(o, kernel=kernel) if o is first else o for o in TINY.ops)
    x = correlated((8, *TINY.input.shape), 1, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        result = calibrate.recalibrate_norms(huge, x)
    assert np.isfinite(result.linear_ops[0].norm.variance).all()
    assert np.isfinite(predict(result, x)).all()
