"""What a compile measured: report.json, tables for people, CSV for spreadsheets.

The JSON is the contract (schema_version 1, keys stable, units in names). Tables are drawn from
the JSON alone, so `redsc report DIR` prints what `redsc compile` printed. What was
not measured is null, never a guess.
"""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from redsc.errors import UsageError

SCHEMA_VERSION = 1
SQNR_CAP_DB = 120.0
"""Reported when int8 and float agree to the last bit of the comparison."""

Json = Mapping[str, Any]


def fidelity(real: np.ndarray, int8_real: np.ndarray) -> dict[str, float | None]:
    """How close a level's int8 outputs (dequantised) are to its float outputs.

    Both (samples, …, classes). sqnr_db is 10 log10(signal power / error power) over all samples;
    argmax_agreement is the share of samples, at every position of a map, whose largest output is
    the same one: None where there is only one.
    """
    error = float(np.sum((real - int8_real).astype(np.float64) ** 2))
    signal = float(np.sum(real.astype(np.float64) ** 2))
    sqnr = 10 * np.log10(signal / error) if error > 0 and signal > 0 else SQNR_CAP_DB
    agreement = None
    if real.shape[-1] > 1:
        agreement = float(np.mean(real.argmax(axis=-1) == int8_real.argmax(axis=-1)))
    return {
        "sqnr_db": round(float(min(sqnr, SQNR_CAP_DB)), 2),
        "argmax_agreement": None if agreement is None else round(agreement, 4),
    }


_NUMBERS = re.compile(r"\[\n([^][{}\"]+)\n *\]")
"""A list of numbers in indented JSON; no text matches, for a line end in a text is escaped."""


def to_json(report: Json) -> str:
    """Stable text of a report; a list of numbers is one line."""
    text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    return _NUMBERS.sub(lambda found: f"[{' '.join(found[1].split())}]", text)


def read(directory: Path) -> dict[str, Any]:
    """The report of an existing build, fit for `print_tables` and `print_classes`.

    Raises UsageError when it is missing, or was damaged or edited beyond that.
    """
    path = directory / "report" / "report.json"
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise UsageError(
            f"{directory}: holds no report/report.json; give the directory redsc compile wrote"
        ) from None
    except ValueError as error:
        raise UsageError(f"{path}: not valid JSON ({error}); compile again") from None
    version = report.get("schema_version") if isinstance(report, dict) else None
    if version != SCHEMA_VERSION:
        raise UsageError(
            f"{path}: schema_version {version!r}, this redsc reads {SCHEMA_VERSION}; compile again"
        )
    from rich.console import Console

    try:
        _draw(report, Console(file=io.StringIO()))
        _draw_classes(report, Console(file=io.StringIO()))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(
            f"{path}: not as redsc wrote it ({type(error).__name__}: {error}); compile again"
        ) from None
    return dict(report)


def check_levels(directory: Path, report: Json, count: int) -> None:
    """Raises UsageError unless the report tells of as many levels as the build has files of."""
    if len(report["levels"]) != count:
        raise UsageError(
            f"{directory}: its report tells of {len(report['levels'])} levels, {count} are there; "
            "compile again"
        )


def rows(report: Json) -> list[tuple[str, ...]]:
    """The level table, a row per quantity: its name, then one cell per level."""
    levels = report["levels"]

    def row(name: str, values: Iterable[Any], show: Callable[[Any], str]) -> tuple[str, ...]:
        return (name, *(show(value) for value in values))

    def of(key: str, part: str | None = None) -> list[Any]:
        return [level[key] if part is None else level[key][part] for level in levels]

    table = [row("MACs", of("macs"), _number), row("MACs of full", of("macs_percent"), _percent)]
    for quality, show in (("accuracy", _share), ("mean_squared_error", _figures)):
        for kind in ("float", "int8"):
            values = [level.get(f"{quality}_{kind}") for level in levels]
            if any(value is not None for value in values):
                table.append(row(f"{quality.replace('_', ' ')}, {kind}", values, show))
    table += [
        row("int8 to float, SQNR dB", of("fidelity", "sqnr_db"), _figures),
        row("flash, all levels, B", [report["flash"]["total_bytes"]] * len(levels), _number),
        row("RAM arena, B", of("arena_bytes"), _number),
        row("instructions", of("emulator", "instructions"), _number),
        row("instructions per switch", of("emulator", "switch_instructions"), _number),
        row("bit-exact", of("verified"), _verdict),
    ]
    if report["classifier"]:
        table.insert(-5, row("same argmax", of("fidelity", "argmax_agreement"), _share))
    if all(level.get("estimated_latency_ms") is not None for level in levels):
        table.insert(-3, row("latency, estimate, ms", of("estimated_latency_ms"), _milliseconds))
    least = [level.get("least_arena_bytes") for level in levels]  # earlier reports have none
    if None not in least and least != of("arena_bytes"):
        place = [name for name, *_ in table].index("RAM arena, B")
        table.insert(place + 1, row("  with slower kernels, B", least, _number))
    for group in levels[-1]["widths"]:
        if group not in report["fixed_groups"]:
            table.append(row(f"width {group}", of("widths", group), str))
    return table


def _milliseconds(value: float) -> str:
    return f"{value:,.2f}" if value >= 1 else f"{value:.3f}"


def _percent(value: float) -> str:
    return f"{value:.1f} %"


def _number(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def _figures(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f} %"


def _verdict(verified: Json) -> str:
    if False in verified.values():
        return "NO"
    done = [name for name, value in verified.items() if value]
    return "yes" if len(done) == len(verified) else "+".join(done) or "–"


def console_for(columns: int) -> Any:
    """A console for stdout, wide enough for a table of that many columns when it is piped."""
    from rich.console import Console

    piped_width = 40 + 16 * columns
    return Console(highlight=False, width=None if sys.stdout.isatty() else piped_width)


def level_table(title: str, levels: Iterable[Json]) -> Any:
    """An empty table with a column for the rows' names and one per level."""
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("level", no_wrap=True)
    for level in levels:
        table.add_column(str(level["level"]), justify="right", no_wrap=True)
    return table


def print_tables(report: Json) -> None:
    """The whole report for a person, to stdout."""
    _draw(report, console_for(len(report["levels"])))


def _draw(report: Json, console: Any) -> None:
    model, flash, search = report["model"], report["flash"], report["search"]
    table = level_table(
        f"{Path(model['path']).name}: {_number(model['parameters'])} parameters, "
        f"{_number(model['macs'])} MACs{_original(report)}",
        report["levels"],
    )
    for row in rows(report):
        table.add_row(*row)
    console.print(table)
    for line in _bars(report):
        console.print(line, markup=False, soft_wrap=True)
    lines = (
        *_simplified(model),
        f"flash   weights {_number(flash['weights_bytes'])} B + tables "
        f"{_number(flash['tables_bytes'])} B + {_code(flash)}, one copy for all levels",
        *_kernels(report),
        f"search  {search['solver']}, {search['seconds']:.1f} s, {_proof(search)}",
        f"input   {report['input']['formula']}",
    )
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
    for warning in report["warnings"]:
        console.print(f"warning {warning}", style="yellow", markup=False, soft_wrap=True)


def _simplified(model: Json) -> list[str]:
    """What went before the search; reports of earlier versions have none."""
    dropped = model.get("constant_units", 0)
    if not dropped:
        return []
    return [
        f"units   {_number(dropped)} of {_number(model['units'])} are constant and gone: the full "
        f"network computes {_number(model['simplified_macs'])} MACs"
    ]


def _kernels(report: Json) -> list[str]:
    """How outputs become int8, and which kernels were passed; reports of earlier versions do not
    say."""
    kernels = report.get("kernels")
    if kernels is None:
        return []
    counts = dict.fromkeys(_REQUANTISATIONS.values(), 0)
    for kernel in kernels["by_op"].values():
        if kernel.startswith(("conv2d", "depthwise", "dense")):
            counts[next(how for part, how in _REQUANTISATIONS.items() if part in kernel)] += 1
    parts = [f"{count} {how}" for how, count in counts.items() if count]
    lines = [f"kernels requantise layers: {', '.join(parts)}"] if parts else []
    passed = [
        f"{passed['faster']} for {passed['op']} ({_obstacle(passed)})"
        for passed in kernels.get("fallbacks", [])
    ]
    return [*lines, f"kernels not taken: {', '.join(passed)}"] if passed else lines


def _obstacle(fallback: Json) -> str:
    count = _number(fallback["count"])
    match fallback["reason"]:
        case "proof":
            what = "levels" if fallback["faster"] == "add_proven" else "channels"
            return f"no proof for {count} {what}"
        case "room":
            return f"no room at {count} levels"
        case _:
            return f"{count} B more of tables"


_REQUANTISATIONS = {
    "one_product": "in two instructions",
    "proven": "in four",
    "3x3": "in four",
    "winograd": "in four",
    "": "the general way",
}
"""By what a kernel's name holds, the first one that does."""


def _proof(search: Json) -> str:
    if search["objective"] == "uniform":
        proof = "uniform widths, nothing to prove"
    else:
        proof = "proven optimal" if search["proven_optimal"] else f"gap {search['gap']:.2%}"
    compared = search.get("candidates", [])  # reports of earlier versions have none
    if len(compared) < 2:
        return proof
    best = next(candidate["from"] for candidate in compared if candidate["chosen"])
    proof = "" if best == "uniform" else f"{proof}, "
    return f"{proof}best of {len(compared)} nestings: {best}"


def _original(report: Json) -> str:
    """How good the network was before, in float; reports of earlier versions do not say."""
    original = report.get("original", {})
    if original.get("accuracy") is not None:
        return f", accuracy {100 * original['accuracy']:.2f} %"
    if original.get("mean_squared_error") is not None:
        return f", mean squared error {original['mean_squared_error']:.4g}"
    return ""


def print_classes(directory: Path, report: Json) -> None:
    """Per class, calibration, and how alike the levels answer, for a person, to stdout.

    Raises UsageError when the report holds nothing of it.
    """
    if not _draw_classes(report, console_for(len(report["levels"]) + 1)):
        raise UsageError(
            f"{directory}: its report holds nothing per class; compile with --data of classes"
        )


def _draw_classes(report: Json, console: Any) -> bool:
    """Whether there was something to draw; reports of earlier versions lack all of it."""
    tables = [*_class_tables(report), *_agreement_table(report)]
    for table in tables:
        console.print(table)
    return bool(tables)


def _class_tables(report: Json) -> Iterable[Any]:
    """Accuracy per class, in int8 where it was measured, and the levels' calibration."""
    from rich.markup import escape

    classes, levels = report.get("classes"), report["levels"]
    if classes is None:
        return
    int8 = all(level["class_accuracy_int8"] is not None for level in levels)
    kind = "int8" if int8 else "float"
    table = level_table(f"accuracy per class, {kind}", levels)
    table.add_column("samples", justify="right", no_wrap=True)
    for number, (name, samples) in enumerate(
        zip(classes["names"], classes["samples"], strict=True)
    ):
        shares = [_share(level[f"class_accuracy_{kind}"][number]) for level in levels]
        table.add_row(escape(f"class {name}"), *shares, _number(samples))
    yield table
    table = level_table("calibration", levels)
    for name, key, show in (
        ("expected error", "expected_error", _share),
        ("negative log-likelihood", "negative_log_likelihood", _figures),
    ):
        for kind in ("float", "int8"):
            found = [level[f"calibration_{kind}"] for level in levels]
            if None not in found:
                table.add_row(f"{name}, {kind}", *(show(facts[key]) for facts in found))
    yield table


def _agreement_table(report: Json) -> Iterable[Any]:
    """A row per level, its agreement with every level."""
    found, levels = report.get("agreement"), report["levels"]
    if found is None:
        return
    for name, key, show in (
        ("same class as level …, int8", "argmax", _share),
        ("mean squared difference from level …, int8", "mean_squared_difference", _figures),
    ):
        if found[key] is None:
            continue
        table = level_table(name, levels)
        for level, values in zip(levels, found[key], strict=True):
            table.add_row(f"level {level['level']}", *map(show, values))
        yield table


def _bars(report: Json) -> list[str]:
    """How full the board will be; nothing for a report that an earlier redsc wrote."""
    if "board" not in report:
        return []
    board = report["board"]
    return [
        bar(name, board[f"estimated_{kind}_used_bytes"], board[f"{kind}_bytes"], "estimate")
        for name, kind in (("Flash", "flash"), ("RAM", "ram"))
    ]


def bar(name: str, used: int, total: int, mark: str) -> str:
    """One line that shows how full a memory is; `mark` says where the figure is from.

    tools/flash.py of an emitted project, which works without redsc, prints the same.
    """
    full = "=" * min(10, round(10 * used / total))
    return f"{name:5} [{full:10}] {100 * used / total:5.1f} %  {used:>7,} of {total:,} B  {mark}"


def _code(flash: Json) -> str:
    if flash["code_bytes"] is None:
        return "code (not measured)"
    return f"code {_number(flash['code_bytes'])} B = {_number(flash['total_bytes'])} B"


def summary_csv(report: Json) -> str:
    """One row per level, for appending to a spreadsheet of many networks."""
    header = [
        "model", "level", "budget_percent", "macs", "macs_percent", "parameters",
        "peak_activation_bytes", "arena_bytes", "accuracy_float", "accuracy_int8", "sqnr_db",
        "argmax_agreement", "verified_tflm", "verified_host", "verified_emulator",
        "instructions", "switch_instructions", "flash_total_bytes", "estimated_latency_ms",
    ]  # fmt: skip
    table = []
    for level in report["levels"]:
        verified, counted = level["verified"], level["emulator"]
        table.append([
            Path(report["model"]["path"]).name,
            *(level[key] for key in header[1:10]),
            level["fidelity"]["sqnr_db"], level["fidelity"]["argmax_agreement"],
            verified["tflm"], verified["host"], verified["emulator"],
            counted["instructions"], counted["switch_instructions"],
            report["flash"]["total_bytes"], level.get("estimated_latency_ms"),
        ])  # fmt: skip
    return csv_text(header, table)


def csv_text(header: Sequence[str], table: Sequence[Sequence[Any]]) -> str:
    """CSV with Unix line ends; None is an empty cell."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(table)
    return stream.getvalue()
