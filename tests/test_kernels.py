"""DSP kernels against the portable ones, on the emulated Cortex-M4: many random calls at a time."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from redsc.machines import CORTEX_M4
from tests import firmware_build, kernel_cases
from tests.firmware_build import needs_emulator

ROUNDS_PER_RUN = 50
"""So many cases of each kind, about 13 MB of the emulated board's 16."""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = Path(__file__).parent / "kernels_test.cc"
    return firmware_build.link(
        [source], [], "emulator", tmp_path_factory.mktemp("kernels") / "kernels.elf"
    )


def check(program: Path, folder: Path, rounds: int, seed: int) -> Counter[str]:
    """Runs cases of every kind; how many there were of each kernel."""
    image, cases = kernel_cases.image(kernel_cases.kinds() * rounds, seed)
    (folder / "cases.bin").write_bytes(image)
    finished = subprocess.run(
        [
            *CORTEX_M4.qemu, "-kernel", str(program), "-device",
            f"loader,file=cases.bin,addr={kernel_cases.ADDRESS:#x},force-raw=on",
        ],
        cwd=folder, capture_output=True, text=True, timeout=600, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if finished.returncode:
        found = re.match(r"wrong case=(\d+)", finished.stdout)
        case = cases[int(found[1])] if found else None
        pytest.fail(f"seed {seed}: {finished.stdout} {case}")
    return Counter(case.kernel for case in cases)


@needs_emulator
def test_kernels_compute_the_portable_ones_bytes(program: Path, tmp_path: Path) -> None:
    assert set(check(program, tmp_path, 20, seed=0)) == set(kernel_cases.KERNELS)


@needs_emulator
@pytest.mark.slow
def test_thousands_of_calls_of_every_kernel(program: Path, tmp_path: Path) -> None:
    total: Counter[str] = Counter()
    for seed in range(1, 250):
        total += check(program, tmp_path, ROUNDS_PER_RUN, seed)
        if min(total[name] for name in kernel_cases.KERNELS) >= 5000:
            return
    pytest.fail(f"too few cases: {total}")
