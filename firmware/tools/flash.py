"""Builds the sketch for an Arduino Nano 33 BLE, shows how full the board gets, and flashes it.

    python3 tools/flash.py [--port P] [--no-upload] [--monitor]

Needs PlatformIO and Python 3.8, nothing else. Results go to stdout, the rest to stderr; every error
is one line. Exit codes: 0 ok, 2 usage, 4 the program does not fit, 5 PlatformIO, port or board,
130 interrupted.
"""

from __future__ import annotations

import argparse
import errno
import importlib.util
import json
import os
import re
import shlex
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
ENVIRONMENT = "nano33ble"
FLASH_BYTES, RAM_BYTES = 983_040, 262_144
"""What a sketch may use of the Nano 33 BLE's flash, and all of its RAM."""

REMEDIES = {
    "flash": "--max-flash-bytes at least that much below its weights and tables",
    "RAM": "--max-ram-bytes at least that much below its RAM arena",
}

USB_IDS = ("2341:805A", "2341:005A", "2341:015A", "2341:025A")
"""Vendor and product that Arduino gave the board: running a sketch, in its bootloader, others."""

INFEASIBLE, TOOLCHAIN, INTERRUPTED = 4, 5, 130

DOUBLE_TAP = "double-tap its reset button (the orange LED fades) and try again"
NO_BOARD = f"no Nano 33 BLE found; plug it in, use a data cable, or {DOUBLE_TAP}"
NO_PLATFORMIO = "PlatformIO not found; install it with: python3 -m pip install platformio"
BUSY = "{port} is in use by another program; close the serial monitor and try again"
DENIED = "{port}: no permission; type: sudo usermod -aG dialout $USER, then log in again"
GONE = f"{{port}} is gone; plug the board in again, or {DOUBLE_TAP}"

# What PlatformIO, bossac and pyserial print, and what a user can do about it.
BUILD_FAILURES = (
    (r"No module named '?platformio", NO_PLATFORMIO),
    (
        r"^(HTTPClientError|InternetConnectionError):",
        "no network: PlatformIO downloads the Arduino core at the first build; connect this "
        "computer to the internet and try again",
    ),
    (
        r"^(UnknownPlatform|UnknownPackageError|IncompatiblePackageError): ",
        "PlatformIO lacks what the Nano 33 BLE needs; connect this computer to the internet and "
        f"type: pio pkg install -e {ENVIRONMENT}",
    ),
)
UPLOAD_FAILURES = (
    (r"could not open port .*(Permission denied|PermissionError)", DENIED),
    (r"could not open port .*(busy|Access is denied)|exclusively lock port", BUSY),
    (r"could not open port|Couldn't find a board on the selected port", GONE),
    (r"No device found on|No serial ports available", f"{{port}}: no bootloader; {DOUBLE_TAP}"),
    (
        r"SAM-BA operation failed|Flash (command|erase) ",
        f"{{port}}: the upload broke off; use another cable or USB socket, {DOUBLE_TAP}",
    ),
    (r"specify `upload_port`", NO_BOARD),
)


class Failure(Exception):
    """Ends the program with a line on stderr and an exit code."""

    def __init__(self, message: str, exit_code: int = TOOLCHAIN) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    try:
        pio = find_pio(options.pio)
        result = monitor(pio, options) if options.monitor else flash(pio, options)
    except Failure as failure:
        print(f"flash: error: {failure}", file=sys.stderr)
        return failure.exit_code
    except KeyboardInterrupt:
        print("flash: interrupted", file=sys.stderr)
        return INTERRUPTED
    if options.json:
        print(json.dumps(result, indent=2))
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pio", metavar="CMD", help="how to call PlatformIO")
    parser.add_argument("--port", metavar="P", help="the board's serial port, when there are more")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--no-upload", action="store_true", help="only build and measure")
    what.add_argument("--monitor", action="store_true", help="only show what the board prints")
    parser.add_argument("--json", action="store_true", help="print JSON for scripts")
    parser.add_argument("-v", dest="verbose", action="store_true", help="show the upload too")
    parser.add_argument("-q", dest="quiet", action="store_true", help="only errors and results")
    return parser.parse_args(arguments)


def flash(pio: list[str], options: argparse.Namespace) -> dict:
    """Build, measure and, unless told not to, upload; the figures for --json."""
    if not options.quiet:
        _say(f"build for {ENVIRONMENT}")
    program = build(pio, echo=not options.quiet)
    flash_bytes, ram_bytes = measure(program)
    if not options.json:
        print(bar("Flash", flash_bytes, FLASH_BYTES, "measured"))
        print(bar("RAM", ram_bytes, RAM_BYTES, "measured"), flush=True)
    check_fits(flash_bytes, ram_bytes)
    port = None
    if not options.no_upload:
        port = choose_port(list_ports(pio), options.port)
        check_free(port)
        if not options.quiet:
            _say(f"upload to {port}")
        upload(pio, port, echo=options.verbose, dots=not options.quiet)
        if not options.json:
            print(f"uploaded to {port}; next: {_next_step(port)}")
    return {"flash_bytes": flash_bytes, "ram_bytes": ram_bytes, "port": port}


def monitor(pio: list[str], options: argparse.Namespace) -> dict:
    """PlatformIO's serial monitor on the board's port, until the user leaves it."""
    port = choose_port(list_ports(pio), options.port)
    check_free(port)
    command = [*pio, "device", "monitor", "-e", ENVIRONMENT, "--port", port]
    status = _start(subprocess.call, command, cwd=PROJECT)
    if status:
        raise Failure(f"{port}: PlatformIO's monitor ended with status {status}, see above")
    return {"port": port}


def _next_step(port: str) -> str:
    directory = os.path.relpath(PROJECT)
    make = "make" if directory == "." else f"make -C {shlex.quote(directory)}"
    return f"{make} monitor, or redsc bench {shlex.quote(directory)} --port {port}"


def _say(text: str) -> None:
    print(f"flash: {text}", file=sys.stderr, flush=True)


# PlatformIO


def find_pio(given: str | None) -> list[str]:
    """The command that starts PlatformIO: the one given, on the PATH, its installer's, Python's."""
    installed = Path.home() / ".platformio" / "penv" / "bin" / "pio"
    for command in [shlex.split(given)] if given else [["pio"], ["platformio"], [str(installed)]]:
        found = shutil.which(command[0]) if command else None
        if found:
            # It is started in another directory than this one.
            return [str(Path(found).absolute()), *command[1:]]
    if not given and importlib.util.find_spec("platformio"):
        return [sys.executable, "-m", "platformio"]
    raise Failure(NO_PLATFORMIO)


def run(command: list[str], echo: bool, dots: bool = False) -> tuple[int, str]:
    """Status and output of a command; meanwhile stderr has the output, or a dot per line."""
    process = _start(
        subprocess.Popen,
        command,
        cwd=PROJECT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    lines = []
    for line in process.stdout:
        lines.append(line)
        if echo or dots:
            sys.stderr.write(line if echo else ".")
            sys.stderr.flush()
    if dots and not echo:
        sys.stderr.write("\n")
    return process.wait(), "".join(lines)


def _start(function: Callable[..., Any], command: list[str], **how: Any) -> Any:
    """What subprocess's function returns; Failure when the command cannot be started."""
    try:
        return function(command, **how)
    except OSError as error:
        raise Failure(f"cannot run {command[0]}: {error.strerror}") from None


def build(pio: list[str], echo: bool) -> Path:
    """The linked program, an ELF file."""
    status, said = run([*pio, "run", "-e", ENVIRONMENT], echo)
    if status == 0:
        named = re.findall(r"^Checking size (.+\.elf)$", said, re.MULTILINE)
        return PROJECT / (named[-1] if named else f".pio/build/{ENVIRONMENT}/firmware.elf")
    if not echo:
        sys.stderr.write(said)
    _check_overflow(said)
    explained = explain(said, BUILD_FAILURES)
    raise Failure(explained or f"the build for {ENVIRONMENT} failed; what it said is above")


def upload(pio: list[str], port: str, echo: bool, dots: bool) -> None:
    """Has PlatformIO put the built program on the board; its output is shown when it fails."""
    command = [*pio, "run", "-e", ENVIRONMENT, "-t", "upload", "--upload-port", port]
    status, said = run(command, echo, dots)
    if status == 0:
        return
    if not echo:
        sys.stderr.write(said)
    explained = explain(said, (*UPLOAD_FAILURES, *BUILD_FAILURES))
    unknown = "{port}: the upload failed; what it said is above"
    raise Failure((explained or unknown).format(port=port))


def explain(said: str, known: tuple) -> str | None:
    """The message of the first known failure in what a tool said."""
    for pattern, message in known:
        if re.search(pattern, said, re.MULTILINE):
            return message
    return None


# Size


def measure(program: Path) -> tuple[int, int]:
    """Bytes of flash and of RAM that a linked program takes.

    RAM is all but the section .heap, which the core's linker script stretches over what is left.
    """
    try:
        text, data, bss, heap = section_sizes(program.read_bytes())
    except (OSError, ValueError, struct.error) as error:
        raise Failure(f"{program}: cannot be measured: {error}; type: make clean") from None
    return text + data, data + bss - heap


def section_sizes(elf: bytes) -> tuple[int, int, int, int]:
    """text, data and bss bytes of a 32-bit little-endian ELF as `size -B` counts them; .heap's."""
    if elf[:6] != b"\x7fELF\x01\x01":
        raise ValueError("not a 32-bit little-endian ELF file")
    nobits, write, allocated, executable = 8, 1, 2, 4
    (table,) = struct.unpack_from("<I", elf, 32)
    entry_bytes, count, names_index = struct.unpack_from("<HHH", elf, 46)
    sections = [
        struct.unpack_from("<IIIIII", elf, table + number * entry_bytes) for number in range(count)
    ]
    names = sections[names_index][4]
    text = data = bss = heap = 0
    for name, kind, flags, _, _, size in sections:
        if not flags & allocated:
            continue
        if flags & executable or not flags & write:
            text += size
        elif kind != nobits:
            data += size
        else:
            bss += size
            heap += size if elf.startswith(b".heap\0", names + name) else 0
    return text, data, bss, heap


def bar(name: str, used: int, total: int, mark: str) -> str:
    """One line that shows how full a memory is; `mark` says where the figure is from."""
    full = "=" * min(10, round(10 * used / total))
    return f"{name:5} [{full:10}] {100 * used / total:5.1f} %  {used:>7,} of {total:,} B  {mark}"


def check_fits(flash_bytes: int, ram_bytes: int) -> None:
    """Raises Failure when the program is larger than the board."""
    excess = {"flash": flash_bytes - FLASH_BYTES, "RAM": ram_bytes - RAM_BYTES}
    _refuse({memory: f"{over:,} B" for memory, over in excess.items() if over > 0})


def _check_overflow(said: str) -> None:
    """Raises Failure when the linker, or PlatformIO after it, refused for size."""
    excess = {}
    if "heap region overflowed into stack" in said:  # the core's linker script, of its .heap
        excess["RAM"] = "up to 2,048 B"
    for end, limit in re.findall(r"location counter backwards \(from (2\w+) to (2\w+)\)", said):
        excess["RAM"] = f"{int(end, 16) - int(limit, 16):,} B"
    for region, over in re.findall(r"region `(FLASH|RAM)' overflowed by (\d+) bytes", said):
        excess["flash" if region == "FLASH" else region] = f"{int(over):,} B"
    for used, total in re.findall(r"program size \((\d+) bytes\) is greater .*\((\d+)", said):
        excess["flash"] = f"{int(used) - int(total):,} B"
    _refuse(excess)


def _refuse(excess: dict[str, str]) -> None:
    """Raises Failure that tells by how much each memory is exceeded; no memory, no Failure."""
    totals = {"flash": FLASH_BYTES, "RAM": RAM_BYTES}
    lines = [
        f"{memory}: {over} more than the Nano 33 BLE's {totals[memory]:,} B; compile the model "
        f"again with {REMEDIES[memory]}"
        for memory, over in excess.items()
    ]
    if lines:
        raise Failure("; ".join(lines) + "; nothing was uploaded", INFEASIBLE)


# Port


def list_ports(pio: list[str]) -> list[dict]:
    """PlatformIO's list of serial ports: of each `port`, `description` and `hwid`."""
    command = [*pio, "device", "list", "--serial", "--json-output"]
    finished = _start(
        subprocess.run, command, cwd=PROJECT, capture_output=True, text=True, errors="replace"
    )
    try:
        return list(json.loads(finished.stdout))
    except ValueError:
        last = (finished.stderr.strip() or "no output").splitlines()[-1]
        explained = explain(finished.stderr, BUILD_FAILURES)
        raise Failure(explained or f"PlatformIO cannot list serial ports: {last}") from None


def choose_port(ports: list[dict], given: str | None) -> str:
    """The port of the one Nano 33 BLE, or the given one if it is a Nano 33 BLE's."""
    boards = [entry["port"] for entry in ports if _usb_id(entry) in USB_IDS]
    if given is None:
        if len(boards) > 1:
            raise Failure(f"several Nano 33 BLE: {', '.join(boards)}; say which with --port")
        if not boards:
            raise Failure(NO_BOARD)
        return boards[0]
    target = os.path.realpath(given)
    for entry in ports:
        if entry["port"] in (given, target):
            if entry["port"] in boards:
                return entry["port"]
            usb = _usb_id(entry)
            what = f"{entry['description']}, USB {usb}" if usb else "not a USB device"
            raise Failure(f"{given}: wrong board ({what}), not a Nano 33 BLE; {_there(boards)}")
    raise Failure(f"{given}: no such serial port; {_there(boards)}")


def _usb_id(entry: dict) -> str | None:
    found = re.search(r"VID:PID=([0-9A-F]{4}:[0-9A-F]{4})", entry["hwid"].upper())
    return found[1] if found else None


def _there(boards: list[str]) -> str:
    return f"use --port {' or '.join(boards)}" if boards else NO_BOARD


def check_free(port: str) -> None:
    """Raises Failure when the port cannot be opened, or another program holds it for itself.

    Serial monitors either forbid a second open or, like PlatformIO's, lock the file.
    """
    if os.name != "posix":
        return
    import fcntl

    try:
        descriptor = os.open(port, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(descriptor)
    except OSError as error:
        busy = (errno.EBUSY, errno.EWOULDBLOCK)
        denied = (errno.EACCES, errno.EPERM)
        message = BUSY if error.errno in busy else DENIED if error.errno in denied else GONE
        raise Failure(message.format(port=port)) from None


if __name__ == "__main__":
    sys.exit(main())
