"""What the study trains, in the order in which it matters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
INDEX = "index"
"""Spoken digits' own test split: every speaker is in all splits. Else without-SPEAKER."""

FASHION = "fashion-mnist"

SHORT = "fashion-mnist-short"
"""The same, levels trained for SHORT_EPOCHS: 10,000 test images tell small differences apart, which
300 recordings of speakers that were trained with do not."""

SHORT_EPOCHS = 2

FEW = "index-few"
"""The index split with FEW_SAMPLES labelled training samples, drawn by seed."""

KEYWORDS = "keywords"
"""The 1,000 labelled features with which MLPerf Tiny tests its published keyword network, of which
FEW_SAMPLES train, 100 validate and 500 test, drawn by seed."""

FEW_SAMPLES = 400
KEYWORD_FAMILY = "mlperf_kws"

SEEDS = (0, 1, 2)
PERCENTS = (25, 50, 75, 100)

UNMIXED = "no mixing"
"""Concerns the splits without a speaker; in the index split nothing is mixed anyway."""

METHODS: Mapping[str, Mapping[str, Any]] = {
    "redsc": {},
    "uniform": {"objective": "uniform"},
    "random order": {"importance": "random"},
    "magnitude": {"importance": "magnitude"},
    "shared batch-norm": {"tables": "everything"},
    "shared multipliers": {"tables": "multipliers"},
    "no distillation": {"distillation": 0.0},
    "original teaches": {"teacher": "original"},
    "no int8 in training": {"int8_from": 1.0},
    "importance sums": {"objective": "importance"},
    "probes": {"objective": "probes"},
    UNMIXED: {"mixing": False},
    "2 levels": {"levels": (50.0, 100.0)},
    "10 levels": {"levels": tuple(float(percent) for percent in range(10, 101, 10))},
}
"""Options of redsc compile by which a method differs from the default."""

SCRATCH = "scratch"
"""A network of each level's widths, as redsc found them, trained on its own for as many steps."""


@dataclass(frozen=True)
class Job:
    family: str
    split: str
    seed: int
    method: str

    @property
    def key(self) -> str:
        return f"{self.family}/{self.split}/{self.seed}/{self.method}"


def all_jobs() -> Iterator[Job]:
    """DS-CNN against uniform widths and scratch on all splits; its ablations; few labels; other
    families."""
    splits = (INDEX, *(f"without-{speaker}" for speaker in SPEAKERS))
    networks = [("ds_cnn_s", split) for split in splits] + [("ds_cnn_s_images", FASHION)]
    for seed in SEEDS:
        for family, split in networks:
            for method in ("redsc", "uniform", SCRATCH):
                yield Job(family, split, seed, method)
    for seed in SEEDS:
        for method in METHODS:
            if method == UNMIXED:
                yield Job("ds_cnn_s", splits[1], seed, method)
            else:
                yield Job("ds_cnn_s_images", SHORT, seed, method)
    for seed in SEEDS:
        for family, split in (("ds_cnn_s", FEW), (KEYWORD_FAMILY, KEYWORDS)):
            for method in ("redsc", SCRATCH):
                yield Job(family, split, seed, method)
    for seed in SEEDS:
        for family in ("cnn", "dense", "resnet"):
            for method in ("redsc", "uniform"):
                yield Job(family, INDEX, seed, method)
