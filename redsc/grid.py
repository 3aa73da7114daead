"""Candidate widths: which channel counts the search may choose from.

A multiple of 4 suits SIMD kernels, and few candidates suit the solver; a floor keeps narrow
levels from starving single layers. Both give way, group by group, where the user did not set
them and a network or budget is too small for them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from redsc.groups import Grouping, Widths

SIMD_STEP = 4
MOST_CANDIDATES = 32
"""Larger groups take the multiple of 4 that leaves no more candidates than this."""
FLOOR_SHARE = 8
"""By default a level keeps at least 1/8 of each group."""


@dataclass(frozen=True)
class Grid:
    """Per free group the multiples of `steps` from `floors` on, and always the full width.

    step_given and floor_given: the user's own values, which do not give way.
    """

    units: Mapping[str, int]
    fixed: frozenset[str]
    steps: Mapping[str, int]
    floors: Mapping[str, int]
    step_given: bool
    floor_given: bool

    def candidates(
        self, lower: Widths | None = None, upper: Widths | None = None
    ) -> dict[str, tuple[int, ...]]:
        """Ascending widths of every group between lower and upper, both of which are included."""
        return {group: self._choices(group, lower, upper) for group in self.units}

    def _choices(self, group: str, lower: Widths | None, upper: Widths | None) -> tuple[int, ...]:
        units, step = self.units[group], self.steps.get(group, 0)
        if group in self.fixed:
            return (units,)
        widths = {w for w in range(step, units, step) if w >= self.floors[group]} | {units}
        for bound in (lower, upper):
            if bound is not None:
                widths.add(bound[group])
        low = 0 if lower is None else lower[group]
        high = units if upper is None else upper[group]
        return tuple(sorted(width for width in widths if low <= width <= high))

    def relaxations(self) -> Iterator[tuple[str, Grid]]:
        """Grids whose smallest widths are smaller in one group: by a lower floor as long as that
        helps anywhere, then by a finer step."""
        lowered = [] if self.floor_given else [(g, self._lower_floor(g)) for g in self.floors]
        yield from ((group, grid) for group, grid in lowered if grid is not None)
        if all(grid is None for _, grid in lowered):
            for group in self.steps:
                grid = self.halve_step(group)
                if grid is not None:
                    yield group, grid

    def _lower_floor(self, group: str) -> Grid | None:
        step, floor = self.steps[group], self.floors[group]
        if floor <= step:
            return None
        return replace(self, floors={**self.floors, group: max(step, floor // 2 // step * step)})

    def halve_step(self, group: str) -> Grid | None:
        """The grid with a finer step in one group; None where the step is 1 or the user's."""
        step = self.steps[group] // 2
        if self.step_given or step == 0:
            return None
        steps = {**self.steps, group: step}
        if self.floor_given or self.floors[group] > 2 * step:
            return replace(self, steps=steps)
        return replace(self, steps=steps, floors={**self.floors, group: step})


def default_step(units: int) -> int:
    """Channel step of a group: 4 up to 128 units, 8 up to 256, 12 …"""
    return SIMD_STEP * max(1, -(-units // (SIMD_STEP * MOST_CANDIDATES)))


def default_grid(grouping: Grouping, min_width: int | None = None) -> Grid:
    """Steps chosen per group."""
    steps = {group.name: default_step(group.units) for group in grouping.free}
    return _grid(grouping, steps, min_width, step_given=False)


def explicit_grid(grouping: Grouping, step: int, min_width: int | None = None) -> Grid:
    """The user's step in every group."""
    steps = {group.name: step for group in grouping.free}
    return _grid(grouping, steps, min_width, step_given=True)


def _grid(
    grouping: Grouping, steps: Mapping[str, int], min_width: int | None, step_given: bool
) -> Grid:
    floors = {
        name: max(step, grouping.groups[name].units // FLOOR_SHARE // step * step)
        for name, step in steps.items()
    }
    if min_width is not None:
        floors = dict.fromkeys(steps, min_width)
    return Grid(
        units=grouping.full_widths,
        fixed=frozenset(group.name for group in grouping.groups.values() if group.fixed),
        steps=steps,
        floors=floors,
        step_given=step_given,
        floor_given=min_width is not None,
    )
