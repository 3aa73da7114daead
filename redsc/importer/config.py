"""A Keras configuration (parsed JSON, of Keras 2 or 3) as a tree of `Node`s.

Nothing is imported, looked up or executed by the names a file contains.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from redsc.errors import ModelError
from redsc.keras_options import is_keras_module

MAX_NESTED_MODELS = 16
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
        first_call=int(keras_version == 2 and bool(children) and has_own_input(children)),
        inputs=tuple(_references(config.get("input_layers"))),
        outputs=tuple(_references(config.get("output_layers"))),
    )


def has_own_input(children: tuple[Node, ...]) -> bool:
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
