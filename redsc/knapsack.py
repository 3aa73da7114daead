"""The knapsack: one width per group such that the importance kept is greatest within limits.

This module states the problem, says which widths break which limit, and widens greedily;
redsc.milp finds the optimum.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from redsc.cost import TABLE_BYTES_PER_CHANNEL, CostModel, Pair, Term
from redsc.gain import Gains
from redsc.groups import Widths

Candidates = Mapping[str, Sequence[int]]
"""Ascending candidate widths of every group; a group that must not change has one."""


@dataclass(frozen=True)
class Limits:
    """Upper limits of one level; None is none. flash counts weights and `tables` times the
    requantisation tables: levels of at least this width that are still to come need as much.
    peak is of tensors alone, arena of tensors and scratch.

    least_macs asks for a minimum; it is no limit that `violations` knows of.
    """

    macs: int | None = None
    peak_bytes: int | None = None
    weights_bytes: int | None = None
    flash_bytes: int | None = None
    tables: int = 1
    arena_bytes: int | None = None
    least_macs: int | None = None


@dataclass(frozen=True, eq=False)
class Values:
    """What candidates bring and cost: arrays (n,) of one group, (n, m) of a pair of groups."""

    gain: np.ndarray
    macs: np.ndarray
    weights_bytes: np.ndarray
    table_bytes: np.ndarray

    def __add__(self, other: Values) -> Values:
        return Values(
            self.gain + other.gain,
            self.macs + other.macs,
            self.weights_bytes + other.weights_bytes,
            self.table_bytes + other.table_bytes,
        )

    def at(self, index: Any) -> Values:
        return Values(
            self.gain[index], self.macs[index], self.weights_bytes[index], self.table_bytes[index]
        )


@dataclass(frozen=True, eq=False)
class Problem:
    """A knapsack over candidate widths.

    units[a] and pairs[a, b] follow the candidates of their groups; pairs join two different
    groups that both have a choice.
    """

    candidates: Candidates
    units: Mapping[str, Values]
    pairs: Mapping[Pair, Values]
    model: CostModel
    gains: Gains

    @property
    def smallest(self) -> dict[str, int]:
        return {group: widths[0] for group, widths in self.candidates.items()}

    @property
    def largest(self) -> dict[str, int]:
        return {group: widths[-1] for group, widths in self.candidates.items()}


@dataclass(frozen=True)
class Violation:
    """A limit that some widths break."""

    resource: str
    value: int
    limit: int

    def __str__(self) -> str:
        return f"{self.resource}: {self.value} needed, {self.limit} allowed"


# --- problem -------------------------------------------------------------------------------------


def build(model: CostModel, gains: Gains, candidates: Candidates) -> Problem:
    """The knapsack of a network, restricted to candidate widths (of every group)."""
    index = {group: np.asarray(widths, dtype=np.int64) for group, widths in candidates.items()}
    units = {
        group: _values(
            gains.units[group][widths] if group in gains.units else np.zeros(len(widths)),
            model.units.get(group, Term()),
            widths,
        )
        for group, widths in index.items()
    }
    pairs: dict[Pair, Values] = {}
    for (a, b), term in model.pairs.items():
        table = gains.pairs.get((a, b))
        if a == b:
            gain = np.zeros(len(index[a])) if table is None else table[index[a], index[a]]
            units[a] += _values(gain, term, index[a] * index[a])
            continue
        product = np.outer(index[a], index[b])
        gain = np.zeros(product.shape) if table is None else table[np.ix_(index[a], index[b])]
        values = _values(gain, term, product)
        if len(index[a]) == 1:
            units[b] += values.at(0)
        elif len(index[b]) == 1:
            units[a] += values.at((slice(None), 0))
        else:
            pairs[a, b] = values
    return Problem(candidates, units, pairs, model, gains)


def _values(gain: np.ndarray, term: Term, amount: np.ndarray) -> Values:
    tables = term.channels * TABLE_BYTES_PER_CHANNEL
    return Values(gain, term.macs * amount, term.weights_bytes * amount, tables * amount)


def violations(model: CostModel, limits: Limits, widths: Widths) -> tuple[Violation, ...]:
    """Limits that these widths break."""
    total = model.cost(widths)
    tables = total.channels * TABLE_BYTES_PER_CHANNEL * limits.tables
    used = [
        ("MACs", total.macs, limits.macs),
        ("bytes of weights", total.weights_bytes, limits.weights_bytes),
        ("bytes of flash for weights and tables", total.weights_bytes + tables, limits.flash_bytes),
    ]
    if limits.peak_bytes is not None:
        peak = model.peak_activation_bytes(widths)
        used.append(("bytes of activations alive at once", peak, limits.peak_bytes))
    if limits.arena_bytes is not None:
        arena = model.least_arena_bytes(widths)
        used.append(("bytes of activations and scratch at once", arena, limits.arena_bytes))
    return tuple(
        Violation(resource, value, limit)
        for resource, value, limit in used
        if limit is not None and value > limit
    )


def joint_violations(
    model: CostModel, limits: Sequence[Limits], widths: Sequence[Widths]
) -> tuple[Violation, ...]:
    """Limits that nested levels break; the last one's flash also holds the others' tables."""
    tables = sum(model.table_bytes(level) for level in widths[:-1])
    last = limits[-1]
    if last.flash_bytes is not None:
        last = replace(last, flash_bytes=last.flash_bytes - tables)
    broken = [
        violation
        for limit, level in zip([*limits[:-1], last], widths, strict=True)
        for violation in violations(model, limit, level)
    ]
    return tuple(dict.fromkeys(broken))


def grow(
    problem: Problem, widths: Widths, fits: Callable[[dict[str, int]], bool]
) -> dict[str, int]:
    """Widen group after group to its next candidate, best gain per MAC first, while `fits`.

    Afterwards no single group can take its next candidate. One that did not fit once is tried
    again only at the end: all limits are monotone in the widths but the arena, which may shrink
    where a kernel with more to do packs fewer pixels into its scratch.
    """
    current, gain = dict(widths), problem.gains.total(widths)
    macs = problem.model.macs(widths)
    blocked: set[str] = set()
    grown = False
    while True:
        best: tuple[float, str, dict[str, int], float, int] | None = None
        for group, choices in problem.candidates.items():
            wider = next((width for width in choices if width > current[group]), None)
            if wider is None or group in blocked:
                continue
            trial = {**current, group: wider}
            more_gain, more_macs = problem.gains.total(trial), problem.model.macs(trial)
            rate = (more_gain - gain) / max(1, more_macs - macs)
            if best is None or rate > best[0]:
                best = (rate, group, trial, more_gain, more_macs)
        if best is None:
            if not (blocked and grown):
                return current
            blocked, grown = set(), False
        elif fits(best[2]):
            _, _, current, gain, macs = best
            grown = True
        else:
            blocked.add(best[1])
