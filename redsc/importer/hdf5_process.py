"""Reads an HDF5 file in a process of its own: run as a script by redsc.importer.hdf5.

The HDF5 library is C code that believes what a file says: damaged files make it allocate
gigabytes, loop without end or crash. Here that costs one process with bounded memory and time.
Standard output carries the length of a JSON header (8 bytes), the header, and the arrays.
This file imports nothing of redsc, so that it starts quickly and from any place.
"""

from __future__ import annotations

import io
import json
import math
import re
import sys
from typing import Any

MAX_CPU_SECONDS = 10
MAX_TEXT_BYTES = 64 << 20
MAX_OBJECTS = 100_000
_TEXTS = re.compile(r"model_config|keras_version|(layer_names|weight_names)\d*")
_SKIPPED = ("optimizer_weights", "optimizer", "_optimizer")


class _Contents:
    """What the file holds, collected while it is walked through hard links."""

    def __init__(self, max_bytes: int) -> None:
        self.bytes_left = self.max_bytes = max_bytes
        self.attributes: dict[str, dict[str, Any]] = {}
        self.refused: dict[str, str] = {}
        self.shapes: list[tuple[str, list[int]]] = []
        self.arrays: list[Any] = []

    def walk(self, group: Any, path: str) -> None:
        import h5py

        waiting, seen = [(group, path)], {h5py.h5o.get_info(group.id).addr}
        while waiting:
            group, path = waiting.pop()
            self.attributes[path] = self.texts(group, path)
            for name in group:
                below = f"{path}/{name}" if path else name
                if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                    self.refused[below] = (
                        "are a link to another place, which Keras never writes and redsc never "
                        "follows"
                    )
                    continue
                found = group[name]
                address = h5py.h5o.get_info(found.id).addr
                if name in _SKIPPED or address in seen:
                    continue
                seen.add(address)
                if len(seen) > MAX_OBJECTS:
                    raise ValueError(f"it holds more than {MAX_OBJECTS} objects")
                if isinstance(found, h5py.Group):
                    waiting.append((found, below))
                elif isinstance(found, h5py.Dataset):
                    self.dataset(found, below)

    def dataset(self, dataset: Any, path: str) -> None:
        import numpy as np

        reason = self.fault(dataset)
        if reason:
            self.refused[path] = reason
            return
        values = np.asarray(dataset[()]).astype(np.float32, copy=False)
        self.shapes.append((path, list(values.shape)))
        self.arrays.append(values)

    def fault(self, dataset: Any) -> str:
        """Why a dataset is not read, found out before any of it is; '' when it may be."""
        import h5py

        if dataset.id.get_type().get_class() not in (h5py.h5t.INTEGER, h5py.h5t.FLOAT):
            return "are no numbers"
        shape = dataset.shape
        size = None if shape is None else math.prod(shape) * max(dataset.dtype.itemsize, 4)
        if size is None or size > self.bytes_left:
            return f"claim the shape {shape}; all weights may take {self.max_bytes} bytes together"
        self.bytes_left -= size
        properties = dataset.id.get_create_plist()
        if properties.get_layout() == h5py.h5d.VIRTUAL or properties.get_external_count():
            return "are kept in another file, which is never opened"
        filters = {properties.get_filter(i)[0] for i in range(properties.get_nfilters())}
        h5z = h5py.h5z
        if filters - {h5z.FILTER_DEFLATE, h5z.FILTER_SHUFFLE, h5z.FILTER_FLETCHER32}:
            return "are packed by a filter Keras does not use"
        return ""

    def texts(self, owner: Any, path: str) -> dict[str, Any]:
        """Attributes by name: a text, a list of texts, or None for those of no interest."""
        import h5py
        import numpy as np

        found: dict[str, Any] = {}
        for name in owner.attrs:
            found[name] = None
            if not _TEXTS.fullmatch(name):
                continue
            attribute = owner.attrs.get_id(name)
            kind = attribute.get_type().get_class()
            size = math.prod(attribute.shape) * max(attribute.dtype.itemsize, 1)
            if kind not in (h5py.h5t.STRING, h5py.h5t.INTEGER, h5py.h5t.FLOAT):
                self.refused[f"{path}@{name}"] = "is no text"
            elif size > MAX_TEXT_BYTES:
                self.refused[f"{path}@{name}"] = "is too large"
            else:
                value = owner.attrs[name]
                scalar = isinstance(value, (str, bytes))
                parts = [value] if scalar else np.ravel(value).tolist()
                texts = [p.decode("utf-8", "replace") if isinstance(p, bytes) else p for p in parts]
                found[name] = texts[0] if scalar else [str(text) for text in texts]
        return found


def _limit(max_bytes: int) -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_CPU, (MAX_CPU_SECONDS, MAX_CPU_SECONDS + 5))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (3 * max_bytes, 3 * max_bytes))


def main(source: str, max_bytes: int) -> None:
    """source: a path, or '-' for the file's bytes on standard input."""
    data = io.BytesIO(sys.stdin.buffer.read()) if source == "-" else source
    import h5py
    import numpy as np

    _limit(max_bytes)
    contents, error = _Contents(max_bytes), None
    try:
        with h5py.File(data, "r") as file:
            contents.walk(file, "")
    except Exception as fault:  # whatever the library finds wrong is one thing: a damaged file
        error = f"{fault!s:.200}" or type(fault).__name__
    header = json.dumps(
        {
            "error": error, "attributes": contents.attributes, "refused": contents.refused,
            "arrays": contents.shapes,
        }
    ).encode("utf-8", "surrogatepass")  # fmt: skip
    out = sys.stdout.buffer
    out.write(len(header).to_bytes(8, "little") + header)
    for array in contents.arrays if error is None else ():
        out.write(np.ascontiguousarray(array).data)


if __name__ == "__main__":
    del sys.path[0]  # this folder, whose modules are redsc's
    main(sys.argv[1], int(sys.argv[2]))
