"""The computer's end of docs/serial-protocol.md: a port, and asking until the board answers.

A command is repeated when its answer is damaged, incomplete or does not come; all waits end.
`import serial` happens inside functions, so that importing redsc stays quick.
"""

from __future__ import annotations

import errno
import logging
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from redsc.errors import ToolchainError, UsageError
from redsc.serial_records import DamagedError, Record, join, parse

ATTEMPTS = 3
"""How often a command is sent before redsc gives up."""

SILENCE_SECONDS = 5.0
"""How long the board may say nothing, beside what its inferences take."""

NANO_USB_IDS = ((0x2341, 0x805A), (0x2341, 0x005A), (0x2341, 0x015A), (0x2341, 0x025A))
"""What Arduino gave the Nano 33 BLE: a sketch, its bootloader, others (as in tools/flash.py)."""

_BAUD = 115200  # a number that USB and pseudo-terminals ignore
_POLL_SECONDS = 0.1
_WRITE_SECONDS = 5.0
_QUIET_SECONDS = 0.2
_LONGEST_LINE = 4096
_ANSWER_LIMIT = 60  # times the silence that is allowed: a board that talks and never ends

_NOT_OURS = ("result",)
"""Kinds that the application prints; they are none of a command's lines."""

_DAMAGED_ON_THE_WAY = (
    "command", "arguments", "garbage", "line_too_long", "crc", "level", "offset", "length", "count",
)  # fmt: skip
"""Reasons of an `error` that a damaged or lost byte explains: the command is repeated."""

_REFUSALS = {
    "arena": "its arena of {have} B is smaller than the {limit} B that the network needs; enlarge "
    "arena in src/main.cpp and flash again",
    "alignment": "its arena is not aligned; declare it alignas(16) in src/main.cpp and flash again",
    "model": "its model and its plan are not of one build; compile and flash again",
    "ops": "an op of the model is not registered in its sketch; compile and flash again, and take "
    "over what is new in src/main.cpp.new, if that is there",
    "interpreter": "TensorFlow Lite Micro cannot prepare the network; `make monitor` shows what "
    "it says",
}
"""Reasons for which the network could not start, and what to do."""

T = TypeVar("T")
log = logging.getLogger("redsc")


class RefusedError(ToolchainError):
    """The board answered `error`; `record` says why."""

    def __init__(self, message: str, record: Record) -> None:
        super().__init__(message)
        self.record = record


def find_port(port: str) -> str:
    """A port to open: `port` itself, or for `auto` the only Nano 33 BLE.

    Raises UsageError, naming the ports there are, when there is no such one.
    """
    if port != "auto":
        if not Path(port).exists():
            raise UsageError(f"{port}: no such port; {_candidates()}")
        return port
    boards = [found.device for found in _ports() if (found.vid, found.pid) in NANO_USB_IDS]
    if len(boards) != 1:
        raise UsageError(f"--port auto: {_candidates()}")
    return str(boards[0])


def _ports() -> list[Any]:
    from serial.tools import list_ports

    return sorted(list_ports.comports())


def _candidates() -> str:
    """What is connected, and what to do."""
    ports = _ports()
    boards = [found.device for found in ports if (found.vid, found.pid) in NANO_USB_IDS]
    if len(boards) == 1:
        return f"there is a Nano 33 BLE at {boards[0]}: --port {boards[0]}, or --port auto"
    if boards:
        return f"there are {len(boards)} Nano 33 BLE; choose one: --port {' or '.join(boards)}"
    others = ", ".join(str(found.device) for found in ports if found.vid is not None)
    return (
        f"no Nano 33 BLE is connected{f' (other USB ports: {others})' if others else ''}; plug it "
        "in with a cable that carries data, and if it does not appear double-tap its reset button "
        "and flash it again"
    )


@contextmanager
def connect(port: str, silence_seconds: float = SILENCE_SECONDS) -> Iterator[Line]:
    """A line to the board at `port`, a device or a pseudo-terminal.

    Raises UsageError when it cannot be opened, ToolchainError when it goes away meanwhile.
    """
    import serial

    try:
        # exclusive: a monitor on the same port would take half of the answers
        device = serial.Serial(
            port, _BAUD, timeout=_POLL_SECONDS, write_timeout=_WRITE_SECONDS, exclusive=True
        )
    except (OSError, termios.error, ValueError) as error:
        raise UsageError(f"{port}: {_why_not_open(error)}") from None
    with device:
        line = Line(device, port, silence_seconds)
        line.begin()
        try:
            yield line
        finally:
            line.release()


def _why_not_open(error: Exception) -> str:
    number = getattr(error, "errno", None)
    if number in (errno.EACCES, errno.EPERM):
        return (
            "permission denied; join the group that may use serial ports "
            "(sudo usermod -aG dialout $USER), then log in again"
        )
    if number in (errno.EBUSY, errno.EAGAIN):
        return "in use by another program; close that one (a serial monitor?) and run again"
    if number in (errno.ENOENT, errno.ENXIO, errno.ENODEV):
        return f"no such port; {_candidates()}"
    return f"cannot be opened as a serial port ({error}); {_candidates()}"


class Line:
    """An open port (a serial.Serial); `ask` is all there is to do with it."""

    def __init__(self, device: Any, port: str, silence_seconds: float) -> None:
        self.device, self.port, self.silence_seconds = device, port, silence_seconds
        self._rest = b""
        self._heard: bytes | None = None  # the last line that was no record

    def begin(self) -> None:
        """Ends what may stand in the board's line and forgets what it said before.

        A board in its start-up benchmark goes on talking; `ask` tells that from its answer.
        """
        self._send("")
        now = time.monotonic()
        quiet, end = now + _QUIET_SECONDS, now + 5 * _QUIET_SECONDS
        while time.monotonic() < min(quiet, end):
            if self._receive(""):
                quiet = time.monotonic() + _QUIET_SECONDS

    def release(self) -> None:
        """Lets the board's application go on, if it still listens."""
        with suppress(ToolchainError):
            self._send("release")

    def ask(
        self,
        command: str,
        read: Callable[[Sequence[Record]], T],
        seen: Callable[[Record], None] = lambda record: None,
        *,
        once: bool = False,
    ) -> T:
        """What `read` makes of a command's records; `seen` is shown each line as it comes.

        Asked again, ATTEMPTS times in all, when the answer is damaged, which `read` says by
        DamagedError. Raises ToolchainError when none was good, RefusedError for an `error`. With
        `once` the first DamagedError comes out: the caller must do more than ask again.
        """
        failure = DamagedError("never asked")
        for attempt in range(1, ATTEMPTS + 1):
            self._forget()
            self._send(command)
            try:
                return read(join(self._answer(command, seen)))
            except DamagedError as error:
                log.info("%s: %r, attempt %d: %s", self.port, command, attempt, error)
                if once:
                    raise
                failure = error
        raise self.gave_up(command.split()[0], failure)

    def gave_up(self, what: str, failure: Exception) -> ToolchainError:
        """The error for a question that was asked as often as is sensible."""
        return ToolchainError(
            f"{self.port}: the board was asked {what!r} {ATTEMPTS} times; the last time {failure}; "
            f"{self._advice()}"
        )

    def _advice(self) -> str:
        heard = ""
        if self._heard is not None:
            heard = f" (the last line that is no record of the protocol: {self._heard[:60]!r})"
        return (
            "is the sketch that redsc compile emitted flashed and running? Flash it, double-tap "
            f"the board's reset button if that fails, and try another cable{heard}"
        )

    def _answer(self, command: str, seen: Callable[[Record], None]) -> list[Record]:
        """The records before this command's `ok`.

        Answers to other commands, late or of the start-up benchmark, are dropped.
        """
        word = command.split()[0]
        records: list[Record] = []
        limit = time.monotonic() + _ANSWER_LIMIT * self.silence_seconds
        for record in self._records(word):
            if time.monotonic() > limit:
                raise DamagedError("it talked without coming to an end")
            if record.kind == "ok":
                if record.text("command") == word:
                    return _last_lines(records, record.number("lines"))
                records = []
            elif record.kind == "error":
                self._refuse(command, record)
            elif record.kind not in _NOT_OURS:
                records.append(record)
                seen(record)
        raise DamagedError(f"it was silent for {self.silence_seconds:g} s")

    def _refuse(self, command: str, record: Record) -> None:
        reason = record.text("reason")
        if reason in _DAMAGED_ON_THE_WAY:
            raise DamagedError(f"it understood something else (error reason={reason})")
        if reason in _REFUSALS:
            numbers = {name: record.fields.get(name, "?") for name in ("have", "limit")}
            why = _REFUSALS[reason].format(**numbers)
        else:
            said = " ".join(f"{name}={value}" for name, value in record.fields.items())
            why = f"{said}; are redsc and the firmware of one version? Compile and flash again"
        raise RefusedError(f"{self.port}: the board refuses {command!r}: {why}", record)

    def _records(self, command: str) -> Iterator[Record]:
        """Records as they come, until the board is silent; what else comes does not count."""
        silent = time.monotonic() + self.silence_seconds
        while time.monotonic() < silent:
            for line in self._receive(command):
                record = parse(line)
                if record is None:
                    self._heard = line.strip() or self._heard
                    log.debug("%s: no record: %r", self.port, line)
                    continue
                if record.kind not in _NOT_OURS:
                    silent = time.monotonic() + self.silence_seconds
                yield record

    def _receive(self, command: str) -> list[bytes]:
        """Whole lines; none when nothing comes for a moment."""
        with self._explained(command):
            data = self.device.read(1)
            data += self.device.read(self.device.in_waiting)
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _LONGEST_LINE:  # no line of anything that speaks this protocol
            self._rest = b""
        return lines

    def _forget(self) -> None:
        """What came before a command is no answer to it."""
        with self._explained(""):
            self.device.read(self.device.in_waiting)
        self._rest = b""

    def _send(self, command: str) -> None:
        with self._explained(command):
            log.debug("%s: asked %r", self.port, command)
            self.device.write(command.encode() + b"\n")

    @contextmanager
    def _explained(self, command: str) -> Iterator[None]:
        from serial import SerialTimeoutException

        try:
            yield
        except SerialTimeoutException:
            raise ToolchainError(
                f"{self.port}: the board took no command for {self.device.write_timeout} s; "
                f"{self._advice()}"
            ) from None
        except (OSError, termios.error) as error:
            raise ToolchainError(
                f"{self.port}: the connection was lost"
                f"{f' while the board was asked {command.split()[0]!r}' if command else ''} "
                f"({error}); is it still plugged in? Run again"
            ) from None


def _last_lines(records: list[Record], count: int) -> list[Record]:
    """A command's own lines: what came before them is of an earlier answer that lost its end."""
    if count > len(records):
        raise DamagedError(
            f"{count - len(records)} of the answer's {count} lines were lost or damaged"
        )
    return records[len(records) - count :]
