"""From a Keras configuration (parsed JSON) to `keras_network.Network`.

Two steps: `parse_model` reads the nested configuration of Keras 2 or 3 into a tree of `Node`s, and
`flatten` walks its calls in order of computation. Nothing is imported, looked up or executed by
the names a file contains; an unknown layer becomes a Layer that support.py refuses.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from redsc.errors import ModelError
from redsc.keras_network import (
    INERT_LAYERS,
    OPTIONS,
    Layer,
    Network,
    OpenShape,
    is_keras_module,
    read_options,
)

MAX_LAYERS = 4096
MAX_NESTED_MODELS = 16
MAX_NAME = 120
_MODELS = ("Sequential", "Functional", "Model")
_ALIASES = {
    "Convolution1D": "Conv1D", "Convolution2D": "Conv2D",
    "SeparableConvolution1D": "SeparableConv1D", "SeparableConvolution2D": "SeparableConv2D",
    "AvgPool1D": "AveragePooling1D", "AvgPool2D": "AveragePooling2D",
    "MaxPool1D": "MaxPooling1D", "MaxPool2D": "MaxPooling2D",
    "GlobalAvgPool1D": "GlobalAveragePooling1D", "GlobalAvgPool2D": "GlobalAveragePooling2D",
    "GlobalMaxPool1D": "GlobalMaxPooling1D", "GlobalMaxPool2D": "GlobalMaxPooling2D",
    "BatchNormalizationV1": "BatchNormalization", "BatchNormalizationV2": "BatchNormalization",
    "SyncBatchNormalization": "BatchNormalization",
}  # fmt: skip

Path = tuple[int, ...]
Reference = tuple[str, int, int]
"""(layer name, number of its call, output number): how a configuration names a tensor."""


@dataclass(frozen=True)
class Call:
    references: tuple[Reference, ...]
    faults: tuple[str, ...] = ()


@dataclass(frozen=True)
class Node:
    """A layer or a model (then with children) as the configuration nests them."""

    name: str
    class_name: str
    config: Mapping[str, Any]
    origin: str = ""
    calls: tuple[Call, ...] = ()
    first_call: int = 0
    children: tuple[Node, ...] = ()
    inputs: tuple[Reference, ...] = ()
    outputs: tuple[Reference, ...] = ()

    @property
    def is_model(self) -> bool:
        return self.class_name in _MODELS and not self.origin


def load_json(text: str | bytes, where: str) -> Any:
    """JSON of untrusted origin, with TensorFlow's tagged tuples as plain lists."""
    try:
        return _untag(json.loads(text))
    except (ValueError, RecursionError) as fault:
        raise ModelError(
            f"{where}: the model's configuration is not readable JSON ({fault}); "
            "save the model again with model.save()"
        ) from None


def _untag(value: Any) -> Any:
    if isinstance(value, list):
        return [_untag(part) for part in value]
    if isinstance(value, dict):
        if value.get("class_name") in ("__tuple__", "TensorShape") and "items" in value:
            return _untag(value["items"])
        return {key: _untag(part) for key, part in value.items()}
    return value


def parse_model(raw: Any, keras_version: int, where: str) -> Node:
    """The tree of a whole model; ModelError when the configuration is no model's."""
    try:
        node = _node(raw, keras_version, 0)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as fault:
        raise ModelError(
            f"{where}: the model's configuration is malformed ({type(fault).__name__}: {fault}); "
            "save the model again with model.save()"
        ) from None
    if not node.is_model:
        raise ModelError(
            f"{where}: holds a {node.class_name}, not a Sequential or Functional model. A "
            "subclassed model's layers are code, not configuration: build it with keras.Sequential "
            "or keras.Model(inputs, outputs) and save that"
        )
    return node


def _node(raw: Any, keras_version: int, depth: int) -> Node:
    if depth > MAX_NESTED_MODELS:
        raise ValueError(f"models are nested more than {MAX_NESTED_MODELS} deep")
    class_name, config = raw["class_name"], raw.get("config") or {}
    if not isinstance(class_name, str):
        raise ValueError("a layer's class name is not a text")
    if isinstance(config, list):  # Sequential before Keras 2.2.3
        config = {"layers": config}
    name = raw.get("name") or config.get("name") or class_name.lower()
    node = Node(
        name=str(name),
        class_name=_ALIASES.get(class_name, class_name),
        config=config,
        origin=_origin(raw),
        calls=tuple(_call(entry, keras_version) for entry in raw.get("inbound_nodes") or ()),
    )
    if not node.is_model or "layers" not in config:
        return replace(node, origin=node.origin or "subclassed") if node.is_model else node
    children = tuple(_node(child, keras_version, depth + 1) for child in config["layers"])
    return replace(
        node,
        children=children,
        # Keras 2 counts a nested model's own construction as its call number 0.
        first_call=int(keras_version == 2 and bool(children) and _has_own_input(children)),
        inputs=tuple(_references(config.get("input_layers"))),
        outputs=tuple(_references(config.get("output_layers"))),
    )


def _has_own_input(children: tuple[Node, ...]) -> bool:
    return children[0].class_name == "InputLayer"


def _origin(raw: Mapping[str, Any]) -> str:
    """Where a class that is not Keras's own comes from; '' for Keras's own."""
    registered, module = raw.get("registered_name"), raw.get("module")
    if isinstance(registered, str) and ">" in registered and not registered.startswith("keras"):
        return registered
    return "" if is_keras_module(module) else str(module)


def _call(entry: Any, keras_version: int) -> Call:
    """One use of a layer. Keras 2: [[name, call, output, options], …]; Keras 3: args and kwargs."""
    if keras_version == 3 and isinstance(entry, dict) and "args" in entry:
        options = entry.get("kwargs") or {}
        references = _references([entry["args"], list(options.values())])
        return Call(tuple(references), _call_faults(options))
    options = {}
    for part in [entry, *entry] if isinstance(entry, list) else []:
        if isinstance(part, list) and len(part) == 4 and isinstance(part[3], dict):
            options |= part[3]
    return Call(tuple(_references(entry)), _call_faults(options))


def _call_faults(options: Mapping[str, Any]) -> tuple[str, ...]:
    def inert(value: Any) -> bool:
        return not value or (isinstance(value, list) and not any(value))

    return tuple(
        f"it is called with {name} = {value!r:.60}"
        for name, value in options.items()
        if name != "name" and not inert(value)
    )


def _references(value: Any) -> list[Reference]:
    """Every tensor named anywhere inside a part of the configuration, in order."""
    if isinstance(value, dict):
        history = (value.get("config") or {}) if value.get("class_name") else {}
        if isinstance(history, dict) and "keras_history" in history:
            return _references(history["keras_history"])
        return [reference for part in value.values() for reference in _references(part)]
    if not isinstance(value, list):
        return []
    if len(value) >= 3 and isinstance(value[0], str) and all(type(v) is int for v in value[1:3]):
        return [(value[0], value[1], value[2]), *_references(value[3:])]
    return [reference for part in value for reference in _references(part)]


# --- Flattening ---


def safe_name(name: str) -> str:
    """A layer's name as it may appear in generated code, file names and reports."""
    return re.sub(r"[^A-Za-z0-9_./-]", "_", name)[:MAX_NAME] or "layer"


class _Flattener:
    """Collects layers while the tree is walked; names stay unique."""

    def __init__(self) -> None:
        self.layers: list[Layer] = []
        self.names: set[str] = set()
        self.numbers: dict[str, int] = {}

    def add(self, layer: Layer) -> str:
        layer = replace(layer, name=safe_name(layer.name))
        name, number = layer.name, self.numbers.get(layer.name, 1)
        while name in self.names:
            name, number = f"{layer.name}_{number}", number + 1
        self.numbers[layer.name] = number
        if len(self.layers) >= MAX_LAYERS:
            raise ValueError(f"it has more than {MAX_LAYERS} layers")
        self.names.add(name)
        self.layers.append(replace(layer, name=name))
        return name

    def input(self, node: Node, prefix: str, path: Path, shape: OpenShape) -> str:
        dtype = node.config.get("dtype") if node.class_name == "InputLayer" else "float32"
        kinds = [kind for kind in ("sparse", "ragged") if node.config.get(kind)]
        layer = Layer(
            prefix + node.name, "InputLayer", (), {"shape": shape}, dtype=_dtype(dtype), path=path,
            faults=tuple(f"{kind} inputs are not supported" for kind in kinds),
        )  # fmt: skip
        return self.add(layer)

    def call(
        self,
        node: Node,
        call: Call,
        prefix: str,
        path: Path,
        inputs: list[str],
        uses: int,
    ) -> list[str]:
        """Output tensors of one use of a layer or nested model."""
        uses *= max(len(node.calls), 1)
        if node.is_model:
            return self.model(node, f"{prefix}{node.name}/", path, inputs, uses)
        known = node.class_name in OPTIONS and not node.origin
        options, faults = read_options(node.class_name, node.config) if known else ({}, [])
        if node.class_name in INERT_LAYERS and not node.origin:
            faults = []
        layer = Layer(
            name=prefix + node.name, class_name=node.class_name, inputs=tuple(inputs),
            options=options, faults=(*faults, *call.faults), origin=node.origin,
            dtype=_dtype(node.config.get("dtype")), path=path, calls=uses,
        )  # fmt: skip
        return [self.add(layer)]

    def model(self, node: Node, prefix: str, path: Path, inputs: list[str], uses: int) -> list[str]:
        if node.class_name == "Sequential":
            return self.sequential(node, prefix, path, inputs, uses)
        return self.functional(node, prefix, path, inputs, uses)

    def sequential(
        self, node: Node, prefix: str, path: Path, inputs: list[str], uses: int
    ) -> list[str]:
        tensors = inputs
        if not tensors:
            shape = _input_shape(node)
            if shape is None:
                raise ValueError(
                    "it has no input shape because it was never built; add keras.Input(shape=…) as "
                    "its first layer and save it again"
                )
            first = node.children[0] if _has_own_input(node.children) else Node("input", "", {})
            tensors = [self.input(first, prefix, (*path, 0), shape)]
        for position, child in enumerate(node.children):
            if child.class_name != "InputLayer":
                call = child.calls[0] if child.calls else Call(())
                tensors = self.call(child, call, prefix, (*path, position), tensors, uses)
        return tensors

    def functional(
        self, node: Node, prefix: str, path: Path, inputs: list[str], uses: int
    ) -> list[str]:
        given = dict(zip((name for name, _, _ in node.inputs), inputs, strict=False))
        tensors: dict[tuple[str, int], list[str]] = {}
        waiting: list[tuple[int, Node, int, Call]] = []
        for position, child in enumerate(node.children):
            if child.class_name == "InputLayer":
                tensor = given.get(child.name)
                if tensor is None:
                    shape = _input_shape(child)
                    if shape is None:
                        raise ValueError(f"its input {child.name!r} has no shape")
                    tensor = self.input(child, prefix, (*path, position), shape)
                tensors[child.name, 0] = [tensor]
            for number, call in enumerate(child.calls):
                waiting.append((position, child, number, call))
        # Keras 2 counts a nested model's own construction as its call 0: where there is one call,
        # its number says nothing; where there are several, the last ones are meant.
        calls = {child.name: len(child.calls) for child in node.children}
        first = {child.name: child.first_call for child in node.children}

        def find(reference: Reference) -> str | None:
            name, number, output = reference
            number = 0 if calls[name] <= 1 else number - first[name]
            outputs = tensors.get((name, number))
            return None if outputs is None else outputs[output]

        while waiting:
            later = []
            for position, child, number, call in waiting:
                sources = [find(reference) for reference in call.references]
                known = [source for source in sources if source is not None]
                if len(known) < len(sources):
                    later.append((position, child, number, call))
                    continue
                tensors[child.name, number] = self.call(
                    child, call, prefix, (*path, position), known, uses
                )
            if len(later) == len(waiting):
                names = ", ".join(repr(child.name) for _, child, _, _ in later[:3])
                raise ValueError(f"the inputs of {names} lead nowhere")
            waiting = later
        found = [find(reference) for reference in node.outputs]
        return [tensor for tensor in found if tensor is not None]


def flatten(node: Node, keras_version: int, where: str) -> Network:
    """The layers of a model in order of computation, nested models inlined."""
    flattener = _Flattener()
    try:
        outputs = flattener.model(node, "", (), [], 1)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError) as fault:
        raise ModelError(f"{where}: the model cannot be read: {_reason(fault)}") from None
    inputs = tuple(layer.name for layer in flattener.layers if layer.class_name == "InputLayer")
    return Network(
        safe_name(node.name), keras_version, tuple(flattener.layers), inputs, tuple(outputs)
    )


def _reason(fault: Exception) -> str:
    if isinstance(fault, KeyError):
        return f"its configuration names {fault.args[0]!r}, which does not exist"
    return str(fault)


def _input_shape(node: Node) -> OpenShape | None:
    """Input shape without batch axis, as stated by an InputLayer or the first layer."""
    for key in ("batch_input_shape", "batch_shape", "build_input_shape"):
        shape = node.config.get(key)
        if isinstance(shape, list) and shape and all(_is_extent(part) for part in shape):
            return tuple(shape[1:])
    return _input_shape(node.children[0]) if node.children else None


def _is_extent(value: Any) -> bool:
    return value is None or (type(value) is int and 0 < value <= 2**31)


def _dtype(policy: Any) -> str:
    """The name of a dtype or of a serialised dtype policy; Keras's default when absent."""
    if isinstance(policy, dict):
        config = policy.get("config")
        policy = config.get("name") if isinstance(config, dict) else None
    return policy if isinstance(policy, str) else "float32"
