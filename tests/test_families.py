"""Every family, every level, every rung: compile without data, verify bit for bit.

Small shapes here; `make verify-all` runs the full-size networks (marker full).
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest
import zoo

from redsc import config, oracle, pipeline, tf_network, toolchain, verify
from redsc.progress import Progress

DATA = Path(os.environ.get("REDSC_DATA", Path(__file__).parents[2] / "shared" / "data"))
MODELS = DATA.parent / "models"
PUBLISHED = ("mlperf_tiny_kws.h5", "mlperf_tiny_ad01.h5")
FORMATS = {"keras2.keras": 2, "keras3.keras": 3, "keras3.h5": 3}
"""Suffix of the file and the Keras that writes it."""


def expected_verdict() -> dict[str, bool | None]:
    """What can be proved with the tools of this machine."""
    host = toolchain.find("g++") is not None
    emulator = all(toolchain.find(tool) for tool in verify.EMULATOR_TOOLS)
    rungs = {"tflm": oracle.available(), "host": host, "emulator": emulator}
    comparable = sum(rungs.values()) > 1
    return {name: True if there and comparable else None for name, there in rungs.items()}


@pytest.fixture(autouse=True)
def as_many_inputs_on_the_emulator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "EMULATOR_INPUTS", verify.HOST_INPUTS)


def check_litert_runs(build: Path, levels: int) -> None:
    tf = tf_network.tensorflow()
    for number in range(levels):
        path = build / "levels" / f"level_{number}.tflite"
        interpreter = tf.lite.Interpreter(model_content=path.read_bytes())
        interpreter.allocate_tensors()
        interpreter.invoke()


def compile_and_check(model: Path, output: Path) -> dict:
    result = pipeline.compile_model(config.CompileOptions(model=model, output=output), Progress())
    assert result["levels"], result["warnings"]
    for level in result["levels"]:
        assert level["verified"] == expected_verdict()
        assert level["macs_percent"] <= level["budget_percent"]
    for narrow, wide in itertools.pairwise(result["levels"]):
        assert all(narrow["widths"][g] <= wide["widths"][g] for g in wide["widths"])
        assert narrow["macs"] < wide["macs"]
    assert result["levels"][-1]["macs"] == result["model"]["simplified_macs"]
    assert result["model"]["import_error"] <= pipeline.FAITHFUL_LIMIT
    check_litert_runs(output, len(result["levels"]))
    return result


@pytest.mark.slow
@pytest.mark.parametrize("family", zoo.ZOO)
def test_small(family: str, tmp_path: Path) -> None:
    model = tmp_path / f"{family}.h5"
    zoo.ZOO[family]("small").save(model)
    compile_and_check(model, tmp_path / "build")


@pytest.mark.full
@pytest.mark.parametrize("family", zoo.ZOO)
def test_full_size(family: str, tmp_path: Path) -> None:
    model = tmp_path / f"{family}.h5"
    zoo.ZOO[family]("full").save(model)
    compile_and_check(model, tmp_path / "build")


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_published(name: str, tmp_path: Path) -> None:
    model = MODELS / name
    if not model.is_file():
        pytest.skip(f"{model} is not there (REDSC_DATA names the data folder beside it)")
    result = compile_and_check(model, tmp_path / "build")
    assert len(result["levels"]) == 4
    for level in result["levels"]:
        assert level["macs_percent"] >= 0.97 * level["budget_percent"]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", FORMATS)
def test_formats(suffix: str, tmp_path: Path) -> None:
    model = tmp_path / f"resnet_{suffix}"
    keras = zoo.keras3() if FORMATS[suffix] == 3 else zoo.keras2()
    network = zoo.ZOO["resnet8"]("small", keras)
    if suffix == "keras2.keras":  # HDF5 under the other name
        network.save(tmp_path / "model.h5")
        (tmp_path / "model.h5").rename(model)
    else:
        network.save(model)
    compile_and_check(model, tmp_path / "build")
