"""Which units every level keeps: a nesting for each objective, and the one that trains best."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from redsc import (
    boards,
    contest,
    flash,
    gain,
    groups,
    importance,
    ir,
    kernels,
    latency,
    memory,
    nesting,
    objective,
    supernet,
)
from redsc.config import DEFAULT_LEVELS, MOST_LEVELS, CompileOptions
from redsc.cost import TABLES
from redsc.distribution import Cluster
from redsc.errors import InfeasibleError
from redsc.groups import Grouping, Widths
from redsc.nesting import Nesting
from redsc.progress import Progress
from redsc.recipe import Training
from redsc.search import Fixed, Objective, Order

log = logging.getLogger("redsc")

_UNTRAINED: tuple[objective.Name, ...] = ("harmonic", "importance", "uniform")

_LEAST_OF_UNIFORM = (0.85, 0.7)
"""How far below its uniform width probes may send a group; each is tried."""


@dataclass(frozen=True)
class Candidate:
    """log_loss: mean over levels on validation data, None where nothing was compared."""

    name: str
    nesting: Nesting
    log_loss: float | None = None


@dataclass(frozen=True)
class Found:
    """The chosen nesting, what was maximised, and all different nestings, the chosen one among
    them."""

    nesting: Nesting
    objective: str
    candidates: tuple[Candidate, ...]

    @property
    def facts(self) -> list[dict[str, Any]]:
        """For the report."""
        return [
            {"from": candidate.name, "log_loss": candidate.log_loss,
             "chosen": candidate.nesting is self.nesting}
            for candidate in self.candidates
        ]  # fmt: skip


def find(
    options: CompileOptions,
    graph: ir.Graph,
    grouping: Grouping,
    scores: importance.Scores,
    training: Training | None,
    progress: Progress,
    warnings: list[str],
) -> Found:
    """The levels of a lowered graph, its units in order of importance.

    Raises InfeasibleError when not even the narrowest widths fit.
    """
    name: objective.Name = options.objective or "harmonic"
    probed: Mapping[str, Objective] = {}
    if name == "probes":
        assert training is not None
        progress.stage("probe widths")
        probed = _probed(options.order, graph, grouping, training, progress)
        if not probed:
            name = "harmonic"
            warnings.append(
                "training at random widths diverged (a loss was not finite), so widths are not "
                "measured: the search takes --objective harmonic; check the scale of the data"
            )
    progress.stage("search widths")
    names = _UNTRAINED if training is not None and _ranks_untrained(options) else (name,)
    objectives = probed or {str(each): _unmeasured(each, graph, grouping, scores) for each in names}
    candidates = _searched(options, graph, grouping, objectives)
    if training is not None:
        candidates = [_agreed(training.cluster, grouping, each) for each in candidates]
    candidates = _different(candidates)
    if training is not None and len(candidates) > 1:
        progress.stage("compare widths")
        candidates = _compared(candidates, graph, grouping, training, progress, warnings)
    # Without losses the first one wins.
    best = min(candidates, key=lambda candidate: candidate.log_loss or 0.0)
    warnings += best.nesting.warnings
    return Found(best.nesting, name if probed else best.name, tuple(candidates))


def _ranks_untrained(options: CompileOptions) -> bool:
    """Whether validation data choose between objectives that need no training."""
    return options.objective is None and options.order != "joint" and options.epochs == 0


def _unmeasured(
    name: objective.Name, graph: ir.Graph, grouping: Grouping, scores: importance.Scores
) -> Objective:
    """An objective that is known without training."""
    if name == "importance":
        units = importance.unit_importance(grouping, scores)
        return Fixed(gain.gains(graph, grouping, scores.weights, units))
    return Fixed(objective.harmonic(grouping), uniform_alone=name == "uniform")


def _probed(
    order: Order | None, graph: ir.Graph, grouping: Grouping, training: Training, progress: Progress
) -> Mapping[str, Objective]:
    """By name, what the losses of a supernet say, and what they might have to be compared with;
    nothing when its training diverged. The first of those that turn out alike stands for them."""
    how = training.options
    network = supernet.train(
        graph, grouping, training.data, supernet.steps(how, training.data.train),
        how.batch_size, how.seed, training.cluster, progress.step, training.checkpoints,
    )  # fmt: skip
    if network is None:
        return {}
    harmonic = Fixed(objective.harmonic(grouping))
    found: dict[str, Objective] = {"harmonic": harmonic}
    # Training samples: less noise; validation samples: they may be of another kind.
    for kind, split in (
        ("training", training.data.train),
        ("validation", training.data.validation),
    ):
        measure = supernet.measure(network, training.data, split, how.seed, training.cluster)
        probes = objective.Probes(grouping, measure, how.seed)
        if order == "joint":  # one program of all levels knows no floors
            found[f"probes of {kind} loss"] = probes
            continue
        for least in _LEAST_OF_UNIFORM:
            origin = f"probes of {kind} loss, at least {least:g} of uniform"
            found[origin] = replace(probes, least_of_uniform=least)
    return found | {"uniform": replace(harmonic, uniform_alone=True)}


def _searched(
    options: CompileOptions,
    graph: ir.Graph,
    grouping: Grouping,
    objectives: Mapping[str, Objective],
) -> list[Candidate]:
    """The nestings of all objectives that find one. What an objective takes for the narrow levels
    can leave the wide ones too little flash, so one that finds none does not stop the others."""
    candidates: list[Candidate] = []
    errors: list[InfeasibleError] = []
    for origin, goal in objectives.items():
        # No program is solved for uniform widths.
        how = replace(options, order=None) if goal.uniform_alone else options
        try:
            candidates.append(Candidate(origin, _search(how, graph, grouping, goal)))
        except InfeasibleError as error:
            log.info("widths of %s: %s", origin, error)
            errors.append(error)
    if not candidates:
        raise errors[0]
    return candidates


def _search(
    options: CompileOptions, graph: ir.Graph, grouping: Grouping, goal: Objective
) -> Nesting:
    """The levels asked for, or those of the default ones that some widths fit."""
    percents, left_out = options.levels or DEFAULT_LEVELS, []
    while True:
        settings = nesting.SearchOptions(
            percents=percents,
            budget=options.budget,
            target=options.target,
            max_macs=options.max_macs,
            max_latency_ms=options.max_latency_ms,
            max_ram_bytes=options.max_ram_bytes,
            max_flash_bytes=options.max_flash_bytes,
            channel_step=options.channel_step,
            min_width=options.min_width,
            scratch=kernels.scratch_bytes if boards.board(options.target).dsp else None,
            order=options.order,
        )
        try:
            found = _find_quick_levels(options, graph, grouping, goal, settings)
        except InfeasibleError as error:
            if options.levels is not None or len(percents) == 1:
                raise InfeasibleError(f"{options.model}: {error}") from None
            left_out.append(f"the {percents[0]:g} % level is left out: {error}")
            percents = percents[1:]
            continue
        return replace(found, warnings=(*left_out, *found.warnings))


def _find_quick_levels(
    options: CompileOptions,
    graph: ir.Graph,
    grouping: Grouping,
    goal: Objective,
    settings: nesting.SearchOptions,
) -> Nesting:
    """`flash.find_levels`, whose levels keep to max_latency_ms by the estimate that counts the
    kernels' loops. The search's formula is a little off that, so it gets less then; never much
    less, as other widths may be less off."""
    most_ms = settings.max_latency_ms
    while True:
        found = flash.find_levels(graph, grouping, goal, settings, options.tables)
        if most_ms is None or settings.max_latency_ms is None:
            return found
        slowest_ms = _slowest_ms(options, graph, grouping, found)
        if slowest_ms <= most_ms:
            return found
        less_ms = settings.max_latency_ms * np.clip(most_ms / slowest_ms, 0.97, 0.999)
        settings = replace(settings, max_latency_ms=less_ms)


def plan_arenas(
    options: CompileOptions, graphs: Sequence[ir.Graph]
) -> tuple[memory.ArenaPlan, ...]:
    """Of levels, the widest one last, for the kernels that the target's core can run."""
    board = boards.board(options.target)
    scratch = partial(kernels.scratch_bytes, store=graphs[-1]) if board.dsp else None
    limit = board.most_arena_bytes(options.max_ram_bytes)
    may_fill = options.max_ram_bytes is not None
    return memory.plan_levels(graphs, scratch, limit, may_fill=may_fill)


def _slowest_ms(
    options: CompileOptions, graph: ir.Graph, grouping: Grouping, found: Nesting
) -> float:
    """Estimated milliseconds of the slowest level."""
    store = groups.select_units(graph, grouping, groups.prefixes(found.levels[-1].widths))
    own = groups.find_groups(store)
    graphs = [
        groups.select_units(store, own, groups.prefixes(level.widths)) for level in found.levels
    ]
    arenas = plan_arenas(options, graphs)
    target = latency.target(options.target)
    assert target is not None  # config checked it
    return max(
        latency.milliseconds(
            latency.calls(narrow, store, own, level.widths, arena.scratch_bytes), target
        )
        for narrow, level, arena in zip(graphs, found.levels, arenas, strict=True)
    )


def _agreed(cluster: Cluster, grouping: Grouping, candidate: Candidate) -> Candidate:
    """The chief's percentages, widths and tables: another machine's solver may break a tie in
    another way. What its levels cost, only the chief knows."""
    names, found = list(grouping.groups), candidate.nesting
    matrix = np.zeros((MOST_LEVELS, 1 + len(names)))
    for number, level in enumerate(found.levels):
        matrix[number] = [level.percent, *(level.widths[name] for name in names)]
    tables = np.array(float(TABLES.index(found.tables)))
    told = cluster.from_chief({"levels": matrix, "tables": tables})
    if cluster.is_chief:
        return candidate
    levels = tuple(
        replace(
            found.levels[0], percent=row[0],
            widths=dict(zip(names, map(int, row[1:]), strict=True)),
        )
        for row in told["levels"].tolist()
        if any(row)
    )  # fmt: skip
    tables_of_chief = TABLES[int(told["tables"])]
    return replace(candidate, nesting=replace(found, levels=levels, tables=tables_of_chief))


def _different(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those of as many levels as any has, the same ones, each widths and tables once."""

    def percents(candidate: Candidate) -> list[float]:
        return [level.percent for level in candidate.nesting.levels]

    kept = max(map(percents, candidates), key=len)
    different: dict[Hashable, Candidate] = {}
    for candidate in candidates:
        if percents(candidate) == kept:
            found = candidate.nesting
            widths = tuple(tuple(level.widths.values()) for level in found.levels)
            different.setdefault((widths, found.tables), candidate)
    return list(different.values())


def _compared(
    candidates: list[Candidate],
    graph: ir.Graph,
    grouping: Grouping,
    training: Training,
    progress: Progress,
    warnings: list[str],
) -> list[Candidate]:
    """With their losses. Levels that all have alike tell nothing, nor does the full network."""
    nestings = [[level.widths for level in c.nesting.levels] for c in candidates]
    told = [
        number
        for number, level in enumerate(zip(*nestings, strict=True))
        if any(widths != level[0] for widths in level)
    ]
    narrow: list[list[Widths]] = [[levels[number] for number in told] for levels in nestings]
    # What levels share is compared too, unless --max-flash-bytes decided it for each nesting.
    kinds = {candidate.nesting.tables for candidate in candidates}
    tables = kinds.pop() if len(kinds) == 1 else "per-level"
    how = replace(training.options, tables=tables)
    if how.epochs == 0:
        losses = contest.untrained_losses(
            graph, grouping, narrow, training.data, how, training.cluster
        )
    else:
        losses = contest.losses(
            graph, grouping, narrow, training.data, how,
            training.cluster, progress.step, training.checkpoints,
        )  # fmt: skip
    if not np.isfinite(losses).all():
        warnings.append(
            "training that compares widths diverged (a loss was not finite): the search's "
            f"{candidates[0].name} widths are taken; try a smaller --learning-rate"
        )
        return candidates
    for candidate, value in zip(candidates, losses, strict=True):
        log.info("widths of %s: mean log loss %.4f", candidate.name, value)
    return [replace(c, log_loss=float(v)) for c, v in zip(candidates, losses, strict=True)]
