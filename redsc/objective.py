"""What the search maximises: how much of the network's quality given widths keep.

Three kinds, each a `Gains` for the knapsack.

importance: the importance of the weights kept (the REDS paper's). Sums of importance tell little
of accuracy across layers; kept to compare with.
harmonic: minus the sum of units/width over groups. Narrow layers hurt like the inverse of their
width: on depthwise-separable networks of random widths it explains 70-76 % of the variance of
log loss with one coefficient for all groups, and 84-92 % with one for each.
probes: the harmonic one with measured coefficients, by ridge regression of the log losses of
random widths, as a trained supernet has them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from redsc.gain import Gains
from redsc.groups import Grouping, Widths

OBJECTIVES = ("probes", "harmonic", "importance", "uniform")

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
