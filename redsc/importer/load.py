"""One model file of any format, checked and converted: `load`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from redsc import ir, support
from redsc.errors import ModelError
from redsc.importer import config, files, flatten, saved_model, weights
from redsc.importer.convert import convert
from redsc.importer.hdf5 import Hdf5File, read_hdf5
from redsc.keras_network import Layer, Network, output_shape, weight_shapes

_ARCHIVE_MEMBERS = ("config.json", "metadata.json", "model.weights.h5")


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A user's network.

    graph: before passes.lower(). sha256: of the file, or of a SavedModel's files. parameters: as
    Keras's count_params(), statistics included. network: the checked configuration; its options
    are all that reference_model() uses. weights: by layer name, float32, in get_weights() order.
    format: 'Keras 2 HDF5', 'Keras 3 HDF5', 'Keras 2 archive', 'Keras 3 archive' or 'Keras 2
    SavedModel'. input_shape, output_shape: Keras's own, without batch axis (graph.input.shape has
    the same values, with a one-dimensional (time, channels) as (time, 1, channels)).
    """

    graph: ir.Graph
    sha256: str
    parameters: int
    network: Network
    weights: Mapping[str, tuple[np.ndarray, ...]]
    format: str
    input_shape: ir.Shape
    output_shape: ir.Shape
    warnings: tuple[str, ...] = ()

    @property
    def keras_version(self) -> int:
        return self.network.keras_version


def load(path: Path) -> LoadedModel:
    """Read, check and convert a Keras model; ModelError says what is wrong with the file.

    No Keras or SavedModel loader runs: configuration and weights are parsed as data, the
    configuration is checked completely first, and nothing in the file is executed.
    """
    path, where = Path(path), str(path)
    kind = files.detect_format(path)
    match kind:
        case "hdf5":
            network, stored = _read_hdf5(path, where)
        case "keras":
            network, stored = _read_archive(path, where)
        case _:
            node, network = _checked(saved_model.read_config(path), 2, where)
            stored = saved_model.read_weights(path, node)
    by_name = {layer.name: tuple(stored.get(layer.path, ())) for layer in network.layers}
    shapes = layer_shapes(network)
    _check_weights(network, by_name, shapes, where)
    names = {"hdf5": "HDF5", "keras": "archive", "saved_model": "SavedModel"}
    return LoadedModel(
        graph=convert(network, by_name, shapes),
        sha256=files.digest(path),
        parameters=sum(array.size for arrays in by_name.values() for array in arrays),
        network=network,
        weights=by_name,
        format=f"Keras {network.keras_version} {names[kind]}",
        input_shape=shapes[network.inputs[0]],
        output_shape=shapes[network.outputs[0]],
        warnings=_warnings(network, by_name),
    )


def _checked(raw: Any, keras_version: int, where: str) -> tuple[config.Node, Network]:
    """A configuration as a tree and as a network that redsc supports."""
    node = config.parse_model(raw, keras_version, where)
    network = flatten.flatten(node, keras_version, where)
    support.check(network, where)
    return node, network


def _read_hdf5(path: Path, where: str) -> tuple[Network, weights.Weights]:
    file = read_hdf5(path, where)
    text = file.text("model_config")
    if text is None:
        raise ModelError(_no_config(file, where))
    version = _keras_version(file.text("keras_version"), where)
    node, network = _checked(config.load_json(text, where), version, where)
    return network, weights.from_legacy_hdf5(file, node)


def _no_config(file: Hdf5File, where: str) -> str:
    if file.names() & {"layer_names", "layers", "_layer_checkpoint_dependencies", "vars"}:
        return (
            f"{where}: holds weights only, without the network they belong to; save the whole "
            "model with model.save(), not save_weights()"
        )
    return f"{where}: an HDF5 file, but no Keras model; save the model with model.save()"


def _read_archive(path: Path, where: str) -> tuple[Network, weights.Weights]:
    members = files.read_archive(path, _ARCHIVE_MEMBERS)
    missing = [name for name in ("config.json", "model.weights.h5") if name not in members]
    if missing:
        raise ModelError(
            f"{where}: a zip archive without {' and '.join(missing)}, so no .keras model; a zipped "
            "SavedModel must be unpacked first"
        )
    metadata = config.load_json(members.get("metadata.json", b"{}"), where)
    stated = metadata.get("keras_version") if isinstance(metadata, dict) else None
    version = _keras_version(stated if isinstance(stated, str) else "3", where)
    node, network = _checked(config.load_json(members["config.json"], where), version, where)
    file = read_hdf5(members["model.weights.h5"], where)
    return network, weights.from_archive_hdf5(file, node)


def _keras_version(text: str | None, where: str) -> int:
    """2 or 3 of '2.15.0', '2.2.4-tf', '3.0.5'; files that name none are Keras 2's."""
    major = (text or "2").split(".")[0]
    if major not in ("2", "3"):
        raise ModelError(
            f"{where}: written by Keras {text!s:.20}; redsc reads files of Keras 2 and 3: load the "
            "model there and save it again"
        )
    return int(major)


def layer_shapes(network: Network) -> dict[str, ir.Shape]:
    """Output shape of every layer of a supported network, in Keras's own axes."""
    shapes: dict[str, ir.Shape] = {}
    for layer in network.layers:
        shapes[layer.name] = output_shape(layer, [shapes[name] for name in layer.inputs])
    return shapes


def _check_weights(
    network: Network,
    by_name: Mapping[str, tuple[np.ndarray, ...]],
    shapes: Mapping[str, ir.Shape],
    where: str,
) -> None:
    for layer in network.layers:
        before = shapes[layer.inputs[0]] if layer.inputs else ()
        expected = weight_shapes(layer, before)
        found = [array.shape for array in by_name[layer.name]]
        if layer.class_name == "Normalization":  # Keras stores (channels,) or (1, …, channels)
            found = [_squeezed(shape, expected["mean"]) for shape in found[:2]] + found[2:]
        if found != list(expected.values()):
            raise ModelError(
                f"{where}: layer {layer.name!r} stores weights of shapes {found}, but its "
                f"configuration says {expected}; the file does not fit together"
            )
        for name, array in zip(expected, by_name[layer.name], strict=True):
            if not np.isfinite(array).all():
                raise ModelError(
                    f"{where}: the weights {name} of layer {layer.name!r} contain NaN or infinity; "
                    "the training that made them diverged"
                )
            epsilon = layer.options.get("epsilon", 1e-38)  # Normalization takes a zero variance
            if "variance" in name and array.min() + epsilon <= 0:
                raise ModelError(
                    f"{where}: the {name} of layer {layer.name!r} is {array.min():g}, which with "
                    "its epsilon has no square root to divide by"
                )


def _squeezed(shape: ir.Shape, expected: ir.Shape) -> ir.Shape:
    return tuple(n for n in shape if n != 1) if shape != expected and expected != (1,) else expected


def _warnings(network: Network, by_name: Mapping[str, Any]) -> tuple[str, ...]:
    def unadapted(layer: Layer) -> bool:
        arrays = by_name[layer.name]
        own = layer.class_name == "Normalization" and len(arrays) == 3
        return own and not arrays[0].any() and bool((arrays[1] == 1).all())

    return tuple(
        f"layer {layer.name!r} (Normalization) was never adapted to data and changes nothing"
        for layer in network.layers
        if unadapted(layer)
    )
