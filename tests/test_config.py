"""Options: parsing, precedence, messages that name the key, the value and what is allowed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from redsc import config
from redsc.errors import UsageError


@pytest.mark.parametrize(
    ("text", "levels"), [("25,50,75,100", (25, 50, 75, 100)), ("12.5", (12.5,)), ("1, 2", (1, 2))]
)
def test_levels(text: str, levels: tuple[float, ...]) -> None:
    assert config.parse_levels(text) == levels


@pytest.mark.parametrize("text", ["", "a", "50,25", "25,25", "0,50", "-1", "101", "nan", "25,,50"])
def test_bad_levels_name_the_value(text: str) -> None:
    with pytest.raises(UsageError, match="levels"):
        config.parse_levels(text)


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("macs", ("macs",)),
        ("ram, macs", ("ram", "macs")),
        ("flash,latency,flash", ("flash", "latency")),
    ],
)
def test_budgets(text: str, budget: tuple[str, ...]) -> None:
    assert config.parse_budget(text) == budget


@pytest.mark.parametrize("text", ["", "macs,", "time", "macs ram"])
def test_bad_budgets_name_what_is_allowed(text: str) -> None:
    with pytest.raises(UsageError, match="not one of macs, ram, flash, latency"):
        config.parse_budget(text)


@pytest.mark.parametrize("text", ["1", "1,0", "0,0", "a,b", "0,inf", "nan,1", "1,2,3", "0,1e39"])
def test_bad_input_ranges(text: str) -> None:
    with pytest.raises(UsageError, match="input-range"):
        config.parse_input_range(text)


def test_command_line_wins_over_the_file_over_the_default(tmp_path: Path) -> None:
    file = tmp_path / "redsc.toml"
    file.write_text(
        'levels = [20, 100]\nseed = 7\nbudget = "ram"\nmax_latency_ms = 20\ninput_range = [-1, 1]\n'
    )
    options = config.merge(config.read(file), {"model": Path("m.h5"), "seed": 3, "budget": None})
    assert options.levels == (20, 100)
    assert options.input_range == (-1, 1)
    assert options.seed == 3
    assert options.budget == ("ram",)
    assert options.max_latency_ms == 20.0
    assert options.output == Path("build")


def test_paths_in_the_file_are_relative_to_it(tmp_path: Path) -> None:
    file = tmp_path / "redsc.toml"
    file.write_text('output = "builds/m"\ndata = "sets/d.npz"\n')
    options = config.merge(config.read(file), {"model": Path("m.h5")})
    assert options.output == tmp_path / "builds" / "m"
    assert options.data == str(tmp_path / "sets" / "d.npz")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("sets/d.npz", "{}/sets/d.npz"),
        ("odd:name.npz", "{}/odd:name.npz"),
        ("/sets/d.npz", "/sets/d.npz"),
        ("sets.py:load", "{}/sets.py:load"),
        ("my/sets.py:load", "{}/my/sets.py:load"),
        ("package.sets:load", "package.sets:load"),
        ("sets", "{}/sets"),
        ("my/sets", "{}/my/sets"),
        ("../sets/", "{}/../sets"),
        ("speech-commands:sets", "speech-commands:{}/sets"),
        ("cifar-10:/sets", "cifar-10:/sets"),
        ("fashion-mnist:.", "fashion-mnist:{}"),
    ],
)
def test_data_in_the_file_is_relative_to_it_but_a_module_is_not(
    tmp_path: Path, data: str, expected: str
) -> None:
    file = tmp_path / "redsc.toml"
    file.write_text(f'data = "{data}"\n')
    assert config.read(file) == {"data": expected.format(tmp_path)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("level = 3", "did you mean 'levels'"),
        ("zebra = 3", "known keys"),
        ("model = 'm.h5'", "unknown key 'model'"),
        ("seed = 'x'", "expected a whole number"),
        ("seed = true", "expected a whole number"),
        ("strict = 1", "expected true or false"),
        ("levels = 3", "expected a list"),
        ("levels = [50, 25]", "redsc.toml: levels: '50,25' must rise"),
        ("budget = 3", "expected a list"),
        ("budget = ['macs', 'x']", "budget: 'x' is not one of macs, ram, flash, latency"),
        ("max_macs = 0", "max-macs: 0"),
        ("max_macs = 1.5", "expected a whole number"),
        ("max_latency_ms = 0", "max-latency-ms: 0"),
        ("max_latency_ms = inf", "max-latency-ms: inf"),
        ("max_latency_ms = true", "expected a number"),
        ("seed = ", "not valid TOML"),
        ("epochs = -1", "epochs: -1"),
        ("seed = -1", "seed: -1"),
        ("max_ram_bytes = 0", "max-ram-bytes: 0"),
        ("budget = 'time'", "budget: 'time' is not one of macs, ram, flash, latency"),
        ("target = 'uno'", "nano33ble"),
        ("runtime = 'tf'", "standalone"),
        ("importance = 'best'", "importance: 'best' is not one of taylor, first-order, fisher"),
        ("importance = 'fisher'", "importance: 'fisher' needs gradients of training data; give"),
    ],
)
def test_mistakes_in_the_file(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "redsc.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=message):
        config.merge(config.read(file), {"model": Path("m.h5")})


@pytest.mark.parametrize(("method", "data"), [("random", None), ("first-order", "d.npz")])
def test_importance_may_be_chosen(method: str, data: str | None) -> None:
    options = config.merge({"importance": method}, {"model": Path("m.h5"), "data": data})
    assert options.importance == method


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        config.read(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("given", "warning"),
    [
        ({"hints": 3.0, "epochs": 5}, "--hints, --epochs do nothing without --data: nothing"),
        ({"epochs": 0}, None),
        ({"strategy": "mirrored"}, "--strategy does nothing without --data"),
        ({"data": "d.npz", "epochs": 0, "mixing": False}, "--mixing does nothing with --epochs 0"),
        ({"data": "d.npz", "epochs": 0, "objective": "probes", "batch_size": 8}, None),
        ({"data": "d.npz", "mixing": True, "class_weights": "balanced"}, None),
        ({"data": "d.npz", "input_range": (0.0, 1.0)}, "--input-range does nothing with --data"),
        ({"input_range": (0.0, 1.0)}, None),
    ],
)
def test_options_that_do_nothing_are_told(given: dict[str, Any], warning: str | None) -> None:
    warnings = config.idle(config.CompileOptions(Path("m.h5"), **given))
    assert len(warnings) == (warning is not None)
    assert all(warning in text for text in warnings if warning)
