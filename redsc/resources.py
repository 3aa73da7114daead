"""Where the files that are not Python lie: templates/, firmware/ and targets/.

In a checkout the first two are top-level folders beside the package; an installed wheel carries
them inside it.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def _locate(name: str) -> Path:
    for folder in (_PACKAGE.parent / name, _PACKAGE / name):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"{name}/ is missing from this redsc installation; install it again")


def templates_dir() -> Path:
    """Folder of the Jinja templates."""
    return _locate("templates")


def firmware_dir() -> Path:
    """Folder of the C++ library, the verification program and the PlatformIO platforms."""
    return _locate("firmware")


def targets_dir() -> Path:
    """Folder of what is known of target processors; it is in the package."""
    return _PACKAGE / "targets"
