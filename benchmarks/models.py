"""MLPerf Tiny's four networks, compiled to four levels, beside TensorFlow Lite Micro.

    python benchmarks/models.py [--ops] [--steps] [--json] [--only NAME,…] [NAME=FILE …]

Every network is compiled without data and measured by `redsc bench --emulator`; a second time
with an arena of at most 0.9 of TensorFlow Lite Micro's. --steps also compiles it with widths in
steps of 1, 2 and 4 channels. NAME is one of ds_cnn, resnet8,
mobilenet_v1, autoencoder; its FILE is a trained one. Networks without a file are those of
tests/zoo.py, of the same shapes with random weights: kernels take the same time whatever the
weights are, unless they cannot be proved for the short requantisation; widths may differ.

TensorFlow Lite Micro's figures are facts of one measurement (TFLM), not taken again here.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compile import ROOT, build_zoo

from redsc import toolchain
from redsc.bench import NOT_ESTIMATED

MOST_OF_ARENA = 0.9
BARS = {25.0: 1.25, 50.0: 1.10}
"""What a level's share of the cycles may be of its share of the MACs, by percent of the MACs."""

CHANNEL_STEPS = (1, 2, 4)

NAME = "bare"
BARE_SKETCH = f"""
#include "{NAME}.h"

alignas(16) static int8_t arena[{NAME}::arena_bytes];
static {NAME}::Network network(arena, sizeof(arena));

int main() {{ return network.begin().ok() && network.invoke().ok() ? network.output()[0] : 1; }}
"""
"""What a finished product needs at least: no console on a serial line."""


@dataclass(frozen=True)
class Rival:
    """One width. code_bytes: flash without the model, with registrations for int8 alone."""

    cycles: int
    arena_bytes: int
    model_bytes: int
    code_bytes: int


TFLM = {
    "ds_cnn": Rival(9_306_000, 22_820, 53_936, 63_764),
    "resnet8": Rival(36_799_000, 54_996, 98_496, 61_536),
    "mobilenet_v1": Rival(29_488_000, 100_708, 333_288, 63_764),
    "autoencoder": Rival(727_000, 2_580, 276_976, 38_468),
}
"""MLPerf Tiny's int8 models under TensorFlow Lite Micro of August 2026 with CMSIS-NN of July 2026,
GCC 12.2 -O2, on the same emulated board and with the same estimate of cycles."""


@dataclass(frozen=True)
class Level:
    """cycles are an estimate, None and empty where there is none; those of ops by layer."""

    percent: float
    macs: int
    instructions: int
    op_instructions: Mapping[str, int]
    cycles: int | None
    op_cycles: Mapping[str, int]
    arena_bytes: int
    least_arena_bytes: int
    widths: Mapping[str, int]


@dataclass(frozen=True)
class Network:
    """macs: of the network as given, which the widest level may not reach. code_bytes: of the whole
    sketch without weights and tables; bare_code_bytes: of BARE_SKETCH."""

    name: str
    file: str
    macs: int
    levels: tuple[Level, ...]
    weights_bytes: int
    tables_bytes: int
    code_bytes: int
    bare_code_bytes: int
    warnings: tuple[str, ...]

    @property
    def data_bytes(self) -> int:
        return self.weights_bytes + self.tables_bytes

    def macs_share(self, level: Level) -> float:
        return level.macs / self.levels[-1].macs

    def cycles_share(self, level: Level) -> float | None:
        return quotient(level.cycles, self.levels[-1].cycles)

    def ratio(self, level: Level) -> float | None:
        return quotient(self.cycles_share(level), self.macs_share(level))


def quotient(part: float | None, whole: float | None) -> float | None:
    """None of what was not estimated."""
    return None if part is None or whole is None else part / whole


def measure(name: str, model: Path, *more: str) -> Network:
    """more: options of the compile."""
    with tempfile.TemporaryDirectory() as folder:
        build = f"{folder}/build"
        options = ["--no-verify", "--runtime", "standalone", "--name", NAME, *more, "-o", build]
        report = run("compile", str(model), *options)
        bench = run("bench", build, "--emulator")
        (sketch,) = Path(build).glob("src/main.cpp")
        sketch.write_text(BARE_SKETCH)
        bare = toolchain.build(Path(build), "emulator", Path(folder) / "bare")
        return network_of(name, report, bench, bare.flash_bytes)


def run(*arguments: str) -> dict[str, Any]:
    """What a command of redsc prints as JSON."""
    command = [sys.executable, "-m", "redsc", *arguments, "--json", "-q"]
    finished = subprocess.run(command, stdout=subprocess.PIPE, cwd=ROOT, check=False)
    if finished.returncode:
        sys.exit(f"{' '.join(command)} failed")
    return dict(json.loads(finished.stdout))


def network_of(
    name: str, report: Mapping[str, Any], bench: Mapping[str, Any], bare_flash_bytes: int
) -> Network:
    flash = report["flash"]
    data_bytes = flash["weights_bytes"] + flash["tables_bytes"]
    return Network(
        name=name,
        file=Path(report["model"]["path"]).name,
        macs=report["model"]["macs"],
        levels=tuple(
            Level(
                percent=level["budget_percent"],
                macs=level["macs"],
                instructions=counted["instructions"],
                op_instructions=counted["ops"],
                cycles=counted["estimated_cycles"],
                op_cycles=counted["estimated_op_cycles"],
                arena_bytes=level["arena_bytes"],
                least_arena_bytes=level["least_arena_bytes"],
                widths=level["widths"],
            )
            for level, counted in zip(report["levels"], bench["levels"], strict=True)
        ),
        weights_bytes=flash["weights_bytes"],
        tables_bytes=flash["tables_bytes"],
        code_bytes=bench["flash_bytes"] - data_bytes,
        bare_code_bytes=bare_flash_bytes - data_bytes,
        warnings=tuple(report["warnings"]),
    )


# --- printing ------------------------------------------------------------------------------------


def shown(value: float | None, form: str) -> str:
    """A dash for what was not estimated."""
    return "–" if value is None else format(value, form)


def print_levels(networks: Sequence[Network]) -> None:
    """Shares are of the widest level; the ratio is the share of cycles over that of MACs."""
    print("| network | level | MACs | share | instructions | estimated cycles | share | ratio |",
          "bar | arena B | least B |")  # fmt: skip
    print("|---|" + "---:|" * 10)
    for network in networks:
        title = network.name
        for number, level in enumerate(network.levels):
            bar = f"{BARS[level.percent]:.2f}" if level.percent in BARS else ""
            print(f"| {title} | {number} | {level.macs:,} | {network.macs_share(level):.1%} |",
                  f"{level.instructions:,} | {shown(level.cycles, ',')} |",
                  f"{shown(network.cycles_share(level), '.1%')} |",
                  f"{shown(network.ratio(level), '.2f')} | {bar} | {level.arena_bytes:,} |",
                  f"{level.least_arena_bytes:,} |")  # fmt: skip
            title = ""


def print_rivals(networks: Sequence[Network]) -> None:
    """The widest level, and the flash of all levels, over one width of TensorFlow Lite Micro."""
    print("| network | MACs | estimated cycles | of TFLM's | arena B | of TFLM's |",
          "weights B | tables B | both, of TFLM's model | code B | of TFLM's |",
          "without console B |")  # fmt: skip
    print("|---|" + "---:|" * 11)
    for network in networks:
        rival, full, code = TFLM[network.name], network.levels[-1], network.code_bytes
        print(f"| {network.name} | {full.macs / network.macs:.1%} |",
              f"{shown(full.cycles, ',')} |",
              f"{shown(quotient(full.cycles, rival.cycles), '.2f')} |",
              f"{full.arena_bytes:,} | {full.arena_bytes / rival.arena_bytes:.2f} |",
              f"{network.weights_bytes:,} | {network.tables_bytes:,} |",
              f"{network.data_bytes / rival.model_bytes:.2f} |",
              f"{code:,} | {code / rival.code_bytes:.2f} |",
              f"{network.bare_code_bytes:,} |")  # fmt: skip


def print_steps(by_step: Mapping[int, Sequence[Network]]) -> None:
    """What widths in steps of so many channels cost, at the levels that have a bar."""
    print("| network | channel step | level | MACs | estimated cycles | ratio | full level's |")
    print("|---|" + "---:|" * 6)
    for networks in zip(*by_step.values(), strict=True):
        for step, network in zip(by_step, networks, strict=True):
            full = shown(network.levels[-1].cycles, ",")
            for level in network.levels:
                if level.percent in BARS:
                    print(f"| {network.name} | {step} | {level.percent:g} % | {level.macs:,} |",
                          f"{shown(level.cycles, ',')} | {shown(network.ratio(level), '.2f')} |",
                          f"{full} |")  # fmt: skip


def print_ops(network: Network) -> None:
    """Estimated cycles of every op at every level, else instructions."""
    print(f"\n| {network.name} | {' | '.join(f'level {i}' for i in range(len(network.levels)))} |")
    print("|---|" + "---:|" * len(network.levels))
    counts = [level.op_cycles or level.op_instructions for level in network.levels]
    for op in counts[-1]:
        print(f"| {op} |", " | ".join(f"{own[op]:,}" for own in counts), "|")


def print_tables(networks: Sequence[Network], *, ops: bool) -> None:
    if any(level.cycles is None for network in networks for level in network.levels):
        print(f"{NOT_ESTIMATED}\n")
    print_levels(networks)
    print()
    print_rivals(networks)
    for network in networks if ops else ():
        print_ops(network)


def to_json(network: Network) -> dict[str, Any]:
    rival = TFLM[network.name]
    return {
        "name": network.name,
        "file": network.file,
        "macs": network.macs,
        "levels": [
            {
                **vars(level),
                "macs_share": network.macs_share(level),
                "cycles_share": network.cycles_share(level),
                "share_ratio": network.ratio(level),
            }
            for level in network.levels
        ],
        "weights_bytes": network.weights_bytes,
        "tables_bytes": network.tables_bytes,
        "code_bytes": network.code_bytes,
        "bare_code_bytes": network.bare_code_bytes,
        "warnings": list(network.warnings),
        "tflm": vars(rival),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", metavar="NAME=FILE", help="trained networks")
    parser.add_argument("--only", metavar="NAME,…", default=",".join(TFLM))
    parser.add_argument("--ops", action="store_true", help="every op's cycles, too")
    parser.add_argument("--steps", action="store_true", help="other channel steps, too")
    parser.add_argument("--json", action="store_true", help="everything, as JSON")
    options = parser.parse_args()
    names = options.only.split(",")
    files = {name: Path(path) for name, _, path in (text.partition("=") for text in options.files)}
    for name in (*names, *files):
        if name not in TFLM:
            parser.error(f"{name!r} is not one of {', '.join(TFLM)}")
    free: list[Network] = []
    limited: list[Network] = []
    by_step: dict[int, list[Network]] = {step: [] for step in CHANNEL_STEPS if options.steps}
    with tempfile.TemporaryDirectory() as folder:
        missing = [name for name in names if name not in files]
        files.update(zip(missing, build_zoo(Path(folder), *missing), strict=True))
        for name in names:
            model = files[name].absolute()
            print(f"measuring {name}", file=sys.stderr, flush=True)
            free.append(measure(name, model))
            most = int(MOST_OF_ARENA * TFLM[name].arena_bytes)
            limited.append(measure(name, model, "--max-ram-bytes", str(most)))
            for step, stepped in by_step.items():
                stepped.append(measure(name, model, "--channel-step", str(step)))
    if options.json:
        found = {
            "free": free, "limited": limited,
            **{f"step_{step}": stepped for step, stepped in by_step.items()},
        }  # fmt: skip
        print(json.dumps({name: [*map(to_json, own)] for name, own in found.items()}, indent=2))
        return
    limit = f"Arena at most {MOST_OF_ARENA:.0%} of TensorFlow Lite Micro's"
    for title, networks in (("No limit of memory", free), (limit, limited)):
        print(f"\n{title}:\n")
        print_tables(networks, ops=options.ops)
    if by_step:
        print("\nWidths in steps of channels:\n")
        print_steps(by_step)


if __name__ == "__main__":
    main()
