"""Doctor finds what is installed and says what to type for what is not."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from redsc import doctor


def finding(name: str) -> doctor.Finding:
    return next(found for found in doctor.diagnose() if found.name == name)


def test_covers_packages_and_tools() -> None:
    names = [found.name for found in doctor.diagnose()]
    assert names[0] == "python"
    assert {"tensorflow", "highspy", "tflite-micro", "g++", "arm newlib"} < set(names)
    assert finding("numpy").found == importlib.metadata.version("numpy")
    assert not finding("numpy").missing


def test_imports_nothing_heavy() -> None:
    program = "import sys; from redsc import doctor; doctor.diagnose(); print(*sys.modules)"
    finished = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert not {"tensorflow", "keras", "numpy", "platformio"} & set(finished.stdout.split())


def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    original = importlib.metadata.version

    def version(name: str) -> str:
        if name == "pulp":
            raise importlib.metadata.PackageNotFoundError(name)
        return original(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert finding("pulp").missing
    assert "-m pip install 'pulp" in str(finding("pulp").fix)
    assert not finding("highspy").missing


def test_wrong_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.1")
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: ["pulp>=3.3,<4"])
    assert finding("pulp").missing
    assert finding("pulp").found == "0.1"
    assert str(finding("pulp").fix).endswith("-m pip install 'pulp<4,>=3.3'")


def test_oracle_has_no_wheel_for_newer_pythons(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    for python, missing in (((3, 11, 2), True), ((3, 12, 1), False)):
        monkeypatch.setattr(sys, "version_info", python)
        assert finding("tflite-micro").missing == missing
    monkeypatch.setattr(sys, "version_info", (3, 13, 0))
    assert finding("python").missing
    assert "3.11" in str(finding("python").fix)


def test_missing_tools_share_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    tools = [found for found in doctor.diagnose() if "apt-get" in str(found.fix)]
    assert [found.name for found in tools] == [
        "g++",
        "arm-none-eabi-g++",
        "arm newlib",
        "arm libstdc++",
        "qemu-system-arm",
    ]
    assert {found.fix for found in tools} == {
        "sudo apt-get install g++ gcc-arm-none-eabi libnewlib-arm-none-eabi "
        "libstdc++-arm-none-eabi-newlib qemu-system-arm"
    }


def test_compiler_without_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cross compiler alone cannot include <string.h>."""
    compiler = tmp_path / "arm-none-eabi-g++"
    compiler.write_text(
        "#!/bin/sh\n"
        "[ $1 = --version ] && { echo 'arm-none-eabi-g++ (15:12.2) 12.2.1'; exit; }\n"
        "exit 1\n"
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert finding("arm-none-eabi-g++").found == "12.2.1"
    assert finding("arm newlib").missing
    assert "libnewlib-arm-none-eabi" in str(finding("arm newlib").fix)


def test_table_marks_and_fixes(capsys: pytest.CaptureFixture[str]) -> None:
    present = doctor.Finding("numpy", "2.0", "everything", False, None)
    absent = doctor.Finding("g++", None, "the host", True, "sudo apt-get install g++")
    doctor.print_findings(
        [present, absent, replace(absent, name="other"), replace(present, found=None)]
    )
    lines = capsys.readouterr().out.splitlines()
    assert [line[:2] for line in lines[:4]] == ["ok", "!!", "!!", "--"]
    assert lines[4:] == ["", "To fix:", "  sudo apt-get install g++"]
