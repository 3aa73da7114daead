"""Float levels to int8 levels over one weight store (DESIGN, numerics).

The store holds the kernels without batch-norm. A level's batch-norm goes into the weight *scale*
its .tflite declares and into its bias, so a level costs tables, not weights, and is exactly a
standard TFLite network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from redsc import constants, fixed_point, groups, ir, linear_add, one_product
from redsc.groups import Grouping, Widths
from redsc.quantized import QuantizedLevel, QuantizedLinear, QuantizedNetwork, QuantParams

Ranges = Mapping[str, tuple[float, float]]
"""Smallest and largest value of every tensor, by op name."""

WEIGHT_MAX = 127
BIAS_MAX = 1 << 30
# Narrower ranges come from dead layers only. The floor keeps every scale, and products of two
# scales, normal float32 numbers.
MIN_SCALE = 2.0**-48
FIXED_OUTPUTS: dict[type[ir.Op], QuantParams] = {
    ir.Softmax: QuantParams(1 / 256, -128),
    ir.Logistic: QuantParams(1 / 256, -128),
    ir.Tanh: QuantParams(1 / 128, 0),
}
"""Output parameters TFLite prescribes."""

_WIDENING, _WIDENINGS = 2.0**-18, 8
_COARSER = 1.5
"""The last layer's table is stored once if no level's input gets a scale more times larger than its
own for that: 0.1 dB of MLPerf Tiny's autoencoder's outputs, as measured."""

TIED = (ir.MaxPool2D, ir.AveragePool2D, ir.Reshape, ir.Pad, ir.Concatenate)
"""Ops whose inputs and output share scale and zero point."""


@dataclass(frozen=True, eq=False)
class FloatLevel:
    """A level before quantisation: `graph` is narrow, its kernels are slices of the store's."""

    percent: float
    widths: Widths
    graph: ir.Graph
    ranges: Ranges


def quantize(
    store: ir.Graph,
    grouping: Grouping,
    levels: Sequence[FloatLevel],
    shared_scales: bool = False,
) -> QuantizedNetwork:
    """The int8 network of `levels`, smallest first; the last one is as wide as `store`.

    shared_scales: every tensor has one scale and zero point for all levels, as shared multipliers
    need; else only the network's input and output have, and at times what the last layer reads.
    """
    narrow = [level.graph for level in levels]
    tensors = tensor_params(store, narrow, [level.ranges for level in levels], shared_scales)
    tensors = with_linear_adds(store, narrow, tensors)
    dead = {op.name: _dead_channels(op, grouping, levels, tensors) for op in store.linear_ops}
    scales = {op.name: _store_scale(op) for op in store.linear_ops}
    weights = {
        op.name: _quantize_kernel(op, scales[op.name], dead[op.name]) for op in store.linear_ops
    }
    quantized = []
    for level, params in zip(levels, tensors, strict=True):
        units = groups.prefixes(level.widths)
        index = {name: groups.channel_indices(a, units) for name, a in grouping.axes.items()}
        linear = {}
        for op in level.graph.linear_ops:
            rows, columns = index[op.name], index[op.inputs[0]]
            stored = store[op.name]
            assert isinstance(stored, ir.LinearOp)
            linear[op.name] = _quantize_linear(
                op,
                select_weights(stored, weights[op.name], columns, rows),
                scales[op.name][rows],
                dead[op.name][rows],
                params[op.inputs[0]],
                params[op.name],
            )
        quantized.append(
            QuantizedLevel(level.percent, dict(level.widths), level.graph, params, linear)
        )
    return QuantizedNetwork(store, grouping, weights, tuple(quantized))


def to_tflite_layout(op: ir.LinearOp, kernel: np.ndarray) -> np.ndarray:
    """Keras kernel layout to TFLite's: (out, h, w, in), (1, h, w, out), (out, in)."""
    match op:
        case ir.Conv2D():
            return np.ascontiguousarray(kernel.transpose(3, 0, 1, 2))
        case ir.DepthwiseConv2D():
            return kernel.reshape(1, *kernel.shape[:2], -1)
        case ir.Dense():
            return np.ascontiguousarray(kernel.T)
    raise AssertionError(op)


def select_weights(
    op: ir.LinearOp, weights: np.ndarray, inputs: np.ndarray, outputs: np.ndarray
) -> np.ndarray:
    """Rows and columns of a level from the store, TFLite layout, compact."""
    match op:
        case ir.Conv2D():
            return np.ascontiguousarray(weights[outputs][:, :, :, inputs])
        case ir.DepthwiseConv2D():
            return np.ascontiguousarray(weights[:, :, :, outputs])
        case ir.Dense():
            return np.ascontiguousarray(weights[outputs][:, inputs])
    raise AssertionError(op)


def _per_channel(op: ir.LinearOp, kernel: np.ndarray) -> np.ndarray:
    """A kernel as float64 (out_channels, weights per channel)."""
    laid_out = to_tflite_layout(op, kernel).astype(np.float64)
    if isinstance(op, ir.DepthwiseConv2D):
        return laid_out.reshape(-1, op.out_channels).T
    return laid_out.reshape(op.out_channels, -1)


def _store_scale(op: ir.LinearOp) -> np.ndarray:
    """float64 (out,): symmetric scale of each channel at full width."""
    largest = np.abs(_per_channel(op, op.kernel)).max(axis=1)
    return np.maximum(largest, np.finfo(np.float32).tiny) / WEIGHT_MAX


def _quantize_kernel(op: ir.LinearOp, scale: np.ndarray, dead: np.ndarray) -> np.ndarray:
    channels = np.rint(_per_channel(op, op.kernel) / scale[:, None])
    channels = np.clip(channels, -WEIGHT_MAX, WEIGHT_MAX)
    channels[dead] = 0
    shape = to_tflite_layout(op, op.kernel).shape
    if isinstance(op, ir.DepthwiseConv2D):
        channels = channels.T
    result = np.ascontiguousarray(channels.reshape(shape).astype(np.int8))
    result.flags.writeable = False
    return result


def _quantize_linear(
    op: ir.LinearOp,
    weights: np.ndarray,
    store_scale: np.ndarray,
    dead: np.ndarray,
    source: QuantParams,
    target: QuantParams,
) -> QuantizedLinear:
    # Constant channels: any scale does, and one that puts the bias's unit at 1/256 of an output
    # step rounds to the right constant without a left shift.
    constant = np.full_like(store_scale, target.scale / source.scale / 256)
    wanted = np.where(dead, constant, store_scale * op.scale)
    channels = np.abs(weights.astype(np.int64))
    if isinstance(op, ir.DepthwiseConv2D):
        reach = channels.sum(axis=(0, 1, 2))
    else:
        reach = channels.reshape(len(weights), -1).sum(axis=1)
    reach = reach * 255 * source.scale * wanted  # |kernel · x| in real units, at most
    # Offsets past the point where the output saturates whatever x is change nothing.
    low = (-128 - target.zero_point) * target.scale - reach - target.scale
    high = (127 - target.zero_point) * target.scale + reach + target.scale
    offset = np.clip(op.offset, low, high)
    floor = np.abs(offset) / (source.scale * BIAS_MAX)
    # Multipliers below 2^-31 move nothing by a fiftieth of a step, and XNNPACK refuses them.
    floor = np.maximum(floor, target.scale / source.scale * 2.0**-31)
    scale = np.maximum(wanted, np.maximum(floor, np.finfo(np.float32).tiny)).astype(np.float32)

    def with_scale(scale: np.ndarray) -> QuantizedLinear:
        bias = np.rint(offset / (np.float64(source.scale) * scale.astype(np.float64)))
        bias = np.clip(bias, -BIAS_MAX, BIAS_MAX).astype(np.int32)
        return QuantizedLinear(weights, weight_scale=scale, bias=bias)

    result = with_scale(scale)
    for _ in range(_WIDENINGS if isinstance(op, ir.Conv2D | ir.DepthwiseConv2D) else 0):
        # Less than one of 100 channels with ordinary shifts needs a scale some millionths larger
        # for its requantisation to be one product.
        missed = one_product.is_missed(constants.requantisation(op, result, source, target))
        if not missed.any():
            break
        scale = np.where(missed, scale * np.float32(1 + _WIDENING), scale)
        result = with_scale(scale)
    return result


def _dead_channels(
    op: ir.LinearOp,
    grouping: Grouping,
    levels: Sequence[FloatLevel],
    tensors: Sequence[Mapping[str, QuantParams]],
) -> np.ndarray:
    """bool (out,): channels whose kernel moves the output by less than half a step at any level."""
    dead = np.ones(op.out_channels, bool)
    for level, params in zip(levels, tensors, strict=True):
        rows = groups.channel_indices(grouping.axes[op.name], groups.prefixes(level.widths))
        narrow = level.graph[op.name]
        assert isinstance(narrow, ir.LinearOp)
        source, target = params[op.inputs[0]], params[op.name]
        largest = max(127 - source.zero_point, source.zero_point + 128) * source.scale
        reach = np.abs(_per_channel(narrow, narrow.kernel)).sum(axis=1) * largest
        dead[rows] &= reach * narrow.scale < 0.5 * target.scale
    return dead


def tensor_params(
    store: ir.Graph,
    levels: Sequence[ir.Graph],
    level_ranges: Sequence[Ranges],
    shared_scales: bool,
) -> tuple[dict[str, QuantParams], ...]:
    """Scale and zero point of every tensor at every level, ties and shared ends respected.

    shared_scales: as for `quantize`.
    """
    tie = _ties(store)
    fixed = _fixed(store, tie)
    ranges = [
        _class_ranges(tie, level, own) for level, own in zip(levels, level_ranges, strict=True)
    ]
    shared = {tie[store.input.name], tie[store.output], *_before_output(store, tie, levels, ranges)}
    result = []
    for own in ranges:
        params = {}
        for name, root in tie.items():
            if root in fixed:
                params[name] = fixed[root]
            elif shared_scales or root in shared:
                params[name] = _asymmetric(*_union([other[root] for other in ranges]))
            else:
                params[name] = _asymmetric(*own[root])
        result.append(params)
    return tuple(result)


def _before_output(
    store: ir.Graph,
    tie: Mapping[str, str],
    levels: Sequence[ir.Graph],
    ranges: Sequence[Mapping[str, tuple[float, float]]],
) -> set[str]:
    """Classes of tied tensors that only layers read which make the network's output, and make it
    with the same factors at all levels: with one scale for all levels such a layer has one table.

    Layers of an autoencoder's or a segmentation's output have many channels at every level. None
    where a level's scale would be much coarser than its own.
    """
    scales = [{op.name: op.scale for op in level.linear_ops} for level in levels]
    alike = {
        op.name
        for op in store.linear_ops
        if tie[op.name] == tie[store.output]
        and all(np.array_equal(own[op.name], scales[-1][op.name]) for own in scales)
    }

    def is_suited(root: str) -> bool:
        readers = {
            op.name
            for op in store.ops
            if tie[op.name] != root and any(tie[name] == root for name in op.inputs)
        }
        owns = [own[root] for own in ranges]
        finest = min(_asymmetric(*own).scale for own in owns)
        return readers <= alike and _asymmetric(*_union(owns)).scale <= _COARSER * finest

    return {root for root in (tie[store[name].inputs[0]] for name in alike) if is_suited(root)}


def _fixed(store: ir.Graph, tie: Mapping[str, str]) -> dict[str, QuantParams]:
    """Parameters of the classes for which TFLite prescribes them."""
    return {tie[op.name]: FIXED_OUTPUTS[type(op)] for op in store.ops if type(op) in FIXED_OUTPUTS}


def with_linear_adds(
    store: ir.Graph, levels: Sequence[ir.Graph], tensors: Sequence[Mapping[str, QuantParams]]
) -> tuple[dict[str, QuantParams], ...]:
    """The same parameters, but scales of additions' outputs larger where that makes them linear;
    those that are the same at all levels stay so."""
    tie = _ties(store)
    fixed = _fixed(store, tie)
    result = [dict(params) for params in tensors]
    for op in store.ops:
        if isinstance(op, ir.Add) and tie[op.name] not in fixed:
            members = [name for name, root in tie.items() if root == tie[op.name]]
            every = list(zip(levels, result, strict=True))
            is_shared = len({params[op.name] for params in result}) == 1
            for alike in [every] if is_shared else [[level] for level in every]:
                _make_linear(op.name, members, alike)
    return tuple(result)


def _make_linear(
    add: str, members: Sequence[str], levels: Sequence[tuple[ir.Graph, dict[str, QuantParams]]]
) -> None:
    """Widens the scale that an addition's output shares with other `members`, by a few millionths,
    until at these levels the addition is linear for every pair of int8 values; as measured, about
    one of thirty is not."""
    for _ in range(_WIDENINGS):
        adds = [constants.add(_add(graph, add), tensors) for graph, tensors in levels]
        if all(linear_add.find(made) is not None for made in adds):
            return
        for _, tensors in levels:
            for name in members:
                scale = float(np.float32(tensors[name].scale * (1 + _WIDENING)))
                tensors[name] = replace(tensors[name], scale=scale)


def _add(graph: ir.Graph, name: str) -> ir.Add:
    op = graph[name]
    assert isinstance(op, ir.Add)
    return op


def _ties(graph: ir.Graph) -> dict[str, str]:
    """Tensor name to the name that stands for all tensors of equal parameters."""
    root: dict[str, str] = {}

    def find(name: str) -> str:
        while root[name] != name:
            name = root[name]
        return name

    for op in graph.ops:
        root[op.name] = op.name
        if isinstance(op, TIED):
            for name in op.inputs:
                root[find(op.name)] = find(name)
    return {name: find(name) for name in root}


def _class_ranges(
    tie: Mapping[str, str], level: ir.Graph, own: Ranges
) -> dict[str, tuple[float, float]]:
    """Range of every class of tied tensors, wide enough for int32 requantisation.

    Only dead layers and broken calibrations come near these floors. They are applied twice, as a
    class that is widened late may feed an earlier op.
    """
    members: dict[str, list[tuple[float, float]]] = {}
    for name, root in tie.items():
        members.setdefault(root, []).append(own[name])
    ranges = {root: _union(values) for root, values in members.items()}

    def widen(name: str, needed: float) -> None:
        low, high = ranges[tie[name]]
        ranges[tie[name]] = (low, max(high, low + needed))

    def size(name: str) -> float:
        low, high = ranges[tie[name]]
        return max(high, 0.0) - min(low, 0.0)

    for op in (*level.ops, *level.ops):
        match op:
            case ir.LinearOp():
                channels = np.abs(_per_channel(op, op.kernel)) * op.scale[:, None]
                largest, reach = channels.max(), channels.sum(axis=1).max()
                # multipliers of at most 64 (XNNPACK stops at 256), no accumulator out of int32
                floor = max(largest / WEIGHT_MAX / 64, reach * 2.0**-20)
                widen(op.name, float(floor) * size(op.inputs[0]))
            case ir.Add() | ir.LeakyRelu():
                # multipliers below 1 after the Add's left shift of 20; XNNPACK wants 256 and less
                widen(op.name, max(size(name) for name in op.inputs) * 2.0**-7)
            case ir.Softmax() | ir.Logistic() | ir.Tanh():
                widen(op.inputs[0], 255 * 2.0**-25)  # its scale in Q5.26 or Q4.27 is at least 1
        match op:
            case (
                ir.LinearOp(activation=ir.Activation.RELU6) | ir.Add(activation=ir.Activation.RELU6)
            ):
                widen(op.name, 255 * 2.0**-28)  # 6 is less than 2^31 steps
    return ranges


def _union(ranges: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return min(low for low, _ in ranges), max(high for _, high in ranges)


def _asymmetric(low: float, high: float) -> QuantParams:
    """int8 parameters of a range that is widened to hold 0, which is then exact."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = np.float32(max((high - low) / 255, MIN_SCALE))
    zero_point = int(fixed_point.round_half_away(np.float64(-128 - low / np.float64(scale))))
    return QuantParams(float(scale), int(np.clip(zero_point, -128, 127)))


def quantize_array(x: np.ndarray, params: QuantParams) -> np.ndarray:
    """Network-side real values to int8, rounded half away from zero and clipped."""
    q = fixed_point.round_half_away(np.asarray(x, np.float64) / params.scale) + params.zero_point
    return np.clip(q, -128, 127).astype(np.int8)


def dequantize_array(q: np.ndarray, params: QuantParams) -> np.ndarray:
    """int8 to float32 real values."""
    return ((q.astype(np.float64) - params.zero_point) * params.scale).astype(np.float32)


def quantize_input(network: QuantizedNetwork, raw: np.ndarray) -> np.ndarray:
    """The user's raw values (samples, …) to the int8 the device is given."""
    source = network.graph.input
    params = network.levels[0].tensors[source.name]
    return quantize_array(source.scaled(np.asarray(raw, np.float64)), params)
