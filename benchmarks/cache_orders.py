"""D1 cache misses of a level's weights, by how these are stored: cachegrind on this computer.

    python benchmarks/cache_orders.py

The store's order, an output's weights side by side, against that of Keras, an input's weights side
by side (cache_orders.cc), in plain kernels that compute the same bytes. Every layer runs twice and
three times; the difference is one inference with a cache as the one before left it. Caches are of
one level, with lines of 64 bytes as of a phone's core, and as a Cortex-M7's. Needs valgrind.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REDS = ROOT / "firmware" / "reds"
SOURCES = (
    Path(__file__).with_suffix(".cc"),
    *(REDS / "src" / "portable" / name for name in ("dense.cc", "conv2d.cc")),
)
LAYOUTS = ("rows", "columns", "columns_in_sums")
"""Of cache_orders.cc: the store's; Keras' output by output; Keras' as stored, sums in memory."""

CACHES = {"32 KB, 64 B lines": "32768,8,64", "16 KB, 32 B lines": "16384,4,32"}
"""cachegrind's size, ways and bytes of a line."""

SHARES = (0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Layer:
    name: str
    pixels: int
    inputs: int
    outputs: int


LAYERS = (
    Layer("dense 640->128", 1, 640, 128),
    Layer("dense 256->256", 1, 256, 256),
    Layer("pointwise 64->64, 25x5", 125, 64, 64),
    Layer("pointwise 128->128, 6x6", 36, 128, 128),
    Layer("pointwise 256->256, 3x3", 9, 256, 256),
)


def build(folder: Path) -> Path:
    program = folder / "cache_orders"
    command = ["g++", "-std=gnu++14", "-O2", f"-I{REDS / 'include'}", *map(str, SOURCES)]
    subprocess.run([*command, "-o", str(program)], check=True)
    return program


def misses(program: Path, layout: str, layer: Layer, share: float, cache: str) -> tuple[int, str]:
    """Of one inference, reads and writes; and a checksum of its output."""
    narrow = (round(share * layer.inputs), round(share * layer.outputs))
    sizes = (layer.pixels, *narrow, layer.inputs, layer.outputs)
    counts, sums = [], set()
    for repeats in (2, 3):
        command = [
            "valgrind", "--tool=cachegrind", "--cache-sim=yes", f"--D1={cache}",
            f"--cachegrind-out-file={program.parent / 'out'}", str(program), layout,
            *map(str, (repeats, *sizes)),
        ]  # fmt: skip
        finished = subprocess.run(command, capture_output=True, text=True, check=True)
        counts.append(d1_misses((program.parent / "out").read_text()))
        sums.add(finished.stdout)
    assert len(sums) == 1, sums
    return counts[1] - counts[0], sums.pop()


def d1_misses(text: str) -> int:
    """Of a cachegrind output file, the whole program's."""
    events = re.search(r"^events: (.*)$", text, re.MULTILINE)
    summary = re.search(r"^summary: (.*)$", text, re.MULTILINE)
    assert events is not None, text[:500]
    assert summary is not None, text[-500:]
    totals = dict(zip(events[1].split(), map(int, summary[1].split()), strict=True))
    return totals["D1mr"] + totals["D1mw"]


def main() -> None:
    if shutil.which("valgrind") is None:
        sys.exit("valgrind not found; on Debian or Ubuntu: sudo apt-get install valgrind")
    print("| layer | D1 cache |", " | ".join(f"{share:.0%}" for share in SHARES), "|")
    print("|---|---|" + "---:|" * len(SHARES))
    with tempfile.TemporaryDirectory() as folder:
        program = build(Path(folder))
        for layer in LAYERS:
            for cache, numbers in CACHES.items():
                cells = []
                for share in SHARES:
                    found = [misses(program, layout, layer, share, numbers) for layout in LAYOUTS]
                    assert len({checksum for _, checksum in found}) == 1, (layer, share, found)
                    cells.append(" / ".join(f"{count:,}" for count, _ in found))
                print(f"| {layer.name} | {cache} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
