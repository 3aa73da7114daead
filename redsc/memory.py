"""Offline memory planning: where in one arena every activation and scratch buffer lies.

Buffers whose lifetimes overlap get disjoint address ranges; all others may share. Finding the
smallest arena is NP-hard, so several greedy orders compete (greedy by size and by breadth:
Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference", 2020), the best
one is improved by hill climbing (as Arm's Vela does), and all stop at the lower bound: the
largest sum of what is alive at once.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from redsc import cost, ir
from redsc.groups import Grouping, prefixes, select_units

ALIGNMENT = 16

HILL_CLIMBING_STEPS = 200

SHARE_FOR_SPEED, BYTES_FOR_SPEED = 0.5, 8192
"""Where the user names no limit, a level's arena may be larger than the smallest one if that makes
its kernels faster: by so much of it, or so many bytes where these are more."""

Scratch = Callable[[ir.Graph, Mapping[str, int]], Mapping[str, int]]
"""Bytes of working memory each op's kernel takes while it runs, by op name, where so many are to be
had; absent means none. With no room, the least that it needs."""


@dataclass(frozen=True)
class Buffer:
    """Alive at steps first_use … last_use, both inclusive."""

    name: str
    size_bytes: int
    first_use: int
    last_use: int

    def overlaps(self, other: Buffer) -> bool:
        """Whether both are alive at some step."""
        return self.first_use <= other.last_use and other.first_use <= self.last_use


@dataclass(frozen=True)
class Arena:
    """Offset of every buffer by name, and the bytes they need together."""

    offsets: Mapping[str, int]
    size_bytes: int


@dataclass(frozen=True)
class ArenaPlan:
    """A level's memory. tensors holds every tensor (a Reshape lies on its input), scratch every
    op that has some, and scratch_bytes how much; size_bytes covers both. least_bytes: of a plan
    with slower kernels."""

    tensors: Mapping[str, int]
    scratch: Mapping[str, int]
    scratch_bytes: Mapping[str, int]
    size_bytes: int
    least_bytes: int


def align(size_bytes: int, alignment: int = ALIGNMENT) -> int:
    """The next multiple of alignment."""
    return -(-size_bytes // alignment) * alignment


def plan(
    buffers: Sequence[Buffer],
    alignment: int = ALIGNMENT,
    pinned: Mapping[str, int] | None = None,
) -> Arena:
    """Offsets, multiples of `alignment`, such that no two buffers alive together overlap.

    pinned: offsets that are given; the caller makes sure that these do not collide.
    """
    pinned = pinned or {}
    fixed = {buffer: pinned[buffer.name] for buffer in buffers if buffer.name in pinned}
    free = [buffer for buffer in buffers if buffer.name not in pinned]
    bound = _lower_bound(buffers, fixed, alignment)
    order, best = [], Arena({}, -1)
    for candidate in _orders(free):
        arena = _place(candidate, fixed, alignment)
        if best.size_bytes < 0 or arena.size_bytes < best.size_bytes:
            order, best = candidate, arena
        if best.size_bytes <= bound:
            return best
    return _climb(order, best, bound, lambda order: _place(order, fixed, alignment))


def _climb(
    order: list[Buffer], arena: Arena, bound: int, place: Callable[[list[Buffer]], Arena]
) -> Arena:
    """Moves a buffer that lives with the topmost one before another it lives with, many times.

    A move that makes the arena no larger is kept; the choice is random but seeded.
    """
    choose = random.Random(0)
    for _ in range(HILL_CLIMBING_STEPS):
        if arena.size_bytes <= bound:
            break
        ends = [b for b in order if _end(arena, b) == arena.size_bytes]
        near = [i for i, b in enumerate(order) if any(b.overlaps(end) for end in ends)]
        moves = [(i, j) for i in near for j in range(i) if order[i].overlaps(order[j])]
        if not moves:
            break
        source, target = choose.choice(moves)
        moved = [*order[:source], *order[source + 1 :]]
        moved.insert(target, order[source])
        candidate = place(moved)
        if candidate.size_bytes <= arena.size_bytes:
            order, arena = moved, candidate
    return arena


def _end(arena: Arena, buffer: Buffer) -> int:
    return arena.offsets[buffer.name] + buffer.size_bytes


def _lower_bound(buffers: Sequence[Buffer], fixed: Mapping[Buffer, int], alignment: int) -> int:
    """No arena is smaller. The last buffer of an arena needs no padding behind it."""
    peak = 0
    for step in {buffer.first_use for buffer in buffers}:
        alive = [b.size_bytes for b in buffers if b.first_use <= step <= b.last_use]
        padding = max(align(size, alignment) - size for size in alive)
        peak = max(peak, sum(align(size, alignment) for size in alive) - padding)
    return max([peak, *(offset + buffer.size_bytes for buffer, offset in fixed.items())])


def _orders(buffers: Sequence[Buffer]) -> Iterable[list[Buffer]]:
    """Orders of placement to try, the usually best one first; ties keep network order."""
    yield sorted(buffers, key=lambda b: -b.size_bytes)
    yield _by_breadth(buffers)
    yield sorted(buffers, key=lambda b: (b.first_use - b.last_use, -b.size_bytes))
    yield sorted(buffers, key=lambda b: -b.size_bytes * (b.last_use - b.first_use + 1))
    yield sorted(buffers, key=lambda b: (b.first_use, -b.size_bytes))
    yield sorted(buffers, key=lambda b: (-b.last_use, -b.size_bytes))


def _by_breadth(buffers: Sequence[Buffer]) -> list[Buffer]:
    """The buffers of the fullest step first, then of the next fullest …, each by size."""

    def alive(step: int) -> list[Buffer]:
        return [b for b in buffers if b.first_use <= step <= b.last_use]

    steps = sorted({b.first_use for b in buffers})
    steps.sort(key=lambda step: -sum(b.size_bytes for b in alive(step)))
    ordered = (b for step in steps for b in sorted(alive(step), key=lambda b: -b.size_bytes))
    return list(dict.fromkeys(ordered))


def _place(order: Sequence[Buffer], fixed: Mapping[Buffer, int], alignment: int) -> Arena:
    """First fit: every buffer goes to the lowest gap that its living neighbours leave."""
    placed = dict(fixed)
    for buffer in order:
        taken = sorted(
            (offset, offset + other.size_bytes)
            for other, offset in placed.items()
            if other.overlaps(buffer)
        )
        position = 0
        for start, end in taken:
            if position + buffer.size_bytes <= start:
                break
            position = max(position, align(end, alignment))
        placed[buffer] = position
    size = max((offset + buffer.size_bytes for buffer, offset in placed.items()), default=0)
    return Arena({buffer.name: offset for buffer, offset in placed.items()}, size)


def plan_levels(
    graphs: Sequence[ir.Graph],
    scratch: Scratch | None,
    limit_bytes: float = np.inf,
    *,
    may_fill: bool = False,
) -> tuple[ArenaPlan, ...]:
    """One plan per level, smallest level first or in any order: `graphs` are the levels' own.

    Kernels get as much room as makes them faster, unless that takes an arena beyond limit_bytes or,
    unless that may_fill, beyond what is spent on speed unasked. Between writing the input and
    running, the level may still change, and the output is read without knowing the level: so both
    lie at the same offset at every level. The input is at 0; so is the output, unless both are
    alive at once, which puts it right behind the input.
    """
    plans = tuple(_plan_fast_level(graph, scratch, limit_bytes, may_fill) for graph in graphs)
    for level in plans[1:]:
        for graph, name in ((graphs[0], graphs[0].input.name), (graphs[0], graphs[0].output)):
            assert level.tensors[name] == plans[0].tensors[name], f"{graph.name}: {name} moves"
    return plans


def _plan_fast_level(
    graph: ir.Graph, scratch: Scratch | None, limit_bytes: float, may_fill: bool
) -> ArenaPlan:
    least = plan_level(graph, scratch)
    if scratch is None:
        return least
    more = max(SHARE_FOR_SPEED * least.size_bytes, BYTES_FOR_SPEED)
    limit = limit_bytes if may_fill else min(limit_bytes, least.size_bytes + more)
    sizes = cost.tensor_bytes(graph)
    room = {
        name: int(limit) - sum(align(sizes[tensor]) for tensor in alive)
        for name, alive in cost.live_tensors(graph).items()
    }
    while max(room.values()) > 0:
        fast = plan_level(graph, scratch, room)
        if fast.size_bytes <= limit:
            return replace(fast, least_bytes=least.size_bytes)
        room = {name: size // 2 for name, size in room.items()}  # tensors left gaps
    return least


def plan_level(
    graph: ir.Graph, scratch: Scratch | None, room: Mapping[str, int] | None = None
) -> ArenaPlan:
    """The smallest plan of one level, for kernels that use `room`; see plan_levels."""
    owner, spans, sizes = cost.storage(graph), cost.lifetimes(graph), cost.tensor_bytes(graph)
    wanted = {} if scratch is None else scratch(graph, room or {})
    working = {name: size for name, size in wanted.items() if size > 0}
    steps = {op.name: step for step, op in enumerate(graph.ops)}
    tensors = {
        name: Buffer(f"tensor {name}", sizes[name], first, last)
        for name, (first, last) in spans.items()
    }
    temporary = {
        name: Buffer(f"scratch {name}", size, steps[name], steps[name])
        for name, size in working.items()
    }
    source, target = tensors[graph.input.name], tensors[owner[graph.output]]
    behind = source is not target and source.overlaps(target)
    pinned = {target.name: align(source.size_bytes) if behind else 0, source.name: 0}
    arena = plan([*tensors.values(), *temporary.values()], pinned=pinned)
    return ArenaPlan(
        tensors={name: arena.offsets[tensors[root].name] for name, root in owner.items()},
        scratch={name: arena.offsets[buffer.name] for name, buffer in temporary.items()},
        scratch_bytes=working,
        size_bytes=arena.size_bytes,
        least_bytes=arena.size_bytes,
    )


def scratch_tables(
    graph: ir.Graph, grouping: Grouping, scratch: Scratch
) -> dict[str, tuple[str, np.ndarray]]:
    """Scratch of every op that reads units of one group: that group, bytes at each width.

    What a kernel needs depends on the channels it reads; those of several groups have no table.
    Arrays are (units + 1,); the entry at 0 means nothing.
    """
    full, tables = grouping.full_widths, {}
    for op in graph.ops:
        sources = {segment.group for name in op.inputs for segment in grouping.axes[name]}
        if len(sources) == 1:
            (group,) = sources
            tables[op.name] = group, np.zeros(full[group] + 1, np.int64)
    for width in range(1, max(full.values()) + 1):
        widths = {group: min(width, units) for group, units in full.items()}
        needed = scratch(select_units(graph, grouping, prefixes(widths)), {})
        for name, (group, table) in tables.items():
            table[widths[group]] = needed.get(name, 0)
    return {name: (group, table) for name, (group, table) in tables.items() if table.any()}
