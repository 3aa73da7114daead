"""Training's state on disk: arrays by name, replaced as a whole."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import redsc
from redsc import toolchain
from redsc.distribution import Cluster
from redsc.errors import UsageError

log = logging.getLogger("redsc")

Arrays = dict[str, np.ndarray]

_KEPT_SECONDS = 30 * 86_400.0
"""Checkpoints of trainings that were never taken up again go after this time."""


def folder(*parts: Any) -> Path:
    """Where this version's checkpoints of what `parts` say are kept, until `forget`."""
    trainings = toolchain.cache_root() / "training"
    for old in trainings.glob("*"):
        if time.time() - old.stat().st_mtime > _KEPT_SECONDS:
            forget(old)
    return trainings / digest(redsc.__version__, *parts)


def forget(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def save(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes the arrays; whatever stops it, `path` holds the old ones or the new ones."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            # numpy's types take any name for its own keyword, allow_pickle
            np.savez(file, **dict(arrays))  # type: ignore[arg-type]
        temporary.replace(path)
    except OSError as error:
        raise UsageError(
            f"{path}: the checkpoint cannot be written: {error.strerror}; make room, or set "
            "REDSC_CACHE_DIR to a folder that has some"
        ) from None
    finally:
        temporary.unlink(missing_ok=True)


def load(path: Path) -> Arrays | None:
    """What `save` wrote; None where nothing is, or, with a warning, something else."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        log.warning("%s: not a checkpoint (%s); training starts anew", path, error)
        return None


def load_chiefs(path: Path, like: Arrays, cluster: Cluster) -> Arrays | None:
    """The chief's file, on every worker, if it holds arrays of the names and shapes of `like`."""
    found = load(path) if cluster.is_chief else None
    shapes = {name: array.shape for name, array in like.items()}
    known = found is not None and {name: a.shape for name, a in found.items()} == shapes
    arrays = found if found is not None and known else like
    told = cluster.from_chief({"known": np.array(float(known)), **arrays})
    return told if told.pop("known") else None


def digest(*parts: Any) -> str:
    """Hexadecimal name of everything that decides a training: arrays by value, others by repr."""
    sha = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            sha.update(f"{part.dtype}{part.shape}".encode())
            sha.update(np.ascontiguousarray(part).tobytes())
        else:
            sha.update(repr(part).encode())
        sha.update(b"\0")
    return sha.hexdigest()[:32]
