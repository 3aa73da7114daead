"""Files that are broken or mean harm: one clear message, nothing executed, nothing unpacked."""

from __future__ import annotations

import copy
import importlib
import io
import json
import os
import random
import struct
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zoo

from redsc import importer
from redsc.errors import ModelError
from redsc.importer import hdf5 as hdf5_reader

load_module = importlib.import_module("redsc.importer.load")  # `importer.load` is the function


def refused(path: Path, pattern: str) -> None:
    with pytest.raises(ModelError, match=pattern) as caught:
        importer.load(path)
    assert str(path) in str(caught.value)
    assert caught.value.exit_code == 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def hdf5(folder: Path) -> bytes:
    zoo.ZOO["tanh_output"]().save(folder / "good.h5")
    return (folder / "good.h5").read_bytes()


@pytest.fixture(scope="module")
def archive(folder: Path) -> bytes:
    zoo.ZOO["tanh_output"](keras=zoo.keras3()).save(folder / "good.keras")
    return (folder / "good.keras").read_bytes()


def repacked(archive: bytes, **changes: bytes) -> bytes:
    """The archive with members replaced (`config_json=…`), deflated."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(archive)) as old,
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, changes.get(name.replace(".", "_"), old.read(name)))
    return buffer.getvalue()


# --- Not a model at all ---


def test_missing_file(tmp_path: Path) -> None:
    refused(tmp_path / "none.h5", "no such file")


@pytest.mark.parametrize(
    ("content", "pattern"),
    [
        (b"", "is empty"),
        (b"hello, world, this is text", "not a Keras model"),
        (b"\x1c\0\0\0TFL3 and more", "TensorFlow Lite"),
        (b"PK\x05\x06" + b"\0" * 18, "empty zip"),
        (b"\x89HDF\r\n\x1a\n", "damaged or incomplete"),
        (b"PK\x03\x04 and then nothing", "damaged or incomplete"),
    ],
)
def test_other_content(content: bytes, pattern: str, tmp_path: Path) -> None:
    (tmp_path / "model.h5").write_bytes(content)
    refused(tmp_path / "model.h5", pattern)


def test_directory_without_model(tmp_path: Path) -> None:
    refused(tmp_path, "without saved_model.pb")


def test_weights_only(tmp_path: Path) -> None:
    model = zoo.ZOO["dense"]()
    model.save_weights(tmp_path / "model.weights.h5")
    refused(tmp_path / "model.weights.h5", "weights only")


def test_hdf5_that_is_no_model(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["x"] = np.zeros(3)
    refused(tmp_path / "data.h5", "no Keras model")


def test_exported_saved_model(tmp_path: Path) -> None:
    zoo.ZOO["dense"](keras=zoo.keras3()).export(tmp_path / "exported", verbose=False)
    refused(tmp_path / "exported", "no Keras configuration")


@pytest.mark.parametrize("part", ["variables", "keras_metadata.pb", "saved_model.pb"])
def test_saved_model_with_damaged_parts(part: str, tmp_path: Path) -> None:
    zoo.ZOO["dense"]().save(tmp_path / "saved", save_format="tf")
    path = tmp_path / "saved" / part
    for file in path.iterdir() if path.is_dir() else [path]:
        file.write_bytes(file.read_bytes()[:40] + b"\xff\xff\xff")
    if part == "saved_model.pb":  # not read when there is keras_metadata.pb
        (tmp_path / "saved" / "keras_metadata.pb").unlink()
    refused(tmp_path / "saved", "damaged|readable JSON|no Keras configuration")


def test_file_without_permission_or_readable_content(tmp_path: Path) -> None:
    (tmp_path / "loop.h5").symlink_to(tmp_path / "loop.h5")
    refused(tmp_path / "loop.h5", "no such file|cannot be read")
    os.mkfifo(tmp_path / "pipe.h5")  # opening it would wait for a writer
    refused(tmp_path / "pipe.h5", "no ordinary file")


# --- Damaged ---


@pytest.mark.parametrize("part", [0.01, 0.2, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("kind", ["hdf5", "archive"])
def test_truncated(kind: str, part: float, request: Any, tmp_path: Path) -> None:
    data: bytes = request.getfixturevalue(kind)
    (tmp_path / "model").write_bytes(data[: int(len(data) * part)])
    refused(tmp_path / "model", "damaged or incomplete")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hdf5", "archive"])
def test_random_damage_never_ends_in_a_traceback(kind: str, request: Any, tmp_path: Path) -> None:
    data, path = request.getfixturevalue(kind), tmp_path / "model"
    rng = random.Random(kind)
    outcomes = []
    for _ in range(25):
        broken = bytearray(data)
        for _ in range(rng.choice((1, 4, 30))):
            broken[rng.randrange(8, len(broken))] = rng.randrange(256)
        path.write_bytes(broken)
        outcomes.append(outcome(path))
    assert any(outcomes)  # some damage was noticed


def outcome(path: Path) -> bool:
    """Whether a file is refused properly; any other exception fails the test."""
    try:
        importer.load(path)
    except ModelError:
        return True
    return False


ODD_VALUES = (
    None,
    -1,
    0,
    10**30,
    1.5,
    float("nan"),
    "x",
    [],
    {},
    [[]],
    [None, None],
    True,
    ["a", 0, 0],
)


@pytest.mark.parametrize("keras_of", [zoo.keras2, zoo.keras3], ids=["keras2", "keras3"])
def test_random_configurations_never_end_in_a_traceback(
    keras_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.h5"
    zoo.ZOO["nested"](keras=keras_of()).save(path)
    file = hdf5_reader.read_hdf5(path, str(path))
    root = file.attributes[""]
    config = json.loads(root["model_config"])
    rng = random.Random(1)
    refusals = 0
    for _ in range(150):
        broken = copy.deepcopy(config)
        for _ in range(rng.choice((1, 1, 3))):
            spoil(broken, rng)
        attributes = {**file.attributes, "": {**root, "model_config": json.dumps(broken)}}
        spoiled = replace(file, attributes=attributes)
        monkeypatch.setattr(load_module, "read_hdf5", lambda *_, spoiled=spoiled: spoiled)
        refusals += outcome(path)
    assert refusals > 30


def spoil(value: Any, rng: random.Random) -> None:
    """Replace or delete one value somewhere inside."""
    while isinstance(value, (dict, list)) and value:
        key = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
        if isinstance(value[key], (dict, list)) and value[key] and rng.random() < 0.9:
            value = value[key]
        elif rng.random() < 0.3:
            del value[key]
            return
        else:
            value[key] = copy.deepcopy(rng.choice(ODD_VALUES))
            return


# --- Code in the file ---


def test_lambda_in_hdf5_is_never_executed(tmp_path: Path) -> None:
    keras, trap = zoo.keras2(), tmp_path / "executed"

    def payload(x: Any, path: str = str(trap)) -> Any:
        open(path, "w").close()  # noqa: PTH123
        return x

    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Lambda(payload, name="evil"), keras.layers.Dense(2)]
    )
    model.save(tmp_path / "model.h5")
    assert trap.exists()  # Keras itself ran it while building: the trap works
    trap.unlink()
    refused(tmp_path / "model.h5", r"evil \(Lambda\): .*never run")
    assert not trap.exists()


def test_lambda_in_keras_3_archive_is_never_executed(tmp_path: Path) -> None:
    keras, trap = zoo.keras3(), tmp_path / "executed"

    def payload(x: Any, path: str = str(trap)) -> Any:
        open(path, "w").close()  # noqa: PTH123
        return x

    layer = keras.layers.Lambda(payload, output_shape=(4,), name="evil")
    model = keras.Sequential([keras.Input((4,)), layer, keras.layers.Dense(2)])
    model.save(tmp_path / "model.keras")
    trap.unlink(missing_ok=True)
    refused(tmp_path / "model.keras", r"evil \(Lambda\): .*never run")
    assert not trap.exists()


def test_class_names_are_never_imported(archive: bytes, tmp_path: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(archive)) as old:
        config = json.loads(old.read("config.json"))
    config["config"]["layers"][1] |= {
        "module": "os",
        "class_name": "system",
        "registered_name": "os>system",
    }
    path = tmp_path / "model.keras"
    path.write_bytes(repacked(archive, config_json=json.dumps(config).encode()))
    refused(path, r"\(system\): a custom layer of 'os>system'")


# --- Bombs ---


def test_archive_that_unpacks_to_far_more(archive: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    path.write_bytes(repacked(archive, model_weights_h5=bytes(32 << 20)))
    assert path.stat().st_size < 1 << 20
    refused(path, "times its size")


def test_archive_that_claims_a_huge_size(archive: bytes, tmp_path: Path) -> None:
    data = bytearray(repacked(archive))
    entry = data.index(b"PK\x01\x02")
    struct.pack_into("<I", data, entry + 24, (1 << 32) - 2)
    (tmp_path / "model.keras").write_bytes(data)
    refused(tmp_path / "model.keras", "claims to hold")


def test_archive_that_claims_too_small_a_size(archive: bytes, tmp_path: Path) -> None:
    data = bytearray(repacked(archive))
    entry = data.index(b"PK\x01\x02")
    struct.pack_into("<I", data, entry + 24, 10)
    (tmp_path / "model.keras").write_bytes(data)
    refused(tmp_path / "model.keras", "damaged|JSON")


def test_archive_with_members_missing(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.keras", "w") as new:
        new.writestr("saved_model/saved_model.pb", b"x")
    refused(tmp_path / "model.keras", r"without config\.json and model\.weights\.h5")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "{", "", "[]", "3", "1" * 5000])
def test_json_bombs(text: str, hdf5: bytes, archive: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.keras").write_bytes(repacked(archive, config_json=text.encode()))
    refused(tmp_path / "model.keras", "JSON|malformed")


def test_models_nested_without_end(archive: bytes, tmp_path: Path) -> None:
    config: dict[str, Any] = {"class_name": "Dense", "config": {"units": 1}}
    for _ in range(40):
        config = {"class_name": "Sequential", "config": {"layers": [config]}}
    (tmp_path / "m.keras").write_bytes(repacked(archive, config_json=json.dumps(config).encode()))
    refused(tmp_path / "m.keras", "nested more than")


def test_a_model_that_contains_itself_many_times(archive: bytes, tmp_path: Path) -> None:
    """Calls multiply through nested models: 8^12 layers from a small file."""

    def level(depth: int) -> dict[str, Any]:
        call = [[["i", 0, 0, {}]]]
        inner: dict[str, Any] = (
            level(depth - 1) if depth else {"class_name": "ReLU", "config": {"name": "r"}}
        )
        inner = {**inner, "name": "x", "inbound_nodes": call * 8}
        source = {"class_name": "InputLayer", "name": "i", "config": {"batch_shape": [None, 4]}}
        return {
            "class_name": "Functional",
            "config": {
                "name": "m", "layers": [source, inner], "input_layers": [["i", 0, 0]],
                "output_layers": [["x", 0, 0]],
            },
        }  # fmt: skip

    text = json.dumps(level(12)).encode()
    (tmp_path / "m.keras").write_bytes(repacked(archive, config_json=text))
    refused(tmp_path / "m.keras", "more than 4096 layers")


# --- HDF5's own ways out of the file ---


def with_kernel(path: Path, hdf5: bytes, replace: Any) -> None:
    path.write_bytes(hdf5)
    with h5py.File(path, "r+") as file:
        group = next(g for g in file["model_weights"].values() if len(g.attrs["weight_names"]) == 2)
        name = group.attrs["weight_names"][0]
        shape = group[name].shape
        del group[name]
        replace(group, name, shape)


def test_external_link(hdf5: bytes, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["secret"] = np.zeros((10, 8), np.float32)

    def link(group: Any, name: str, shape: Any) -> None:
        group[name] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/secret")

    with_kernel(tmp_path / "model.h5", hdf5, link)
    refused(tmp_path / "model.h5", "link to another place")


def test_soft_link(hdf5: bytes, tmp_path: Path) -> None:
    def link(group: Any, name: str, shape: Any) -> None:
        group[name] = h5py.SoftLink("/model_weights")

    with_kernel(tmp_path / "model.h5", hdf5, link)
    refused(tmp_path / "model.h5", "link to another place")


def test_external_storage(hdf5: bytes, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(10_000))

    def external(group: Any, name: str, shape: Any) -> None:
        where = [(str(tmp_path / "secret"), 0, h5py.h5f.UNLIMITED)]
        group.create_dataset(name, shape, np.float32, external=where)

    with_kernel(tmp_path / "model.h5", hdf5, external)
    refused(tmp_path / "model.h5", "kept in another file")


def test_virtual_dataset(hdf5: bytes, tmp_path: Path) -> None:
    def virtual(group: Any, name: str, shape: Any) -> None:
        layout = h5py.VirtualLayout(shape, np.float32)
        layout[...] = h5py.VirtualSource(str(tmp_path / "other.h5"), "x", shape)
        group.create_virtual_dataset(name, layout)

    with_kernel(tmp_path / "model.h5", hdf5, virtual)
    refused(tmp_path / "model.h5", "kept in another file")


@pytest.mark.parametrize("options", [{}, {"chunks": (1 << 10, 1 << 10), "compression": "gzip"}])
def test_huge_declared_shape(options: Any, hdf5: bytes, tmp_path: Path) -> None:
    def huge(group: Any, name: str, shape: Any) -> None:
        group.create_dataset(name, (1 << 20, 1 << 20), np.float32, **options)

    with_kernel(tmp_path / "model.h5", hdf5, huge)
    assert (tmp_path / "model.h5").stat().st_size < 1 << 20
    refused(tmp_path / "model.h5", "claim the shape")


def test_hdf5_library_that_crashes_or_hangs(
    hdf5: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.h5").write_bytes(hdf5)
    script = tmp_path / "script.py"
    monkeypatch.setattr(hdf5_reader, "_SCRIPT", script)
    script.write_text("import os; os.abort()")
    refused(tmp_path / "model.h5", "cannot get through")
    monkeypatch.setattr(hdf5_reader, "_MAX_SECONDS", 0.5)
    script.write_text("while True: pass")
    refused(tmp_path / "model.h5", "takes more than")


@pytest.mark.skipif(sys.platform != "linux", reason="memory is bounded on Linux only")
def test_text_that_claims_gigabytes(hdf5: bytes, tmp_path: Path) -> None:
    """A 36 KB file whose text attribute says it is 4 GB long, in a process of its own."""
    data = bytearray(hdf5)
    with h5py.File(io.BytesIO(hdf5)) as file:
        length = len(file.attrs["model_config"])
    places = [
        place
        for place in range(len(data) - 4)
        if struct.unpack_from("<I", data, place)[0] in (length, length + 1)
    ]
    assert places
    for place in places:
        struct.pack_into("<I", data, place, 0xFFFFFFF0)
    (tmp_path / "model.h5").write_bytes(data)
    code = """
import resource, sys
from redsc import importer, errors
try:
    importer.load(sys.argv[1])
except errors.ModelError as error:
    print(error)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "model.h5")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    message, megabytes = done.stdout.strip().rsplit("\n", 1)
    assert "damaged or incomplete" in message
    assert int(megabytes) < 2048


def test_weights_that_are_text(hdf5: bytes, tmp_path: Path) -> None:
    def text(group: Any, name: str, shape: Any) -> None:
        group[name] = np.array([b"abc"] * 4)

    with_kernel(tmp_path / "model.h5", hdf5, text)
    refused(tmp_path / "model.h5", "no numbers")


def test_weights_of_another_shape(hdf5: bytes, tmp_path: Path) -> None:
    def other(group: Any, name: str, shape: Any) -> None:
        group[name] = np.zeros((shape[0] + 1, shape[1]), np.float32)

    with_kernel(tmp_path / "model.h5", hdf5, other)
    refused(tmp_path / "model.h5", "does not fit together")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_diverged(value: float, hdf5: bytes, tmp_path: Path) -> None:
    def spoiled(group: Any, name: str, shape: Any) -> None:
        group[name] = np.full(shape, value, np.float32)

    with_kernel(tmp_path / "model.h5", hdf5, spoiled)
    refused(tmp_path / "model.h5", "NaN or infinity")


def test_attribute_that_is_no_text(hdf5: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.h5").write_bytes(hdf5)
    with h5py.File(tmp_path / "model.h5", "r+") as file:
        del file.attrs["model_config"]
        sequence = np.empty(1, dtype=object)
        sequence[0] = np.arange(3)
        file.attrs.create("model_config", sequence, dtype=h5py.vlen_dtype(np.int32))
    refused(tmp_path / "model.h5", "is no text")


def test_weights_missing(hdf5: bytes, tmp_path: Path) -> None:
    with_kernel(tmp_path / "model.h5", hdf5, lambda group, name, shape: None)
    refused(tmp_path / "model.h5", "are missing")
