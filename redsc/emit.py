"""Prints a plan as C++: constant tables for the `reds` library, rendered from templates/.

The output depends on nothing but its arguments.
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
from redsc.tflm import TflmModel

MODEL_FILES = ("model.h", "model_plan.cc", "model_weights.cc")
TFLM_FILE = "model_tflm.cc"
"""Templates; in the project the network's name stands for "model"."""

NUMBERS_PER_LINE = 20

_TAKEN_WORDS = (
    "reds std tflite main arduino mbed alignas alignof and and_eq asm auto bitand bitor bool break "
    "case catch char class compl const constexpr const_cast continue decltype default delete do "
    "double dynamic_cast else enum explicit export extern false float for friend goto if inline "
    "int long mutable namespace new noexcept not not_eq nullptr operator or or_eq private "
    "protected public register reinterpret_cast return short signed sizeof static static_assert "
    "static_cast struct switch template this thread_local throw true try typedef typeid typename "
    "union unsigned using virtual void volatile wchar_t while xor xor_eq linux unix"
)
"""Of C++, and names that the libraries beside a network have."""

C_TYPES = {"int8": "int8_t", "int32": "int32_t", "uint32": "uint32_t"}

OVERREAD_BYTES = 3
"""Kernels read weights by the word, so up to this many bytes past an array's end."""


def emit_model(
    plan: Plan, name: str = "model", *, crc32: int = 0, tflm: TflmModel | None = None
) -> dict[str, str]:
    """Text of every model-dependent C++ file, by path in the emitted project.

    `name` becomes the C++ namespace: letters, digits and underscores. `crc32` is that of the full
    network's .tflite. With `tflm` the files serve TensorFlow Lite Micro too.
    """
    if not is_namespace(name):
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
        initializer=initializer,
        lines=_lines,
        comment=_comment,
        c_type=_c_type,
        float=_float,
        zip=zip,
    )
    environment.globals.update(overread_bytes=OVERREAD_BYTES)
    files = MODEL_FILES if tflm is None else (*MODEL_FILES, TFLM_FILE)
    paths = {f"{file}.jinja": f"lib/{name}/{file.replace('model', name)}" for file in files}
    paths["verify_main.cpp.jinja"] = "verify/main.cpp"
    return {
        path: environment.get_template(template).render(
            plan=plan, name=name, crc32=crc32, tflm=tflm
        )
        for template, path in paths.items()
    }


def is_namespace(name: str) -> bool:
    """Whether a network may have this name: it becomes a C++ namespace, a folder and a header."""
    return bool(re.fullmatch(r"[a-z][a-z0-9_]*", name)) and name not in _TAKEN_WORDS.split()


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


def _lines(values: np.ndarray | bytes) -> Iterator[str]:
    """Numbers of an array, or bytes as int8, comma-separated, some per line."""
    if isinstance(values, bytes):
        values = np.frombuffer(values, np.int8)
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
