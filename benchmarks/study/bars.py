"""What the study's results are measured against, and whether they reach it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jobs import FASHION, FEW, INDEX, KEYWORDS, PERCENTS, SCRATCH, SPEAKERS

PARTS = ("clean", "noisy")
DS_CNN = ("ds_cnn_s", "ds_cnn_s_images")

COMPARED = (
    ("all six speakers left out in turn", [f"without-{speaker}" for speaker in SPEAKERS], PARTS),
    ("index split", [INDEX], PARTS),
    ("Fashion-MNIST", [FASHION], PARTS[:1]),
)
"""Sets of test samples: a title, splits, and parts of each."""

Result = Mapping[str, Any]


def differences(results: Sequence[Result], part: str, rival: str) -> np.ndarray:
    """float64 (pairs, levels): redsc's int8 accuracy minus a rival's, in points, for every split
    and seed that both have."""
    by_key = {(r["split"], r["seed"], r["method"]): r for r in results}
    rows = [
        [
            100 * (ours[f"int8_{part}"] - theirs[f"int8_{part}"])
            for ours, theirs in zip(result["levels"], other["levels"], strict=True)
        ]
        for (split, seed, method), result in by_key.items()
        if method == "redsc" and (other := by_key.get((split, seed, rival))) is not None
    ]
    return np.array(rows).reshape(-1, len(PERCENTS))


def above_original(results: Sequence[Result], part: str, kind: str = "float") -> list[float]:
    """Points by which redsc's full level is above the network that was given, which is float."""
    return [
        100 * (r["levels"][-1][f"{kind}_{part}"] - r["original"][part])
        for r in results
        if r["method"] == "redsc"
    ]


def int8_losses(results: Sequence[Result]) -> np.ndarray:
    """float64 (results and parts, levels): int8 minus float accuracy of redsc's levels, points."""
    rows = [
        [100 * (level[f"int8_{part}"] - level[f"float_{part}"]) for level in r["levels"]]
        for r in results
        if r["method"] == "redsc" and len(r["levels"]) == len(PERCENTS)
        for part in r["original"]
    ]
    return np.array(rows).reshape(-1, len(PERCENTS))


def table(done: Sequence[Result]) -> str:
    """One line per aim: what was measured on every set of samples, and whether that reaches it."""
    results = [r for r in done if r["family"] in DS_CNN]
    sets = [
        (f"{title}, {part}", [r for r in results if r["split"] in splits], part)
        for title, splits, parts in COMPARED
        for part in parts
    ]

    def over_sets(values: Callable[[Sequence[Result], str], np.ndarray]) -> list[np.ndarray]:
        found = [values(chosen, part) for _, chosen, part in sets]
        return [each.mean(axis=0) for each in found if len(each)]

    uniform = over_sets(lambda chosen, part: differences(chosen, part, "uniform"))
    scratch = over_sets(lambda chosen, part: differences(chosen, part, SCRATCH))
    full = over_sets(lambda chosen, part: np.array(above_original(chosen, part)))
    few = [[r for r in done if r["split"] == split] for split in (FEW, KEYWORDS)]
    few = [chosen for chosen in few if len(chosen)]
    few_full = [float(np.mean(above_original(chosen, "clean", "int8"))) for chosen in few]
    few_scratch = [differences(chosen, "clean", SCRATCH) for chosen in few]
    few_worst = [float(pairs.mean(axis=0).min()) for pairs in few_scratch if len(pairs)]
    loss = int8_losses(results)
    redsc = [r for r in results if r["method"] == "redsc" and len(r["levels"]) == len(PERCENTS)]
    use = np.array([[level["macs_percent"] for level in r["levels"]] for r in redsc])
    use = use.reshape(-1, len(PERCENTS)) / PERCENTS
    seconds = [r["search_seconds"] / len(r["levels"]) for r in redsc]
    is_proven = all(r["proven_optimal"] for r in redsc)
    minutes = [sum(r["seconds"].values()) / 60 for r in redsc]
    narrow = [float(each[:2].mean()) for each in uniform]
    worst = [float(each.min()) for each in uniform]
    wide = [float(each[1:].min()) for each in scratch]
    quarter = [float(each[0]) for each in scratch]
    lost = [float(loss.mean()), float(loss[:, 0].mean())] if len(loss) else []
    lines = [
        ("mean of 25 and 50 % against uniform widths at least +1.0 on two sets",
         _list(narrow), sum(value >= 1 for value in narrow) >= 2),
        ("nowhere below -0.5 against uniform widths", _list(worst), _least(worst) >= -0.5),
        ("against scratch at least 0 at 50, 75 and 100 %", _list(wide), _least(wide) >= 0),
        ("against scratch at least -1 at 25 %", _list(quarter), _least(quarter) >= -1),
        ("full level at most 0.3 below the original, float",
         _list([float(each) for each in full]), _least([float(each) for each in full]) >= -0.3),
        ("int8 within 0.5 of float over levels, 1.0 at 25 %",
         _list(lost), len(lost) > 0 and abs(lost[0]) <= 0.5 and abs(lost[1]) <= 1),
        ("97 to 100 % of every budget used",
         f"{100 * use.min():.1f} … {100 * use.max():.1f} %" if len(use) else "-",
         len(use) > 0 and use.min() >= 0.97 and use.max() <= 1),
        ("with few labels, spoken digits and keyword network: full level in int8 at most 0.5 below "
         "the original", _list(few_full), _least(few_full) >= -0.5),
        ("likewise, no level below one from scratch", _list(few_worst), _least(few_worst) >= 0),
        ("search in 3 s a level, proven optimal",
         f"at most {max(seconds):.2f} s, {'all' if is_proven else 'not all'} proven"
         if seconds else "-", len(seconds) > 0 and max(seconds) <= 3 and is_proven),
        ("compile of four levels in 25 minutes; each on one core, beside another",
         f"median {np.median(minutes):.1f} minutes" if minutes else "-",
         len(minutes) > 0 and np.median(minutes) <= 25),
    ]  # fmt: skip
    names = "; ".join(name for name, chosen, _ in sets if chosen)
    return "\n".join(
        [
            f"Sets, in this order: {names}.\n",
            "| aim, points | measured | reached |",
            "|---|---|---|",
            *(
                f"| {aim} | {found} | {'yes' if reached else 'no'} |"
                for aim, found, reached in lines
            ),
            "",
        ]
    )


def _list(values: Sequence[float]) -> str:
    return ", ".join(f"{value:+.2f}" for value in values) or "-"


def _least(values: Sequence[float]) -> float:
    """Nothing that was measured reaches nothing."""
    return min(values, default=-np.inf)
