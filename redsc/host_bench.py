"""Times every level of a build on this computer, in LiteRT with its XNNPACK kernels.

What a phone or a Linux board gains from a narrower level. XNNPACK rounds differently from TFLite's
reference kernels, so nothing here takes part in the proof.
"""

from __future__ import annotations

import platform
import statistics
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from redsc import quiet, report, tf_network, tflite, verify
from redsc.errors import ToolchainError
from redsc.progress import Progress

WARM_UP_SECONDS, WARM_UP_INFERENCES = 0.2, 5
MEASURED_SECONDS, LEAST_INFERENCES, MOST_INFERENCES = 2.0, 10, 5000


def on_host(directory: Path, progress: Progress, threads: int = 1) -> dict[str, Any]:
    """JSON-ready times of one inference per level, µs; nothing in the directory changes."""
    result = report.read(directory)
    tflites = verify.read_levels(directory)
    report.check_levels(directory, result, len(tflites))
    sample = verify.read_inputs(directory, tflite.interface(tflites))[:1]
    progress.stage("measure on this computer")
    levels = []
    for number, (level, data) in enumerate(zip(result["levels"], tflites, strict=True)):
        progress.step(number, len(tflites), f"level {number}")
        interpreter = _interpreter(data, threads)
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], sample)
        times_us = _times_us(interpreter)
        levels.append({
            "level": number,
            "budget_percent": level["budget_percent"],
            "macs": level["macs"],
            "macs_percent": level["macs_percent"],
            "accuracy_int8": level["accuracy_int8"],
            "n": len(times_us),
            "min_us": round(min(times_us), 2),
            "median_us": round(statistics.median(times_us), 2),
            "max_us": round(max(times_us), 2),
            "xnnpack": _is_delegated(interpreter),
        })  # fmt: skip
    full_us = levels[-1]["median_us"]
    for measured in levels:
        measured["speed_up"] = round(full_us / measured["median_us"], 3)
    return {
        "model": result["model"]["path"],
        "processor": _processor(),
        "runtime": _litert()[1],
        "threads": threads,
        "levels": levels,
    }


def _litert() -> tuple[Any, str]:
    """The interpreter's class and its name with version."""
    try:  # not a requirement of redsc, so mypy does not see it either
        from ai_edge_litert import __version__ as version  # type: ignore[import-not-found]
        from ai_edge_litert.interpreter import Interpreter  # type: ignore[import-not-found]
    except ImportError:
        tf = tf_network.tensorflow()
        return tf.lite.Interpreter, f"LiteRT of TensorFlow {tf.__version__}"
    return Interpreter, f"LiteRT {version}"


def _interpreter(data: bytes, threads: int) -> Any:
    kind, _ = _litert()
    try:
        # it says that it is deprecated and which delegate it takes, whatever the log level
        with warnings.catch_warnings(), quiet.silenced(quiet.STDERR):
            warnings.simplefilter("ignore")
            interpreter = kind(model_content=data, num_threads=threads)
            interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise ToolchainError(f"LiteRT refuses a level's .tflite: {error}") from error
    return interpreter


def _is_delegated(interpreter: Any) -> bool:
    """Whether XNNPACK, the only delegate there is by default, took any op."""
    ops = interpreter._get_ops_details()
    return any(op["op_name"] == "DELEGATE" for op in ops)


def _times_us(interpreter: Any) -> list[float]:
    """At least LEAST_INFERENCES, about MEASURED_SECONDS long, after some that do not count."""
    _invoke(interpreter, WARM_UP_SECONDS, WARM_UP_INFERENCES, MOST_INFERENCES)
    return _invoke(interpreter, MEASURED_SECONDS, LEAST_INFERENCES, MOST_INFERENCES)


def _invoke(interpreter: Any, seconds: float, least: int, most: int) -> list[float]:
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < least or (len(times) < most and time.perf_counter() < end):
        start = time.perf_counter_ns()
        interpreter.invoke()
        times.append((time.perf_counter_ns() - start) / 1e3)
    return times


def _processor() -> str:
    """As Linux names it, else the architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def print_table(result: Mapping[str, Any]) -> None:
    """For a person, to stdout."""
    levels = result["levels"]
    console = report.console_for(len(levels))
    title = f"{Path(result['model']).name} on {result['processor']}"
    table = report.level_table(title, levels)
    table.add_row("median, µs", *(f"{level['median_us']:,.1f}" for level in levels))
    table.add_row("min, µs", *(f"{level['min_us']:,.1f}" for level in levels))
    table.add_row("max, µs", *(f"{level['max_us']:,.1f}" for level in levels))
    table.add_row("inferences", *(f"{level['n']:,}" for level in levels))
    table.add_row("speed-up over the widest", *(f"{level['speed_up']:.2f}" for level in levels))
    table.add_row("MACs", *(f"{level['macs']:,}" for level in levels))
    table.add_row("MACs of full", *(f"{level['macs_percent']:.1f} %" for level in levels))
    if all(level["accuracy_int8"] is not None for level in levels):
        table.add_row(
            "accuracy, int8", *(f"{100 * level['accuracy_int8']:.2f} %" for level in levels)
        )
    console.print(table)
    threads = f"{result['threads']} thread{'s' if result['threads'] > 1 else ''}"
    kernels = "XNNPACK's kernels, which are not bit-exact: times only, no proof"
    if not all(level["xnnpack"] for level in levels):
        kernels = "its own kernels, as XNNPACK took no op"
    console.print(f"{result['runtime']}, {threads}; {kernels}", soft_wrap=True)
