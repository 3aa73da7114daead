"""Finds the levels: nested widths, each the best its budget allows.

redsc.search solves the levels over a grid of candidate widths; here the grid gives way where a
network or budget is too small for it, levels that would be the same are dropped, and the result
is put together with what the user should know about it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from redsc import ir
from redsc.cost import cost_model
from redsc.errors import InfeasibleError, UsageError
from redsc.gain import Importance, gains
from redsc.grid import Grid, default_grid, explicit_grid
from redsc.groups import Grouping
from redsc.knapsack import Limits, Violation, violations
from redsc.memory import scratch_tables
from redsc.milp import gap_of, solver_name
from redsc.search import Level, Search, SearchOptions, nested_levels

__all__ = ["LevelWidths", "Nesting", "SearchOptions", "find_levels"]


@dataclass(frozen=True)
class LevelWidths:
    """One level: widths of all groups (fixed ones too) and what the level costs."""

    percent: float
    widths: Mapping[str, int]
    macs: int
    weights_bytes: int
    table_bytes: int
    peak_activation_bytes: int
    arena_bytes: int
    gain: float
    gap: float
    seconds: float


@dataclass(frozen=True)
class Nesting:
    """Levels, narrowest first.

    gap is the largest of the levels' optimality gaps, as a share of the importance kept: what
    better widths could exist within the same limits, given the levels solved before and, where
    any widths reach it, at least search.LEAST_USE of a MAC budget used. dropped: the warnings, of
    all, that tell of levels left out.
    """

    levels: tuple[LevelWidths, ...]
    solver: str
    seconds: float
    proven_optimal: bool
    gap: float
    warnings: tuple[str, ...]
    dropped: tuple[str, ...] = ()


def find_levels(
    graph: ir.Graph,
    grouping: Grouping,
    importance: Importance,
    options: SearchOptions,
    unit_importance: Mapping[str, np.ndarray] | None = None,
) -> Nesting:
    """The levels of a lowered graph whose units stand in order of importance.

    importance: nonnegative, by op name, shaped like the kernels. Raises InfeasibleError when not
    even the narrowest widths fit, UsageError for options that mean nothing.
    """
    started, percents = time.monotonic(), _percents(options)
    model = cost_model(graph, grouping)
    if options.max_ram_bytes is not None and options.scratch is not None:
        model = replace(model, scratch=scratch_tables(graph, grouping, options.scratch))
    search = Search(
        graph,
        grouping,
        model,
        gains(graph, grouping, importance, unit_importance),
        options,
    )
    wanted, dropped = _grid(grouping, options), []
    grid = _feasible_grid(search, wanted, percents)
    while True:
        levels = nested_levels(search, grid, percents)
        twin = _twin(search, levels)
        if twin is None:
            break
        finer = _refine(search, grid, levels, twin)
        if finer is not None:
            grid = finer
            continue
        # On a board the widest level is what fits, so the one below it gives way.
        number = len(percents) - 2 if search.board_limited else twin
        dropped.append(_dropped(search, levels, number))
        percents = (*percents[:number], *percents[number + 1 :])
        grid = _feasible_grid(search, wanted, percents)
    found = tuple(_measured(search, level) for level in levels)
    warnings = [*dropped, *_grid_warnings(grid, wanted), *_top_warnings(search, levels[-1])]
    gap = max(level.gap for level in found)
    return Nesting(
        levels=found,
        solver=solver_name(),
        seconds=time.monotonic() - started,
        proven_optimal=gap == 0,
        gap=gap,
        warnings=(*warnings, *_gap_warnings(found, options.time_limit_s)),
        dropped=tuple(dropped),
    )


def narrowest(grouping: Grouping, options: SearchOptions) -> dict[str, int]:
    """The smallest widths that the user's options allow, all that can give way given."""
    grid = _grid(grouping, options)
    while True:
        finer = next((finer for _, finer in grid.relaxations()), None)
        if finer is None:
            return {group: choices[0] for group, choices in grid.candidates().items()}
        grid = finer


def _percents(options: SearchOptions) -> tuple[float, ...]:
    percents = tuple(sorted(set(options.percents)))
    if not percents or percents[0] <= 0 or percents[-1] > 100:
        raise UsageError(
            f"Levels are percentages above 0 and up to 100, not {list(options.percents)}"
        )
    for name in ("channel_step", "min_width"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UsageError(f"{name} is {value}; the smallest possible is 1")
    return percents


def _grid(grouping: Grouping, options: SearchOptions) -> Grid:
    step, floor = options.channel_step, options.min_width
    if step is None:
        return default_grid(grouping, floor)
    return explicit_grid(grouping, step, floor)


def _measured(search: Search, level: Level) -> LevelWidths:
    model, widths = search.model, level.widths
    gain = search.gains.total(widths)
    return LevelWidths(
        percent=level.percent,
        widths=widths,
        macs=model.macs(widths),
        weights_bytes=model.weights_bytes(widths),
        table_bytes=model.table_bytes(widths),
        peak_activation_bytes=model.peak_activation_bytes(widths),
        arena_bytes=search.arena_bytes(widths),
        gain=gain,
        gap=gap_of(level.bound, gain),
        seconds=level.seconds,
    )


# --- a grid that suits ---------------------------------------------------------------------------


def _broken(search: Search, grid: Grid, percents: Sequence[float]) -> list[Violation]:
    """Limits that the narrowest level would break even at the grid's smallest widths.

    Costs grow with widths, so all levels are feasible if and only if there are none.
    """
    widths = {group: choices[0] for group, choices in grid.candidates().items()}
    limits = replace(
        search.budget(percents[0]), flash_bytes=search.max_flash_bytes, tables=len(percents)
    )
    broken = list(violations(search.model, limits, widths))
    if search.max_arena_bytes is not None and search.excess_bytes(widths):
        arena = Violation(
            "bytes of RAM in the planned arena", search.arena_bytes(widths), search.max_arena_bytes
        )
        broken.append(arena)
    return broken


def _feasible_grid(search: Search, grid: Grid, percents: Sequence[float]) -> Grid:
    """`grid`, relaxed group by group, most helpful first, until the narrowest level fits."""

    def overrun(candidate: Grid) -> float:
        broken = _broken(search, candidate, percents)
        return sum((v.value - v.limit) / max(1, v.limit) for v in broken)

    while overrun(grid) > 0:
        relaxed = [candidate for _, candidate in grid.relaxations()]
        if not relaxed:
            raise InfeasibleError(_infeasible(search, grid, percents))
        grid = min(relaxed, key=overrun)
    return grid


def _infeasible(search: Search, grid: Grid, percents: Sequence[float]) -> str:
    options = search.options
    needs, steps = [], []
    for violation in _broken(search, grid, percents):
        reserved, advice = 0, f"a smallest --levels of {_smallest_percent(search, violation)}"
        if "RAM" in violation.resource:
            reserved, advice = options.reserved_ram_bytes, "a larger --max-ram-bytes"
        elif "flash" in violation.resource:
            reserved, advice = options.reserved_flash_bytes, "a larger --max-flash-bytes"
        needs.append(
            f"{violation.resource}: at least {violation.value + reserved} needed, "
            f"{violation.limit + reserved} allowed"
        )
        steps.append(advice)
        if "flash" in violation.resource and len(percents) > 1:
            steps.append("fewer levels")
    if grid.step_given:
        steps.append("a smaller --channel-step")
    if grid.floor_given:
        steps.append("a smaller --min-width")
    return (
        f"no widths fit the {percents[0]:g} % level, not even the smallest "
        f"ones ({'; '.join(needs)}). Try {', '.join(dict.fromkeys(steps))}."
    )


def _smallest_percent(search: Search, violation: Violation) -> str:
    """The budget, to a tenth of a percent, that a cost needs."""
    tenths = 1
    while tenths < 1000 and violation.value > _limit(search.budget(tenths / 10)):
        tenths += 1
    return f"{tenths / 10:g}"


def _limit(budget: Limits) -> int:
    """The one limit of a level's budget."""
    limits = (budget.macs, budget.peak_bytes, budget.weights_bytes)
    return next(limit for limit in limits if limit is not None)


def _twin(search: Search, levels: Sequence[Level]) -> int | None:
    """The first level that is no more than the one below: it fits in that one's budget."""
    for number in range(1, len(levels)):
        below = search.budget(levels[number - 1].percent)
        if not violations(search.model, below, levels[number].widths):
            return number
    return None


def _refine(search: Search, grid: Grid, levels: Sequence[Level], number: int) -> Grid | None:
    """A finer step where level `number` misses its next width by least, if only its budget, and
    not the board, stands in the way; None when no finer step can help."""
    level, widths = levels[number], [level.widths for level in levels]
    budget = search.budget(level.percent)
    best: tuple[int, Grid] | None = None
    for group, choices in grid.candidates(lower=level.widths).items():
        finer = None if group in grid.fixed else grid.halve_step(group)
        if finer is None or len(choices) < 2:
            continue
        trial = {**level.widths, group: choices[1]}
        miss = sum(v.value - v.limit for v in violations(search.model, budget, trial))
        changed = [*widths[:number], trial, *widths[number + 1 :]]
        if miss and search.fits_board(changed, number) and (best is None or miss < best[0]):
            best = (miss, finer)
    return None if best is None else best[1]


# --- warnings ------------------------------------------------------------------------------------


def _dropped(search: Search, levels: Sequence[Level], number: int) -> str:
    percent = f"{levels[number].percent:g} %"
    if search.board_limited:
        return (
            f"Dropped the {percent} level: RAM or flash leave no room for as many levels that "
            "differ. Smaller --levels may."
        )
    below = levels[number - 1].percent
    return f"Dropped the {percent} level: no widths lie between it and the {below:g} % level."


def _grid_warnings(grid: Grid, wanted: Grid) -> list[str]:
    """What had to give way in the grid."""
    finer = [f"{group} {step}" for group, step in grid.steps.items() if step < wanted.steps[group]]
    lower = [
        f"{group} {floor}"
        for group, floor in grid.floors.items()
        if floor < wanted.floors[group] and grid.steps[group] == wanted.steps[group]
    ]
    warnings = []
    if finer:
        warnings.append(
            "The default channel step is too coarse for the budgets; finer in "
            f"{', '.join(finer)}: widths that are no multiple of 4 run slower."
        )
    if lower:
        warnings.append(
            "The default minimum width does not fit the smallest budget; lowered in "
            f"{', '.join(lower)}: such narrow layers cost accuracy."
        )
    return warnings


def _top_warnings(search: Search, top: Level) -> list[str]:
    """Tells when RAM or flash, and not its budget, ends the widest level."""
    full = search.grouping.full_widths
    if not search.board_limited or top.widths == full:
        return []
    share = 100 * search.model.macs(top.widths) / search.model.macs(full)
    if search.options.budget == "macs" and share >= 0.97 * top.percent:
        return []
    return [
        f"The widest level ({top.percent:g} %) holds {share:.1f} % of the network's MACs: "
        "more does not fit in the RAM or flash allowed; weights beyond it are not stored."
    ]


def _gap_warnings(levels: Sequence[LevelWidths], time_limit_s: float | None) -> list[str]:
    warnings = []
    for level in levels:
        if level.gap == 0:
            continue
        text = (
            f"The {level.percent:g} % level is not proven optimal: it keeps at least "
            f"{100 / (1 + level.gap):.2f} % of the importance that the best one could."
        )
        if time_limit_s is not None and level.seconds >= time_limit_s:
            text += f" Its search ended after {time_limit_s:g} s; a quicker machine may do better."
        warnings.append(text)
    return warnings
