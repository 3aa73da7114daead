"""Flash the search cannot count while widths are open: the plan's own structure."""

from __future__ import annotations

from collections.abc import Sequence

from redsc import groups, ir, kernels, memory, plan, quantize


def structure_bytes(
    store: ir.Graph, grouping: groups.Grouping, widths: Sequence[groups.Widths]
) -> int:
    """Flash of a plan without weights and without 9 bytes per channel and level, at most.

    Steps, level records, channel lists, offsets and lookup tables depend on the ops and the
    widths alone, so they are counted on a plan with placeholder ranges.
    """
    levels = []
    for chosen in widths:
        narrow = groups.select_units(store, grouping, groups.prefixes(chosen))
        ranges = dict.fromkeys((op.name for op in narrow.ops), (-1.0, 1.0))
        levels.append(quantize.FloatLevel(100.0, chosen, narrow, ranges))
    arenas = memory.plan_levels([level.graph for level in levels], kernels.scratch_bytes)
    made = plan.build_plan(quantize.quantize(store, grouping, levels), arenas)
    lookups = sum(isinstance(op, ir.Logistic | ir.Tanh) for op in store.ops) * 256
    joined = sum(4 * len(op.inputs) for op in store.ops if isinstance(op, ir.Concatenate))
    arrays = sum(array.values.nbytes for array in made.arrays)
    return made.tables_bytes - arrays + (lookups + joined) * len(widths)
