"""importance.png: what the units of every group are worth, and which of them each level keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from redsc.importance import Ranking
from redsc.plots import EMPTY, INK, PALE, Json, level_colours, plain, png, style

_COLUMNS = 4
_NOT_KEPT = "#d9dee3"


def draw(report: Json, ranking: Mapping[str, Ranking]) -> dict[str, bytes]:
    """The PNG file by name; none where no group may change width. Equal arguments, equal bytes."""
    if not ranking:
        return {}
    with style():
        return {"importance.png": _importance(report, ranking)}


def _importance(report: Json, ranking: Mapping[str, Ranking]) -> bytes:
    """A panel per group, in the network's order; all share one scale."""
    from matplotlib import pyplot
    from matplotlib.patches import Patch

    levels = report["levels"]
    colours = level_colours(len(levels))
    columns = min(len(ranking), _COLUMNS)
    rows = -(-len(ranking) // columns)
    entries = [
        Patch(color=colour, label=f"level {level['level']}")
        for level, colour in zip(levels, colours, strict=True)
    ]
    if any(levels[-1]["widths"][group] < len(units.units) for group, units in ranking.items()):
        entries.append(Patch(color=_NOT_KEPT, label="no level"))
    width = max(3.2 * columns, 6.4)
    per_row = min(len(entries), int(width / 1.05))
    legend = 0.4 + 0.2 * -(-len(entries) // per_row)
    size = (width, 0.3 + legend + 2.1 * rows)
    figure, grid = pyplot.subplots(rows, columns, figsize=size, squeeze=False, sharey=True)
    for axes in grid.flat[len(ranking) :]:
        axes.set_axis_off()
    for axes, (group, units) in zip(grid.flat, ranking.items(), strict=False):
        widths = [level["widths"][group] for level in levels]
        _draw_group(axes, units, widths, colours)
        axes.set_title(group, loc="left", color=INK, fontweight="bold", fontsize=10)
    for axes in grid[:, 0]:
        axes.set_ylabel("times the mean", color=PALE, fontsize=9)
    method = report["importance"]["method"]
    figure.legend(
        handles=entries, loc="lower left", ncols=per_row, frameon=False, labelcolor=INK,
        fontsize=8, title=f"{method}, most important unit first; units that come with",
        title_fontsize=8, alignment="left", borderaxespad=0.3,
    )  # fmt: skip
    figure.tight_layout(rect=(0, legend / size[1], 1, 1), w_pad=1.5)
    return png(figure)


def _draw_group(axes: Any, units: Ranking, widths: list[int], colours: list[Any]) -> None:
    """A bar per unit, most important first; a colour and a line where each level ends."""
    worth = units.scores * len(units.scores)
    start = 0
    for end, colour in zip([*widths, len(worth)], [*colours, _NOT_KEPT], strict=True):
        rank = np.arange(start, end)
        axes.bar(rank + 0.5, worth[start:end], width=1, color=[colour], linewidth=0)
        start = max(start, end)
    for width in widths:
        axes.axvline(width, color=INK, linewidth=0.6, linestyle=":")
    axes.set_xlim(0, len(worth))
    axes.set_xticks(_apart([*widths, len(worth)]))
    axes.tick_params(labelsize=8)
    axes.grid(axis="y", color=EMPTY)
    axes.set_axisbelow(True)
    plain(axes)


def _apart(widths: list[int]) -> list[int]:
    """0 and, from the largest, the widths whose numbers do not run into each other."""
    room = 0.06 * max(widths)
    ticks = [0]
    for width in sorted(set(widths), reverse=True):
        if all(abs(width - tick) >= room for tick in ticks):
            ticks.append(width)
    return ticks
