"""Finds the levels: nested widths, each the best its budget allows.

redsc.search solves the levels over a grid of candidate widths; here the grid gives way where a
network or budget is too small for it, levels that would be the same are dropped, and the result
is put together with what the user should know about it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from redsc import ir, latency
from redsc.cost import Tables, cost_model
from redsc.errors import InfeasibleError, UsageError
from redsc.grid import Grid, default_grid, explicit_grid
from redsc.groups import Grouping, Widths
from redsc.knapsack import Limits, Violation, use, violations
from redsc.memory import scratch_tables
from redsc.milp import gap_of, solver_name
from redsc.search import (
    LEAST_USE,
    Level,
    Objective,
    Origin,
    Search,
    SearchOptions,
    nested_levels,
)

__all__ = ["LevelWidths", "Nesting", "SearchOptions", "find_levels", "levels_of", "prepare"]


@dataclass(frozen=True)
class LevelWidths:
    """One level: widths of all groups (fixed ones too) and what the level costs."""

    percent: float
    widths: Mapping[str, int]
    macs: int
    weights_bytes: int
    table_bytes: int
    latency_ps: int
    peak_activation_bytes: int
    arena_bytes: int
    gain: float
    gap: float
    seconds: float
    origin: Origin


@dataclass(frozen=True)
class Nesting:
    """Levels, narrowest first.

    gap is the largest of the levels' optimality gaps, as a share of the objective's value: what
    better widths could exist within the same limits, given the levels solved before and, where
    any widths reach it, at least search.LEAST_USE of a budget used. dropped: the warnings, of
    all, that tell of levels left out.
    """

    levels: tuple[LevelWidths, ...]
    solver: str
    seconds: float
    proven_optimal: bool
    gap: float
    warnings: tuple[str, ...]
    dropped: tuple[str, ...] = ()
    tables: Tables = "per-level"


def find_levels(
    graph: ir.Graph, grouping: Grouping, objective: Objective, options: SearchOptions
) -> Nesting:
    """The levels of a lowered graph whose units stand in order of importance.

    Raises InfeasibleError when not even the narrowest widths fit, UsageError for options that
    mean nothing.
    """
    return levels_of(prepare(graph, grouping, objective, options))


def prepare(
    graph: ir.Graph, grouping: Grouping, objective: Objective, options: SearchOptions
) -> Search:
    """What `levels_of` needs, and what several searches of one network share: their options may
    differ in percents and in what is reserved."""
    model = cost_model(graph, grouping, latency.target(options.target), options.tables)
    if options.max_ram_bytes is not None and options.scratch is not None:
        model = replace(model, scratch=scratch_tables(graph, grouping, options.scratch))
    return Search(graph, grouping, model, objective, options)


def levels_of(search: Search) -> Nesting:
    """See find_levels."""
    options = search.options
    started, percents = time.monotonic(), _percents(options)
    wanted, dropped = _grid(search.grouping, options), []
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
        # Where more than percentages limits it the widest level is what fits, so the one below
        # gives way.
        number = len(percents) - 2 if search.limited else twin
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
        proven_optimal=gap == 0 and not search.objective.uniform_alone,
        gap=gap,
        warnings=(*warnings, *_gap_warnings(found, options.time_limit_s)),
        dropped=tuple(dropped),
        tables=options.tables,
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
    return LevelWidths(
        percent=level.percent,
        widths=widths,
        macs=model.macs(widths),
        weights_bytes=model.weights_bytes(widths),
        table_bytes=model.table_bytes(widths),
        latency_ps=model.latency_ps(widths),
        peak_activation_bytes=model.peak_activation_bytes(widths),
        arena_bytes=search.arena_bytes(widths),
        gain=level.gain,
        gap=gap_of(level.bound, level.gain),
        seconds=level.seconds,
        origin=level.origin,
    )


# --- a grid that suits ---------------------------------------------------------------------------


_SHARE, _RAM, _FLASH = "--levels", "--max-ram-bytes", "--max-flash-bytes"


def _broken(
    search: Search, widths: Widths, percents: Sequence[float]
) -> list[tuple[str, Violation]]:
    """Limits that the narrowest level breaks with these widths, each with the option it is from.

    Costs grow with widths, so all levels are feasible if and only if the smallest widths break
    none.
    """
    model, caps = search.model, search.caps
    flash = Limits(flash_bytes=search.max_flash_bytes, tables=len(percents))
    limits = (
        (_SHARE, search.budget(percents[0])),
        ("--max-macs", replace(caps, latency_ps=None)),
        ("--max-latency-ms", replace(caps, macs=None)),
        (_FLASH, flash),
    )
    broken = [(option, v) for option, limit in limits for v in violations(model, limit, widths)]
    if search.max_arena_bytes is not None and search.excess_bytes(widths):
        needed = search.arena_bytes(widths)
        arena = Violation("bytes of RAM in the planned arena", needed, search.max_arena_bytes)
        broken.append((_RAM, arena))
    return broken


def _smallest(grid: Grid) -> dict[str, int]:
    return {group: choices[0] for group, choices in grid.candidates().items()}


def _feasible_grid(search: Search, grid: Grid, percents: Sequence[float]) -> Grid:
    """`grid`, relaxed group by group, most helpful first, until the narrowest level fits."""

    def overrun(candidate: Grid) -> float:
        return sum(v.excess for _, v in _broken(search, _smallest(candidate), percents))

    while overrun(grid) > 0:
        relaxed = [candidate for _, candidate in grid.relaxations()]
        if not relaxed:
            raise InfeasibleError(_infeasible(search, grid, percents))
        grid = min(relaxed, key=overrun)
    return grid


def _infeasible(search: Search, grid: Grid, percents: Sequence[float]) -> str:
    widths, options = _smallest(grid), search.options
    reserved = {_RAM: options.reserved_ram_bytes, _FLASH: options.reserved_flash_bytes}
    broken = _broken(search, widths, percents)
    needs = [violation.text(reserved.get(option, 0)) for option, violation in broken]
    steps = []
    for option in dict.fromkeys(option for option, _ in broken):
        if option == _SHARE:
            steps.append(f"a smallest --levels of {_smallest_percent(search, widths)}")
            continue
        steps.append(f"a larger {option}")
        if option == _FLASH and len(percents) > 1:
            steps.append("fewer levels")
    if grid.step_given:
        steps.append("a smaller --channel-step")
    if grid.floor_given:
        steps.append("a smaller --min-width")
    return (
        f"no widths fit the {percents[0]:g} % level, not even the smallest "
        f"ones ({'; '.join(needs)}). Try {', '.join(steps)}."
    )


def _smallest_percent(search: Search, widths: Widths) -> str:
    """The budget, to a tenth of a percent, that these widths need."""
    tenths = 1
    while tenths < 1000 and violations(search.model, search.budget(tenths / 10), widths):
        tenths += 1
    return f"{tenths / 10:g}"


def _twin(search: Search, levels: Sequence[Level]) -> int | None:
    """The first level that is no more than the one below: it fits in that one's budget."""
    for number in range(1, len(levels)):
        below = search.budget(levels[number - 1].percent)
        if not violations(search.model, below, levels[number].widths):
            return number
    return None


def _refine(search: Search, grid: Grid, levels: Sequence[Level], number: int) -> Grid | None:
    """A finer step where level `number` misses its next width by least, if only its budget, and
    no other limit, stands in the way; None when no finer step can help."""
    level, widths = levels[number], [level.widths for level in levels]
    budget = search.budget(level.percent)
    best: tuple[float, Grid] | None = None
    for group, choices in grid.candidates(lower=level.widths).items():
        finer = None if group in grid.fixed else grid.halve_step(group)
        if finer is None or len(choices) < 2:
            continue
        trial = {**level.widths, group: choices[1]}
        miss = sum(v.excess for v in violations(search.model, budget, trial))
        changed = [*widths[:number], trial, *widths[number + 1 :]]
        if miss and search.fits_board(changed, number) and (best is None or miss < best[0]):
            best = (miss, finer)
    return None if best is None else best[1]


# --- warnings ------------------------------------------------------------------------------------


def _dropped(search: Search, levels: Sequence[Level], number: int) -> str:
    percent = f"{levels[number].percent:g} %"
    if search.limited:
        return (
            f"Dropped the {percent} level: the limits of {_limits_given(search)} leave no room for "
            "as many levels that differ. Smaller --levels may."
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


def _limits_given(search: Search) -> str:
    """What the user limits, in words."""
    options = search.options
    words = [
        word
        for word, limit in (
            ("MACs", options.max_macs),
            ("latency", options.max_latency_ms),
            ("RAM", options.max_ram_bytes),
            ("flash", options.max_flash_bytes),
        )
        if limit is not None
    ]
    return " and ".join(words)


def _top_warnings(search: Search, top: Level) -> list[str]:
    """Tells when an absolute limit, and not its budget, ends the widest level."""
    full = search.grouping.full_widths
    if not search.limited or top.widths == full:
        return []
    if use(search.model, search.budget(top.percent), top.widths) >= LEAST_USE:
        return []
    share = 100 * search.model.macs(top.widths) / search.model.macs(full)
    return [
        f"The widest level ({top.percent:g} %) holds {share:.1f} % of the network's MACs: more "
        f"does not fit the limits of {_limits_given(search)}; weights beyond it are not stored."
    ]


def _gap_warnings(levels: Sequence[LevelWidths], time_limit_s: float | None) -> list[str]:
    warnings = []
    for level in levels:
        if level.gap == 0:
            continue
        text = (
            f"The {level.percent:g} % level is not proven optimal: by the objective its widths "
            f"are worth at least {100 / (1 + level.gap):.2f} % of what the best ones could be."
        )
        if time_limit_s is not None and level.seconds >= time_limit_s:
            text += f" Its search ended after {time_limit_s:g} s; a quicker machine may do better."
        warnings.append(text)
    return warnings
