"""Weights of every layer, read from each of Keras's file layouts.

All readers return {layer path: arrays in keras get_weights() order}; a path is the positions of
children from the outermost model (`keras_network.Layer.path`).
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from redsc.errors import ModelError
from redsc.importer.config import Node
from redsc.importer.hdf5 import Hdf5File
from redsc.keras_network import WEIGHTED_LAYERS
from redsc.keras_options import read_options

Path = tuple[int, ...]
Weights = dict[Path, list[np.ndarray]]

_SAVED_MODEL_NAMES = {
    "depthwise_kernel": ("depthwise_kernel", "kernel"),
    "mean": ("mean", "adapt_mean"),
    "variance": ("variance", "adapt_variance"),
}


def weight_names(node: Node) -> tuple[str, ...]:
    """Keras's names of a layer's weights in get_weights() order."""
    if node.class_name not in WEIGHTED_LAYERS or node.origin:
        return ()
    options, _ = read_options(node.class_name, node.config)
    bias = ("bias",) if options.get("use_bias", True) else ()
    match node.class_name:
        case "Conv1D" | "Conv2D" | "Dense":
            return ("kernel", *bias)
        case "DepthwiseConv1D" | "DepthwiseConv2D":
            return ("depthwise_kernel", *bias)
        case "SeparableConv1D" | "SeparableConv2D":
            return ("depthwise_kernel", "pointwise_kernel", *bias)
        case "BatchNormalization":
            gamma = ("gamma",) if options.get("scale", True) else ()
            beta = ("beta",) if options.get("center", True) else ()
            return (*gamma, *beta, "moving_mean", "moving_variance")
        case _:
            stored = options.get("mean") is None
            return ("mean", "variance", "count") if stored else ()


def leaves(node: Node, path: Path = ()) -> list[tuple[Path, Node]]:
    """Every layer of a tree with its path, in order."""
    found: list[tuple[Path, Node]] = []
    for position, child in enumerate(node.children):
        below = (*path, position)
        found += leaves(child, below) if child.is_model else [(below, child)]
    return found


# --- HDF5 as model.save("….h5") writes it ---


def from_legacy_hdf5(file: Hdf5File, model: Node) -> Weights:
    """The group model_weights: per outermost layer a group with an ordered list weight_names."""
    if not file.has_group("model_weights"):
        raise ModelError(f"{file.where}: holds no weights; save the whole model with model.save()")
    weights: Weights = {}
    for position, child in enumerate(model.children):
        here: Path = (position,)
        inside = leaves(child, here) if child.is_model else [(here, child)]
        if not any(weight_names(leaf) for _, leaf in inside):
            continue
        names = file.texts(f"model_weights/{child.name}", "weight_names")
        if names is None:
            raise ModelError(f"{file.where}: the weights of layer {child.name!r} are missing")
        paths = [f"model_weights/{child.name}/{name}" for name in names]
        if child.is_model:
            weights |= _nested_hdf5(file, child, inside, paths)
        else:
            weights[position,] = [file.array(path) for path in paths]
    return weights


def _nested_hdf5(
    file: Hdf5File, model: Node, inside: list[tuple[Path, Node]], paths: list[str]
) -> Weights:
    """A nested model's weights lie in one list: by name where names are unique, else by order."""
    by_name = {_last_names(path): path for path in paths}
    wanted = [(path, leaf, weight_names(leaf)) for path, leaf in inside]
    keys = [(leaf.name, name) for _, leaf, names in wanted for name in names]
    if len(by_name) == len(paths) and all(key in by_name for key in keys):
        return {
            path: [file.array(by_name[leaf.name, name]) for name in names]
            for path, leaf, names in wanted
        }
    order = _trainable_first(model, inside[0][0][:1])
    if len(order) != len(paths):
        raise ModelError(
            f"{file.where}: the nested model {model.name!r} stores {len(paths)} weights where "
            f"its layers have {len(order)}; save the model again"
        )
    place = dict(zip(order, paths, strict=True))
    return {
        path: [file.array(place[path, number]) for number in range(len(names))]
        for path, _, names in wanted
    }


def _last_names(path: str) -> tuple[str, str]:
    """('conv', 'kernel') of '…/conv/kernel:0'; Keras 3 calls a depthwise kernel just that too."""
    parts = path.rsplit("/", 2)
    return parts[-2], parts[-1].split(":")[0]


def _trainable_first(model: Node, path: Path) -> list[tuple[Path, int]]:
    """(path, weight number) in the order trainable weights, then the others, of a nested model."""
    trainable, frozen = _split_trainable(model, path)
    return trainable + frozen


def _split_trainable(
    node: Node, path: Path
) -> tuple[list[tuple[Path, int]], list[tuple[Path, int]]]:
    trainable: list[tuple[Path, int]] = []
    frozen: list[tuple[Path, int]] = []
    if node.is_model:
        for position, child in enumerate(node.children):
            below = _split_trainable(child, (*path, position))
            trainable += below[0]
            frozen += below[1]
    else:
        statistics = ("moving_mean", "moving_variance", "mean", "variance", "count")
        for number, name in enumerate(weight_names(node)):
            (frozen if name in statistics else trainable).append((path, number))
    if node.config.get("trainable") is False:
        return [], trainable + frozen
    return trainable, frozen


# --- The archive's model.weights.h5 ---


def from_archive_hdf5(file: Hdf5File, model: Node) -> Weights:
    """layers/<class in snake case>[_n]/vars/<number>, nested models inside their own group."""
    for root in ("layers", "_layer_checkpoint_dependencies"):
        if file.has_group(root):
            return _archive_layers(file, model, root, (), root)
    raise ModelError(f"{file.where}: model.weights.h5 holds no layers; save the model again")


def _archive_layers(file: Hdf5File, model: Node, group: str, path: Path, root: str) -> Weights:
    weights: Weights = {}
    used: dict[str, int] = {}
    for position, child in enumerate(model.children):
        if model.class_name == "Sequential" and child.class_name == "InputLayer":
            continue
        name = _snake_case(child.class_name)
        number = used.get(name, -1) + 1
        used[name] = number
        inner = f"{group}/{name}_{number}" if number else f"{group}/{name}"
        below = (*path, position)
        if child.is_model:
            weights |= _archive_layers(file, child, f"{inner}/{root}", below, root)
        elif names := weight_names(child):
            weights[below] = [file.array(f"{inner}/vars/{i}") for i in range(len(names))]
    return weights


def _snake_case(class_name: str) -> str:
    """As keras.src.utils.naming.to_snake_case."""
    name = re.sub(r"\W+", "", class_name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


# --- SavedModel: a TensorFlow checkpoint and its object graph ---


def from_checkpoint(checkpoint: Any, objects: Any, model: Node, where: str) -> Weights:
    """Follows the object graph: children layer-<n> of each model, then the weight's own name.

    checkpoint: a tf.train checkpoint reader. objects: its TrackableObjectGraph. Reading either
    executes nothing.
    """
    weights: Weights = {}

    def child(node_id: int, name: str) -> int | None:
        children = objects.nodes[node_id].children
        return next((c.node_id for c in children if c.local_name == name), None)

    def variable(node_id: int, layer: Node, name: str) -> np.ndarray:
        for attribute in _SAVED_MODEL_NAMES.get(name, (name,)):
            found = child(node_id, attribute)
            if found is not None:
                for entry in objects.nodes[found].attributes:
                    if entry.name == "VARIABLE_VALUE":
                        return np.asarray(checkpoint.get_tensor(entry.checkpoint_key), np.float32)
        raise ModelError(f"{where}: the weights {name} of layer {layer.name!r} are missing")

    def walk(node_id: int, parent: Node, path: Path) -> None:
        number = 0
        for position, layer in enumerate(parent.children):
            if parent.class_name == "Sequential" and layer.class_name == "InputLayer":
                continue
            found = child(node_id, f"layer-{number}")
            number += 1
            names = weight_names(layer)
            if not names and not layer.is_model:
                continue
            below = (*path, position)
            if found is None:
                raise ModelError(f"{where}: the weights of layer {layer.name!r} are missing")
            if layer.is_model:
                walk(found, layer, below)
            else:
                weights[below] = [variable(found, layer, name) for name in names]

    walk(0, model, ())
    return weights
