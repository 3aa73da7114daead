"""`redsc compile` and what follows it, through the command line, on a small real network."""

from __future__ import annotations

import csv
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import h5py
import numpy as np
import pytest
import zoo
from firmware_build import needs_emulator
from test_cli import run

from redsc import bench, cycles, oracle, verify
from redsc.errors import ToolchainError, UsageError
from redsc.progress import Progress
from redsc.report import read

pytestmark = pytest.mark.slow

LEVEL_KEYS = {
    "level", "budget_percent", "macs", "macs_percent", "widths", "parameters",
    "peak_activation_bytes", "arena_bytes", "accuracy_float", "accuracy_int8", "fidelity",
    "class_accuracy_float", "class_accuracy_int8", "calibration_float", "calibration_int8",
    "verified", "emulator", "estimated_latency_ms",
}  # fmt: skip
PROJECT = (
    "platformio.ini", "Makefile", "README.md", "src/main.cpp", "lib/reds/library.json",
    "tools/flash.py",
    "lib/model/model.h", "model.tflite", "levels/level_0.tflite", "levels/level_1.tflite",
    "report/report.json", "report/summary.csv", "report/layers.csv", "report/levels.png",
    "report/importance.csv", "report/importance.png",
)  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "net.h5"
    zoo.ZOO["ds_cnn"]("small").save(path)
    return path


@pytest.fixture(scope="module")
def built(model: Path) -> Path:
    """A build with two levels; tests that change it work on a copy."""
    directory = model.parent / "built"
    result = run("compile", model, "-o", directory, "--levels", "50,100")
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    return directory


def files(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def test_the_output_is_complete(built: Path, model: Path) -> None:
    for name in PROJECT:
        assert (built / name).is_file(), name
    report = json.loads((built / "report" / "report.json").read_text())
    assert report["schema_version"] == 1
    assert [level["level"] for level in report["levels"]] == [0, 1]
    for level in report["levels"]:
        assert set(level) >= LEVEL_KEYS
        assert level["accuracy_int8"] is None  # not measured is null
        assert 1 < level["estimated_latency_ms"] < 5
        assert set(level["verified"]) == {"tflm", "host", "emulator"}
        assert set(level["emulator"]) == {"instructions", "switch_instructions"}
        assert set(level["fidelity"]) == {"sqnr_db", "argmax_agreement"}
    assert set(report["flash"]) == {"weights_bytes", "tables_bytes", "code_bytes", "total_bytes"}
    kernels = report["kernels"]
    assert {"conv2d_one_product", "dense_proven"} <= set(kernels["by_op"].values())
    assert kernels["unproven_channels"] == {}
    assert kernels["fallbacks"] == []
    board = report["board"]
    assert (board["name"], board["flash_bytes"], board["ram_bytes"]) == (
        "nano33ble", 983_040, 262_144,
    )  # fmt: skip
    assert board["estimated_flash_used_bytes"] > report["flash"]["tables_bytes"] + 85_328
    assert board["estimated_ram_used_bytes"] > report["levels"][1]["arena_bytes"] + 47_112
    assert set(report["search"]) == {
        "budget", "solver", "seconds", "proven_optimal", "gap", "objective", "tables",
        "candidates",
    }  # fmt: skip
    assert report["search"]["objective"] == "harmonic"
    assert set(report["model"]) >= {"path", "sha256", "parameters", "macs"}
    assert any("accuracy is unmeasured" in warning for warning in report["warnings"])
    assert (built / "model.tflite").read_bytes() == (built / "levels/level_1.tflite").read_bytes()
    with (built / "report" / "summary.csv").open() as stream:
        assert [row["level"] for row in csv.DictReader(stream)] == ["0", "1"]
    for name in ("levels.png", "tradeoff.png"):
        assert (built / "report" / name).read_bytes().startswith(b"\x89PNG")


def test_switching_costs_the_same_at_every_level(built: Path) -> None:
    report = json.loads((built / "report" / "report.json").read_text())
    costs = {level["emulator"]["switch_instructions"] for level in report["levels"]}
    assert costs == {None} or (len(costs) == 1 and max(costs) <= 12)


def test_report_prints_what_compile_wrote(built: Path) -> None:
    assert json.loads(run("report", built, "--json").stdout) == json.loads(
        (built / "report" / "report.json").read_text()
    )
    text = run("report", built).stdout
    assert "bit-exact" in text
    assert re.search(r"^ +latency, estimate, ms +\d\.\d\d +\d\.\d\d *$", text, re.M)
    assert re.search(r"^Flash \[=* *\] +\d+\.\d % +[\d,]+ of 983,040 B  estimate$", text, re.M)
    assert re.search(r"^RAM   \[=* *\] +\d+\.\d % +[\d,]+ of 262,144 B  estimate$", text, re.M)
    assert "accuracy is unmeasured" in text
    assert ("same class as level" in run("report", built, "--classes").stdout) == (
        json.loads((built / "report/report.json").read_text())["agreement"]["argmax"] is not None
    )


def test_constant_units_go_and_the_report_says_so(tmp_path: Path) -> None:
    """In the network as in its proofs; rankings keep the numbers that the user's network has."""
    model, build = tmp_path / "dead.h5", tmp_path / "build"
    zoo.ZOO["dead_channels"]("small").save(model)
    result = run("compile", model, "-o", build, "--levels", "50,100", "-v")
    assert result.returncode == 0, result.stderr
    facts = json.loads((build / "report" / "report.json").read_text())
    model_facts, top = facts["model"], facts["levels"][-1]
    assert (model_facts["units"], model_facts["constant_units"]) == (16, 5)
    assert top["macs"] == model_facts["simplified_macs"] < model_facts["macs"]
    assert (top["macs_percent"], top["widths"]["dead_conv"]) == (100.0, 4)
    assert "5 of 16 units are constant and go" in result.stderr
    assert "5 of 16 are constant and gone" in result.stdout
    with (build / "report" / "importance.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["group"] == "dead_conv"]
    assert {int(row["unit"]) for row in rows} == {3, 4, 5, 6}
    again = run("verify", build)
    assert again.returncode == 0, again.stderr


def test_a_report_of_before_boards_and_classes_still_prints(built: Path, tmp_path: Path) -> None:
    (tmp_path / "report").mkdir()
    report = json.loads((built / "report" / "report.json").read_text())
    for key in ("board", "classes", "agreement"):
        del report[key]
    del report["search"]["budget"]
    for level in report["levels"]:
        del level["estimated_latency_ms"]
        for kind in ("float", "int8"):
            del level[f"class_accuracy_{kind}"], level[f"calibration_{kind}"]
    (tmp_path / "report" / "report.json").write_text(json.dumps(report))
    result = run("report", tmp_path)
    assert result.returncode == 0, result.stderr
    assert "bit-exact" in result.stdout
    assert "estimate" not in result.stdout
    result = run("report", tmp_path, "--classes")
    assert result.returncode == 2
    assert "compile with --data of classes" in result.stderr


def test_a_terminal_that_knows_ascii_alone_gets_a_report(
    built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    result = run("report", built)
    assert result.returncode == 0, result.stderr
    assert "bit-exact" in result.stdout


def test_verify_again_and_bench_change_nothing(built: Path) -> None:
    before = files(built)
    verdicts = json.loads(run("verify", built, "--json").stdout)
    assert len(verdicts["levels"]) == 2
    for level in verdicts["levels"]:
        assert all(level[rung] is not False for rung in verify.RUNG_NAMES)
    if all(shutil.which(tool) for tool in verify.EMULATOR_TOOLS):
        bench = json.loads(run("bench", built, "--emulator", "--json").stdout)
        assert bench["levels"][0]["instructions"] < bench["levels"][1]["instructions"]
        for level in bench["levels"]:
            assert level["estimated_cycles"] > level["instructions"]
            assert level["estimated_op_cycles"].keys() == level["ops"].keys()
    assert files(built) == before


@needs_emulator
def test_bench_without_cycles_counts_instructions(
    built: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cycles, "plugin", mock.Mock(side_effect=ToolchainError("no compiler")))
    found = bench.on_emulator(built, Progress())
    assert all(level["instructions"] > 0 for level in found["levels"])
    assert all(level["estimated_cycles"] is None for level in found["levels"])
    bench.print_table(found)
    text = capsys.readouterr().out
    assert text.startswith(bench.NOT_ESTIMATED)
    rows = dict(re.findall(r"^ +(\S.*?\S) {2,}(\S.*\S) *$", text, re.MULTILINE))
    assert rows["one inference, estimated cycles"].split() == ["–", "–"]
    counted = [f"{level['instructions']:,}" for level in found["levels"]]
    assert rows["one inference, instructions"].split() == counted


def test_a_damaged_weight_is_found_and_named(built: Path, tmp_path: Path) -> None:
    shutil.copytree(built, tmp_path / "damaged")
    source = tmp_path / "damaged" / "lib" / "model" / "model_weights.cc"
    text = source.read_text()
    first = re.search(r"^ *(-?\d+),", text, re.MULTILINE)
    assert first is not None
    wrong = (int(first[1]) + 128) % 127
    source.write_text(f"{text[: first.start(1)]}{wrong}{text[first.end(1) :]}")
    result = run("verify", tmp_path / "damaged")
    assert result.returncode == 7, result.stderr
    assert "level 0, layer" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("damage", ["cut", "flip", "other"])
def test_a_damaged_level_file_is_named(built: Path, tmp_path: Path, damage: str) -> None:
    shutil.copytree(built, tmp_path / "damaged")
    path = tmp_path / "damaged" / "levels" / "level_1.tflite"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x55
    cut = content[: len(content) // 3]
    other = (built / "levels" / "level_0.tflite").read_bytes()
    path.write_bytes({"cut": cut, "flip": content, "other": other}[damage])
    for command in (("verify",), ("bench", "--emulator")):
        result = run(command[0], tmp_path / "damaged", *command[1:])
        assert result.returncode == 7, result.stderr
        assert "level_1.tflite" in result.stderr


@pytest.mark.skipif(not oracle.available(), reason="tflite-micro is not installed")
def test_a_level_that_the_interpreter_refuses_is_named(built: Path) -> None:
    code = f"""
from pathlib import Path
from redsc import cli, oracle
oracle.ARENA_BYTES = 9000  # enough for its own records, not for tensors
cli.cli(["verify", {str(built)!r}], standalone_mode=False)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "VerificationError: level 0: the TFLite Micro interpreter refuses" in result.stderr


@pytest.mark.parametrize(
    "change",
    [
        lambda report: report.pop("levels"),
        lambda report: report.update(levels=[{}]),
        lambda report: report.update(search=None),
        lambda report: report["board"].update(ram_bytes="all"),
        lambda report: report["board"].pop("estimated_flash_used_bytes"),
        lambda report: report["levels"][1].update(macs="many"),
        lambda report: report["levels"][0].pop("level"),
        lambda report: report.update(warnings=7),
        lambda report: report.update(classes={"names": ["a"], "samples": [3]}),
        lambda report: report.update(agreement=[]),
    ],
)
def test_an_edited_report_is_refused_and_verify_needs_none(
    built: Path, tmp_path: Path, change: Callable[[dict], object]
) -> None:
    shutil.copytree(built, tmp_path / "edited")
    path = tmp_path / "edited" / "report" / "report.json"
    report = json.loads(path.read_text())
    change(report)
    path.write_text(json.dumps(report))
    with pytest.raises(UsageError, match=r"report\.json: not as redsc wrote it"):
        read(tmp_path / "edited")
    assert len(verify.read_levels(tmp_path / "edited")) == 2


def test_a_report_of_other_levels_is_no_basis_for_a_benchmark(built: Path, tmp_path: Path) -> None:
    shutil.copytree(built, tmp_path / "edited")
    path = tmp_path / "edited" / "report" / "report.json"
    report = json.loads(path.read_text())
    report["levels"].pop()
    report["agreement"]["argmax"] = None
    path.write_text(json.dumps(report))
    result = run("bench", tmp_path / "edited", "--emulator")
    assert result.returncode == 2, result.stderr
    assert "1 levels, 2 are there" in result.stderr


def test_weights_that_overflow_are_the_models_fault(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "huge.h5"
    shutil.copy(model, path)

    def enlarge(_: str, item: object) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim > 1:
            item[...] = np.full(item.shape, 3e38, np.float32)

    with h5py.File(path, "r+") as file:
        file.visititems(enlarge)
    result = run("compile", path, "-o", tmp_path / "build", "--no-verify")
    assert result.returncode == 3, result.stderr
    assert "overflow" in result.stderr
    assert not (tmp_path / "build").exists()


def test_the_same_input_gives_the_same_bytes(built: Path, model: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    result = run("compile", model, "-o", again, "--levels", "50,100", "--json")
    assert result.returncode == 0, result.stderr
    # stdout is JSON to its last byte, whatever the solver's library would like to say there
    assert json.loads(result.stdout) == json.loads((again / "report" / "report.json").read_text())
    ignored = {"report/report.json", ".redsc-manifest.json"}
    first, second = files(built), files(again)
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name] and name not in ignored] == []


def test_compiling_again_keeps_what_is_the_users(built: Path, model: Path, tmp_path: Path) -> None:
    directory = tmp_path / "build"
    shutil.copytree(built, directory)
    sketch = directory / "src" / "main.cpp"
    sketch.write_text("// mine\n")
    (directory / "src" / "sensor.h").write_text("// mine too\n")
    (directory / ".pio").mkdir()
    (directory / ".pio" / "object").write_text("built")
    result = run("compile", model, "-o", directory, "--levels", "50,100", "--no-verify")
    assert result.returncode == 0, result.stderr
    assert sketch.read_text() == "// mine\n"
    assert "set_level" in (directory / "src" / "main.cpp.new").read_text()
    assert (directory / "src" / "sensor.h").read_text() == "// mine too\n"
    assert (directory / ".pio" / "object").read_text() == "built"
    report = json.loads((directory / "report" / "report.json").read_text())
    assert report["levels"][0]["verified"] == {"tflm": None, "host": None, "emulator": None}
    assert report["flash"]["code_bytes"] is None


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--strict",), 2, "accuracy is unmeasured"),
        (("--max-ram-bytes", "64"), 4, "RAM"),
        (("--levels", "0.001,100"), 4, "at least"),
        (("--data", "none.npz"), 2, "none.npz"),
        (("--data", "nan.npz"), 2, "NaN"),
    ],
)
def test_failures_leave_the_previous_build_alone(
    built: Path, model: Path, tmp_path: Path, options: tuple[str, ...], code: int, message: str
) -> None:
    shutil.copytree(built, tmp_path / "build")
    x = np.full((64, 25, 10, 1), np.nan, np.float32)
    np.savez(tmp_path / "nan.npz", x=x, y=np.arange(64) % 2)
    before = files(tmp_path)
    result = run("compile", model, "-o", "build", *options, cwd=tmp_path)
    assert result.returncode == code, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert files(tmp_path) == before


def test_a_full_disk_leaves_the_previous_build_alone(
    built: Path, model: Path, tmp_path: Path
) -> None:
    shutil.copytree(built, tmp_path / "build")
    before = files(tmp_path)
    limit_bytes = 6000  # smaller than several of the files that compile writes
    result = subprocess.run(
        [sys.executable, "-m", "redsc", "compile", model, "-o", "build", "--no-verify"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "MPLCONFIGDIR": str(model.parent)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes)),
    )
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("stage", "number"),
    [
        ("search widths", signal.SIGINT),
        ("verify on the host", signal.SIGINT),
        ("measure accuracy", signal.SIGINT),
        ("verify on the emulator", signal.SIGTERM),
    ],
)
def test_an_interrupt_leaves_the_previous_build_alone(
    built: Path, model: Path, tmp_path: Path, stage: str, number: signal.Signals
) -> None:
    shutil.copytree(built, tmp_path / "build")
    before = files(tmp_path)
    temporary = tmp_path.with_name(f"{tmp_path.name}_temporary")
    temporary.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "redsc", "compile", model, "-o", "build"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary)},
    )
    assert process.stderr is not None
    for line in process.stderr:
        if stage in line:
            break
    time.sleep(0.3)
    process.send_signal(number)
    rest = process.stderr.read()
    assert process.wait(timeout=60) == 130, rest
    assert "Traceback" not in rest
    assert files(tmp_path) == before
    assert not list(temporary.iterdir())


@pytest.mark.parametrize(("flash_share", "ram_share"), [(0.75, 1.0), (0.9, 0.85)])
def test_limits_hold_for_the_real_plan(
    built: Path, model: Path, tmp_path: Path, flash_share: float, ram_share: float
) -> None:
    """Not only for the search's model of it: all tables with their structure, scratch included."""
    full = json.loads((built / "report" / "report.json").read_text())
    max_flash = int(flash_share * (full["flash"]["weights_bytes"] + full["flash"]["tables_bytes"]))
    max_ram = int(ram_share * full["levels"][-1]["arena_bytes"])
    limits = ("--max-flash-bytes", max_flash, "--max-ram-bytes", max_ram)
    result = run("compile", model, "-o", tmp_path / "build", "--no-verify", "--json", *limits)
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["flash"]["weights_bytes"] + report["flash"]["tables_bytes"] <= max_flash
    assert all(level["arena_bytes"] <= max_ram for level in report["levels"])
    told = [w for w in report["warnings"] if "RAM and flash" in w or "levels share" in w]
    assert told
    assert (report["search"]["tables"] == "per-level") == ("levels share" not in " ".join(told))
