"""Flashes an existing build by its own tools/flash.py, which works without redsc too."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from redsc import output, toolchain
from redsc.errors import UsageError

SCRIPT = Path("tools") / "flash.py"


def run(directory: Path, options: Sequence[str]) -> int:
    """The script's exit code, which is one of redsc's; it has printed everything.

    Raises UsageError when `directory` is no build, ToolchainError without PlatformIO.
    """
    if not output.written_files(directory):
        raise UsageError(f"{directory}: is no build; give the directory redsc compile wrote")
    script = directory / SCRIPT
    if not script.is_file():
        raise UsageError(
            f"{directory}: has no {SCRIPT}; compile again, for a board: --target nano33ble"
        )
    toolchain.require_platformio()
    pio = shlex.join([sys.executable, "-m", "platformio"])
    return subprocess.call([sys.executable, str(script), "--pio", pio, *options])
