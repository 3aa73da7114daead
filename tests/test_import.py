"""Every file format and family: the graph computes what the user's Keras model computes."""

from __future__ import annotations

import io
import json
import os
import shutil
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import zoo

from redsc import importer, ir, passes, tf_network
from redsc.errors import ModelError

SAMPLES = 4
TOLERANCE = 1e-4


def relative_error(actual: np.ndarray, wanted: np.ndarray) -> float:
    assert np.isfinite(actual).all()
    return float(np.abs(actual.reshape(wanted.shape) - wanted).max() / np.abs(wanted).max())


def assert_same_function(model, path: Path, name: str = "") -> importer.LoadedModel:
    """Graph, lowered graph and rebuilt reference against the model in memory."""
    loaded = importer.load(path)
    x = zoo.inputs(name, tuple(model.input_shape[1:]), SAMPLES)
    wanted = np.asarray(model(x, training=False))
    raw = x.reshape(SAMPLES, *loaded.graph.input.shape)
    assert relative_error(importer.reference_predict(loaded, x), wanted) <= 1e-6
    assert relative_error(tf_network.predict(loaded.graph, raw), wanted) <= TOLERANCE
    lowered = passes.lower(loaded.graph)
    assert relative_error(tf_network.predict(lowered, raw), wanted) <= TOLERANCE
    assert loaded.parameters == model.count_params()
    assert loaded.input_shape == tuple(model.input_shape[1:])
    assert loaded.output_shape == tuple(model.output_shape[1:])
    return loaded


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.ZOO)
def test_every_family_as_keras_2_hdf5(name: str, tmp_path: Path) -> None:
    model = zoo.ZOO[name]()
    model.save(tmp_path / "model.h5")
    assert assert_same_function(model, tmp_path / "model.h5", name).format == "Keras 2 HDF5"


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.ZOO)
def test_every_family_as_keras_3_archive(name: str, tmp_path: Path) -> None:
    model = zoo.ZOO[name](keras=zoo.keras3())
    model.save(tmp_path / "model.keras")
    assert assert_same_function(model, tmp_path / "model.keras", name).format == "Keras 3 archive"


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.ZOO)
def test_every_family_full_size(name: str, tmp_path: Path) -> None:
    model = zoo.ZOO[name]("full")
    model.save(tmp_path / "model.h5")
    assert_same_function(model, tmp_path / "model.h5", name)


FORMAT_FAMILIES = ("nested", "conv1d_causal", "norm_everywhere", "normalization_input")


@pytest.mark.parametrize("name", ["ds_cnn", "resnet8", "nested"])
def test_keras_3_archive(name: str, tmp_path: Path) -> None:
    model = zoo.ZOO[name](keras=zoo.keras3())
    model.save(tmp_path / "model.keras")
    assert assert_same_function(model, tmp_path / "model.keras", name).format == "Keras 3 archive"


@pytest.mark.parametrize("name", FORMAT_FAMILIES)
def test_keras_3_hdf5(name: str, tmp_path: Path) -> None:
    model = zoo.ZOO[name](keras=zoo.keras3())
    model.save(tmp_path / "model.h5")
    assert assert_same_function(model, tmp_path / "model.h5", name).format == "Keras 3 HDF5"


@pytest.mark.parametrize("name", FORMAT_FAMILIES)
def test_keras_2_archive(name: str, tmp_path: Path) -> None:
    model = zoo.ZOO[name]()
    model.save(tmp_path / "model.keras")
    assert assert_same_function(model, tmp_path / "model.keras", name).format == "Keras 2 archive"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nested", "normalization_input"])
def test_saved_model(name: str, tmp_path: Path) -> None:
    model = zoo.ZOO[name]()
    model.save(tmp_path / "saved", save_format="tf")
    loaded = assert_same_function(model, tmp_path / "saved", name)
    assert loaded.format == "Keras 2 SavedModel"


@pytest.mark.slow
def test_saved_model_with_metadata_inside_saved_model_pb(tmp_path: Path) -> None:
    """TensorFlow before 2.5 kept the configuration in the object graph."""
    model = zoo.ZOO["nested"]()
    model.save(tmp_path / "saved", save_format="tf")
    zoo.tensorflow()
    from tensorflow.core.protobuf import saved_model_pb2
    from tf_keras.protobuf import saved_metadata_pb2

    metadata_path, model_path = (
        tmp_path / "saved" / n for n in ("keras_metadata.pb", "saved_model.pb")
    )
    metadata = saved_metadata_pb2.SavedMetadata.FromString(metadata_path.read_bytes())
    saved = saved_model_pb2.SavedModel.FromString(model_path.read_bytes())
    root = saved.meta_graphs[0].object_graph_def.nodes[0]
    root.user_object.metadata = metadata.nodes[0].metadata
    model_path.write_bytes(saved.SerializeToString())
    metadata_path.unlink()
    assert_same_function(model, tmp_path / "saved")


def test_hdf5_under_the_name_keras(tmp_path: Path) -> None:
    model = zoo.ZOO["dense"]()
    model.save(tmp_path / "model.h5")
    shutil.move(tmp_path / "model.h5", tmp_path / "model.keras")
    assert assert_same_function(model, tmp_path / "model.keras").format == "Keras 2 HDF5"


@pytest.mark.parametrize("save", ["model.h5", "model.keras", "saved"])
def test_sequential_that_was_built_late(save: str, tmp_path: Path) -> None:
    keras = zoo.keras2()
    nn = keras.layers
    model = keras.Sequential([nn.Conv2D(4, 3, activation="relu"), nn.Flatten(), nn.Dense(3)])
    model.build((None, 6, 6, 2))
    model(np.zeros((1, 6, 6, 2), np.float32))
    model.save(tmp_path / save)
    assert_same_function(model, tmp_path / save)


@pytest.mark.slow
def test_sequential_around_a_functional_model(tmp_path: Path) -> None:
    keras = zoo.keras2()
    base = zoo.ZOO["separable"]()
    model = keras.Sequential([base, keras.layers.Dense(2)])
    for save in ("model.h5", "model.keras", "saved"):
        # Softmax in the middle is refused; the base's own head is cut off first.
        head = keras.Model(base.input, base.layers[-2].output, name="base")
        model = keras.Sequential([head, keras.layers.Dense(2)])
        model.save(tmp_path / save)
        assert_same_function(model, tmp_path / save)


@pytest.mark.parametrize("frozen", [False, True])
def test_nested_hdf5_whose_weights_keep_old_names(frozen: bool, tmp_path: Path) -> None:
    """Variables may be called anything: Keras's order tells them apart."""
    keras = zoo.keras2()
    nn = keras.layers
    x = source = keras.Input((6, 6, 4))
    for part in "ab":
        x = nn.Conv2D(4, 3, padding="same", name=f"conv_{part}")(x)
        x = nn.BatchNormalization(name=f"norm_{part}")(x)
    inner = keras.Model(source, x, name="inner")
    inner.layers[1].trainable = inner.layers[2].trainable = not frozen
    outside = keras.Input((6, 6, 4))
    model = keras.Model(outside, nn.Flatten()(inner(outside)))
    rng = np.random.default_rng(3)
    model.set_weights([rng.uniform(0.1, 1, w.shape) for w in model.get_weights()])
    model.save(tmp_path / "model.h5")
    with h5py.File(tmp_path / "model.h5", "r+") as file:
        group = file["model_weights/inner"]
        old = list(group.attrs["weight_names"])
        for number, name in enumerate(old):
            group.move(name, f"variable_{number}:0")
        group.attrs["weight_names"] = [f"variable_{number}:0" for number in range(len(old))]
    assert_same_function(model, tmp_path / "model.h5")


@pytest.mark.parametrize("keras_of", [zoo.keras2, zoo.keras3], ids=["keras2", "keras3"])
def test_activations_in_every_spelling(keras_of, tmp_path: Path) -> None:
    keras = keras_of()
    nn = keras.layers
    x = source = keras.Input((8, 8, 2))
    for activation in (
        nn.LeakyReLU(0.25),
        nn.ReLU(max_value=6),
        "relu6",
        "leaky_relu",
        None,
        "tanh",
    ):
        x = nn.Conv2D(3, 3, padding="same", activation=activation)(x)
    x = nn.ReLU(negative_slope=0.1)(x)
    x = nn.Activation("sigmoid")(x)
    x = nn.Softmax()(nn.Dense(3)(nn.Flatten()(x)))
    model = keras.Model(source, x)
    for save in ("model.h5", "model.keras"):
        model.save(tmp_path / save)
        loaded = assert_same_function(model, tmp_path / save)
        kinds = [type(op).__name__ for op in loaded.graph.ops]
        assert kinds.count("LeakyRelu") == 3
        assert kinds.count("Relu") == 2


@pytest.mark.parametrize("keras_of", [zoo.keras2, zoo.keras3], ids=["keras2", "keras3"])
def test_a_layer_without_weights_may_be_used_twice(keras_of, tmp_path: Path) -> None:
    keras = keras_of()
    nn = keras.layers
    relu, pool = nn.ReLU(), nn.MaxPooling2D(2)
    source = keras.Input((8, 8, 2))
    x = pool(relu(nn.Conv2D(3, 3, padding="same")(source)))
    x = pool(relu(nn.Conv2D(4, 3, padding="same")(x)))
    model = keras.Model(source, nn.Dense(3)(nn.Flatten()(x)))
    for save in ("model.h5", "model.keras"):
        model.save(tmp_path / save)
        assert_same_function(model, tmp_path / save)


def test_dense_on_positions_is_a_pointwise_convolution(tmp_path: Path) -> None:
    keras = zoo.keras2()
    nn = keras.layers
    model = keras.Sequential(
        [keras.Input((6, 3)), nn.Dense(5, activation="relu"), nn.Flatten(), nn.Dense(2)]
    )
    model.save(tmp_path / "model.h5")
    loaded = assert_same_function(model, tmp_path / "model.h5")
    assert isinstance(loaded.graph.ops[1], ir.Conv2D)
    assert loaded.graph.input.shape == (6, 1, 3)


def test_one_dimensional_layers(tmp_path: Path) -> None:
    keras = zoo.keras2()
    nn = keras.layers
    layers = [
        nn.ZeroPadding1D((2, 1)),
        nn.DepthwiseConv1D(3, strides=2, depth_multiplier=2, padding="same"),
        nn.SeparableConv1D(4, 3, padding="causal"),
        nn.AveragePooling1D(3, strides=2, padding="same"),
        nn.Conv1D(4, 3, dilation_rate=2), nn.GlobalMaxPooling1D(keepdims=True), nn.Reshape((4,)),
    ]  # fmt: skip
    model = keras.Sequential([keras.Input((24, 3)), *layers, nn.Dense(2)])
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(size=w.shape) for w in model.get_weights()])
    model.save(tmp_path / "model.h5")
    assert_same_function(model, tmp_path / "model.h5")


def test_image_without_channel_axis(tmp_path: Path) -> None:
    keras = zoo.keras2()
    nn = keras.layers
    model = keras.Sequential(
        [keras.Input((8, 8)), nn.Reshape((8, 8, 1)), nn.Conv2D(3, 3), nn.Flatten(), nn.Dense(2)]
    )
    model.save(tmp_path / "model.h5")
    assert_same_function(model, tmp_path / "model.h5")


@pytest.mark.parametrize("keras_of", [zoo.keras2, zoo.keras3], ids=["keras2", "keras3"])
def test_scalar_input_scaling_stays_scalar(keras_of, tmp_path: Path) -> None:
    keras = keras_of()
    nn = keras.layers
    adapted = nn.Normalization(axis=None)
    adapted.adapt(np.array([[1.0, 2.0], [4.0, 9.0]]))
    head = [nn.Conv2D(3, 3), nn.GlobalAveragePooling2D(), nn.Dense(2)]
    model = keras.Sequential([keras.Input((5, 5, 2)), nn.Rescaling(0.5, 0.25), adapted, *head])
    model.save(tmp_path / "model.h5")
    loaded = assert_same_function(model, tmp_path / "model.h5")
    assert isinstance(loaded.graph.ops[1], ir.Conv2D)
    deviation = np.std([1, 2, 4, 9])
    assert loaded.graph.input.rescale == pytest.approx(0.5 / deviation, rel=1e-6)
    assert loaded.graph.input.offset == pytest.approx((0.25 - 4) / deviation, rel=1e-6)


@pytest.mark.parametrize("keras_of", [zoo.keras2, zoo.keras3], ids=["keras2", "keras3"])
@pytest.mark.parametrize("save", ["model.h5", "model.keras"])
def test_adapted_normalization_is_absorbed_per_channel(keras_of, save: str, tmp_path: Path) -> None:
    keras = keras_of()
    nn = keras.layers
    adapted = nn.Normalization()
    adapted.adapt(np.random.default_rng(0).normal(size=(20, 5, 5, 3)) * (1.0, 3.0, 0.0) + (0, 9, 5))
    head = [nn.Conv2D(3, 3), nn.GlobalAveragePooling2D(), nn.Dense(2)]
    model = keras.Sequential([keras.Input((5, 5, 3)), adapted, *head])
    model.save(tmp_path / save)
    loaded = assert_same_function(model, tmp_path / save)
    assert isinstance(loaded.graph.ops[1], ir.Conv2D)
    assert loaded.graph.input.rescale == pytest.approx([1, 1 / 3, 1e7], rel=0.5)
    np.testing.assert_allclose(loaded.graph.input.raw(0.0), [0, 9, 5], atol=1)


def test_layers_that_do_nothing_leave_no_trace(tmp_path: Path) -> None:
    keras = zoo.keras2()
    nn = keras.layers
    inert = [nn.RandomFlip(), nn.GaussianNoise(0.1), nn.SpatialDropout2D(0.2), nn.Dropout(0.5)]
    model = keras.Sequential(
        [keras.Input((4, 4, 1)), *inert, nn.Flatten(), nn.Dense(2), nn.Dropout(0.1)]
    )
    model.save(tmp_path / "model.h5")
    loaded = assert_same_function(model, tmp_path / "model.h5")
    assert [type(op).__name__ for op in loaded.graph.ops] == ["Input", "Reshape", "Dense"]


def test_weight_names_split_over_attributes(tmp_path: Path) -> None:
    """Keras splits attributes above 64 KB."""
    model = zoo.ZOO["vgg"]()
    path = tmp_path / "model.h5"
    model.save(path)
    with h5py.File(path, "r+") as file:
        group = file["model_weights/conv2d"] if "conv2d" in file["model_weights"] else None
        group = group or next(
            g for g in file["model_weights"].values() if len(g.attrs["weight_names"])
        )
        names = group.attrs["weight_names"]
        del group.attrs["weight_names"]
        for number, name in enumerate(names):
            group.attrs[f"weight_names{number}"] = [name]
    assert_same_function(model, path)


def test_archive_without_metadata_and_compressed(tmp_path: Path) -> None:
    model = zoo.ZOO["dense"](keras=zoo.keras3())
    model.save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        parts = {n: archive.read(n) for n in ("config.json", "model.weights.h5")}
    with zipfile.ZipFile(tmp_path / "again.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    assert_same_function(model, tmp_path / "again.keras")


def test_same_bytes_same_digest(tmp_path: Path) -> None:
    model = zoo.ZOO["dense"]()
    model.save(tmp_path / "model.h5")
    shutil.copy(tmp_path / "model.h5", tmp_path / "copy.h5")
    digests = {importer.load(tmp_path / name).sha256 for name in ("model.h5", "copy.h5")}
    assert len(digests) == 1
    assert len(digests.pop()) == 64


def test_importing_redsc_importer_does_not_import_tensorflow() -> None:
    import subprocess
    import sys

    code = "import sys, redsc.importer, redsc.passes; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def shared_models() -> list[Path]:
    root = Path(__file__).resolve().parent.parent
    places = [root.parent / "shared" / "models"]
    if "REDSC_DATA" in os.environ:
        places.append(Path(os.environ["REDSC_DATA"]).resolve().parent / "models")
    return sorted(path for place in places for path in place.glob("*.h5"))


@pytest.mark.slow
def test_real_models() -> None:
    paths = shared_models()
    if not paths:
        pytest.skip("no real models beside the checkout (../shared/models)")
    for path in paths:
        loaded = importer.load(path)
        x = np.random.default_rng(0).normal(size=(8, *loaded.input_shape)).astype(np.float32)
        wanted = importer.reference_predict(loaded, x)
        lowered = passes.lower(loaded.graph)
        raw = x.reshape(8, *loaded.graph.input.shape)
        assert relative_error(tf_network.predict(lowered, raw), wanted) <= TOLERANCE
        if "kws" in path.name:
            assert loaded.parameters == 24908


def test_reference_never_sees_the_files_configuration(tmp_path: Path) -> None:
    """A lie in an inert option (an initializer that names code) neither harms nor gets through."""
    model = zoo.ZOO["dense"](keras=zoo.keras3())
    model.save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        config = json.loads(archive.read("config.json"))
        weights = archive.read("model.weights.h5")
    for layer in config["config"]["layers"]:
        if layer["class_name"] == "Dense":
            layer["config"]["kernel_initializer"] = {
                "module": "os", "class_name": "system", "config": {"command": "false"},
            }  # fmt: skip
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", weights)
    (tmp_path / "odd.keras").write_bytes(buffer.getvalue())
    assert_same_function(model, tmp_path / "odd.keras")


def test_negative_variance_is_a_message(tmp_path: Path) -> None:
    model = zoo.ZOO["tanh_output"]()
    norm = next(layer for layer in model.layers if "batch_norm" in layer.name)
    *others, variance = norm.get_weights()
    norm.set_weights([*others, variance * 0 - 1])
    model.save(tmp_path / "model.h5")
    with pytest.raises(ModelError, match=r"moving_variance.*square root"):
        importer.load(tmp_path / "model.h5")
