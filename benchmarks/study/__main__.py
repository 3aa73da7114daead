"""Trains redsc's levels, their rivals and ablations; many hours, resumable.

    python benchmarks/study run RECORDINGS [--fashion FOLDER] [--keywords FOLDER]
                                           [--processes N] [--only TEXT] [--minutes M]
    python benchmarks/study headroom [--fashion FOLDER]
    python benchmarks/study report
    python benchmarks/study paper NAME:PATH [--network NAME] [--steps N] [--epochs N]

RECORDINGS is the folder of the Free Spoken Digit Dataset's wav files. Fashion-MNIST's FOLDER is by
default where Debian's package dataset-fashion-mnist puts it. That of keywords, by default
benchmarks/study/work/keywords, holds MLPerf Tiny's published network, mlperf_tiny_kws.h5, and
datasets/kws01 of github.com/eembc/energyrunner. `run` does, one by one, the jobs that
benchmarks/study/results.jsonl does not hold yet, and may be stopped at any time. After a change of
how levels are trained, delete the lines it makes untrue.
`headroom` trains widths that were drawn at random, likewise; start it in as many processes as there
are cores.
`report` writes docs/results.md's tables and plots from that file alone. `paper` repeats a table of
the REDS paper on one of its own data sets, which PATH holds as for `redsc compile --data`.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import subprocess
import sys
import time
import traceback
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1]), str(HERE.parents[1] / "examples" / "speech")]
RESULTS = HERE / "results.jsonl"
HEADROOM = HERE / "headroom.jsonl"
FASHION = Path("/usr/share/datasets/fashion-mnist")
KEYWORDS = HERE / "work" / "keywords"


def run(arguments: argparse.Namespace) -> None:
    """This process's share of the jobs; further processes are started once."""
    others = [
        subprocess.Popen([*_command(arguments), "--processes", "1"])
        for _ in range(arguments.processes - 1)
    ]
    if len(others) or arguments.processes == 1:
        _work(arguments)
    for other in others:
        other.wait()


def _command(arguments: argparse.Namespace) -> list[str]:
    return [
        sys.executable, str(HERE), "run", str(arguments.recordings), "--only", arguments.only,
        "--minutes", str(arguments.minutes), "--folder", str(arguments.folder),
        "--fashion", str(arguments.fashion), "--keywords", str(arguments.keywords),
    ]  # fmt: skip


def _work(arguments: argparse.Namespace) -> None:
    _prepare_tensorflow()

    import jobs
    import work

    fashion, keywords = _if_there(arguments.fashion), _if_there(arguments.keywords)
    workshop = work.Workshop(arguments.recordings, fashion, keywords, arguments.folder)
    ends = time.monotonic() + 60 * arguments.minutes
    while time.monotonic() < ends:
        done = work.read_results(RESULTS)
        absent = {
            *(() if fashion else (jobs.FASHION, jobs.SHORT)),
            *(() if keywords else (jobs.KEYWORDS,)),
        }
        possible = [j for j in jobs.all_jobs() if j.split not in absent]
        wanted = [j for j in possible if arguments.only in j.key and _ready(j, done)]
        job = _claim(arguments.folder, wanted)
        if job is None:
            return
        print(f"{time.strftime('%H:%M:%S')} {job.key}", flush=True)
        try:
            result = work.run(workshop, job, done)
        except Exception:  # the next job may do; this one stays claimed, so is not tried again now
            traceback.print_exc()
            continue
        _keep(RESULTS, result)
        _lock_file(arguments.folder, job).unlink()


def _if_there(folder: Path) -> Path | None:
    if folder.is_dir():
        return folder
    print(f"{folder} is not there: its jobs are left out", file=sys.stderr)
    return None


def _prepare_tensorflow() -> None:
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # trains 1.5 to 1.8 times as fast

    from redsc.tf_network import tensorflow

    threading = tensorflow().config.threading
    threading.set_intra_op_parallelism_threads(1)  # a process per core is quicker than threads
    threading.set_inter_op_parallelism_threads(1)


def _keep(path: Path, result: dict) -> None:
    with path.open("a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write("\n" + json.dumps(result))  # an earlier line may have been cut off


def _ready(job, done) -> bool:
    import dataclasses

    import jobs

    needed = job.method == jobs.SCRATCH
    return job.key not in done and (
        not needed or dataclasses.replace(job, method="redsc").key in done
    )


def _lock_file(folder: Path, job) -> Path:
    return folder / "claims" / job.key.replace("/", "_")


def _claim(folder: Path, candidates):
    """The first job that no living process works on."""
    for job in candidates:
        path = _lock_file(folder, job)
        path.parent.mkdir(parents=True, exist_ok=True)
        own = path.parent / f".{os.getpid()}"
        own.write_text(str(os.getpid()))
        try:
            os.link(own, path)  # appears with its content, or not at all
            return job
        except FileExistsError:
            owner = path.read_text() if path.exists() else ""
            if not Path(f"/proc/{owner}").exists():
                path.unlink(missing_ok=True)
                return _claim(folder, candidates)
        finally:
            own.unlink(missing_ok=True)
    return None


def paper(arguments: argparse.Namespace) -> None:
    import paper

    from redsc.errors import RedscError

    try:
        paper.repeat(
            arguments.spec, arguments.network, arguments.steps, arguments.epochs, arguments.folder
        )
    except RedscError as error:
        sys.exit(f"study: {error}")


def headroom(arguments: argparse.Namespace) -> None:
    _prepare_tensorflow()

    import headroom
    import work

    workshop = work.Workshop(arguments.folder, arguments.fashion, None, arguments.folder)
    while True:
        done = work.read_results(HEADROOM)
        job = _claim(arguments.folder, [j for j in headroom.all_jobs() if j.key not in done])
        if job is None:
            return
        print(f"{time.strftime('%H:%M:%S')} {job.key}", flush=True)
        _keep(HEADROOM, headroom.run(workshop, job))
        _lock_file(arguments.folder, job).unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("run")
    command.add_argument("recordings", type=Path)
    command.add_argument("--fashion", type=Path, default=FASHION)
    command.add_argument("--keywords", type=Path, default=KEYWORDS)
    command.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    command.add_argument("--only", default="", help="jobs whose key holds this text")
    command.add_argument("--minutes", type=float, default=1e6, help="start no job after these")
    command.add_argument("--folder", type=Path, default=HERE / "work")
    command.set_defaults(run=run)
    command = commands.add_parser("report")
    command.set_defaults(run=lambda _: __import__("tables").write(RESULTS))
    command = commands.add_parser("headroom")
    command.add_argument("--fashion", type=Path, default=FASHION)
    command.add_argument("--folder", type=Path, default=HERE / "work")
    command.set_defaults(run=headroom)
    command = commands.add_parser("paper")
    command.add_argument("spec")
    command.add_argument("--network", help="one of the paper's; the first one by default")
    command.add_argument("--steps", type=int, default=5000, help="of training the network alone")
    command.add_argument("--epochs", type=int, help="of training the levels")
    command.add_argument("--folder", type=Path, default=HERE / "work")
    command.set_defaults(run=paper)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
