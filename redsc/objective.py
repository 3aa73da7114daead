"""What the search maximises: how much of the network's quality given widths keep.

importance: the importance of the weights kept (the REDS paper's). Sums of importance tell little
of accuracy across layers; kept to compare with.
harmonic: minus the sum of units/width over groups. Narrow layers hurt like the inverse of their
width: on depthwise-separable networks of random widths it explains 70-76 % of the variance of
log loss with one coefficient for all groups, and 84-92 % with one for each.
probes: the harmonic one with measured coefficients, by ridge regression of the log losses of
random widths, as a trained supernet has them. How far its optima may go from uniform widths,
`contest` decides.
uniform: a common share of all groups; to compare with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

from redsc.gain import Gains
from redsc.groups import Grouping, Widths

Name = Literal["probes", "harmonic", "importance", "uniform"]
OBJECTIVES: tuple[Name, ...] = get_args(Name)

_PROBES = (32, 96)
_PROBES_PER_GROUP = 6
"""Random widths that are measured around a level: so many per free group, within _PROBES."""

_SPREAD = 0.6
"""Probes have the level's uniform widths times exp(-_SPREAD … _SPREAD)."""

_RIDGES = 10.0 ** np.arange(-3, 4)
_LEAST_SHARE = 0.1
"""Smallest coefficient, as a share of the mean: probes are noisy, and no group is worth nothing."""


def harmonic(grouping: Grouping, coefficients: Mapping[str, float] | None = None) -> Gains:
    """Gains of units · (1 - 1/width) per free group, times its coefficient (default 1)."""
    units = {}
    for group in grouping.groups.values():
        gain = np.zeros(group.units + 1)
        if not group.fixed:
            coefficient = 1.0 if coefficients is None else coefficients[group.name]
            gain[1:] = coefficient * group.units * (1 - 1 / np.arange(1, group.units + 1))
        units[group.name] = gain
    return Gains({}, units)


def fit(grouping: Grouping, level_widths: Sequence[Widths], losses: np.ndarray) -> dict[str, float]:
    """Coefficients of `harmonic`: log loss = constant + sum of coefficient · units/width.

    losses: (widths,), all > 0. Ridge regression, which pulls the coefficients towards a common
    one as strongly as predicts left-out widths best (leave-one-out error in closed form).
    """
    names = [group.name for group in grouping.free]
    units = np.array([grouping.groups[name].units for name in names])
    features = units / np.array([[widths[name] for name in names] for widths in level_widths])
    target = np.log(losses)
    x, y = features - features.mean(axis=0), target - target.mean()
    design = np.c_[x.sum(axis=1), x]  # the common coefficient, then every group's own deviation
    results = []
    for ridge in _RIDGES * np.mean(x**2) * len(x):
        penalty = np.diag([1e-9 * ridge, *[ridge] * len(names)])
        solver = np.linalg.solve(design.T @ design + penalty, design.T)
        leverage = np.einsum("ij,ji->i", design, solver) + 1 / len(x)
        found = solver @ y
        error = np.mean(((y - design @ found) / np.maximum(1 - leverage, 1e-3)) ** 2)
        results.append((error, found[0] + found[1:]))
    _, best = min(results, key=lambda result: result[0])
    floor = _LEAST_SHARE * max(float(best.mean()), 1e-12)
    return dict(zip(names, np.maximum(best, floor).tolist(), strict=True))


@dataclass(frozen=True, eq=False)
class Probes:
    """Gains from measured losses (search.Objective). measure: mean loss of each widths, > 0.

    least_of_uniform: measured on few samples, and by a supernet, losses would send single groups
    far below what training bears.
    """

    grouping: Grouping
    measure: Callable[[Sequence[Widths]], np.ndarray]
    seed: int
    least_of_uniform: float = 0.7
    uniform_alone: bool = False
    _measured: dict[tuple[int, ...], float] = field(default_factory=dict)
    _gains: dict[tuple[int, ...], Gains] = field(default_factory=dict)

    @property
    def prior(self) -> Gains:
        return harmonic(self.grouping)

    def losses(self, level_widths: Sequence[Widths]) -> np.ndarray:
        """Each widths measured once."""
        keys = [tuple(widths[name] for name in self.grouping.groups) for widths in level_widths]
        new = {k: w for k, w in zip(keys, level_widths, strict=True) if k not in self._measured}
        if new:
            values = self.measure(list(new.values())).tolist()
            self._measured.update(zip(new, values, strict=True))
        return np.array([self._measured[key] for key in keys])

    def gains(self, around: Widths) -> Gains:
        """The harmonic gains of the best fit."""
        key = tuple(around[name] for name in self.grouping.groups)
        if key not in self._gains:
            generator = np.random.default_rng((self.seed, *key))
            count = int(np.clip(_PROBES_PER_GROUP * len(self.grouping.free), *_PROBES))
            probes = [around, *(near(self.grouping, around, generator) for _ in range(count))]
            found = fit(self.grouping, probes, self.losses(probes))
            self._gains[key] = harmonic(self.grouping, found)
        return self._gains[key]


def near(
    grouping: Grouping, around: Widths, generator: np.random.Generator, spread: float = _SPREAD
) -> dict[str, int]:
    """Random widths of the free groups around given ones, at least one unit each."""
    widths = dict(around)
    for group in grouping.free:
        units = around[group.name] * np.exp(generator.uniform(-spread, spread))
        widths[group.name] = int(np.clip(round(units), 1, group.units))
    return widths
