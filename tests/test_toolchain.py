"""PlatformIO builds emitted projects offline, in the emulator and on this computer."""

from __future__ import annotations

import ast
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jinja2
import pytest

from redsc import boards, resources, toolchain
from redsc.errors import ToolchainError

needs_compilers = pytest.mark.skipif(
    not all(map(toolchain.find, toolchain.APT_PACKAGES)), reason="a cross tool is not installed"
)

HELLO = """
#include "reds/board.h"
#ifndef ANSWER
#define ANSWER "42"
#endif
int main() {
  reds::board::write("answer=" ANSWER "\\n");
  return 0;
}
"""


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes out, goes nowhere."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")


@pytest.fixture
def core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REDSC_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def platformio_ini(tflm: bool = False) -> str:
    template = (resources.templates_dir() / "platformio.ini.jinja").read_text()
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    return environment.from_string(template).render(
        project="hello", redsc_version="0", tflm=tflm, core="Cortex-M4F", environment="nano33ble"
    )


def make_project(folder: Path, main: str = HELLO) -> Path:
    """The emitted project without a model, and of the library only what prints a line."""
    firmware = resources.firmware_dir()
    shutil.copytree(firmware / "platforms", folder / "platforms")
    for name in ("include", "src/boards"):
        shutil.copytree(
            firmware / "reds" / name,
            folder / "lib" / "reds" / name,
            ignore=shutil.ignore_patterns("verify_io.cc"),
        )
    shutil.copy(firmware / "reds" / "library.json", folder / "lib" / "reds")
    for name in ("src", "verify"):
        (folder / name).mkdir()
        (folder / name / "main.cpp").write_text(main.replace("42", "43" if name != "src" else "42"))
    (folder / boards.EMULATED).parent.mkdir()
    (folder / boards.EMULATED).write_text(json.dumps(boards.board("nano33ble").platformio))
    (folder / "platformio.ini").write_text(platformio_ini())
    return folder


def pio(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "platformio", *arguments],
        cwd=project,
        env={**os.environ, **toolchain.offline_environment()},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_missing_tools_are_named_with_the_line_that_installs_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert toolchain.find("g++") is None
    with pytest.raises(ToolchainError) as error:
        toolchain.require("g++", "qemu-system-arm")
    assert str(error.value) == (
        "g++, qemu-system-arm not found on the PATH; on Debian or Ubuntu: "
        "sudo apt-get install g++ qemu-system-arm"
    )
    with pytest.raises(ToolchainError, match=r"arm-none-eabi-g\+\+ not found.*libnewlib"):
        toolchain.build(tmp_path, "emulator")
    with pytest.raises(ToolchainError, match=r"apt-get install g\+\+$"):
        toolchain.build(tmp_path, "native")


def test_offline_core_is_made_once(core: Path) -> None:
    first = toolchain.offline_core()
    stamp = (first / "packages" / "tool-scons" / "scons.py").stat().st_mtime_ns
    assert toolchain.offline_core() == first
    assert (first / "packages" / "tool-scons" / "scons.py").stat().st_mtime_ns == stamp
    assert [path.name for path in core.iterdir()] == [first.name]


def test_offline_core_is_what_platformio_looks_for(core: Path) -> None:
    from platformio.dependencies import get_core_dependencies
    from platformio.package.manager.tool import ToolPackageManager
    from platformio.package.meta import PackageSpec

    packages = toolchain.offline_core() / "packages"
    wanted = get_core_dependencies()["tool-scons"]
    spec = PackageSpec(owner="platformio", name="tool-scons", requirements=wanted)
    found = ToolPackageManager(str(packages)).get_package(spec)
    assert found is not None
    assert Path(found.path) == packages / "tool-scons"


def test_concurrent_runs_make_one_core(core: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=toolchain.offline_core) for _ in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert {process.exitcode for process in processes} == {0}
    assert [path.name for path in core.iterdir()] == [toolchain.offline_core().name]


def test_unwritable_cache_is_a_toolchain_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("REDSC_CACHE_DIR", str(tmp_path / "file" / "cache"))
    with pytest.raises(ToolchainError, match="REDSC_CACHE_DIR"):
        toolchain.offline_core()


@pytest.mark.slow
@needs_compilers
def test_builds_both_environments_and_measures_them(tmp_path: Path, core: Path) -> None:
    project = make_project(tmp_path / "p")
    native = toolchain.build(project, "native")
    said = subprocess.run([native.program], capture_output=True, text=True, check=True).stdout
    assert said == "answer=42\n"
    emulator = toolchain.build(project, "emulator", tmp_path / "workspace")
    assert emulator.program.is_relative_to(tmp_path / "workspace")
    listed = subprocess.run(
        ["arm-none-eabi-size", "-A", "-d", emulator.program],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    sections = {line.split()[0]: int(line.split()[1]) for line in listed.splitlines()[2:-3]}
    allocated = (".text", ".ARM.exidx", ".data")
    assert emulator.flash_bytes == sum(sections.get(name, 0) for name in allocated)
    assert emulator.ram_bytes == sections.get(".data", 0) + sections.get(".bss", 0)
    assert 0 < emulator.flash_bytes < 20_000


@needs_compilers
@pytest.mark.slow
def test_upload_runs_the_program_and_prints_the_limits(tmp_path: Path, core: Path) -> None:
    project = make_project(tmp_path / "p")
    emulator = pio(project, "run", "-e", "emulator", "-t", "upload")
    assert emulator.returncode == 0, emulator.stderr
    assert "answer=42" in emulator.stdout
    assert "from 262144 bytes" in emulator.stdout
    assert "from 983040 bytes" in emulator.stdout
    verify = pio(project, "run", "-e", "verify_emulator_portable", "-t", "upload")
    assert "answer=43" in verify.stdout
    for target in ("upload", "exec"):
        assert "answer=42" in pio(project, "run", "-e", "native", "-t", target).stdout


@needs_compilers
@pytest.mark.slow
def test_failing_program_fails_the_target(tmp_path: Path, core: Path) -> None:
    project = make_project(tmp_path / "p", HELLO.replace("return 0", "return 3"))
    for environment in ("emulator", "native"):
        finished = pio(project, "run", "-e", environment, "-t", "upload")
        assert finished.returncode != 0
        assert "answer=42" in finished.stdout
    hanging = make_project(tmp_path / "h", HELLO.replace("return 0;", "for (;;) {}"))
    ini = hanging / "platformio.ini"
    board = "board = emulated"
    ini.write_text(ini.read_text().replace(board, f"{board}\nboard_upload.timeout_seconds = 1"))
    finished = pio(hanging, "run", "-e", "emulator", "-t", "upload")
    assert finished.returncode != 0
    assert "stopped after 1 s" in finished.stderr


@needs_compilers
@pytest.mark.slow
def test_what_the_compiler_said_is_in_the_error(tmp_path: Path, core: Path) -> None:
    project = make_project(tmp_path / "p", HELLO.replace("return 0;", "return nonsense;"))
    for environment in ("native", "emulator"):
        with pytest.raises(ToolchainError) as error:
            toolchain.build(project, environment)
        assert f"environment {environment}" in str(error.value)
        assert "was not declared" in str(error.value)
        assert "Duration" not in str(error.value)
    (tmp_path / "gone").mkdir()
    with pytest.raises(ToolchainError, match=r"gone failed:\n.*platformio\.ini"):
        toolchain.build(tmp_path / "gone", "emulator")


@needs_compilers
@pytest.mark.slow
@pytest.mark.parametrize(
    ("array", "complaint"),
    [
        ("static volatile char ram[262145]; ram[0] = 1;", "static RAM of 26.* exceeds the board's"),
        (
            'static const char rom[983041] = {1}; asm volatile("" ::"r"(rom));',
            "program size .* greater",
        ),
    ],
)
def test_what_does_not_fit_the_nano_fails(
    tmp_path: Path, core: Path, array: str, complaint: str
) -> None:
    project = make_project(tmp_path / "p", HELLO.replace("return 0;", f"{array} return 0;"))
    with pytest.raises(ToolchainError, match=complaint):
        toolchain.build(project, "emulator")


@needs_compilers
@pytest.mark.slow
def test_same_project_gives_the_same_program_wherever_it_lies(tmp_path: Path, core: Path) -> None:
    for environment in ("native", "emulator"):
        programs = [
            toolchain.build(make_project(tmp_path / name / environment), environment).program
            for name in ("a", "b")
        ]
        assert programs[0].read_bytes() == programs[1].read_bytes()


@needs_compilers
@pytest.mark.slow
def test_projects_that_share_a_core_keep_their_own_platforms(tmp_path: Path, core: Path) -> None:
    """Also with plain `pio`, and after a project has moved."""
    first, second = make_project(tmp_path / "first"), make_project(tmp_path / "second")
    script = second / "platforms" / "native" / "builder" / "main.py"
    script.write_text(
        script.read_text().replace(
            '"REDS_BOARD_HOST"', '"REDS_BOARD_HOST", ("ANSWER", \'\\\\"7\\\\"\')'
        )
    )
    for project, answer in ((first, 42), (second, 7), (first, 42)):
        assert f"answer={answer}" in pio(project, "run", "-e", "native", "-t", "exec").stdout
    moved = second.rename(tmp_path / "moved")
    shutil.rmtree(moved / ".pio")
    assert "answer=7" in pio(moved, "run", "-e", "native", "-t", "exec").stdout


@needs_compilers
@pytest.mark.slow
def test_users_build_flags_do_not_change_what_is_measured(
    tmp_path: Path, core: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLATFORMIO_BUILD_FLAGS", '-DANSWER=\\"8\\"')
    program = toolchain.build(make_project(tmp_path / "p"), "native").program
    said = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    assert said == "answer=42\n"


@pytest.mark.parametrize("tflm", [False, True])
def test_emitted_configuration_passes_platformios_lint(
    tflm: bool, tmp_path: Path, core: Path
) -> None:
    (tmp_path / "platformio.ini").write_text(platformio_ini(tflm))
    finished = pio(tmp_path, "project", "config", "--lint", "--json-output")
    assert finished.returncode == 0
    assert ast.literal_eval(finished.stdout) == {"errors": [], "warnings": []}
    listed = pio(tmp_path, "project", "config", "--json-output")
    options = {name: dict(values) for name, values in json.loads(listed.stdout)}
    assert options["env:nano33ble"]["platform"] == "nordicnrf52@10.11.0"
    assert options["env:nano33ble"]["framework"] == ["arduino"]
    assert ("lib_deps" in options["env:nano33ble"]) == tflm
    assert ("env:emulator_tflm" in options) == tflm
    assert "core_dir" not in platformio_ini()


def test_what_takes_too_long_ends_with_all_that_it_started(tmp_path: Path) -> None:
    """Also what a program left in the background: it would write where things are cleaned up."""
    script = "(while true; do date > tick; sleep 0.05; done) & sleep 60"
    with pytest.raises(ToolchainError, match="took longer than 1 s"):
        toolchain.run(["sh", "-c", script], tmp_path, 1.0)
    tick = tmp_path / "tick"
    assert tick.exists()
    tick.unlink()
    time.sleep(0.3)
    assert not tick.exists()


def test_what_an_ended_program_leaves_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(ToolchainError, match="longer than"):
        toolchain.run(["sh", "-c", "touch $TMPDIR/left; sleep 60"], tmp_path, 0.5)
    assert not list(tmp_path.iterdir())
