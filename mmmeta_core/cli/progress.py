"""A progress bar on a terminal, and none in a pipe."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import click

from mmmeta_core.types import Progress

_EVERY_SECONDS: Final = 0.1


@contextmanager
def progress_bar(label: str) -> Iterator[Progress | None]:
    """Give what shows how far a command is: with rate and time left on a terminal, None elsewhere and with --quiet.

    Lines of the log go above the bar.
    """
    quiet = click.get_current_context().find_root().params.get("quiet")
    if quiet or sys.stderr is None or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        ProgressColumn,
        SpinnerColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bar
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:,.0f}/s" if task.speed else "")

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate())
    with (
        Bar(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar,
        _log_above(),
    ):
        task = bar.add_task(label, total=None)
        shown = 0.0

        def show(done: int, total: int | None) -> None:
            nonlocal shown
            now = time.monotonic()
            if now - shown > _EVERY_SECONDS or done == total:
                shown = now
                bar.update(task, completed=done, total=total)

        yield show


@contextmanager
def _log_above() -> Iterator[None]:
    """Send the log to stderr as the bar has it: it prints lines above itself."""
    handlers = [h for h in logging.getLogger("mmmeta_core").handlers if isinstance(h, logging.StreamHandler)]
    before = [handler.setStream(sys.stderr) for handler in handlers]
    try:
        yield
    finally:
        for handler, stream in zip(handlers, before, strict=True):
            if stream is not None:
                handler.setStream(stream)
