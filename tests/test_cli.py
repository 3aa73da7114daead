"""The command line as scripts see it: exit codes, stdout and stderr, what is left on disk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import redsc
from redsc.progress import Progress


def run(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "redsc", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(redsc.__file__).parent.parent)},
    )


def test_help_does_not_wait_for_tensorflow() -> None:
    code = "import sys, redsc.cli; assert not {'tensorflow', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_version_and_help() -> None:
    assert run("--version").stdout.strip().endswith(redsc.__version__)
    for command in ("analyze", "compile", "verify", "bench", "flash", "report", "doctor"):
        result = run(command, "--help")
        assert result.returncode == 0
        assert "Usage: redsc" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("bogus",), 2, "No such command"),
        (("compile",), 2, "Missing argument"),
        (("compile", "m.h5", "--levels", "50,25"), 2, "must rise"),
        (("compile", "m.h5", "--budget", "macs,time"), 2, "'time' is not one of macs, ram, flash"),
        (("compile", "m.h5", "--max-latency-ms", "0"), 2, "max-latency-ms: 0"),
        (("compile", "m.h5", "--runtime", "tf"), 2, "standalone"),
        (("compile", "m.h5", "--config", "none.toml"), 2, "none.toml"),
        (("compile", "missing.h5"), 3, "missing.h5"),
        (("analyze", "missing.h5"), 3, "missing.h5"),
        (("report", "nowhere"), 2, "report.json"),
        (("verify", "nowhere"), 2, "nowhere: is no build"),
        (("bench", "nowhere", "--emulator"), 2, "report.json"),
        (("bench", "nowhere"), 2, "--emulator"),
        (("flash", "nowhere"), 2, "nowhere: is no build"),
    ],
)
def test_errors_are_one_message_and_a_code(
    arguments: tuple[str, ...], code: int, message: str, tmp_path: Path
) -> None:
    result = run(*arguments, cwd=tmp_path)
    assert result.returncode == code, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert not list(tmp_path.iterdir())


def test_an_unsupported_file_is_refused_and_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "noise.h5").write_bytes(np.random.default_rng(0).bytes(4096))
    result = run("compile", "noise.h5", cwd=tmp_path)
    assert result.returncode == 3
    assert "noise.h5" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["noise.h5"]


def test_doctor_speaks_json() -> None:
    findings = json.loads(run("doctor", "--json").stdout)
    assert {"tensorflow", "pulp"} <= {finding["name"] for finding in findings}


def test_an_interrupt_is_one_when_another_error_hides_it():
    def importing() -> None:
        with Progress():
            try:
                signal.raise_signal(signal.SIGINT)
            except KeyboardInterrupt:
                raise ImportError("initialization failed") from None

    with pytest.raises(KeyboardInterrupt):
        importing()
