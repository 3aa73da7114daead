"""Measures a build on a board, over its serial line, and compares every output with the proof.

The flow of `redsc bench DIR --port P`: serial_line.py asks, board_answers.py reads the answers,
bench_files.py is what becomes of the figures.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from redsc import bench_files, board_answers, golden, report, serial_line
from redsc.board_answers import Board, LevelFigures, read_bench, read_crc, read_steps
from redsc.errors import ToolchainError, UsageError, VerificationError
from redsc.golden import Golden
from redsc.progress import Progress
from redsc.serial_line import Line, RefusedError
from redsc.serial_records import DamagedError, Record, only

SAMPLES = 2
"""Verification inputs that are sent to the board, beside the pattern that it makes itself."""

PATTERN = 0
"""Number of the verification input that is the pattern."""

_CHUNK_BYTES = 32
_SLOW_CYCLES_PER_MAC, _SLOW_HZ, _SILENT_INFERENCES = 40, 64e6, 3
"""For how long a board may be silent: inferences that are slower than any that was seen."""

T = TypeVar("T")


def on_board(
    directory: Path,
    port: str,
    progress: Progress,
    samples: int = SAMPLES,
    silence_seconds: float | None = None,
) -> dict[str, Any]:
    """JSON-ready figures of every level on the board at `port`; nothing in the directory changes.

    `samples` verification inputs are compared beside the pattern. The board may be silent for
    `silence_seconds`; None: by the network's size. Raises UsageError when the port cannot be
    opened or another build is flashed, ToolchainError when the board does not answer,
    VerificationError when an output is not what the ladder proved.
    """
    result = report.read(directory)
    port = serial_line.find_port(port)
    progress.stage("read the proven outputs")
    build = golden.read(directory)
    report.check_levels(directory, result, build.level_count)
    samples = min(samples, len(build.inputs) - 1)
    if silence_seconds is None:
        slowest_seconds = result["levels"][-1]["macs"] * _SLOW_CYCLES_PER_MAC / _SLOW_HZ
        silence_seconds = serial_line.SILENCE_SECONDS + _SILENT_INFERENCES * slowest_seconds
    progress.stage(f"connect to {port}")
    with serial_line.connect(port, silence_seconds) as line:
        board = line.ask("info", board_answers.read_info)
        check_board(board, build, port)
        figures = measure(line, board, build, progress)
        compare(line, build, samples, progress)
    return bench_files.summarize(result, build, board, figures, samples + 1)


def check_board(board: Board, build: Golden, port: str) -> None:
    """Raises UsageError unless the board runs this build."""
    expected = {
        "CRC": (f"{build.model_crc:08x}", f"{board.model_crc:08x}"),
        "number of levels": (build.level_count, board.levels),
        "number of steps": (len(build.step_names), board.steps),
        "input bytes": (build.input_bytes, board.input_bytes),
        "output bytes": (build.output_bytes, board.output_bytes),
    }
    for name, (ours, theirs) in expected.items():
        if ours != theirs:
            raise UsageError(
                f"{port}: another build is flashed: the {name} of its model is {theirs}, of this "
                f"build's {ours}; flash this one (make flash), or give the directory of that one"
            )


def measure(
    line: Line, board: Board, build: Golden, progress: Progress
) -> tuple[LevelFigures, ...]:
    """The board's own benchmark, its outputs compared with the proven ones."""
    progress.stage("measure on the board")
    progress.step(0, board.levels)

    def seen(record: Record) -> None:
        if record.kind == "crc":  # the last record of a level
            done = record.number("level") + 1
            progress.step(done, board.levels, f"level {done} of {board.levels}")

    figures = line.ask("bench", lambda records: read_bench(records, board), seen)
    for level, measured in enumerate(figures):
        crcs = measured.input_crc, measured.output_crc
        _check_crcs(line, build, level, PATTERN, crcs)
    return figures


def compare(line: Line, build: Golden, samples: int, progress: Progress) -> None:
    """Sends verification inputs 1 … samples to every level.

    Raises VerificationError at the first input or output that has another CRC.
    """
    progress.stage("compare outputs")
    done, total = 0, samples * build.level_count
    for sample in range(1, samples + 1):
        for level in range(build.level_count):
            progress.step(done, total, f"input {sample} of {samples}, level {level}")
            _choose(line, level)
            crcs = _with_input(line, build, sample, "run 1", _crc_reader(build, level, sample))
            _check_crcs(line, build, level, sample, crcs)
            done += 1
    progress.step(done, total)


def _crc_reader(
    build: Golden, level: int, sample: int
) -> Callable[[Sequence[Record]], tuple[int, int]]:
    """Commands have no sum: a damaged one may have put right bytes in a wrong place."""

    def read(records: Sequence[Record]) -> tuple[int, int]:
        input_crc, output_crc = read_crc(records, level)
        if input_crc != build.input_crc(sample):
            raise DamagedError(f"its input had CRC {input_crc:08x}, not the one that was sent")
        return input_crc, output_crc

    return read


def _choose(line: Line, level: int) -> None:
    def read(records: Sequence[Record]) -> int:
        record = only(records, "level")
        if record.number("requested") != level:
            raise DamagedError(f"it understood level {record.number('requested')}, not {level}")
        return record.number("next")

    chosen = line.ask(f"level {level}", read)
    if chosen != level:
        raise ToolchainError(
            f"{line.port}: asked for level {level} the board takes level {chosen}: the sketch has "
            "lent memory of its arena; measure one that does not"
        )


def _with_input(
    line: Line,
    build: Golden,
    sample: int,
    command: str,
    read: Callable[[Sequence[Record]], T],
) -> T:
    """A command that consumes the input; when its answer is not whole, the input is sent again."""
    failure: Exception | None = None
    for _ in range(serial_line.ATTEMPTS):
        _fill(line, build, sample)
        try:
            return line.ask(command, read, once=True)
        except DamagedError as error:
            failure = error
        except RefusedError as error:
            if error.record.fields.get("reason") != "no_input":
                raise
            failure = error
    assert failure is not None
    raise line.gave_up(command, failure)


def _fill(line: Line, build: Golden, sample: int) -> None:
    """Puts a verification input in the board's: the pattern by name, others byte by byte."""
    if sample == PATTERN:
        line.ask(f"pattern {golden.PATTERN_SEED}", lambda answer: _check_pattern(answer, build))
        return
    content = build.inputs[sample].tobytes()
    for offset in range(0, len(content), _CHUNK_BYTES):
        chunk = content[offset : offset + _CHUNK_BYTES]
        _send_chunk(line, offset, chunk)


def _check_pattern(records: Sequence[Record], build: Golden) -> None:
    if only(records, "input").crc("crc") != build.input_crc(PATTERN):
        raise DamagedError("it made another pattern")


def _send_chunk(line: Line, offset: int, chunk: bytes) -> None:
    def read(records: Sequence[Record]) -> None:
        taken = only(records, "input")
        if (taken.number("offset"), taken.number("bytes")) != (offset, len(chunk)):
            raise DamagedError("it took other bytes than were sent")

    line.ask(f"input {offset} {chunk.hex()} {zlib.crc32(chunk):08x}", read)


def _check_crcs(line: Line, build: Golden, level: int, sample: int, crcs: tuple[int, int]) -> None:
    """Raises VerificationError, with the first differing layer where it can be found."""
    input_crc, output_crc = crcs
    name = "the pattern" if sample == PATTERN else f"verification input {sample}"
    if input_crc != build.input_crc(sample):
        raise VerificationError(
            f"level {level}: the board's input has CRC {input_crc:08x}, {name} has "
            f"{build.input_crc(sample):08x}: something changes the input before the inference"
        )
    if output_crc != build.output_crc(level, sample):
        raise VerificationError(
            f"level {level}{_first_layer(line, build, level, sample)}: the board's output for "
            f"{name} has CRC {output_crc:08x}, the proven one has "
            f"{build.output_crc(level, sample):08x}; compile and flash again, and if it stays "
            "please report it"
        )


def _first_layer(line: Line, build: Golden, level: int, sample: int) -> str:
    """', layer NAME' of the first step whose output differs; what is known instead."""

    def read(records: Sequence[Record]) -> tuple[int, ...]:
        _crc_reader(build, level, sample)(records)
        return read_steps(records, len(build.step_names), lambda step: step.crc("crc"))

    try:
        _choose(line, level)
        actual = _with_input(line, build, sample, "trace", read)
        expected = build.step_crcs(level, sample)
    except ToolchainError:  # the difference is the news, not what keeps its place from being found
        return ""
    if expected is None:
        return ""
    different = np.flatnonzero(np.not_equal(actual, expected))
    if not len(different):
        return ", no layer when traced"
    return f", layer {build.step_names[different[0]]!r}"
