"""A board's figures as JSON, a table, CSV and plots. Everything is drawn from the JSON alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import redsc
from redsc import output, plots, report
from redsc.board_answers import Board, LevelFigures
from redsc.golden import Golden

SCHEMA_VERSION = 1
FOLDER = "bench"

_OF_THE_REPORT = ("level", "budget_percent", "macs", "accuracy_float", "accuracy_int8", "fidelity",
                  "emulator")  # fmt: skip
_TIMES = ("inference", "first_inference", "switch")

Json = Mapping[str, Any]


def summarize(
    result: Json, build: Golden, board: Board, figures: Sequence[LevelFigures], inputs: int
) -> dict[str, Any]:
    """bench.json: times in the board's unit, beside what the report knows of the levels.

    `inputs` were compared, at every level.
    """
    levels = []
    for known, measured in zip(result["levels"], figures, strict=True):
        times = (measured.inference, measured.first, measured.switch)
        levels.append({
            **{key: known[key] for key in _OF_THE_REPORT},
            "mean_squared_error_int8": known.get("mean_squared_error_int8"),
            **{name: asdict(value) for name, value in zip(_TIMES, times, strict=True)},
            "arena_bytes": measured.arena_bytes,
            "ops": dict(zip(build.step_names, measured.steps, strict=True)),
        })  # fmt: skip
    return {
        "schema_version": SCHEMA_VERSION,
        "redsc_version": redsc.__version__,
        "model": result["model"]["path"],
        "model_crc": f"{board.model_crc:08x}",
        "board": board.name,
        "runtime": board.runtime,
        "unit": board.unit,
        "hz": board.hz,
        "arena": {"have_bytes": board.arena_bytes, "used_bytes": board.arena_used_bytes},
        "inputs_compared": inputs,
        "levels": levels,
    }


def microseconds(bench: Json, time: float) -> float | None:
    """A time in the board's unit; None where only instructions were counted."""
    if bench["hz"]:
        return 1e6 * time / float(bench["hz"])
    return time / 1e3 if bench["unit"] == "ns" else None


def rows(bench: Json) -> list[tuple[str, ...]]:
    """The level table, a row per quantity: its name, then one cell per level."""
    levels, unit = bench["levels"], bench["unit"]
    timed = microseconds(bench, 1) is not None

    def us(name: str, part: str, scale: float = 1.0) -> list[str]:
        values = [microseconds(bench, level[name][part]) or 0.0 for level in levels]
        return [f"{scale * value:,.{_decimals(scale * value)}f}" for value in values]

    def counts(name: str, part: str) -> list[str]:
        return [f"{level[name][part]:,}" for level in levels]

    def ends(show: Callable[[str, str], list[str]], name: str) -> list[tuple[str, ...]]:
        return [("  min", *show(name, "min")), ("  max", *show(name, "max"))]

    table: list[tuple[str, ...]] = []
    if timed:
        table += [
            ("inference, ms", *us("inference", "median", 1e-3)),
            ("inference, µs", *us("inference", "median")),
            *ends(us, "inference"),
            ("first after a switch, µs", *us("first_inference", "median")),
            ("switch, µs", *us("switch", "median")),
            *ends(us, "switch"),
        ]
    else:
        table += [
            (f"inference, {unit}", *counts("inference", "median")),
            *ends(counts, "inference"),
            (f"first after a switch, {unit}", *counts("first_inference", "median")),
        ]
    if unit != "ns":
        table += [
            (f"switch, {unit}", *counts("switch", "median")),
            *ends(counts, "switch"),
        ]
    table += _known_rows(levels)
    return table


def _known_rows(levels: Sequence[Json]) -> list[tuple[str, ...]]:
    """What the report says of the levels, and their arena."""
    table: list[tuple[str, ...]] = [
        ("RAM arena, B", *(f"{level['arena_bytes']:,}" for level in levels)),
        ("MACs", *(f"{level['macs']:,}" for level in levels)),
    ]
    if all(level["accuracy_int8"] is not None for level in levels):
        cells = (f"{100 * level['accuracy_int8']:.2f} %" for level in levels)
        table.append(("accuracy, int8", *cells))
    counted = [level["emulator"] for level in levels]
    if all(one["instructions"] is not None for one in counted):
        table += [
            ("emulator: instructions", *(f"{one['instructions']:,}" for one in counted)),
            ("emulator: of a switch", *(f"{one['switch_instructions']:,}" for one in counted)),
        ]
    return table


def _decimals(value: float) -> int:
    """Digits after the point that leave about four in all."""
    return next((digits for digits, limit in enumerate((1000, 100, 10)) if value >= limit), 3)


def print_tables(bench: Json) -> None:
    """For a person, to stdout: levels, then every op."""
    levels = bench["levels"]
    unit = "µs" if microseconds(bench, 1) is not None else bench["unit"]
    speed = f" at {bench['hz'] / 1e6:g} MHz" if bench["hz"] and bench["unit"] != "ns" else ""
    console = report.console_for(len(levels))
    name, board = Path(bench["model"]).name, bench["board"]
    title = f"{name} on {board}{speed}, runtime {bench['runtime']}: medians"
    table = report.level_table(title, levels)
    for row in rows(bench):
        table.add_row(*row)
    table.add_section()
    table.add_row(f"one inference by op, {unit}")
    for op in levels[-1]["ops"]:
        times = [level["ops"][op] for level in levels]
        table.add_row(f"  {op}", *(_time(bench, time) for time in times))
    console.print(table)
    console.print(
        f"every level's output is byte for byte the proven one, for {bench['inputs_compared']} "
        f"inputs\narena {bench['arena']['used_bytes']:,} B used of "
        f"{bench['arena']['have_bytes']:,} B",
        soft_wrap=True,
    )


def _time(bench: Json, time: int) -> str:
    us = microseconds(bench, time)
    return f"{time:,}" if us is None else f"{us:,.{_decimals(us)}f}"


def csv_text(bench: Json) -> str:
    """One row per level; times in the board's unit."""
    header = ["model", "model_crc", "board", "runtime", "unit", "hz", "level", "budget_percent",
              "macs", "accuracy_int8", "arena_bytes", "emulator_instructions",
              "inference_median_us"]  # fmt: skip
    parts = ("n", "min", "median", "max")
    table = []
    for level in bench["levels"]:
        us = microseconds(bench, level["inference"]["median"])
        table.append([
            Path(bench["model"]).name,
            *(bench[key] for key in header[1:6]),
            *(level[key] for key in header[6:11]),
            level["emulator"]["instructions"],
            None if us is None else round(us, 3),
            *(level[name][part] for name in _TIMES for part in parts),
        ])  # fmt: skip
    header += [f"{name}_{part}" for name in _TIMES for part in parts]
    return report.csv_text(header, table)


def save(directory: Path, bench: Json) -> Path:
    """DIR/bench/: JSON, CSV and plots, all of them or none; the folder."""
    unit = bench["unit"] if microseconds(bench, 1) is None else "µs"
    scale = microseconds(bench, 1) or 1.0
    files = {
        "bench.json": (json.dumps(bench, indent=2, ensure_ascii=False) + "\n").encode(),
        "bench.csv": csv_text(bench).encode(),
        **plots.draw_bench(bench, unit, scale),
    }
    output.put_files(directory, {f"{FOLDER}/{name}": content for name, content in files.items()})
    return directory / FOLDER
