"""What `mmmeta_core` logs while a step runs, in the log of the run."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg


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
def run_log(context: dg.AssetExecutionContext) -> Iterator[None]:
    """Show in the run's log what `mmmeta_core` says: one line a stage, progress, each invalid document."""
    logger = logging.getLogger("mmmeta_core")
    handler, level = _Forward(context.log), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
