"""A run: documents that are due are found, claimed, handled and noted, a chunk at a time."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any, Final

from mmmeta_core.database.state import State
from mmmeta_core.database.work import Claim
from mmmeta_core.errors import ConfigError, MmmetaError
from mmmeta_core.events import event
from mmmeta_core.files import File, Files
from mmmeta_core.process.due import Due
from mmmeta_core.process.handling import Handling, Outcome
from mmmeta_core.process.results import ProcessResult
from mmmeta_core.process.settings import Handler, ProcessOptions, settings_text
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
    due = Due(state, files, options, filters)
    run = _Run(due, Handling(state, handler, options), options, progress)
    run.run()
    left = due.count(free=False)
    if options.on == "due":
        due.work.note_run(settings_text(options, filters))
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


class _Run:
    def __init__(
        self, due: Due, handling: Handling, options: ProcessOptions, progress: Progress | None
    ) -> None:
        self.due = due
        self.handling = handling
        self.options = options
        self.progress = progress
        self.lease = timedelta(seconds=options.lease)
        self.processed = self.failed = self.set_aside = 0

    def run(self) -> None:
        total = self.due.count() if self.progress is not None else None
        with self._renewing(), self.handling.pool() as pool:
            for files, claims in self._pages():
                self._chunk(files, claims, pool)
                if self.progress is not None:
                    self.progress(self.processed + self.failed, total)

    def _pages(self) -> Iterator[tuple[list[File], list[Claim]]]:
        """Yield the documents to do in the order of their keys, a chunk at a time, and which of them are ours."""
        unique, filters, left = self.due.state.unique, dict(self.due.filters), self.due.limit
        own = filters.pop(unique, None)
        after: dict[str, Any] = {} if own is None else (dict(own) if isinstance(own, Mapping) else {"=": own})
        while left is None or left > 0:
            size = self.options.chunk if left is None else min(self.options.chunk, left)
            page = {**filters, **({unique: after} if after else {})}
            found, claims = self.due.state.taking(partial(self._take, page, size))
            if found:
                yield found, claims
            if len(found) < size:
                return
            left = left and left - len(found)
            after = {**after, ">": found[-1].key}

    def _take(self, filters: Mapping[str, Any], size: int) -> tuple[list[File], list[Claim]]:
        """Find and claim documents, so many at most."""
        unique = self.due.state.unique
        due = self.due.condition(few=True)
        found = list(self.due.files.find(due, deleted=None, **filters, order_by=unique, _limit=size))
        return found, self.due.work.claim([file.key for file in found], self.lease) if found else []

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
        return file if same else self.due.files.get(file.key) or file

    def _note(self, claims: Mapping[Key, Claim], outcome: Outcome) -> None:
        done = [(claims[key], values) for key, values in outcome.done.items()]
        failed = [(claims[key], error) for key, error in outcome.failed.items()]
        try:
            aside = self.due.work.finish(done, failed, max_attempts=self.options.max_attempts)
        except KeyboardInterrupt:
            self.due.work.finish(done, failed, max_attempts=self.options.max_attempts)
            raise
        if len(done) + len(failed) < len(claims):
            self.due.work.release()
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
                    self.due.work.renew(self.lease)
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
