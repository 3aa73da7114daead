"""Reading untrusted model files: sizes are checked before bytes are read, links never followed.

Nothing is unpacked to disk and nothing in a file is executed. Every failure is a ModelError.
"""

from __future__ import annotations

import hashlib
import io
import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np

from redsc.errors import ModelError

MAX_FILE_BYTES = 512 << 20
MAX_CONFIG_BYTES = 64 << 20
MAX_READER_BYTES = 3 * MAX_FILE_BYTES
MAX_ZIP_RATIO = 200
_RATIO_FREE_BYTES = 16 << 20  # below this a high ratio (weights that are all zero) is harmless

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
ZIP_MAGIC = b"PK\x03\x04"


def detect_format(path: Path) -> str:
    """'hdf5', 'keras' (a zip archive) or 'saved_model', by content; ModelError otherwise."""
    try:
        if path.is_dir():
            return _detect_directory(path)
        if not path.exists():
            raise ModelError(f"{path}: no such file; give the path of a saved Keras model")
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as fault:
        raise ModelError(f"{path}: cannot be read ({fault.strerror or fault})") from None
    if size == 0:
        raise ModelError(f"{path}: the file is empty; save the model again")
    if size > MAX_FILE_BYTES:
        raise ModelError(f"{path}: {size} bytes are more than the {MAX_FILE_BYTES} redsc reads")
    if head == HDF5_MAGIC:
        return "hdf5"
    if head[:4] == ZIP_MAGIC:
        return "keras"
    raise ModelError(
        f"{path}: not a Keras model (neither HDF5 nor a .keras archive{_looks_like(head)}); "
        "save the model with model.save('model.h5') or model.save('model.keras')"
    )


def _detect_directory(path: Path) -> str:
    if (path / "saved_model.pb").is_file():
        return "saved_model"
    raise ModelError(
        f"{path}: a directory without saved_model.pb; give a SavedModel, a .keras or an .h5 file"
    )


def _looks_like(head: bytes) -> str:
    if head[4:8] == b"TFL3":
        return "; this is a TensorFlow Lite file, which has lost what is needed"
    if head[:4] == b"PK\x05\x06":
        return "; this is an empty zip archive"
    return "; an ONNX or protocol buffer file, perhaps" if head[:1] == b"\x08" else ""


def digest(path: Path) -> str:
    """SHA-256 of a file, or of a directory's files and their relative names, in hexadecimal."""
    total = hashlib.sha256()
    if path.is_file():
        _digest_file(path, total)
        return total.hexdigest()
    for part in sorted(part for part in path.rglob("*") if part.is_file()):
        total.update(part.relative_to(path).as_posix().encode() + b"\0")
        _digest_file(part, total)
    return total.hexdigest()


def _digest_file(path: Path, total: Any) -> None:
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                total.update(block)
    except OSError as fault:
        raise ModelError(f"{path}: cannot be read ({fault.strerror or fault})") from None


def read_bounded(path: Path, limit: int = MAX_CONFIG_BYTES) -> bytes:
    """All bytes of a small file."""
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as fault:
        raise ModelError(f"{path}: cannot be read ({fault.strerror or fault})") from None
    if len(data) > limit:
        raise ModelError(f"{path}: more than {limit} bytes; this is no model's description")
    return data


def read_archive(path: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    """The members `names` of a zip archive, those that exist, in memory.

    Guards against archives that unpack to far more than they are: declared sizes and ratios are
    checked first, and no more than the declared size is ever unpacked.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: info for info in archive.infolist() if info.filename in names}
            _check_archive(path, members)
            return {name: archive.read(info) for name, info in members.items()}
    except (zipfile.BadZipFile, OSError, RuntimeError, EOFError, ValueError, MemoryError) as fault:
        raise _damaged(path, fault) from None
    except Exception as fault:  # zlib.error has no common base with the above
        if type(fault).__name__ != "error":
            raise
        raise _damaged(path, fault) from None


def _check_archive(path: Path, members: dict[str, zipfile.ZipInfo]) -> None:
    total = sum(info.file_size for info in members.values())
    if total > MAX_FILE_BYTES:
        raise ModelError(
            f"{path}: its archive claims to hold {total} bytes, more than the {MAX_FILE_BYTES} "
            "redsc reads"
        )
    for info in members.values():
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ModelError(f"{path}: {info.filename} is packed in a way Keras does not use")
        packed = max(info.compress_size, 1)
        if info.file_size > _RATIO_FREE_BYTES and info.file_size > MAX_ZIP_RATIO * packed:
            raise ModelError(
                f"{path}: {info.filename} unpacks to {info.file_size // packed} times its size "
                f"(limit {MAX_ZIP_RATIO}); this is no saved model"
            )


def _damaged(path: Path, fault: BaseException) -> ModelError:
    return ModelError(
        f"{path}: the file is damaged or incomplete ({fault}); copy or save the model again"
    )


# --- HDF5 ---

_BUILT_IN_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}

_NUMBERS = (h5py.h5t.INTEGER, h5py.h5t.FLOAT)


class Hdf5Reader:
    """Groups and arrays of an open HDF5 file, reached through hard links only."""

    def __init__(self, file: h5py.File, where: str) -> None:
        self.file = file
        self.where = where
        self.bytes_left = MAX_FILE_BYTES

    def find(self, path: str) -> Any:
        """The group or dataset at `path`, or None. Soft and external links are refused."""
        found: Any = self.file
        for part in path.split("/"):
            if not part:
                continue
            if not isinstance(found, h5py.Group):
                return None
            link = found.get(part, getlink=True)
            if link is None:
                return None
            if not isinstance(link, h5py.HardLink):
                raise ModelError(
                    f"{self.where}: {path} is a link to another place, which Keras never writes "
                    "and redsc never follows"
                )
            found = found.get(part)
        return found

    def array(self, path: str) -> np.ndarray:
        """A float32 array, its declared size checked before it is read."""
        dataset = self.find(path)
        if not isinstance(dataset, h5py.Dataset):
            raise ModelError(f"{self.where}: the weights {path} are missing; save the model again")
        self._check(dataset, path)
        return np.asarray(dataset[()]).astype(np.float32, copy=False)

    def _check(self, dataset: h5py.Dataset, path: str) -> None:
        if dataset.id.get_type().get_class() not in _NUMBERS:
            raise ModelError(f"{self.where}: the weights {path} are no numbers ({dataset.dtype})")
        shape = dataset.shape
        size = None if shape is None else math.prod(shape) * max(dataset.dtype.itemsize, 1)
        if size is None or size > self.bytes_left:
            raise ModelError(
                f"{self.where}: the weights {path} claim the shape {shape}; all weights together "
                f"may take {MAX_FILE_BYTES} bytes"
            )
        self.bytes_left -= size
        properties = dataset.id.get_create_plist()
        if properties.get_layout() == h5py.h5d.VIRTUAL or properties.get_external_count():
            raise ModelError(
                f"{self.where}: the weights {path} are kept in another file, which is never opened"
            )
        filters = {properties.get_filter(i)[0] for i in range(properties.get_nfilters())}
        if not filters <= _BUILT_IN_FILTERS:
            raise ModelError(f"{self.where}: the weights {path} are packed by an unknown filter")

    def text(self, owner: Any, name: str) -> str | None:
        """A text attribute, or None."""
        value = self._attribute(owner, name)
        if isinstance(value, bytes):
            return value.decode("utf-8", "replace")
        return value if isinstance(value, str) else None

    def texts(self, owner: Any, name: str) -> list[str] | None:
        """A list attribute; Keras splits one above 64 KB into name0, name1, …"""
        value = self._attribute(owner, name)
        if value is None:
            parts: list[Any] = []
            number = 0
            while (part := self._attribute(owner, f"{name}{number}")) is not None:
                parts.extend(np.ravel(part))
                number += 1
            return [_decode(part) for part in parts] if number else None
        return [_decode(part) for part in np.ravel(value)]

    def _attribute(self, owner: Any, name: str) -> Any:
        if name not in owner.attrs:
            return None
        attribute = owner.attrs.get_id(name)
        if attribute.get_type().get_class() not in (h5py.h5t.STRING, *_NUMBERS):
            # Sequences and compounds, which Keras never writes; reading damaged ones may crash.
            raise ModelError(f"{self.where}: the attribute {name} is no text")
        if math.prod(attribute.shape) * max(attribute.dtype.itemsize, 1) > MAX_CONFIG_BYTES:
            raise ModelError(f"{self.where}: the attribute {name} is too large")
        return owner.attrs[name]


def _decode(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


@contextmanager
def _bounded_memory() -> Iterator[None]:
    """Let an allocation far beyond a model's size fail instead of filling the machine.

    The HDF5 library believes a damaged file's sizes (a text of 4 GB in a file of 36 KB). Linux
    only; elsewhere nothing is bounded.
    """
    try:
        import resource

        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = used + MAX_READER_BYTES
    if soft != resource.RLIM_INFINITY:
        limit = min(limit, soft)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@contextmanager
def open_hdf5(source: Path | bytes, where: str) -> Iterator[Hdf5Reader]:
    """An HDF5 file or its bytes, read-only; what the HDF5 library finds wrong is a ModelError."""
    handle: Any = source
    if isinstance(source, bytes):
        buffer: BinaryIO = io.BytesIO(source)
        handle = buffer
    try:
        with _bounded_memory(), h5py.File(handle, "r") as file:
            yield Hdf5Reader(file, where)
    except (OSError, KeyError, RuntimeError, ValueError, TypeError, MemoryError) as fault:
        raise ModelError(
            f"{where}: the file is damaged or incomplete ({fault!s:.200}); "
            "copy or save the model again"
        ) from None
