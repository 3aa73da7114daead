import itertools
import math
from dataclasses import replace
from typing import get_args

import graphs
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from redsc import cost, latency, milp
from redsc.errors import InfeasibleError
from redsc.gain import Gains, gains
from redsc.groups import channel_indices, find_groups, prefixes, select_kernel
from redsc.knapsack import (
    LATENCY,
    Limits,
    Resource,
    Values,
    Violation,
    build,
    grow,
    joint_violations,
    use,
    violations,
)
from redsc.milp import gap_of, solve, solve_jointly

MOST_COMBINATIONS = 600


def random_importance(graph, seed):
    """Uneven, with many zeros, and decreasing towards later units only on average."""
    rng = np.random.default_rng(seed)
    return {
        op.name: rng.exponential(size=op.kernel.shape) * rng.integers(0, 2, op.kernel.shape)
        for op in graph.linear_ops
    }


def random_scratch(graph, grouping, seed):
    """Of every linear op that reads one group; not monotone in the width, as kernels' is not."""
    rng = np.random.default_rng(seed)
    sources = {
        op.name: {segment.group for segment in grouping.axes[op.inputs[0]]}
        for op in graph.linear_ops
    }
    return {
        op: (group, rng.integers(0, 200, grouping.groups[group].units + 1))
        for op, (group, *others) in sources.items()
        if not others
    }


def sorted_importance(graph):
    """|w|, units sorted so that leading ones carry more, each op scaled to 1."""
    result = {}
    for op in graph.linear_ops:
        scores = np.abs(op.kernel).astype(np.float64)
        for axis in (scores.ndim - 2, scores.ndim - 1):
            others = tuple(i for i in range(scores.ndim) if i != axis)
            order = np.argsort(-scores.sum(axis=others), kind="stable")
            scores = np.take(scores, order, axis=axis)
        result[op.name] = scores / scores.sum()
    return result


def all_widths(candidates):
    for choice in itertools.product(*candidates.values()):
        yield dict(zip(candidates, choice, strict=True))


@st.composite
def problems(draw, most=MOST_COMBINATIONS, **kwargs):
    graph = draw(graphs.random_graphs(**kwargs))
    grouping = find_groups(graph)
    candidates = {
        name: (group.units,)
        if group.fixed
        else tuple(sorted(draw(st.sets(st.integers(1, group.units), min_size=1, max_size=4))))
        for name, group in grouping.groups.items()
    }
    assume(math.prod(map(len, candidates.values())) <= most)
    seed = draw(st.integers(0, 2**16))
    scratch = random_scratch(graph, grouping, seed)
    target = latency.target("nano33ble")
    model = replace(cost.cost_model(graph, grouping, target), scratch=scratch)
    unit = {name: np.arange(g.units) % 3 for name, g in grouping.groups.items()} if seed % 2 else {}
    gain = gains(graph, grouping, random_importance(graph, seed), unit)
    return build(model, gain, candidates)


KINDS = ("macs", "peak_bytes", "weights_bytes", "flash_bytes", "arena_bytes", "latency_ps")


@st.composite
def limits_of(draw, problem, kinds=KINDS):
    """Limits of one or more kinds, from a little infeasible to not binding."""
    model, tables = problem.model, draw(st.integers(1, 3))

    def flash(widths):
        return model.weights_bytes(widths) + tables * model.table_bytes(widths)

    value = {
        "macs": model.macs,
        "peak_bytes": model.peak_activation_bytes,
        "weights_bytes": model.weights_bytes,
        "flash_bytes": flash,
        "arena_bytes": model.least_arena_bytes,
        "latency_ps": model.latency_ps,
    }
    chosen = {}
    for kind in draw(st.sets(st.sampled_from(kinds), min_size=1)):
        low, high = value[kind](problem.smallest), value[kind](problem.largest)
        chosen[kind] = int(low + draw(st.floats(-0.05, 1.05)) * (high - low))
    return Limits(**chosen, tables=tables)


def within(model, limits, widths):
    flash = model.weights_bytes(widths) + limits.tables * model.table_bytes(widths)
    pairs = [
        (model.macs(widths), limits.macs),
        (model.peak_activation_bytes(widths), limits.peak_bytes),
        (model.weights_bytes(widths), limits.weights_bytes),
        (flash, limits.flash_bytes),
        (model.least_arena_bytes(widths), limits.arena_bytes),
        (model.latency_ps(widths), limits.latency_ps),
    ]
    return all(limit is None or value <= limit for value, limit in pairs)


@settings(deadline=None)
@given(graphs.random_graphs(), st.data())
def test_gain_is_the_importance_of_the_weights_kept(graph, data):
    grouping = find_groups(graph)
    importance = random_importance(graph, data.draw(st.integers(0, 99)))
    unit = {name: np.arange(group.units) * 0.5 for name, group in grouping.groups.items()}
    widths = {
        name: group.units if group.fixed else data.draw(st.integers(1, group.units))
        for name, group in grouping.groups.items()
    }
    index = {n: channel_indices(axis, prefixes(widths)) for n, axis in grouping.axes.items()}
    kept = sum(
        select_kernel(op, importance[op.name], index[op.inputs[0]], index[op.name]).sum()
        for op in graph.linear_ops
    )
    kept += sum(unit[name][: widths[name]].sum() for name in unit)
    assert gains(graph, grouping, importance, unit).total(widths) == pytest.approx(kept)


@settings(deadline=None)
@given(problems(), st.data())
def test_tables_of_a_problem_add_up_to_model_and_gains(problem, data):
    """The sums that the integer program makes equal the exact costs, at any choice."""
    index = {g: data.draw(st.integers(0, len(c) - 1)) for g, c in problem.candidates.items()}
    widths = {group: problem.candidates[group][i] for group, i in index.items()}
    values = [table.at(index[group]) for group, table in problem.units.items()]
    values += [table.at((index[a], index[b])) for (a, b), table in problem.pairs.items()]
    total = sum(values, problem.constant.at(0))
    assert total.gain == pytest.approx(problem.gains.total(widths))
    assert total.macs == problem.model.macs(widths)
    assert total.weights_bytes == problem.model.weights_bytes(widths)
    assert total.table_bytes == problem.model.table_bytes(widths)
    assert total.latency_ps == problem.model.latency_ps(widths)


def check_against_brute_force(problem, limits):
    feasible = [w for w in all_widths(problem.candidates) if within(problem.model, limits, w)]
    if not feasible:
        # nothing proves at once that no widths fit limits that do not grow with them
        match = "fit" if limits.arena_bytes else "needed"
        with pytest.raises(InfeasibleError, match=match):
            solve(problem, limits)
        return
    best = max(map(problem.gains.total, feasible))
    solution = solve(problem, limits)
    assert solution.widths[0] in feasible
    assert solution.objective == pytest.approx(best, rel=1e-7, abs=1e-9)
    assert solution.objective == problem.gains.total(solution.widths[0])
    assert solution.proven_optimal
    assert solution.gap == 0


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_optimum_equals_brute_force(data):
    problem = data.draw(problems())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(milp, "MOST_REPEATS", 1)  # the program itself knows every limit
        check_against_brute_force(problem, data.draw(limits_of(problem)))


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_a_minimum_is_kept_like_a_limit(data):
    problem = data.draw(problems(most=200))
    resource = data.draw(st.sampled_from(get_args(Resource)))
    of = getattr(problem.model, resource)
    low, high = of(problem.smallest), of(problem.largest)
    least = int(low + data.draw(st.floats(0, 1.02)) * (high - low))
    limits = data.draw(limits_of(problem))
    feasible = [w for w in all_widths(problem.candidates) if within(problem.model, limits, w)]
    feasible = [widths for widths in feasible if of(widths) >= least]
    limits = replace(limits, least=(resource, least))
    assume(of(problem.largest) >= least)  # what the search has checked before
    if not feasible:
        with pytest.raises(InfeasibleError):
            solve(problem, limits)
        return
    solution = solve(problem, limits)
    best = max(map(problem.gains.total, feasible))
    assert solution.objective == pytest.approx(best, rel=1e-7, abs=1e-9)
    assert solution.widths[0] in feasible


@settings(deadline=None)
@given(st.data())
def test_use_is_the_largest_share_of_any_limit(data):
    problem = data.draw(problems())
    limits = data.draw(limits_of(problem))
    assume(within(problem.model, limits, problem.smallest))
    for widths in (problem.smallest, problem.largest):
        assert (use(problem.model, limits, widths) <= 1) == within(problem.model, limits, widths)
    scaled = replace(Limits(), macs=2 * problem.model.macs(problem.largest))
    assert use(problem.model, scaled, problem.largest) == 0.5
    assert use(problem.model, Limits(), problem.largest) == 0


def test_a_lacking_millisecond_is_rounded_up_and_an_allowed_one_down():
    violation = Violation(LATENCY, 1_234_000_001, 1_233_999_999)
    assert str(violation) == "ms of estimated latency: at least 1.235 needed, 1.233 allowed"


@settings(deadline=None, max_examples=15)
@given(st.data())
def test_optimum_of_cbc_equals_brute_force(data):
    problem = data.draw(problems(max_blocks=2))
    limits = data.draw(limits_of(problem))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(milp, "solver_name", lambda: "CBC")
        check_against_brute_force(problem, limits)


def test_cbc_keeps_an_optimum_that_its_preprocessing_cuts_off(monkeypatch):
    """Two convolutions of one input; with preprocessing CBC proves 24.97 where 25.19 fits."""
    monkeypatch.setattr(milp, "solver_name", lambda: "CBC")
    model = cost.CostModel(
        pairs={},
        units={"a": cost.Term(weights_bytes=10, channels=1), "b": cost.Term(0, 18, 1)},
        live={"a": {"a": 9}},
    )
    gain = {
        "a": np.array([0, 1.99837393, 9.30666933, 14.94411909, 18.95957937]),
        "b": np.array([0, 15.88351735, 22.97444353]),
    }
    problem = build(model, Gains({}, gain), {"a": (1, 2, 3, 4), "b": (1, 2)})
    check_against_brute_force(problem, Limits(flash_bytes=77))


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_forbidden_widths_leave_the_next_best(data):
    problem = data.draw(problems(most=60))
    limits = data.draw(limits_of(problem))
    feasible = [w for w in all_widths(problem.candidates) if within(problem.model, limits, w)]
    assume(feasible)
    values = sorted(map(problem.gains.total, feasible), reverse=True)
    forbidden = []
    for value in values[:4]:
        solution = solve(problem, limits, forbidden=forbidden)
        assert solution.objective == pytest.approx(value, rel=1e-7, abs=1e-9)
        assert solution.proven_optimal
        forbidden.append([solution.widths[0]])


@pytest.mark.slow
@settings(deadline=None, max_examples=300)
@given(st.data())
def test_optimum_equals_brute_force_on_many(data):
    problem = data.draw(problems(most=2000))
    check_against_brute_force(problem, data.draw(limits_of(problem)))


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_joint_levels_equal_brute_force(data):
    problem = data.draw(problems(most=40, max_blocks=2))
    lower = data.draw(limits_of(problem, kinds=("macs", "peak_bytes", "latency_ps")))
    upper = data.draw(limits_of(problem))
    lower = replace(lower, tables=1)
    upper = replace(upper, tables=1, arena_bytes=None)
    widths = list(all_widths(problem.candidates))
    best = -1.0
    for narrow, wide in itertools.product(widths, widths):
        nested = all(narrow[group] <= wide[group] for group in narrow)
        tables = problem.model.table_bytes(narrow)
        flash = None if upper.flash_bytes is None else upper.flash_bytes - tables
        rest = replace(upper, flash_bytes=flash)
        if nested and within(problem.model, lower, narrow) and within(problem.model, rest, wide):
            best = max(best, problem.gains.total(narrow) + problem.gains.total(wide))
    if best < 0:
        with pytest.raises(InfeasibleError):
            solve_jointly(problem, [lower, upper])
        return
    solution = solve_jointly(problem, [lower, upper])
    assert solution.objective == pytest.approx(best, rel=1e-7, abs=1e-9)
    assert not joint_violations(problem.model, [lower, upper], solution.widths)
    assert all(solution.widths[0][g] <= solution.widths[1][g] for g in problem.candidates)


# --- realistic chains against dynamic programming ------------------------------------------------


def chain_optimum(problem, macs):
    """Exact: Pareto fronts of (MACs, gain) per width of the last group of a growing chain."""
    free = [group for group, widths in problem.candidates.items() if len(widths) > 1]
    assert set(problem.pairs) <= set(itertools.pairwise(free))
    fixed = [t for g, t in problem.units.items() if len(problem.candidates[g]) == 1]
    start = (sum(int(t.macs[0]) for t in fixed), sum(float(t.gain[0]) for t in fixed))
    unit = problem.units[free[0]]
    fronts = [
        (np.array([start[0] + int(m)]), np.array([start[1] + float(g)]))
        for m, g in zip(unit.macs, unit.gain, strict=True)
    ]
    for a, b in itertools.pairwise(free):
        nothing = np.zeros((len(problem.candidates[a]), len(problem.candidates[b])))
        pair = problem.pairs.get((a, b), Values(*[nothing] * 5))
        unit = problem.units[b]
        fronts = [
            pareto(
                [
                    (cost + pair.macs[i, j] + unit.macs[j], gain + pair.gain[i, j] + unit.gain[j])
                    for i, (cost, gain) in enumerate(fronts)
                ],
                macs,
            )
            for j in range(len(problem.candidates[b]))
        ]
    return max(gain.max(initial=-1.0) for _, gain in fronts)


def pareto(fronts, macs):
    cost, gain = (np.concatenate(parts) for parts in zip(*fronts, strict=True))
    order = np.lexsort((-gain, cost))
    cost, gain = cost[order], gain[order]
    previous = np.concatenate([[-1.0], np.maximum.accumulate(gain)[:-1]])
    keep = (gain > previous) & (cost <= macs)
    return cost[keep], gain[keep]


def chain(graph, step):
    grouping = find_groups(graph)
    candidates = {
        name: (g.units,) if g.fixed else tuple(sorted({*range(step, g.units, step), g.units}))
        for name, g in grouping.groups.items()
    }
    gain = gains(graph, grouping, sorted_importance(graph))
    return build(cost.cost_model(graph, grouping), gain, candidates)


@pytest.mark.parametrize(
    ("graph", "step", "percent"),
    [
        (graphs.ds_cnn(), 8, 50),
        (graphs.ds_cnn(), 4, 25),
        (graphs.ds_cnn(), 4, 75),
        (graphs.autoencoder(), 16, 50),
        pytest.param(graphs.ds_cnn(), 2, 50, marks=pytest.mark.slow),
        pytest.param(graphs.autoencoder(), 4, 25, marks=pytest.mark.slow),
        pytest.param(graphs.mobilenet_v1(), 8, 25, marks=pytest.mark.slow),
        pytest.param(graphs.mobilenet_v1(), 8, 75, marks=pytest.mark.slow),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_chains_equal_dynamic_programming(graph, step, percent):
    problem = chain(graph, step)
    macs = cost.macs(graph) * percent // 100
    solution = solve(problem, Limits(macs=macs), time_limit_s=120)
    assert solution.proven_optimal
    assert problem.model.macs(solution.widths[0]) <= macs
    assert solution.objective == pytest.approx(chain_optimum(problem, macs), rel=1e-9)


# --- what happens at the edges -------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["HiGHS", "CBC"])
@pytest.mark.parametrize(("most_nodes", "time_limit_s"), [(0, None), (2000, 0.01)])
def test_a_stopped_search_tells_its_gap(monkeypatch, solver, most_nodes, time_limit_s):
    monkeypatch.setattr(milp, "solver_name", lambda: solver)
    monkeypatch.setattr(milp, "MOST_NODES", most_nodes)
    problem = chain(graphs.ds_cnn(), 4)
    macs = 664_192
    optimum = chain_optimum(problem, macs)
    solution = solve(problem, Limits(macs=macs), time_limit_s)
    assert not violations(problem.model, Limits(macs=macs), solution.widths[0])
    assert not solution.proven_optimal
    assert solution.objective <= optimum * (1 + 1e-9) <= solution.bound * (1 + 1e-6)
    assert 0 < solution.gap < math.inf


def test_infeasible_names_every_limit_and_its_smallest_value():
    problem = chain(graphs.ds_cnn(), 8)
    least = problem.model.macs(problem.smallest)
    with pytest.raises(
        InfeasibleError, match=rf"MACs: at least {least} needed, {least - 1} allowed"
    ):
        solve(problem, Limits(macs=least - 1))
    assert solve(problem, Limits(macs=least)).widths[0] == problem.smallest


def test_everything_fits():
    problem = chain(graphs.ds_cnn(), 8)
    assert solve(problem, Limits(macs=10**9)).widths[0] == problem.largest


@settings(deadline=None)
@given(st.data())
def test_grown_widths_cannot_grow_further(data):
    problem = data.draw(problems())
    limits = data.draw(limits_of(problem))
    assume(within(problem.model, limits, problem.smallest))
    widths = grow(problem, problem.smallest, lambda w: within(problem.model, limits, w))
    assert within(problem.model, limits, widths)
    for group, choices in problem.candidates.items():
        wider = [width for width in choices if width > widths[group]][:1]
        assert not any(within(problem.model, limits, {**widths, group: w}) for w in wider)


def test_gap():
    assert gap_of(110.0, 100.0) == pytest.approx(0.1)
    assert gap_of(99.0, 100.0) == 0
    assert gap_of(1.0, 0.0) == math.inf
