"""The command line. Results go to stdout, logs and progress to stderr.

Exit codes: 0 ok, 1 internal, 2 usage, configuration or data, 3 unreadable or unsupported model,
4 infeasible budget, 5 toolchain, 6 another worker is gone, 7 verification, 130 interrupted.

Only click is imported at the top: `redsc --help` must not wait for TensorFlow.
"""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

import redsc
from redsc.errors import RedscError, UsageError
from redsc.progress import Progress

INTERNAL_ERROR, USAGE_ERROR, INTERRUPTED = 1, 2, 130
log = logging.getLogger("redsc")
F = TypeVar("F", bound=Callable[..., Any])


def main() -> None:
    """Entry point: runs a command and turns every error into a message and an exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without … shall not end a compile
    try:
        status = cli.main(prog_name="redsc", standalone_mode=False)
    except (RedscError, click.ClickException, click.Abort, KeyboardInterrupt, Exception) as error:
        if log.isEnabledFor(logging.DEBUG):
            log.debug("traceback:", exc_info=error)
        status = _explain(error)
    sys.exit(status if isinstance(status, int) else 0)


def _explain(error: BaseException) -> int:
    """Print one message for an error; its exit code."""
    match error:
        case RedscError():
            click.echo(f"redsc: error: {error}", err=True)
            return error.exit_code
        case click.ClickException():
            error.show(file=sys.stderr)
            return USAGE_ERROR
        case KeyboardInterrupt() | click.Abort(__cause__=None | KeyboardInterrupt()):
            click.echo("redsc: interrupted; the previous output is untouched", err=True)
            return INTERRUPTED
        case OSError(filename=str(name)) | OSError(strerror=str(name)):
            click.echo(f"redsc: error: {name}: {error.strerror or error}", err=True)
            return USAGE_ERROR
    click.echo(
        f"redsc: internal error: {type(error).__name__}: {error}\n"
        "This is a defect of redsc. Run again with -vv for the traceback and report it.",
        err=True,
    )
    return INTERNAL_ERROR


def _verbosity(command: F) -> F:
    """The options -q and -v that every command takes."""

    def configure(context: click.Context, _: click.Parameter, value: int | bool) -> None:
        levels = {0: logging.WARNING, 1: logging.INFO}
        if isinstance(value, bool):
            if value:
                log.setLevel(logging.ERROR)
        elif value:
            log.setLevel(levels.get(value, logging.DEBUG))

    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("redsc: %(levelname)s: %(message)s"))
    log.handlers = [handler]
    log.propagate = False
    command = click.option(
        "-v", "verbose", count=True, expose_value=False, callback=configure,
        help="Say more; -vv shows tracebacks.",
    )(command)  # fmt: skip
    return click.option(
        "-q", "quiet", is_flag=True, expose_value=False, callback=configure,
        help="Only errors and results.",
    )(command)  # fmt: skip


JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
MODEL = click.argument("model", type=click.Path(path_type=Path))


def _mend(context: click.Context, parameter: click.Parameter, directory: Path) -> Path:
    """An interrupted compile may have left the directory's content beside it."""
    from redsc import output

    output.recover(directory)
    return directory


DIRECTORY = click.argument("directory", type=click.Path(path_type=Path), callback=_mend)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(redsc.__version__, prog_name="redsc")
def cli() -> None:
    """Compile a Keras network into one int8 firmware that switches its width at run time."""


@cli.command()
@MODEL
@JSON
@_verbosity
def analyze(model: Path, as_json: bool) -> None:
    """Say whether MODEL is supported, op by op, and what it costs. Writes nothing."""
    from redsc import analyze

    analysis = analyze.analyze(model)
    if as_json:
        _print_json(analysis)
    else:
        analyze.print_tables(analysis)


@cli.command()
@MODEL
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where the project goes.  [default: build]",
)
@click.option(
    "--data",
    metavar="FILE.npz|FOLDER|module:function|NAME:PATH",
    help="Training data: x_train,y_train[,x_val,y_val][,x_test,y_test] or x,y; a folder of class "
    "folders; a function; or NAME speech-commands, fashion-mnist, cifar-10, visual-wake-words and "
    "the folder of its files.",
)
@click.option("--levels", metavar="P,P,…", help="Budgets in percent.  [default: 25,50,75,100]")
@click.option(
    "--budget",
    metavar="B,B,…",
    help="What the percentages are of: macs, ram, flash, latency.  [default: macs]",
)
@click.option("--input-range", metavar="LO,HI", help="Range of the network's raw inputs.")
@click.option("--max-macs", type=int, metavar="N", help="Limit of every level's MACs.")
@click.option(
    "--max-latency-ms", type=float, metavar="X", help="Limit of every level's estimated latency."
)
@click.option("--max-ram-bytes", type=int, metavar="N", help="Limit of every level's arena.")
@click.option("--max-flash-bytes", type=int, metavar="N", help="Limit of weights and tables.")
@click.option("--channel-step", type=int, metavar="N", help="Widths are multiples of N.")
@click.option("--min-width", type=int, metavar="N", help="No group gets narrower than N.")
@click.option(
    "--epochs", type=int, metavar="N", help="Fine-tuning epochs; 0 only re-estimates batch-norm."
)
@click.option(
    "--batch-size", type=int, metavar="N", help="Samples per training step.  [default: 32]"
)
@click.option(
    "--learning-rate",
    type=float,
    metavar="R",
    help="Largest rate of training.  [default: 0.004; with few data 0.0005]",
)
@click.option(
    "--distillation",
    type=float,
    metavar="S",
    help="Share of a level's loss that comes from its teacher.  [default: 0.5; with few data the "
    "original's accuracy on them, if that is more]",
)
@click.option(
    "--teacher",
    metavar="full|original",
    help="Whose outputs the narrow levels learn from.  [default: full; with few data original]",
)
@click.option(
    "--mixing/--no-mixing",
    default=None,
    help="Train on samples mixed in pairs.  [default: for a classifier whose validation loss is "
    "0.3 above its training loss]",
)
@click.option(
    "--hints",
    type=float,
    metavar="W",
    help="Weight of reconstructing the teacher's last hidden units.  [default: 0; with few data 5, "
    "from an original that is right for most]",
)
@click.option(
    "--int8-from",
    type=float,
    metavar="S",
    help="Share of training after which int8 is simulated, if it pays; 1 never.  [default: 0.6]",
)
@click.option("--all-levels", is_flag=True, default=None, help="Train every level in every step.")
@click.option(
    "--loss-weights", metavar="W,W,…", help="Of the levels, narrowest first.  [default: equal]"
)
@click.option(
    "--class-weights", metavar="balanced|W,W,…", help="What errors on class 0, 1, … weigh."
)
@click.option(
    "--tables",
    metavar="per-level|multipliers|everything",
    help="What of the requantisation tables levels share.  [default: as --max-flash-bytes needs]",
)
@click.option(
    "--objective",
    metavar="harmonic|importance|uniform|probes",
    help="What chooses widths.  [default: harmonic]",
)
@click.option(
    "--order",
    metavar="bottom-up|top-down|joint",
    help="Which level chooses widths first.  [default: bottom-up; with limits of memory top-down]",
)
@click.option(
    "--strategy",
    metavar="one-device|mirrored|multi-worker",
    help="Devices that train together.  [default: one-device]",
)
@click.option(
    "--importance",
    metavar="taylor|first-order|fisher|magnitude|random",
    help="What ranks units.  [default: taylor with data, else magnitude]",
)
@click.option("--seed", type=int, metavar="N", help="Seed of every random choice.  [default: 0]")
@click.option(
    "--runtime",
    metavar="tflm|standalone",
    help="What runs the network on the board.  [default: tflm on a board, else standalone]",
)
@click.option(
    "--name",
    metavar="NAME",
    help="Namespace and header of the network in C++; two networks in one firmware need two.  "
    "[default: model]",
)
@click.option(
    "--target",
    metavar="NAME|FILE.json",
    help="Board or core, of those that `redsc targets` lists, or your own.  [default: nano33ble]",
)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="redsc.toml",
    help="Read options from a file; the command line wins.",
)
@click.option("--no-verify", is_flag=True, help="Skip the bit-exact ladder.")
@click.option("--strict", is_flag=True, help="Any warning is an error.")
@JSON
@_verbosity
def compile(
    config: Path | None, no_verify: bool, strict: bool, as_json: bool, **given: Any
) -> None:
    """Compile MODEL (.h5, .keras or a SavedModel directory) into a firmware project."""
    from redsc import config as configuration
    from redsc import pipeline, report

    for name, parse in configuration.PARSERS.items():
        if given[name] is not None:
            given[name] = parse(given[name])
    given["verify"] = False if no_verify else None
    given["strict"] = strict or None
    options = configuration.merge(configuration.read(config) if config else {}, given)
    try:
        with Progress() as progress:
            result = pipeline.compile_model(options, progress)
    except KeyboardInterrupt:
        if options.data is not None:
            click.echo("redsc: the same command takes the training up where it was", err=True)
        raise
    if result is None:
        click.echo("redsc: this worker is done; the chief writes the project", err=True)
        return
    if as_json:
        for warning in result["warnings"]:
            log.warning(warning)
        _print_json(result)
    else:
        report.print_tables(result)
        click.echo(f"wrote {options.output}")


@cli.command()
@DIRECTORY
@JSON
@_verbosity
def verify(directory: Path, as_json: bool) -> None:
    """Run the bit-exact ladder again on an existing build."""
    from redsc import verify

    with Progress() as progress:
        verdicts = verify.verify_build(directory, progress)
    if as_json:
        _print_json(verdicts)
    else:
        verify.print_verdicts(verdicts)


@cli.command()
@DIRECTORY
@click.option("--emulator", is_flag=True, help="Count instructions on the emulated core.")
@click.option(
    "--port",
    metavar="P|auto",
    help="Measure on the board at this serial port, and compare its outputs.",
)
@click.option("--host", is_flag=True, help="Time LiteRT with XNNPACK on this computer.")
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    metavar="N",
    help="Threads of --host.  [default: 1]",
)
@click.option(
    "--samples",
    type=click.IntRange(min=0),
    metavar="N",
    help="Inputs that --port sends to the board.  [default: 2]",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="S",
    help="Seconds that --port waits for a silent board.  [default: 5, more for large networks]",
)
@JSON
@_verbosity
def bench(
    directory: Path,
    emulator: bool,
    port: str | None,
    host: bool,
    threads: int | None,
    samples: int | None,
    timeout: float | None,
    as_json: bool,
) -> None:
    """Measure every level and print the table.

    --port also writes DIR/bench/: JSON, CSV and plots.
    """
    from redsc import bench, bench_files, board_bench, host_bench

    if sum((emulator, port is not None, host)) != 1:
        raise UsageError("bench: say where to measure: --emulator, --port P or --host")
    if threads is not None and not host:
        raise UsageError("bench: --threads goes with --host")
    if port is None and (samples is not None or timeout is not None):
        raise UsageError("bench: --samples and --timeout go with --port")
    with Progress() as progress:
        if port is not None:
            count = board_bench.SAMPLES if samples is None else samples
            result = board_bench.on_board(directory, port, progress, count, timeout)
        elif host:
            result = host_bench.on_host(directory, progress, threads or 1)
        else:
            result = bench.on_emulator(directory, progress)
    if as_json:
        _print_json(result)
    elif port is not None:
        bench_files.print_tables(result)
    elif host:
        host_bench.print_table(result)
    else:
        bench.print_table(result)
    if port is not None:  # after printing: a full disk does not take the figures along
        folder = bench_files.save(directory, result)
        if not as_json:
            click.echo(f"wrote {folder}")


@cli.command()
@DIRECTORY
@click.option("--port", metavar="P", help="The board's serial port, when there are several.")
@click.option("--no-upload", is_flag=True, help="Only build and measure.")
@JSON
@_verbosity
def flash(directory: Path, port: str | None, no_upload: bool, as_json: bool) -> None:
    """Build for an Arduino Nano 33 BLE, show how full it gets, and flash it.

    Runs DIRECTORY/tools/flash.py. The first build downloads the Arduino core.
    """
    from redsc import upload

    options = [] if port is None else ["--port", port]
    options += ["--no-upload"] if no_upload else []
    options += ["--json"] if as_json else []
    options += ["-v"] if log.isEnabledFor(logging.INFO) else []
    options += ["-q"] if not log.isEnabledFor(logging.WARNING) else []
    sys.exit(upload.run(directory, options))


@cli.command()
@DIRECTORY
@click.option("--classes", is_flag=True, help="Print accuracy per class, calibration, agreement.")
@JSON
@_verbosity
def report(directory: Path, classes: bool, as_json: bool) -> None:
    """Print the report of an existing build again."""
    from redsc import report

    result = report.read(directory)
    if as_json:
        _print_json(result)
    elif classes:
        report.print_classes(directory, result)
    else:
        report.print_tables(result)


@cli.command()
@JSON
def targets(as_json: bool) -> None:
    """List the boards and cores that `compile --target` knows."""
    from redsc import boards

    if as_json:
        _print_json(boards.listing())
    else:
        boards.print_listing()


@cli.command()
@JSON
@_verbosity
def doctor(as_json: bool) -> None:
    """Say what is installed, what is missing, and the line that fixes it."""
    from redsc import doctor

    findings = doctor.diagnose()
    if as_json:
        _print_json([vars(finding) for finding in findings])
    else:
        doctor.print_findings(findings)
    if any(finding.missing for finding in findings):
        sys.exit(5)


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))
