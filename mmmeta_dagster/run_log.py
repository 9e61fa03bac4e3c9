"""What `mmmeta_core` logs while a step runs, in the log of the run."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from mmmeta_core.types import Progress

_EVERY_SECONDS = 5.0


class _Forward(logging.Handler):
    """Gives records to a run's log, with their level and nothing else."""

    def __init__(self, target: logging.Logger) -> None:
        super().__init__()
        self.target = target

    def emit(self, record: logging.LogRecord) -> None:
        """Give one record on."""
        try:
            self.target.log(record.levelno, record.getMessage())
        except Exception:  # noqa: BLE001 - what logging asks of a handler
            self.handleError(record)


@contextmanager
def run_log(context: dg.AssetExecutionContext | dg.OpExecutionContext) -> Iterator[None]:
    """Show in the run's log what `mmmeta_core` says: one line a stage, progress, each invalid document."""
    logger = logging.getLogger("mmmeta_core")
    handler = _Forward(context.log)
    with _level:
        logger.addHandler(handler)
        try:
            yield
        finally:
            logger.removeHandler(handler)


class _Level:
    """Lets the core's logger pass on what is of interest, as long as any step of this process runs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = 0
        self._before = logging.NOTSET

    def __enter__(self) -> None:
        logger = logging.getLogger("mmmeta_core")
        with self._lock:
            if not self._running:
                self._before = logger.level
                logger.setLevel(logging.INFO)
            self._running += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._running -= 1
            if not self._running:
                logging.getLogger("mmmeta_core").setLevel(self._before)


_level = _Level()


def progress_log(context: dg.AssetExecutionContext | dg.OpExecutionContext, what: str) -> Progress:
    """Return what says in the run's log, every few seconds, how far a long step is."""
    started = said = time.monotonic()

    def say(done: int, total: int | None) -> None:
        nonlocal said
        now = time.monotonic()
        if now - said >= _EVERY_SECONDS:
            said = now
            rate = done / (now - started)
            context.log.info("%d of %s %s, %.1f a second", done, total or "some", what, rate)

    return say
