"""What is installed, what is missing, and the line that fixes it.

Packages are looked up by their metadata and tools by asking for their version, so that nothing
heavy is imported.
"""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from packaging.requirements import Requirement

from redsc import toolchain

PYTHONS = ((3, 10), (3, 11), (3, 12))

PACKAGES = {
    "tensorflow": "reading models and training levels",
    "tf_keras": "reading models",
    "tensorflow-model-optimization": "quantisation-aware training",
    "numpy": "everything",
    "h5py": "reading .h5 models",
    "pulp": "the width search",
    "highspy": "a 3 to 10 times quicker width search",
    "flatbuffers": "writing .tflite files",
    "jinja2": "writing the firmware project",
    "matplotlib": "the report's plots",
    "platformio": "building the firmware",
    "scons": "building the firmware without network",
    "pyserial": "talking to a board",
    "tflite-micro": "comparing levels with the TFLite Micro interpreter",
}

ORACLE_PYTHONS = ((3, 10), (3, 11))
"""The pinned tflite-micro has wheels for these only."""


@dataclass(frozen=True)
class Finding:
    """One thing redsc needs; `found` is its version, None when it is not there.

    `missing`: it is not there, or not in a version redsc works with, and could be.
    """

    name: str
    found: str | None
    needed_for: str
    missing: bool
    fix: str | None


def diagnose() -> list[Finding]:
    """Everything redsc needs, in the order of a compile."""
    return [
        _python(),
        *(_package(name, needed_for) for name, needed_for in PACKAGES.items()),
        *_tools(),
    ]


def print_findings(findings: Sequence[Finding]) -> None:
    """A table, and under it one line for each fix."""
    width = max(len(finding.name) for finding in findings)
    found_width = max(len(finding.found or "missing") for finding in findings)
    for finding in findings:
        mark = "!!" if finding.missing else "ok" if finding.found else "--"
        found = finding.found or "missing"
        print(f"{mark}  {finding.name:{width}}  {found:{found_width}}  {finding.needed_for}")
    fixes = dict.fromkeys(finding.fix for finding in findings if finding.fix)
    if fixes:
        print("\nTo fix:")
    for fix in fixes:
        print(f"  {fix}")


def _python() -> Finding:
    fits = sys.version_info[:2] in PYTHONS
    version = ".".join(map(str, sys.version_info[:3]))
    fix = None if fits else "use Python 3.11 (3.10 and 3.12 work too): TensorFlow has wheels for it"
    return Finding("python", version, "everything", not fits, fix)


def _package(name: str, needed_for: str) -> Finding:
    requirement = _requirements().get(_normal(name), Requirement(name))
    try:
        found = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        found = None
    fits = found is not None and requirement.specifier.contains(found, prereleases=True)
    if name == "tflite-micro" and found is None and sys.version_info[:2] not in ORACLE_PYTHONS:
        # Nothing to mend: levels are then proved on host and emulator only.
        return Finding(name, None, f"{needed_for} (no wheel for this Python)", False, None)
    fix = None if fits else f"{sys.executable} -m pip install '{name}{requirement.specifier}'"
    return Finding(name, found, needed_for, not fits, fix)


def _requirements() -> dict[str, Requirement]:
    """redsc's own requirements by normalised name; empty in a checkout that is not installed."""
    try:
        lines = importlib.metadata.requires("redsc") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    return {_normal(r.name): r for r in map(Requirement, lines)}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _tools() -> list[Finding]:
    found = {tool: _tool_version(tool) for tool in toolchain.APT_PACKAGES}
    newlib = found["arm-none-eabi-g++"] and _has_header("string.h", "c")
    libstdcxx = found["arm-none-eabi-g++"] and _has_header("cstddef", "c++")
    rows = [
        ("g++", found["g++"], "proving levels on this computer", "g++"),
        (
            "arm-none-eabi-g++",
            found["arm-none-eabi-g++"],
            "building for Cortex-M4",
            "gcc-arm-none-eabi",
        ),
        ("arm newlib", newlib, "building for Cortex-M4", "libnewlib-arm-none-eabi"),
        ("arm libstdc++", libstdcxx, "sketches that use it", "libstdc++-arm-none-eabi-newlib"),
        (
            "qemu-system-arm",
            found["qemu-system-arm"],
            "running on an emulated Cortex-M4",
            "qemu-system-arm",
        ),
    ]
    lacking = " ".join(package for _, version, _, package in rows if not version)
    line = f"sudo apt-get install {lacking}"
    return [
        Finding(name, version or None, needed_for, not version, None if version else line)
        for name, version, needed_for, _ in rows
    ]


def _tool_version(tool: str) -> str | None:
    """Version a program reports; None when it is not on the PATH or does not run."""
    path = shutil.which(tool)
    if path is None:
        return None
    said = _output([path, "--version"])
    match = re.search(r"\d+\.\d+(\.\d+)?", re.sub(r"\([^)]*\)", "", said or ""))
    return match[0] if match else None


def _has_header(header: str, language: str) -> str | None:
    """'found' if the cross compiler can include a header."""
    command = ["arm-none-eabi-g++", "-x", language, "-E", "-o", "/dev/null", "-"]
    said = _output(command, f"#include <{header}>\n")
    return None if said is None else "found"


def _output(command: Sequence[str], text: str = "") -> str | None:
    try:
        finished = subprocess.run(
            command, input=text, capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return finished.stdout
