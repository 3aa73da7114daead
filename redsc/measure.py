"""What a report says of a compile: costs, accuracy, fidelity, and where they come from."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from redsc import (
    boards,
    cost,
    data,
    importer,
    ir,
    latency,
    loss,
    oracle,
    quantize,
    report,
    runner,
    tf_network,
    tflite,
    tflm,
    toolchain,
    verify,
)
from redsc.config import CompileOptions
from redsc.memory import ArenaPlan
from redsc.plan import Plan
from redsc.progress import Progress
from redsc.quantized import QuantizedLevel, QuantizedNetwork

EVALUATION_BATCH = 128
"""Samples that a core of the host runs at once, at every level: seconds even of large networks."""


LEAST_SQNR_DB = 10.0
"""Signal to quantisation noise below which the widest level's int8 outputs are worth a warning."""


@dataclass(frozen=True, eq=False)
class Samples:
    """Inputs in raw units, (samples, *input shape) float32, and where they are from."""

    x: np.ndarray
    description: str
    synthetic: bool


@dataclass(frozen=True)
class SketchSizes:
    """Of the sketch built for the emulated board: flash without weights and tables, static RAM."""

    code_bytes: int | None = None
    static_ram_bytes: int | None = None


def sketch_sizes(staging: Path, workspace: Path, device_plan: Plan) -> SketchSizes:
    """Builds the user's sketch; nothing is known where a tool is missing."""
    if any(toolchain.find(tool) is None for tool in verify.EMULATOR_TOOLS):
        return SketchSizes()
    firmware = toolchain.build(staging, "emulator", workspace)
    return SketchSizes(firmware.flash_bytes - device_plan.data_bytes, firmware.ram_bytes)


def runtime_facts(name: str, plan: Plan, model: tflm.TflmModel | None) -> dict[str, Any]:
    """What runs the ops on the board, and the arena the sketch gives it."""
    return {
        "name": name,
        "arena_bytes": max(plan.arena_bytes) if model is None else model.arena_bytes,
        "flatbuffer_bytes": None if model is None else len(model.flatbuffer),
    }


def board_facts(board: boards.Board, usage: boards.Usage) -> dict[str, Any]:
    return {
        "name": board.name,
        "flash_bytes": board.flash_bytes,
        "ram_bytes": board.ram_bytes,
        "estimated_flash_used_bytes": usage.flash_bytes,
        "estimated_ram_used_bytes": usage.ram_bytes,
    }


def level_costs(
    network: QuantizedNetwork,
    full: ir.Graph,
    arenas: Sequence[ArenaPlan],
    target: latency.Target,
) -> list[dict[str, Any]]:
    """What is known of each level before anything runs: the report's first keys."""
    full_macs = cost.macs(full)
    return [
        {
            "level": number,
            "budget_percent": level.percent,
            "macs": cost.macs(level.graph),
            "macs_percent": round(100 * cost.macs(level.graph) / full_macs, 3),
            "widths": dict(level.widths),
            "parameters": cost.parameters(level.graph),
            "peak_activation_bytes": cost.peak_activation_bytes(level.graph),
            "arena_bytes": arena.size_bytes,
            "estimated_latency_ms": latency.milliseconds(level.graph, target),
        }
        for number, (level, arena) in enumerate(zip(network.levels, arenas, strict=True))
    ]


def quality(
    network: QuantizedNetwork,
    tflites: Sequence[bytes],
    ladder: verify.Ladder,
    dataset: data.Data | None,
    samples: Samples,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Fidelity to the level's own float network, and accuracy on the test split, per level.

    int8 outputs come from the host's proven kernels, else from the interpreter; without either
    they are not measured. Anything but a classifier has mean_squared_error instead of accuracy.
    """
    test = None if dataset is None else dataset.test
    x = samples.x if test is None else test.x
    int8 = _int8_outputs(network, tflites, ladder, x, progress)
    result: list[dict[str, Any]] = []
    for number, level in enumerate(network.levels):
        outputs = {"float": tf_network.predict(level.graph, x)}
        fidelity: dict[str, float | None] = {"sqnr_db": None, "argmax_agreement": None}
        if int8 is not None:
            outputs["int8"] = int8[number]
            fidelity.update(report.fidelity(outputs["float"], outputs["int8"]))
        measured: dict[str, Any] = {
            "accuracy_float": None,
            "accuracy_int8": None,
            "fidelity": fidelity,
        }
        if dataset is not None and test is not None:
            name = "accuracy" if dataset.task == "classification" else "mean_squared_error"
            for kind in ("float", "int8"):
                score = None
                if kind in outputs:
                    score = loss.score(outputs[kind], test.y, level.graph, dataset.task)
                measured[f"{name}_{kind}"] = score
        result.append(measured)
    return result


def _int8_outputs(
    network: QuantizedNetwork,
    tflites: Sequence[bytes],
    ladder: verify.Ladder,
    x: np.ndarray,
    progress: Progress,
) -> list[np.ndarray] | None:
    """Every level's real-valued outputs for raw inputs x, computed in int8."""
    if ladder.host_program is None and not oracle.available():
        return None
    interface = tflite.interface(tflites)
    params = network.levels[-1].tensors[network.graph.output]

    def run(raw: np.ndarray) -> list[np.ndarray]:
        inputs = quantize.quantize_input(network, raw)
        if ladder.host_program is not None:
            runs = runner.run_host(ladder.host_program, interface, inputs)
            outputs = [run.outputs for run in runs]
        else:
            outputs = [oracle.run(model, inputs)[0] for model in tflites]
        shape = (len(inputs), *interface.output_shape)
        return [quantize.dequantize_array(output.reshape(shape), params) for output in outputs]

    parts: list[list[np.ndarray]] = []
    workers = os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(x), EVALUATION_BATCH * workers):
            progress.step(start, len(x), f"{start} of {len(x)} samples")
            stop = start + EVALUATION_BATCH * workers
            batches = [x[i : i + EVALUATION_BATCH] for i in range(start, stop, EVALUATION_BATCH)]
            parts += pool.map(run, [batch for batch in batches if len(batch)])
    return [np.concatenate(level) for level in zip(*parts, strict=True)]


def fidelity_warnings(levels: Sequence[Mapping[str, Any]]) -> list[str]:
    """Tells when int8 does not follow even the widest level's float network."""
    sqnr_db = levels[-1]["fidelity"]["sqnr_db"]
    if sqnr_db is None or sqnr_db >= LEAST_SQNR_DB:
        return []
    return [
        f"int8 follows the widest level's float outputs by {sqnr_db:g} dB only (its error is "
        f"{10 ** (-sqnr_db / 20):.0%} of them): are inputs or channels of very different size, or "
        "is the assumed input range far from the real one?"
    ]


def is_classifier(network: QuantizedNetwork, dataset: data.Data | None) -> bool:
    """Whether the largest output is the answer: by the data, else by a softmax at the end."""
    if dataset is not None:
        return dataset.task == "classification"
    return any(isinstance(op, ir.Softmax) for op in network.graph.ops)


def model_facts(
    options: CompileOptions, model: importer.LoadedModel, graph: ir.Graph, faithful: float
) -> dict[str, Any]:
    return {
        "path": str(options.model),
        "sha256": model.sha256,
        "format": model.format,
        "parameters": model.parameters,
        "macs": cost.macs(graph),
        "import_error": faithful,
    }


def input_facts(network: QuantizedNetwork, samples: Samples) -> dict[str, Any]:
    """How the application makes int8 of its raw values, and what was assumed of them."""
    source = network.graph.input
    params = network.levels[0].tensors[source.name]
    rescale, offset = np.asarray(source.rescale), np.asarray(source.offset)
    if rescale.ndim or offset.ndim:
        first = "raw · rescale[channel] + offset[channel]"
        formula = f"({first}) / {params.scale:.8g} + {params.zero_point}"
    else:
        zero = params.zero_point + offset / params.scale
        formula = f"raw / {params.scale / rescale:.8g} + {zero:.8g}"
    return {
        "shape": list(source.shape),
        "description": samples.description,
        "synthetic": samples.synthetic,
        "low": float(samples.x.min()),
        "high": float(samples.x.max()),
        "scale": params.scale,
        "zero_point": params.zero_point,
        "rescale": rescale.tolist(),
        "offset": offset.tolist(),
        "formula": f"int8 = round({formula}), clipped to -128 … 127",
    }


def verdict_facts(verdict: verify.Verdict) -> dict[str, Any]:
    return {
        "verified": {
            "tflm": verdict.tflm, "host": verdict.host, "emulator": verdict.emulator,
        },
        "emulator": {
            "instructions": verdict.instructions,
            "switch_instructions": verdict.switch_instructions,
        },
    }  # fmt: skip


def layers_csv(network: QuantizedNetwork) -> str:
    """One row per op and level."""
    header = ("level", "layer", "kind", "output_shape", "macs", "weights_bytes", "scale",
              "zero_point")  # fmt: skip
    table: list[tuple[Any, ...]] = []
    for number, level in enumerate(network.levels):
        table += _layer_rows(number, level)
    return report.csv_text(header, table)


def _layer_rows(number: int, level: QuantizedLevel) -> list[tuple[Any, ...]]:
    shapes, macs = ir.shapes(level.graph), cost.op_macs(level.graph)
    rows: list[tuple[Any, ...]] = []
    for op in level.graph.ops:
        params = level.tensors[op.name]
        shape = "x".join(str(size) for size in shapes[op.name])
        weights = op.kernel.size if isinstance(op, ir.LinearOp) else 0
        rows.append((number, op.name, type(op).__name__, shape, macs.get(op.name, 0), weights,
                     params.scale, params.zero_point))  # fmt: skip
    return rows
