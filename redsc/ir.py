"""The network as redsc sees it: a frozen, topologically ordered list of typed ops.

Every op has exactly one output tensor, and that tensor carries the op's name. Shapes have no
batch axis and put channels last: `(channels,)` or `(height, width, channels)`. Arrays are
float32 and read-only; a change makes a new graph with `dataclasses.replace`.

Kinds of op are declared here once. What each *concern* (cost, axes, quantisation, emission …)
knows of a kind lives in that concern's module, and tests/test_concerns.py checks that every
concern handles every kind.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

Shape = tuple[int, ...]
Padding = Literal["same", "valid"]


class Activation(enum.Enum):
    """Activations an op can fuse (TFLite's fused activation functions)."""

    NONE = "none"
    RELU = "relu"
    RELU6 = "relu6"


@dataclass(frozen=True, eq=False)
class BatchNorm:
    """Inference batch-norm, y = gamma * (x - mean) / sqrt(variance + epsilon) + beta.

    All arrays are float32 of shape (channels,). A layer's free per-level scale and shift are the
    same thing with mean 0, variance 1 and epsilon 0.
    """

    gamma: np.ndarray
    beta: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    epsilon: float

    @property
    def scale(self) -> np.ndarray:
        """float64 (channels,): the factor this batch-norm multiplies its input by."""
        return self.gamma.astype(np.float64) / np.sqrt(
            self.variance.astype(np.float64) + self.epsilon
        )


@dataclass(frozen=True, eq=False)
class Op:
    """An op and its output tensor; `inputs` are the names of the ops it reads."""

    name: str
    inputs: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Input(Op):
    """The network's input. The network sees `raw * rescale + offset` of the user's raw values.

    rescale (positive) and offset are for all channels, or float64 (channels,). The application
    applies them in float before it quantises, so features of any size share one int8 scale.
    """

    shape: Shape
    rescale: float | np.ndarray = 1.0
    offset: float | np.ndarray = 0.0

    @property
    def is_scaled(self) -> bool:
        return bool(np.any(self.rescale != 1.0) or np.any(self.offset != 0.0))

    def scaled(self, raw: Any) -> Any:
        """The network's values of raw ones, channels last."""
        return raw * self.rescale + self.offset

    def raw(self, value: float) -> float | np.ndarray:
        """The raw value, of every channel if they differ, that the network sees as `value`."""
        return (value - self.offset) / self.rescale


@dataclass(frozen=True, eq=False)
class LinearOp(Op):
    """What Conv2D, DepthwiseConv2D and Dense share: y = activation(norm(kernel · x + bias)).

    The kernel never has the batch-norm folded in: it is the one store all levels read, while
    bias and norm belong to a level (DESIGN, numerics). bias is (out_channels,) or None.
    """

    kernel: np.ndarray
    bias: np.ndarray | None = None
    norm: BatchNorm | None = None
    activation: Activation = Activation.NONE

    @property
    def out_channels(self) -> int:
        raise NotImplementedError

    @property
    def scale(self) -> np.ndarray:
        """float64 (out_channels,): y = activation(scale * (kernel · x) + offset)."""
        return np.ones(self.out_channels) if self.norm is None else self.norm.scale

    @property
    def offset(self) -> np.ndarray:
        """float64 (out_channels,): see `scale`."""
        bias = np.zeros(self.out_channels) if self.bias is None else self.bias.astype(np.float64)
        if self.norm is None:
            return bias
        return self.norm.beta.astype(np.float64) + (bias - self.norm.mean) * self.norm.scale


@dataclass(frozen=True, eq=False)
class Conv2D(LinearOp):
    """kernel: (height, width, in_channels, out_channels), as Keras stores it."""

    strides: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: Padding = "valid"

    @property
    def out_channels(self) -> int:
        return self.kernel.shape[3]


@dataclass(frozen=True, eq=False)
class DepthwiseConv2D(LinearOp):
    """kernel: (height, width, in_channels, multiplier); output channel c*multiplier + m."""

    strides: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: Padding = "valid"

    @property
    def multiplier(self) -> int:
        return self.kernel.shape[3]

    @property
    def out_channels(self) -> int:
        return self.kernel.shape[2] * self.kernel.shape[3]


@dataclass(frozen=True, eq=False)
class Dense(LinearOp):
    """kernel: (in_features, out_features), as Keras stores it. Its input has shape (features,)."""

    @property
    def out_channels(self) -> int:
        return self.kernel.shape[1]


@dataclass(frozen=True, eq=False)
class BatchNormalization(Op):
    """A batch-norm not yet attached to a linear op; gone after passes.lower()."""

    norm: BatchNorm


@dataclass(frozen=True, eq=False)
class Relu(Op):
    """A ReLU or ReLU6 not yet fused; gone after passes.lower()."""

    activation: Activation


@dataclass(frozen=True, eq=False)
class LeakyRelu(Op):
    alpha: float


@dataclass(frozen=True, eq=False)
class Logistic(Op):
    """Sigmoid; TFLite's name."""


@dataclass(frozen=True, eq=False)
class Tanh(Op):
    pass


@dataclass(frozen=True, eq=False)
class Softmax(Op):
    """Softmax over the last axis, beta 1."""


@dataclass(frozen=True, eq=False)
class Add(Op):
    """Sum of exactly two tensors of equal shape; longer Keras sums are chains of these."""

    activation: Activation = Activation.NONE


@dataclass(frozen=True, eq=False)
class Concatenate(Op):
    """Joins two or more tensors along the channel axis."""


@dataclass(frozen=True, eq=False)
class Pool2D(Op):
    """Pooling window; global pooling has the input's own height and width and a Reshape behind."""

    size: tuple[int, int]
    strides: tuple[int, int]
    padding: Padding = "valid"


@dataclass(frozen=True, eq=False)
class MaxPool2D(Pool2D):
    pass


@dataclass(frozen=True, eq=False)
class AveragePool2D(Pool2D):
    """Mean over the part of the window inside the image, as TFLite and Keras do."""


@dataclass(frozen=True, eq=False)
class Reshape(Op):
    """Row-major reshape to `shape` (Flatten is one)."""

    shape: Shape


@dataclass(frozen=True, eq=False)
class Pad(Op):
    """Zero padding: ((top, bottom), (left, right))."""

    padding: tuple[tuple[int, int], tuple[int, int]]


LOWERED_OPS: tuple[type[Op], ...] = (
    Input, Conv2D, DepthwiseConv2D, Dense, LeakyRelu, Logistic, Tanh, Softmax, Add, Concatenate,
    MaxPool2D, AveragePool2D, Reshape, Pad,
)  # fmt: skip
"""Kinds that remain after passes.lower(): what every later concern handles."""

ALL_OPS: tuple[type[Op], ...] = (*LOWERED_OPS, BatchNormalization, Relu)


@dataclass(frozen=True, eq=False)
class Graph:
    """A network with one input (`ops[0]`) and one output (`output`, an op's name)."""

    name: str
    ops: tuple[Op, ...]
    output: str
    _by_name: Mapping[str, Op] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_name", {op.name: op for op in self.ops})

    def __getitem__(self, name: str) -> Op:
        return self._by_name[name]

    @property
    def input(self) -> Input:
        op = self.ops[0]
        assert isinstance(op, Input)
        return op

    @property
    def linear_ops(self) -> tuple[LinearOp, ...]:
        return tuple(op for op in self.ops if isinstance(op, LinearOp))

    def consumers(self, name: str) -> tuple[Op, ...]:
        """Ops that read the tensor `name`, in order."""
        return tuple(op for op in self.ops if name in op.inputs)

    def with_ops(self, ops: Iterable[Op], output: str | None = None) -> Graph:
        return replace(self, ops=tuple(ops), output=output or self.output)


def conv_output_size(size: int, kernel: int, stride: int, dilation: int, padding: Padding) -> int:
    """Output extent along one axis (tensorflow/lite/kernels/padding.h, ComputeOutSize)."""
    span = (kernel - 1) * dilation + 1
    return -(-size // stride) if padding == "same" else -(-(size - span + 1) // stride)


def padding_before(size: int, kernel: int, stride: int, dilation: int, padding: Padding) -> int:
    """Zeros in front of the first input along one axis (padding.h, ComputePaddingWithOffset)."""
    if padding == "valid":
        return 0
    out = conv_output_size(size, kernel, stride, dilation, padding)
    return max((out - 1) * stride + (kernel - 1) * dilation + 1 - size, 0) // 2


def shapes(graph: Graph) -> dict[str, Shape]:
    """Shape of every tensor, without batch axis."""
    result: dict[str, Shape] = {}
    for op in graph.ops:
        result[op.name] = _output_shape(op, [result[name] for name in op.inputs])
    return result


def _output_shape(op: Op, inputs: list[Shape]) -> Shape:
    match op:
        case Input() | Reshape():
            return op.shape
        case Dense():
            return (op.out_channels,)
        case Conv2D() | DepthwiseConv2D():
            height, width = (
                conv_output_size(*args, op.padding)
                for args in zip(
                    inputs[0][:2], op.kernel.shape[:2], op.strides, op.dilation, strict=True
                )
            )
            return (height, width, op.out_channels)
        case Pool2D():
            height, width = (
                conv_output_size(size, window, stride, 1, op.padding)
                for size, window, stride in zip(inputs[0][:2], op.size, op.strides, strict=True)
            )
            return (height, width, inputs[0][2])
        case Pad():
            (top, bottom), (left, right) = op.padding
            height, width, channels = inputs[0]
            return (height + top + bottom, width + left + right, channels)
        case Concatenate():
            return (*inputs[0][:-1], sum(shape[-1] for shape in inputs))
        case _:
            return inputs[0]


def read_only(array: np.ndarray) -> np.ndarray:
    """`array` as a C-contiguous float32 array nobody can write to."""
    array = np.ascontiguousarray(array, dtype=np.float32)
    array.flags.writeable = False
    return array


def check(graph: Graph, lowered: bool = False) -> None:
    """Raise AssertionError when a graph breaks the rules above: a defect of redsc."""
    seen: set[str] = set()
    kinds = LOWERED_OPS if lowered else ALL_OPS
    for position, op in enumerate(graph.ops):
        where = f"{type(op).__name__} {op.name!r}"
        assert isinstance(op, kinds), f"{where}: not expected after this stage"
        assert op.name not in seen, f"{where}: name used twice"
        assert isinstance(op, Input) == (position == 0), (
            f"{where}: exactly the first op is the input"
        )
        assert all(name in seen for name in op.inputs), f"{where}: reads a tensor not yet computed"
        arity = {Input: 0, Add: 2}.get(type(op), 1)
        assert len(op.inputs) == arity or isinstance(op, Concatenate), f"{where}: {op.inputs}"
        if isinstance(op, LinearOp):
            assert op.bias is None or op.bias.shape == (op.out_channels,), f"{where}: bias shape"
            assert op.norm is None or op.norm.gamma.shape == (op.out_channels,), f"{where}: norm"
        seen.add(op.name)
    assert graph.output in seen, f"output {graph.output!r} is not computed"
    all_shapes = shapes(graph)
    for name, shape in all_shapes.items():
        assert len(shape) in (1, 3), f"{name}: shape {shape}"
        assert min(shape) > 0, f"{name}: shape {shape}"
    for op in graph.ops:
        _check_channels(op, [all_shapes[name] for name in op.inputs])


def _check_channels(op: Op, inputs: list[Shape]) -> None:
    where = f"{type(op).__name__} {op.name!r}"
    match op:
        case Conv2D() | DepthwiseConv2D():
            assert op.kernel.shape[2] == inputs[0][2], f"{where}: input channels"
        case Dense():
            assert inputs[0] == (op.kernel.shape[0],), f"{where}: input features"
        case Add():
            assert inputs[0] == inputs[1], f"{where}: shapes {inputs}"
        case Reshape():
            assert np.prod(op.shape) == np.prod(inputs[0]), f"{where}: sizes"
