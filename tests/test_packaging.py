"""The wheel carries templates and firmware, and an installed redsc finds them."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from redsc import resources

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("redsc", "templates", "firmware")
FILES = ("setup.cfg", "pyproject.toml", "LICENSE", "README.md", "MANIFEST.in")


def carried(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, because setuptools leaves a build/ folder behind."""
    source = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        shutil.copytree(ROOT / name, source / name)
    for name in FILES:
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, source)
    (source / "firmware" / "platforms" / "__pycache__").mkdir()
    (source / "firmware" / "platforms" / "__pycache__" / "x.pyc").write_text("")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "-w", source / "dist", source], check=True, timeout=300)
    return next((source / "dist").glob("redsc-*.whl"))


@pytest.mark.slow
def test_wheel_carries_everything(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        f"redsc/{'' if source == 'redsc' else source + '/'}{name}"
        for source in SOURCES
        for name in carried(ROOT / source)
    }
    assert expected <= names
    assert {name for name in names if ".dist-info/" not in name} == expected


@pytest.mark.slow
def test_installed_wheel_finds_its_files(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", target, wheel]
    subprocess.run(command, check=True, timeout=300)
    program = (
        f"import sys; sys.path.insert(0, {str(target)!r}); from redsc import resources;"
        "print(resources.templates_dir(), resources.firmware_dir(), sep='\\n')"
    )
    finished = subprocess.run(
        [sys.executable, "-I", "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    templates, firmware = map(Path, finished.stdout.split())
    assert templates.is_relative_to(target)
    assert carried(templates) == carried(ROOT / "templates")
    assert carried(firmware) == carried(ROOT / "firmware")
    help_text = subprocess.run(
        [sys.executable, "-c", "from redsc.cli import main; main()", "--help"],
        env={"PYTHONPATH": str(target), "PATH": ""},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "compile" in help_text


def test_checkout_finds_its_files() -> None:
    assert (resources.templates_dir() / "platformio.ini.jinja").is_file()
    assert (resources.firmware_dir() / "platforms" / "emulator" / "platform.json").is_file()
