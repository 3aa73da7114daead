"""Pictures of how a classifier errs: confusion.png and calibration.png, a panel per level.

Drawn from the report's JSON and the confusion matrices of int8 outputs, or, where int8 was not
measured, of float ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from redsc.plots import EMPTY, INK, PALE, Json, level_colours, plain, png, style

MATRIX_CLASSES = 20
"""More classes than this do not fit a readable matrix: the most confused pairs are drawn then."""

PAIRS = 12
_WIDEST_INCHES = 18
KINDS = ("int8", "float")
_RIGHT, _WRONG = "#2f7ea6", "#c8553d"


def draw(report: Json, confusion: Mapping[str, Sequence[np.ndarray]]) -> dict[str, bytes]:
    """PNG files by name; none without classes. Equal arguments give equal bytes."""
    if not confusion:
        return {}
    kind = "int8" if "int8" in confusion else "float"
    with style():
        return {
            "confusion.png": _confusion(report, confusion[kind], kind),
            "calibration.png": _calibration(report),
        }


def _panels(count: int, width: float, height: float) -> tuple[Any, list[Any]]:
    """A figure and `count` panels in it, in rows."""
    from matplotlib import pyplot

    columns = min(count, int(_WIDEST_INCHES / width))
    rows = -(-count // columns)
    figure, grid = pyplot.subplots(
        rows, columns, figsize=(columns * width, rows * height), squeeze=False
    )
    panels = list(grid.flat)
    for axes in panels[count:]:
        axes.set_axis_off()
    return figure, panels[:count]


def _headline(axes: Any, level: Json, text: str) -> None:
    axes.set_title(f"level {level['level']}", loc="left", color=INK, fontweight="bold", pad=20)
    axes.annotate(
        text, (0, 1), (0, 7), xycoords="axes fraction", textcoords="offset points", color=PALE,
        fontsize=8,
    )  # fmt: skip


def _confusion(report: Json, matrices: Sequence[np.ndarray], kind: str) -> bytes:
    names = report["classes"]["names"]
    classes = len(names)
    if classes <= MATRIX_CLASSES:
        side = 1.3 + 0.32 * max(classes, 6)
        figure, panels = _panels(len(matrices), side, side + 0.3)
    else:
        figure, panels = _panels(len(matrices), 4.2, 1.3 + 0.3 * PAIRS)
    for level, matrix, axes in zip(report["levels"], matrices, panels, strict=True):
        if classes <= MATRIX_CLASSES:
            _draw_matrix(axes, matrix, names)
        else:
            _draw_pairs(axes, matrix, names)
        wrong = int(matrix.sum() - matrix.trace())
        _headline(axes, level, f"{kind}: {wrong:,} of {matrix.sum():,} test samples wrong")
    figure.tight_layout(w_pad=2, h_pad=2)
    return png(figure)


def _draw_matrix(axes: Any, matrix: np.ndarray, names: Sequence[str]) -> None:
    """Counts; a cell's colour is its share of the row's samples, errors enhanced."""
    from matplotlib.colors import to_rgb

    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    right = np.eye(len(matrix), dtype=bool)[..., None]
    strength = np.where(right, 0.75 * share[..., None], np.sqrt(share)[..., None])
    ink = np.where(right, to_rgb(_RIGHT), to_rgb(_WRONG))
    axes.imshow(1 - strength * (1 - ink))
    size = 8 if len(matrix) <= 12 else 6.5
    for row, column in zip(*np.nonzero(matrix), strict=True):
        dark = strength[row, column, 0] > 0.6
        axes.text(
            column, row, str(matrix[row, column]), ha="center", va="center", fontsize=size,
            color="white" if dark else INK,
        )  # fmt: skip
    ticks = range(len(names))
    turned = max(len(name) for name in names) > 2
    axes.set_xticks(ticks, names, fontsize=size, rotation=90 if turned else 0)
    axes.set_yticks(ticks, names, fontsize=size)
    axes.set_xlabel("predicted", color=PALE)
    axes.set_ylabel("true", color=PALE)
    edges = np.arange(len(names) + 1) - 0.5
    axes.hlines(edges, -0.5, len(names) - 0.5, color=EMPTY, linewidth=1)
    axes.vlines(edges, -0.5, len(names) - 0.5, color=EMPTY, linewidth=1)
    plain(axes)


def most_confused(matrix: np.ndarray, count: int) -> list[tuple[int, int, int]]:
    """(true, predicted, samples) of the most frequent errors, at most `count`, most first."""
    wrong = matrix * ~np.eye(len(matrix), dtype=bool)
    order = np.argsort(-wrong, axis=None, kind="stable")[:count]
    pairs = zip(*np.unravel_index(order, matrix.shape), strict=True)
    return [(int(i), int(j), int(wrong[i, j])) for i, j in pairs if wrong[i, j]]


def _draw_pairs(axes: Any, matrix: np.ndarray, names: Sequence[str]) -> None:
    """Bars of the most confused pairs, with what part of the true class's samples they are."""
    pairs = most_confused(matrix, PAIRS)
    axes.barh(range(len(pairs)), [n for *_, n in pairs], height=0.72, color=_WRONG)
    longest = max((n for *_, n in pairs), default=1)
    for row, (true, _, samples) in enumerate(pairs):
        text = f"{samples} of {matrix[true].sum()}"
        axes.text(samples + longest * 0.02, row, text, va="center", color=INK, fontsize=8)
    labels = [f"{_short(names[true])} → {_short(names[wrong])}" for true, wrong, _ in pairs]
    axes.set_yticks(range(len(pairs)), labels, fontsize=8)
    axes.set_ylim(PAIRS - 0.4, -0.6)
    axes.set_xlim(0, longest * 1.3)
    axes.set_xticks([])
    axes.set_xlabel("true → predicted, samples", color=PALE)
    plain(axes)


def _short(name: str) -> str:
    return name if len(name) <= 14 else f"{name[:13]}…"


def _calibration(report: Json) -> bytes:
    """Reliability diagrams: how often a level is right by how sure it is."""
    levels, colours = report["levels"], level_colours(len(report["levels"]))
    figure, panels = _panels(len(levels), 3.3, 3.8)
    for level, colour, axes in zip(levels, colours, panels, strict=True):
        _draw_reliability(axes, level, colour)
    for kind in KINDS:
        figure.axes[0].scatter((), (), s=30, label=kind, **_look(kind, "#c5ccd3"))
    figure.legend(
        loc="lower left", ncols=2, frameon=False, labelcolor=INK, fontsize=8, borderaxespad=0.2
    )
    figure.text(0.99, 0.012, "area: share of samples", ha="right", color=PALE, fontsize=8)
    figure.tight_layout(w_pad=2, h_pad=2, rect=(0, 0.03, 1, 1))
    return png(figure)


def _draw_reliability(axes: Any, level: Json, colour: Any) -> None:
    """Accuracy against confidence; int8 filled, float beside it."""
    kinds = [kind for kind in KINDS if level[f"calibration_{kind}"] is not None]
    axes.plot((0, 1), (0, 1), color=PALE, linewidth=1, linestyle=":", zorder=1)
    errors = []
    for kind in kinds:
        facts = level[f"calibration_{kind}"]
        bins = {key: np.array(values, float) for key, values in facts["bins"].items()}
        area = 8 + 400 * bins["samples"] / bins["samples"].sum()
        axes.scatter(
            bins["confidence"], bins["accuracy"], s=area, clip_on=False, **_look(kind, colour)
        )
        errors.append(f"{kind} {100 * facts['expected_error']:.2f} %")
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlim(-0.03, 1.03)
    ticks = (0, 0.25, 0.5, 0.75, 1)
    axes.set_xticks(ticks)
    axes.set_yticks(ticks)
    axes.set_aspect("equal")
    axes.set_xlabel("confidence", color=PALE)
    axes.set_ylabel("accuracy", color=PALE)
    axes.grid(color=EMPTY)
    axes.set_axisbelow(True)
    _headline(axes, level, f"calibration error: {', '.join(errors)}")
    plain(axes)


def _look(kind: str, colour: Any) -> dict[str, Any]:
    if kind == "int8":
        return {"facecolor": colour, "edgecolor": INK, "linewidth": 0.9, "zorder": 2}
    return {"facecolor": "none", "edgecolor": _WRONG, "linewidth": 0.9, "zorder": 3}
