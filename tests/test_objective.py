"""What widths are worth: harmonic gains and their fit to measured losses."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redsc import cost, objective
from redsc.groups import find_groups
from redsc.nesting import SearchOptions, find_levels
from redsc.search import Fixed
from tests import graphs

GRAPHS = [graphs.ds_cnn(16, 2, (8, 6, 1), 3), graphs.resnet(), graphs.autoencoder(32, 16, 4)]


def true_losses(grouping, coefficients, level_widths, noise=0.0, seed=0):
    names = [group.name for group in grouping.free]
    shares = np.array(
        [[grouping.groups[n].units / widths[n] for n in names] for widths in level_widths]
    )
    log_loss = shares @ np.array([coefficients[n] for n in names]) - 3
    generator = np.random.default_rng(seed)
    return np.exp(log_loss + noise * generator.standard_normal(len(log_loss)))


def random_widths(grouping, count, seed):
    generator = np.random.default_rng(seed)
    half = {g.name: g.units if g.fixed else g.units // 2 for g in grouping.groups.values()}
    return [objective.near(grouping, half, generator) for _ in range(count)]


@pytest.mark.parametrize("graph", GRAPHS, ids=lambda graph: graph.ops[1].name)
def test_harmonic_gains_rise_ever_less(graph):
    grouping = find_groups(graph)
    gains = objective.harmonic(grouping)
    for group in grouping.groups.values():
        values = gains.units[group.name]
        assert len(values) == group.units + 1
        if group.fixed:
            assert not values.any()
            continue
        steps = np.diff(values[1:])
        assert np.all(steps > 0)
        assert np.all(np.diff(steps) < 0)
        assert values[1] == 0


@given(st.integers(0, 10_000), st.sampled_from(GRAPHS))
@settings(max_examples=30, deadline=None)
def test_a_fit_finds_the_coefficients_that_made_the_losses(seed, graph):
    grouping = find_groups(graph)
    generator = np.random.default_rng(seed)
    true = {group.name: generator.uniform(0.2, 1.0) for group in grouping.free}
    widths = random_widths(grouping, 60, seed)
    found = objective.fit(grouping, widths, true_losses(grouping, true, widths))
    np.testing.assert_allclose(
        [found[name] for name in true], list(true.values()), rtol=0.05, atol=0.02
    )


def test_noise_pulls_coefficients_together_and_never_below_a_floor():
    grouping = find_groups(GRAPHS[0])
    names = [group.name for group in grouping.free]
    true = dict.fromkeys(names, 0.5) | {names[0]: -0.3}
    widths = random_widths(grouping, 40, 1)
    exact = objective.fit(grouping, widths, true_losses(grouping, true, widths))
    assert 0 < exact[names[0]] <= 0.11 * np.mean([exact[name] for name in names]) + 0.05
    true = dict(zip(names, np.linspace(0.4, 0.6, len(names)), strict=True))
    spread = []
    for noise in (0.0, 3.0):
        found = objective.fit(grouping, widths, true_losses(grouping, true, widths, noise))
        spread.append(np.ptp(list(found.values())) / np.mean(list(found.values())))
    assert spread[1] < 3 * spread[0] + 1


def test_probes_measure_each_widths_once_and_find_less_loss():
    graph = GRAPHS[0]
    grouping = find_groups(graph)
    names = [group.name for group in grouping.free]
    true = dict(zip(names, np.linspace(0.1, 1.0, len(names)), strict=True))
    asked = []

    def measure(level_widths):
        asked.extend(tuple(widths.values()) for widths in level_widths)
        return true_losses(grouping, true, level_widths)

    probes = objective.Probes(grouping, measure, seed=0)
    options = SearchOptions(percents=(30, 60, 100), channel_step=1, min_width=1)
    found = find_levels(graph, grouping, probes, options)
    assert found.levels[0].widths != found.levels[1].widths
    assert len(asked) == len(set(asked))
    again = find_levels(graph, grouping, objective.Probes(grouping, measure, seed=0), options)
    assert [x.widths for x in found.levels] == [x.widths for x in again.levels]
    uniform = Fixed(objective.harmonic(grouping), uniform_alone=True)
    plain = find_levels(graph, grouping, uniform, options)
    losses = [
        true_losses(grouping, true, [level.widths for level in nesting.levels])
        for nesting in (found, plain)
    ]
    assert np.all(losses[0] <= losses[1])
    assert losses[0][0] < 0.99 * losses[1][0]
    for name, width in plain.levels[0].widths.items():
        assert found.levels[0].widths[name] >= probes.least_of_uniform * width
    assert {level.origin for level in plain.levels[:-1]} == {"uniform"}
    assert found.levels[-1].widths == grouping.full_widths


@pytest.mark.parametrize("graph", GRAPHS, ids=lambda graph: graph.ops[1].name)
def test_uniform_widths_are_a_common_share_within_the_budget(graph):
    grouping = find_groups(graph)
    uniform = Fixed(objective.harmonic(grouping), uniform_alone=True)
    options = SearchOptions(percents=(25, 50), channel_step=1, min_width=1)
    for level in find_levels(graph, grouping, uniform, options).levels:
        shares = [level.widths[g.name] / g.units for g in grouping.free]
        units = min(g.units for g in grouping.free)
        assert max(shares) - min(shares) <= 2 / units
        assert 0.97 * level.percent <= 100 * level.macs / cost.macs(graph) <= level.percent


@pytest.mark.parametrize("order", ["bottom-up", "top-down", "joint"])
def test_what_is_measured_keeps_its_inputs_and_outputs(order):
    graph = GRAPHS[0]
    grouping = find_groups(graph)
    fixed = {group.name: group.units for group in grouping.groups.values() if group.fixed}
    asked = []

    def measure(level_widths):
        asked.extend(level_widths)
        return true_losses(grouping, dict.fromkeys(grouping.groups, 1.0), level_widths)

    options = SearchOptions(percents=(30, 60, 100), channel_step=1, min_width=1, order=order)
    find_levels(graph, grouping, objective.Probes(grouping, measure, seed=0), options)
    assert asked
    assert all(widths[name] == units for widths in asked for name, units in fixed.items())
