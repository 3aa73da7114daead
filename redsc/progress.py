"""Progress of long work on stderr: a bar on a terminal, a line per stage elsewhere."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import Any

log = logging.getLogger("redsc")

_INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Progress:
    """Names stages as they begin; `step` moves the bar within one. Silent under -q.

    Ctrl-C, or a request to terminate, raises KeyboardInterrupt at once, and again at the next
    stage or step: Python drops an exception that happens to be raised inside a destructor, of
    which TensorFlow runs many.
    """

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.seconds: dict[str, float] = {}
        self._stage: str | None = None
        self._stage_started = self.started
        self._bar: Any = None
        self._task: Any = None
        self._interrupted = False
        self._previous_handlers: dict[int, Any] = {}

    def __enter__(self) -> Progress:
        if threading.current_thread() is threading.main_thread():
            for number in _INTERRUPTS:
                self._previous_handlers[number] = signal.signal(number, self._interrupt)
            sys.unraisablehook = _quiet_about_interrupts
        if sys.stderr.isatty() and log.isEnabledFor(logging.WARNING):
            from rich.console import Console
            from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(),
                TimeElapsedColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task("", total=None)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._finish()
        if self._bar is not None:
            self._bar.stop()
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)
        if self._interrupted and isinstance(value, Exception):
            # A compiled module that was being imported makes an ImportError of it.
            raise KeyboardInterrupt from value

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self._interrupted = True
        raise KeyboardInterrupt

    def _check(self) -> None:
        if self._interrupted:
            raise KeyboardInterrupt

    def stage(self, name: str) -> None:
        """A new stage begins; the one before it has ended."""
        self._check()
        self._finish()
        self._stage, self._stage_started = name, time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, description=name, total=None, completed=0)
        elif log.isEnabledFor(logging.WARNING):
            print(f"redsc: {name}", file=sys.stderr, flush=True)

    def step(self, done: int, total: int, text: str = "") -> None:
        """`done` of `total` parts of the current stage are done."""
        self._check()
        if self._bar is not None:
            self._bar.update(
                self._task, description=f"{self._stage} {text}", completed=done, total=total
            )
        log.info("%s %d/%d %s", self._stage, done, total, text)

    def _finish(self) -> None:
        if self._stage is not None:
            self.seconds[self._stage] = round(time.monotonic() - self._stage_started, 2)


def _quiet_about_interrupts(dropped: sys.UnraisableHookArgs) -> None:
    if not issubclass(dropped.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(dropped)
