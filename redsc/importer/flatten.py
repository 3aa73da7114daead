"""The tree of a configuration as one list of layers in order of computation.

Nested models are inlined; a layer without weights that is used several times becomes several.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from redsc.errors import ModelError
from redsc.importer.config import Call, Node, Path, Reference, has_own_input
from redsc.keras_network import Layer, Network, OpenShape
from redsc.keras_options import INERT_LAYERS, OPTIONS, read_options

MAX_LAYERS = 4096
MAX_NAME = 120


def safe_name(name: str) -> str:
    """A layer's name as it may stand in generated code, comments, paths and reports."""
    safe = re.sub(r"[^A-Za-z0-9_./-]", "_", name)[:MAX_NAME]
    return re.sub(r"\.\.+|/(?=/)|^[./]|[./]$", "_", safe) or "layer"


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
            first = node.children[0] if has_own_input(node.children) else Node("input", "", {})
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
