"""Records and sums, and asking until the board answers or patience ends."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import pty
import select
import time
import types
import zlib
from pathlib import Path

import pytest
import serial
from fake_board import (
    LINE_BYTES,
    FakeBoard,
    Fault,
    Level,
    ProtocolError,
    Slowly,
    corrupted,
    lost,
    plugged_in,
    unplugged,
)
from hypothesis import given
from hypothesis import strategies as st
from serial.tools import list_ports

from redsc import golden, serial_line, serial_records
from redsc.board_answers import read_bench, read_info
from redsc.errors import ToolchainError, UsageError
from redsc.serial_line import RefusedError
from redsc.serial_records import DamagedError, Record

SILENCE = 0.5

NAMES = st.from_regex(r"[a-z_]{1,8}", fullmatch=True).filter(lambda name: name != "sum")
VALUES = st.from_regex(r"[!-<>-~]{0,12}", fullmatch=True)
RECORDS = st.tuples(NAMES, st.dictionaries(NAMES, VALUES, max_size=4))


def line_of(kind: str, fields: dict[str, str]) -> bytes:
    text = " ".join([kind, *(f"{name}={value}" for name, value in fields.items())]).encode()
    return text + b" sum=%04x\n" % (zlib.crc32(text) & 0xFFFF)


def board(**options: object) -> FakeBoard:
    def steps(level: int):
        return lambda content: [bytes([level, step]) + content[:4] for step in range(3)]

    levels = {level: Level(steps(level), (10**8, 20, 30)) for level in range(3)}
    return FakeBoard(levels, input_bytes=70, output_bytes=6, model_crc=0xDEADBEEF, **options)


def ask_info(port: str, silence: float = SILENCE):
    with serial_line.connect(port, silence) as line:
        return line.ask("info", read_info)


def test_the_documents_examples() -> None:
    document = Path(__file__).parents[1] / "docs" / "serial-protocol.md"
    lines = [line[2:] for line in document.read_text().splitlines() if line.startswith("< ")]
    assert len(lines) == 6
    for line in lines:
        text = line.removesuffix(" sum=…").encode()
        record = serial_records.parse(text + b" sum=" + serial_records.checksum(text) + b"\r\n")
        assert record is not None
        assert record.kind == line.split()[0]
    assert golden.pattern((3, 1)).ravel().tolist() == [-68, -34, 1]  # worked out by hand


@given(RECORDS)
def test_a_record_is_read_as_it_was_written(record: tuple[str, dict[str, str]]) -> None:
    assert serial_records.parse(line_of(*record)) == Record(*record)


@given(RECORDS, st.data())
def test_a_damaged_byte_is_found_or_harms_nothing(
    record: tuple[str, dict[str, str]], data: st.DataObject
) -> None:
    line = line_of(*record)
    index = data.draw(st.integers(0, len(line) - 1))
    damaged = bytearray(line)
    damaged[index] = data.draw(st.integers(0, 255).filter(lambda byte: byte != line[index]))
    for part in bytes(damaged).split(b"\n"):
        assert serial_records.parse(part) in (None, Record(*record))


def test_half_a_crc_finds_every_damaged_byte() -> None:
    """Of any line: CRC is linear, so what a damaged byte adds depends on its place alone."""
    for behind in range(LINE_BYTES):
        whole = zlib.crc32(bytes(behind + 1))
        for byte in range(1, 256):
            assert (zlib.crc32(bytes([byte]) + bytes(behind)) ^ whole) & 0xFFFF


@given(st.binary(max_size=200))
def test_any_bytes_are_no_record_or_one(noise: bytes) -> None:
    record = serial_records.parse(noise)
    assert record is None or noise.startswith(record.kind.encode())


@given(
    st.dictionaries(NAMES, VALUES, min_size=1, max_size=12),
    st.sampled_from([{}, {"level": "1"}, {"level": "1", "step": "12"}]),
    st.data(),
)
def test_continued_records_are_joined(
    fields: dict[str, str], lead: dict[str, str], data: st.DataObject
) -> None:
    fields = {name: value for name, value in fields.items() if name not in ("level", "step")}
    names = list(fields)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(names)))) | {0, len(names)})
    parts = [
        Record("time", {**lead, **{name: fields[name] for name in names[start:end]}})
        for start, end in itertools.pairwise(cuts)
    ]
    other = Record("crc", dict(lead))
    joined = serial_records.join([other, *parts, other])
    assert joined[0] == joined[-1] == other
    if parts:
        assert joined[1:-1] == (Record("time", {**lead, **fields}),)


def test_records_of_other_steps_or_with_the_same_fields_stay_apart() -> None:
    records = [
        Record("step", {"level": "0", "step": "0", "time": "1"}),
        Record("step", {"level": "0", "step": "1", "time": "1"}),
        Record("step", {"level": "1", "step": "1", "crc": "1"}),
        Record("command", {"name": "info"}),
        Record("command", {"name": "run"}),
    ]
    assert serial_records.join(records) == tuple(records)


def test_info_and_a_long_bench_are_read() -> None:
    fake = board()
    with plugged_in(fake) as port, serial_line.connect(port, SILENCE) as line:
        info = line.ask("info", read_info)
        assert (info.name, info.runtime, info.model_crc) == ("fake", "standalone", 0xDEADBEEF)
        assert (info.levels, info.steps, info.input_bytes, info.output_bytes) == (3, 3, 70, 6)
        seen: list[str] = []
        figures = line.ask("bench", lambda r: read_bench(r, info), lambda r: seen.append(r.kind))
    assert [level.inference.median for level in figures] == [100000058] * 3
    assert figures[1].switch.max == 2_000_000_000
    assert seen.count("time") > 3  # a record does not fit in a line
    assert fake.commands == ["info", "bench"]


@pytest.mark.parametrize("change", [corrupted, lost])
@pytest.mark.parametrize("where", ["^time level=1", "^ok ", "^bench"])
def test_a_damaged_or_lost_line_is_asked_for_again(where: str, change) -> None:
    fake = board()
    with plugged_in(fake) as port, serial_line.connect(port, SILENCE) as line:
        info = line.ask("info", read_info)
        fake.wire = Fault(where, change)
        assert len(line.ask("bench", lambda records: read_bench(records, info))) == 3
    assert fake.commands == ["info", "bench", "bench"]


def test_a_line_that_is_always_damaged_ends_with_an_error() -> None:
    fake = board(wire=Fault("^tensors", corrupted, times=99))
    with plugged_in(fake) as port, pytest.raises(ToolchainError) as caught:
        ask_info(port)
    assert port in str(caught.value)
    assert "1 of the answer's 5 lines" in str(caught.value)
    assert fake.commands == ["info"] * serial_line.ATTEMPTS


def test_a_damaged_command_is_sent_again() -> None:
    class Deafened(FakeBoard):
        def answer(self, command: str) -> None:
            super().answer(command if self.commands else "imfo")

    fake = board()
    fake.__class__ = Deafened
    with plugged_in(fake) as port:
        assert ask_info(port).levels == 3
    assert fake.commands == ["imfo", "info"]


def test_a_board_in_its_start_up_benchmark_is_understood() -> None:
    fake = board(starts_up=True, chatter=b"result level=2 largest=7\n\xff\x00garbage\n")
    fake.wire = Slowly(fake, 0.0002)
    with plugged_in(fake) as port, serial_line.connect(port, SILENCE) as line:
        info = line.ask("info", read_info)
        assert len(line.ask("bench", lambda records: read_bench(records, info))) == 3
        level = line.ask("level 1", lambda records: serial_records.only(records, "level"))
    assert level.number("next") == 1


def test_a_line_that_comes_byte_by_byte() -> None:
    fake = board()
    fake.wire = Slowly(fake)
    with plugged_in(fake) as port:
        assert ask_info(port).levels == 3


def test_a_silent_board_is_not_waited_for_for_ever() -> None:
    start = time.monotonic()
    with plugged_in(board(deaf=True)) as port, pytest.raises(ToolchainError) as caught:
        ask_info(port)
    assert time.monotonic() - start < 10 * SILENCE * serial_line.ATTEMPTS
    for part in (port, "'info'", "3 times", "silent for 0.5 s", "reset button"):
        assert part in str(caught.value)


def test_a_sketch_that_only_prints_is_not_waited_for_and_is_quoted() -> None:
    class Printing(FakeBoard):
        def serve(self, master: int, stop: int) -> None:
            os.set_blocking(master, False)
            while not select.select([stop], [], [], 0.01)[0]:
                with contextlib.suppress(BlockingIOError):
                    os.write(master, b"temperature 21.5\n" + line_of("result", {"level": "1"}))

    fake = board()
    fake.__class__ = Printing
    with plugged_in(fake) as port, pytest.raises(ToolchainError, match=r"temperature 21\.5"):
        ask_info(port)


@pytest.mark.parametrize("where", ["^reds", "^tensors", "^ok"])
def test_an_unplugged_board_is_one_clear_error(where: str) -> None:
    with (
        plugged_in(board(wire=Fault(where, unplugged))) as port,
        pytest.raises(ToolchainError, match="connection was lost while the board was asked 'info'"),
    ):
        ask_info(port)


def test_what_keeps_the_network_from_starting_is_explained() -> None:
    fake = board(start_error=ProtocolError("arena", have=2000, limit=2304))
    with plugged_in(fake) as port, serial_line.connect(port, SILENCE) as line:
        info = line.ask("info", read_info)
        with pytest.raises(RefusedError, match="2000 B is smaller than the 2304 B"):
            line.ask("bench", lambda records: read_bench(records, info))


def test_another_version_is_named() -> None:
    with plugged_in(board(version=2)) as port, pytest.raises(UsageError, match="version 2"):
        ask_info(port)


def test_fields_that_are_missing_or_no_numbers_are_damage() -> None:
    record = Record("time", {"n": "x", "min": "1f"})
    for read in (lambda: record.number("n"), lambda: record.crc("max"), lambda: record.text("k")):
        with pytest.raises(DamagedError):
            read()
    assert record.crc("min") == 0x1F


# ------------------------------------------------------------------------------ finding a port


def connected(monkeypatch: pytest.MonkeyPatch, *ports: tuple[str, int | None, int | None]) -> None:
    found = [types.SimpleNamespace(device=name, vid=vid, pid=pid) for name, vid, pid in ports]
    monkeypatch.setattr(serial_line, "_ports", lambda: found)


NANO, OTHER = ("/dev/ttyACM3", 0x2341, 0x805A), ("/dev/ttyUSB0", 0x0403, 0x6001)
BOOTLOADER, BUILT_IN = ("/dev/ttyACM1", 0x2341, 0x005A), ("/dev/ttyS0", None, None)


def test_the_only_board_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    for board_port in (NANO, BOOTLOADER):
        connected(monkeypatch, BUILT_IN, OTHER, board_port)
        assert serial_line.find_port("auto") == board_port[0]


@pytest.mark.parametrize(
    ("ports", "message"),
    [
        ((NANO, BOOTLOADER), "2 Nano 33 BLE; choose one: --port /dev/ttyACM3 or /dev/ttyACM1"),
        ((OTHER, BUILT_IN), r"other USB ports: /dev/ttyUSB0\).*double-tap its reset"),
        ((), "no Nano 33 BLE is connected; plug it in"),
    ],
)
def test_no_or_several_boards_are_named(
    monkeypatch: pytest.MonkeyPatch, ports: tuple, message: str
) -> None:
    connected(monkeypatch, *ports)
    with pytest.raises(UsageError, match=message):
        serial_line.find_port("auto")


def test_a_port_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    connected(monkeypatch, NANO)
    with pytest.raises(UsageError, match=r"ttyACM9: no such port; .* --port /dev/ttyACM3"):
        serial_line.find_port("/dev/ttyACM9")


def test_the_real_list_of_ports_can_be_read() -> None:
    assert serial_line._ports() == sorted(list_ports.comports())


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.EACCES, "dialout"),
        (errno.EBUSY, "another program"),
        (errno.ENOENT, "no such port"),
        (errno.ENXIO, "no such port"),
        (errno.EIO, "cannot be opened"),
    ],
)
def test_a_port_that_cannot_be_opened(
    monkeypatch: pytest.MonkeyPatch, number: int, message: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise serial.SerialException(number, "could not open port")

    monkeypatch.setattr(serial, "Serial", refuse)
    with pytest.raises(UsageError, match=rf"/dev/x: .*{message}"), serial_line.connect("/dev/x"):
        pass


def test_a_port_in_use_and_a_file_that_is_no_port(tmp_path: Path) -> None:
    master, slave = pty.openpty()
    name = os.ttyname(slave)
    with (
        serial.Serial(name, exclusive=True),
        pytest.raises(UsageError, match="in use by another program"),
        serial_line.connect(name),
    ):
        pass
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UsageError, match="cannot be opened"),
        serial_line.connect(str(tmp_path / "file")),
    ):
        pass
    os.close(master)
    os.close(slave)
