"""DSP kernels against the portable ones, on the emulated Cortex-M4: many random calls at a time."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from redsc.machines import CORTEX_M4
from tests import firmware_build, kernel_cases
from tests.firmware_build import needs_emulator

CASES_PER_RUN = 1000
"""About 14 MB of the emulated board's 16."""

Kinds = Sequence[Callable[[kernel_cases.Image], kernel_cases.Case]]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = Path(__file__).parent / "kernels_test.cc"
    return firmware_build.link(
        [source], [], "emulator", tmp_path_factory.mktemp("kernels") / "kernels.elf"
    )


def check(program: Path, folder: Path, kinds: Kinds, seed: int) -> list[str]:
    """Runs a case of each kind; the names of their kernels."""
    image, cases = kernel_cases.image(kinds, seed)
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
    return [case.kernel for case in cases]


@needs_emulator
def test_kernels_compute_the_portable_ones_bytes(program: Path, tmp_path: Path) -> None:
    kinds = kernel_cases.kinds() * 20
    assert set(check(program, tmp_path, kinds, seed=0)) == set(kernel_cases.KERNELS)


@needs_emulator
@pytest.mark.slow
def test_thousands_of_calls_of_every_kernel(program: Path, tmp_path: Path) -> None:
    total: Counter[str] = Counter()
    kinds = kernel_cases.kinds()
    names_of: list[set[str]] = [set() for _ in kinds]
    for seed in range(1, 500):
        lacking = {name for name in kernel_cases.KERNELS if total[name] < 5000}
        if not lacking:
            return
        # Of kinds that never named what is lacking, no more.
        wanted = [n for n, names in enumerate(names_of) if seed == 1 or names & lacking]
        wanted *= CASES_PER_RUN // len(wanted)
        names = check(program, tmp_path, [kinds[number] for number in wanted], seed)
        total.update(names)
        for number, name in zip(wanted, names, strict=True):
            names_of[number].add(name)
    pytest.fail(f"too few cases: {total}")
