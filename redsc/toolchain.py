"""Outside tools: compilers, the emulator and PlatformIO, found on the PATH and run offline.

PlatformIO normally fetches SCons from its registry. redsc gives it a core folder of its own whose
SCons package is the one pip installed, so that a build needs no network and touches nothing in
the user's ~/.platformio. Emitted projects know nothing of this: everything is in the environment.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.metadata
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from redsc.errors import ToolchainError

APT_PACKAGES = {
    "g++": "g++",
    "arm-none-eabi-g++": "gcc-arm-none-eabi libnewlib-arm-none-eabi libstdc++-arm-none-eabi-newlib",
    "qemu-system-arm": "qemu-system-arm",
}
"""Debian packages that bring each tool."""

BUILD_TIMEOUT_SECONDS = 1800
_PATIENCE_SECONDS = 5.0
"""For programs that are asked to end, before they are made to."""

TFLM_VARIABLE = "PLATFORMIO_LIB_EXTRA_DIRS"
"""Names the folder that holds a TensorFlow Lite Micro library's folder."""

_ERROR_LINES = 25


@dataclass(frozen=True)
class BuildResult:
    """A linked program, its section sizes as `size -B` counts them, and what the tools said."""

    program: Path
    text_bytes: int
    data_bytes: int
    bss_bytes: int
    stderr: str

    @property
    def flash_bytes(self) -> int:
        return self.text_bytes + self.data_bytes

    @property
    def ram_bytes(self) -> int:
        """Static RAM; the stack comes on top."""
        return self.data_bytes + self.bss_bytes


def find(tool: str) -> Path | None:
    """Path of a program on the PATH."""
    found = shutil.which(tool)
    return None if found is None else Path(found)


def offers_tflm() -> bool:
    """Whether there is a TFLite Micro library to build with; which it is, the build finds out."""
    return bool(os.environ.get(TFLM_VARIABLE))


def require(*tools: str) -> None:
    """Raises ToolchainError naming every tool that is missing and the line that installs them."""
    missing = [tool for tool in tools if find(tool) is None]
    if missing:
        packages = " ".join(APT_PACKAGES[tool] for tool in missing)
        raise ToolchainError(
            f"{', '.join(missing)} not found on the PATH; on Debian or Ubuntu: "
            f"sudo apt-get install {packages}"
        )


def offline_core() -> Path:
    """The PlatformIO core folder of redsc, made when it is not there.

    Its name holds the versions it was made for, and it appears by one rename, so concurrent
    callers and upgrades need no lock.
    """
    require_platformio()
    version = _scons_package_version()
    core = cache_root() / f"platformio-{importlib.metadata.version('platformio')}-{version}"
    if (core / "packages" / "tool-scons" / "scons.py").is_file():
        return core
    try:
        core.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{core.name}.", dir=core.parent))
        try:
            _write_scons_package(draft / "packages" / "tool-scons", version)
            draft.chmod(0o755)
            draft.rename(core)
        except OSError as error:
            # Somebody else's rename came first.
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        raise ToolchainError(
            f"cannot make PlatformIO's core folder {core}: {error.strerror}; "
            "set REDSC_CACHE_DIR to a writable folder"
        ) from error
    return core


def cache_root() -> Path:
    """A folder for what can be made again: REDSC_CACHE_DIR, the virtual environment, the user's."""
    if chosen := os.environ.get("REDSC_CACHE_DIR"):
        return Path(chosen).absolute()
    if sys.prefix != sys.base_prefix and os.access(sys.prefix, os.W_OK):
        return Path(sys.prefix) / "share" / "redsc"
    home_cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home_cache) / "redsc"


def require_platformio() -> None:
    """Raises ToolchainError unless PlatformIO and SCons are installed beside redsc."""
    missing = []
    for name in ("platformio", "scons"):
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        raise ToolchainError(
            f"{' and '.join(missing)} not installed for {sys.executable}; "
            f"run {sys.executable} -m pip install {' '.join(missing)}"
        )


def _scons_package_version() -> str:
    """The lowest version of tool-scons that the installed PlatformIO accepts."""
    from platformio.dependencies import get_core_dependencies

    return str(get_core_dependencies()["tool-scons"]).lstrip("~^>=")


def _write_scons_package(folder: Path, version: str) -> None:
    """A PlatformIO package whose scons.py runs the SCons that is installed for this Python."""
    folder.mkdir(parents=True)
    manifest = {
        "name": "tool-scons",
        "version": version,
        "description": "SCons as pip installed it",
    }
    # Without .piopm PlatformIO does not know the owner and asks its registry.
    spec = {"owner": "platformio", "id": None, "name": "tool-scons", "requirements": None}
    installed = {
        "type": "tool",
        "name": "tool-scons",
        "version": version,
        "spec": {**spec, "uri": None},
    }
    (folder / "package.json").write_text(json.dumps(manifest, indent=2) + "\n")
    (folder / ".piopm").write_text(json.dumps(installed) + "\n")
    (folder / "scons.py").write_text("from SCons.Script import main\n\nmain()\n")


def offline_environment() -> dict[str, str]:
    """Environment variables under which PlatformIO builds without network."""
    return {
        "PLATFORMIO_CORE_DIR": str(offline_core()),
        "PLATFORMIO_DISABLE_UPGRADE_CHECK": "true",
        "PLATFORMIO_SETTING_ENABLE_TELEMETRY": "no",
    }


def build(project_dir: Path, environment: str, workspace_dir: Path | None = None) -> BuildResult:
    """Builds one PlatformIO environment of an emitted project.

    `workspace_dir` is where objects and program go: the project's .pio unless given.
    Raises ToolchainError when a tool is missing or the build fails; it ends with what the
    compiler said.
    """
    emulator = "native" not in environment
    require("arm-none-eabi-g++" if emulator else "g++")
    workspace = (workspace_dir or project_dir / ".pio").absolute()
    variables = {
        **offline_environment(),
        "PLATFORMIO_WORKSPACE_DIR": str(workspace),
        # Links to the project's own platforms hold absolute paths: never shared by projects.
        "PLATFORMIO_PLATFORMS_DIR": str(workspace / "platforms"),
    }
    if environment.endswith("_tflm"):
        # Its some hundred files take minutes, once.
        variables["PLATFORMIO_BUILD_CACHE_DIR"] = str(cache_root() / "objects")
        variables[TFLM_VARIABLE] = os.environ.get(TFLM_VARIABLE, "")
    command = [sys.executable, "-m", "platformio", "run", "-e", environment]
    finished = run(command, project_dir, BUILD_TIMEOUT_SECONDS, variables)
    if finished.returncode != 0:
        said = finished.stderr.strip() or finished.stdout.strip()
        said = said.partition("\n====")[0]  # PlatformIO's own summary says nothing more
        raise ToolchainError(
            f"building environment {environment} of {project_dir} failed:\n"
            + "\n".join(said.splitlines()[-_ERROR_LINES:])
        )
    program = workspace / "build" / environment / ("program.elf" if emulator else "program")
    sizes = program_sizes(program, "arm-none-eabi-size" if emulator else "size")
    return BuildResult(program, *sizes, stderr=finished.stderr)


def program_sizes(program: Path, size_tool: str) -> tuple[int, int, int]:
    """text, data and bss bytes of a program, as `size -B` counts them."""
    command = [size_tool, "-B", "-d", str(program)]
    finished = run(command, program.parent, BUILD_TIMEOUT_SECONDS)
    if finished.returncode != 0:
        raise ToolchainError(f"{size_tool} cannot read {program}: {finished.stderr.strip()}")
    text, data, bss = finished.stdout.splitlines()[1].split()[:3]
    return int(text), int(data), int(bss)


def run(
    command: Sequence[str],
    directory: Path,
    timeout_seconds: float,
    variables: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """What a program printed and its status, whatever that is.

    If it is not waited for to its end, it ends with all that it started, so that nothing goes on
    writing into `directory`. Raises ToolchainError when it cannot be started or takes too long.
    """
    # A compiler that is ended may leave files behind, even if it was asked to remove them.
    with tempfile.TemporaryDirectory(prefix="redsc_", ignore_cleanup_errors=True) as temporary:
        # The user's own PLATFORMIO_BUILD_FLAGS and the like would change what is measured.
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("PLATFORMIO_")}
        environment = {**inherited, "TMPDIR": temporary, **(variables or {})}
        return _finished(command, directory, timeout_seconds, environment)


def _finished(
    command: Sequence[str],
    directory: Path,
    timeout_seconds: float,
    environment: Mapping[str, str],
) -> subprocess.CompletedProcess[str]:
    try:
        process = subprocess.Popen(
            command,
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        raise ToolchainError(f"cannot run {command[0]}: {error.strerror}") from error
    with process:
        try:
            printed, complained = process.communicate(timeout=timeout_seconds)
        except BaseException as error:
            _end(process)
            if isinstance(error, subprocess.TimeoutExpired):
                raise ToolchainError(
                    f"{Path(command[0]).name} in {directory} took longer than "
                    f"{timeout_seconds:.0f} s"
                ) from error
            raise
    return subprocess.CompletedProcess(command, process.returncode, printed, complained)


def _end(process: subprocess.Popen[str]) -> None:
    """Ends a session's first process and all others; compilers asked to remove their files."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        patient_until = time.monotonic() + _PATIENCE_SECONDS
        with contextlib.suppress(ProcessLookupError):  # none is left
            os.killpg(process.pid, number)
            while time.monotonic() < patient_until:
                process.poll()
                os.killpg(process.pid, 0)
                time.sleep(0.01)
            continue
        return


if __name__ == "__main__":
    # For make: eval "$(python -m redsc.toolchain)" lets plain `pio` build offline.
    for _name, _value in offline_environment().items():
        print(f"export {_name}='{_value}'")
