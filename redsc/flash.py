"""Searches within a flash limit, structure of the plan included.

The search counts weights and tables, which are exact in the widths but for a byte per channel that
kernels of one product do without, and for a last layer's table that levels turn out to share.
Steps, level records and lists of channels are known only once widths are: so it leaves room for
them, first for as much as the narrowest levels need, then for what was missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from redsc import groups, ir, kernels, memory, nesting, plan, quantize
from redsc.cost import TABLES, Tables
from redsc.errors import InfeasibleError
from redsc.nesting import Nesting, SearchOptions
from redsc.search import Objective, Search


def find_levels(
    graph: ir.Graph,
    grouping: groups.Grouping,
    objective: Objective,
    options: SearchOptions,
    tables: Tables | None = None,
) -> Nesting:
    """`nesting.find_levels`, whose levels and their structure keep to max_flash_bytes together.

    tables None: every level has its own, unless the levels asked for do not fit in flash so, and
    more of them, or wider ones, do with shared multipliers, or with everything shared.
    Raises InfeasibleError like it; the value it names is the smallest that surely holds any levels.
    """
    if tables is not None or options.max_flash_bytes is None:
        options = replace(options, tables=tables or "per-level")
        return _levels_of(nesting.prepare(graph, grouping, objective, options))
    best: Nesting | None = None
    error: InfeasibleError | None = None
    for choice in TABLES:
        search = nesting.prepare(graph, grouping, objective, replace(options, tables=choice))
        try:
            found = _levels_of(search)
        except InfeasibleError as failure:
            error = failure
            continue
        if best is None or _kept(found) > _kept(best):
            best = found
        if not found.dropped and found.levels[-1].widths == _widest(search):
            break
    if best is None:
        assert error is not None
        raise error
    if len(best.levels) == 1:  # shares with nobody
        best = replace(best, tables="per-level")
    if best.tables == "per-level":
        return best
    shared = f"--max-flash-bytes leaves no room for tables per level: levels share {best.tables}"
    return replace(best, warnings=(f"{shared}, which costs accuracy", *best.warnings))


def _kept(found: Nesting) -> tuple[int, int]:
    """How much the levels are: their number, and what they compute together."""
    return len(found.levels), sum(level.macs for level in found.levels)


def _widest(search: Search) -> groups.Widths:
    """The widths of the widest level if flash does not limit it."""
    top = max(search.options.percents)
    free = replace(search.options, max_flash_bytes=None, percents=(top,))
    return nesting.levels_of(replace(search, options=free)).levels[-1].widths


def _levels_of(search: Search) -> Nesting:
    graph, grouping, options = search.graph, search.grouping, search.options
    if options.max_flash_bytes is None:
        return nesting.levels_of(search)
    smallest = [nesting.narrowest(grouping, options)] * len(set(options.percents))
    reserved, too_much = structure_bytes(graph, grouping, smallest), None
    enough = reserved  # to find levels, but not for their structure
    while True:
        try:
            narrowed = replace(options, reserved_flash_bytes=reserved)
            found = nesting.levels_of(replace(search, options=narrowed))
        except InfeasibleError:
            if reserved - enough <= 1:
                raise
            too_much, reserved = reserved, (enough + reserved) // 2
            continue
        widths = [level.widths for level in found.levels]
        data_bytes = found.levels[-1].weights_bytes + sum(x.table_bytes for x in found.levels)
        needed = data_bytes + structure_bytes(graph, grouping, widths)
        if needed <= options.max_flash_bytes:
            break
        enough, reserved = reserved, reserved + needed - options.max_flash_bytes
        if too_much is not None:
            reserved = min(reserved, max(enough + 1, (enough + too_much) // 2))
    if not found.dropped:
        return found
    # What was reserved for the structure of levels that were dropped is the others'.
    kept = tuple(level.percent for level in found.levels)
    again = _levels_of(replace(search, options=replace(options, percents=kept)))
    gain = search.objective.prior.total  # gains measured around different widths do not compare
    if gain(again.levels[-1].widths) < gain(found.levels[-1].widths):
        return found
    return replace(
        again,
        warnings=(*found.dropped, *again.warnings),
        dropped=(*found.dropped, *again.dropped),
        seconds=found.seconds + again.seconds,
    )


def structure_bytes(
    graph: ir.Graph, grouping: groups.Grouping, widths: Sequence[groups.Widths]
) -> int:
    """Flash of a plan without weights and without 9 bytes per channel and level, at most.

    Steps, level records, channel lists, offsets and lookup tables depend on the ops and the
    widths alone, so they are counted on a plan with placeholder ranges.
    """
    store = groups.select_units(graph, grouping, groups.prefixes(widths[-1]))
    grouping = groups.find_groups(store)
    levels = []
    for chosen in widths:
        narrow = groups.select_units(store, grouping, groups.prefixes(chosen))
        ranges = dict.fromkeys((op.name for op in narrow.ops), (-1.0, 1.0))
        levels.append(quantize.FloatLevel(100.0, chosen, narrow, ranges))
    # Where buffers lie does not matter, so the quickest plans do.
    arenas = [memory.plan_level(level.graph, kernels.scratch_bytes) for level in levels]
    made = plan.build_plan(quantize.quantize(store, grouping, levels), arenas)
    lookups = sum(isinstance(op, ir.Logistic | ir.Tanh) for op in store.ops) * 256
    joined = sum(4 * len(op.inputs) for op in store.ops if isinstance(op, ir.Concatenate))
    arrays = sum(array.values.nbytes for array in made.arrays)
    return made.tables_bytes - arrays + (lookups + joined) * len(widths)
