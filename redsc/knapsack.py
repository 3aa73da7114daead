"""The knapsack: one width per group such that they are worth most (gain.py) within limits.

This module states the problem, says which widths break which limit, and widens greedily;
redsc.milp finds the optimum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from redsc.cost import CostModel, Pair, Term
from redsc.gain import Gains
from redsc.groups import Widths
from redsc.latency import PICOSECONDS_PER_MS

Candidates = Mapping[str, Sequence[int]]
"""Ascending candidate widths of every group; a group that must not change has one."""


Resource = Literal["macs", "weights_bytes", "latency_ps"]
"""What is linear in the program's variables and limited by a level's budget."""


@dataclass(frozen=True)
class Limits:
    """Upper limits of one level; None is none. flash counts weights and `tables` times the
    requantisation tables: levels of at least this width that are still to come need as much.
    peak is of tensors alone, arena of tensors and scratch.

    least asks for a minimum of a resource; it is no limit that `violations` knows of.
    """

    macs: int | None = None
    peak_bytes: int | None = None
    weights_bytes: int | None = None
    flash_bytes: int | None = None
    tables: int = 1
    arena_bytes: int | None = None
    latency_ps: int | None = None
    least: tuple[Resource, int] | None = None

    def capped(self, other: Limits) -> Limits:
        """These limits, and the other's of computation and time."""
        return replace(
            self,
            macs=_smaller(self.macs, other.macs),
            latency_ps=_smaller(self.latency_ps, other.latency_ps),
        )


def _smaller(a: int | None, b: int | None) -> int | None:
    return min((x for x in (a, b) if x is not None), default=None)


@dataclass(frozen=True, eq=False)
class Values:
    """What candidates bring and cost: arrays (n,) of one group, (n, m) of a pair of groups."""

    gain: np.ndarray
    macs: np.ndarray
    weights_bytes: np.ndarray
    table_bytes: np.ndarray
    latency_ps: np.ndarray

    def __add__(self, other: Values) -> Values:
        return Values(
            self.gain + other.gain,
            self.macs + other.macs,
            self.weights_bytes + other.weights_bytes,
            self.table_bytes + other.table_bytes,
            self.latency_ps + other.latency_ps,
        )

    def at(self, index: Any) -> Values:
        return Values(
            self.gain[index],
            self.macs[index],
            self.weights_bytes[index],
            self.table_bytes[index],
            self.latency_ps[index],
        )


@dataclass(frozen=True, eq=False)
class Problem:
    """A knapsack over candidate widths.

    units[a] and pairs[a, b] follow the candidates of their groups; pairs join two different
    groups that both have a choice. constant is what any widths bring and cost, (1,).
    """

    candidates: Candidates
    units: Mapping[str, Values]
    pairs: Mapping[Pair, Values]
    constant: Values
    model: CostModel
    gains: Gains

    @property
    def smallest(self) -> dict[str, int]:
        return {group: widths[0] for group, widths in self.candidates.items()}

    @property
    def largest(self) -> dict[str, int]:
        return {group: widths[-1] for group, widths in self.candidates.items()}


LATENCY = "ms of estimated latency"


@dataclass(frozen=True)
class Violation:
    """A limit that some widths break."""

    resource: str
    value: int
    limit: int

    @property
    def excess(self) -> float:
        """As a share of the limit."""
        return (self.value - self.limit) / max(1, self.limit)

    def text(self, reserved: int = 0) -> str:
        """What is needed and allowed; time in thousandths of a millisecond, rounded to safety."""
        if self.resource != LATENCY:
            return (
                f"{self.resource}: at least {self.value + reserved} needed, "
                f"{self.limit + reserved} allowed"
            )
        step = PICOSECONDS_PER_MS // 1000
        needed, allowed = -(-self.value // step) / 1000, self.limit // step / 1000
        return f"{self.resource}: at least {needed:.3f} needed, {allowed:.3f} allowed"

    def __str__(self) -> str:
        return self.text()


# --- problem -------------------------------------------------------------------------------------


def build(model: CostModel, gains: Gains, candidates: Candidates) -> Problem:
    """The knapsack of a network, restricted to candidate widths (of every group)."""
    index = {group: np.asarray(widths, dtype=np.int64) for group, widths in candidates.items()}

    def values(gain: np.ndarray, term: Term, amount: np.ndarray) -> Values:
        return Values(
            gain,
            term.macs * amount,
            term.weights_bytes * amount,
            term.channels * model.own_table_bytes * amount,
            term.latency_ps * amount,
        )

    units = {
        group: values(
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
            units[a] += values(gain, term, index[a] * index[a])
            continue
        product = np.outer(index[a], index[b])
        gain = np.zeros(product.shape) if table is None else table[np.ix_(index[a], index[b])]
        both = values(gain, term, product)
        if len(index[a]) == 1:
            units[b] += both.at(0)
        elif len(index[b]) == 1:
            units[a] += both.at((slice(None), 0))
        else:
            pairs[a, b] = both
    constant = values(np.zeros(1), model.constant, np.ones(1, np.int64))
    return Problem(candidates, units, pairs, constant, model, gains)


def violations(model: CostModel, limits: Limits, widths: Widths) -> tuple[Violation, ...]:
    """Limits that these widths break."""
    return tuple(
        Violation(resource, value, limit)
        for resource, value, limit in _used(model, limits, widths)
        if value > limit
    )


def use(model: CostModel, limits: Limits, widths: Widths) -> float:
    """The largest share that these widths use of any limit; 0 where there is none."""
    used = _used(model, limits, widths)
    return max((value / max(1, limit) for _, value, limit in used), default=0.0)


def _used(model: CostModel, limits: Limits, widths: Widths) -> Iterator[tuple[str, int, int]]:
    """Every limit that there is: its resource, what these widths take of it, and itself."""
    total = model.cost(widths)
    if limits.macs is not None:
        yield "MACs", total.macs, limits.macs
    if limits.weights_bytes is not None:
        yield "bytes of weights", total.weights_bytes, limits.weights_bytes
    if limits.flash_bytes is not None:
        tables = total.channels * model.own_table_bytes * limits.tables
        flash_bytes = total.weights_bytes + tables
        yield "bytes of flash for weights and tables", flash_bytes, limits.flash_bytes
    if limits.latency_ps is not None:
        yield LATENCY, total.latency_ps, limits.latency_ps
    if limits.peak_bytes is not None:
        peak = model.peak_activation_bytes(widths)
        yield "bytes of activations alive at once", peak, limits.peak_bytes
    if limits.arena_bytes is not None:
        arena = model.least_arena_bytes(widths)
        yield "bytes of activations and scratch at once", arena, limits.arena_bytes


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
