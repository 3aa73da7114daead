"""The board's end of docs/serial-protocol.md in Python, on a pseudo-terminal, with faults on order.

It shares no code with redsc's end: what both say is what the document says.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import threading
import time
import tty
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

LINE_BYTES = 63
COMMAND_CHARACTERS = 120
CHUNK_BYTES = 32
COMMANDS = ("info", "level", "pattern", "input", "run", "crc", "trace", "bench", "release", "help")
WITHOUT_NETWORK = ("info", "release", "help")


@dataclass(frozen=True)
class Level:
    """steps: the input's bytes → the bytes that every step puts out; the last are the output's.

    step_times: of each step; an inference takes their sum and `overhead`.
    """

    steps: Callable[[bytes], Sequence[bytes]]
    step_times: Sequence[int]
    overhead: int = 7
    arena_bytes: int = 100


class UnpluggedError(Exception):
    """Ends the board in the middle of what it does."""


class ProtocolError(Exception):
    """A command's `error` record: reason, then numbers."""

    def __init__(self, reason: str, **numbers: int) -> None:
        super().__init__(reason)
        self.fields = {"reason": reason, **numbers}


@dataclass
class FakeBoard:
    """levels: by number, from 0. start_error: why the network could not start.

    wire: what becomes of a line on its way to the computer; it may raise UnpluggedError.
    """

    levels: Mapping[int, Level]
    input_bytes: int
    output_bytes: int
    model_crc: int
    unit: str = "cycles"
    hz: int = 64_000_000
    name: str = "fake"
    runtime: str = "standalone"
    version: int = 1
    start_error: ProtocolError | None = None
    starts_up: bool = False
    chatter: bytes = b""
    deaf: bool = False
    wire: Callable[[bytes], bytes] = lambda line: line
    commands: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.level_asked, self.level_used = len(self.levels) - 1, 0
        self.pattern: bytes | None = None
        self.sent: dict[int, int] = {}  # what came by `input` and is good for one inference
        self.last: tuple[bytes, bytes] | None = None
        self.lines = 0
        self.write: Callable[[bytes], object] = lambda data: None

    # ---------------------------------------------------------------- records

    def record(self, kind: str, lead: Mapping[str, object], **fields: object) -> None:
        """One record, in as many lines as it needs; lead: level and step."""
        start = " ".join([kind, *(f"{name}={value}" for name, value in lead.items())])
        line = start
        for name, value in fields.items():
            longer = f"{line} {name}={value}"
            if len(longer) + len(" sum=0000\n") > LINE_BYTES:
                self.send_line(line)
                longer = f"{start} {name}={value}"
            line = longer
        self.send_line(line)

    def send_line(self, text: str) -> None:
        line = f"{text} sum={zlib.crc32(text.encode()) & 0xFFFF:04x}\n".encode()
        assert len(line) <= LINE_BYTES, line
        self.lines += 1
        self.write(self.wire(line))

    # --------------------------------------------------------------- commands

    def answer(self, command: str) -> None:
        if command != "release":  # the end of every connection
            self.commands.append(command)
        self.lines = 0
        self.write(self.chatter)
        word, *arguments = command.split(" ")
        try:
            if not all(" " <= character <= "~" for character in command):
                raise ProtocolError("garbage")
            if word not in COMMANDS:
                raise ProtocolError("command")
            if self.start_error is not None and word not in WITHOUT_NETWORK:
                raise self.start_error
            getattr(self, f"do_{word}")(*arguments)
        except ProtocolError as error:
            self.record("error", {}, **error.fields)
        except (TypeError, ValueError):
            self.record("error", {}, reason="arguments")
        else:
            self.record("ok", {}, command=word, lines=self.lines)

    def do_info(self) -> None:
        self.record("reds", {}, version=self.version, board=self.name, runtime=self.runtime)
        steps = len(self.levels[0].step_times)
        crc = f"{self.model_crc:08x}"
        self.record("model", {}, crc=crc, levels=len(self.levels), steps=steps)
        self.record("tensors", {}, input=self.input_bytes, output=self.output_bytes)
        arena = max(level.arena_bytes for level in self.levels.values())
        self.record("arena", {}, have=arena, used=arena)
        self.record("clock", {}, unit=self.unit, hz=self.hz)

    def do_release(self) -> None:
        pass

    def do_help(self) -> None:
        for command in COMMANDS:
            self.record("command", {}, name=command)

    def do_level(self, level: str | None = None) -> None:
        if level is not None:
            if not 0 <= int(level) < len(self.levels):
                raise ProtocolError("level", limit=len(self.levels))
            self.level_asked = int(level)
        asked = self.level_asked
        self.record("level", {}, requested=asked, next=asked, used=self.level_used)

    def do_pattern(self, seed: str = "1") -> None:
        state, values = int(seed), bytearray()
        for _ in range(self.input_bytes):
            state = (state * 1664525 + 1013904223) % 2**32
            values.append(((state >> 24) - 128) % 256)
        self.pattern = bytes(values)
        crc = f"{zlib.crc32(self.pattern):08x}"
        self.record("input", {}, bytes=self.input_bytes, crc=crc)

    def do_input(self, offset: str, content: str, crc: str) -> None:
        data = bytes.fromhex(content)
        if not 1 <= len(data) <= CHUNK_BYTES:
            raise ProtocolError("length", have=len(data), limit=CHUNK_BYTES)
        if int(offset) + len(data) > self.input_bytes:
            raise ProtocolError("offset", have=int(offset), limit=self.input_bytes)
        if zlib.crc32(data) != int(crc, 16):
            raise ProtocolError("crc")
        self.pattern = None
        self.sent.update(enumerate(data, int(offset)))
        self.record("input", {}, offset=int(offset), bytes=len(data))

    def infer(self, level: int) -> Sequence[bytes]:
        content = self.pattern
        if content is None:
            if len(self.sent) < self.input_bytes:
                raise ProtocolError("no_input")
            content = bytes(self.sent[index] for index in range(self.input_bytes))
            self.sent = {}
        steps = self.levels[level].steps(content)
        self.last, self.level_used = (content, steps[-1]), level
        return steps

    def do_run(self, count: str = "1") -> None:
        for _ in range(int(count)):
            self.infer(self.level_asked)
        self.times("time", self.level_asked, int(count))
        self.do_crc()

    def do_crc(self) -> None:
        if self.last is None:
            raise ProtocolError("no_output")
        content, output = (f"{zlib.crc32(part):08x}" for part in self.last)
        self.record("crc", {"level": self.level_used}, input=content, output=output)

    def do_trace(self) -> None:
        level = self.level_asked
        for step, output in enumerate(self.infer(level)):
            lead = {"level": level, "step": step}
            crc = f"{zlib.crc32(output):08x}"
            self.record("step", lead, time=self.levels[level].step_times[step], crc=crc)
        self.do_crc()

    def do_bench(self, count: str = "20") -> None:
        self.do_pattern_quietly()
        self.record("bench", {}, levels=len(self.levels))
        for level, measured in self.levels.items():
            lead = {"level": level}
            self.record("switch", lead, n=1000, min=12, median=14, max=2_000_000_000)
            self.times("first", level, int(count))
            self.times("time", level, int(count))
            for step, time_taken in enumerate(measured.step_times):
                self.record("step", {"level": level, "step": step}, time=time_taken)
            self.record("arena", lead, bytes=measured.arena_bytes)
            self.infer(level)
            self.do_crc()

    def do_pattern_quietly(self) -> None:
        lines, self.lines = self.lines, 0
        write, self.write = self.write, lambda data: None
        self.do_pattern()
        self.lines, self.write = lines, write

    def times(self, kind: str, level: int, count: int) -> None:
        total = sum(self.levels[level].step_times) + self.levels[level].overhead
        numbers = {"min": total, "median": total + 1, "max": total + 2}
        self.record(kind, {"level": level}, n=count, **numbers)

    # --------------------------------------------------------------- the wire

    def serve(self, master: int, stop: int) -> None:
        """Until `stop` can be read or the board is unplugged."""
        self.write = lambda data: _write_all(master, stop, data)
        buffer = b""
        with contextlib.suppress(UnpluggedError):
            if self.starts_up:
                self.answer("info")
                self.answer("bench")
            while True:
                ready, _, _ = select.select([master, stop], [], [])
                if stop in ready:
                    return
                buffer += os.read(master, 4096)
                *lines, buffer = buffer.split(b"\n")
                for line in lines:
                    if self.deaf or not line:
                        continue
                    if len(line) > COMMAND_CHARACTERS:
                        self.record("error", {}, reason="line_too_long")
                    else:
                        self.answer(line.decode("latin-1").removesuffix("\r"))


def _write_all(master: int, stop: int, data: bytes) -> None:
    """A computer that does not read must not keep the board from ending."""
    while data:
        ready, _, _ = select.select([stop], [master], [])
        if stop in ready:
            raise UnpluggedError
        data = data[os.write(master, data[:256]) :]


class Board(Protocol):
    def serve(self, master: int, stop: int) -> None: ...


@contextlib.contextmanager
def plugged_in(board: Board) -> Iterator[str]:
    """Path of the port at which the board answers, while the block lasts."""
    master, slave = os.openpty()
    tty.setraw(slave)  # before anything is written: a terminal's echo would answer the board
    stop, stopped = os.pipe()

    def run() -> None:
        try:
            board.serve(master, stop)
        finally:
            os.close(master)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield os.ttyname(slave)
    finally:
        os.write(stopped, b"x")
        thread.join(timeout=60)
        for descriptor in (slave, stop, stopped):
            os.close(descriptor)


# ------------------------------------------------------------------------------------- faults


@dataclass
class Fault:
    """Does something to the first `times` lines that match, and nothing to the others."""

    pattern: str
    change: Callable[[bytes], bytes]
    times: int = 1

    def __call__(self, line: bytes) -> bytes:
        if self.times and re.search(self.pattern.encode(), line):
            self.times -= 1
            return self.change(line)
        return line


def corrupted(line: bytes) -> bytes:
    """One digit is another one."""
    middle = len(line) // 2
    return line[:middle] + bytes([line[middle] ^ 1]) + line[middle + 1 :]


def lost(line: bytes) -> bytes:
    return b""


def unplugged(line: bytes) -> bytes:
    raise UnpluggedError


@dataclass
class Slowly:
    """A line comes byte by byte; needs the board's own way to write."""

    board: FakeBoard
    seconds: float = 0.002

    def __call__(self, line: bytes) -> bytes:
        for index in range(len(line)):
            self.board.write(line[index : index + 1])
            time.sleep(self.seconds)
        return b""
