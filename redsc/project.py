"""Writes the emitted project: generated text from templates, the library and platforms as they are.

Templates loop and print; what they print is computed here. The text depends on the network and
the options alone, so the same compile gives the same bytes.
"""

from __future__ import annotations

import re
import shutil
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

import redsc
from redsc import boards, emit, ir, plots, report, resources
from redsc.config import CompileOptions
from redsc.plan import Plan
from redsc.tflm import TflmModel

TEMPLATES = {
    "platformio.ini.jinja": "platformio.ini",
    "Makefile.jinja": "Makefile",
    "README.md.jinja": "README.md",
    "main.cpp.jinja": "src/main.cpp",
}
COPIED = {"reds": "lib/reds", "platforms": "platforms"}
"""Folders of firmware/ and where they go; for a board also tools/, which flashes it."""


def write(
    directory: Path,
    graph: ir.Graph,
    plan: Plan,
    tflm_model: TflmModel | None,
    levels: Sequence[Mapping[str, Any]],
    tflites: Sequence[bytes],
    options: CompileOptions,
) -> None:
    """The firmware project and the .tflite files, into an empty directory.

    With `tflm_model` the board runs TensorFlow Lite Micro. `levels` are the report's, of which
    README.md prints a few keys.
    """
    files = emit.emit_model(plan, options.name, crc32=zlib.crc32(tflites[-1]), tflm=tflm_model)
    files.update(_render(graph, levels, options))
    for path, text in files.items():
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    board = boards.board(options.target)
    tools = {} if board.environment is None else {"tools": "tools"}
    for source, target_name in {**COPIED, **tools}.items():
        ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
        shutil.copytree(resources.firmware_dir() / source, directory / target_name, ignore=ignored)
    emulated = directory / boards.EMULATED
    emulated.parent.mkdir(exist_ok=True)
    emulated.write_text(report.to_json(board.platformio), encoding="utf-8")
    (directory / "levels").mkdir()
    for number, data in enumerate(tflites):
        (directory / "levels" / f"level_{number}.tflite").write_bytes(data)
    (directory / "model.tflite").write_bytes(tflites[-1])


def _render(
    graph: ir.Graph, levels: Sequence[Mapping[str, Any]], options: CompileOptions
) -> dict[str, str]:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(resources.templates_dir()),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    shapes, board = ir.shapes(graph), boards.board(options.target)
    context = {
        "project": re.sub(r"[^A-Za-z0-9_.-]", "_", options.model.stem) or "model",
        "redsc_version": redsc.__version__,
        "model_file": re.sub(r"[^A-Za-z0-9_. -]", "_", options.model.name),
        "name": options.name,
        "tflm": options.runtime == "tflm",
        "core": board.machine.core,
        "environment": board.environment,
        "levels": levels,
        "input_rescale": _per_channel(graph.input.rescale, graph.input),
        "input_offset": _per_channel(graph.input.offset, graph.input),
        "input_shape": shapes[graph.input.name],
        "output_shape": shapes[graph.output],
    }
    return {
        path: environment.get_template(template).render(context)
        for template, path in TEMPLATES.items()
    }


def _per_channel(scaling: float | np.ndarray, source: ir.Input) -> list[float]:
    """One number where all channels have the same, else one per channel of both arrays."""
    uniform = np.ndim(source.rescale) == np.ndim(source.offset) == 0
    return np.broadcast_to(scaling, 1 if uniform else source.shape[-1]).tolist()


def write_inputs(directory: Path, inputs: np.ndarray) -> None:
    """The ladder's int8 inputs, for `redsc verify`."""
    np.save(directory / "verify" / "inputs.npy", inputs, allow_pickle=False)


def write_outputs(directory: Path, outputs: np.ndarray) -> None:
    """What the levels answer to these inputs, for `redsc bench --port`."""
    np.save(directory / "verify" / "outputs.npy", outputs, allow_pickle=False)


def write_report(
    directory: Path,
    result: Mapping[str, Any],
    tables: Mapping[str, str],
    pictures: Mapping[str, bytes],
    predictions: Mapping[str, np.ndarray],
) -> None:
    """report/: JSON, CSV, plots and predictions.npz, which is left out where there are none;
    `tables` and `pictures` are more of them, by file name."""
    folder = directory / "report"
    folder.mkdir()
    texts = {
        "report.json": report.to_json(result), "summary.csv": report.summary_csv(result), **tables,
    }  # fmt: skip
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    if predictions:
        # numpy's types take any name for its own keyword, allow_pickle
        np.savez_compressed(folder / "predictions.npz", **dict(predictions))  # type: ignore[arg-type]
    for name, png in {**plots.draw(result), **pictures}.items():
        (folder / name).write_bytes(png)
