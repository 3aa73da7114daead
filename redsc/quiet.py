"""Libraries in C++ that greet on a standard stream before any option can keep them from it."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

STDOUT, STDERR = 1, 2


@contextlib.contextmanager
def silenced(descriptor: int) -> Iterator[None]:
    """What is written to a standard stream's file descriptor meanwhile is lost."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(descriptor)
    try:
        with Path(os.devnull).open("w") as null:
            os.dup2(null.fileno(), descriptor)
        yield
    finally:
        os.dup2(saved, descriptor)
        os.close(saved)
