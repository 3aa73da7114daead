"""An HDF5 file's texts and arrays as data, read by a process of its own (`hdf5_process`)."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from redsc.errors import ModelError
from redsc.importer.files import MAX_FILE_BYTES

_SCRIPT = Path(__file__).with_name("hdf5_process.py")
_MAX_SECONDS = 300  # of wall-clock time, on a machine that is busy; see also MAX_CPU_SECONDS


@dataclass(frozen=True)
class Hdf5File:
    """Contents by path, without a leading '/'; '' is the root.

    attributes: of each group, texts or lists of texts (None where of no interest). arrays:
    float32. refused: what was not read, by path (or 'path@attribute'), with the reason.
    """

    where: str
    attributes: Mapping[str, Mapping[str, Any]]
    arrays: Mapping[str, np.ndarray]
    refused: Mapping[str, str]

    def has_group(self, path: str) -> bool:
        self._check(path)
        return path in self.attributes

    def names(self) -> set[str]:
        """Names of the root's members and attributes."""
        paths = {*self.attributes, *self.arrays, *self.refused}
        return {path.split("/")[0] for path in paths} | set(self.attributes[""])

    def array(self, path: str) -> np.ndarray:
        """float32; ModelError when it is missing or was refused."""
        path = _normal(path)
        self._check(path)
        if path not in self.arrays:
            raise ModelError(f"{self.where}: the weights {path} are missing; save the model again")
        return self.arrays[path]

    def text(self, name: str) -> str | None:
        """A text attribute of the root, or None."""
        self._check(f"@{name}")
        value = self.attributes[""].get(name)
        return value if isinstance(value, str) else None

    def texts(self, path: str, name: str) -> list[str] | None:
        """A list attribute of a group; Keras splits one above 64 KB into name0, name1, …"""
        path = _normal(path)
        self._check(path)
        self._check(f"{path}@{name}")
        attributes = self.attributes.get(path, {})
        value = attributes.get(name)
        if isinstance(value, list):
            return value
        parts: list[str] = []
        number = 0
        while isinstance(part := attributes.get(f"{name}{number}"), list):
            parts, number = parts + part, number + 1
        return parts if number else None

    def _check(self, path: str) -> None:
        parts = path.split("/")
        for length in range(1, len(parts) + 1):
            above = "/".join(parts[:length])
            if above in self.refused:
                what = f"the attribute {above}" if "@" in above else f"the weights {above}"
                raise ModelError(f"{self.where}: {what} {self.refused[above]}")


def _normal(path: str) -> str:
    return "/".join(part for part in path.split("/") if part)


def read_hdf5(source: Path | bytes, where: str) -> Hdf5File:
    """All of a file (optimizer states aside); ModelError when it is damaged."""
    inside = source if isinstance(source, bytes) else b""
    argument = "-" if isinstance(source, bytes) else str(source)
    command = [sys.executable, str(_SCRIPT), argument, str(MAX_FILE_BYTES)]
    try:
        done = subprocess.run(
            command, input=inside, capture_output=True, timeout=_MAX_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise _damaged(where, f"reading it takes more than {_MAX_SECONDS} s") from None
    output = memoryview(done.stdout)
    if done.returncode != 0 or len(output) < 8:
        if b"ModuleNotFoundError" in done.stderr:
            raise RuntimeError(done.stderr.decode("utf-8", "replace"))
        raise _damaged(where, "the HDF5 library cannot get through it")
    start = 8 + int.from_bytes(output[:8], "little")
    header = json.loads(bytes(output[8:start]))
    if header["error"]:
        raise _damaged(where, header["error"])
    arrays = {}
    for path, shape in header["arrays"]:
        count = math.prod(shape)
        arrays[path] = np.frombuffer(output, np.float32, count, start).reshape(shape)
        start += 4 * count
    return Hdf5File(where, header["attributes"], arrays, header["refused"])


def _damaged(where: str, fault: str) -> ModelError:
    return ModelError(
        f"{where}: the file is damaged or incomplete ({fault}); copy or save the model again"
    )
