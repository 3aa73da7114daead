"""The output directory changes as a whole or not at all, and keeps what is the user's.

Everything is written to a folder beside the directory; then the old directory steps aside, the
new one takes its name, and the old one goes. Whatever stops this half way, the previous
directory is whole, or the next run mends it:

    .NAME.redsc-new    being written; of no worth after a crash
    .NAME.redsc-old    the previous directory, whole, during the swap
    .NAME.redsc-trash  being deleted

A manifest in the directory holds the SHA-256 of every generated file. A file that differs from
it, or is not in it, is the user's.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from redsc.errors import UsageError

MANIFEST = ".redsc-manifest.json"
KEPT_FOLDER = ".pio"
"""PlatformIO's objects and downloads; moved from the old directory to the new as it is."""

_IGNORED = (MANIFEST, KEPT_FOLDER, "__pycache__")
_BESIDE = ".new"
log = logging.getLogger("redsc")


@contextmanager
def transaction(directory: Path) -> Iterator[Path]:
    """An empty folder to write into; it becomes `directory` when the block ends well.

    User files of the previous `directory` are in the new one: files that redsc did not make, and
    generated files that were edited, the new ones of which get the suffix .new.
    Raises UsageError when `directory` holds something that redsc did not make, when another redsc
    is writing it, or when the disk refuses; nothing has changed then.
    """
    directory = directory.resolve()
    staging, old, _ = _neighbours(directory)
    with _explained(directory), _lock(directory):
        _recover(directory)
        check_replaceable(directory)
        try:
            staging.mkdir()
            yield staging
            hashes = _hash_files(staging)
            kept = _adopt_user_files(directory, staging)
            hashes.update({f"{name}{_BESIDE}": hashes[name] for name in kept})
            _write_manifest(staging, hashes)
            _swap(directory, staging, old)
            with suppress(OSError):  # all is in place; the next run clears what is left
                _recover(directory)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
    for name in kept:
        log.warning(
            "kept your %s; the newly generated one is %s%s", directory / name, name, _BESIDE
        )


def put_files(directory: Path, files: Mapping[str, bytes]) -> None:
    """Puts files of their own, by POSIX path, into an existing build: all of them or none.

    They are not in the manifest, so the next compile keeps them as the user's. Raises UsageError
    when the disk refuses or another redsc is writing `directory`.
    """
    directory = directory.resolve()
    drafts: dict[Path, Path] = {}
    with _explained(directory), _lock(directory):
        try:
            for name, content in files.items():
                path = directory / name
                path.parent.mkdir(exist_ok=True)
                drafts[path] = path.with_name(f".{path.name}.redsc-new")
                drafts[path].write_bytes(content)
            for path, draft in drafts.items():
                draft.replace(path)
        finally:
            for path, draft in drafts.items():
                draft.unlink(missing_ok=True)
                with suppress(OSError):  # only a folder that got nothing is empty
                    path.parent.rmdir()


def has_content(path: Path, sha256: str | None) -> bool:
    """Whether a file, not a link, has this content."""
    return path.is_file() and not path.is_symlink() and _sha256(path) == sha256


def recover(directory: Path) -> None:
    """Mends what an interrupted run left of `directory`; does nothing when nothing is amiss."""
    directory = directory.resolve()
    if any(path.exists() for path in _neighbours(directory)):
        with _explained(directory), _lock(directory):
            _recover(directory)


def _neighbours(directory: Path) -> tuple[Path, Path, Path]:
    staging, old, trash = (
        directory.with_name(f".{directory.name}.redsc-{use}") for use in ("new", "old", "trash")
    )
    return staging, old, trash


def _recover(directory: Path) -> None:
    """Finish a swap whose new directory is in place, undo one whose is not; drop the rest."""
    staging, old, trash = _neighbours(directory)
    if old.exists():
        if directory.is_dir() and not any(directory.iterdir()):
            directory.rmdir()
        if not directory.exists():
            old.rename(directory)
        elif (directory / MANIFEST).is_file():
            if (old / KEPT_FOLDER).exists() and not (directory / KEPT_FOLDER).exists():
                (old / KEPT_FOLDER).rename(directory / KEPT_FOLDER)
            # `old` must be whole as long as it bears that name.
            _remove(trash)
            old.rename(trash)
    _remove(trash)
    _remove(staging)


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def check_replaceable(directory: Path) -> None:
    """Raises UsageError when `directory` is not redsc's to replace. For failing early."""
    directory = directory.resolve()
    if Path.cwd().is_relative_to(directory):
        raise UsageError(
            f"{directory}: is the current directory or holds it, so it cannot be replaced as a "
            "whole; choose a directory below it with -o"
        )
    _check_writable(directory)
    if "$" in str(directory):
        raise UsageError(f"{directory}: PlatformIO cannot build where a path has a $; see -o")
    if not directory.exists():
        return
    if not directory.is_dir():
        raise UsageError(f"{directory}: is a file; choose another directory with -o")
    if any(directory.iterdir()) and not (directory / MANIFEST).is_file():
        raise UsageError(
            f"{directory}: is not empty and was not made by redsc (no {MANIFEST}); "
            "choose another directory with -o, or empty it"
        )


def _check_writable(directory: Path) -> None:
    """Tries the folder that exists and would take `directory` and what stands beside it."""
    parent = next(path for path in directory.parents if os.path.lexists(path))
    try:
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        raise UsageError(
            f"cannot write {directory}: {error.strerror} ({parent}); choose another directory "
            "with -o"
        ) from None


def _swap(directory: Path, staging: Path, old: Path) -> None:
    if not directory.exists():
        staging.rename(directory)
        return
    directory.rename(old)
    try:
        staging.rename(directory)
    except BaseException:
        if not directory.exists():
            old.rename(directory)
        raise


def _hash_files(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below `folder`, by POSIX path."""
    return {
        path.relative_to(folder).as_posix(): _sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not _is_ignored(path.relative_to(folder))
    }


def _is_ignored(relative: Path) -> bool:
    return relative.parts[0] in _IGNORED or "__pycache__" in relative.parts


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _adopt_user_files(directory: Path, staging: Path) -> list[str]:
    """Put the user's files of `directory` into `staging`; names that redsc had generated too."""
    if not directory.exists():
        return []
    if (directory / KEPT_FOLDER).exists():
        _remove(staging / KEPT_FOLDER)
    generated = written_files(directory)
    kept = []
    for path in sorted(directory.rglob("*")):
        relative = path.relative_to(directory)
        if _is_ignored(relative):
            continue
        try:
            if _adopt(path, relative, staging, generated):
                kept.append(relative.as_posix())
        except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            raise UsageError(
                f"{path}: stands where redsc now makes a "
                f"{'folder' if (staging / relative).is_dir() else 'file'}; move it away"
            ) from error
    return kept


def _adopt(path: Path, relative: Path, staging: Path, generated: Mapping[str, str]) -> bool:
    """Copy one path of the previous directory if it is the user's; whether it replaced a file."""
    name, target = relative.as_posix(), staging / relative
    if path.is_dir() and not path.is_symlink():
        if not any(path.iterdir()):
            target.mkdir(parents=True, exist_ok=True)
        return False
    is_beside = name.endswith(_BESIDE) and name in generated
    if is_beside or has_content(path, generated.get(name)):
        return False
    if target.is_dir():
        raise IsADirectoryError(target)
    replaces = target.exists()
    if replaces:
        if has_content(path, _sha256(target)):
            return False
        target.rename(target.with_name(target.name + _BESIDE))
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(path, target, follow_symlinks=False)
    return replaces


def written_files(directory: Path) -> dict[str, str]:
    """SHA-256 of every file `compile` wrote to `directory`, by POSIX path; none without a build."""
    path = directory / MANIFEST
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path}: damaged ({error}), so your files cannot be told from generated ones; "
            "choose another directory with -o, or empty this one"
        ) from error


def _write_manifest(folder: Path, hashes: Mapping[str, str]) -> None:
    manifest = {"schema_version": 1, "files": dict(sorted(hashes.items()))}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


@contextmanager
def _lock(directory: Path) -> Iterator[None]:
    """Holds .NAME.redsc-lock beside `directory`; it goes with its holder, also one that crashed."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    path = directory.with_name(f".{directory.name}.redsc-lock")
    while True:
        with path.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError(
                    f"{directory}: another redsc is writing it; wait for that one to end"
                ) from None
            if not _is_same_file(path, file.fileno()):
                continue  # its holder deleted the file between open and lock
            try:
                yield
            finally:
                with suppress(OSError):  # an unlocked file hinders nobody
                    path.unlink()
            return


def _is_same_file(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


@contextmanager
def _explained(directory: Path) -> Iterator[None]:
    """Turns what a disk can refuse into a UsageError."""
    try:
        yield
    except shutil.Error as error:
        # what copytree could not copy: (from, to, why) of each file
        _, target, reason = error.args[0][0]
        raise UsageError(
            f"cannot write {directory}: {reason} ({target}); make room there or choose another "
            "directory with -o"
        ) from error
    except OSError as error:
        beside = directory.with_name(f".{directory.name}.redsc-")
        ours = str(error.filename).startswith((str(directory), str(beside)))
        if not ours and error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        state = "the previous content is untouched" if directory.exists() else "nothing was written"
        where = f" ({error.filename})" if error.filename else ""
        raise UsageError(
            f"cannot write {directory}: {error.strerror or error}{where}; {state}; "
            "make room there or choose another directory with -o"
        ) from error
