"""Writes one level as a standard .tflite file: int8, batch 1, no custom ops.

Serialised with the schema that ships with TensorFlow. The bytes depend on nothing but the level.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from redsc import ir
from redsc.quantized import QuantizedLevel
from redsc.tf_network import tensorflow

# Lowest operator versions that cover int8 (lite/tools/versioning/op_version.cc).
_VERSIONS = {
    "CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 4, "ADD": 2, "CONCATENATION": 2,
    "MAX_POOL_2D": 2, "AVERAGE_POOL_2D": 2, "PAD": 2, "SOFTMAX": 2, "LOGISTIC": 2, "TANH": 2,
    "LEAKY_RELU": 2, "RESHAPE": 1,
}  # fmt: skip
_PER_CHANNEL_DENSE_VERSION = 12
_ALIGNMENT_BYTES = 16
_FILE_IDENTIFIER = b"TFL3"
_SCHEMA_VERSION = 3


def tensor_shape(shape: ir.Shape) -> list[int]:
    """A shape of redsc.ir with its batch axis."""
    return [1, *shape]


def write(level: QuantizedLevel) -> bytes:
    """The level as a .tflite flatbuffer, constant buffers aligned to 16 bytes."""
    return _Writer(level, is_bare=False).pack()


def write_bare(level: QuantizedLevel) -> bytes:
    """The same without biases and scales of weights, which redsc's own ops have in the plan; no
    other ones can compute it. On a dense network they are a sixth of the file."""
    return _Writer(level, is_bare=True).pack()


def _schema() -> Any:
    tensorflow()
    from tensorflow.lite.python import schema_py_generated

    return schema_py_generated


class _Writer:
    """Collects buffers, tensors and operators of one subgraph."""

    def __init__(self, level: QuantizedLevel, is_bare: bool) -> None:
        self.level, self.is_bare = level, is_bare
        self.schema = _schema()
        self.buffers = [self._buffer(None)]  # buffer 0 is empty by TFLite's convention
        self.tensors: list[Any] = []
        self.operators: list[Any] = []
        self.codes: list[tuple[str, int]] = []
        self.index: dict[str, int] = {}

    def pack(self) -> bytes:
        import flatbuffers

        shapes = ir.shapes(self.level.graph)
        for op in self.level.graph.ops:
            self.index[op.name] = self._activation(op.name, shapes[op.name])
        for op in self.level.graph.ops:
            if not isinstance(op, ir.Input):
                self._operator(op, shapes)
        builder = flatbuffers.Builder(1 << 16)
        builder.Finish(self._model().Pack(builder), file_identifier=_FILE_IDENTIFIER)
        return bytes(builder.Output())

    def _model(self) -> Any:
        graph = self.level.graph
        subgraph = self.schema.SubGraphT()
        subgraph.name = graph.name
        subgraph.tensors = self.tensors
        subgraph.inputs = [self.index[graph.input.name]]
        subgraph.outputs = [self.index[graph.output]]
        subgraph.operators = self.operators
        model = self.schema.ModelT()
        model.version = _SCHEMA_VERSION
        model.description = "redsc"
        model.operatorCodes = [self._code(name, version) for name, version in self.codes]
        model.subgraphs = [subgraph]
        model.buffers = self.buffers
        return model

    def _code(self, name: str, version: int) -> Any:
        code = self.schema.OperatorCodeT()
        code.builtinCode = getattr(self.schema.BuiltinOperator, name)
        code.deprecatedBuiltinCode = code.builtinCode
        code.version = version
        return code

    def _buffer(self, data: np.ndarray | None) -> Any:
        schema = self.schema

        class AlignedBuffer(schema.BufferT):  # type: ignore[name-defined]
            """BufferT.Pack leaves data unaligned; kernels read int32 in place."""

            def Pack(self, builder: Any) -> Any:  # noqa: N802 (flatbuffers' name)
                offset = None
                if self.data is not None:
                    raw = self.data.tobytes()
                    builder.StartVector(1, len(raw), _ALIGNMENT_BYTES)
                    builder.head -= len(raw)
                    builder.Bytes[builder.head : builder.head + len(raw)] = raw
                    offset = builder.EndVector()
                schema.BufferStart(builder)
                if offset is not None:
                    schema.BufferAddData(builder, offset)
                return schema.BufferEnd(builder)

        buffer = AlignedBuffer()
        buffer.data = data
        return buffer

    def _tensor(
        self, name: str, shape: list[int], kind: str, data: np.ndarray | None = None
    ) -> tuple[int, Any]:
        tensor = self.schema.TensorT()
        tensor.name = name
        tensor.shape = shape
        tensor.type = getattr(self.schema.TensorType, kind)
        tensor.buffer = 0
        if data is not None:
            tensor.buffer = len(self.buffers)
            self.buffers.append(self._buffer(data))
        self.tensors.append(tensor)
        return len(self.tensors) - 1, tensor

    def _quantization(self, scale: np.ndarray, zero_point: np.ndarray, axis: int = 0) -> Any:
        quantization = self.schema.QuantizationParametersT()
        quantization.scale = scale.astype(np.float32)
        quantization.zeroPoint = zero_point.astype(np.int64)
        quantization.quantizedDimension = axis
        return quantization

    def _activation(self, name: str, shape: ir.Shape) -> int:
        params = self.level.tensors[name]
        index, tensor = self._tensor(name, tensor_shape(shape), "INT8")
        tensor.quantization = self._quantization(
            np.array([params.scale]), np.array([params.zero_point])
        )
        return index

    def _constant(self, name: str, values: list[int] | np.ndarray) -> int:
        data = np.asarray(values, np.int32)
        return self._tensor(name, list(data.shape), "INT32", data)[0]

    def _linear_constants(self, op: ir.LinearOp) -> list[int]:
        quantized = self.level.linear[op.name]
        scale = quantized.weight_scale
        zeros = np.zeros(len(scale))
        axis = 3 if isinstance(op, ir.DepthwiseConv2D) else 0
        shape = list(quantized.weights.shape)
        weights, tensor = self._tensor(f"{op.name}/weights", shape, "INT8", quantized.weights)
        if self.is_bare:
            return [weights]
        tensor.quantization = self._quantization(scale, zeros, axis)
        bias, tensor = self._tensor(f"{op.name}/bias", [len(scale)], "INT32", quantized.bias)
        source = np.float32(self.level.tensors[op.inputs[0]].scale)
        tensor.quantization = self._quantization(source * scale, zeros)
        return [weights, bias]

    def _operator(self, op: ir.Op, shapes: dict[str, ir.Shape]) -> None:
        name, options = self._options(op, shapes)
        constants: list[int] = []
        match op:
            case ir.LinearOp():
                constants = self._linear_constants(op)
            case ir.Reshape():
                constants = [self._constant(f"{op.name}/shape", tensor_shape(op.shape))]
            case ir.Pad():
                pads = [(0, 0), *op.padding, (0, 0)]
                constants = [self._constant(f"{op.name}/padding", np.array(pads))]
        version = _VERSIONS[name]
        if isinstance(op, ir.Dense) and op.out_channels > 1:
            version = _PER_CHANNEL_DENSE_VERSION
        if (name, version) not in self.codes:
            self.codes.append((name, version))
        operator = self.schema.OperatorT()
        operator.opcodeIndex = self.codes.index((name, version))
        operator.inputs = [self.index[n] for n in op.inputs] + constants
        operator.outputs = [self.index[op.name]]
        if options is not None:
            kind = type(options).__name__.removesuffix("T")
            operator.builtinOptionsType = getattr(self.schema.BuiltinOptions, kind)
            operator.builtinOptions = options
        self.operators.append(operator)

    def _options(self, op: ir.Op, shapes: dict[str, ir.Shape]) -> tuple[str, Any]:
        """Operator name and its options table."""
        schema = self.schema
        match op:
            case ir.Conv2D():
                return "CONV_2D", self._window(schema.Conv2DOptionsT(), op)
            case ir.DepthwiseConv2D():
                options = self._window(schema.DepthwiseConv2DOptionsT(), op)
                options.depthMultiplier = op.multiplier
                return "DEPTHWISE_CONV_2D", options
            case ir.Dense():
                options = schema.FullyConnectedOptionsT()
                options.fusedActivationFunction = self._fused(op.activation)
                return "FULLY_CONNECTED", options
            case ir.Add():
                options = schema.AddOptionsT()
                options.fusedActivationFunction = self._fused(op.activation)
                return "ADD", options
            case ir.Concatenate():
                options = schema.ConcatenationOptionsT()
                options.axis = len(shapes[op.name])  # the batch axis comes first
                return "CONCATENATION", options
            case ir.MaxPool2D():
                return "MAX_POOL_2D", self._pool(op)
            case ir.AveragePool2D():
                return "AVERAGE_POOL_2D", self._pool(op)
            case ir.Reshape():
                options = schema.ReshapeOptionsT()
                options.newShape = tensor_shape(op.shape)
                return "RESHAPE", options
            case ir.Pad():
                return "PAD", schema.PadOptionsT()
            case ir.Softmax():
                options = schema.SoftmaxOptionsT()
                options.beta = 1.0
                return "SOFTMAX", options
            case ir.LeakyRelu():
                options = schema.LeakyReluOptionsT()
                options.alpha = op.alpha
                return "LEAKY_RELU", options
            case ir.Logistic():
                return "LOGISTIC", None
            case ir.Tanh():
                return "TANH", None
        raise AssertionError(op)

    def _window(self, options: Any, op: ir.Conv2D | ir.DepthwiseConv2D) -> Any:
        options.padding = getattr(self.schema.Padding, op.padding.upper())
        options.strideH, options.strideW = op.strides
        options.dilationHFactor, options.dilationWFactor = op.dilation
        options.fusedActivationFunction = self._fused(op.activation)
        return options

    def _pool(self, op: ir.Pool2D) -> Any:
        options = self.schema.Pool2DOptionsT()
        options.padding = getattr(self.schema.Padding, op.padding.upper())
        options.filterHeight, options.filterWidth = op.size
        options.strideH, options.strideW = op.strides
        return options

    def _fused(self, activation: ir.Activation) -> int:
        return int(getattr(self.schema.ActivationFunctionType, activation.name))


@dataclass(frozen=True)
class StepInterface:
    """An op as seen from outside: its name (and its output tensor's), bytes at every level."""

    name: str
    output_bytes: tuple[int, ...]


@dataclass(frozen=True)
class Interface:
    """What the levels of one build share, read from their .tflite files."""

    input_shape: ir.Shape
    output_shape: ir.Shape
    steps: tuple[StepInterface, ...]
    level_count: int

    @property
    def input_bytes(self) -> int:
        return math.prod(self.input_shape)

    @property
    def output_bytes(self) -> int:
        return math.prod(self.output_shape)


def interface(tflites: Sequence[bytes]) -> Interface:
    """The interface of files that `write` made, smallest level first. Reshapes are no steps."""
    models = [_read(data) for data in tflites]
    graphs = [model.subgraphs[0] for model in models]
    reshape = _schema().BuiltinOperator.RESHAPE
    steps = []
    for number, operator in enumerate(graphs[0].operators):
        if models[0].operatorCodes[operator.opcodeIndex].builtinCode == reshape:
            continue
        outputs = [graph.tensors[graph.operators[number].outputs[0]] for graph in graphs]
        sizes = tuple(int(np.prod(tensor.shape)) for tensor in outputs)
        steps.append(StepInterface(outputs[0].name.decode(), sizes))
    ends = [graphs[0].tensors[index[0]] for index in (graphs[0].inputs, graphs[0].outputs)]
    shapes = [tuple(int(size) for size in tensor.shape[1:]) for tensor in ends]
    return Interface(shapes[0], shapes[1], tuple(steps), len(graphs))


@dataclass(frozen=True)
class Contents:
    """What a file of `write` holds and where. Activations are its first tensors.

    op_kinds: builtin code and name of every kind of op. linear_names: ops with weights, in order.
    constant_offsets: where a constant tensor's data begins, bytes from the file's start.
    """

    tensor_names: tuple[str, ...]
    op_count: int
    op_kinds: tuple[tuple[int, str], ...]
    linear_names: tuple[str, ...]
    constant_offsets: dict[str, int]


def contents(data: bytes) -> Contents:
    """The contents of a file that `write` made."""
    schema = _schema()
    model = schema.Model.GetRootAs(data, 0)
    graph = model.Subgraphs(0)
    tensors = [graph.Tensors(i) for i in range(graph.TensorsLength())]
    names = tuple(tensor.Name().decode() for tensor in tensors)
    builtin_names = {
        code: name for name, code in vars(schema.BuiltinOperator).items() if name.isupper()
    }
    codes = [model.OperatorCodes(i).BuiltinCode() for i in range(model.OperatorCodesLength())]
    return Contents(
        tensor_names=names,
        op_count=graph.OperatorsLength(),
        op_kinds=tuple((code, builtin_names[code]) for code in dict.fromkeys(codes)),
        linear_names=tuple(n.removesuffix("/weights") for n in names if n.endswith("/weights")),
        constant_offsets={
            name: _data_offset(model.Buffers(tensor.Buffer()))
            for name, tensor in zip(names, tensors, strict=True)
            if tensor.Buffer()
        },
    )


def _data_offset(buffer: Any) -> int:
    """Flatbuffers' generated readers give data, not places."""
    table = buffer._tab
    return int(table.Vector(table.Offset(4)))


def tensor_indices(data: bytes) -> dict[str, int]:
    """Index in the file of every tensor, by name."""
    tensors = _read(data).subgraphs[0].tensors
    return {tensor.name.decode(): index for index, tensor in enumerate(tensors)}


def _read(data: bytes) -> Any:
    schema = _schema()
    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
