"""The emitted sketch on the emulated board, behind a port of its own.

QEMU gives its UART as a pseudo-terminal (`-serial pty`). Another one stands between it and the
client, so that lines can be damaged, slowed down or cut on their way. For fake_board.plugged_in.
"""

from __future__ import annotations

import os
import re
import select
import subprocess
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fake_board import UnpluggedError, _write_all

from redsc.machines import CORTEX_M4


@contextmanager
def emulator(program: Path) -> Iterator[int]:
    """A descriptor of the UART of an emulated board that runs `program` for ever."""
    command = [part for part in CORTEX_M4.qemu if part not in ("-serial", "stdio")]
    command[command.index("enable=on,target=native")] += ",arg=serve"
    process = subprocess.Popen(
        [*command, "-serial", "pty", "-kernel", str(program)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        found = re.search(r"/dev/\S+", said)
        assert found, said
        device = os.open(found[0], os.O_RDWR | os.O_NOCTTY)
        tty.setraw(device)
        yield device
        os.close(device)
    finally:
        process.kill()
        process.wait()


class EmulatedBoard:
    """`wire` may change each line the board sends, or raise UnpluggedError."""

    def __init__(
        self,
        program: Path,
        wire: Callable[[bytes], bytes] = lambda line: line,
        seconds_per_byte: float = 0.0,
    ) -> None:
        self.program, self.wire, self.seconds_per_byte = program, wire, seconds_per_byte
        self.sent: list[bytes] = []

    def serve(self, master: int, stop: int) -> None:
        """Until `stop` can be read or the board is unplugged."""
        buffer = b""
        with emulator(self.program) as device, suppress(UnpluggedError):
            while True:
                ready, _, _ = select.select([master, device, stop], [], [])
                if stop in ready:
                    return
                if master in ready:
                    os.write(device, os.read(master, 64))
                if device in ready:
                    *lines, buffer = (buffer + os.read(device, 4096)).split(b"\n")
                    for line in lines:
                        self.sent.append(line)
                        self._send(master, stop, self.wire(line + b"\n"))

    def _send(self, master: int, stop: int, data: bytes) -> None:
        if not self.seconds_per_byte:
            _write_all(master, stop, data)
            return
        for byte in data:
            time.sleep(self.seconds_per_byte)
            _write_all(master, stop, bytes([byte]))
