"""Reading untrusted model files: formats, sizes, archives. Sizes are checked before reading.

Nothing is unpacked to disk and nothing in a file is executed. Every failure is a ModelError.
"""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import Any

from redsc.errors import ModelError

MAX_FILE_BYTES = 512 << 20
MAX_CONFIG_BYTES = 64 << 20
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
        if not path.is_file():  # opening a pipe would wait for ever
            raise ModelError(f"{path}: is no ordinary file; give the path of a saved Keras model")
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
