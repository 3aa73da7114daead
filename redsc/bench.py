"""Measures an existing build on the emulated core: instructions and estimated cycles."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from redsc import boards, report, runner, tflite, toolchain, verify
from redsc.progress import Progress

NOT_ESTIMATED = "Cycles are not estimated here; instructions are exact."
"""What stands above a table without them: QEMU takes no plugin, or the core is another one."""


def on_emulator(directory: Path, progress: Progress) -> dict[str, Any]:
    """JSON-ready figures of one inference per level; nothing in the directory changes.

    Instructions are exact and repeatable, and depend on the input, the pattern that a board
    measures with too, only where a kernel does (Softmax). Cycles are estimates; None, and with a
    log line, where QEMU cannot count them. Raises ToolchainError when compiler or emulator is
    missing.
    """
    result = report.read(directory)
    toolchain.require(*verify.EMULATOR_TOOLS)
    emulated = boards.emulated(directory)
    machine = emulated.machine
    tflites = verify.read_levels(directory)
    report.check_levels(directory, result, len(tflites))
    interface = tflite.interface(tflites)
    inputs = verify.read_inputs(directory, interface)[:1]
    with tempfile.TemporaryDirectory(prefix="redsc_bench_") as workspace:
        progress.stage("build for the emulator")
        program = toolchain.build(directory, "verify_emulator", Path(workspace)).program
        firmware = toolchain.build(directory, "emulator", Path(workspace))
        progress.stage("run on the emulator")
        runs = runner.profile_emulator(program, interface, inputs, machine)
    return {
        "model": result["model"]["path"],
        "target": f"QEMU {machine.name}, {machine.core}",
        "flash_bytes": firmware.flash_bytes,
        "static_ram_bytes": firmware.ram_bytes,
        "limits": {"flash_bytes": emulated.flash_bytes, "ram_bytes": emulated.ram_bytes},
        "levels": [
            {
                "level": number,
                "macs": level["macs"],
                "arena_bytes": level["arena_bytes"],
                "instructions": run.instructions,
                "switch_instructions": run.switch_instructions,
                "ops": dict(run.step_instructions),
                "estimated_cycles": run.cycles,
                "predicted_cycles": _predicted_cycles(level, emulated.hz),
                "estimated_switch_cycles": run.switch_cycles,
                "estimated_op_cycles": dict(run.step_cycles),
            }
            for number, (level, run) in enumerate(zip(result["levels"], runs, strict=True))
        ],
    }


def _predicted_cycles(level: Mapping[str, Any], hz: int) -> int | None:
    """What `redsc compile` estimated; None where it did not."""
    predicted_ms = level.get("estimated_latency_ms")
    return None if predicted_ms is None else round(predicted_ms * hz / 1000)


def print_table(result: Mapping[str, Any]) -> None:
    """For a person, to stdout: totals, then every op."""
    levels = result["levels"]
    console = report.console_for(len(levels))
    table = report.level_table(f"{Path(result['model']).name} on {result['target']}", levels)
    rows = {
        "one inference, instructions": "instructions",
        "one inference, estimated cycles": "estimated_cycles",
        "cycles predicted by compile": "predicted_cycles",
        "one switch, instructions": "switch_instructions",
        "one switch, estimated cycles": "estimated_switch_cycles",
        "MACs": "macs",
        "RAM arena, B": "arena_bytes",
    }
    for name, key in rows.items():
        cells = ("–" if level[key] is None else f"{level[key]:,}" for level in levels)
        table.add_row(name, *cells)
    has_cycles = bool(levels[-1]["estimated_op_cycles"])
    key, unit = ("estimated_op_cycles", "cycles") if has_cycles else ("ops", "instructions")
    table.add_section()
    for op in levels[-1][key]:
        table.add_row(f"{op}, {unit}", *(f"{level[key][op]:,}" for level in levels))
    if not has_cycles:
        console.print(NOT_ESTIMATED)
    console.print(table)
    limits, mark = result["limits"], "measured, without the system's share"
    for name, used, total in (
        ("Flash", result["flash_bytes"], limits["flash_bytes"]),
        ("RAM", result["static_ram_bytes"], limits["ram_bytes"]),
    ):
        console.print(report.bar(name, used, total, mark), markup=False, soft_wrap=True)
