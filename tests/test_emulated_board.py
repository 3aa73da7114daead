"""`redsc bench --port` against the emitted firmware itself, on the emulator's serial line."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from emulated_board import EmulatedBoard
from fake_board import Fault, corrupted, lost, plugged_in, unplugged
from firmware_build import needs_emulator
from test_board_bench import check_bench, compile_small

from redsc import board_bench, one_product, serial_line, toolchain
from redsc.errors import ToolchainError, UsageError, VerificationError
from redsc.progress import Progress
from redsc.serial_records import parse

pytestmark = [needs_emulator, pytest.mark.slow]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_small(tmp_path_factory.mktemp("emulated"))


@pytest.fixture(scope="module")
def sketch(built: Path) -> Path:
    return toolchain.build(built, "emulator").program


def bench(directory: Path, board: EmulatedBoard) -> dict[str, Any]:
    with plugged_in(board) as port:
        return board_bench.on_board(directory, port, Progress(), silence_seconds=2)


def test_a_board_is_measured(built: Path, sketch: Path) -> None:
    board = EmulatedBoard(sketch)
    with plugged_in(board) as port:
        result = check_bench(built, port)
    assert (result["board"], result["unit"], result["hz"]) == ("emulator", "instructions", 0)
    for level in result["levels"]:
        assert level["inference"]["median"] == level["emulator"]["instructions"]
        assert level["first_inference"]["max"] == level["inference"]["max"]
        assert level["switch"]["n"] == 1000
        assert level["switch"]["max"] == level["emulator"]["switch_instructions"]
    assert all(len(line) <= 62 and parse(line) for line in board.sent)


FAULTS = {
    "corrupted": lambda sketch: EmulatedBoard(sketch, Fault("^time|^input", corrupted, times=3)),
    "lost": lambda sketch: EmulatedBoard(sketch, Fault("^ok command=(run|level)", lost, times=2)),
    "slow": lambda sketch: EmulatedBoard(sketch, seconds_per_byte=0.0005),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_line_is_survived(fault: str, built: Path, sketch: Path) -> None:
    result = bench(built, FAULTS[fault](sketch))
    assert result["inputs_compared"] == 3


def test_unplugging_in_the_middle_is_told(built: Path, sketch: Path) -> None:
    with pytest.raises(ToolchainError, match=r"connection was lost|silent"):
        bench(built, EmulatedBoard(sketch, Fault("^time level=1", unplugged)))


def test_damage_that_does_not_end_is_told(built: Path, sketch: Path) -> None:
    with pytest.raises(ToolchainError, match="asked 'info' 3 times"):
        bench(built, EmulatedBoard(sketch, Fault("^tensors", corrupted, times=100)))


def test_another_build_is_told(built: Path, sketch: Path, tmp_path: Path) -> None:
    other = compile_small(tmp_path, "30,100")
    with pytest.raises(UsageError, match="another build is flashed"):
        bench(other, EmulatedBoard(sketch))


def test_a_wrong_table_is_found_and_its_layer_named(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bias that is not the compiler's, as a broken flash might have it."""
    shutil.copytree(built, tmp_path / "built")
    plan = tmp_path / "built/lib/model/model_plan.cc"
    text = plan.read_text()
    marker = "const int32_t table_"
    start = text.index("{\n", text.index(marker)) + 2
    end = text.index(",", start)
    wrong = int(text[start:end]) + (4000 << one_product.SUM_SHIFT)
    plan.write_text(text[:start] + f"    {wrong}" + text[end:])
    sketch = toolchain.build(tmp_path / "built", "emulator").program
    with pytest.raises(VerificationError, match=r"level \d, layer '\w+"):
        bench(built, EmulatedBoard(sketch))


def test_an_arena_too_small_is_told_with_both_numbers(built: Path, tmp_path: Path) -> None:
    shutil.copytree(built, tmp_path / "built")
    main = tmp_path / "built/src/main.cpp"
    main.write_text(main.read_text().replace("arena[model::arena_bytes]", "arena[96]"))
    sketch = toolchain.build(tmp_path / "built", "emulator").program
    with pytest.raises(ToolchainError, match=r"arena of 96 B is smaller than the \d+ B"):
        bench(built, EmulatedBoard(sketch))


def test_garbage_is_answered_and_survived(sketch: Path) -> None:
    def ask(line: serial_line.Line, text: bytes) -> str:
        line.device.write(text + b"\n")
        answers = []
        for record in line._records(""):
            answers.append(record)
            if record.kind in ("ok", "error"):
                break
        last = answers[-1]
        return last.fields["reason"] if last.kind == "error" else "ok " + last.fields["command"]

    with (
        plugged_in(EmulatedBoard(sketch)) as port,
        serial_line.connect(port, 5) as line,
    ):
        line.ask("info", lambda records: None)
        for text, answer in (
            (b"\x00\xff\x07", "garbage"),
            (b"x" * 121, "line_too_long"),
            (b"x" * 5000, "line_too_long"),
            (b"x" * 120, "command"),
            (b"help", "ok help"),
            (b"  level   0  ", "ok level"),
            (b"level", "arguments"),
            (b"level 1 2", "arguments"),
            (b"level 2", "level"),
            (b"level -1", "arguments"),
            (b"level 99999999999", "arguments"),
            (b"run", "no_input"),
            (b"trace", "no_input"),
            (b"pattern 7", "ok pattern"),
            (b"run 0", "count"),
            (b"run 3\r", "ok run"),
            (b"bench 33", "count"),
            (b"input 0 zz 00000000", "arguments"),
            (b"input 0 abc 00000000", "arguments"),
            (b"input 0 " + b"00" * 33 + b" 00000000", "length"),
            (b"input 0 00 00000000", "crc"),
            (b"input 5 00 d202ef8d", "offset"),
            (b"input 0 00 d202ef8d", "ok input"),
            (b"run", "no_input"),
            (b"input 1 00 d202ef8d", "ok input"),
            (b"input 4294967295 00 d202ef8d", "offset"),
            (b"release", "ok release"),
            (b"crc", "ok crc"),
        ):
            assert ask(line, text) == answer, text
