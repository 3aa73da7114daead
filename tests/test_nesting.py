import itertools
import math
from dataclasses import replace
from types import SimpleNamespace

import graphs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_knapsack import random_importance, sorted_importance

from redsc import cost, flash, latency
from redsc.errors import InfeasibleError, UsageError
from redsc.gain import gains
from redsc.grid import default_grid, default_step, explicit_grid
from redsc.groups import find_groups, prefixes, select_units
from redsc.knapsack import Limits, build
from redsc.memory import plan_level
from redsc.milp import solve
from redsc.nesting import SearchOptions, find_levels
from redsc.search import Fixed

REFERENCES = [graphs.ds_cnn(), graphs.resnet(), graphs.autoencoder(), graphs.mobilenet_v1()]


def scratch(graph, _room):
    return {op.name: 4 * op.kernel.shape[-2] for op in graph.linear_ops}


def kept(graph, importance):
    """The objective of keeping importance."""
    return Fixed(gains(graph, find_groups(graph), importance))


def search(graph, **options):
    objective = kept(graph, sorted_importance(graph))
    return find_levels(graph, find_groups(graph), objective, SearchOptions(**options))


def sliced(graph, level):
    return select_units(graph, find_groups(graph), prefixes(level.widths))


MEASURES = {
    "macs": lambda graph, level: cost.macs(level),
    "ram": lambda graph, level: cost.peak_activation_bytes(level),
    "flash": lambda graph, level: cost.weights_bytes(level),
    "latency": lambda graph, level: latency.latency_ps(graph, level, latency.target("nano33ble")),
}
"""What a level of a network takes."""


def over_budget(graph, options, percent, level):
    """Whether a level exceeds its share of the network, or an absolute limit on computation."""
    return (
        any(
            MEASURES[kind](graph, level) > MEASURES[kind](graph, graph) * percent / 100
            for kind in options.budget
        )
        or cost.macs(level) > (options.max_macs or math.inf)
        or MEASURES["latency"](graph, level) > (options.max_latency_ms or math.inf) * 1e9
    )


def flash_bytes(graph, widths):
    levels = [select_units(graph, find_groups(graph), prefixes(w)) for w in widths]
    return cost.weights_bytes(levels[-1]) + sum(map(cost.table_bytes, levels))


def within(graph, options, levels, number, widths):
    """Whether every limit holds, measured on the sliced graphs alone."""
    grouping = find_groups(graph)
    level = select_units(graph, grouping, prefixes(widths))
    if over_budget(graph, options, levels[number].percent, level):
        return False
    if options.max_ram_bytes is not None:
        arena = plan_level(level, options.scratch).size_bytes + options.reserved_ram_bytes
        if arena > options.max_ram_bytes:
            return False
    all_widths = [other.widths for other in levels]
    all_widths[number] = widths
    flash = flash_bytes(graph, all_widths) + options.reserved_flash_bytes
    return options.max_flash_bytes is None or flash <= options.max_flash_bytes


def check_nesting(graph, options, nesting):
    grouping, levels = find_groups(graph), nesting.levels
    for lower, upper in itertools.pairwise(levels):
        assert lower.percent < upper.percent
        assert all(lower.widths[g] <= upper.widths[g] for g in grouping.groups)
        assert lower.widths != upper.widths
    for number, level in enumerate(levels):
        graph_of_level = sliced(graph, level)
        assert set(level.widths) == set(grouping.groups)
        assert within(graph, options, levels, number, level.widths)
        assert level.macs == cost.macs(graph_of_level)
        assert level.weights_bytes == cost.weights_bytes(graph_of_level)
        assert level.table_bytes == cost.table_bytes(graph_of_level)
        assert level.peak_activation_bytes == cost.peak_activation_bytes(graph_of_level)
        assert level.arena_bytes == plan_level(graph_of_level, options.scratch).size_bytes


def check_maximal(graph, options, nesting, step):
    """No width can take its next multiple of step, or its full width, nestedness kept."""
    grouping, levels = find_groups(graph), nesting.levels
    for number, level in enumerate(levels):
        for group in grouping.free:
            width = level.widths[group.name]
            wider = min((width // step + 1) * step, group.units)
            top = levels[number + 1].widths[group.name] if number + 1 < len(levels) else group.units
            if width == group.units or (wider > top and options.order != "bottom-up"):
                continue
            trial = {**level.widths, group.name: wider}
            if wider > top:  # bottom-up: a level is maximal even before those above exist
                wide = select_units(graph, grouping, prefixes(trial))
                assert over_budget(graph, options, level.percent, wide)
            else:
                assert not within(graph, options, levels, number, trial), (level, group)


@pytest.mark.parametrize(
    ("graph", "order"),
    [
        (REFERENCES[0], "bottom-up"),
        (REFERENCES[1], "bottom-up"),
        (REFERENCES[1], "top-down"),
        (REFERENCES[2], "bottom-up"),
        pytest.param(REFERENCES[0], "top-down", marks=pytest.mark.slow),
        pytest.param(REFERENCES[2], "top-down", marks=pytest.mark.slow),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_reference_networks_use_their_budgets(graph, order):
    options = {"channel_step": 4, "order": order}
    nesting = search(graph, **options)
    check_nesting(graph, SearchOptions(**options), nesting)
    check_maximal(graph, SearchOptions(**options), nesting, 4)
    assert nesting.proven_optimal
    assert nesting.warnings == ()
    for level in nesting.levels:
        assert 0.97 * level.percent <= 100 * level.macs / cost.macs(graph) <= level.percent
    assert nesting.levels[-1].widths == find_groups(graph).full_widths


@pytest.mark.slow
def test_mobilenet_uses_its_budgets():
    graph, options = REFERENCES[3], SearchOptions(channel_step=8)
    nesting = search(graph, channel_step=8)
    check_nesting(graph, options, nesting)
    check_maximal(graph, options, nesting, 8)
    assert all(x.macs >= 0.97 * x.percent / 100 * cost.macs(graph) for x in nesting.levels)


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(graphs.random_graphs(), st.data())
def test_levels_of_any_network_nest_within_every_limit(graph, data):
    step = data.draw(st.sampled_from((1, 2)))
    ram = data.draw(st.none() | st.floats(0.5, 1.2))
    flash = data.draw(st.none() | st.floats(0.5, 2.5))
    shares = st.none() | st.none() | st.floats(0.2, 1.2)

    def share_of(kind, share, unit=1):
        value = share and math.floor(MEASURES[kind](graph, graph) * share)
        return value and (value if unit == 1 else value / unit)

    options = SearchOptions(
        percents=data.draw(st.sampled_from(((25, 50, 75, 100), (50,), (30, 60), (40, 100)))),
        budget=tuple(data.draw(st.sets(st.sampled_from(tuple(MEASURES)), min_size=1))),
        max_macs=share_of("macs", data.draw(shares)),
        max_latency_ms=share_of("latency", data.draw(shares), 1e9),
        order=data.draw(st.sampled_from(("bottom-up", "top-down", "joint"))),
        channel_step=step,
        min_width=data.draw(st.sampled_from((None, 1))),
        max_ram_bytes=ram and int(plan_level(graph, scratch).size_bytes * ram) + 7,
        max_flash_bytes=flash and int(cost.weights_bytes(graph) * flash) + 70,
        scratch=scratch,
        reserved_ram_bytes=7,
        reserved_flash_bytes=11,
    )
    grouping = find_groups(graph)
    importance = random_importance(graph, data.draw(st.integers(0, 99)))
    try:
        nesting = find_levels(graph, grouping, kept(graph, importance), options)
    except InfeasibleError:
        smallest = {
            g.name: g.units if g.fixed else min(step, g.units) for g in grouping.groups.values()
        }
        level = select_units(graph, grouping, prefixes(smallest))
        flash = cost.weights_bytes(level) + len(options.percents) * cost.table_bytes(level)
        assert (
            over_budget(graph, options, options.percents[0], level)
            or (flash + 11) > (options.max_flash_bytes or flash + 11)
            or plan_level(level, scratch).size_bytes + 7 > (options.max_ram_bytes or 1e9)
        )
        return
    assert nesting.levels
    check_nesting(graph, options, nesting)
    if options.max_ram_bytes is None and options.max_flash_bytes is None:
        check_maximal(graph, options, nesting, step)


@pytest.mark.slow
def test_budgets_are_used_even_at_the_price_of_a_little_importance():
    """Here the most important widths need less than 97 % of the 25 % budget."""
    graph = graphs.resnet()
    grouping, importance = find_groups(graph), sorted_importance(graph)
    problem = build(
        cost.cost_model(graph, grouping),
        gains(graph, grouping, importance),
        explicit_grid(grouping, 4).candidates(),
    )
    best = solve(problem, Limits(macs=cost.macs(graph) // 4))
    assert cost.macs(sliced(graph, SimpleNamespace(widths=best.widths[0]))) < 0.97 * 3_125_408
    level = search(graph, channel_step=4).levels[0]
    assert level.macs >= 0.97 * 3_125_408
    assert 0.97 * best.objective < level.gain < best.objective


@pytest.mark.slow
def test_two_levels_are_just_those_two():
    nesting = search(graphs.ds_cnn(), percents=(25, 50))
    assert [level.percent for level in nesting.levels] == [25, 50]
    again = search(graphs.ds_cnn(), percents=(50, 25, 25))
    assert [level.widths for level in again.levels] == [level.widths for level in nesting.levels]


@pytest.mark.slow
def test_ten_levels():
    graph = graphs.ds_cnn()
    options = SearchOptions(percents=tuple(range(10, 101, 10)))
    nesting = search(graph, percents=options.percents)
    check_nesting(graph, options, nesting)
    assert len(nesting.levels) == 10


@pytest.mark.slow
@pytest.mark.parametrize(
    "order", ["bottom-up", "top-down", pytest.param("joint", marks=pytest.mark.slow)]
)
def test_ram_limits_the_planned_arena_with_scratch(order):
    graph = graphs.resnet()
    full = plan_level(graph, scratch).size_bytes
    options = {"max_ram_bytes": full * 7 // 10, "scratch": scratch, "reserved_ram_bytes": 500}
    nesting = search(graph, order=order, **options)
    check_nesting(graph, SearchOptions(order=order, **options), nesting)
    check_maximal(graph, SearchOptions(order=order, **options), nesting, 4)
    assert nesting.levels[-1].macs < cost.macs(graph)
    assert any("limits of RAM" in warning for warning in nesting.warnings)


@pytest.mark.slow
@pytest.mark.parametrize("order", ["bottom-up", "top-down"])
def test_flash_limits_the_top_and_all_tables(order):
    graph = graphs.resnet()
    options = {"max_flash_bytes": cost.weights_bytes(graph) * 8 // 10, "reserved_flash_bytes": 900}
    nesting = search(graph, order=order, **options)
    check_nesting(graph, SearchOptions(order=order, **options), nesting)
    used = flash_bytes(graph, [level.widths for level in nesting.levels]) + 900
    assert 0.9 * options["max_flash_bytes"] <= used <= options["max_flash_bytes"]
    assert nesting.warnings


@pytest.mark.slow
def test_the_widest_level_is_what_fits_and_those_it_equals_are_dropped():
    graph = graphs.ds_cnn()
    nesting = search(graph, max_flash_bytes=15_000)
    assert [level.percent for level in nesting.levels] == [25, 100]
    assert "Dropped the 75 % level" in nesting.warnings[0]
    assert "Dropped the 50 % level" in nesting.warnings[1]
    assert "not stored" in nesting.warnings[2]
    # what the dropped levels' tables would have taken is the widest level's
    assert flash_bytes(graph, [level.widths for level in nesting.levels]) > 14_500


def test_steps_are_halved_where_levels_would_be_equal():
    graph = graphs.vgg(4, 8, 3)
    nesting = search(graph, percents=(80, 90, 100))
    assert len(nesting.levels) == 3
    check_nesting(graph, SearchOptions(), nesting)
    assert any("finer" in warning for warning in nesting.warnings)


def test_an_explicit_step_is_obeyed():
    graph = graphs.vgg(4, 8, 3)
    nesting = search(graph, percents=(80, 90, 100), channel_step=4)
    for level in nesting.levels:
        assert all(
            level.widths[group.name] % 4 == 0 or level.widths[group.name] == group.units
            for group in find_groups(graph).free
        )
    assert len(nesting.levels) < 3
    assert any("no widths lie between" in warning for warning in nesting.warnings)
    with pytest.raises(InfeasibleError, match="--channel-step"):
        search(graph, percents=(10,), channel_step=4)


def test_steps_are_halved_where_a_level_would_be_infeasible():
    graph = graphs.vgg(4, 8, 3)
    nesting = search(graph, percents=(10, 100))
    check_nesting(graph, SearchOptions(), nesting)
    assert any("finer" in warning for warning in nesting.warnings)


def test_the_default_floor_gives_way_with_a_warning():
    graph = graphs.ds_cnn()
    nesting = search(graph, percents=(4, 100))
    assert min(nesting.levels[0].widths[g.name] for g in find_groups(graph).free) == 4
    assert any("minimum width" in warning for warning in nesting.warnings)


def test_min_width_is_obeyed():
    graph = graphs.ds_cnn()
    nesting = search(graph, percents=(25, 100), min_width=20)
    assert min(nesting.levels[0].widths[g.name] for g in find_groups(graph).free) >= 20
    with pytest.raises(InfeasibleError, match="--min-width"):
        search(graph, percents=(10,), min_width=40)


@pytest.mark.parametrize(
    "budget",
    [*((kind,) for kind in MEASURES), ("macs", "ram"), ("latency", "flash", "ram")],
    ids="+".join,
)
def test_infeasible_names_the_smallest_level(budget):
    graph = graphs.vgg()
    with pytest.raises(InfeasibleError) as error:
        search(graph, percents=(0.01, 100), budget=budget)
    named = float(error.value.args[0].split("--levels of ")[1].rstrip("."))
    assert search(graph, percents=(named, 100), budget=budget).levels
    with pytest.raises(InfeasibleError):
        search(graph, percents=(round(named - 0.1, 1), 100), budget=budget)


def test_infeasible_names_the_smallest_flash_with_the_plans_structure():
    graph, options = graphs.vgg(), SearchOptions(percents=(50, 100))
    grouping, objective = find_groups(graph), kept(graph, sorted_importance(graph))

    def limited(max_flash_bytes):
        settings = replace(options, max_flash_bytes=max_flash_bytes)
        return flash.find_levels(graph, grouping, objective, settings, "per-level")

    with pytest.raises(InfeasibleError, match="--max-flash-bytes") as error:
        limited(500)
    needed = int(error.value.args[0].split("at least ")[1].split()[0])
    for limit in (needed, needed + 37, needed + 300):
        widths = [level.widths for level in limited(limit).levels]
        used = flash_bytes(graph, widths) + flash.structure_bytes(graph, grouping, widths)
        assert used <= limit
    with pytest.raises(InfeasibleError):
        limited(needed - 1)


def test_flash_that_dropped_levels_leave_is_used():
    graph, limit = graphs.vgg(), 4000
    grouping, objective = find_groups(graph), kept(graph, sorted_importance(graph))
    limited = SearchOptions(max_flash_bytes=limit)
    found = flash.find_levels(graph, grouping, objective, limited, "per-level")
    percents = tuple(level.percent for level in found.levels)
    assert found.dropped == found.warnings[: len(found.dropped)]
    assert len(percents) + len(found.dropped) == 4
    again = SearchOptions(percents=percents, max_flash_bytes=limit)
    asked = flash.find_levels(graph, grouping, objective, again, "per-level")
    assert found.levels[-1].gain >= asked.levels[-1].gain


def test_infeasible_names_the_smallest_feasible_value():
    graph = graphs.vgg()
    with pytest.raises(InfeasibleError, match=r"RAM in the planned arena: at least (\d+)") as error:
        search(graph, max_ram_bytes=500, reserved_ram_bytes=100)
    needed = int(error.value.args[0].split("at least ")[1].split()[0])
    assert "--max-ram-bytes" in str(error.value)
    assert search(graph, max_ram_bytes=needed, reserved_ram_bytes=100).levels
    with pytest.raises(InfeasibleError):
        search(graph, max_ram_bytes=needed - 1, reserved_ram_bytes=100)


@pytest.mark.parametrize(("kind", "step"), [("max_macs", 1), ("max_latency_ms", 0.001)])
def test_infeasible_names_the_smallest_cap(kind, step):
    graph, option = graphs.vgg(), "--" + kind.replace("_", "-")
    with pytest.raises(InfeasibleError, match=f"Try a larger {option}") as error:
        search(graph, **{kind: step})
    needed = float(error.value.args[0].split("at least ")[1].split()[0])
    assert search(graph, **{kind: needed}).levels
    with pytest.raises(InfeasibleError):
        search(graph, **{kind: needed - step})


def test_infeasible_names_every_limit_that_binds():
    graph = graphs.vgg()
    with pytest.raises(InfeasibleError) as error:
        search(graph, percents=(0.5, 100), budget=("macs", "ram"), max_macs=9, max_latency_ms=0.01)
    text = str(error.value)
    for resource in ("MACs", "bytes of activations alive at once", "ms of estimated latency"):
        assert f"{resource}: at least" in text
    for option in ("a smallest --levels of", "a larger --max-macs", "a larger --max-latency-ms"):
        assert option in text


@pytest.mark.parametrize(
    "budget",
    [("latency",), ("flash",), ("macs", "ram"), tuple(MEASURES)],
    ids="+".join,
)
def test_some_budget_is_used(budget):
    graph, options = graphs.ds_cnn(32, 2), SearchOptions(budget=budget)
    nesting = search(graph, budget=budget)
    check_nesting(graph, options, nesting)
    assert nesting.proven_optimal
    for level in nesting.levels:
        shares = [
            MEASURES[kind](graph, sliced(graph, level)) / MEASURES[kind](graph, graph)
            for kind in budget
        ]
        assert 0.97 * level.percent <= 100 * max(shares) <= level.percent


@pytest.mark.parametrize(("kind", "unit"), [("macs", 1), ("latency", 1e9)])
def test_a_cap_ends_the_widest_level_and_drops_those_it_equals(kind, unit):
    graph, measure = graphs.ds_cnn(32, 2), MEASURES[kind]
    cap = measure(graph, graph) * 7 // 10
    option, cap = ("max_macs", cap) if unit == 1 else ("max_latency_ms", cap / unit)
    nesting = search(graph, budget=(kind,), **{option: cap})
    assert [level.percent for level in nesting.levels] == [25, 50, 100]
    assert 0.97 * cap <= measure(graph, sliced(graph, nesting.levels[-1])) / unit <= cap
    assert "Dropped the 75 % level" in nesting.warnings[0]
    assert "not stored" in nesting.warnings[1]
    assert not any("finer" in warning for warning in nesting.warnings)


@pytest.mark.parametrize("percents", [(), (0,), (50, 101), (-3,)])
def test_percents_that_mean_nothing(percents):
    with pytest.raises(UsageError):
        search(graphs.vgg(), percents=percents)


def test_a_network_without_choices():
    net = graphs.GraphBuilder("net", (5,))
    net.dense(3)
    nesting = search(net.graph(), percents=(100,))
    assert nesting.levels[0].widths == {"input": 5, "dense_1": 3}
    with pytest.raises(InfeasibleError):
        search(net.graph(), percents=(50, 100))


def test_unimportant_weights_still_use_the_budget():
    graph = graphs.ds_cnn()
    zero = {op.name: np.zeros(op.kernel.shape) for op in graph.linear_ops}
    nesting = find_levels(graph, find_groups(graph), kept(graph, zero), SearchOptions())
    check_maximal(graph, SearchOptions(), nesting, 4)


def test_steps_suit_simd_and_the_solver():
    assert [default_step(units) for units in (3, 64, 128, 129, 256, 1024)] == [4, 4, 4, 8, 8, 32]


@given(graphs.random_graphs(max_units=40), st.integers(1, 9), st.data())
def test_grids(graph, step, data):
    grouping = find_groups(graph)
    grid = data.draw(st.sampled_from((default_grid(grouping), explicit_grid(grouping, step))))
    candidates = grid.candidates()
    for group in grouping.groups.values():
        choices = candidates[group.name]
        assert list(choices) == sorted(set(choices))
        assert choices[-1] == group.units
        assert group.fixed <= (len(choices) == 1)
        assert all(w % grid.steps[group.name] == 0 for w in choices[:-1])
    smallest = {name: choices[0] for name, choices in candidates.items()}
    for name, finer in grid.relaxations():
        assert finer.candidates()[name][0] <= smallest[name]
        assert finer != grid


def test_tables_are_shared_only_where_flash_asks_for_it():
    """Fewer bytes allowed: first nothing shared, then multipliers, then everything, then fewer."""
    graph = graphs.ds_cnn(32, 3, (12, 6, 1), 4)
    grouping, objective = find_groups(graph), kept(graph, sorted_importance(graph))
    full = cost.weights_bytes(graph)
    chosen = []
    for extra in (20_000, 6_500, 5_500, 4_400, 3_800):
        options = SearchOptions(max_flash_bytes=full + extra)
        found = flash.find_levels(graph, grouping, objective, options)
        widths = [level.widths for level in found.levels]
        model = cost.cost_model(graph, grouping, tables=found.tables)
        used = model.weights_bytes(widths[-1]) + sum(map(model.table_bytes, widths))
        used += flash.structure_bytes(graph, grouping, widths)
        assert used <= full + extra
        assert bool(found.tables != "per-level") == any("share" in w for w in found.warnings)
        chosen.append((cost.TABLES.index(found.tables), len(found.levels)))
    assert chosen == sorted(chosen, key=lambda pair: (pair[0], -pair[1]))
    assert {tables for tables, _ in chosen} == {0, 1, 2}
    asked = flash.find_levels(graph, grouping, objective, SearchOptions(), "multipliers")
    assert asked.tables == "multipliers"


def test_shared_tables_are_counted_as_the_plan_stores_them():
    graph = graphs.ds_cnn(16, 2, (8, 6, 1), 3)
    grouping = find_groups(graph)
    for tables, shared in cost.SHARED_TABLE_BYTES.items():
        model, plain = (cost.cost_model(graph, grouping, tables=t) for t in (tables, "per-level"))
        widths = grouping.full_widths
        channels = cost.table_bytes(graph) // cost.TABLE_BYTES_PER_CHANNEL
        assert model.table_bytes(widths) == channels * (9 - shared)
        assert model.weights_bytes(widths) - plain.weights_bytes(widths) == channels * shared
