"""The knapsack as a mixed-integer linear program.

Per group one binary variable per candidate width, exactly one of which is 1. What depends on two
widths (the weights of a convolution) hangs on continuous pair variables, tied to the binaries by
their marginals: for each candidate of one group they sum to its binary over the other's
candidates. With binaries at 0 or 1 the pair variables are then their products, so gain, true
MACs and weight bytes are linear and exact. Memory is a sum over groups, at every op: tensors are
linear in the widths, a kernel's scratch is a table of its input's.

PuLP writes the program; HiGHS solves it when highspy is installed, CBC otherwise.
"""

from __future__ import annotations

import itertools
import math
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, get_args

import pulp

from redsc import quiet
from redsc.cost import CostModel
from redsc.errors import InfeasibleError
from redsc.groups import Widths
from redsc.knapsack import Limits, Problem, Resource, Values, grow, joint_violations

MOST_NODES = 2000
"""Of a branch-and-bound tree. Unlike seconds, it ends a search at the same widths everywhere."""

MOST_REPEATS = 50
"""Times that a solver may return widths slightly beyond a limit; it has not been seen to."""


@dataclass(frozen=True)
class Solution:
    """Widths per level; no widths within the limits have an objective above `bound`."""

    widths: tuple[dict[str, int], ...]
    objective: float
    bound: float
    seconds: float
    solver: str

    @property
    def gap(self) -> float:
        """(bound - objective) / objective; 0 is proven optimal."""
        return gap_of(self.bound, self.objective)

    @property
    def proven_optimal(self) -> bool:
        return self.gap == 0


def gap_of(bound: float, objective: float) -> float:
    """How much better than `objective` the optimum may be, as a share of it."""
    if bound <= objective:
        return 0.0
    return (bound - objective) / objective if objective > 0 else math.inf


Terms = list[tuple[Any, float]]
_RESOURCES = tuple(entry.name for entry in fields(Values))


@dataclass(eq=False)
class _Level:
    """Variables of one level, and per resource the terms and the constant of its total."""

    choose: dict[str, list[Any]] = field(default_factory=dict)
    terms: dict[str, Terms] = field(default_factory=lambda: {name: [] for name in _RESOURCES})
    constants: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_RESOURCES, 0))

    def count(self, variables: Iterable[Any] | None, values: Values) -> None:
        """Adds what `variables` (None: a constant) bring and cost."""
        for name in _RESOURCES:
            flat = getattr(values, name).ravel().tolist()
            if variables is None:
                self.constants[name] += flat[0]
            else:
                self.terms[name] += [t for t in zip(variables, flat, strict=True) if t[1]]


def solve(
    problem: Problem,
    limits: Limits,
    time_limit_s: float | None = None,
    forbidden: Sequence[Sequence[Widths]] = (),
) -> Solution:
    """The best widths of one level; see solve_jointly. Solution.widths holds one entry."""
    return solve_jointly(problem, [limits], time_limit_s, forbidden)


def solve_jointly(
    problem: Problem,
    limits: Sequence[Limits],
    time_limit_s: float | None = None,
    forbidden: Sequence[Sequence[Widths]] = (),
) -> Solution:
    """The best widths of several nested levels, narrowest first: greatest sum of gains.

    flash_bytes of the last level counts its weights and the tables of all levels; set no
    flash_bytes for the others when there are several. forbidden: widths of all levels that are
    known not to do. Proven optimal with gap 0 unless MOST_NODES or the time limit end the search.
    Raises InfeasibleError when no candidates fit; where even the smallest ones break a limit, it
    names those that bind.
    """
    started = time.monotonic()
    count = len(limits)
    broken = joint_violations(problem.model, _monotone(limits), [problem.smallest] * count)
    if broken:
        needs = "; ".join(map(str, broken))
        raise InfeasibleError(f"No widths fit: even the smallest ones break a limit ({needs})")
    largest = [problem.largest] * count
    if largest not in forbidden and not joint_violations(problem.model, limits, largest):
        return _solution(problem, largest, started)
    program, levels = _program(problem, limits)
    for widths in forbidden:
        _forbid(program, problem, levels, widths)
    for _ in range(MOST_REPEATS):
        with quiet.silenced(quiet.STDOUT):  # HiGHS greets there
            program.solve(_solver(time_limit_s))
        if program.sol_status == pulp.LpSolutionIntegerFeasible or not program.sol_status:
            return _stopped(program, problem, levels, limits, forbidden, started)
        if program.sol_status == pulp.LpSolutionInfeasible:
            wanted = any(limit.least for limit in limits)
            assert wanted or any(limit.arena_bytes for limit in limits), "the smallest widths fit"
            raise InfeasibleError("No widths fit all limits together")
        assert program.sol_status == pulp.LpSolutionOptimal, pulp.LpSolution[program.sol_status]
        best = [_chosen(problem, level) for level in levels]
        if not joint_violations(problem.model, limits, best):
            return _solution(problem, best, started)
        # Within its tolerances the solver let a limit be broken by a unit or so.
        _forbid(program, problem, levels, best)
    raise AssertionError("the program and the limits disagree")


def _monotone(limits: Sequence[Limits]) -> list[Limits]:
    """Limits that are broken by all widths if by the smallest ones: all but that of scratch."""
    return [replace(limit, arena_bytes=None) for limit in limits]


def _program(problem: Problem, limits: Sequence[Limits]) -> tuple[Any, list[_Level]]:
    program = pulp.LpProblem("widths", pulp.LpMaximize)
    levels = [_add_level(program, problem, str(number)) for number in range(len(limits))]
    for lower, upper in itertools.pairwise(levels):
        _nest(program, lower, upper)
    scale = _gain_scale(problem)
    terms = [(v, gain * scale) for level in levels for v, gain in level.terms["gain"]]
    program.setObjective(pulp.LpAffineExpression(terms))
    for number, (level, limit) in enumerate(zip(levels, limits, strict=True)):
        below = levels[:number]
        for resource in get_args(Resource):
            maximum = getattr(limit, resource)
            _limit(program, level.terms[resource], level.constants[resource], maximum)
        if limit.least is not None:
            resource, least = limit.least
            negative = [(v, -x) for v, x in level.terms[resource]]
            _limit(program, negative, -level.constants[resource], -least)
        if limit.flash_bytes is not None:
            terms = [(v, x * limit.tables) for v, x in level.terms["table_bytes"]]
            constant = level.constants["table_bytes"] * limit.tables
            for other in below:
                terms += other.terms["table_bytes"]
                constant += other.constants["table_bytes"]
            terms += level.terms["weights_bytes"]
            constant += level.constants["weights_bytes"]
            _limit(program, terms, constant, limit.flash_bytes)
        if limit.peak_bytes is not None:
            _limit_memory(program, problem, level, limit.peak_bytes, _tensor_bytes)
        if limit.arena_bytes is not None:
            _limit_memory(program, problem, level, limit.arena_bytes, CostModel.bytes_at)
    return program, levels


def _gain_scale(problem: Problem) -> float:
    """Solvers' tolerances are absolute: bring the range of the gain to about 1000."""
    span = problem.gains.total(problem.largest) - problem.gains.total(problem.smallest)
    return 1000 / span if span > 0 else 1.0


def _add_level(program: Any, problem: Problem, tag: str) -> _Level:
    level = _Level()
    level.count(None, problem.constant)
    for number, (group, widths) in enumerate(problem.candidates.items()):
        if len(widths) == 1:
            level.count(None, problem.units[group])
            continue
        names = [f"x{tag}_{number}_{i}" for i in range(len(widths))]
        variables = [program.add_variable(name, cat=pulp.LpBinary) for name in names]
        level.choose[group] = variables
        _equal(program, [(v, 1) for v in variables], 1)
        level.count(variables, problem.units[group])
    for number, ((a, b), values) in enumerate(problem.pairs.items()):
        rows, columns = values.gain.shape
        joint = [
            [program.add_variable(f"y{tag}_{number}_{i}_{j}", 0) for j in range(columns)]
            for i in range(rows)
        ]
        for i, variable in enumerate(level.choose[a]):
            _equal(program, [*((v, 1) for v in joint[i]), (variable, -1)], 0)
        for j, variable in enumerate(level.choose[b]):
            _equal(program, [*((row[j], 1) for row in joint), (variable, -1)], 0)
        level.count([v for row in joint for v in row], values)
    return level


def _nest(program: Any, lower: _Level, upper: _Level) -> None:
    """lower <= upper, group by group: at least as likely to reach every candidate."""
    for group, below in lower.choose.items():
        above = upper.choose[group]
        for start in range(1, len(below)):
            terms = [(v, 1) for v in below[start:]] + [(v, -1) for v in above[start:]]
            _at_most(program, terms, 0)


def _tensor_bytes(model: CostModel, op: str, group: str, width: int) -> int:
    return model.live[op][group] * width


def _limit_memory(
    program: Any,
    problem: Problem,
    level: _Level,
    maximum: int,
    bytes_at: Callable[[CostModel, str, str, int], int],
) -> None:
    """One row per op at which the widths could break the limit; equal ones once."""
    rows = {
        tuple(
            (group, tuple(bytes_at(problem.model, op, group, w) for w in problem.candidates[group]))
            for group in sorted(live)
        )
        for op, live in problem.model.live.items()
    }
    for row in sorted(rows):
        if sum(max(sizes) for _, sizes in row) <= maximum:
            continue
        least = sum(min(sizes) for _, sizes in row)
        if least > maximum:
            raise InfeasibleError(f"No widths fit: {least} bytes at once needed, {maximum} allowed")
        terms: Terms = []
        constant = 0
        for group, sizes in row:
            if group in level.choose:
                terms += zip(level.choose[group], sizes, strict=True)
            else:
                constant += sizes[0]
        _limit(program, terms, constant, maximum)


def _limit(program: Any, terms: Terms, constant: float, maximum: int | None) -> None:
    """terms + constant <= maximum in integers, divided by their gcd to suit tolerances.

    Picoseconds are so many that a limit would drown in the solver's precision: they are divided
    further, which leaves its tolerance of 1e-6 far below one of them.
    """
    if maximum is None or not terms:
        return
    total: dict[Any, int] = {}
    for variable, factor in terms:  # PuLP would keep only the last of several terms
        total[variable] = total.get(variable, 0) + int(factor)
    divisor = math.gcd(*total.values()) or 1
    bound = (maximum - int(constant)) // divisor
    shrink = max(1, abs(bound) // _LARGEST)
    scaled = [(variable, factor // divisor / shrink) for variable, factor in total.items()]
    _at_most(program, scaled, bound / shrink)


_LARGEST = 2**24
"""Of a row's limit."""


def _equal(program: Any, terms: Sequence[tuple[Any, float]], value: int) -> None:
    expression = pulp.LpAffineExpression(terms)
    program.addConstraint(pulp.LpConstraint(expression, pulp.LpConstraintEQ, rhs=value))


def _at_most(program: Any, terms: Sequence[tuple[Any, float]], value: float) -> None:
    expression = pulp.LpAffineExpression(terms)
    program.addConstraint(pulp.LpConstraint(expression, pulp.LpConstraintLE, rhs=value))


# --- the solver's answer -------------------------------------------------------------------------


def solver_name() -> str:
    """HiGHS when it is installed, else CBC, which PuLP brings along."""
    return "HiGHS" if pulp.HiGHS(msg=False).available() else "CBC"


def _solver(time_limit_s: float | None) -> Any:
    if solver_name() != "HiGHS":
        return _cbc(time_limit_s=time_limit_s)
    import highspy

    return pulp.HiGHS(
        msg=False,
        gapRel=0,
        threads=1,
        timeLimit=time_limit_s,
        # PuLP knows no status of HiGHS's own mip_max_nodes.
        callbackTuple=(_stop_at_most_nodes, None),
        callbacksToActivate=[highspy.cb.HighsCallbackType.kCallbackMipInterrupt],
    )


def _stop_at_most_nodes(_kind: Any, _text: str, state: Any, answer: Any, _user: Any) -> None:
    if state.mip_node_count >= MOST_NODES:
        answer.user_interrupt = True


def _cbc(mip: bool = True, time_limit_s: float | None = None) -> Any:
    """PuLP's CBC (2.10.3) without its preprocessing, which rarely cuts the optimum off and then
    calls the rest's best one optimal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # PuLP 4 takes it out, 3.3 ships it
        return pulp.PULP_CBC_CMD(
            mip=mip,
            msg=False,
            gapRel=0,
            timeLimit=time_limit_s,
            maxNodes=MOST_NODES,
            options=["preprocess off"],
        )


def _chosen(problem: Problem, level: _Level) -> dict[str, int]:
    widths = problem.smallest
    for group, variables in level.choose.items():
        best = max(range(len(variables)), key=lambda i: variables[i].varValue or 0)
        widths[group] = problem.candidates[group][best]
    return widths


def _solution(
    problem: Problem,
    widths: Sequence[dict[str, int]],
    started: float,
    bound: float | None = None,
) -> Solution:
    """bound: None says that the solver proved the widths optimal."""
    objective = sum(problem.gains.total(level) for level in widths)
    return Solution(
        widths=tuple(widths),
        objective=objective,
        bound=objective if bound is None else bound,
        seconds=time.monotonic() - started,
        solver=solver_name(),
    )


def _stopped(
    program: Any,
    problem: Problem,
    levels: Sequence[_Level],
    limits: Sequence[Limits],
    forbidden: Sequence[Sequence[Widths]],
    started: float,
) -> Solution:
    """A limit ended the search: the better of its incumbent and a greedy answer."""
    options = [_greedy(problem, limits)]
    if program.sol_status == pulp.LpSolutionIntegerFeasible:
        options.append([_chosen(problem, level) for level in levels])
    options = [
        option
        for option in options
        if option not in forbidden and not joint_violations(problem.model, limits, option)
    ]
    if not options:
        raise InfeasibleError("The search was stopped before it found widths that fit")
    best = max(options, key=lambda option: sum(map(problem.gains.total, option)))
    bound = _bound(program) / _gain_scale(problem) + sum(x.constants["gain"] for x in levels)
    bound = min(bound, problem.gains.total(problem.largest) * len(limits))
    # Never claimed as proven: the solver did not say so.
    bound = max(bound, sum(map(problem.gains.total, best)) * (1 + 1e-9))
    return _solution(problem, best, started, bound)


def _greedy(problem: Problem, limits: Sequence[Limits]) -> list[dict[str, int]]:
    """Levels grown one after another, each within its limits and leaving room for the wider."""
    done: list[dict[str, int]] = []
    for _ in limits:

        def fits(widths: dict[str, int]) -> bool:
            levels = [*done, *[widths] * (len(limits) - len(done))]
            return not joint_violations(problem.model, limits, levels)

        done.append(grow(problem, done[-1] if done else problem.smallest, fits))
    return done


def _bound(program: Any) -> float:
    """Upper bound of the objective after a search was stopped.

    HiGHS tells its own; of CBC PuLP passes none on, so there it is the linear relaxation's.
    """
    if solver_name() == "HiGHS":
        return -float(program.solverModel.getInfo().mip_dual_bound)  # PuLP minimises the negative
    program.solve(_cbc(mip=False))
    return float(pulp.value(program.objective))


def _forbid(
    program: Any, problem: Problem, levels: Sequence[_Level], widths: Sequence[Widths]
) -> None:
    """A no-good cut: not exactly these widths again."""
    terms: Terms = [
        (level.choose[group][problem.candidates[group].index(chosen[group])], 1)
        for level, chosen in zip(levels, widths, strict=True)
        for group in level.choose
    ]
    _at_most(program, terms, len(terms) - 1)
