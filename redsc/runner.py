"""Runs a built verification program on the host or in QEMU and reads back every byte.

The program (firmware/reds, reds/verify.h) takes one request of int8 samples, runs every level on
each, and gives back outputs and, when asked, every intermediate tensor.
"""

from __future__ import annotations

import logging
import struct
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from redsc import cycles, serial_records, toolchain
from redsc.errors import ToolchainError
from redsc.machines import CORTEX_M4, Machine
from redsc.plan_structs import Plan
from redsc.serial_records import Record
from redsc.tflite import Interface

log = logging.getLogger("redsc")

_MAGIC = 0x53444552
_TRACE, _PROFILE = 1, 2
_REQUEST, _RESPONSE, _MARKS = "request.bin", "reds_outputs.bin", "marks.txt"
HOST_TIMEOUT_SECONDS = 120.0
EMULATOR_TIMEOUT_SECONDS = 600.0


@dataclass(frozen=True, eq=False)
class LevelRun:
    """One level's results. Tensors are int8 (samples, elements), flattened.

    tensors: every op's output by op name, empty unless traced. instructions of one inference and
    of one switch, and step_instructions by op name (when profiled), are None on the host. So are
    cycles, which are estimates, unless they were asked for.
    """

    outputs: np.ndarray
    tensors: Mapping[str, np.ndarray]
    instructions: int | None
    switch_instructions: int | None
    step_instructions: Mapping[str, int]
    cycles: int | None = None
    switch_cycles: int | None = None
    step_cycles: Mapping[str, int] = field(default_factory=dict)


def run_host(
    program: Path,
    plan: Interface | Plan,
    inputs: np.ndarray,
    *,
    trace: bool = False,
    timeout_seconds: float = HOST_TIMEOUT_SECONDS,
) -> tuple[LevelRun, ...]:
    """Every level's results for int8 `inputs` (samples, *input shape) on this computer.

    Raises ToolchainError when the program fails, is too slow or answers nonsense.
    """
    request = _request(plan, inputs, _TRACE if trace else 0)
    command = [str(program.absolute()), _REQUEST, _RESPONSE]
    return _run(command, request, timeout_seconds, plan, len(inputs), trace, counted=False)


def run_emulator(
    program: Path,
    plan: Interface | Plan,
    inputs: np.ndarray,
    *,
    trace: bool = False,
    profile: bool = False,
    estimate_cycles: bool = False,
    machine: Machine = CORTEX_M4,
    timeout_seconds: float = EMULATOR_TIMEOUT_SECONDS,
) -> tuple[LevelRun, ...]:
    """Every level's results for int8 `inputs` on a machine of QEMU's, with instruction counts.

    Raises ToolchainError as run_host does, and when QEMU is not installed; with estimate_cycles
    also when QEMU's plugin cannot be made or taken, or the machine is no Cortex-M4.
    """
    toolchain.require(machine.qemu[0])
    request = _request(plan, inputs, (_TRACE if trace else 0) | (_PROFILE if profile else 0))
    if len(request) > machine.requests.size_bytes:
        raise ToolchainError(
            f"{len(inputs)} samples need {len(request)} bytes, the emulated board takes "
            f"{machine.requests.size_bytes}; run fewer at once"
        )
    loader = f"loader,file={_REQUEST},addr={machine.requests.origin:#x},force-raw=on"
    command = [*machine.qemu, "-kernel", str(program.absolute()), "-device", loader]
    if estimate_cycles:
        if machine != CORTEX_M4:
            raise ToolchainError(f"cycles of a {machine.core} are not known")
        command += cycles.arguments(program, Path(_MARKS))
    return _run(command, request, timeout_seconds, plan, len(inputs), trace, counted=True)


def profile_emulator(
    program: Path, plan: Interface | Plan, inputs: np.ndarray, machine: Machine = CORTEX_M4
) -> tuple[LevelRun, ...]:
    """As run_emulator, with every step's counts, and estimated cycles; without these, and with a
    log line, where QEMU cannot count them."""
    try:
        return run_emulator(
            program, plan, inputs, profile=True, estimate_cycles=True, machine=machine
        )
    except ToolchainError as error:
        runs = run_emulator(program, plan, inputs, profile=True, machine=machine)
        log.warning("cycles are not estimated: %s", error)
        return runs


def _request(plan: Interface | Plan, inputs: np.ndarray, flags: int) -> bytes:
    assert inputs.dtype == np.int8, inputs.dtype
    samples = inputs.reshape(len(inputs), -1)
    assert samples.shape[1] == plan.input_bytes, (samples.shape, plan.input_bytes)
    return struct.pack("<4I", _MAGIC, flags, *samples.shape) + samples.tobytes()


def _run(
    command: Sequence[str],
    request: bytes,
    timeout_seconds: float,
    plan: Interface | Plan,
    samples: int,
    trace: bool,
    counted: bool,
) -> tuple[LevelRun, ...]:
    """Runs a program that must succeed, in a folder of its own beside the request's file."""
    with tempfile.TemporaryDirectory(prefix="redsc_run_") as name:
        folder = Path(name)
        (folder / _REQUEST).write_bytes(request)
        finished = toolchain.run(command, folder, timeout_seconds)
        if finished.returncode != 0:
            said = (finished.stdout[-1000:] + finished.stderr[-3000:]).strip()
            program = Path(command[0]).name
            raise ToolchainError(f"{program} ended with status {finished.returncode}: {said}")
        try:
            runs = _read(finished.stdout, folder / _RESPONSE, plan, samples, trace, counted)
        except serial_records.DamagedError as error:
            raise ToolchainError(
                f"the verification program's answer is not whole: {error}"
            ) from None
        marks = folder / _MARKS
        return _with_cycles(runs, cycles.read(marks), plan) if marks.exists() else runs


def _with_cycles(
    runs: Sequence[LevelRun], counts: Sequence[cycles.Count], plan: Interface | Plan
) -> tuple[LevelRun, ...]:
    """Of every level come the switch, then of each sample every step, if any, and the whole."""
    result, own = [], len(counts) // len(runs)
    for number, run in enumerate(runs):
        switch, *rest = counts[number * own : (number + 1) * own]
        names = [step.name for step in plan.steps] if run.step_instructions else []
        steps = dict(zip(names, (count.cycles for count in rest), strict=False))
        whole = rest[len(plan.steps) if len(rest) > len(run.outputs) else 0]
        result.append(
            replace(run, cycles=whole.cycles, switch_cycles=switch.cycles, step_cycles=steps)
        )
    return tuple(result)


def _read(
    text: str, answer: Path, plan: Interface | Plan, samples: int, trace: bool, counted: bool
) -> tuple[LevelRun, ...]:
    """Serial lines and response file of a run that ended well."""
    lines = [serial_records.parse(line.encode()) for line in text.splitlines()]
    records = serial_records.join([record for record in lines if record is not None])
    if not serial_records.of_kind(records, "done"):
        raise ToolchainError(f"the verification program stopped early: {text[-500:]!r}")
    response = answer.read_bytes()
    runs, start = [], 0
    for level in range(plan.level_count):
        sizes = [step.output_bytes[level] for step in plan.steps] if trace else []
        sizes.append(plan.output_bytes)
        end = start + samples * sum(sizes)
        if end > len(response):
            raise ToolchainError(f"the response has {len(response)} bytes, expected {end} or more")
        rows = np.frombuffer(response[start:end], np.int8).reshape(samples, sum(sizes))
        *tensors, outputs = np.split(rows, np.cumsum(sizes)[:-1], axis=1)
        runs.append(_level_run(records, level, plan, outputs, tensors, counted))
        start = end
    return tuple(runs)


def _level_run(
    records: Sequence[Record],
    level: int,
    plan: Interface | Plan,
    outputs: np.ndarray,
    tensors: list[np.ndarray],
    counted: bool,
) -> LevelRun:
    own = [record for record in records if record.fields.get("level") == str(level)]
    total = next(iter(serial_records.of_kind(own, "level")), None)
    if total is None or total.crc("crc32") != zlib.crc32(outputs.tobytes()):
        raise ToolchainError(f"checksum of a level's outputs does not match: {total}")
    names = [step.name for step in plan.steps]
    steps = {
        names[step.number("step")]: step.number("instructions")
        for step in serial_records.of_kind(own, "step")
    }
    return LevelRun(
        outputs=outputs,
        tensors=dict(zip(names, tensors, strict=True)) if tensors else {},
        instructions=total.number("instructions") if counted else None,
        switch_instructions=total.number("switch_instructions") if counted else None,
        step_instructions=steps,
    )
