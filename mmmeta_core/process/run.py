"""A run: documents that are due are found, claimed, handled and noted, a chunk at a time."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from itertools import islice
from typing import Any, Final

from mmmeta_core.database.state import State
from mmmeta_core.database.work import Claim, On, Work
from mmmeta_core.errors import ConfigError, MmmetaError
from mmmeta_core.events import event
from mmmeta_core.files import File, Files
from mmmeta_core.process.handling import Handling, Outcome
from mmmeta_core.process.results import Left, ProcessResult, Share
from mmmeta_core.process.settings import Handler, ProcessOptions, settings_of, settings_text
from mmmeta_core.types import Key, Progress, format_time

log = logging.getLogger(__name__)

_CLAUSES: Final = frozenset({"order_by", "_offset", "_streamed", "_step", "deleted"})


def process(
    state: State,
    files: Files,
    handler: Handler,
    options: ProcessOptions,
    filters: Mapping[str, Any],
    progress: Progress | None = None,
) -> ProcessResult:
    """Do what `Documents.process` says."""
    if stray := _CLAUSES & filters.keys():
        raise ConfigError(
            f"{', '.join(sorted(stray))} can't be used here: documents come in the order of their keys"
        )
    started = time.monotonic()
    state.add_mark(options.mark)
    state.index_mark(options.mark)
    run = _Run(state, files, handler, options, dict(filters), progress)
    run.run()
    left = run.count(free=False)
    if options.on == "due":
        run.work.note_run(settings_text(options, filters))
    result = ProcessResult(run.processed, run.failed, run.set_aside, left, time.monotonic() - started)
    log.info(
        "%s%s: %d processed, %d failed, %d set aside, %d left",
        *(options.mark, ", deletions" if options.on == "deleted" else ""),
        *(result.processed, result.failed, result.set_aside, left),
        extra=event(
            "processed",
            mark=options.mark,
            on=options.on,
            processed=result.processed,
            failed=result.failed,
            set_aside=result.set_aside,
            left=left,
            seconds=result.seconds,
        ),
    )
    return result


def due_count(state: State, files: Files, mark: str, settings: str | None, on: On = "due") -> int:
    """Return how many documents a pipeline with these settings (`settings_text`) can do now."""
    on_change, filters = settings_of(settings)
    options = ProcessOptions(mark=mark, on=on, on_change=on_change)
    return _Run(state, files, lambda _: None, options, filters, None).count()


def shares(
    state: State, files: Files, options: ProcessOptions, filters: Mapping[str, Any], size: int, most: int
) -> list[Share]:
    """Do what `Documents.shares` says."""
    if size <= 0 or most <= 0:
        raise ConfigError(f"size={size!r} and most={most!r} must be more than 0")
    state.add_mark(options.mark)
    run = _Run(state, files, lambda _: None, options, dict(filters), None)
    wanted = size * most if options.limit is None else min(size * most, options.limit)
    found = files.distinct(state.unique, run.condition(), deleted=None, _limit=wanted, **run.filters)
    keys = (row[state.unique] for row in found)
    parts = iter(lambda: list(islice(keys, size)), [])
    return [Share(part[0], part[-1], len(part)) for part in parts]


def left(state: State, files: Files, options: ProcessOptions, filters: Mapping[str, Any]) -> Left:
    """Do what `Documents.left` says."""
    state.add_mark(options.mark)
    run = _Run(state, files, lambda _: None, options, dict(filters), None)
    claimed = files.count(run.bound(run.work.claimed()), deleted=None, **run.filters)
    return Left(run.count(free=False), claimed)


class _Run:
    def __init__(
        self,
        state: State,
        files: Files,
        handler: Handler,
        options: ProcessOptions,
        filters: dict[str, Any],
        progress: Progress | None,
    ) -> None:
        self.state = state
        self.files = files
        self.handling = Handling(state, handler, options)
        self.options = options
        self.limit = filters.pop("_limit", None) or options.limit
        self.filters = filters
        self.progress = progress
        self.lease = timedelta(seconds=options.lease)
        worker = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self.work = Work(state, options.mark, worker=worker, on=options.on, on_change=options.on_change)
        self.processed = self.failed = self.set_aside = 0

    def run(self) -> None:
        total = self.count() if self.progress is not None else None
        with self._renewing(), self.handling.pool() as pool:
            for files, claims in self._pages():
                self._chunk(files, claims, pool)
                if self.progress is not None:
                    self.progress(self.processed + self.failed, total)

    def count(self, *, free: bool = True) -> int:
        """Return how many documents there are to do; with `free` only those that can be done now."""
        return self.files.count(self.condition(free=free), deleted=None, **self.filters)

    def condition(self, *, free: bool = True, few: bool = False) -> Any:
        """Return the condition of `Work` as SQLAlchemy takes it."""
        return self.bound(self.work.condition(free=free, few=few))

    def bound(self, condition: str) -> Any:
        """Return a condition of `Work`'s as SQLAlchemy takes it, with its parameters."""
        from sqlalchemy import text

        from mmmeta_core.database.identifiers import spelled

        parameters = self.work.parameters()
        escaped = spelled(condition).replace(":", "\\:")
        for name in parameters:
            escaped = escaped.replace(f"\\:{name}", f":{name}")
        used = {name: value for name, value in parameters.items() if f":{name}" in escaped}
        return text(escaped).bindparams(**used)

    def _pages(self) -> Iterator[tuple[list[File], list[Claim]]]:
        """Yield the documents to do in the order of their keys, a chunk at a time, and which of them are ours."""
        unique, filters, left = self.state.unique, dict(self.filters), self.limit
        own = filters.pop(unique, None)
        after: dict[str, Any] = {} if own is None else (dict(own) if isinstance(own, Mapping) else {"=": own})
        while left is None or left > 0:
            size = self.options.chunk if left is None else min(self.options.chunk, left)
            page = {**filters, **({unique: after} if after else {})}
            found, claims = self.state.taking(partial(self._take, page, size))
            if found:
                yield found, claims
            if len(found) < size:
                return
            left = left and left - len(found)
            after = {**after, ">": found[-1].key}

    def _take(self, filters: Mapping[str, Any], size: int) -> tuple[list[File], list[Claim]]:
        """Find and claim documents, so many at most."""
        unique = self.state.unique
        due = self.condition(few=True)
        found = list(self.files.find(due, deleted=None, **filters, order_by=unique, _limit=size))
        return found, self.work.claim([file.key for file in found], self.lease) if found else []

    def _chunk(self, files: list[File], claimed: list[Claim], pool: ThreadPoolExecutor | None) -> None:
        """Handle and note one chunk."""
        claims = {claim.key: claim for claim in claimed}
        outcome = Outcome()
        try:
            documents = [self._current(file, claims[file.key]) for file in files if file.key in claims]
            self.handling.all(documents, outcome, pool)
        finally:
            # Also when the user interrupts: what is done is noted, the rest given back.
            self._note(claims, outcome)

    def _current(self, file: File, claim: Claim) -> File:
        """Return the document as it was when it was claimed: it may have changed since the page was read."""
        read = file["__meta_last_updated"]
        same = read is not None and format_time(read) == claim.version
        return file if same else self.files.get(file.key) or file

    def _note(self, claims: Mapping[Key, Claim], outcome: Outcome) -> None:
        done = [(claims[key], values) for key, values in outcome.done.items()]
        failed = [(claims[key], error) for key, error in outcome.failed.items()]
        try:
            aside = self.work.finish(done, failed, max_attempts=self.options.max_attempts)
        except KeyboardInterrupt:
            self.work.finish(done, failed, max_attempts=self.options.max_attempts)
            raise
        if len(done) + len(failed) < len(claims):
            self.work.release()
        self.set_aside += aside
        self.processed += len(done)
        self.failed += len(failed)

    @contextmanager
    def _renewing(self) -> Iterator[None]:
        """Renew this worker's claims while the block runs, however long a handler takes."""
        ended = threading.Event()

        def renew() -> None:
            while not ended.wait(self.options.lease / 3):
                try:
                    self.work.renew(self.lease)
                except MmmetaError as error:  # there is time to try again before the lease ends
                    fields = event("not renewed", mark=self.options.mark, reason=str(error))
                    log.warning("the claims could not be renewed: %s", error, extra=fields)

        thread = threading.Thread(target=renew, daemon=True, name="mmmeta-lease")
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
