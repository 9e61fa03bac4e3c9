"""Process: do something with each document that is due, once, and remember what came of it."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, TypeAlias

from mmmeta_core.database.state import State, check_writable
from mmmeta_core.database.work import Work
from mmmeta_core.files import File, Files
from mmmeta_core.types import Key

log = logging.getLogger(__name__)

Handler: TypeAlias = Callable[[File], Mapping[str, Any] | None]
"""Takes a document; may return columns to save with the mark. Raising is a failure of this document only."""

_LEASE: Final = timedelta(minutes=15)


@dataclass(frozen=True)
class ProcessResult:
    """What came of it: `left` documents are due later or by someone else, `set_aside` were given up by this run."""

    processed: int
    failed: int
    set_aside: int
    left: int
    seconds: float = field(compare=False)


class Documents(Files):
    """`m.files`: the table of documents, and work on them."""

    def process(
        self,
        handler: Handler,
        *,
        mark: str = "imported",
        workers: int = 1,
        chunk: int = 100,
        max_attempts: int = 5,
        **filters: Any,
    ) -> ProcessResult:
        """Call `handler` for each matching document that is due, and set `mark` on success.

        Works in chunks: claimed together, handled by `workers` threads, noted in one transaction. Several processes may
        do this at once on the same state db. A handler that raises has its error noted, and the document is due again
        after a growing delay, at most `max_attempts` times. After a kill the documents of the chunk in hand are due
        again when their lease of 15 minutes ends, so a handler may run twice for them: let it write in a way that may
        be repeated.
        """
        return process(
            self._state,
            self,
            handler,
            mark=mark,
            workers=workers,
            chunk=chunk,
            max_attempts=max_attempts,
            filters=filters,
        )


def process(
    state: State,
    files: Files,
    handler: Handler,
    *,
    mark: str,
    workers: int = 1,
    chunk: int = 100,
    max_attempts: int = 5,
    filters: Mapping[str, Any],
) -> ProcessResult:
    """Do what `Documents.process` says."""
    started = time.monotonic()
    check_writable(mark, state.owners())
    run = _Run(state, handler, mark, workers, max_attempts)
    for keys in _due(files, state.unique, mark, filters, chunk):
        run.chunk(files, keys)
    left = files.count(**{**filters, mark: False})
    log.info("%s: %d processed, %d failed, %d left", mark, run.processed, run.failed, left)
    return ProcessResult(run.processed, run.failed, run.set_aside, left, time.monotonic() - started)


def _due(files: Files, unique: str, mark: str, filters: Mapping[str, Any], size: int) -> Iterator[list[Key]]:
    """Yield the keys of matching documents, in their order and a chunk at a time."""
    conditions = {**filters, mark: False}
    own = conditions.pop(unique, None)
    after: dict[str, Any] = {} if own is None else (dict(own) if isinstance(own, Mapping) else {"=": own})
    # Keys may be numbers and text; SQLite sorts numbers first, which this follows.
    while True:
        page: dict[str, Any] = {**conditions, "order_by": unique, "_limit": size}
        if after:
            page[unique] = after
        found = files.find(**page)
        keys = [file.key for file in found]
        if keys:
            yield keys
        if len(keys) < size:
            return
        after = {**after, ">": keys[-1]}


class _Run:
    def __init__(self, state: State, handler: Handler, mark: str, workers: int, max_attempts: int) -> None:
        self.state = state
        self.handler = handler
        self.mark = mark
        self.workers = workers
        self.max_attempts = max_attempts
        self.work = Work(state, mark)
        self.worker = f"{socket.gethostname()}:{os.getpid()}"
        self.processed = self.failed = self.set_aside = 0

    def chunk(self, files: Files, keys: list[Key]) -> None:
        """Claim, handle and note one chunk."""
        claimed = self.work.claim(keys, self.worker, _LEASE)
        if not claimed:
            return
        documents = [file for key in claimed if (file := files.get(key)) is not None]
        done: dict[Key, Mapping[str, Any]] = {}
        failed: dict[Key, str] = {}
        try:
            if self.workers == 1:
                for document in documents:
                    self._handle(document, done, failed)
            else:
                with ThreadPoolExecutor(self.workers, thread_name_prefix=f"mmmeta-{self.mark}") as pool:
                    list(pool.map(lambda document: self._handle(document, done, failed), documents))
        finally:
            # Also when the user interrupts: what is done is noted, the rest given back.
            self.set_aside += self.work.finish(done, failed, max_attempts=self.max_attempts)
            self.work.release([key for key in claimed if key not in done and key not in failed])
            self.processed += len(done)
            self.failed += len(failed)

    def _handle(self, document: File, done: dict[Key, Mapping[str, Any]], failed: dict[Key, str]) -> None:
        try:
            columns = dict(self.handler(document) or {})
            owners = self.state.owners()
            for column in columns:
                check_writable(column, owners)
            done[document.key] = {**columns, self.mark: True}
        except KeyboardInterrupt:
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a handler may raise anything; it is noted
            log.warning("%s failed for %s: %s", self.mark, document.name, _reason(error))
            failed[document.key] = _reason(error)


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
