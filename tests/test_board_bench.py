"""`redsc bench --port`: what is measured, compared, printed and written.

Anything that speaks docs/serial-protocol.md may stand at the port; here it is tests/fake_board.py.
"""

from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zoo
from fake_board import FakeBoard, Fault, Level, ProtocolError, Slowly, lost, plugged_in, unplugged
from test_cli import run

from redsc import (
    bench_files,
    board_answers,
    board_bench,
    golden,
    oracle,
    output,
    runner,
    serial_line,
    serial_records,
    tflite,
    toolchain,
    verify,
)
from redsc.errors import RedscError, ToolchainError, UsageError, VerificationError
from redsc.golden import Golden
from redsc.progress import Progress

SILENCE = 0.5
STEPS = ("conv", "pool", "dense")
INPUT_BYTES, OUTPUT_BYTES = 70, 9


# ------------------------------------------------------- the flow, with a network of hash functions


def tensors(level: int, content: bytes) -> list[bytes]:
    return [
        zlib.crc32(bytes([level, step]) + content).to_bytes(4, "big") * 2 + b"!"
        for step in range(len(STEPS))
    ]


@pytest.fixture
def build() -> Golden:
    inputs = np.random.default_rng(0).integers(-128, 128, (4, INPUT_BYTES, 1), dtype=np.int8)
    inputs[0] = golden.pattern((INPUT_BYTES, 1))
    outputs = [[tensors(level, x.tobytes())[-1] for x in inputs] for level in range(2)]

    def step_crcs(level: int, sample: int) -> tuple[int, ...]:
        return tuple(zlib.crc32(step) for step in tensors(level, inputs[sample].tobytes()))

    proven = np.array([[list(output) for output in level] for level in outputs], np.uint8)
    return Golden(0xBEEF, STEPS, inputs, proven.view(np.int8), step_crcs)


def board(**options: Any) -> FakeBoard:
    levels = {
        level: Level(lambda content, level=level: tensors(level, content), (100, 20, 7))
        for level in range(2)
    }
    return FakeBoard(levels, INPUT_BYTES, OUTPUT_BYTES, model_crc=0xBEEF, **options)


def wrong(
    fake: FakeBoard, level: int, from_step: int, is_wrong: Callable[[bytes], bool]
) -> FakeBoard:
    """The board with a level whose steps, beginning with one, are wrong for some inputs."""
    right = fake.levels[level]

    def steps(content: bytes) -> list[bytes]:
        return [
            bytes(reversed(step)) if number >= from_step and is_wrong(content) else step
            for number, step in enumerate(right.steps(content))
        ]

    fake.levels = {**fake.levels, level: replace(right, steps=steps)}
    return fake


def measured(fake: FakeBoard, build: Golden, samples: int = 2) -> tuple:
    with plugged_in(fake) as port, serial_line.connect(port, SILENCE) as line:
        info = line.ask("info", board_answers.read_info)
        board_bench.check_board(info, build, port)
        figures = board_bench.measure(line, info, build, Progress())
        board_bench.compare(line, build, samples, Progress())
    return figures


def test_every_level_is_measured_and_compared(build: Golden) -> None:
    fake = board()
    figures = measured(fake, build, samples=3)
    assert [level.steps for level in figures] == [(100, 20, 7)] * 2
    assert [level.inference.median for level in figures] == [135] * 2
    chunks = [command for command in fake.commands if command.startswith("input")]
    assert len(chunks) == 3 * 2 * 3  # samples, levels, chunks
    assert len(chunks[2].split()[2]) == 2 * (INPUT_BYTES % 32)
    assert all(len(command) <= 120 for command in fake.commands)
    assert fake.commands.count("run 1") == 6


def test_no_samples_is_the_pattern_alone(build: Golden) -> None:
    fake = board()
    measured(fake, build, samples=0)
    assert fake.commands == ["info", "bench"]


@pytest.mark.parametrize("where", ["^time level=0", "^crc level=1", "^input offset=32", "^level"])
def test_lost_lines_are_mended(build: Golden, where: str) -> None:
    fake = board()
    with plugged_in(fake) as port, serial_line.connect(port, SILENCE) as line:
        fake.wire = Fault(where, lost, times=2)
        board_bench.compare(line, build, 1, Progress())
    assert len(fake.commands) > 2 * (1 + 3 + 1)


def test_an_inference_whose_answer_is_lost_gets_its_input_again(build: Golden) -> None:
    fake = board(wire=Fault("^ok command=run", lost))
    with plugged_in(fake) as port, serial_line.connect(port, SILENCE) as line:
        board_bench.compare(line, build, 1, Progress())
    words = [command.split()[0] for command in fake.commands]
    assert words[:9] == ["level", *["input"] * 3, "run", *["input"] * 3, "run"]


def test_commands_that_are_damaged_on_their_way_do_no_harm(build: Golden) -> None:
    """Commands have no sum: these arrive as other valid ones."""

    class Mishearing(FakeBoard):
        def answer(self, command: str) -> None:
            wrong = {"input 64": "input 0", "level 0": "level 1", "level 1": "level 7"}
            for said, heard in wrong.items():
                if command.startswith(said) and said not in misheard:
                    misheard.append(said)
                    command = command.replace(said, heard)
                    break
            super().answer(command)

    misheard: list[str] = []
    fake = board()
    fake.__class__ = Mishearing
    with plugged_in(fake) as port, serial_line.connect(port, SILENCE) as line:
        board_bench.compare(line, build, 1, Progress())
    assert sorted(misheard) == ["input 64", "level 0", "level 1"]
    assert fake.commands.count("run 1") == 3  # one had wrong bytes in the input's first place


def test_a_run_that_never_comes_whole_is_given_up(build: Golden) -> None:
    fake = board(wire=Fault("^crc", lost, times=99))
    with (
        plugged_in(fake) as port,
        serial_line.connect(port, SILENCE) as line,
        pytest.raises(ToolchainError, match="'run 1' 3 times; the last time 1 of the answer's"),
    ):
        board_bench.compare(line, build, 1, Progress())
    assert fake.commands.count("run 1") == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_crc": 0xBAD}, "CRC of its model is 00000bad, of this build's 0000beef"),
        ({"input_bytes": 71}, "input bytes of its model is 71"),
        ({"output_bytes": 8}, "output bytes"),
        ({"levels": {0: Level(lambda content: [], (1, 2, 3))}}, "number of levels"),
        ({"levels": dict.fromkeys((0, 1), Level(lambda content: [], (1,)))}, "number of steps"),
    ],
)
def test_another_build_is_not_measured(build: Golden, options: dict, message: str) -> None:
    fake = board()
    for name, value in options.items():
        setattr(fake, name, value)
    with pytest.raises(UsageError, match=message):
        measured(fake, build)
    assert fake.commands == ["info"]


@pytest.mark.parametrize("first", range(len(STEPS)))
def test_a_wrong_output_names_level_and_layer(build: Golden, first: int) -> None:
    fake = wrong(board(), 1, first, lambda content: True)
    with pytest.raises(VerificationError) as caught:
        measured(fake, build)
    assert str(caught.value).startswith(f"level 1, layer '{STEPS[first]}': the board's output")
    assert "the pattern" in str(caught.value)


def test_an_output_that_is_wrong_for_one_input_is_found(build: Golden) -> None:
    second = build.inputs[2].tobytes()
    fake = wrong(board(), 0, 1, lambda content: content == second)
    with pytest.raises(VerificationError, match=r"level 0, layer 'pool'.* verification input 2 "):
        measured(fake, build)
    measured(wrong(board(), 0, 1, lambda content: content == second), build, samples=1)


def test_what_cannot_be_traced_is_told_without_a_layer(build: Golden) -> None:
    untraced = replace(build, step_crcs=lambda level, sample: None)
    with pytest.raises(VerificationError, match=r"^level 0: the board's output"):
        measured(wrong(board(), 0, 0, lambda content: True), untraced)
    fake = wrong(board(wire=Fault("^step .*crc", lost, times=99)), 0, 0, lambda content: True)
    with pytest.raises(VerificationError, match=r"^level 0: the board's output"):
        measured(fake, build)


def test_an_input_that_changes_on_the_board_is_told_from_a_wrong_output(build: Golden) -> None:
    changed = replace(build, inputs=build.inputs.copy())
    changed.inputs[0, 5] ^= 1
    with pytest.raises(VerificationError, match="level 0: the board's input has CRC"):
        measured(board(), changed)


def test_an_arena_that_is_lent_out_is_told(build: Golden) -> None:
    class Lent(FakeBoard):
        def do_level(self, level: str | None = None) -> None:
            assert level is not None
            self.level_asked = 0
            self.record("level", {}, requested=level, next=0, used=0)

    fake = board()
    fake.__class__ = Lent
    with pytest.raises(ToolchainError, match="asked for level 1 the board takes level 0"):
        measured(fake, build)


# --------------------------------------------------------------------------- figures as JSON


def summary(unit: str, hz: int, build: Golden, **changes: object) -> dict[str, Any]:
    figures = measured(board(unit=unit, hz=hz), build)
    known = [
        {
            "level": level, "budget_percent": 50.0 * (level + 1), "macs": 1000 * (level + 1),
            "accuracy_float": 0.9, "accuracy_int8": 0.875 + 0.1 * level,
            "fidelity": {"sqnr_db": 20.0, "argmax_agreement": 1.0},
            "emulator": {"instructions": 120, "switch_instructions": 5}, **changes,
        }
        for level in range(2)
    ]  # fmt: skip
    info = board_answers.Board(
        "nano", "standalone", build.model_crc, 2, 3, INPUT_BYTES, OUTPUT_BYTES, 100, 90, unit, hz
    )
    result = {"model": {"path": "somewhere/net.h5"}, "levels": known}
    return bench_files.summarize(result, build, info, figures, 3)


@pytest.mark.parametrize(
    ("unit", "hz", "us", "expected"),
    [
        ("cycles", 64_000_000, 135 / 64, {"inference, µs": "2.109", "switch, cycles": "14"}),
        ("ns", 0, 0.135, {"inference, µs": "0.135", "switch, µs": "0.014"}),
        ("ns", 10**9, 0.135, {"inference, µs": "0.135"}),
        ("instructions", 0, None, {"inference, instructions": "135"}),
    ],
)
def test_times_are_in_seconds_where_there_is_a_clock(
    build: Golden, unit: str, hz: int, us: float | None, expected: dict[str, str]
) -> None:
    bench = summary(unit, hz, build)
    assert bench_files.microseconds(bench, 135) == us
    table = {name: cells for name, *cells in bench_files.rows(bench)}
    for name, value in expected.items():
        assert table[name] == [value, value]
    assert table["accuracy, int8"] == ["87.50 %", "97.50 %"]
    assert table["emulator: instructions"] == ["120", "120"]
    rows = list(csv.DictReader(bench_files.csv_text(bench).splitlines()))
    assert [row["level"] for row in rows] == ["0", "1"]
    assert rows[0]["model"] == "net.h5"
    assert rows[0]["inference_median"] == "135"
    assert rows[0]["inference_median_us"] == ("" if us is None else str(round(us, 3)))
    bench_files.print_tables(bench)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"accuracy_int8": None, "accuracy_float": None},
        {
            "accuracy_int8": None,
            "accuracy_float": None,
            "fidelity": {"sqnr_db": None, "argmax_agreement": None},
            "emulator": {"instructions": None, "switch_instructions": None},
        },
    ],
)
def test_files_are_written_together_or_not_at_all(
    build: Golden, tmp_path: Path, changes: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = summary("cycles", 64_000_000, build, **changes)
    directory = tmp_path / "build"
    directory.mkdir()
    folder = bench_files.save(directory, bench)
    names = {"bench.json", "bench.csv", "tradeoff.png", "ops.png"}
    assert {path.name for path in folder.iterdir()} == names
    assert json.loads((folder / "bench.json").read_text()) == bench
    assert bench["model_crc"] == "0000beef"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    bench_files.save(directory, bench)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before

    real = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if "ops.png" in path.name:
            raise OSError(28, "No space left on device", str(path))
        return real(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UsageError, match="No space left"):
        bench_files.save(directory, {**bench, "board": "another"})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    with pytest.raises(UsageError, match="No space left"):
        bench_files.save(tmp_path, bench)
    assert [path.name for path in tmp_path.iterdir()] == ["build"]


# ------------------------------------------------------------------------ through the command line


def compile_small(folder: Path, levels: str = "50,100") -> Path:
    """A build with two levels."""
    zoo.keras2().backend.clear_session()  # layers are named anew, whatever was built before
    zoo.ZOO["ds_cnn"]("small").save(folder / "net.h5")
    result = run("compile", folder / "net.h5", "-o", folder / "built", "--levels", levels)
    assert result.returncode == 0, result.stderr
    return folder / "built"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tests that change it work on a copy."""
    return compile_small(tmp_path_factory.mktemp("bench"))


def board_of(directory: Path, **options: Any) -> FakeBoard:
    """A board that knows the answers to the build's verification inputs."""
    tflites = verify.read_levels(directory)
    interface = tflite.interface(tflites)
    inputs = verify.read_inputs(directory, interface)
    if oracle.available():
        answers = [
            verify.interpret(level, data, inputs, interface) for level, data in enumerate(tflites)
        ]
    else:
        program = toolchain.build(directory, "verify_native").program
        runs = runner.run_host(program, interface, inputs, trace=True)
        answers = [run.tensors for run in runs]

    def steps(level: int) -> Callable[[bytes], list[bytes]]:
        known = {
            x.tobytes(): [answers[level][step.name][sample].tobytes() for step in interface.steps]
            for sample, x in enumerate(inputs)
        }
        return lambda content: known[content]

    times = [1000 + 10 * step for step in range(len(interface.steps))]
    levels = {level: Level(steps(level), times) for level in range(len(tflites))}
    crc = zlib.crc32((directory / "model.tflite").read_bytes())
    return FakeBoard(levels, interface.input_bytes, interface.output_bytes, crc, **options)


@contextmanager
def a_board(directory: Path, **options: Any) -> Iterator[tuple[FakeBoard, str]]:
    fake = board_of(directory, **options)
    with plugged_in(fake) as port:
        yield fake, port


def files(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def check_bench(directory: Path, port: str) -> dict[str, Any]:
    """Measures whatever stands at a port, through the command line, twice."""
    before = files(directory)
    result = run("bench", directory, "--port", port)
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    for part in ("inference", "first after a switch", "switch", "RAM arena", "emulator"):
        assert part in result.stdout
    assert f"wrote {directory / 'bench'}" in result.stdout
    again = run("bench", directory, "--port", port, "--json", "--samples", "3")
    assert again.returncode == 0, again.stderr
    bench = json.loads(again.stdout)
    assert bench == json.loads((directory / "bench" / "bench.json").read_text())
    assert bench["inputs_compared"] == 4
    assert int(bench["model_crc"], 16) == zlib.crc32((directory / "model.tflite").read_bytes())
    report = json.loads((directory / "report" / "report.json").read_text())
    steps = {step.name for step in tflite.interface(verify.read_levels(directory)).steps}
    for known, level in zip(report["levels"], bench["levels"], strict=True):
        assert level["macs"] == known["macs"]
        assert set(level["ops"]) == steps
        for name in ("inference", "first_inference", "switch"):
            assert level[name]["min"] <= level[name]["median"] <= level[name]["max"]
    for name in ("tradeoff.png", "ops.png"):
        assert (directory / "bench" / name).read_bytes().startswith(b"\x89PNG")
    after = files(directory)
    assert {name: after[name] for name in before} == before
    return bench


@pytest.mark.slow
def test_compile_stores_what_a_board_must_answer(built: Path) -> None:
    build = golden.read(built)
    assert build.inputs.shape[0] == verify.HOST_INPUTS
    assert (build.inputs[0] == golden.pattern(build.inputs.shape[1:])).all()
    assert build.outputs.shape[:2] == (2, verify.HOST_INPUTS)
    with a_board(built) as (fake, _):
        for level in range(2):
            for sample in (0, 7, 49):
                content = build.inputs[sample].tobytes()
                steps = fake.levels[level].steps(content)
                assert zlib.crc32(steps[-1]) == build.output_crc(level, sample)
                assert tuple(map(zlib.crc32, steps)) == build.step_crcs(level, sample)


@pytest.mark.slow
@pytest.mark.skipif(toolchain.find("g++") is None, reason="g++ is not installed")
def test_layers_are_known_without_the_interpreter(
    built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = golden.read(built).step_crcs(1, 4)
    monkeypatch.setattr(oracle, "available", lambda: False)
    assert golden.read(built).step_crcs(1, 4) == expected
    monkeypatch.setattr(toolchain, "find", lambda tool: None)
    assert golden.read(built).step_crcs(1, 4) is None


@pytest.mark.slow
def test_outputs_that_are_missing_or_others_are_told(built: Path, tmp_path: Path) -> None:
    directory = tmp_path / "build"
    shutil.copytree(built, directory)
    path = directory / "verify" / "outputs.npy"
    good = np.load(path)
    for bad in (good[:1], good.astype(np.int16), good[:, :, :-1], good[:, :-1]):
        np.save(path, bad)
        with pytest.raises(UsageError, match=r"outputs\.npy: holds .*compile again"):
            golden.read(directory)
    path.write_bytes(b"noise")
    with pytest.raises(UsageError, match=r"outputs\.npy: cannot be read .*compile again"):
        golden.read(directory)
    path.unlink()
    result = run("bench", directory, "--port", "/dev/null")
    assert result.returncode == 2, result.stderr
    assert "outputs.npy: missing" in result.stderr
    assert "compile again" in result.stderr


@pytest.mark.slow
def test_a_board_is_measured_and_the_next_compile_keeps_the_figures(
    built: Path, tmp_path: Path
) -> None:
    directory = tmp_path / "build"
    shutil.copytree(built, directory)
    with a_board(directory, starts_up=True, chatter=b"result level=1 largest=3\n") as (fake, port):
        bench = check_bench(directory, port)
    assert bench["board"] == "fake"
    total = sum(fake.levels[0].step_times) + 7
    assert bench["levels"][0]["inference"] == {
        "n": 20, "min": total, "median": total + 1, "max": total + 2,
    }  # fmt: skip
    written = (directory / "bench" / "bench.json").read_bytes()
    again = run("compile", built.parent / "net.h5", "-o", directory, "--levels", "50,100",
                "--no-verify")  # fmt: skip
    assert again.returncode == 0, again.stderr
    assert (directory / "bench" / "bench.json").read_bytes() == written
    assert not (directory / "verify" / "outputs.npy").exists()  # nothing was proved this time
    assert "bench/bench.json" not in output.written_files(directory)


@pytest.mark.slow
def test_an_emulated_board_has_no_clock(built: Path, tmp_path: Path) -> None:
    directory = tmp_path / "build"
    shutil.copytree(built, directory)
    with a_board(directory, unit="instructions", hz=0) as (_, port):
        check_bench(directory, port)
        assert "µs" not in run("bench", directory, "--port", port).stdout


Break = Callable[[FakeBoard], None]


def wrong_level(fake: FakeBoard) -> None:
    wrong(fake, 1, 3, lambda content: True)


def another_model(fake: FakeBoard) -> None:
    fake.model_crc ^= 1


def small_arena(fake: FakeBoard) -> None:
    fake.start_error = ProtocolError("arena", have=2000, limit=2304)


def deaf(fake: FakeBoard) -> None:
    fake.deaf = True


def pulled_out(fake: FakeBoard) -> None:
    fake.wire = Fault("^first level=1", unplugged)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "code", "parts"),
    [
        (wrong_level, 7, ("level 1, layer 'depthwise_conv2d_1'", "the pattern")),
        (another_model, 2, ("another build is flashed", "make flash")),
        (small_arena, 5, ("2000 B", "2304 B", "src/main.cpp")),
        (deaf, 5, ("'info'", "silent for 1 s", "reset button")),
        (pulled_out, 5, ("connection was lost", "'bench'", "plugged in")),
    ],
)
def test_failures_have_a_code_and_leave_nothing(
    built: Path, change: Break, code: int, parts: tuple[str, ...]
) -> None:
    before = files(built)
    with a_board(built) as (fake, port):
        change(fake)
        result = run("bench", built, "--port", port, "--json", "--timeout", "1")
    assert result.returncode == code, result.stderr
    errors = [line for line in result.stderr.splitlines() if "error" in line]
    assert len(errors) == 1
    for part in parts:
        assert part in errors[0]
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert files(built) == before


@pytest.mark.slow
def test_an_interrupt_ends_a_long_measurement(built: Path) -> None:
    before = files(built)
    with a_board(built) as (fake, port):
        fake.wire = Slowly(fake, 0.01)
        process = subprocess.Popen(
            [sys.executable, "-m", "redsc", "bench", built, "--port", port],
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        for line in process.stderr:
            if "measure on the board" in line:
                break
        process.send_signal(signal.SIGINT)
        said, rest = process.communicate(timeout=60)
    assert process.returncode == 130, rest
    assert said == ""
    assert "Traceback" not in rest
    assert files(built) == before


@pytest.mark.slow
def test_the_host_times_every_level(built: Path) -> None:
    before = files(built)
    result = run("bench", built, "--host", "--json", "--threads", "2")
    assert result.returncode == 0, result.stderr
    assert "deprecated" not in result.stderr.lower()
    bench = json.loads(result.stdout)
    assert bench["threads"] == 2
    for level in bench["levels"]:
        assert level["n"] >= 10
        assert 0 < level["min_us"] <= level["median_us"] <= level["max_us"]
    assert bench["levels"][-1]["speed_up"] == 1.0
    table = run("bench", built, "--host").stdout
    assert "1 thread;" in table
    assert "no proof" in table
    assert files(built) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "--emulator, --port P or --host"),
        (("--emulator", "--host"), "--emulator, --port P or --host"),
        (("--host", "--port", "/dev/null"), "--emulator, --port P or --host"),
        (("--emulator", "--threads", "2"), "--threads goes with --host"),
        (("--host", "--samples", "2"), "go with --port"),
        (("--emulator", "--timeout", "2"), "go with --port"),
        (("--port", "/dev/null", "--timeout", "0"), "--timeout"),
        (("--host", "--threads", "0"), "'--threads'"),
        (("--port", "auto"), "report.json"),
    ],
)
def test_options_that_do_not_fit(tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    result = run("bench", "nowhere", *options, cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())


def test_errors_are_the_users() -> None:
    assert issubclass(serial_line.RefusedError, RedscError)
    assert not issubclass(serial_records.DamagedError, RedscError)  # never leaves redsc
