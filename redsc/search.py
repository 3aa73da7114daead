"""Solves nested levels over one grid of candidate widths, in any of three orders.

Bottom-up goes from the narrowest level on, over widths no smaller than those of the level below;
top-down goes the other way; joint puts all levels in one program. Around the knapsack stands what
only the real plan can tell: the planned arena must fit, and no width may be left that could grow.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, get_args

from redsc import ir
from redsc.cost import CostModel, Tables
from redsc.errors import InfeasibleError
from redsc.gain import Gains
from redsc.grid import Grid
from redsc.groups import Grouping, Widths, prefixes, select_units
from redsc.knapsack import Candidates, Limits, Problem, Resource, build, grow, use, violations
from redsc.latency import PICOSECONDS_PER_MS
from redsc.memory import Scratch, plan_level
from redsc.milp import solve, solve_jointly

LEAST_USE = 0.97
"""Of one of its budgets a level uses at least this share, where any widths do.

The widths that are worth most may leave more unused when steps are coarse. An objective only
predicts accuracy, to a few percent at best, while computation left unused is lost for certain.
RAM, the most that is alive at any op, cannot be asked to be used: it only counts where it is.
"""

MOST_PLANS = 16
"""Best widths whose arenas are planned before the search asks for less memory by a margin."""

Budget = Literal["macs", "ram", "flash", "latency"]
Order = Literal["bottom-up", "top-down", "joint"]


@dataclass(frozen=True)
class SearchOptions:
    """What the user asks of the search.

    percents: budget of each level in percent of the full network's figure in every resource of
    `budget`: MACs, peak activation bytes ("ram"), stored weight bytes ("flash") or estimated
    time ("latency") on the target, a name that `latency.target` knows. max_macs and
    max_latency_ms limit every level, in the network's MACs and the estimate; max_ram_bytes every
    level's planned arena with scratch, plus reserved_ram_bytes; max_flash_bytes the widest
    level's weights and all levels' tables, plus reserved_flash_bytes. channel_step and
    min_width: None chooses per group and gives way with a warning; a number is obeyed. order
    None is bottom-up, or top-down where RAM or flash are limited: the widest level then has
    first choice of what they leave. time_limit_s is per level, and meant not to be reached:
    milp.MOST_NODES ends long searches at the same widths on every machine. tables: what the
    levels share of them.
    """

    percents: tuple[float, ...] = (25, 50, 75, 100)
    budget: tuple[Budget, ...] = ("macs",)
    target: str = "nano33ble"
    max_macs: int | None = None
    max_latency_ms: float | None = None
    max_ram_bytes: int | None = None
    max_flash_bytes: int | None = None
    channel_step: int | None = None
    min_width: int | None = None
    order: Order | None = None
    time_limit_s: float | None = 300.0
    scratch: Scratch | None = None
    tables: Tables = "per-level"
    reserved_ram_bytes: int = 0
    reserved_flash_bytes: int = 0


Origin = Literal["optimum", "uniform"]
"""Of widths: the optimum of the objective's gains, or a common share of all groups."""


class Objective(Protocol):
    """What makes widths good, as far as the search needs to know."""

    @property
    def prior(self) -> Gains:
        """What is known without measuring."""
        ...

    def gains(self, around: Widths) -> Gains:
        """What to maximise near some widths."""
        ...

    @property
    def least_of_uniform(self) -> float:
        """Smallest share of its uniform width that a group keeps, as far as gains are trusted."""
        ...

    @property
    def uniform_alone(self) -> bool:
        """Whether only uniform widths are to be taken, to compare with."""
        ...


@dataclass(frozen=True, eq=False)
class Fixed:
    """The same gains everywhere: nothing is measured, the optimum is the answer."""

    prior: Gains
    uniform_alone: bool = False
    least_of_uniform: float = 0.0

    def gains(self, around: Widths) -> Gains:
        return self.prior


@dataclass(frozen=True)
class Level:
    """A level under way: `bound` is an upper bound of its gain, `seconds` went into solving its
    programs, measuring left out."""

    percent: float
    widths: dict[str, int]
    gains: Gains
    bound: float
    seconds: float
    origin: Origin = "optimum"

    @property
    def gain(self) -> float:
        return self.gains.total(self.widths)


@dataclass(frozen=True, eq=False)
class Search:
    """A network and the user's options, with everything that is computed once."""

    graph: ir.Graph
    grouping: Grouping
    model: CostModel
    objective: Objective
    options: SearchOptions
    arenas: dict[tuple[int, ...], int] = field(default_factory=dict)

    def arena_bytes(self, widths: Widths) -> int:
        """Planned arena with scratch."""
        key = tuple(widths[group] for group in self.grouping.groups)
        if key not in self.arenas:
            level = select_units(self.graph, self.grouping, prefixes(widths))
            self.arenas[key] = plan_level(level, self.options.scratch).size_bytes
        return self.arenas[key]

    @property
    def max_arena_bytes(self) -> int | None:
        limit = self.options.max_ram_bytes
        return None if limit is None else limit - self.options.reserved_ram_bytes

    @property
    def max_flash_bytes(self) -> int | None:
        limit = self.options.max_flash_bytes
        return None if limit is None else limit - self.options.reserved_flash_bytes

    @property
    def caps(self) -> Limits:
        """Limits of every level's computation and time that are no shares of the network's."""
        most_ms = self.options.max_latency_ms
        latency_ps = None if most_ms is None else round(most_ms * PICOSECONDS_PER_MS)
        return Limits(macs=self.options.max_macs, latency_ps=latency_ps)

    @property
    def memory_limited(self) -> bool:
        """Whether the user limits RAM or flash, which levels share."""
        return self.max_arena_bytes is not None or self.max_flash_bytes is not None

    @property
    def limited(self) -> bool:
        """Whether the user limits anything beside the percentages."""
        return self.memory_limited or self.caps != Limits()

    def budget(self, percent: float) -> Limits:
        """The limits that make a level an x % level, and no others."""
        full, model, named = self.grouping.full_widths, self.model, self.options.budget

        def share(name: Budget, of: Callable[[Widths], int]) -> int | None:
            return int(of(full) * percent / 100) if name in named else None

        return Limits(
            macs=share("macs", model.macs),
            peak_bytes=share("ram", model.peak_activation_bytes),
            weights_bytes=share("flash", model.weights_bytes),
            latency_ps=share("latency", model.latency_ps),
        )

    def limits(self, percent: float) -> Limits:
        """Every limit of one level but flash; the search starts from a lower bound of the arena."""
        limits = self.budget(percent).capped(self.caps)
        return replace(limits, arena_bytes=self.max_arena_bytes)

    def flash_bytes(self, widths: Sequence[Widths]) -> int:
        """The widest level's weights and all levels' tables."""
        return self.model.weights_bytes(widths[-1]) + sum(map(self.model.table_bytes, widths))

    def excess_bytes(self, widths: Widths) -> int:
        """By how much the planned arena of these widths is too large."""
        limit = self.max_arena_bytes
        return 0 if limit is None else max(0, self.arena_bytes(widths) - limit)

    def fits_board(self, widths: Sequence[Widths], number: int) -> bool:
        """Whether all these levels fit in flash, and level `number` in RAM and under the caps."""
        flash, level = self.max_flash_bytes, widths[number]
        return (
            (flash is None or self.flash_bytes(widths) <= flash)
            and not violations(self.model, self.caps, level)
            and not self.excess_bytes(level)
        )

    def problem(self, gains: Gains, candidates: Candidates) -> Problem:
        return build(self.model, gains, candidates)


def nested_levels(search: Search, grid: Grid, percents: Sequence[float]) -> list[Level]:
    """Nested levels within every limit, none of which can grow by a step of the grid."""
    match search.options.order or ("top-down" if search.memory_limited else "bottom-up"):
        case "bottom-up":
            levels = _bottom_up(search, grid, percents)
        case "top-down":
            levels = _top_down(search, grid, percents)
        case "joint":
            levels = _joint(search, grid, percents)
    for number in reversed(range(len(levels))):
        levels[number] = _grown(search, grid, levels, number)
    return levels


def _bottom_up(search: Search, grid: Grid, percents: Sequence[float]) -> list[Level]:
    """Each level leaves room for the tables of those above, which are at least as wide."""
    levels: list[Level] = []
    for number, percent in enumerate(percents):
        below = [level.widths for level in levels]
        limits = replace(search.limits(percent), tables=len(percents) - number)
        if search.max_flash_bytes is not None:
            tables = sum(map(search.model.table_bytes, below))
            limits = replace(limits, flash_bytes=search.max_flash_bytes - tables)
        candidates = grid.candidates(lower=below[-1] if below else None)
        levels.append(_best_level(search, candidates, percent, limits))
    return levels


def _top_down(search: Search, grid: Grid, percents: Sequence[float]) -> list[Level]:
    """The top level is charged for tables as if all levels were as wide; growing corrects it."""
    levels: list[Level] = []
    for percent in reversed(percents):
        limits, upper = search.limits(percent), levels[0].widths if levels else None
        if upper is None:
            limits = replace(limits, flash_bytes=search.max_flash_bytes, tables=len(percents))
        candidates = grid.candidates(upper=upper)
        levels.insert(0, _best_level(search, candidates, percent, limits))
    return levels


def _best_level(search: Search, candidates: Candidates, percent: float, limits: Limits) -> Level:
    """The optimum of the objective's gains near the uniform widths, or these themselves. No group
    gets much less than its uniform width."""

    def fits(widths: dict[str, int]) -> bool:
        return not violations(search.model, limits, widths) and not search.excess_bytes(widths)

    largest = {group: widths[-1] for group, widths in candidates.items()}
    if fits(largest):
        gains = search.objective.prior
        return Level(percent, largest, gains, gains.total(largest), seconds=0.0)
    uniform = _uniform(search, candidates, fits)
    if uniform is not None:
        least = {g: search.objective.least_of_uniform * width for g, width in uniform.items()}
        candidates = {
            g: tuple(w for w in widths if w >= least[g]) for g, widths in candidates.items()
        }
    gains = search.objective.gains(uniform or largest)
    if uniform is not None and search.objective.uniform_alone:
        return Level(percent, uniform, gains, gains.total(uniform), 0.0, "uniform")
    started = time.monotonic()
    level = _solve_level(search, search.problem(gains, candidates), percent, limits, fits)
    return replace(level, seconds=time.monotonic() - started)


def _uniform(
    search: Search, candidates: Candidates, fits: Callable[[dict[str, int]], bool]
) -> dict[str, int] | None:
    """The largest common share of all groups' units, rounded down to candidates, that fits; then
    group after group its next candidate, that of the smallest share first."""
    full = search.grouping.full_widths
    shares = sorted({width / full[g] for g, widths in candidates.items() for width in widths})
    for share in reversed(shares):
        widths = {
            group: max([w for w in choices if w <= share * full[group]], default=choices[0])
            for group, choices in candidates.items()
        }
        if fits(widths):
            break
    else:
        return None
    while True:
        wider = [
            {**widths, group: min(w for w in choices if w > widths[group])}
            for group, choices in sorted(
                candidates.items(), key=lambda item: widths[item[0]] / full[item[0]]
            )
            if choices[-1] > widths[group]
        ]
        grown = next((trial for trial in wider if fits(trial)), None)
        if grown is None:
            return widths
        widths = grown


def _solve_level(
    search: Search,
    problem: Problem,
    percent: float,
    limits: Limits,
    fits: Callable[[dict[str, int]], bool],
) -> Level:
    """The best level whose planned arena fits, widened where it can be."""
    (widths,), bound, (tight,) = _solve_planned(search, problem, [limits])
    level = Level(percent, grow(problem, widths, fits), problem.gains, bound, seconds=0.0)
    return _fuller(search, problem, level, tight)


def _joint(search: Search, grid: Grid, percents: Sequence[float]) -> list[Level]:
    """All levels in one program."""
    limits = [search.limits(percent) for percent in percents]
    limits[-1] = replace(limits[-1], flash_bytes=search.max_flash_bytes)
    candidates = grid.candidates()
    middle = percents[len(percents) // 2] / 100  # one program has one objective
    near = {group.name: max(1, round(middle * group.units)) for group in search.grouping.free}
    gains = search.objective.gains({**search.grouping.full_widths, **near})
    started = time.monotonic()
    levels, bound, _ = _solve_planned(search, search.problem(gains, candidates), limits)
    gain = sum(map(gains.total, levels))
    share = bound / gain if gain > 0 else 1.0
    seconds = (time.monotonic() - started) / len(percents)
    return [
        Level(percent, widths, gains, gains.total(widths) * share, seconds)
        for percent, widths in zip(percents, levels, strict=True)
    ]


def _solve_planned(
    search: Search, problem: Problem, limits: Sequence[Limits]
) -> tuple[Sequence[dict[str, int]], float, list[Limits]]:
    """The best nested levels whose planned arenas fit, an upper bound of their gain, and the
    limits that they were found within.

    Widths whose arenas do not fit are forbidden, and the next best ones tried; these are still
    proven to be the best. After MOST_PLANS the lower bound of an arena is lowered instead.
    """
    tight, bound, count = list(limits), math.inf, len(limits)
    time_limit_s = search.options.time_limit_s and search.options.time_limit_s * count
    forbidden: list[Sequence[dict[str, int]]] = []
    while True:
        try:
            solution = solve_jointly(problem, tight, time_limit_s, forbidden)
        except InfeasibleError:
            if not forbidden:
                raise
            return [problem.smallest] * count, bound, tight
        if len(forbidden) < MOST_PLANS:
            bound = solution.bound
        excess = [search.excess_bytes(widths) for widths in solution.widths]
        if not any(excess):
            return solution.widths, bound, tight
        forbidden.append(list(solution.widths))
        for number, widths in enumerate(solution.widths):
            if excess[number] and len(forbidden) >= MOST_PLANS:
                margin = int(min(excess[number], 2 ** (len(forbidden) - MOST_PLANS)))
                arena = search.model.least_arena_bytes(widths) - margin
                tight[number] = replace(tight[number], arena_bytes=arena)


def _fuller(search: Search, problem: Problem, level: Level, limits: Limits) -> Level:
    """The best of the widths that use one of the budgets well, where `level` uses none so."""
    model, shares = search.model, replace(limits, arena_bytes=None, flash_bytes=None)
    if use(model, shares, level.widths) >= LEAST_USE:
        return level
    found = []
    for resource in get_args(Resource):
        limit = getattr(limits, resource)
        least = 0 if limit is None else math.ceil(limit * LEAST_USE)
        if limit is None or getattr(model, resource)(problem.largest) < least:
            continue
        try:
            wanted = replace(limits, least=(resource, least))
            solution = solve(problem, wanted, search.options.time_limit_s)
        except InfeasibleError:
            continue
        (widths,) = solution.widths
        if getattr(model, resource)(widths) >= least and not search.excess_bytes(widths):
            found.append(replace(level, widths=widths, bound=solution.bound))
    if not found:
        return level
    best = max(found, key=lambda other: other.gain)
    return replace(best, bound=max(other.bound for other in found))


def _grown(search: Search, grid: Grid, levels: Sequence[Level], number: int) -> Level:
    """Level `number`, widened as far as its budget, the board and the level above allow."""
    level, widths = levels[number], [level.widths for level in levels]
    upper = widths[number + 1] if number + 1 < len(levels) else None
    budget = search.budget(level.percent)

    def fits(trial: dict[str, int]) -> bool:
        changed = [*widths[:number], trial, *widths[number + 1 :]]
        return not violations(search.model, budget, trial) and search.fits_board(changed, number)

    problem = search.problem(level.gains, grid.candidates(lower=level.widths, upper=upper))
    return replace(level, widths=grow(problem, level.widths, fits))
