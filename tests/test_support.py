"""Every rule is broken once, every refusal names all layers, and the document is in step."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import zoo

from redsc import importer, support
from redsc.errors import ModelError
from redsc.ir import Shape
from redsc.keras_network import Layer, Network
from redsc.keras_options import INERT_LAYERS, OPTIONS, ActivationSpec

ROOT = Path(__file__).resolve().parent.parent
IMAGE: Shape = (8, 8, 4)


def layer(class_name: str, *, inputs: tuple[str, ...] = ("x",), **fields: Any) -> Layer:
    names = {"origin", "dtype", "calls", "faults"} & set(fields)
    own = {name: fields.pop(name) for name in names}
    return Layer("it", class_name, inputs, fields, **own)


CONV = {"filters": 3, "kernel_size": (3, 3)}
BROKEN: list[tuple[Any, Layer, Sequence[Shape] | None]] = [
    (support.constraint_known_class, layer("LSTM"), None),
    (support.constraint_known_class, layer("Conv2D", origin="mine>Conv2D", **CONV), None),
    (support.constraint_well_formed, layer("Dense", faults=("option units = 0 …",)), None),
    (support.constraint_float32, layer("Dense", dtype="mixed_float16"), None),
    (support.constraint_float32, layer("InputLayer", inputs=(), dtype="string"), None),
    (support.constraint_input_count, layer("Add"), None),
    (support.constraint_input_count, layer("Dense", inputs=("a", "b")), None),
    (support.constraint_not_shared, layer("Dense", calls=2), None),
    (support.constraint_channels_last, layer("Flatten", data_format="channels_first"), None),
    (support.constraint_groups, layer("Conv2D", groups=2, **CONV), None),
    (support.constraint_padding, layer("Conv2D", padding="causal", **CONV), None),
    (support.constraint_padding, layer("Conv1D", padding="full"), None),
    (
        support.constraint_stride_or_dilation,
        layer("Conv2D", strides=(2, 2), dilation_rate=(2, 2), **CONV),
        None,
    ),
    (
        support.constraint_activation,
        layer("Dense", units=3, activation=ActivationSpec("gelu")),
        None,
    ),
    (support.constraint_relu, layer("ReLU", max_value=1.0), None),
    (support.constraint_relu, layer("ReLU", threshold=0.5), None),
    (support.constraint_relu, layer("ReLU", max_value=6.0, negative_slope=0.1), None),
    (support.constraint_not_inverted, layer("Normalization", invert=True), None),
    (support.constraint_input_shape, layer("InputLayer", inputs=(), shape=(None, 8, 1)), ()),
    (support.constraint_input_shape, layer("InputLayer", inputs=(), shape=(2, 2, 2, 2)), ()),
    (support.constraint_rank_2d, layer("Conv2D", **CONV), [(8, 4)]),
    (support.constraint_rank_1d, layer("MaxPooling1D", pool_size=(2,)), [IMAGE]),
    (support.constraint_channel_axis, layer("BatchNormalization", axis=(1,)), [IMAGE]),
    (support.constraint_normalization_axis, layer("Normalization", axis=(1, 2)), [IMAGE]),
    (support.constraint_constants, layer("Rescaling", scale=(1.0, 2.0)), [IMAGE]),
    (support.constraint_constants, layer("Normalization", variance=(1.0, -1.0)), [(2,)]),
    (support.constraint_equal_shapes, layer("Add", inputs=("a", "b")), [IMAGE, (1, 1, 4)]),
    (
        support.constraint_concatenate_shapes,
        layer("Concatenate", inputs=("a", "b"), axis=(-1,)),
        [IMAGE, (4, 4, 4)],
    ),
    (support.constraint_reshape, layer("Reshape", target_shape=(5, -1)), [IMAGE]),
    (support.constraint_reshape, layer("Reshape", target_shape=(2, 2, 2, 32)), [IMAGE]),
    (support.constraint_reshape, layer("Reshape", target_shape=(-1, -1)), [IMAGE]),
    (support.constraint_output_size, layer("Conv2D", **CONV), [(2, 2, 4)]),
    (
        support.constraint_output_size,
        layer("ZeroPadding2D", padding=((60000, 0), (60000, 0))),
        [IMAGE],
    ),
    (support.constraint_softmax_size, layer("Softmax"), [(512,)]),
]


@pytest.mark.parametrize(("rule", "broken", "inputs"), BROKEN)
def test_each_rule_refuses_and_explains(rule: Any, broken: Layer, inputs: Any) -> None:
    holds, found = rule(broken) if inputs is None else rule(broken, inputs)
    assert not holds
    assert found
    reason = support.explain(broken, inputs)
    assert reason is not None
    assert found in reason


def test_every_rule_is_tested_and_documented() -> None:
    rules = set(support.EVERY_LAYER)
    for layer_rules, shape_rules in support.RULES.values():
        rules |= {*layer_rules, *shape_rules}
    assert {rule for rule, _, _ in BROKEN} == rules
    assert all(rule.__doc__ for rule in rules)
    named = {value for name, value in vars(support).items() if name.startswith("constraint_")}
    assert named == rules


def test_every_readable_layer_has_rules() -> None:
    assert set(support.RULES) == {*OPTIONS, "InputLayer"}


def test_document_is_in_step() -> None:
    text = (ROOT / "SUPPORTED_OPS.md").read_text()
    assert text == support.markdown(), "run: python -m redsc.support > SUPPORTED_OPS.md"
    assert all(name in text for name in (*support.RULES, *INERT_LAYERS))


def test_network_rules() -> None:
    source = layer("InputLayer", inputs=(), shape=(4,))
    no_weights = Network("n", 2, (source,), ("it",), ("it",))
    assert "no convolution" in support.network_constraint_has_weights(no_weights)[0]
    several = Network("n", 2, (source,), ("a", "b"), ("c", "d"))
    assert len(support.network_constraint_one_input(several)) == 2
    softmax = Layer("s", "Softmax", ("x",), {"axis": (-1,)})
    dense = Layer("d", "Dense", ("s",), {"units": 2})
    middle = Network("n", 2, (softmax, dense), ("x",), ("d",))
    assert "last layer only" in support.network_constraint_softmax_last(middle)[0]


def save(model: Any, path: Path) -> Path:
    model.save(path)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        importer.load(path)
    assert caught.value.exit_code == 3
    return str(caught.value)


def test_all_offending_layers_in_one_message(tmp_path: Path) -> None:
    keras = zoo.keras2()
    nn = keras.layers
    x = source = keras.Input((16, 16, 4))
    x = nn.Conv2D(4, 3, groups=2, name="grouped")(x)
    x = nn.Conv2DTranspose(4, 3, name="up")(x)
    x = nn.Conv2D(4, 3, activation="gelu", name="smooth")(x)
    x = nn.Lambda(lambda t: t * 2, name="code")(x)
    x = x + 1.0
    x = nn.LSTM(3, name="memory")(nn.Reshape((-1, 4), name="fine")(x))
    model = keras.Model(source, [nn.Dense(2, name="one")(x), nn.Dense(2, name="two")(x)])
    message = refusal(save(model, tmp_path / "model.h5"))
    for name in ("grouped", "up", "smooth", "code", "memory", "tf.__operators__.add"):
        assert f"  - {name} (" in message
    assert "2 outputs (one, two)" in message
    assert "fine (" not in message
    assert "Supported layers: " in message


@pytest.mark.slow
@pytest.mark.parametrize("keras_of", [zoo.keras2, zoo.keras3], ids=["keras2", "keras3"])
def test_what_users_bring_and_redsc_refuses(keras_of: Any, tmp_path: Path) -> None:
    keras = keras_of()
    nn = keras.layers
    image = (8, 8, 3)
    dense = nn.Dense(4, name="shared")

    def model(*layers: Any, shape: Any = image) -> Any:
        return keras.Sequential([keras.Input(shape), *layers])

    def functional(build: Any, *shapes: Shape) -> Any:
        sources = [keras.Input(shape) for shape in shapes]
        return keras.Model(sources, build(*sources))

    cases = [
        (model(nn.Conv2D(2, 3), nn.GlobalMaxPooling2D(), shape=(None, None, 3)), "open shape"),
        (model(nn.MaxPooling2D(2, data_format="channels_last"), nn.Permute((2, 1, 3))), "Permute"),
        (model(nn.BatchNormalization(axis=1), nn.Conv2D(2, 3)), "axis is the channel axis"),
        (model(nn.Conv2D(2, 3, dtype="mixed_float16")), "mixed_float16"),
        (model(nn.Dense(4), nn.PReLU()), "PReLU"),
        (model(nn.ReLU(max_value=2.0), nn.Dense(2)), "max_value=2.0"),
        (model(nn.Softmax(axis=1), nn.Dense(2)), "axis is the channel axis"),
        (model(nn.Dense(3, activation="softmax"), nn.Dense(2)), "last layer only"),
        (model(nn.Flatten(), nn.Dense(512, activation="softmax")), "at most 511 values; here it"),
        (functional(lambda a: dense(dense(a)), (4,)), "is called 2 times"),
        (functional(lambda a, b: nn.Dense(1)(nn.Concatenate()([a, b])), (4,), (3,)), "2 inputs"),
        (functional(lambda a: nn.Dense(1)(nn.Multiply()([a, a])), (4,)), "squeeze-and-excite"),
        (
            functional(lambda a: nn.Concatenate(axis=1)([a, nn.Conv2D(3, 1)(a)]), image),
            "axis is the channel axis",
        ),
        (
            functional(lambda a: nn.Add()([a, nn.Conv2D(1, 1)(a)]), image),
            "no broadcasting",
        ),
        (functional(lambda a: nn.Dropout(0.5)(nn.Dense(2)(a), training=True), (4,)), "training"),
    ]
    for number, (built, pattern) in enumerate(cases):
        path = save(built, tmp_path / f"{number}.h5")
        assert pattern in refusal(path)


def test_flags_may_be_numbers(tmp_path: Path) -> None:
    """Keras takes 1 for True, and so does MLPerf Tiny's streaming wake word."""
    keras = zoo.keras2()
    nn = keras.layers
    layers = (nn.Input((4, 4, 2)), nn.Conv2D(3, 2, use_bias=0), nn.BatchNormalization(scale=1))
    loaded = importer.load(save(keras.Sequential(layers), tmp_path / "flags.h5"))
    assert [type(op).__name__ for op in loaded.graph.ops[1:]] == ["Conv2D", "BatchNormalization"]
    layers = (nn.Input((4, 4, 2)), nn.Conv2D(3, 2, use_bias=2))
    refused = refusal(save(keras.Sequential(layers), tmp_path / "two.h5"))
    assert "use_bias = 2 is not true or false" in refused


def test_keras_3_sum_of_two_tensors_is_an_add(tmp_path: Path) -> None:
    keras = zoo.keras3()
    nn = keras.layers
    source = keras.Input((6, 6, 3))
    x = nn.Conv2D(3, 3, padding="same")(source)
    model = keras.Model(source, nn.GlobalAveragePooling2D()(x + source))
    for name in ("model.h5", "model.keras"):
        loaded = importer.load(save(model, tmp_path / name))
        assert any(type(op).__name__ == "Add" for op in loaded.graph.ops)
    constant = keras.Model(source, nn.GlobalAveragePooling2D()(x + 1.0))
    assert "takes 1" in refusal(save(constant, tmp_path / "constant.keras"))


def test_subclassed_model(tmp_path: Path) -> None:
    keras = zoo.keras2()

    class Mine(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.dense = keras.layers.Dense(2)

        def call(self, x: Any) -> Any:
            return self.dense(x)

    model = Mine()
    model(zoo.np.zeros((1, 3), "float32"))
    model.save(tmp_path / "saved", save_format="tf")
    assert "subclassed" in refusal(tmp_path / "saved")


def test_names_are_safe_in_generated_code(tmp_path: Path) -> None:
    keras = zoo.keras3()
    layers = [keras.layers.Dense(3, name=name) for name in ("one", "two", "größe")]
    keras.Sequential([keras.Input((3,)), *layers], name="net").save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        config, weights = archive.read("config.json"), archive.read("model.weights.h5")
    evil = r"*/ system(\"x\") /*\n" + "a" * 500
    for name in ("one", "two", "net"):
        config = config.replace(f'"{name}"'.encode(), f'"{evil}{name}"'.encode())
    with zipfile.ZipFile(tmp_path / "evil.keras", "w") as archive:
        archive.writestr("config.json", config)
        archive.writestr("model.weights.h5", weights)
    loaded = importer.load(tmp_path / "evil.keras")
    names = [loaded.graph.name, *(op.name for op in loaded.graph.ops)]
    assert all(re.fullmatch(r"[A-Za-z0-9_./-]{1,130}", name) for name in names)
    assert names[2].startswith("_/_system__x")
    assert "gr__e" in names


def test_inputs_that_are_not_dense(tmp_path: Path) -> None:
    keras = zoo.keras2()
    model = keras.Sequential([keras.Input((3,), sparse=True), keras.layers.Dense(2)])
    assert "sparse inputs" in refusal(save(model, tmp_path / "model.h5"))


def test_custom_layer(tmp_path: Path) -> None:
    keras = zoo.keras3()

    @keras.saving.register_keras_serializable(package="mine")
    class Twice(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return x * 2

    model = keras.Sequential([keras.Input((3,)), Twice(name="twice"), keras.layers.Dense(2)])
    message = refusal(save(model, tmp_path / "model.keras"))
    assert "twice (Twice): a custom layer of 'mine>Twice'" in message
