"""SavedModel directories of Keras 2: configuration from metadata, weights from variables.

TensorFlow's SavedModel loader, which would run the functions a directory contains, is never used:
protocol buffers are parsed and the checkpoint is read, nothing else.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from redsc.errors import ModelError
from redsc.importer import config, files, weights
from redsc.tf_network import tensorflow


def read_config(path: Path) -> Any:
    """The outermost model's configuration; ModelError when the directory has none."""
    text = _root_metadata(path)
    where = str(path)
    metadata = config.load_json(text, where) if text else {}
    raw = metadata.get("model_config") if isinstance(metadata, dict) else None
    if raw is None and isinstance(metadata, dict) and isinstance(metadata.get("config"), dict):
        raw = {"class_name": metadata.get("class_name"), "config": metadata["config"]}
    if raw is None:
        raise ModelError(
            f"{path}: this SavedModel has no Keras configuration (it was written by "
            "model.export(), by tf.saved_model.save or from a subclassed model): save the "
            "Keras model itself with model.save('model.keras') or model.save('model.h5') and give "
            "redsc that file"
        )
    shape = metadata.get("build_input_shape")
    if shape is not None and isinstance(raw.get("config"), dict):
        raw["config"].setdefault("build_input_shape", shape)
    return raw


def _root_metadata(path: Path) -> str:
    """JSON of the root object: keras_metadata.pb since TensorFlow 2.5, saved_model.pb before."""
    tensorflow()
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from tensorflow.core.protobuf import saved_model_pb2
    from tf_keras.protobuf import saved_metadata_pb2

    try:
        if (path / "keras_metadata.pb").is_file():
            metadata = saved_metadata_pb2.SavedMetadata()
            metadata.ParseFromString(files.read_bounded(path / "keras_metadata.pb"))
            roots = [node.metadata for node in metadata.nodes if node.node_path == "root"]
            return roots[0] if roots else ""
        model = saved_model_pb2.SavedModel()
        model.ParseFromString(files.read_bounded(path / "saved_model.pb", files.MAX_FILE_BYTES))
        graphs = [graph.object_graph_def.nodes for graph in model.meta_graphs]
        return graphs[0][0].user_object.metadata if graphs and graphs[0] else ""
    except DecodeError:
        raise ModelError(f"{path}: the SavedModel is damaged; save the model again") from None


def read_weights(path: Path, model: config.Node) -> weights.Weights:
    """Every layer's weights from variables/, by way of the checkpoint's object graph."""
    tf = tensorflow()
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import trackable_object_graph_pb2

    try:
        checkpoint = tf.train.load_checkpoint(str(path / "variables" / "variables"))
        sizes = [math.prod(shape) for shape in checkpoint.get_variable_to_shape_map().values()]
        if 4 * sum(sizes) > files.MAX_FILE_BYTES:
            raise ModelError(f"{path}: its variables claim more than {files.MAX_FILE_BYTES} bytes")
        objects = trackable_object_graph_pb2.TrackableObjectGraph()
        objects.ParseFromString(checkpoint.get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH"))
        return weights.from_checkpoint(checkpoint, objects, model, str(path))
    except (tf.errors.OpError, DecodeError, ValueError, RuntimeError, IndexError) as fault:
        raise ModelError(
            f"{path}: its variables/ folder is missing or damaged ({fault!s:.200}); copy the "
            "whole directory again"
        ) from None
