"""Prints a plan as C++: constant tables for the `reds` library, rendered from templates/.

The output depends on nothing but the plan and the name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import jinja2
import numpy as np

from redsc import resources
from redsc.plan_structs import Plan, Symbol

MODEL_FILES = ("model.h", "model_plan.cc", "model_weights.cc")
NUMBERS_PER_LINE = 20
C_TYPES = {"int8": "int8_t", "int32": "int32_t", "uint32": "uint32_t"}

OVERREAD_BYTES = 3
"""Kernels read weights by the word, so up to this many bytes past an array's end."""


def emit_model(plan: Plan, name: str = "model") -> dict[str, str]:
    """Text of every model-dependent C++ file, by path in the emitted project.

    `name` becomes the C++ namespace: letters, digits and underscores.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ValueError(f"{name!r} is no C++ namespace")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(resources.templates_dir()),
        undefined=jinja2.StrictUndefined,
        line_statement_prefix="%%",
        trim_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters.update(
        initializer=initializer, lines=_lines, comment=_comment, c_type=_c_type, float=_float
    )
    environment.globals.update(overread_bytes=OVERREAD_BYTES)
    paths = {f"{file}.jinja": f"lib/model/{file}" for file in MODEL_FILES}
    paths["verify_main.cpp.jinja"] = "verify/main.cpp"
    return {
        path: environment.get_template(template).render(plan=plan, name=name)
        for template, path in paths.items()
    }


def initializer(value: Any) -> str:
    """A value as a C++ initialiser; dataclasses in the order of their fields."""
    match value:
        case None:
            return "nullptr"
        case Symbol():
            return value
        case int():
            return str(value)
        case tuple():
            return "{" + ", ".join(initializer(item) for item in value) + "}"
    assert is_dataclass(value), value
    return initializer(tuple(getattr(value, f.name) for f in fields(value)))


def _lines(values: np.ndarray) -> Iterator[str]:
    """Numbers of an array, comma-separated, some per line."""
    for start in range(0, len(values), NUMBERS_PER_LINE):
        line = values[start : start + NUMBERS_PER_LINE].tolist()
        # C++ has no literal for the smallest int32
        yield ", ".join("INT32_MIN" if v == -(1 << 31) else str(v) for v in line) + ","


def _comment(name: str) -> str:
    """A layer's name, made safe inside comments and string literals."""
    return re.sub(r"[^A-Za-z0-9_./:-]", "_", name)


def _c_type(values: np.ndarray) -> str:
    return C_TYPES[values.dtype.name]


def _float(value: float) -> str:
    """A float32 value as a C++ literal that reads back exactly."""
    return f"{np.format_float_scientific(np.float32(value), unique=True, trim='0')}f"
