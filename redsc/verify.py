"""The bit-exact ladder: one level, three implementations, every byte equal.

    level_K.tflite in the TFLite Micro interpreter = host kernels = emulated core

Every intermediate tensor is compared, so a difference is named by level and first differing
layer. A rung whose tool is not installed is null, with a warning; a difference is an error.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from redsc import boards, oracle, output, runner, tflite, toolchain
from redsc.errors import UsageError, VerificationError
from redsc.progress import Progress

HOST_INPUTS = 50
EMULATOR_INPUTS = 8

TFLM, HOST, EMULATOR, EMULATOR_TFLM = "tflm", "host", "emulator", "emulator_tflm"
RUNG_NAMES = {
    TFLM: "the TFLite Micro interpreter",
    HOST: "the host's kernels",
    EMULATOR: "the emulated core",
    EMULATOR_TFLM: "the emulated core under TFLite Micro",
}
EMULATOR_TOOLS = ("arm-none-eabi-g++", "qemu-system-arm")

Tensors = Mapping[str, np.ndarray]
"""One level's tensors by name, in the order they are computed: int8 (samples, elements)."""


@dataclass(frozen=True)
class Verdict:
    """One level. True: every byte equal; None: not run, or nothing to compare with."""

    tflm: bool | None = None
    host: bool | None = None
    emulator: bool | None = None
    emulator_tflm: bool | None = None
    instructions: int | None = None
    switch_instructions: int | None = None


@dataclass(frozen=True, eq=False)
class Ladder:
    """What `climb` found. host_program runs further inputs while its workspace exists.

    outputs: int8 (levels, samples, output_bytes), None when neither host nor interpreter ran.
    """

    verdicts: tuple[Verdict, ...]
    warnings: tuple[str, ...] = ()
    host_program: Path | None = None
    outputs: np.ndarray | None = None


def climb(
    project: Path,
    workspace: Path,
    tflites: Sequence[bytes],
    inputs: np.ndarray,
    progress: Progress,
    *,
    with_tflm: bool = False,
) -> Ladder:
    """Build an emitted project and compare every level on int8 `inputs` (samples, *shape).

    `with_tflm` adds the emulator under TFLite Micro, which takes minutes to build once. Objects
    and programs go to `workspace`. Raises VerificationError at the first difference,
    ToolchainError when an installed tool fails.
    """
    interface = tflite.interface(tflites)
    rungs: dict[str, list[Tensors]] = {}
    counts: Sequence[runner.LevelRun | None] = [None] * len(tflites)
    warnings = []
    host_program = None

    progress.stage("verify on the host")
    if toolchain.find("g++"):
        host_program = toolchain.build(project, "verify_native", workspace).program
        runs = runner.run_host(host_program, interface, inputs, trace=True)
        rungs[HOST] = [run.tensors for run in runs]
    else:
        warnings.append("g++ is not installed: the host's kernels were not verified")

    progress.stage("verify in the interpreter")
    if oracle.available():
        rungs[TFLM] = [
            interpret(level, data, inputs, interface) for level, data in enumerate(tflites)
        ]
        compare(rungs, TFLM, HOST)
    else:
        warnings.append(
            "tflite-micro is not installed: no level was compared with its interpreter; "
            "install redsc[verify]"
        )

    progress.stage("verify on the emulator")
    missing = [tool for tool in EMULATOR_TOOLS if not toolchain.find(tool)]
    if missing:
        warnings.append(f"{' and '.join(missing)} not installed: the emulator was not run")
    else:
        machine, few = boards.emulated(project).machine, inputs[:EMULATOR_INPUTS]
        program = toolchain.build(project, "verify_emulator", workspace).program
        counts = runner.run_emulator(program, interface, few, trace=True, machine=machine)
        rungs[EMULATOR] = [run.tensors for run in counts if run is not None]
        compare(rungs, HOST if HOST in rungs else TFLM, EMULATOR)
        if with_tflm:
            progress.stage("verify on the emulator under TFLite Micro")
            program = toolchain.build(project, "verify_emulator_tflm", workspace).program
            runs = runner.run_emulator(program, interface, few, trace=True, machine=machine)
            rungs[EMULATOR_TFLM] = [run.tensors for run in runs]
            compare(rungs, EMULATOR, EMULATOR_TFLM)
    verdict = {name: True if name in rungs and len(rungs) > 1 else None for name in RUNG_NAMES}
    return Ladder(
        tuple(
            Verdict(
                **verdict,
                instructions=None if count is None else count.instructions,
                switch_instructions=None if count is None else count.switch_instructions,
            )
            for count in counts
        ),
        tuple(warnings),
        host_program,
        _outputs(rungs.get(HOST) or rungs.get(TFLM)),
    )


def _outputs(levels: Sequence[Tensors] | None) -> np.ndarray | None:
    """The last step's tensor is the network's output: every op leads to it."""
    if levels is None:
        return None
    return np.stack([list(tensors.values())[-1] for tensors in levels])


def compare(rungs: Mapping[str, Sequence[Tensors]], first: str, second: str) -> None:
    """Raises VerificationError at the first tensor in which two rungs differ.

    A rung that was not run compares equal; the one with fewer samples decides how many count.
    """
    if first not in rungs or second not in rungs:
        return
    for level, (left, right) in enumerate(zip(rungs[first], rungs[second], strict=True)):
        for name, expected in left.items():
            actual = right[name]
            samples = min(len(expected), len(actual))
            different = np.argwhere(expected[:samples] != actual[:samples])
            if len(different):
                sample, element = different[0]
                raise VerificationError(
                    f"level {level}, layer {name!r}: {RUNG_NAMES[second]} and {RUNG_NAMES[first]} "
                    f"differ in {len(different)} of {samples * expected.shape[1]} bytes, first in "
                    f"sample {sample}, element {element}: {actual[sample, element]} instead of "
                    f"{expected[sample, element]}"
                )


def interpret(level: int, data: bytes, inputs: np.ndarray, interface: tflite.Interface) -> Tensors:
    """Every op's output of one level, by TFLite Micro's interpreter."""
    indices = tflite.tensor_indices(data)
    names = [step.name for step in interface.steps]
    try:
        _, tensors = oracle.run(data, inputs, [indices[name] for name in names])
    except RuntimeError as error:
        raise VerificationError(
            f"level {level}: {RUNG_NAMES[TFLM]} refuses its .tflite: {error} (details above); "
            "this is a defect of redsc, please report it"
        ) from error
    return {
        name: values.reshape(len(inputs), -1) for name, values in zip(names, tensors, strict=True)
    }


def verify_build(directory: Path, progress: Progress) -> dict[str, Any]:
    """Climb the ladder again for an existing build: the same inputs `compile` used.

    Where PLATFORMIO_LIB_EXTRA_DIRS offers a TFLite Micro library, and the build is for one, the
    emulator runs under it too. Returns verdicts as JSON-ready data. Nothing in the directory
    changes.
    """
    tflites = read_levels(directory)
    inputs = read_inputs(directory, tflite.interface(tflites))
    with tempfile.TemporaryDirectory(prefix="redsc_verify_") as workspace:
        with_tflm = toolchain.offers_tflm() and _is_for_tflm(directory)
        ladder = climb(directory, Path(workspace), tflites, inputs, progress, with_tflm=with_tflm)
    return {
        "levels": [
            {"level": number, **asdict(verdict)} for number, verdict in enumerate(ladder.verdicts)
        ],
        "inputs": len(inputs),
        "warnings": list(ladder.warnings),
    }


def _is_for_tflm(directory: Path) -> bool:
    return any(name.endswith("_tflm.cc") for name in output.written_files(directory))


def read_levels(directory: Path) -> list[bytes]:
    """The .tflite files of a build, smallest level first.

    Raises VerificationError for changed ones before anything parses them: the interpreter does
    not survive every damaged file.
    """
    written = output.written_files(directory)
    count = sum(bool(re.fullmatch(r"levels/level_\d+\.tflite", name)) for name in written)
    names = [f"levels/level_{number}.tflite" for number in range(count)]
    if not names:
        raise UsageError(f"{directory}: is no build; give the directory redsc compile wrote")
    missing = [str(directory / name) for name in names if not (directory / name).is_file()]
    if missing:
        raise UsageError(f"{', '.join(missing)} missing; compile again")
    changed = [name for name in names if not output.has_content(directory / name, written[name])]
    if changed:
        raise VerificationError(
            f"{', '.join(str(directory / name) for name in changed)}: not what compile wrote, so "
            "damaged or edited; compile again"
        )
    return [(directory / name).read_bytes() for name in names]


def read_inputs(directory: Path, interface: tflite.Interface) -> np.ndarray:
    """int8 (samples, *shape): the inputs `compile` verified with."""
    path = directory / "verify" / "inputs.npy"
    try:
        inputs = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(f"{path}: cannot be read ({error}); compile again") from None
    fits = inputs.dtype == np.int8 and inputs.shape[1:] == interface.input_shape
    if not fits or not len(inputs):
        raise UsageError(
            f"{path}: holds {len(inputs)} samples of {inputs.dtype} {inputs.shape[1:]}, expected "
            f"one or more of int8 {interface.input_shape}; compile again"
        )
    return np.asarray(inputs)


def print_verdicts(verdicts: Mapping[str, Any]) -> None:
    """For a person, to stdout."""
    from rich.console import Console
    from rich.table import Table

    words = {True: "equal", False: "DIFFERENT", None: "–"}
    table = Table(title=f"{verdicts['inputs']} inputs, every tensor", title_justify="left")
    levels = verdicts["levels"]
    names = [n for n in RUNG_NAMES if n != EMULATOR_TFLM or levels[0][n] is not None]
    for column in ("level", *names):
        table.add_column(column)
    for level in levels:
        table.add_row(str(level["level"]), *(words[level[name]] for name in names))
    console = Console(highlight=False)
    console.print(table)
    for warning in verdicts["warnings"]:
        console.print("warning", warning, style="yellow", markup=False)
