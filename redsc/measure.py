"""What a report says of a compile but its outputs: costs, inputs, what runs where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from redsc import (
    boards,
    constant_units,
    contest,
    cost,
    importer,
    ir,
    kernels,
    latency,
    recipe,
    report,
    supernet,
    tflm,
    toolchain,
    verify,
    widths,
)
from redsc.config import CompileOptions
from redsc.importance import Ranking
from redsc.memory import ArenaPlan
from redsc.plan import Plan, unproven
from redsc.quantized import QuantizedLevel, QuantizedNetwork


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


def kernel_facts(network: QuantizedNetwork, plan: Plan) -> dict[str, Any]:
    """Which kernel runs each op, of how many channels its short ones are not proven, and which
    faster ones its shape would take."""
    counts = {
        name: sum(unproven(level.graph[name], level) for level in network.levels)
        for name, kernel in plan.kernels.items()
        if not kernel.startswith("portable::") and not kernel.endswith(kernels.ONE_PRODUCT)
    }
    return {
        "by_op": plan.kernels,
        "unproven_channels": {name: count for name, count in counts.items() if count},
        "fallbacks": [
            {"op": step.name, **asdict(fallback)}
            for step in plan.steps
            for fallback in step.fallbacks
        ],
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
    plan: Plan,
    target: latency.Target | None,
) -> list[dict[str, Any]]:
    """What is known of each level before anything runs: the report's first keys."""
    full_macs = cost.macs(full)
    chosen = plan.kernels

    def latency_ms(level: QuantizedLevel, arena: ArenaPlan) -> float | None:
        if target is None:
            return None
        calls = latency.calls(
            level.graph, network.graph, network.grouping, level.widths, arena.scratch_bytes, chosen
        )
        return latency.milliseconds(calls, target)

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
            "least_arena_bytes": arena.least_bytes,
            "estimated_latency_ms": latency_ms(level, arena),
        }
        for number, (level, arena) in enumerate(zip(network.levels, arenas, strict=True))
    ]


def training_facts(how: recipe.Training, found: widths.Found) -> dict[str, Any]:
    """How the levels were trained, and what trainings came before."""
    options, train = how.options, how.data.train
    probed = found.objective == "probes"
    compared = any(candidate.log_loss is not None for candidate in found.candidates)
    trained = options.epochs != 0
    names = (
        "epochs", "batch_size", "learning_rate", "distillation", "teacher", "mixing", "hints",
        "int8_from", "loss_weights", "class_weights", "all_levels", "seed",
    )  # fmt: skip
    used = {name: getattr(options, name) if trained else None for name in names}
    return used | {
        "epochs": options.epochs,
        "steps": recipe.steps(options, train),
        "random_width_steps": supernet.steps(options, train) if probed else 0,
        "comparing_steps": contest.steps(options, train) if compared and trained else 0,
    }


def model_facts(
    options: CompileOptions,
    model: importer.LoadedModel,
    original: ir.Graph,
    simplified: constant_units.Simplified,
    faithful: float,
) -> dict[str, Any]:
    return {
        "path": str(options.model),
        "sha256": model.sha256,
        "format": model.format,
        "parameters": model.parameters,
        "macs": cost.macs(original),
        "units": simplified.units,
        "constant_units": simplified.dropped,
        "simplified_macs": cost.macs(simplified.graph),
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


def importance_csv(ranking: Mapping[str, Ranking], levels: Sequence[Mapping[str, Any]]) -> str:
    """One row per group that may change width and unit, most important first.

    narrowest_level: the first of the report's `levels` that keeps the unit; empty if none does.
    """
    header = ("group", "rank", "unit", "score", "narrowest_level")
    table: list[tuple[Any, ...]] = []
    for group, units in ranking.items():
        for rank, (unit, score) in enumerate(zip(units.units, units.scores, strict=True)):
            keeping = (level["level"] for level in levels if rank < level["widths"][group])
            table.append((group, rank, unit, f"{score:.6g}", next(keeping, None)))
    return report.csv_text(header, table)
