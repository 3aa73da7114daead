"""Options of `redsc compile`: defaults, redsc.toml, command line, in rising order of precedence.

The keys of redsc.toml are the option names with underscores, at top level. Unknown keys and wrong
values are UsageErrors that name the key, the value and what is allowed.
"""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import math
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from redsc import boards, datasets, emit, latency
from redsc.cost import TABLES, Tables
from redsc.data import BATCH_SIZE
from redsc.distribution import STRATEGIES
from redsc.errors import UsageError
from redsc.importance import GRADIENT_METHODS, METHODS
from redsc.objective import OBJECTIVES, Name
from redsc.search import Budget, Order

BUDGETS = get_args(Budget)
ORDERS = get_args(Order)
RUNTIMES = ("tflm", "standalone")
Teacher = Literal["full", "original"]
TEACHERS = get_args(Teacher)
BALANCED = "balanced"
DEFAULT_LEVELS = (25.0, 50.0, 75.0, 100.0)
"""Percent. A default level that no widths fit is left out; one that was asked for is an error."""
MOST_LEVELS = 16

_KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false"}

_LARGEST_INPUT = 1e30
"""Beyond it a network's float32 sums overflow."""


@dataclass(frozen=True)
class CompileOptions:
    """Everything that decides what `compile` makes; the same options give the same bytes."""

    model: Path
    output: Path = Path("build")
    data: str | None = None
    levels: tuple[float, ...] | None = None
    budget: tuple[Budget, ...] = ("macs",)
    input_range: tuple[float, float] | None = None
    max_macs: int | None = None
    max_latency_ms: float | None = None
    max_ram_bytes: int | None = None
    max_flash_bytes: int | None = None
    channel_step: int | None = None
    min_width: int | None = None
    epochs: int | None = None
    batch_size: int = BATCH_SIZE
    learning_rate: float | None = None
    distillation: float | None = None
    teacher: Teacher | None = None
    mixing: bool | None = None
    hints: float | None = None
    int8_from: float = 0.6
    all_levels: bool = False
    loss_weights: tuple[float, ...] | None = None
    class_weights: tuple[float, ...] | str | None = None
    tables: Tables | None = None
    importance: str | None = None
    objective: Name | None = None
    order: Order | None = None
    strategy: str = "one-device"
    seed: int = 0
    runtime: str = "tflm"
    target: str = "nano33ble"
    name: str = "model"
    verify: bool = True
    strict: bool = False


_TRAINING = (
    "batch_size", "learning_rate", "distillation", "teacher", "mixing", "hints", "int8_from",
    "all_levels", "loss_weights", "class_weights",
)  # fmt: skip


def idle(options: CompileOptions) -> list[str]:
    """Warnings of options that were given and do nothing beside the others."""
    ignored: dict[str, tuple[str, ...]] = {}
    if options.data is None:
        training = (*_TRAINING, "strategy", *(("epochs",) if options.epochs else ()))
        ignored["without --data: nothing is trained"] = training
    else:
        ignored["with --data, whose range counts"] = ("input_range",)
        if options.epochs == 0 and options.objective != "probes":
            ignored["with --epochs 0: nothing is trained"] = _TRAINING
    defaults = {field.name: field.default for field in dataclasses.fields(options)}
    warnings = []
    for why, names in ignored.items():
        given = [name for name in names if getattr(options, name) != defaults[name]]
        if given:
            listed = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            warnings.append(f"{listed} {'do' if len(given) > 1 else 'does'} nothing {why}")
    return warnings


def parse_levels(text: str) -> tuple[float, ...]:
    """'25,50,75,100' as rising percentages in (0, 100]."""
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"levels: {text!r} is not a list of percentages; write for example 25,50,75,100"
        ) from None
    if not all(0 < value <= 100 for value in values):
        raise UsageError(f"levels: {text!r}: each percentage must lie above 0 and at most at 100")
    if any(low >= high for low, high in itertools.pairwise(values)):
        raise UsageError(f"levels: {text!r} must rise from the smallest level to the largest")
    if len(values) > MOST_LEVELS:
        raise UsageError(
            f"levels: {len(values)} levels asked for, at most {MOST_LEVELS} are supported"
        )
    return values


def parse_budget(text: str) -> tuple[Budget, ...]:
    """'macs,ram' as the resources that the percentages are of, each once."""
    names = [part.strip() for part in text.split(",")]
    for name in names:
        if name not in BUDGETS:
            raise UsageError(f"budget: {name!r} is not one of {', '.join(BUDGETS)}")
    return tuple(dict.fromkeys(cast(list[Budget], names)))


def parse_input_range(text: str) -> tuple[float, float]:
    """'LO,HI' as two numbers, LO below HI."""
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"input-range: {text!r} is not LO,HI; write for example -1,1") from None
    if not (low < high and abs(low) <= _LARGEST_INPUT and abs(high) <= _LARGEST_INPUT):
        raise UsageError(
            f"input-range: {text!r}: LO must be below HI, both within ±{_LARGEST_INPUT:g}"
        )
    return low, high


def parse_weights(text: str) -> tuple[float, ...]:
    """'W,W,…' as numbers of at least 0, not all 0."""
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"loss-weights and class-weights: {text!r} is not a list of numbers; write for example "
            "1,1,2,4"
        ) from None
    if not all(0 <= value < math.inf for value in values) or not any(values):
        raise UsageError(f"weights: {text!r}: each must be at least 0, and one above 0")
    return values


def parse_class_weights(text: str) -> tuple[float, ...] | str:
    """'balanced', or weights of class 0, 1, …"""
    return text if text == BALANCED else parse_weights(text)


def read(path: Path) -> dict[str, Any]:
    """Options of a redsc.toml, checked and converted; keys are CompileOptions field names."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not valid TOML: {error}") from None
    return {key: _convert(path, key, value) for key, value in values.items()}


def _convert(path: Path, key: str, value: Any) -> Any:
    fields = {field.name: field.type for field in dataclasses.fields(CompileOptions)}
    del fields["model"]  # the command line's argument
    if key not in fields:
        close = difflib.get_close_matches(key, fields, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(fields)}"
        raise UsageError(f"{path}: unknown key {key!r}; {hint}")
    kind = str(fields[key])
    where = f"{path}: {key} = {value!r}"
    match key:
        case _ if key in PARSERS:
            try:
                return PARSERS[key](_join(value, where))
            except UsageError as error:
                raise UsageError(f"{path}: {error}") from None
        case "output":
            if isinstance(value, str):
                return path.parent / value
        case "data":
            if isinstance(value, str):
                return _beside(path.parent, value)
        case "target":
            if isinstance(value, str):
                return str(path.parent / value) if value.endswith(".json") else value
        case _ if kind.removesuffix(" | None") not in _KINDS and isinstance(value, str):
            return value
        case _ if kind.startswith("bool") and isinstance(value, bool):
            return value
        case _ if kind.startswith("int") and type(value) is int:
            return value
        case _ if kind.startswith("float") and type(value) in (int, float):
            return float(value)
    raise UsageError(f"{where}: expected {_KINDS.get(kind.removesuffix(' | None'), 'text')}")


def _beside(folder: Path, data: str) -> str:
    """`--data` of a redsc.toml in `folder`: paths are relative to it, a module Python's to find."""
    if datasets.names_reader(data):
        reader, _, path = data.partition(":")
        return f"{reader}:{folder / path}"
    if re.fullmatch(r"[\w.]+:[A-Za-z_]\w*", data) and not re.search(r"\.py:\w+$", data):
        return data
    return str(folder / data)


def _join(value: Any, where: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return ",".join(str(part) for part in value)
    raise UsageError(f"{where}: expected a list")


PARSERS: Mapping[str, Callable[[str], Any]] = {
    "levels": parse_levels,
    "input_range": parse_input_range,
    "budget": parse_budget,
    "loss_weights": parse_weights,
    "class_weights": parse_class_weights,
}
"""Options that hold several values: on the command line text, in a file text or a list."""


def merge(settings: Mapping[str, Any], arguments: Mapping[str, Any]) -> CompileOptions:
    """Options from a configuration file, overridden by the command line's (None is not given)."""
    given = {key: value for key, value in arguments.items() if value is not None}
    values = {**settings, **given}
    options = CompileOptions(**values)
    if "runtime" not in values and boards.board(options.target).environment is None:
        options = dataclasses.replace(options, runtime="standalone")
    _check(options)
    return options


def _check(options: CompileOptions) -> None:
    for name, allowed in (
        ("teacher", TEACHERS),
        ("tables", TABLES),
        ("importance", METHODS),
        ("objective", OBJECTIVES),
        ("order", ORDERS),
        ("strategy", STRATEGIES),
        ("runtime", RUNTIMES),
    ):
        value = getattr(options, name)
        if value is not None and value not in allowed:
            raise UsageError(f"{name}: {value!r} is not one of {', '.join(allowed)}")
    boards.board(options.target)
    timed = options.max_latency_ms is not None or "latency" in options.budget
    if timed and latency.target(options.target) is None:
        raise UsageError(
            f"budget: how long kernels take on {options.target} was not measured, so latency "
            "cannot limit levels; choose macs, ram or flash"
        )
    if options.importance in GRADIENT_METHODS and options.data is None:
        raise UsageError(
            f"importance: {options.importance!r} needs gradients of training data; give --data, or "
            "choose magnitude or random"
        )
    if options.objective == "probes" and options.data is None:
        raise UsageError(
            "objective: 'probes' measures on training and validation data; give --data, or choose "
            "harmonic, importance or uniform"
        )
    if options.objective == "uniform" and options.order == "joint":
        raise UsageError(
            "order: 'joint' solves one program for all levels, and uniform widths are not solved "
            "for; choose bottom-up or top-down"
        )
    if options.loss_weights is not None:
        weights, levels = len(options.loss_weights), len(options.levels or DEFAULT_LEVELS)
        if weights != levels:
            raise UsageError(f"loss-weights: {weights} weights for {levels} levels")
    if not emit.is_namespace(options.name):
        raise UsageError(
            f"name: {options.name!r} cannot be a C++ namespace of its own; use small letters, "
            "digits and underscores, a letter first"
        )
    limits = (
        "max_macs",
        "max_ram_bytes",
        "max_flash_bytes",
        "channel_step",
        "min_width",
        "batch_size",
    )
    for name in limits:
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UsageError(f"{name.replace('_', '-')}: {value} must be at least 1")
    latency_ms = options.max_latency_ms
    if latency_ms is not None and not 0 < latency_ms < math.inf:
        raise UsageError(f"max-latency-ms: {latency_ms:g} must be above 0")
    rate = options.learning_rate
    if rate is not None and not 0 < rate < math.inf:
        raise UsageError(f"learning-rate: {rate:g} must be above 0")
    for name in ("distillation", "int8_from"):
        value = getattr(options, name)
        if value is not None and not 0 <= value <= 1:
            raise UsageError(f"{name.replace('_', '-')}: {value:g} must lie in 0 … 1")
    if options.hints is not None and not 0 <= options.hints < math.inf:
        raise UsageError(f"hints: {options.hints:g} must not be negative")
    for name in ("epochs", "seed"):
        value = getattr(options, name)
        if value is not None and value < 0:
            raise UsageError(f"{name}: {value} must not be negative")
