"""Solves nested levels over one grid of candidate widths, in any of three orders.

Bottom-up goes from the narrowest level on, over widths no smaller than those of the level below;
top-down goes the other way; joint puts all levels in one program. Around the knapsack stands what
only the real plan can tell: the planned arena must fit, and no width may be left that could grow.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from redsc import ir
from redsc.cost import CostModel
from redsc.errors import InfeasibleError
from redsc.gain import Gains
from redsc.grid import Grid
from redsc.groups import Grouping, Widths, prefixes, select_units
from redsc.knapsack import Limits, Problem, build, grow, violations
from redsc.memory import Scratch, plan_level
from redsc.milp import solve, solve_jointly

LEAST_USE = 0.97
"""A MAC budget is used at least to this share where any widths do.

The widths of greatest importance may leave more unused when steps are coarse. Importance only
predicts accuracy, to a few percent at best, while computation left unused is lost for certain.
"""

MOST_PLANS = 16
"""Best widths whose arenas are planned before the search asks for less memory by a margin."""

Budget = Literal["macs", "ram", "flash"]
Order = Literal["bottom-up", "top-down", "joint"]


@dataclass(frozen=True)
class SearchOptions:
    """What the user asks of the search.

    percents: budget of each level in percent of the full network's MACs, peak activation bytes
    ("ram") or stored weight bytes ("flash"). max_ram_bytes limits every level's planned arena
    with scratch, plus reserved_ram_bytes; max_flash_bytes the widest level's weights and all
    levels' tables, plus reserved_flash_bytes. channel_step and min_width: None chooses per group
    and gives way with a warning; a number is obeyed. order None is bottom-up, or top-down where
    RAM or flash are limited: the widest level then has first choice of what they leave.
    time_limit_s is per level, and meant not to be reached: milp.MOST_NODES ends long searches at
    the same widths on every machine.
    """

    percents: tuple[float, ...] = (25, 50, 75, 100)
    budget: Budget = "macs"
    max_ram_bytes: int | None = None
    max_flash_bytes: int | None = None
    channel_step: int | None = None
    min_width: int | None = None
    order: Order | None = None
    time_limit_s: float | None = 300.0
    scratch: Scratch | None = None
    reserved_ram_bytes: int = 0
    reserved_flash_bytes: int = 0


@dataclass(frozen=True)
class Level:
    """A level under way; bound is an upper bound of its gain, seconds went into solving it."""

    percent: float
    widths: dict[str, int]
    bound: float
    seconds: float


@dataclass(frozen=True, eq=False)
class Search:
    """A network and the user's options, with everything that is computed once."""

    graph: ir.Graph
    grouping: Grouping
    model: CostModel
    gains: Gains
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
    def board_limited(self) -> bool:
        """Whether the user limits RAM or flash."""
        return self.max_arena_bytes is not None or self.max_flash_bytes is not None

    def budget(self, percent: float) -> Limits:
        """The limit that makes a level an x % level, and no other."""
        full = self.grouping.full_widths
        match self.options.budget:
            case "macs":
                return Limits(macs=int(self.model.macs(full) * percent / 100))
            case "ram":
                peak = self.model.peak_activation_bytes(full)
                return Limits(peak_bytes=int(peak * percent / 100))
            case "flash":
                return Limits(weights_bytes=int(self.model.weights_bytes(full) * percent / 100))

    def limits(self, percent: float) -> Limits:
        """Budget and arena of one level; the search starts from a lower bound of the arena."""
        return replace(self.budget(percent), arena_bytes=self.max_arena_bytes)

    def flash_bytes(self, widths: Sequence[Widths]) -> int:
        """The widest level's weights and all levels' tables."""
        return self.model.weights_bytes(widths[-1]) + sum(map(self.model.table_bytes, widths))

    def excess_bytes(self, widths: Widths) -> int:
        """By how much the planned arena of these widths is too large."""
        limit = self.max_arena_bytes
        return 0 if limit is None else max(0, self.arena_bytes(widths) - limit)

    def fits_board(self, widths: Sequence[Widths], number: int) -> bool:
        """Whether all these levels fit in flash, and level `number` in RAM."""
        flash = self.max_flash_bytes
        return (flash is None or self.flash_bytes(widths) <= flash) and not self.excess_bytes(
            widths[number]
        )

    def problem(
        self, grid: Grid, lower: Widths | None = None, upper: Widths | None = None
    ) -> Problem:
        return build(self.model, self.gains, grid.candidates(lower, upper))


def nested_levels(search: Search, grid: Grid, percents: Sequence[float]) -> list[Level]:
    """Nested levels within every limit, none of which can grow by a step of the grid."""
    match search.options.order or ("top-down" if search.board_limited else "bottom-up"):
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
        problem = search.problem(grid, lower=below[-1] if below else None)
        levels.append(_solve_level(search, problem, percent, limits))
    return levels


def _top_down(search: Search, grid: Grid, percents: Sequence[float]) -> list[Level]:
    """The top level is charged for tables as if all levels were as wide; growing corrects it."""
    levels: list[Level] = []
    for percent in reversed(percents):
        limits, upper = search.limits(percent), levels[0].widths if levels else None
        if upper is None:
            limits = replace(limits, flash_bytes=search.max_flash_bytes, tables=len(percents))
        problem = search.problem(grid, upper=upper)
        levels.insert(0, _solve_level(search, problem, percent, limits))
    return levels


def _solve_level(search: Search, problem: Problem, percent: float, limits: Limits) -> Level:
    """The best level whose planned arena fits.

    Widths whose arena does not fit are forbidden, and the next best ones tried; these are still
    proven to be the best. After MOST_PLANS the lower bound of the arena is lowered instead.
    """

    def fits(widths: dict[str, int]) -> bool:
        broken = violations(search.model, limits, widths)
        return not broken and not search.excess_bytes(widths)

    started, bound, tight = time.monotonic(), math.inf, limits
    forbidden: list[list[dict[str, int]]] = []
    while True:
        try:
            solution = solve(problem, tight, search.options.time_limit_s, forbidden)
        except InfeasibleError:
            if not forbidden:
                raise
            widths = problem.smallest
            break
        widths = solution.widths[0]
        if tight is limits:
            bound = solution.bound
        excess = search.excess_bytes(widths)
        if not excess:
            break
        forbidden.append([widths])
        if len(forbidden) >= MOST_PLANS:
            arena = search.model.least_arena_bytes(widths) - _margin(excess, len(forbidden))
            tight = replace(tight, arena_bytes=arena)
    level = Level(percent, grow(problem, widths, fits), bound, 0.0)
    level = _fuller(search, problem, level, tight)
    return replace(level, seconds=time.monotonic() - started)


def _margin(excess_bytes: int, plans: int) -> int:
    """By how much to ask for less: doubled each time, so that a few plans more are enough."""
    return int(min(excess_bytes, 2 ** (plans - MOST_PLANS)))


def _fuller(search: Search, problem: Problem, level: Level, limits: Limits) -> Level:
    """The best of the widths that use the MAC budget well, where `level` does not."""
    if limits.macs is None:
        return level
    least_macs = math.ceil(limits.macs * LEAST_USE)
    used, most = search.model.macs(level.widths), search.model.macs(problem.largest)
    if used >= least_macs or most < least_macs:
        return level
    try:
        limits = replace(limits, least_macs=least_macs)
        solution = solve(problem, limits, search.options.time_limit_s)
    except InfeasibleError:
        return level
    widths = solution.widths[0]
    if search.model.macs(widths) < least_macs or search.excess_bytes(widths):
        return level
    return replace(level, widths=widths, bound=solution.bound)


def _joint(search: Search, grid: Grid, percents: Sequence[float]) -> list[Level]:
    """All levels in one program, arenas as in _solve_level."""
    problem, model = search.problem(grid), search.model
    limits = [search.limits(percent) for percent in percents]
    limits[-1] = replace(limits[-1], flash_bytes=search.max_flash_bytes)
    started, bound, count = time.monotonic(), math.inf, len(percents)
    time_limit_s = search.options.time_limit_s
    forbidden: list[list[dict[str, int]]] = []
    while True:
        try:
            solution = solve_jointly(
                problem, limits, time_limit_s and time_limit_s * count, forbidden
            )
        except InfeasibleError:
            if not forbidden:
                raise
            widths = (problem.smallest,) * count
            break
        widths = solution.widths
        if len(forbidden) < MOST_PLANS:
            bound = solution.bound
        excess = [search.excess_bytes(level) for level in widths]
        if not any(excess):
            break
        forbidden.append(list(widths))
        for number, level in enumerate(widths):
            if excess[number] and len(forbidden) >= MOST_PLANS:
                arena = model.least_arena_bytes(level) - _margin(excess[number], len(forbidden))
                limits[number] = replace(limits[number], arena_bytes=arena)
    gain = sum(map(search.gains.total, widths))
    share = bound / gain if gain > 0 else 1.0
    seconds = (time.monotonic() - started) / count
    return [
        Level(percent, level, search.gains.total(level) * share, seconds)
        for percent, level in zip(percents, widths, strict=True)
    ]


def _grown(search: Search, grid: Grid, levels: Sequence[Level], number: int) -> Level:
    """Level `number`, widened as far as its budget, the board and the level above allow."""
    level, widths = levels[number], [level.widths for level in levels]
    upper = widths[number + 1] if number + 1 < len(levels) else None
    budget = search.budget(level.percent)

    def fits(trial: dict[str, int]) -> bool:
        changed = [*widths[:number], trial, *widths[number + 1 :]]
        return not violations(search.model, budget, trial) and search.fits_board(changed, number)

    problem = search.problem(grid, lower=level.widths, upper=upper)
    return replace(level, widths=grow(problem, level.widths, fits))
