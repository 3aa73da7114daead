"""Networks built directly as ir.Graph with random kernels, for tests and benchmarks.

`random_graphs()` draws small networks of every structure the search must handle; the other
functions build the reference networks at any size. All are lowered graphs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from hypothesis import strategies as st

from redsc import groups, ir, quantize
from redsc.quantized import QuantizedNetwork

RELU = ir.Activation.RELU


class GraphBuilder:
    """Appends ops one after another; every method returns the name of the tensor it makes.

    A method reads the last tensor made unless `source` names another. Kernels are He-scaled
    normal noise; `norm=True` attaches a plausible random batch-norm, otherwise a random bias.
    """

    def __init__(self, name: str, shape: ir.Shape, seed: int = 0) -> None:
        self.name = name
        self.rng = np.random.default_rng(seed)
        self.ops: list[ir.Op] = [ir.Input("input", (), shape)]
        self.shapes: dict[str, ir.Shape] = {"input": shape}

    @property
    def last(self) -> str:
        return self.ops[-1].name

    def shape(self, name: str | None = None) -> ir.Shape:
        return self.shapes[name or self.last]

    def graph(self, output: str | None = None) -> ir.Graph:
        graph = ir.Graph(self.name, tuple(self.ops), output or self.last)
        ir.check(graph, lowered=True)
        return graph

    def append(self, op: ir.Op) -> str:
        self.ops.append(op)
        self.shapes[op.name] = ir.shapes(ir.Graph(self.name, tuple(self.ops), op.name))[op.name]
        return op.name

    def fresh(self, kind: str) -> str:
        return f"{kind}_{len(self.ops)}"

    def _parameters(self, kernel_shape: ir.Shape, channels: int, norm: bool) -> dict[str, Any]:
        fan_in = max(1, math.prod(kernel_shape) // channels)
        kernel = self.rng.normal(size=kernel_shape) * math.sqrt(2 / fan_in)
        parameters: dict[str, Any] = {"kernel": ir.read_only(kernel)}
        if norm:
            parameters["norm"] = ir.BatchNorm(
                gamma=ir.read_only(self.rng.uniform(0.5, 1.5, channels)),
                beta=ir.read_only(self.rng.normal(0, 0.3, channels)),
                mean=ir.read_only(self.rng.normal(0, 0.3, channels)),
                variance=ir.read_only(self.rng.uniform(0.5, 2.0, channels)),
                epsilon=1e-3,
            )
        else:
            parameters["bias"] = ir.read_only(self.rng.normal(0, 0.1, channels))
        return parameters

    def conv(
        self,
        channels: int,
        size: tuple[int, int] = (3, 3),
        strides: tuple[int, int] = (1, 1),
        *,
        source: str | None = None,
        padding: ir.Padding = "same",
        activation: ir.Activation = RELU,
        norm: bool = True,
    ) -> str:
        source = source or self.last
        shape = (*size, self.shape(source)[2], channels)
        return self.append(
            ir.Conv2D(
                self.fresh("conv"),
                (source,),
                **self._parameters(shape, channels, norm),
                activation=activation,
                strides=strides,
                padding=padding,
            )
        )

    def depthwise(
        self,
        multiplier: int = 1,
        size: tuple[int, int] = (3, 3),
        strides: tuple[int, int] = (1, 1),
        *,
        source: str | None = None,
        padding: ir.Padding = "same",
        norm: bool = True,
    ) -> str:
        source = source or self.last
        channels = self.shape(source)[2]
        shape = (*size, channels, multiplier)
        return self.append(
            ir.DepthwiseConv2D(
                self.fresh("depthwise"),
                (source,),
                **self._parameters(shape, channels * multiplier, norm),
                activation=RELU,
                strides=strides,
                padding=padding,
            )
        )

    def dense(
        self,
        features: int,
        *,
        source: str | None = None,
        activation: ir.Activation = RELU,
        norm: bool = False,
    ) -> str:
        source = source or self.last
        shape = (self.shape(source)[0], features)
        parameters = self._parameters(shape, features, norm)
        return self.append(
            ir.Dense(self.fresh("dense"), (source,), **parameters, activation=activation)
        )

    def add(self, a: str, b: str) -> str:
        return self.append(ir.Add(self.fresh("add"), (a, b), RELU))

    def concatenate(self, *sources: str) -> str:
        return self.append(ir.Concatenate(self.fresh("concatenate"), sources))

    def leaky_relu(self) -> str:
        return self.append(ir.LeakyRelu(self.fresh("leaky_relu"), (self.last,), 0.1))

    def pad(self) -> str:
        return self.append(ir.Pad(self.fresh("pad"), (self.last,), ((0, 1), (1, 0))))

    def max_pool(self) -> str:
        size = (min(2, self.shape()[0]), min(2, self.shape()[1]))
        return self.append(ir.MaxPool2D(self.fresh("max_pool"), (self.last,), size, size))

    def global_average(self) -> str:
        height, width, channels = self.shape()
        size = (height, width)
        pool = self.append(ir.AveragePool2D(self.fresh("average"), (self.last,), size, size))
        return self.append(ir.Reshape(self.fresh("reshape"), (pool,), (channels,)))

    def flatten(self) -> str:
        shape = (math.prod(self.shape()),)
        return self.append(ir.Reshape(self.fresh("flatten"), (self.last,), shape))

    def softmax(self) -> str:
        return self.append(ir.Softmax(self.fresh("softmax"), (self.last,)))


def ds_cnn(
    channels: int = 64,
    blocks: int = 4,
    shape: ir.Shape = (49, 10, 1),
    classes: int = 12,
    seed: int = 0,
) -> ir.Graph:
    """MLPerf Tiny's keyword-spotting network at its default sizes."""
    net = GraphBuilder("ds_cnn", shape, seed)
    net.conv(channels, (10, 4), (2, 2))
    for _ in range(blocks):
        net.depthwise()
        net.conv(channels, (1, 1))
    net.global_average()
    net.dense(classes, activation=ir.Activation.NONE)
    net.softmax()
    return net.graph()


def mobilenet_v1(alpha: float = 0.25, size: int = 96, classes: int = 2, seed: int = 0) -> ir.Graph:
    """MobileNetV1; the defaults are MLPerf Tiny's visual-wake-words network."""
    net = GraphBuilder("mobilenet_v1", (size, size, 3), seed)
    net.conv(max(1, int(32 * alpha)), strides=(2, 2))
    plan = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)]
    plan += [(512, 1)] * 5 + [(1024, 2), (1024, 1)]
    for channels, stride in plan:
        net.depthwise(strides=(stride, stride))
        net.conv(max(1, int(channels * alpha)), (1, 1))
    net.global_average()
    net.dense(classes, activation=ir.Activation.NONE)
    net.softmax()
    return net.graph()


def resnet(
    channels: int = 16, stages: int = 3, size: int = 32, classes: int = 10, seed: int = 0
) -> ir.Graph:
    """One residual block per stage, channels doubling; the defaults are MLPerf Tiny's ResNet-8."""
    none = ir.Activation.NONE
    net = GraphBuilder("resnet", (size, size, 3), seed)
    skip = net.conv(channels)
    for stage in range(stages):
        strides = (1, 1) if stage == 0 else (2, 2)
        width = channels << stage
        net.conv(width, strides=strides, source=skip)
        body = net.conv(width, activation=none)
        if stage > 0:
            skip = net.conv(width, (1, 1), strides, source=skip, activation=none, norm=False)
        skip = net.add(skip, body)
    net.global_average()
    net.dense(classes, activation=none)
    net.softmax()
    return net.graph()


def autoencoder(
    features: int = 640, hidden: int = 128, bottleneck: int = 8, seed: int = 0
) -> ir.Graph:
    """MLPerf Tiny's anomaly-detection network at its default sizes."""
    net = GraphBuilder("autoencoder", (features,), seed)
    for width in [hidden] * 4 + [bottleneck] + [hidden] * 4:
        net.dense(width, norm=True)
    net.dense(features, activation=ir.Activation.NONE)
    return net.graph()


def vgg(channels: int = 8, size: int = 16, classes: int = 10, seed: int = 0) -> ir.Graph:
    """Plain convolutions and max-pooling, then flatten and two dense layers."""
    net = GraphBuilder("vgg", (size, size, 3), seed)
    for stage in range(2):
        net.conv(channels << stage)
        net.conv(channels << stage)
        net.max_pool()
    net.flatten()
    net.dense(4 * channels)
    net.dense(classes, activation=ir.Activation.NONE)
    net.softmax()
    return net.graph()


BLOCKS = ("conv", "depthwise", "residual", "concatenate", "pool", "leaky_relu", "pad")


@st.composite
def random_graphs(
    draw: st.DrawFn,
    max_blocks: int = 4,
    max_units: int = 6,
    blocks: tuple[str, ...] = BLOCKS,
) -> ir.Graph:
    """Small networks mixing chains, residual blocks, concatenations, depthwise multipliers.

    They end in flatten → dense, global average → dense, or a convolutional or dense output.
    """
    units = st.integers(1, max_units)
    shape = (draw(st.integers(3, 6)), draw(st.integers(3, 6)), draw(st.integers(1, 3)))
    net = GraphBuilder("random", shape, seed=draw(st.integers(0, 2**16)))
    for block in draw(st.lists(st.sampled_from(blocks), min_size=1, max_size=max_blocks)):
        _append_block(net, draw, block, units)
    match draw(st.sampled_from(("flatten", "average", "conv", "dense"))):
        case "flatten":
            net.flatten()
            net.dense(draw(units))
            net.dense(draw(units), activation=ir.Activation.NONE, norm=True)
        case "average":
            net.global_average()
            net.dense(draw(units), activation=ir.Activation.NONE)
            net.softmax()
        case "dense":
            net.flatten()
            net.dense(draw(units), activation=ir.Activation.NONE)
            net.append(ir.Logistic(net.fresh("logistic"), (net.last,)))
        case "conv":
            net.conv(draw(units), (1, 1))
    return net.graph()


def _append_block(
    net: GraphBuilder, draw: st.DrawFn, block: str, units: st.SearchStrategy[int]
) -> None:
    strides = draw(st.sampled_from([(1, 1), (2, 2), (2, 1)]))
    match block:
        case "conv":
            size = draw(st.sampled_from([(1, 1), (3, 3), (2, 3)]))
            net.conv(draw(units), size, strides, norm=draw(st.booleans()))
        case "depthwise":
            # Multiplier 1 is by far the most common one, 2 enough to repeat units.
            net.depthwise(draw(st.sampled_from((1, 1, 2))), strides=strides)
        case "residual":
            skip = net.conv(draw(units))
            net.conv(draw(units), (1, 1))
            body = net.conv(net.shape(skip)[2], activation=ir.Activation.NONE)
            net.add(skip, body)
        case "concatenate":
            source = net.last
            left = net.conv(draw(units), (1, 1), source=source)
            right = net.conv(draw(units), source=source)
            net.concatenate(left, right, *draw(st.sampled_from([(), (source,)])))
        case "pool":
            net.max_pool()
        case "leaky_relu":
            net.leaky_relu()
        case "pad":
            net.pad()


def halves(graph: ir.Graph) -> dict[str, int]:
    """Widths of a level with half of all units."""
    grouping = groups.find_groups(graph)
    return {g.name: g.units if g.fixed else g.units // 2 for g in grouping.groups.values()}


def two_levels(
    graph: ir.Graph, widths: Mapping[str, int], shared_scales: bool = False
) -> QuantizedNetwork:
    """One of such widths and the full one, int8 for 0 … 1 everywhere: zero points are those of a
    ReLU, so that saturation clamps."""
    grouping = groups.find_groups(graph)
    levels = []
    for percent, kept in ((50.0, widths), (100.0, grouping.full_widths)):
        narrow = groups.select_units(graph, grouping, groups.prefixes(kept))
        ranges = dict.fromkeys((op.name for op in narrow.ops), (0.0, 1.0))
        levels.append(quantize.FloatLevel(percent, kept, narrow, ranges))
    return quantize.quantize(graph, grouping, levels, shared_scales=shared_scales)
