"""Which nestings are searched and compared, and what the report says of it."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from redsc import (
    contest,
    distribution,
    flash,
    groups,
    importance,
    ir,
    kernels,
    latency,
    measure,
    memory,
    objective,
    recipe,
    supernet,
    widths,
)
from redsc.config import CompileOptions
from redsc.errors import InfeasibleError
from redsc.progress import Progress
from redsc.search import Fixed
from tests import graphs
from tests.test_finetune import task_data

GRAPH = graphs.ds_cnn(16, 2, (8, 6, 1), 3)
GROUPING = groups.find_groups(GRAPH)
DATA = Path("data.npz")


def find(tmp_path: Path, **options: Any) -> tuple[widths.Found, list[str], recipe.Training]:
    settings = CompileOptions(
        Path("model.h5"), tmp_path / "build", data=DATA,
        **{"min_width": 1, "channel_step": 1, "objective": "probes", **options},
    )  # fmt: skip
    dataset = task_data(GRAPH.input.shape)
    how = recipe.suited(recipe.Options(epochs=options.get("epochs", 1)), GRAPH, dataset)
    training = recipe.Training(dataset, how, distribution.connect("one-device"), tmp_path)
    scores = importance.score("magnitude", GRAPH, None, 0)
    warnings: list[str] = []
    found = widths.find(settings, GRAPH, GROUPING, scores, training, Progress(), warnings)
    return found, warnings, training


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8, 0.97])
def test_no_level_takes_longer_than_allowed_by_the_counted_loops(share: float) -> None:
    """The search's formula says less of some widths of this network: its levels shrink then."""
    graph = graphs.resnet()
    grouping = groups.find_groups(graph)
    full_ms = counted_ms(graph, grouping.full_widths, grouping.full_widths)
    limit_ms = share * full_ms
    options = CompileOptions(Path("model.h5"), Path("build"), max_latency_ms=limit_ms)
    uniform = Fixed(objective.harmonic(grouping))
    found = widths._search(options, graph, grouping, uniform)
    widest = found.levels[-1].widths
    assert 0.95 * limit_ms <= counted_ms(graph, widest, widest) <= limit_ms
    for level in found.levels:
        assert counted_ms(graph, level.widths, widest) <= limit_ms


def counted_ms(graph: ir.Graph, level_widths: groups.Widths, widest: groups.Widths) -> float:
    store = groups.select_units(graph, groups.find_groups(graph), groups.prefixes(widest))
    grouping = groups.find_groups(store)
    level = groups.select_units(store, grouping, groups.prefixes(level_widths))
    scratch = memory.plan_levels([level], kernels.scratch_bytes, 200_000)[0].scratch_bytes
    calls = latency.calls(level, store, grouping, level_widths, scratch)
    return latency.milliseconds(calls, latency.target("nano33ble"))


@pytest.mark.slow
def test_a_nesting_that_does_not_fit_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls = []

    def first_fails(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            raise InfeasibleError("too little flash")
        return found_levels(*arguments)

    found_levels = flash.find_levels
    monkeypatch.setattr(flash, "find_levels", first_fails)
    with caplog.at_level(logging.INFO, "redsc"):
        found, _, _ = find(tmp_path, levels=(50.0, 100.0))
    assert "widths of harmonic: model.h5: too little flash" in caplog.text
    origins = [candidate.name for candidate in found.candidates]
    assert "harmonic" not in origins
    assert origins


def test_nothing_that_fits_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments):
        raise InfeasibleError("too little flash")

    monkeypatch.setattr(flash, "find_levels", fails)
    with pytest.raises(InfeasibleError, match=r"model\.h5: too little flash"):
        find(tmp_path, levels=(50.0, 100.0), objective="harmonic")


def test_the_report_knows_of_a_supernet_that_diverged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supernet, "train", lambda *arguments: None)
    found, (warning,), training = find(tmp_path, levels=(50.0, 100.0))
    assert "training at random widths diverged" in warning
    assert found.objective == "harmonic"
    facts = measure.training_facts(training, found)
    assert (facts["random_width_steps"], facts["comparing_steps"]) == (0, 0)


@pytest.mark.slow
def test_a_contest_that_diverged_leaves_the_search_s_first_widths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        contest, "losses", lambda _graph, _grouping, nestings, *_: np.full(len(nestings), np.nan)
    )
    found, (warning,), training = find(tmp_path, levels=(50.0, 100.0))
    assert "training that compares widths diverged" in warning
    assert found.nesting is found.candidates[0].nesting
    facts = measure.training_facts(training, found)
    assert facts["random_width_steps"] > 0
    assert facts["comparing_steps"] == 0


def test_tables_make_a_nesting_another_one(tmp_path: Path) -> None:
    found, _, _ = find(tmp_path, levels=(50.0, 100.0), objective="harmonic")
    (candidate,) = found.candidates
    shared = replace(
        candidate, name="shared", nesting=replace(candidate.nesting, tables="multipliers")
    )
    again = replace(candidate, name="again")
    assert widths._different([candidate, again, shared]) == [candidate, shared]


@pytest.mark.slow
def test_without_training_validation_data_choose_between_objectives(tmp_path: Path) -> None:
    found, _, training = find(tmp_path, levels=(25.0, 50.0, 100.0), epochs=0, objective=None)
    losses = {candidate.name: candidate.log_loss for candidate in found.candidates}
    assert losses.keys() <= {"harmonic", "importance", "uniform"}
    assert len(losses) >= 2
    assert all(loss is not None for loss in losses.values())
    assert losses[found.objective] == min(losses.values())  # type: ignore[type-var]
    facts = measure.training_facts(training, found)
    assert (facts["epochs"], facts["comparing_steps"], facts["mixing"]) == (0, 0, None)


@pytest.mark.slow
def test_one_program_for_all_levels_is_compared_with_uniform_widths(tmp_path: Path) -> None:
    found, _, _ = find(tmp_path, levels=(25.0, 50.0, 100.0), order="joint")
    names = [candidate.name for candidate in found.candidates]
    assert "uniform" in names
    assert not any("at least" in name for name in names)
