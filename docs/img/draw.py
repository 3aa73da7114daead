"""Draws docs/img/digits.png from what `make demo` measured.

python docs/img/draw.py [build/report/report.json] [docs/img/digits.png]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

COLOURS = ("#1b3a5c", "#2f7ea6", "#6fbcb0", "#c9e4c5")
INK, PALE = "#22303c", "#7b8794"
EMPTY = "#eef1f4"


def plain(axes: Any) -> None:
    for side in axes.spines.values():
        side.set_visible(False)
    axes.tick_params(length=0, colors=INK)


def draw_widths(axes: Any, report: dict[str, Any]) -> None:
    """A row per group; the leading units of level k lie inside those of level k + 1."""
    levels = report["levels"]
    groups = [name for name in levels[-1]["widths"] if name not in report["fixed_groups"]]
    largest = max(levels[-1]["widths"].values())
    for row, group in enumerate(groups):
        start = 0
        for level in levels:
            end, colour = level["widths"][group], COLOURS[level["level"]]
            axes.barh(row, end - start, left=start, height=0.72, color=colour, edgecolor="white")
            start = end
        axes.text(start + largest * 0.015, row, str(start), va="center", color=PALE, fontsize=9)
    axes.set_yticks(range(len(groups)), [f"layer {n}" for n in range(1, len(groups) + 1)])
    axes.invert_yaxis()
    axes.set_xlim(0, largest * 1.08)
    axes.set_xlabel("channels, in order of importance", color=PALE)
    axes.set_title("What each level keeps", loc="left", color=INK, fontweight="bold", pad=12)
    plain(axes)


def draw_costs(axes: Any, report: dict[str, Any]) -> None:
    """A row per level: instructions as a bar, the rest as text."""
    levels = report["levels"]
    full = levels[-1]["emulator"]["instructions"]
    for level in levels:
        row, count = level["level"], level["emulator"]["instructions"]
        axes.barh(row, full, height=0.72, color=EMPTY)
        axes.barh(row, count, height=0.72, color=COLOURS[row])
        dark = row < 2
        axes.text(
            full * 0.015, row, f"{count / 1000:,.0f} k", va="center",
            color="white" if dark else INK, fontsize=9.5, fontweight="bold",
        )  # fmt: skip
        for x, text in (
            (1.13, f"{100 * level['accuracy_int8']:.2f} %"),
            (1.40, f"{level['arena_bytes'] / 1024:.2f} KiB"),
            (1.63, f"{level['macs_percent']:.0f} %"),
        ):
            axes.text(full * x, row, text, va="center", ha="center", color=INK, fontsize=10)
    axes.text(0, -0.62, "instructions per inference", color=PALE, fontsize=9)
    for x, text in ((1.13, "int8 accuracy"), (1.40, "RAM arena"), (1.63, "MACs")):
        axes.text(full * x, -0.62, text, ha="center", color=PALE, fontsize=9)
    axes.set_yticks(range(len(levels)), [f"level {level['level']}" for level in levels])
    axes.set_ylim(len(levels) - 0.45, -0.85)
    axes.set_xlim(0, full * 1.74)
    axes.set_xticks([])
    axes.set_title("What each level costs", loc="left", color=INK, fontweight="bold", pad=12)
    plain(axes)


def main(source: str = "build/report/report.json", target: str = "docs/img/digits.png") -> None:
    report = json.loads(Path(source).read_text(encoding="utf-8"))
    assert len(report["levels"]) == len(COLOURS), "the picture has colours for 4 levels"
    matplotlib.rcParams.update({"font.family": "DejaVu Sans", "font.size": 10})
    figure, (left, right) = pyplot.subplots(
        1, 2, figsize=(11, 3.6), gridspec_kw={"width_ratios": (0.85, 1.3)}
    )
    draw_widths(left, report)
    draw_costs(right, report)
    flash = report["flash"]
    figure.text(
        0.985, 0.03,
        f"one firmware, {flash['total_bytes'] / 1024:.1f} KiB of flash for all levels; a switch is "
        f"{report['levels'][0]['emulator']['switch_instructions']} instructions",
        ha="right", color=PALE, fontsize=9.5,
    )  # fmt: skip
    figure.tight_layout(rect=(0, 0.03, 1, 1), w_pad=3)
    figure.savefig(target, dpi=150, metadata={"Software": None})


if __name__ == "__main__":
    main(*sys.argv[1:])
