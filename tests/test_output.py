"""The output directory: whole or untouched whatever fails, and the user's files stay."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redsc import output
from redsc.errors import UsageError

Files = dict[str, str]
FIRST: Files = {"platformio.ini": "one", "src/main.cpp": "one", "lib/model/model.cc": "one"}
SECOND: Files = {"platformio.ini": "two", "src/main.cpp": "two", "report/report.json": "two"}


def write(folder: Path, files: Files) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def read(folder: Path) -> Files:
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in folder.rglob("*")
        if path.is_file() and path.name != output.MANIFEST
    }


def generate(directory: Path, files: Files) -> None:
    with output.transaction(directory) as staging:
        write(staging, files)


def test_makes_parents_and_leaves_nothing_beside(tmp_path: Path) -> None:
    generate(tmp_path / "a" / "b", FIRST)
    assert read(tmp_path / "a" / "b") == FIRST
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]


def test_second_run_replaces_generated_files(tmp_path: Path) -> None:
    generate(tmp_path / "b", FIRST)
    generate(tmp_path / "b", SECOND)
    assert read(tmp_path / "b") == SECOND


def test_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    generate(tmp_path / "a", FIRST)
    generate(tmp_path / "b", dict(reversed(FIRST.items())))
    manifests = [(tmp_path / name / output.MANIFEST).read_bytes() for name in "ab"]
    assert manifests[0] == manifests[1]


def test_edited_file_stays_with_the_new_one_beside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    build = tmp_path / "b"
    generate(build, FIRST)
    (build / "src/main.cpp").write_text("mine")
    for _ in range(3):
        caplog.clear()
        generate(build, SECOND)
        assert read(build) == {**SECOND, "src/main.cpp": "mine", "src/main.cpp.new": "two"}
        assert "kept your" in caplog.text
    (build / "src/main.cpp").write_text("two")
    generate(build, SECOND)
    assert read(build) == SECOND


def test_added_files_and_folders_stay(tmp_path: Path) -> None:
    build = tmp_path / "b"
    generate(build, FIRST)
    write(build, {"src/sensor.cpp": "mine", ".git/config": "mine", ".pio/build/x.o": "object"})
    write(build, {"platforms/__pycache__/a.pyc": "drop"})
    (build / "data").mkdir()
    (build / "link").symlink_to("src/sensor.cpp")
    (build / "src/sensor.cpp").chmod(0o755)
    generate(build, SECOND)
    kept = {"src/sensor.cpp": "mine", ".git/config": "mine", ".pio/build/x.o": "object"}
    assert read(build) == {**SECOND, **kept, "link": "mine"}
    assert (build / "data").is_dir()
    assert (build / "link").is_symlink()
    assert os.access(build / "src/sensor.cpp", os.X_OK)
    assert not (build / "platforms").exists()


def test_objects_of_the_previous_directory_win(tmp_path: Path) -> None:
    build = tmp_path / "b"
    generate(build, {**FIRST, ".pio/build/x.o": "first"})
    assert read(build)[".pio/build/x.o"] == "first"
    generate(build, {**FIRST, ".pio/build/x.o": "second"})
    assert read(build)[".pio/build/x.o"] == "first"


def test_file_added_where_redsc_now_makes_one(tmp_path: Path) -> None:
    build = tmp_path / "b"
    generate(build, FIRST)
    write(build, {"report/report.json": "mine"})
    generate(build, SECOND)
    assert read(build) == {**SECOND, "report/report.json": "mine", "report/report.json.new": "two"}


def test_file_where_redsc_now_makes_a_folder(tmp_path: Path) -> None:
    build = tmp_path / "b"
    generate(build, FIRST)
    (build / "report").write_text("mine")
    with pytest.raises(UsageError, match="report: stands where redsc now makes a folder"):
        generate(build, SECOND)
    assert read(build) == {**FIRST, "report": "mine"}


def test_refuses_what_is_not_redscs(tmp_path: Path) -> None:
    write(tmp_path / "thesis", {"chapter.tex": "years of work"})
    with pytest.raises(UsageError, match=r"thesis: is not empty and was not made by redsc"):
        generate(tmp_path / "thesis", FIRST)
    assert read(tmp_path / "thesis") == {"chapter.tex": "years of work"}
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="is a file"):
        generate(tmp_path / "file", FIRST)
    (tmp_path / "empty").mkdir()
    generate(tmp_path / "empty", FIRST)
    assert read(tmp_path / "empty") == FIRST


def test_refuses_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="current directory"):
        generate(Path(), FIRST)


def test_refuses_early_where_nothing_can_be_written(tmp_path: Path) -> None:
    output.check_replaceable(tmp_path / "a" / "b")
    (tmp_path / "file").touch()
    for parent in (tmp_path / "file", Path("/proc")):  # root may write everywhere else
        with pytest.raises(UsageError, match=rf"cannot write .*\({parent}\); choose another"):
            output.check_replaceable(parent / "a" / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_damaged_manifest_is_not_guessed_at(tmp_path: Path) -> None:
    generate(tmp_path / "b", FIRST)
    (tmp_path / "b" / output.MANIFEST).write_text("{")
    with pytest.raises(UsageError, match="damaged"):
        generate(tmp_path / "b", SECOND)
    assert read(tmp_path / "b") == FIRST


def test_failing_block_leaves_the_previous_directory(tmp_path: Path) -> None:
    generate(tmp_path / "b", FIRST)
    for failure in (KeyboardInterrupt, RuntimeError):
        with pytest.raises(failure), output.transaction(tmp_path / "b"):
            raise failure
        assert read(tmp_path / "b") == FIRST
        assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_full_disk_is_a_usage_error(tmp_path: Path) -> None:
    generate(tmp_path / "b", FIRST)
    with (
        pytest.raises(UsageError, match=r"No space left.*previous content is untouched"),
        output.transaction(tmp_path / "b"),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert read(tmp_path / "b") == FIRST


def test_a_disk_that_fills_up_while_a_folder_is_copied(tmp_path: Path) -> None:
    generate(tmp_path / "b", FIRST)
    with (
        pytest.raises(UsageError, match=r"cannot write .*No space left"),
        output.transaction(tmp_path / "b") as staging,
    ):
        raise shutil.Error([("from", str(staging / "lib/x.cc"), "[Errno 28] No space left")])
    assert read(tmp_path / "b") == FIRST


def test_a_path_that_scons_would_expand_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\$"):
        output.check_replaceable(tmp_path / "a$b")


def test_unrelated_os_errors_pass(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), output.transaction(tmp_path / "b"):
        (tmp_path / "model.h5").read_bytes()


def test_only_one_writer(tmp_path: Path) -> None:
    with output.transaction(tmp_path / "b") as staging:
        write(staging, FIRST)
        process = multiprocessing.get_context("fork").Process(
            target=exits_with_5_when_refused, args=(tmp_path / "b",)
        )
        process.start()
        process.join()
    assert process.exitcode == 5
    assert read(tmp_path / "b") == FIRST


def exits_with_5_when_refused(directory: Path) -> None:
    try:
        generate(directory, SECOND)
    except UsageError as error:
        os._exit(5 if "another redsc" in str(error) else 6)


# Faults: the n-th call that changes the disk fails, or the process is gone before it.

CHANGES = [(Path, "rename"), (Path, "mkdir"), (Path, "write_text"), (Path, "unlink")]
CHANGES += [(shutil, "copy2"), (shutil, "rmtree")]
EDITED: Files = {**FIRST, "src/main.cpp": "mine", "src/sensor.cpp": "mine", ".pio/x.o": "object"}
AFTER: Files = {
    **SECOND,
    "src/main.cpp": "mine",
    "src/main.cpp.new": "two",
    "src/sensor.cpp": "mine",
    ".pio/x.o": "object",
}


def fail_at(call: int, fail: Callable[[], None]) -> None:
    """From now on, run `fail` before the call-th change of the disk (counted from 0)."""
    count = -1

    def wrap(original: Callable[..., object]) -> Callable[..., object]:
        def counted(*args: object, **kwargs: object) -> object:
            nonlocal count
            count += 1
            if count == call:
                fail()
            return original(*args, **kwargs)

        return counted

    for owner, name in CHANGES:
        setattr(owner, name, wrap(getattr(owner, name)))


def child_status(run: Callable[[], None]) -> int:
    """Exit status of `run` in a forked process: 0 done, 3 UsageError, otherwise as it left."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            run()
            status = 0
        except UsageError:
            status = 3
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def prepared(directory: Path) -> Path:
    generate(directory, FIRST)
    write(directory, EDITED)
    return directory


def test_killed_before_any_change(tmp_path: Path) -> None:
    """Whichever change a kill precedes, the directory or the next run is whole."""
    seen = set()
    for call in range(100):
        build = prepared(tmp_path / str(call) / "b")

        def killed(build: Path = build, call: int = call) -> None:
            fail_at(call, lambda: os._exit(9))
            generate(build, SECOND)

        status = child_status(killed)
        output.recover(build)
        state = read(build)
        assert state in (EDITED, AFTER)
        seen.add(state == AFTER)
        generate(build, SECOND)
        assert read(build) == AFTER
        assert [path.name for path in build.parent.iterdir()] == ["b"]
        if status == 0:
            break
    assert status == 0
    assert call > 10
    assert seen == {True, False}


def test_folder_made_after_a_kill_does_not_cost_the_previous_directory(tmp_path: Path) -> None:
    build = prepared(tmp_path / "b")
    build.rename(tmp_path / ".b.redsc-old")
    build.mkdir()
    output.recover(build)
    assert read(build) == EDITED
    build.rename(tmp_path / ".b.redsc-old")
    write(build, {"notes.txt": "mine"})
    with pytest.raises(UsageError, match="not made by redsc"):
        generate(build, SECOND)
    assert read(tmp_path / ".b.redsc-old") == EDITED
    assert read(build) == {"notes.txt": "mine"}


@pytest.mark.slow
def test_disk_refuses_any_change(tmp_path: Path) -> None:
    """Whichever change the disk refuses, the directory is whole at once."""
    for call in range(100):
        build = prepared(tmp_path / str(call) / "b")

        def refuse(build: Path = build) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(build))

        def refused(build: Path = build, call: int = call, refuse=refuse) -> None:  # type: ignore[no-untyped-def]
            fail_at(call, refuse)
            generate(build, SECOND)

        status = child_status(refused)
        assert status in (0, 3)
        state = read(build)
        if status == 3:
            assert state == EDITED
        output.recover(build)
        assert read(build) == (EDITED if status == 3 else AFTER)
    assert status == 0


NAMES = st.sampled_from(["a", "b.txt", "c/d", "c/e", "f/g/h"])
FOLDER = st.dictionaries(NAMES, st.sampled_from(["0", "1", "2"]), max_size=5)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(FOLDER, FOLDER), min_size=1, max_size=4))
def test_users_bytes_are_never_lost(
    tmp_path_factory: pytest.TempPathFactory, runs: list[tuple[Files, Files]]
) -> None:
    """Runs alternate with a user's edits: what the user wrote is there afterwards, with the new
    file beside it; everything else is exactly what was generated."""
    build = tmp_path_factory.mktemp("runs") / "b"
    users: Files = {}
    for number, (files, edits) in enumerate(runs):
        generated = {name: f"{number}:{text}" for name, text in files.items()}
        generate(build, generated)
        beside = {f"{name}.new": generated[name] for name in users if name in generated}
        assert read(build) == {**generated, **users, **beside}
        assert json.loads((build / output.MANIFEST).read_text())["files"].keys() == (
            generated.keys() | beside.keys()
        )
        edits = {name: f"user:{number}:{text}" for name, text in edits.items()}
        write(build, edits)
        users |= edits
