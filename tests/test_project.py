"""The emitted project: its sketch runs, its documents are whole, and nothing warns."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import graphs as reference
import pytest
from test_quantize import inputs, quantized

from redsc import kernels, memory, plan, project, tflite, tflm, toolchain
from redsc.config import CompileOptions
from redsc.plan import Plan

needs_compilers = pytest.mark.skipif(
    not all(map(toolchain.find, toolchain.APT_PACKAGES)), reason="a cross tool is not installed"
)

ARDUINO = """
#include <stddef.h>
#include <stdint.h>
#define F_CPU 64000000L
unsigned long millis();
void delay(unsigned long);
"""
USB_SERIAL = """
namespace arduino {
struct USBSerial {
  explicit operator bool();
  bool connected();
  void send_nb(uint8_t*, uint32_t, uint32_t*, bool);
  int available();
  int read();
};
}
extern arduino::USBSerial _SerialUSB;
"""
"""What the library uses of an Arduino core."""


@pytest.fixture(scope="module")
def emitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Plan]:
    graph = reference.ds_cnn(channels=8)
    network = quantized(graph, inputs(graph, 8), (0.5, 1.0))
    graphs = [level.graph for level in network.levels]
    device_plan = plan.build_plan(network, memory.plan_levels(graphs, kernels.scratch_bytes))
    levels = [
        {
            "level": number,
            "macs": 1000 * (number + 1),
            "macs_percent": 50.0 * (number + 1),
            "parameters": 100,
            "arena_bytes": arena_bytes,
        }
        for number, arena_bytes in enumerate(device_plan.arena_bytes)
    ]
    directory = tmp_path_factory.mktemp("emitted") / "project"
    directory.mkdir()
    tflites = [tflite.write(level) for level in network.levels]
    options = CompileOptions(model=Path("my {model}.h5"))
    tflm_model = tflm.build(device_plan, network.levels[-1])
    project.write(directory, graph, device_plan, tflm_model, levels, tflites, options)
    return directory, device_plan


def test_the_standalone_project_needs_no_library(
    emitted: tuple[Path, Plan], tmp_path: Path
) -> None:
    directory, device_plan = emitted
    graph = reference.ds_cnn(channels=8)
    levels = [
        {"level": n, "macs": 1, "macs_percent": 1.0, "parameters": 1, "arena_bytes": 1}
        for n in (0, 1)
    ]
    tflites = [(directory / f"levels/level_{n}.tflite").read_bytes() for n in (0, 1)]
    options = CompileOptions(model=Path("m.h5"), runtime="standalone", name="kws")
    project.write(tmp_path, graph, device_plan, None, levels, tflites, options)
    assert sorted(path.name for path in (tmp_path / "lib/kws").iterdir()) == [
        *("kws.h", "kws_plan.cc", "kws_weights.cc")
    ]
    configuration = (tmp_path / "platformio.ini").read_text()
    assert "tflm" not in configuration.lower()
    assert "lib_deps" not in configuration
    header = (tmp_path / "lib/kws/kws.h").read_text()
    assert "#error" in header
    assert "namespace kws" in header
    assert '#include "kws.h"' in (tmp_path / "src/main.cpp").read_text()
    of_tflm = (directory / "platformio.ini").read_text()
    assert "lib_deps = https://github.com/tensorflow/tflite-micro-arduino-examples.git#" in of_tflm


def checksums(text: str) -> list[str]:
    return re.findall(r"^crc level=\d+ .*output=([0-9a-f]{8}) sum=", text, re.MULTILINE)


def test_documents(emitted: tuple[Path, Plan]) -> None:
    directory, device_plan = emitted
    readme = (directory / "README.md").read_text()
    assert f"| 1 | 2000 | 100.0 % | 100 | {device_plan.arena_bytes[1]} |" in readme
    assert "49 × 10 × 1 values" in readme
    make_help = ["make", "--no-print-directory", "help"]  # quiet also below `make test`
    listed = subprocess.run(
        make_help, cwd=directory, capture_output=True, text=True, check=True
    ).stdout
    assert {line.split()[0] for line in listed.splitlines()} == {
        *("help", "build", "emulator", "native", "flash", "monitor", "verify", "clean")
    }
    for path in directory.rglob("*"):
        if path.suffix in (".md", ".ini", ".cpp", ".h", ".cc", ".py", ".json"):
            assert str(Path.home()) not in path.read_text()


def test_make_names_what_is_missing(emitted: tuple[Path, Plan]) -> None:
    finished = subprocess.run(
        ["make", "build", "PIO=no-such-pio"],
        cwd=emitted[0],
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode != 0
    assert "pip install platformio" in finished.stderr


@pytest.mark.parametrize("target", ["flash", "monitor"])
def test_make_flashes_with_the_projects_own_script(emitted: tuple[Path, Plan], target: str) -> None:
    command = ["make", target, "PIO=no-such-pio", "PORT=/dev/ttyACM9"]
    shown = subprocess.run(
        [*command, "-n"], cwd=emitted[0], capture_output=True, text=True, check=True
    ).stdout
    assert '--port "/dev/ttyACM9"' in shown
    finished = subprocess.run(command, cwd=emitted[0], capture_output=True, text=True, check=False)
    assert finished.returncode != 0
    assert finished.stderr.splitlines()[0] == (
        "flash: error: PlatformIO not found; install it with: python3 -m pip install platformio"
    )
    assert "Error 5" in finished.stderr


@needs_compilers
@pytest.mark.slow
def test_sketch_computes_the_same_here_and_on_the_emulator(
    emitted: tuple[Path, Plan], tmp_path: Path
) -> None:
    directory, _ = emitted
    native = toolchain.build(directory, "native", tmp_path)
    emulator = toolchain.build(directory, "emulator", tmp_path)
    assert native.stderr == emulator.stderr == ""
    host = subprocess.run([native.program], capture_output=True, text=True, check=True).stdout
    qemu = ["qemu-system-arm", "-M", "mps2-an386", "-display", "none", "-monitor", "none"]
    qemu += ["-serial", "stdio", "-semihosting-config", "enable=on,target=native"]
    qemu += ["-icount", "shift=7", "-kernel", str(emulator.program)]
    device = subprocess.run(qemu, capture_output=True, text=True, check=True, timeout=60).stdout
    assert host.startswith("reds version=1 board=host runtime=standalone sum=")
    assert len(checksums(host)) == 2
    assert checksums(host) == checksums(device)
    assert "clock unit=ns hz=1000000000" in host
    counts = re.findall(r"^time level=\d n=3 min=(\d+) median=(\d+)", device, re.MULTILINE)
    assert 0 < int(counts[0][0]) == int(counts[0][1]) < int(counts[1][0])
    switches = re.findall(r"^switch level=\d n=1000 min=(\d+) .*max=(\d+)", device, re.MULTILINE)
    assert {int(count) for pair in switches for count in pair} == {5}
    assert host.splitlines()[-1] == device.splitlines()[-1]
    assert host.splitlines()[-1].startswith("result level=1 largest=")


@needs_compilers
@pytest.mark.slow
def test_sketch_and_library_compile_for_arduino(emitted: tuple[Path, Plan], tmp_path: Path) -> None:
    """Against the declarations they use, with every warning an error."""
    directory, _ = emitted
    (tmp_path / "Arduino.h").write_text(ARDUINO)
    (tmp_path / "USB").mkdir()
    (tmp_path / "USB" / "PluggableUSBSerial.h").write_text(USB_SERIAL)
    reds = directory / "lib" / "reds"
    flags = "-std=gnu++14 -mcpu=cortex-m4 -mthumb -mfloat-abi=softfp -mfpu=fpv4-sp-d16 -O2"
    flags += " -Wall -Wextra -Werror -fno-exceptions -fno-rtti -fsyntax-only -DARDUINO=10819"
    includes = [f"-I{path}" for path in (tmp_path, reds / "include", directory / "lib" / "model")]
    for source in (directory / "src" / "main.cpp", *sorted((reds / "src").rglob("*.cc"))):
        subprocess.run(["arm-none-eabi-g++", *flags.split(), *includes, source], check=True)
    # PlatformIO gives assembly those of the core's flags that begin with -m.
    machine = [flag for flag in flags.split() if flag.startswith("-m")]
    for source in sorted((reds / "src").rglob("*.S")):
        program = tmp_path / f"{source.stem}.o"
        command = ["arm-none-eabi-gcc", *machine, "-x", "assembler-with-cpp", "-c", source]
        subprocess.run([*command, "-o", program], check=True)
        command = ["arm-none-eabi-size", program]
        sizes = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        assert int(sizes.splitlines()[1].split()[0]) > 200, source  # bytes of code
