"""The study as tables and a plot: docs/results.md between its marks, docs/img/study.png."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import bars
import headroom
import numpy as np
from jobs import (
    FASHION,
    FEW,
    FEW_SAMPLES,
    INDEX,
    KEYWORDS,
    METHODS,
    PERCENTS,
    SCRATCH,
    SHORT,
    SHORT_EPOCHS,
    SPEAKERS,
    UNMIXED,
    all_jobs,
)
from work import read_results

DOCS = Path(__file__).resolve().parents[2] / "docs"
BEGIN, END = "<!-- study: begin -->\n", "<!-- study: end -->\n"
PARTS, DS_CNN = bars.PARTS, bars.DS_CNN
COLOURS = {"redsc": "#1b3a5c", "uniform": "#e07b39", SCRATCH: "#6fbcb0"}

Result = Mapping[str, Any]
Accuracy = Callable[[Result, int], float]


def write(results: Path) -> None:
    """Replaces what stands between the marks in docs/results.md."""
    done = list(read_results(results).values())
    path = DOCS / "results.md"
    before, _, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    drawn = list(read_results(results.with_name("headroom.jsonl")).values())
    text = "\n".join(_sections(done, drawn))
    path.write_text(before + BEGIN + text + "\n" + END + after, encoding="utf-8")
    _plot(done, DOCS / "img" / "study.png")
    print(f"wrote {path}")


def _sections(done: Sequence[Result], drawn: Sequence[Result]) -> Iterable[str]:
    total = sum(1 for _ in all_jobs())
    yield f"{len(done)} of the study's {total} jobs are done.\n"
    yield "![int8 accuracy against MACs, by split and method](img/study.png)\n"
    yield "### What was aimed for, DS-CNN-S, int8\n"
    yield bars.table(done)
    for title, splits, parts in bars.COMPARED:
        chosen = [r for r in done if r["family"] in DS_CNN and r["split"] in splits]
        for part in parts:
            yield f"### DS-CNN-S, {title}{f', {part}' if len(parts) > 1 else ''}\n"
            methods = ("redsc", "uniform", SCRATCH)
            yield _table(methods, [_row(chosen, m, _level_accuracy("int8", part)) for m in methods])
            labels, rows = _differences(chosen, part, methods[1:])
            original = ["", "", "", _mean(bars.above_original(chosen, part))]
            yield _table([*labels, "full level - original, float"], [*rows, original])
    yield f"### What widths could gain, DS-CNN-S, Fashion-MNIST, {SHORT_EPOCHS} epochs\n"
    yield _headroom(drawn)
    chosen = [r for r in done if r["split"] == SHORT]
    yield f"### Ablations, DS-CNN-S, Fashion-MNIST, {SHORT_EPOCHS} epochs\n"
    four = [m for m in METHODS if "levels" not in METHODS[m] and m != UNMIXED]
    yield _table(four, [_row(chosen, m, _level_accuracy("int8", "clean")) for m in four])
    yield _table(*_differences(chosen, "clean", [m for m in four if m != "redsc"]))
    yield f"### More and fewer levels, DS-CNN-S, Fashion-MNIST, {SHORT_EPOCHS} epochs\n"
    yield _numbers_of_levels(chosen)
    yield f"### Mixing, DS-CNN-S, without {SPEAKERS[0]}\n"
    chosen = [
        r for r in done if r["family"] == "ds_cnn_s" and r["split"] == f"without-{SPEAKERS[0]}"
    ]
    mixing = [(method, part) for method in ("redsc", UNMIXED) for part in PARTS]
    yield _table(
        [f"{method}, {part}" for method, part in mixing],
        [_row(chosen, method, _level_accuracy("int8", part)) for method, part in mixing],
    )
    yield f"### Few labels: {FEW_SAMPLES} training samples\n"
    labels, rows = [], []
    for title, split in (("spoken digits", FEW), ("keyword network", KEYWORDS)):
        chosen = [r for r in done if r["split"] == split]
        for method in ("redsc", SCRATCH):
            labels.append(f"{title}, {method}")
            rows.append(_row(chosen, method, _level_accuracy("int8", "clean")))
        labels.append(f"{title}, original, float")
        rows.append(
            ["", "", "", _mean([100 * r["original"]["clean"] for r in chosen if r["original"]])]
        )
    yield _table(labels, rows)
    yield "### Other families, index split, noisy\n"
    labels, rows = [], []
    for family in ("cnn", "dense", "resnet"):
        of_family = [r for r in done if r["family"] == family]
        for method in ("redsc", "uniform"):
            labels.append(f"{family}, {method}")
            rows.append(_row(of_family, method, _level_accuracy("int8", "noisy")))
    yield _table(labels, rows)
    yield "### int8 against float, redsc, all splits and families\n"
    loss = [_mean(values.tolist()) for values in bars.int8_losses(done).T]
    yield _table(["int8 - float, pp"], [loss])


def _headroom(results: Sequence[Result]) -> str:
    """Test accuracy of uniform and drawn widths, and of those that validation data would take."""
    drawn = [r for r in results if not r["uniform"]]
    uniform = headroom.accuracies([r for r in results if r["uniform"]], "test")
    test, validation = (headroom.accuracies(drawn, split) for split in ("test", "validation"))
    rows: dict[str, list[str]] = {}
    if len(uniform) and len(drawn):
        chosen = np.take_along_axis(test, validation.argmax(axis=0)[None], axis=0)[0]
        mean = uniform.mean(axis=0)
        rows = {
            f"uniform, {len(uniform)} seeds": [_mean(values.tolist()) for values in uniform.T],
            f"drawn, {len(drawn)} nestings": [_mean(values.tolist()) for values in test.T],
            "worst and best of these": [f"{v.min():.2f} … {v.max():.2f}" for v in test.T],
            "best minus uniform": [f"{v:+.2f}" for v in test.max(axis=0) - mean],
            "best by validation minus uniform": [f"{v:+.2f}" for v in chosen - mean],
        }
    return _table(list(rows), list(rows.values()), headroom.PERCENTS)


def _numbers_of_levels(results: Sequence[Result]) -> str:
    """Accuracy at every percentage that any number of levels has."""
    counts: dict[str, Sequence[float]] = {"redsc": PERCENTS}
    counts |= {
        method: options["levels"] for method, options in METHODS.items() if "levels" in options
    }
    percents = sorted({percent for levels in counts.values() for percent in levels})
    accuracy = _level_accuracy("int8", "clean")
    rows = []
    for method, levels in counts.items():
        of_method = [r for r in results if r["method"] == method]
        row = []
        for percent in percents:
            values = [accuracy(r, levels.index(percent)) for r in of_method if percent in levels]
            row.append(_mean(values))
        rows.append(row)
    labels = [f"{len(levels)} levels" for levels in counts.values()]
    return _table(labels, rows, percents)


def _level_accuracy(kind: str, part: str) -> Accuracy:
    return lambda result, number: 100 * result["levels"][number][f"{kind}_{part}"]


def _row(results: Sequence[Result], method: str, accuracy: Accuracy) -> list[str]:
    """Mean ± deviation over seeds (of the mean over splits), per level."""
    row = []
    for number in range(len(PERCENTS)):
        by_seed: defaultdict[int, list[float]] = defaultdict(list)
        for result in results:
            if result["method"] == method and len(result["levels"]) == len(PERCENTS):
                by_seed[result["seed"]].append(accuracy(result, number))
        means = [float(np.mean(values)) for values in by_seed.values()]
        row.append(_mean(means))
    return row


def _mean(values: Sequence[float]) -> str:
    if not values:
        return "-"
    spread = f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
    return f"{np.mean(values):.2f}{spread}"


def _differences(
    results: Sequence[Result], part: str, rivals: Sequence[str]
) -> tuple[list[str], list[list[str]]]:
    """Rows of redsc minus its rivals, paired by split and seed: mean ± standard error."""
    labels, rows = [], []
    for rival in rivals:
        pairs = bars.differences(results, part, rival)
        row = []
        for values in pairs.T:
            error = (
                f" ± {np.std(values, ddof=1) / np.sqrt(len(values)):.2f}" if len(values) > 1 else ""
            )
            row.append(f"{np.mean(values):+.2f}{error}" if len(values) else "-")
        labels.append(f"redsc - {rival}, {len(pairs)} pairs")
        rows.append(row)
    return labels, rows


def _table(
    labels: Sequence[str], rows: Sequence[Sequence[str]], percents: Sequence[float] = PERCENTS
) -> str:
    lines = [
        f"| | {' | '.join(f'{percent:g} %' for percent in percents)} |",
        "|---|" + "---:|" * len(percents),
        *(f"| {label} | {' | '.join(row)} |" for label, row in zip(labels, rows, strict=True)),
    ]
    return "\n".join(lines) + "\n"


def _plot(done: Sequence[Result], path: Path) -> None:
    """int8 accuracy against true MACs: one panel per kind of split and recordings."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = (
        ("known speakers, noisy", INDEX, "noisy"),
        ("unknown speaker, clean", "without", "clean"),
        ("unknown speaker, noisy", "without", "noisy"),
        ("Fashion-MNIST", FASHION, "clean"),
    )
    figure, panels = pyplot.subplots(1, len(shown), figsize=(15, 3.8), constrained_layout=True)
    for axes, (title, split, part) in zip(panels, shown, strict=True):
        accuracy = _level_accuracy("int8", part)
        for method, colour in COLOURS.items():
            chosen = [
                r for r in done
                if r["family"] in DS_CNN and r["split"] != SHORT
                and r["split"].startswith(split) and r["method"] == method
            ]  # fmt: skip
            if not chosen:
                continue
            values = np.array([[accuracy(r, n) for n in range(len(PERCENTS))] for r in chosen])
            error = values.std(axis=0) / np.sqrt(len(values))
            axes.errorbar(
                PERCENTS, values.mean(axis=0), error, marker="o", label=method, color=colour
            )
        axes.set_title(title, loc="left", fontweight="bold")
        axes.set_xlabel("MACs, % of the full network")
        axes.grid(axis="y", color="#eef1f4")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("int8 accuracy, %")
    panels[0].legend(frameon=False)
    figure.savefig(path, dpi=150, metadata={"Software": None})
    pyplot.close(figure)
