"""Time and memory of `redsc compile` without data, full-size networks, ladder included.

    python benchmarks/compile.py [MODEL …]

Without arguments: the DS-CNN and MobileNetV1-0.25 of tests/zoo.py, and the DS-CNN with 2, 4 and
10 levels. Memory is the largest resident set of the compiler or any one of its children.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LEVELS = {2: "50,100", 4: "25,50,75,100", 10: "10,20,30,40,50,60,70,80,90,100"}
STAGES = ("gather inputs", "search widths", "verify on the host", "verify on the emulator")


def measure(model: Path, levels: str) -> tuple[float, float, dict[str, float]]:
    """Seconds, peak memory in GB and seconds by stage of one compile."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "redsc", "compile", str(model), "-o", f"{folder}/build"]
        started = time.monotonic()
        process = subprocess.Popen(
            [*command, "--levels", levels, "--json", "-q"], stdout=subprocess.PIPE, cwd=ROOT
        )
        assert process.stdout is not None
        text = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - started
        if status != 0:
            sys.exit(f"compiling {model} failed")
        return seconds, usage.ru_maxrss / 1e6, json.loads(text)["seconds"]


def build_zoo(folder: Path, *families: str) -> list[Path]:
    """Full-size networks of tests/zoo.py, with trained-like weights."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    import zoo

    paths = []
    for family in families:
        paths.append(folder / f"{family}.h5")
        zoo.ZOO[family]("full").save(paths[-1])
    return paths


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        models = [Path(argument).absolute() for argument in sys.argv[1:]]
        models = models or build_zoo(Path(folder), "ds_cnn", "mobilenet_v1")
        runs = [(model, 4) for model in models] + [(models[0], 2), (models[0], 10)]
        print("| network | levels | s | GB |", " | ".join(STAGES), "|")
        print("|---|---|---|---|" + "---|" * len(STAGES))
        for model, count in runs:
            seconds, gigabytes, stages = measure(model, LEVELS[count])
            cells = " | ".join(f"{stages[stage]:.1f}" for stage in STAGES)
            print(f"| {model.stem} | {count} | {seconds:.1f} | {gigabytes:.2f} | {cells} |")


if __name__ == "__main__":
    main()
