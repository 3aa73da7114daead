"""What the best widths could gain over uniform ones: many are drawn at random and trained.

Nestings of 25, 50 and 100 % of DS-CNN-S's MACs, trained on Fashion-MNIST as the study's ablations
are. Every group of units gets a random share of its units around the uniform one; trainings of
uniform widths with other seeds tell how much of a difference is chance.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jobs
import numpy as np
import work

from redsc import cost, finetune, grid, groups, importance, importer, loss, passes, recipe
from redsc.groups import Grouping, Widths
from redsc.pipeline import IMPORTANCE_SAMPLES
from redsc.tf_network import predict

FAMILY = "ds_cnn_s_images"
PERCENTS = (25, 50)
UNIFORM, DRAWN = 4, 20
LARGEST_FACTOR = 2.0
"""A group's share of its units is at most so many times the uniform one, and at least that part."""
LEAST_USE = 0.985


@dataclass(frozen=True)
class Job:
    """The number of a training: the first ones are of uniform widths, with seeds of their own."""

    number: int

    @property
    def key(self) -> str:
        return f"headroom/{self.number}"


def all_jobs() -> list[Job]:
    """Uniform and drawn ones in turn, so that any beginning of the list can be compared."""
    drawn, uniform = iter(range(UNIFORM, UNIFORM + DRAWN)), iter(range(UNIFORM))
    every = DRAWN // UNIFORM
    numbers = [n for first in uniform for n in (first, *(next(drawn) for _ in range(every)))]
    return [Job(number) for number in numbers]


def run(workshop: work.Workshop, job: Job) -> dict[str, Any]:
    """Accuracies of each level, float, on validation and test samples."""
    base = workshop.base(FAMILY, jobs.FASHION, 0)
    data = workshop.load(jobs.FASHION, 0)
    graph = passes.lower(importer.load(base).graph)
    grouping = groups.find_groups(graph)
    sample = (*data.train.sample(IMPORTANCE_SAMPLES, 0), data.task)
    scores = importance.score("taylor", graph, sample, 0)
    graph, _ = importance.reorder(graph, grouping, scores)
    random = np.random.default_rng(job.number)
    spread = 0.0 if job.number < UNIFORM else math.log(LARGEST_FACTOR)
    factors = {g.name: math.exp(random.uniform(-spread, spread)) for g in grouping.free}
    widths: list[Widths] = [_widths(graph, grouping, factors, percent) for percent in PERCENTS]
    widths.append(grouping.full_widths)
    options = recipe.suited(recipe.Options(epochs=jobs.SHORT_EPOCHS), graph, data)
    options = dataclasses.replace(options, seed=job.number)
    levels = finetune.finetune(graph, grouping, widths, data, options)
    names = [group.name for group in grouping.free]
    model = cost.cost_model(graph, grouping)
    return {
        "key": job.key,
        "uniform": job.number < UNIFORM,
        "levels": [
            {
                "widths": [chosen[name] for name in names],
                "macs_percent": 100 * model.macs(chosen) / model.macs(grouping.full_widths),
                **{
                    name: loss.score(predict(level, split.x), split.y, level, data.task)
                    for name, split in (("validation", data.validation), ("test", data.test))
                    if split is not None
                },
            }
            for chosen, level in zip(widths, levels, strict=True)
        ],
    }


def _widths(
    graph: Any, grouping: Grouping, factors: dict[str, float], percent: float
) -> dict[str, int]:
    """Multiples of the default step in these proportions, as many as the budget allows."""
    model, full = cost.cost_model(graph, grouping), grouping.full_widths
    budget = model.macs(full) * percent / 100

    def scaled(share: float) -> dict[str, int]:
        chosen = dict(full)
        for group in grouping.free:
            step = grid.default_step(group.units)
            units = step * round(share * factors[group.name] * group.units / step)
            chosen[group.name] = min(group.units, max(step, units))
        return chosen

    shares = np.linspace(0.01, 2.0, 2000)
    chosen = max(
        (scaled(share) for share in shares if model.macs(scaled(share)) <= budget), key=model.macs
    )
    while model.macs(chosen) < LEAST_USE * budget:  # one step more, of what is most below its due
        larger = [
            {**chosen, g.name: chosen[g.name] + grid.default_step(g.units)}
            for g in sorted(
                grouping.free, key=lambda g: chosen[g.name] / (factors[g.name] * g.units)
            )
            if chosen[g.name] < g.units
        ]
        fitting = [widths for widths in larger if model.macs(widths) <= budget]
        if not fitting:
            break
        chosen = fitting[0]
    return chosen


def accuracies(results: Sequence[Mapping[str, Any]], split: str) -> np.ndarray:
    """float64 (results, levels below the full one), in percent."""
    values = [[100 * r["levels"][n][split] for n in range(len(PERCENTS))] for r in results]
    return np.array(values).reshape(-1, len(PERCENTS))
