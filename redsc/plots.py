"""Pictures of a report and of a board's figures, drawn from the JSON alone.

levels.png says what each level keeps and costs; tradeoff.png what width buys; ops.png where a
board spends the time. The picture in the README is the demo's levels.png.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Json = Mapping[str, Any]
Quality = tuple[str, Sequence[float], str]
"""Name, one value per level, format."""

INK, PALE, EMPTY = "#22303c", "#7b8794", "#eef1f4"
LABEL_BOX = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}
_DARK_TO_LIGHT = ("#1b3a5c", "#2f7ea6", "#6fbcb0", "#c9e4c5")
_ROW_INCHES = 0.42
_LEGEND_COLUMNS = 4


def draw(report: Json) -> dict[str, bytes]:
    """PNG files by name; equal reports give equal bytes."""
    names = [f"level {level['level']}" for level in report["levels"]]
    with style():
        return {
            "levels.png": _levels(report),
            "tradeoff.png": _tradeoff(report, *_cost(report), names, _quality(report)),
        }


def draw_bench(bench: Json, unit: str, scale: float) -> dict[str, bytes]:
    """PNG files by name, of a bench.json; times times `scale` are in `unit`."""
    levels = bench["levels"]
    names = [f"level {level['level']}, {level['budget_percent']:g} %" for level in levels]
    costs = [scale * level["inference"]["median"] for level in levels]
    quality = _quality(bench)
    if not quality[1]:
        quality = ("MACs", [level["macs"] for level in levels], "{:,}")
    with style():
        return {
            "tradeoff.png": _tradeoff(bench, f"{unit} per inference", costs, names, quality),
            "ops.png": _ops(bench, unit, scale, names),
        }


def style() -> Any:
    """The context that every picture is drawn in."""
    import matplotlib

    matplotlib.use("Agg")
    return matplotlib.rc_context({"font.family": "DejaVu Sans", "font.size": 10})


def png(figure: Any) -> bytes:
    """The file of a finished figure; nothing in it depends on the day or the machine's name."""
    from matplotlib import pyplot

    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=150, metadata={"Software": None})
    pyplot.close(figure)
    return stream.getvalue()


def level_colours(count: int) -> list[Any]:
    """One colour per level, dark for the narrowest."""
    from matplotlib.colors import LinearSegmentedColormap

    scale = LinearSegmentedColormap.from_list("levels", _DARK_TO_LIGHT)
    return [scale(number / max(count - 1, 1)) for number in range(count)]


def text_on(colour: Any) -> str:
    red, green, blue = colour[:3]
    return "white" if 0.3 * red + 0.59 * green + 0.11 * blue < 0.55 else INK


def plain(axes: Any) -> None:
    """No frame, no ticks."""
    for side in axes.spines.values():
        side.set_visible(False)
    axes.tick_params(length=0, colors=INK)


def title(axes: Any, text: str) -> None:
    axes.set_title(text, loc="left", color=INK, fontweight="bold", pad=12)


def _levels(report: Json) -> bytes:
    from matplotlib import pyplot

    levels = report["levels"]
    groups = [name for name in levels[-1]["widths"] if name not in report["fixed_groups"]]
    rows = max(len(groups), len(levels) + 1, 4)
    figure, (left, right) = pyplot.subplots(
        1, 2, figsize=(12, 1.6 + _ROW_INCHES * rows), gridspec_kw={"width_ratios": (0.85, 1.3)}
    )
    _draw_widths(left, report, groups)
    _draw_costs(right, report)
    flash, switch = report["flash"], levels[0]["emulator"]["switch_instructions"]
    facts = [f"{Path(report['model']['path']).name}: one firmware"]
    if flash["total_bytes"] is not None:
        facts.append(f"{flash['total_bytes'] / 1024:.1f} KiB of flash for all levels")
    if switch is not None:
        facts.append(f"a switch is {switch} instructions")
    figure.text(0.985, 0.02, ", ".join(facts), ha="right", color=PALE, fontsize=9.5)
    figure.tight_layout(rect=(0, 0.04, 1, 1), w_pad=3)
    return png(figure)


def _draw_widths(axes: Any, report: Json, groups: list[str]) -> None:
    """A row per group; the leading units of level k lie inside those of level k + 1."""
    levels, colours = report["levels"], level_colours(len(report["levels"]))
    largest = max((levels[-1]["widths"][group] for group in groups), default=1)
    for row, group in enumerate(groups):
        start = 0
        for level, colour in zip(levels, colours, strict=True):
            end = level["widths"][group]
            axes.barh(row, end - start, left=start, height=0.72, color=colour, edgecolor="white")
            start = end
        axes.text(start + largest * 0.015, row, str(start), va="center", color=PALE, fontsize=9)
    axes.set_yticks(range(len(groups)), groups)
    axes.set_ylim(max(len(groups), 4) - 0.4, -0.6)
    axes.set_xlim(0, largest * 1.1)
    axes.set_xlabel("units, in order of importance", color=PALE)
    title(axes, "What each level keeps")
    plain(axes)


def _cost(report: Json) -> tuple[str, list[int]]:
    """Instructions where they were measured, else MACs."""
    counts = [level["emulator"]["instructions"] for level in report["levels"]]
    if None in counts:
        return "MACs per inference", [level["macs"] for level in report["levels"]]
    return "instructions per inference", counts


def _quality(report: Json) -> Quality:
    """The best measure of quality there is: its name, values and format."""
    levels = report["levels"]
    if levels[0]["accuracy_int8"] is not None:
        return "int8 accuracy", [100 * level["accuracy_int8"] for level in levels], "{:.2f} %"
    if levels[0].get("mean_squared_error_int8") is not None:
        return "int8 MSE", [level["mean_squared_error_int8"] for level in levels], "{:.4g}"
    if levels[0]["fidelity"]["sqnr_db"] is not None:
        return "int8 SQNR", [level["fidelity"]["sqnr_db"] for level in levels], "{:.1f} dB"
    return "", [], ""


def _draw_costs(axes: Any, report: Json) -> None:
    """A row per level: instructions as a bar, the rest as text."""
    levels, colours = report["levels"], level_colours(len(report["levels"]))
    name, costs = _cost(report)
    quality, values, style = _quality(report)
    full = max(costs)
    columns = [(1.13, quality), (1.40, "RAM arena"), (1.63, "MACs")]
    for row, (level, cost, colour) in enumerate(zip(levels, costs, colours, strict=True)):
        axes.barh(row, full, height=0.72, color=EMPTY)
        axes.barh(row, cost, height=0.72, color=colour)
        label = f"{cost / 1e6:.2f} M" if full >= 2e6 else f"{cost / 1e3:,.0f} k"
        axes.text(
            full * 0.015, row, label, va="center", color=text_on(colour), fontweight="bold",
        )  # fmt: skip
        cells = (
            style.format(values[row]) if values else "",
            f"{level['arena_bytes'] / 1024:.2f} KiB",
            f"{level['macs_percent']:.0f} %",
        )
        for (x, _), text in zip(columns, cells, strict=True):
            axes.text(full * x, row, text, va="center", ha="center", color=INK)
    axes.text(0, -0.62, name, color=PALE, fontsize=9)
    for x, text in columns:
        axes.text(full * x, -0.62, text, ha="center", color=PALE, fontsize=9)
    axes.set_yticks(range(len(levels)), [f"level {level['level']}" for level in levels])
    axes.set_ylim(max(len(levels), 4) - 0.4, -0.85)
    axes.set_xlim(0, full * 1.74)
    axes.set_xticks([])
    title(axes, "What each level costs")
    plain(axes)


def _tradeoff(
    report: Json, name: str, costs: Sequence[float], labels: Sequence[str], measured: Quality
) -> bytes:
    """Quality against cost, one point per level, float beside int8 where both are measured."""
    from matplotlib import pyplot, ticker

    levels, colours = report["levels"], level_colours(len(report["levels"]))
    quality, values, _ = measured
    figure, axes = pyplot.subplots(figsize=(6.4, 4.2))
    unit = {"int8 accuracy": ", %", "int8 SQNR": ", dB"}.get(quality, "")
    axes.set_title(
        (quality or "not measured") + unit, loc="left", color=INK, fontweight="bold", pad=12
    )
    if quality == "int8 accuracy":
        real = [100 * level["accuracy_float"] for level in levels]
        axes.plot(costs, real, "--", color=PALE, linewidth=1, label="float")
        low = min(*values, *real)
        axes.set_ylim(max(0.0, low - max(1.0, 0.3 * (100 - low))), 100.2)
    if values:
        axes.plot(costs, values, color=PALE, linewidth=1.5, zorder=1, label="int8")
        axes.scatter(costs, values, s=90, c=colours, edgecolor=INK, linewidth=0.6, zorder=2)
        for label, x, y in zip(labels, costs, values, strict=True):
            axes.annotate(
                label, (x, y), xytext=(8, -12), textcoords="offset points",
                ha="left", color=INK, fontsize=9, bbox=LABEL_BOX,
            )  # fmt: skip
        axes.legend(
            frameon=False, labelcolor=PALE, loc="lower right", bbox_to_anchor=(1, 1), ncols=2
        )
    axes.set_xlim(0, 1.15 * max(costs))
    axes.margins(y=0.15)
    axes.xaxis.set_major_formatter(ticker.EngFormatter(sep=" "))
    axes.set_xlabel(name, color=PALE)
    axes.grid(axis="y", color=EMPTY)
    axes.set_axisbelow(True)
    plain(axes)
    figure.tight_layout()
    return png(figure)


def _ops(bench: Json, unit: str, scale: float, names: Sequence[str]) -> bytes:
    """A row per level, widest last; an op is a part of it, in the order they run."""
    from matplotlib import pyplot

    levels = bench["levels"]
    ops = list(levels[-1]["ops"])
    colours = level_colours(len(ops))
    legend_rows = -(-len(ops) // _LEGEND_COLUMNS)
    height = 1.7 + _ROW_INCHES * max(len(levels), 3) + 0.22 * legend_rows
    figure, axes = pyplot.subplots(figsize=(9, height))
    starts = [0.0] * len(levels)
    for op, colour in zip(ops, colours, strict=True):
        times = [scale * level["ops"][op] for level in levels]
        axes.barh(
            range(len(levels)), times, left=starts, height=0.72, color=[colour],
            edgecolor="white", linewidth=0.5, label=op,
        )  # fmt: skip
        starts = [start + time for start, time in zip(starts, times, strict=True)]
    for row, total in enumerate(starts):
        axes.text(total + max(starts) * 0.01, row, f"{total:,.4g}" if total < 1e4 else
                  f"{total:,.0f}", va="center", color=INK, fontsize=9)  # fmt: skip
    axes.set_yticks(range(len(levels)), names)
    axes.set_ylim(max(len(levels), 3) - 0.4, -0.6)
    axes.set_xlim(0, max(starts) * 1.12)
    axes.set_xlabel(f"{unit}, one inference step by step", color=PALE)
    title(axes, f"Where the time goes on {bench['board']}")
    plain(axes)
    figure.legend(
        loc="lower left", ncols=_LEGEND_COLUMNS, frameon=False, labelcolor=INK, fontsize=8,
        bbox_to_anchor=(0.02, 0.0),
    )  # fmt: skip
    figure.tight_layout(rect=(0, 0.22 * legend_rows / height + 0.01, 1, 1))
    return png(figure)
