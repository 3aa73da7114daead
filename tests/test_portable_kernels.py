"""The portable kernels, which specify the others, against plain arithmetic, on the host."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import firmware_build
import pytest
from firmware_build import REDS, needs_host
from hypothesis import given, settings
from hypothesis import strategies as st

CALLS = 1000
LEAST = 20
"""Calls of every kernel among them."""

SOURCE = Path(__file__).parent / "portable_kernels_test.cc"
HEADER = (REDS / "include/reds/kernels.h").read_text()
KERNELS = set(re.findall(r"^void (\w+)\(", HEADER.partition("}  // namespace portable")[0], re.M))


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return link(tmp_path_factory.mktemp("portable") / "portable_kernels")


def link(path: Path, library: Path = REDS) -> Path:
    """The test program, with the portable kernels of a copy of the library if that is given."""
    # The test itself may use the heap and exceptions, which the library does without.
    kernels = sorted((library / "src/portable").glob("*.cc"))
    command = [
        "g++", "-std=gnu++14", *firmware_build.COMMON_FLAGS, *firmware_build.SANITIZERS,
        f"-I{library / 'include'}", str(SOURCE), *map(str, kernels), "-o", str(path),
    ]  # fmt: skip
    firmware_build.run(command)
    return path


def run(program: Path, seed: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(program), str(seed), str(CALLS)],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip


@needs_host
@pytest.mark.slow
@settings(max_examples=110, deadline=None, derandomize=True)
@given(seed=st.integers(0, (1 << 32) - 1))
def test_a_hundred_thousand_calls(program: Path, seed: int) -> None:
    finished = run(program, seed)
    assert finished.returncode == 0, finished.stdout + finished.stderr[-2000:]
    counts = dict(line.split() for line in finished.stdout.splitlines())
    assert counts.keys() == KERNELS
    assert min(map(int, counts.values())) >= LEAST


@needs_host
@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "right", "wrong", "told"),
    [
        ("src/portable/conv2d.cc", "x >= window.input_width", "x > window.input_width", "conv2d"),
        ("src/portable/dot.h", "- zero_point", "+ zero_point", "conv2d|dense"),
        ("include/reds/fixed_point.h", "x < 0 ? 1 : 0", "0", "conv2d|dense|add|leaky"),
        ("include/reds/fixed_point.h", "1 - (1 << 30)", "-(1 << 30)", "conv2d|dense|add|leaky"),
        (
            "src/portable/dot.h",
            "high >> kOneProductShift",
            "high / (1 << kOneProductShift)",
            "one_product",
        ),
        ("src/portable/average_pool2d.cc", "count / 2", "(count - 1) / 2", "average_pool2d"),
        ("src/portable/softmax.cc", "diff_min) continue", "diff_min + 1) continue", "softmax"),
        ("src/portable/softmax.cc", "+ x2, 1)", "+ x2, 2)", "softmax"),
    ],
)
def test_it_finds_a_mistake(tmp_path: Path, file: str, right: str, wrong: str, told: str) -> None:
    """Each once in the library."""
    library = tmp_path / "reds"
    shutil.copytree(REDS, library)
    text = (library / file).read_text()
    assert right in text
    (library / file).write_text(text.replace(right, wrong))
    program = link(tmp_path / "program", library)
    outputs = [run(program, seed) for seed in range(20)]
    found = [finished.stdout + finished.stderr for finished in outputs if finished.returncode]
    assert found
    assert all(re.search(told + "|AddressSanitizer", text) for text in found)
