"""tools/flash.py and `redsc flash`: sizes, ports and failures, with stand-ins for PlatformIO.

The stand-ins print what PlatformIO 6, bossac and pyserial print; no board was there to upload to.
"""

from __future__ import annotations

import importlib.util
import json
import os
import pty
import shlex
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from test_toolchain import make_project, needs_compilers

import redsc
from redsc import boards, output, report, resources, toolchain

SCRIPT = resources.firmware_dir() / "tools" / "flash.py"

PIO = """
import json, sys
from pathlib import Path
acts = json.loads(Path({acts!r}).read_text())
arguments = sys.argv[1:]
with Path({calls!r}).open("a") as file:
    file.write(json.dumps(arguments) + "\\n")
verb = arguments[1] if arguments[0] == "device" else "upload" if "upload" in arguments else "build"
said, status = acts[verb]
print(said, file=sys.stderr if status else sys.stdout)
sys.exit(status)
"""
"""PlatformIO as a script: what it says and how it ends, by what it is asked for."""

BUILT = """Processing nano33ble (platform: nordicnrf52@10.11.0; board: nano33ble)
Linking .pio/build/nano33ble/firmware.elf
Checking size .pio/build/nano33ble/firmware.elf
Advanced Memory Usage is available via "PlatformIO Home > Project Inspect"
RAM:   [==        ]  19.1% (used 50000 bytes from 262144 bytes)
Flash: [====      ]  39.8% (used 391234 bytes from 983040 bytes)
Building .pio/build/nano33ble/firmware.bin
========================= [SUCCESS] Took 0.61 seconds ========================="""

UPLOADING = """Configuring upload protocol...
AVAILABLE: blackmagic, cmsis-dap, jlink, nrfjprog, nrfutil, sam-ba
CURRENT: upload_protocol = sam-ba
Looking for upload port...
Using manually specified: /dev/ttyACM0
"""
TOUCHED = f"""{UPLOADING}Forcing reset using 1200bps open/close on port /dev/ttyACM0
Waiting for the new upload port...
"""
FLASHED = f"""{TOUCHED}Uploading .pio/build/nano33ble/firmware.bin
Erase flash

Done in 0.001 seconds
Write 391240 bytes to flash (96 pages)
[==============================] 100% (96/96 pages)
Done in 14.949 seconds
========================= [SUCCESS] Took 21.17 seconds ========================="""
FAILED = "\n========================= [FAILED] Took 0.61 seconds ========================="

NANO = "USB VID:PID=2341:805A SER=B8D2A93C5E1F7046 LOCATION=1-1:1.0"
BOOTLOADER = "USB VID:PID=2341:005A SER=B8D2A93C5E1F7046 LOCATION=1-1:1.0"
UNO = "USB VID:PID=2341:0043 SER=75830303934351F0D1B2 LOCATION=1-2:1.0"
NO_BOARD = (
    "no Nano 33 BLE found; plug it in, use a data cable, or double-tap its reset button "
    "(the orange LED fades) and try again"
)


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("flash_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


flash = load()


def elf(*sections: tuple[str, int, int, int]) -> bytes:
    """A 32-bit ELF of section headers alone: name, type (1 contents, 8 none), flags, bytes."""
    names = b"\0" + b"".join(name.encode() + b"\0" for name, *_ in (*sections, (".shstrtab",)))
    rows = [(0,) * 10]
    for name, kind, flags, size in (*sections, (".shstrtab", 3, 0, len(names))):
        rows.append((names.index(name.encode()), kind, flags, 0, 52, size, 0, 0, 0, 0))
    header = b"\x7fELF\x01\x01\x01".ljust(16, b"\0")
    header += struct.pack("<HHIIIIIHHHHHH", 2, 40, 1, 0, 0, 52 + len(names), 0, 52, 0, 0, 40,
                          len(rows), len(rows) - 1)  # fmt: skip
    return header + names + b"".join(struct.pack("<10I", *row) for row in rows)


def program(flash_bytes: int = 391_234, ram_bytes: int = 50_000) -> bytes:
    """Sections as the Arduino core's linker script makes them: the heap takes what is left."""
    return elf(
        (".text", 1, 6, flash_bytes - 1_008),
        (".ARM.exidx", 1, 2, 8),
        (".data", 1, 3, 1_000),
        (".bss", 8, 3, ram_bytes - 1_000 - 2_048),
        (".heap", 8, 3, max(0, 262_144 - ram_bytes)),
        (".stack", 8, 3, 2_048),
        (".debug_frame", 1, 0, 5_408),
    )


class Board:
    """An emitted project, a port that can be opened, and a PlatformIO that acts as told."""

    def __init__(self, folder: Path, port: str) -> None:
        self.project, self.port = folder / "fw", port
        shutil.copytree(SCRIPT.parent, self.project / "tools")
        self.set_program(program())
        self.acts: dict[str, Any] = {
            "build": (BUILT, 0),
            "list": (json.dumps([self.entry()]), 0),
            "upload": (FLASHED, 0),
            "monitor": ("--- Terminal on /dev/ttyACM0 | 115200 8-N-1", 0),
        }
        self.calls_file, self.acts_file = folder / "calls", folder / "acts.json"
        self.pio = folder / "pio stand-in.py"
        paths = {"acts": str(self.acts_file), "calls": str(self.calls_file)}
        self.pio.write_text(PIO.format(**paths))

    def entry(self, hwid: str = NANO, port: str | None = None, name: str = "") -> dict[str, str]:
        return {"port": port or self.port, "description": name or "Nano 33 BLE", "hwid": hwid}

    def lists(self, *entries: dict[str, str]) -> None:
        self.acts["list"] = (json.dumps(entries), 0)

    def set_program(self, content: bytes) -> None:
        path = self.project / ".pio" / "build" / "nano33ble" / "firmware.elf"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def run(self, *options: str) -> subprocess.CompletedProcess[str]:
        self.acts_file.write_text(json.dumps(self.acts))
        pio = shlex.join([sys.executable, str(self.pio)])
        command = [sys.executable, "tools/flash.py", "--pio", pio, *options]
        return subprocess.run(
            command, cwd=self.project, capture_output=True, text=True, timeout=60, check=False
        )

    def fails(self, code: int, message: str, *options: str) -> subprocess.CompletedProcess[str]:
        """Runs it; the last line of stderr is the whole message."""
        finished = self.run(*options)
        assert finished.returncode == code, finished.stderr
        assert finished.stderr.splitlines()[-1] == f"flash: error: {message}"
        assert finished.stderr.count("flash: error:") == 1
        assert "Traceback" not in finished.stderr
        return finished

    def calls(self) -> list[str]:
        return [" ".join(json.loads(line)) for line in self.calls_file.read_text().splitlines()]


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    leader, follower = pty.openpty()
    yield Board(tmp_path, os.ttyname(follower))
    os.close(leader)
    os.close(follower)


# Sizes


def test_limits_and_bars_are_those_of_redsc() -> None:
    nano = boards.board("nano33ble")
    assert (nano.flash_bytes, nano.ram_bytes) == (flash.FLASH_BYTES, flash.RAM_BYTES)
    line = "Flash [====      ]  39.8 %  391,234 of 983,040 B  measured"
    assert flash.bar("Flash", 391_234, 983_040, "measured") == line
    line = "RAM   [==========] 114.4 %  300,000 of 262,144 B  estimate"
    assert flash.bar("RAM", 300_000, 262_144, "estimate") == line
    for used in (0, 1, 49_152, 983_039, 983_040, 2_000_000):
        arguments = ("Flash", used, 983_040, "measured")
        assert flash.bar(*arguments) == report.bar(*arguments)


def test_ram_is_all_but_the_heap() -> None:
    assert flash.section_sizes(program(391_234, 50_000)) == (390_234, 1_000, 261_144, 212_144)


@pytest.mark.parametrize("content", [b"", b"\x7fELF\x02\x01" + bytes(60), program()[:80]])
def test_a_program_that_cannot_be_read_is_not_uploaded(board: Board, content: bytes) -> None:
    board.set_program(content)
    finished = board.run()
    assert finished.returncode == 5
    assert "firmware.elf: cannot be measured: " in finished.stderr
    assert board.calls() == ["run -e nano33ble"]


C_PROGRAM = """
#ifndef TABLE
#define TABLE 100
#endif
const int table[TABLE] = {1};
int counts[25] = {1};
static char arena[ARENA];
char* volatile place;
int main(void) { place = arena; return table[counts[0]]; }
"""
HEAP_SCRIPT = """
MEMORY { FLASH (rx) : ORIGIN = 0, LENGTH = 0xefe00  RAM (rwx) : ORIGIN = 0x20000000, LENGTH = 256K }
SECTIONS {
  .text : { *(.text*) *(.rodata*) } > FLASH
  .data : { *(.data*) } > RAM AT > FLASH
  .bss : { *(.bss* COMMON) } > RAM
  .heap (NOLOAD) : {
    ASSERT(. <= ORIGIN(RAM) + LENGTH(RAM) - 2048, "heap region overflowed into stack");
    . = ORIGIN(RAM) + LENGTH(RAM) - 2048;
  } > RAM
  .stack (NOLOAD) : { . = ORIGIN(RAM) + LENGTH(RAM); } > RAM
}
"""
"""Regions, heap and stack as in the Arduino core's linker script."""


def link(folder: Path, *flags: str) -> tuple[Path, str]:
    """A Cortex-M4 program, and what the linker said."""
    (folder / "main.c").write_text(C_PROGRAM)
    command = ["arm-none-eabi-gcc", "-mcpu=cortex-m4", "-mthumb", "-O2", "-nostdlib", "-e", "main"]
    command += [*flags, "main.c", "-o", "firmware.elf"]
    said = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).stderr
    return folder / "firmware.elf", said


@needs_compilers
@pytest.mark.parametrize("arena_bytes", [1, 5_000, 300_000])
def test_sizes_are_those_of_the_size_tool(tmp_path: Path, arena_bytes: int) -> None:
    built, _ = link(tmp_path, f"-DARENA={arena_bytes}")
    *sizes, heap_bytes = flash.section_sizes(built.read_bytes())
    assert tuple(sizes) == toolchain.program_sizes(built, "arm-none-eabi-size")
    assert heap_bytes == 0
    assert flash.measure(built) == (sizes[0] + sizes[1], sizes[1] + sizes[2])


@needs_compilers
def test_a_heap_that_takes_the_rest_is_no_use_of_ram(tmp_path: Path) -> None:
    (tmp_path / "board.ld").write_text(HEAP_SCRIPT)
    built, said = link(tmp_path, "-DARENA=5000", "-Tboard.ld")
    assert "overflowed" not in said
    *sizes, heap_bytes = flash.section_sizes(built.read_bytes())
    assert tuple(sizes) == toolchain.program_sizes(built, "arm-none-eabi-size")
    assert sizes[1] + sizes[2] >= 262_144
    _, ram_bytes = flash.measure(built)
    assert ram_bytes == sizes[1] + sizes[2] - heap_bytes
    assert 5_000 + 100 + 2_048 <= ram_bytes < 5_000 + 100 + 2_048 + 64


@needs_compilers
def test_a_program_over_the_limit_is_not_uploaded(board: Board, tmp_path: Path) -> None:
    built, _ = link(tmp_path, "-DARENA=300000")
    board.set_program(built.read_bytes())
    _, ram_bytes = flash.measure(built)
    finished = board.fails(
        4,
        f"RAM: {ram_bytes - 262_144:,} B more than the Nano 33 BLE's 262,144 B; compile the model "
        "again with --max-ram-bytes at least that much below its RAM arena; nothing was uploaded",
    )
    assert f"RAM   [==========] 114.5 %  {ram_bytes:,} of 262,144 B  measured" in finished.stdout
    assert board.calls() == ["run -e nano33ble"]


def test_both_memories_over_the_limit_are_named(board: Board) -> None:
    board.set_program(program(983_041, 262_144 + 7_856))
    board.fails(
        4,
        "flash: 1 B more than the Nano 33 BLE's 983,040 B; compile the model again with "
        "--max-flash-bytes at least that much below its weights and tables; RAM: 7,856 B more than "
        "the Nano 33 BLE's 262,144 B; compile the model again with --max-ram-bytes at least that "
        "much below its RAM arena; nothing was uploaded",
    )
    assert board.calls() == ["run -e nano33ble"]


@needs_compilers
@pytest.mark.parametrize(
    ("flags", "memory", "option", "part", "excess"),
    [
        (("-DARENA=300000",), "RAM", "--max-ram-bytes", "RAM arena", range(40_000, 41_000)),
        (("-DARENA=260500",), "RAM", "--max-ram-bytes", "RAM arena", range(1, 2_048)),
        (
            ("-DARENA=1", "-DTABLE=250000"),
            "flash",
            "--max-flash-bytes",
            "weights and tables",
            range(17_472, 18_000),
        ),
    ],
)
def test_what_the_linker_refuses_for_size_does_not_fit(
    board: Board,
    tmp_path: Path,
    flags: tuple[str, ...],
    memory: str,
    option: str,
    part: str,
    excess: range,
) -> None:
    (tmp_path / "board.ld").write_text(HEAP_SCRIPT)
    _, said = link(tmp_path, "-Tboard.ld", *flags)
    board.acts["build"] = (f"{said}*** [.pio/build/nano33ble/firmware.elf] Error 1{FAILED}", 1)
    finished = board.run()
    assert finished.returncode == 4, finished.stderr
    start = f"flash: error: {memory}: "
    message = finished.stderr.splitlines()[-1]
    over = int(message.removeprefix(start).split()[0].replace(",", ""))
    assert over in excess
    total = {"RAM": "262,144", "flash": "983,040"}[memory]
    assert message == (
        f"{start}{over:,} B more than the Nano 33 BLE's {total} B; compile the model again with "
        f"{option} at least that much below its {part}; nothing was uploaded"
    )


@pytest.mark.parametrize(
    ("said", "excess"),
    [
        ("ld: region `RAM' overflowed by 12345 bytes", "12,345"),
        ("ld: heap region overflowed into stack", "up to 2,048"),
    ],
)
def test_other_words_of_the_linker_for_it(board: Board, said: str, excess: str) -> None:
    board.acts["build"] = (f"{said}\ncollect2: error: ld returned 1 exit status{FAILED}", 1)
    board.fails(
        4,
        f"RAM: {excess} B more than the Nano 33 BLE's 262,144 B; compile the model again with "
        "--max-ram-bytes at least that much below its RAM arena; nothing was uploaded",
    )


def test_what_platformio_refuses_for_size_does_not_fit(board: Board) -> None:
    said = "Error: The program size (983140 bytes) is greater than maximum allowed (983040 bytes)"
    board.acts["build"] = (f"{said}\n*** [checkprogsize] Explicit exit, status 1{FAILED}", 1)
    board.fails(
        4,
        "flash: 100 B more than the Nano 33 BLE's 983,040 B; compile the model again with "
        "--max-flash-bytes at least that much below its weights and tables; nothing was uploaded",
    )


# Success


def test_it_builds_measures_and_uploads(board: Board) -> None:
    finished = board.run()
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.splitlines() == [
        "Flash [====      ]  39.8 %  391,234 of 983,040 B  measured",
        "RAM   [==        ]  19.1 %   50,000 of 262,144 B  measured",
        f"uploaded to {board.port}; next: make monitor, or redsc bench . --port {board.port}",
    ]
    dots = "." * (FLASHED.count("\n") + 1)
    assert finished.stderr == (
        f"flash: build for nano33ble\n{BUILT}\nflash: upload to {board.port}\n{dots}\n"
    )
    assert board.calls() == [
        "run -e nano33ble",
        "device list --serial --json-output",
        f"run -e nano33ble -t upload --upload-port {board.port}",
    ]


def test_options_say_more_less_or_json(board: Board) -> None:
    assert "Erase flash" in board.run("-v").stderr
    assert board.run("-q").stderr == ""
    assert json.loads(board.run("--json").stdout) == {
        "flash_bytes": 391_234,
        "ram_bytes": 50_000,
        "port": board.port,
    }
    board.calls_file.unlink()
    assert json.loads(board.run("--json", "--no-upload").stdout)["port"] is None
    assert board.calls() == ["run -e nano33ble"]


def test_the_next_step_can_be_typed_where_the_user_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(flash, "PROJECT", tmp_path / "my fw")
    monkeypatch.chdir(tmp_path)
    assert flash._next_step("P") == "make -C 'my fw' monitor, or redsc bench 'my fw' --port P"


# Failures of the build


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (
            # PlatformIO's whole output without network; the reason after the colon is empty
            "Platform Manager: Installing nordicnrf52 @ 10.11.0\nHTTPClientError: ",
            "no network: PlatformIO downloads the Arduino core at the first build; connect this "
            "computer to the internet and try again",
        ),
        (
            "InternetConnectionError: You are not connected to the Internet.\nPlatformIO needs the "
            "Internet connection to download dependent packages or to work with PlatformIO "
            "Account.",
            "no network: PlatformIO downloads the Arduino core at the first build; connect this "
            "computer to the internet and try again",
        ),
        (
            "UnknownPackageError: Could not find the package with 'nordicnrf52 @ 10.11.0' "
            "requirements",
            "PlatformIO lacks what the Nano 33 BLE needs; connect this computer to the internet "
            "and type: pio pkg install -e nano33ble",
        ),
        (
            "UnknownPlatform: Unknown development platform 'nordicnrf52@10.11.0'",
            "PlatformIO lacks what the Nano 33 BLE needs; connect this computer to the internet "
            "and type: pio pkg install -e nano33ble",
        ),
        (
            f"{sys.executable}: No module named platformio",
            "PlatformIO not found; install it with: python3 -m pip install platformio",
        ),
        (
            "src/main.cpp:3:1: error: 'nonsense' was not declared in this scope\n"
            f"*** [.pio/build/nano33ble/src/main.cpp.o] Error 1{FAILED}",
            "the build for nano33ble failed; what it said is above",
        ),
    ],
)
@pytest.mark.parametrize("quiet", [False, True])
def test_a_failed_build_is_explained(board: Board, said: str, message: str, quiet: bool) -> None:
    board.acts["build"] = (said, 1)
    finished = board.fails(5, message, *["-q"] * quiet)
    assert finished.stderr.count(said.strip()) == 1
    assert finished.stdout == ""
    assert board.calls() == ["run -e nano33ble"]


def test_no_platformio(tmp_path: Path) -> None:
    shutil.copytree(SCRIPT.parent, tmp_path / "tools")
    message = "PlatformIO not found; install it with: python3 -m pip install platformio"
    environment = {"PATH": str(tmp_path), "HOME": str(tmp_path)}
    for options in (["--pio", "no-such-pio"], []):
        # Without -m platformio to fall back on: an isolated Python sees no site-packages.
        command = [sys.executable, "-I", "-S", "tools/flash.py", *options]
        finished = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment
        )
        assert finished.returncode == 5
        assert finished.stderr == f"flash: error: {message}\n"


def test_platformio_is_found_in_its_own_installation(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    installed = tmp_path / ".platformio" / "penv" / "bin" / "pio"
    installed.parent.mkdir(parents=True)
    installed.write_text("#!/bin/sh\n")
    installed.chmod(0o755)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    assert flash.find_pio(None) == [str(installed)]
    monkeypatch.setenv("HOME", "/nowhere")
    assert flash.find_pio(None) == [sys.executable, "-m", "platformio"]
    monkeypatch.chdir(installed.parent)
    assert flash.find_pio("./pio --no-ansi") == [str(installed), "--no-ansi"]


# Ports


def test_no_board(board: Board) -> None:
    for entries in ([], [board.entry("n/a", "/dev/ttyS0", "n/a")], [board.entry(UNO)]):
        board.lists(*entries)
        board.fails(5, NO_BOARD)
    assert not [call for call in board.calls() if "upload" in call]


def test_a_board_in_its_bootloader_is_a_board(board: Board) -> None:
    board.lists(board.entry("n/a", "/dev/ttyS0"), board.entry(BOOTLOADER))
    assert board.run().returncode == 0


def test_two_boards_need_a_choice(board: Board) -> None:
    board.lists(board.entry(port="/dev/ttyACM7"), board.entry())
    board.fails(5, f"several Nano 33 BLE: /dev/ttyACM7, {board.port}; say which with --port")
    assert board.run("--port", board.port).returncode == 0
    assert board.calls()[-1].endswith(f"--upload-port {board.port}")


def test_another_name_of_the_port_will_do(board: Board, tmp_path: Path) -> None:
    (tmp_path / "usb-Arduino_Nano_33_BLE").symlink_to(board.port)
    assert board.run("--port", str(tmp_path / "usb-Arduino_Nano_33_BLE")).returncode == 0
    assert board.calls()[-1].endswith(f"--upload-port {board.port}")


def test_another_device_on_the_port_is_named(board: Board) -> None:
    uno = board.entry(UNO, "/dev/ttyACM5", "Arduino Uno")
    board.lists(uno, board.entry("n/a", "/dev/ttyS0", "n/a"))
    board.fails(
        5,
        "/dev/ttyACM5: wrong board (Arduino Uno, USB 2341:0043), not a Nano 33 BLE; " + NO_BOARD,
        "--port",
        "/dev/ttyACM5",
    )
    board.lists(uno, board.entry("n/a", "/dev/ttyS0", "n/a"), board.entry())
    board.fails(
        5,
        f"/dev/ttyS0: wrong board (not a USB device), not a Nano 33 BLE; use --port {board.port}",
        "--port",
        "/dev/ttyS0",
    )
    assert not [call for call in board.calls() if "upload" in call]


def test_a_port_that_does_not_exist(board: Board) -> None:
    message = f"/dev/ttyACM9: no such serial port; use --port {board.port}"
    board.fails(5, message, "--port", "/dev/ttyACM9")
    board.lists()
    board.fails(5, f"/dev/ttyACM9: no such serial port; {NO_BOARD}", "--port", "/dev/ttyACM9")


def test_a_serial_monitor_that_holds_the_port_is_named(board: Board) -> None:
    import serial

    busy = f"{board.port} is in use by another program; close the serial monitor and try again"
    with serial.Serial(board.port, exclusive=True):  # as PlatformIO's monitor opens it
        board.fails(5, busy)
        board.fails(5, busy, "--monitor")
    assert not [call for call in board.calls() if "upload" in call or "monitor" in call]
    assert board.run().returncode == 0


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (16, "P is in use by another program; close the serial monitor and try again"),
        (13, "P: no permission; type: sudo usermod -aG dialout $USER, then log in again"),
        (
            2,
            "P is gone; plug the board in again, or double-tap its reset button (the orange LED "
            "fades) and try again",
        ),
    ],
)
def test_a_port_that_cannot_be_opened(
    monkeypatch: pytest.MonkeyPatch, error: int, message: str
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(flash.os, "open", refuse)
    with pytest.raises(flash.Failure) as failure:
        flash.check_free("P")
    assert str(failure.value) == message
    assert failure.value.exit_code == 5


def test_a_list_of_ports_that_is_none(board: Board) -> None:
    board.acts["list"] = ("GetSerialPortsError: No implementation for your platform", 1)
    board.fails(
        5,
        "PlatformIO cannot list serial ports: GetSerialPortsError: No implementation for your "
        "platform",
    )


# Failures of the upload


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (
            f"{TOUCHED}Uploading .pio/build/nano33ble/firmware.bin\nNo device found on ttyACM0\n"
            "*** [upload] Error 1",
            "{port}: no bootloader; double-tap its reset button (the orange LED fades) and try "
            "again",
        ),
        (
            f"{TOUCHED}Uploading .pio/build/nano33ble/firmware.bin\nErase flash\n\n"
            "SAM-BA operation failed\n*** [upload] Error 1",
            "{port}: the upload broke off; use another cable or USB socket, double-tap its reset "
            "button (the orange LED fades) and try again",
        ),
        (
            f"{TOUCHED}Error: Couldn't find a board on the selected port. Check that you have the "
            "correct port selected. If it is correct, try pressing the board's reset button after "
            "initiating the upload.\n*** [upload] Explicit exit, status 1",
            "{port} is gone; plug the board in again, or double-tap its reset button (the orange "
            "LED fades) and try again",
        ),
        (
            f"{UPLOADING}*** [upload] could not open port /dev/ttyACM0: [Errno 2] No such file or "
            "directory: '/dev/ttyACM0'",
            "{port} is gone; plug the board in again, or double-tap its reset button (the orange "
            "LED fades) and try again",
        ),
        (
            f"{UPLOADING}*** [upload] could not open port /dev/ttyACM0: [Errno 13] Permission "
            "denied: '/dev/ttyACM0'",
            "{port}: no permission; type: sudo usermod -aG dialout $USER, then log in again",
        ),
        (
            f"{UPLOADING}*** [upload] could not open port /dev/ttyACM0: [Errno 16] Device or "
            "resource busy: '/dev/ttyACM0'",
            "{port} is in use by another program; close the serial monitor and try again",
        ),
        (
            "Error: Please specify `upload_port` for environment or use global `--upload-port` "
            "option.\nFor some development platforms it can be a USB flash drive (i.e. "
            "/media/<user>/<device name>)\n*** [upload] Explicit exit, status 1",
            NO_BOARD,
        ),
        (
            f"{TOUCHED}Uploading .pio/build/nano33ble/firmware.bin\nsh: 1: bossac: not found\n"
            "*** [upload] Error 127",
            "{port}: the upload failed; what it said is above",
        ),
    ],
)
@pytest.mark.parametrize("verbose", [False, True])
def test_a_failed_upload_is_explained(board: Board, said: str, message: str, verbose: bool) -> None:
    board.acts["upload"] = (said + FAILED, 1)
    finished = board.fails(5, message.format(port=board.port), *["-v"] * verbose)
    assert finished.stderr.count(said) == 1
    assert "uploaded" not in finished.stdout


# Monitor


def test_the_monitor_runs_on_the_boards_port(board: Board) -> None:
    finished = board.run("--monitor")
    assert finished.returncode == 0
    assert finished.stdout == "--- Terminal on /dev/ttyACM0 | 115200 8-N-1\n"
    assert board.calls() == [
        "device list --serial --json-output",
        f"device monitor -e nano33ble --port {board.port}",
    ]
    board.acts["monitor"] = ("UnknownPlatform: Unknown development platform 'nordicnrf52'", 1)
    message = f"{board.port}: PlatformIO's monitor ended with status 1, see above"
    board.fails(5, message, "--monitor")
    board.lists()
    assert board.fails(5, NO_BOARD, "--monitor").stdout == ""


# The command line


@pytest.fixture
def build(board: Board) -> Board:
    """The project as a build of redsc, and the stand-in as the platformio package."""
    manifest = {"schema_version": 1, "files": {"tools/flash.py": ""}}
    (board.project / output.MANIFEST).write_text(json.dumps(manifest))
    package = board.project.parent / "site" / "platformio"
    package.mkdir(parents=True)
    shutil.copy(board.pio, package / "__main__.py")
    (package / "__init__.py").write_text("")
    return board


def run_redsc(build: Board, *arguments: str) -> subprocess.CompletedProcess[str]:
    build.acts_file.write_text(json.dumps(build.acts))
    folder = build.project.parent
    path = os.pathsep.join([str(folder / "site"), str(Path(redsc.__file__).parent.parent)])
    return subprocess.run(
        [sys.executable, "-m", "redsc", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": path, "COLUMNS": "100"},
    )


def test_redsc_flash_runs_the_builds_script(build: Board) -> None:
    finished = run_redsc(build, "flash", "fw", "--port", build.port)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.splitlines()[-1] == (
        f"uploaded to {build.port}; next: make -C fw monitor, or redsc bench fw --port {build.port}"
    )
    assert json.loads(run_redsc(build, "flash", "fw", "--json", "-q").stdout)["ram_bytes"] == 50_000
    assert "Erase flash" in run_redsc(build, "flash", "fw", "-v").stderr
    assert "upload" not in run_redsc(build, "flash", "fw", "--no-upload").stdout


def test_redsc_flash_ends_with_the_scripts_exit_code(build: Board) -> None:
    build.lists()
    finished = run_redsc(build, "flash", "fw")
    assert finished.returncode == 5
    assert finished.stderr.splitlines()[-1] == f"flash: error: {NO_BOARD}"
    build.set_program(program(ram_bytes=262_145))
    assert run_redsc(build, "flash", "fw").returncode == 4


def test_redsc_flash_refuses_what_is_no_build(build: Board) -> None:
    finished = run_redsc(build, "flash", "site")
    assert finished.returncode == 2
    assert finished.stderr == (
        "redsc: error: site: is no build; give the directory redsc compile wrote\n"
    )
    shutil.rmtree(build.project / "tools")
    finished = run_redsc(build, "flash", "fw")
    assert finished.returncode == 2
    assert finished.stderr == (
        "redsc: error: fw: has no tools/flash.py; compile again, for a board: --target nano33ble\n"
    )


def test_help_is_what_it_was(build: Board) -> None:
    assert (
        run_redsc(build, "flash", "-h").stdout
        == """\
Usage: redsc flash [OPTIONS] DIRECTORY

  Build for an Arduino Nano 33 BLE, show how full it gets, and flash it.

  Runs DIRECTORY/tools/flash.py. The first build downloads the Arduino core.

Options:
  --port P     The board's serial port, when there are several.
  --no-upload  Only build and measure.
  --json       Print JSON for scripts.
  -q           Only errors and results.
  -v           Say more; -vv shows tracebacks.
  -h, --help   Show this message and exit.
"""
    )
    finished = build.run("-h")
    assert finished.returncode == 0
    options = {word.strip("]") for word in finished.stdout.split() if word.startswith("--")}
    assert options == {"--help", "--pio", "--port", "--no-upload", "--monitor", "--json"}
    assert build.run("--bogus").returncode == 2


# PlatformIO itself


BUILDER = """
import os
from SCons.Script import Default, DefaultEnvironment
from platformio.public import list_serial_ports
from serial import Serial

env = DefaultEnvironment()

def before_upload(target, source, env):
    env.AutodetectUploadPort()
    Serial(env.subst("$UPLOAD_PORT")).close()
    before = list_serial_ports()
    env.TouchSerialPort("$UPLOAD_PORT", 1200)
    if "WAIT" in os.environ:
        env.Replace(UPLOAD_PORT=env.WaitForNewSerialPort(before))

env.Replace(
    CC="arm-none-eabi-gcc", LINK="arm-none-eabi-gcc", SIZETOOL="arm-none-eabi-size",
    CCFLAGS=["-mcpu=cortex-m4", "-mthumb"], LINKFLAGS=["-nostdlib", "-e", "main"],
    PROGNAME="firmware", PROGSUFFIX=".elf", UPLOADCMD="bossac --port $UPLOAD_PORT $SOURCE",
)
program = env.BuildProgram()
env.AddPlatformTarget("upload", program, [
    env.VerboseAction(before_upload, "Looking for upload port..."),
    env.VerboseAction("$UPLOADCMD", "Uploading $SOURCE"),
])
Default(program)
"""
"""What an upload to the board does: touch the port at 1200 bit/s, wait for it, start bossac."""

MANIFEST = {"name": "nano", "title": "Nano", "version": "1.0.0", "description": "stand-in",
            "packages": {}, "frameworks": {}, "engines": {"platformio": "^6"}}  # fmt: skip
LIMITS = {"maximum_size": 983_040, "maximum_ram_size": 262_144, "protocol": "sam-ba"}
BOARD = {"name": "Nano 33 BLE", "vendor": "Arduino", "url": "https://arduino.cc", "frameworks": [],
         "build": {"mcu": "nrf52840", "cpu": "cortex-m4"}, "upload": LIMITS}  # fmt: skip


def make_platform(project: Path) -> None:
    """A PlatformIO platform for a project of one C file, in place of the board's."""
    platform = project / "platforms" / "nano"
    for name in ("builder", "boards"):
        (platform / name).mkdir(parents=True)
    (platform / "platform.json").write_text(json.dumps(MANIFEST))
    (platform / "platform.py").write_text(
        "from platformio.public import PlatformBase\nclass NanoPlatform(PlatformBase): pass\n"
    )
    (platform / "boards" / "nano33ble.json").write_text(json.dumps(BOARD))
    (platform / "builder" / "main.py").write_text(BUILDER)
    (project / "platformio.ini").write_text(
        "[env:nano33ble]\nplatform = symlink://${PROJECT_DIR}/platforms/nano\nboard = nano33ble\n"
    )
    (project / "src").mkdir()
    (project / "src" / "main.c").write_text(C_PROGRAM.replace("ARENA", "5000"))


@needs_compilers
@pytest.mark.slow
def test_platformio_uploads_with_a_stand_in_for_bossac(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real are PlatformIO's build, port handling and messages; a pseudo-terminal is the port."""
    make_platform(board.project)
    for name, value in toolchain.offline_environment().items():
        monkeypatch.setenv(name, value)
    wrapper = board.pio.read_text().partition("said, status")[0]
    board.pio.write_text(
        f"{wrapper}import subprocess\n"
        "if verb == 'list':\n    print(acts['list'][0])\n    sys.exit(0)\n"
        "sys.exit(subprocess.call([sys.executable, '-m', 'platformio', *arguments]))\n"
    )
    bossac = board.project.parent / "bin" / "bossac"
    bossac.parent.mkdir()
    monkeypatch.setenv("PATH", f"{bossac.parent}{os.pathsep}{os.environ['PATH']}")

    def bossac_does(text: str) -> None:
        bossac.write_text(f"#!/bin/sh\n{text}\n")
        bossac.chmod(0o755)

    bossac_does('echo "Done in 3.271 seconds"')
    finished = board.run("-v")
    assert finished.returncode == 0, finished.stderr
    assert "Forcing reset using 1200bps open/close on port" in finished.stderr
    assert finished.stdout.splitlines()[-1].startswith(f"uploaded to {board.port}; next: ")
    bossac_does('echo "No device found on $2" >&2\nexit 1')
    board.fails(
        5,
        f"{board.port}: no bootloader; double-tap its reset button (the orange LED fades) and try "
        "again",
    )
    # A pseudo-terminal is in no list of ports, so the wait for a new one ends without.
    monkeypatch.setenv("WAIT", "1")
    gone = "is gone; plug the board in again, or double-tap its reset button (the orange LED fades)"
    board.fails(5, f"{board.port} {gone} and try again")


@needs_compilers
@pytest.mark.slow
def test_a_real_build_is_measured_as_the_size_tool_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PlatformIO's own build; for want of its registry with the emulator's platform."""
    project = make_project(tmp_path / "fw")
    shutil.copytree(SCRIPT.parent, project / "tools")
    ini = project / "platformio.ini"
    text = ini.read_text()
    start = text.index("[env:nano33ble]")
    section = text[start : text.index("\n\n", start)]
    ini.write_text(text.replace(section, "[env:nano33ble]\nextends = env:emulator"))
    for name, value in toolchain.offline_environment().items():
        monkeypatch.setenv(name, value)
    command = [sys.executable, "fw/tools/flash.py", "--no-upload", "--json"]
    command += ["--pio", shlex.join([sys.executable, "-m", "platformio"])]
    finished = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert finished.returncode == 0, finished.stderr
    assert "Compiling" in finished.stderr
    built = project / ".pio" / "build" / "nano33ble" / "program.elf"
    text_bytes, data, bss = toolchain.program_sizes(built, "arm-none-eabi-size")
    measured = json.loads(finished.stdout)
    assert measured == {"flash_bytes": text_bytes + data, "ram_bytes": data + bss, "port": None}
    assert f"(used {data + bss} bytes from 262144 bytes)" in finished.stderr
