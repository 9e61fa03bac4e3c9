"""Process: do something with each document that is due, once, and remember what came of it."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from itertools import islice
from typing import Any, Final, Protocol, TypeAlias, get_args, runtime_checkable

import orjson

from mmmeta_core.database.sqlite import CHUNK
from mmmeta_core.database.state import State, check_values
from mmmeta_core.database.work import LEASE_SECONDS, Claim, On, OnChange, Work
from mmmeta_core.errors import ConfigError, MmmetaError, UnavailableError
from mmmeta_core.events import event
from mmmeta_core.files import File, Files
from mmmeta_core.notebook import Shown
from mmmeta_core.trouble import explained_database
from mmmeta_core.types import Key, Progress, format_time, parse_time

log = logging.getLogger(__name__)

Handler: TypeAlias = Callable[[File], Mapping[str, Any] | None]
"""Takes a document; may return columns to save with the mark. Raising is a failure of this document only."""

_STOPS: Final = (UnavailableError, ConfigError)
"""What a handler raises when no document is to blame."""

_CLAUSES: Final = frozenset({"order_by", "_offset", "_streamed", "_step", "deleted"})


@runtime_checkable
class ChunkHandler(Protocol):
    """A handler that is quicker with many documents at once.

    When `chunk` raises it must have done nothing: then the documents are handed to the handler one by one.
    """

    def __call__(self, file: File, /) -> Mapping[str, Any] | None:
        """Handle one document."""

    def chunk(self, files: Sequence[File], /) -> None:
        """Handle all of these documents, or raise."""


@dataclass(frozen=True)
class ProcessOptions:
    """How documents are processed; see `Documents.process`."""

    mark: str = "imported"
    on: On = "due"
    on_change: OnChange = "content"
    workers: int = 1
    chunk: int = 100
    max_attempts: int = 5
    timeout: float | None = None
    limit: int | None = None
    lease: float = LEASE_SECONDS

    def __post_init__(self) -> None:
        """Raise `ConfigError` for what can't be."""
        for name, choices in (("on", get_args(On)), ("on_change", get_args(OnChange))):
            if getattr(self, name) not in choices:
                raise ConfigError(f"{name}={getattr(self, name)!r} is not one of {', '.join(choices)}")
        for name in ("workers", "chunk", "max_attempts", "timeout", "limit", "lease"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigError(f"{name}={value!r} must be more than 0")
        if self.chunk > CHUNK:
            raise ConfigError(
                f"chunk={self.chunk} is more than {CHUNK} documents, which are claimed together"
            )


@dataclass(frozen=True)
class ProcessResult(Shown):
    """What came of it. `left` matching documents are not done: due later, set aside, or someone else is at them.

    `set_aside` were given up by this run, they are among the `failed`.
    """

    processed: int
    failed: int
    set_aside: int
    left: int
    seconds: float = field(compare=False)


@dataclass(frozen=True)
class Share:
    """A part of the documents that are due, for one worker: a range of keys, both ends included, and how many there are."""

    first: Key
    last: Key
    documents: int

    def within(self, filters: Mapping[str, Any], unique: str) -> dict[str, Any]:
        """Return the filters narrowed down to this range; `unique` is the key column."""
        own = filters.get(unique, {})
        narrowed = dict(own) if isinstance(own, Mapping) else {"=": own}
        return {**filters, unique: {**narrowed, ">=": self.first, "<=": self.last}}


@dataclass(frozen=True)
class Left:
    """Documents that are not done. Of those that are `claimed` somebody is at work on them, or was killed at it."""

    documents: int
    claimed: int


class Documents(Files):
    """`m.files`: the table of documents, and work on them."""

    def shares(
        self,
        size: int,
        most: int,
        *,
        mark: str = "imported",
        on_change: OnChange = "content",
        limit: int | None = None,
        **filters: Any,
    ) -> list[Share]:
        """Divide the documents that `process` would take into ranges of at most `size`, at most `most` of them.

        Nothing is claimed: who processes a share (`process(…, **share.within(filters, m.files.unique))`) claims what is
        still due of it then. Costs a look at the keys of these documents, and no more.
        """
        options = ProcessOptions(mark=mark, on_change=on_change, limit=limit)
        with explained_database(self._state.name):
            return shares(self._state, self, options, filters, size, most)

    def left(self, *, mark: str = "imported", on_change: OnChange = "content", **filters: Any) -> Left:
        """Return how many matching documents are not done, and how many of these somebody has claimed."""
        options = ProcessOptions(mark=mark, on_change=on_change)
        with explained_database(self._state.name):
            return left(self._state, self, options, filters)

    def process(
        self,
        handler: Handler,
        *,
        mark: str = "imported",
        on: On = "due",
        on_change: OnChange = "content",
        workers: int = 1,
        chunk: int = 100,
        max_attempts: int = 5,
        timeout: float | None = None,
        limit: int | None = None,
        lease: float = LEASE_SECONDS,
        progress: Progress | None = None,
        **filters: Any,
    ) -> ProcessResult:
        """Call `handler` for each matching document that is due, and set `mark` on success.

        Due is what is not marked, not deleted, not set aside, and what nobody else is at. With `on="deleted"` it is
        what was done and is deleted now; success takes the mark away, so a document that is restored is due again.
        A document that was done is due again when its `content_hash` changes, with `on_change="again"` when anything
        that is published of it changes, with `"ignore"` never.

        Works in chunks: claimed together, handled by `workers` threads (1: by this one), noted in one transaction.
        Several processes may do this at once on the same state db. A handler that raises, or takes longer than
        `timeout` seconds, is a failure of this document: the error is noted, and it is due again after a growing
        delay, at most `max_attempts` times until the publisher changes it. A handler that hangs can't be stopped, its
        thread is left behind and what it does later is not noted. One that raises `UnavailableError` or `ConfigError`
        stops the run: what it needs for any document is not there, and no document is to blame.

        A claim is a lease of `lease` seconds that is renewed while the process lives. After a kill the documents in
        hand are due again when it ends, so a handler may run twice for them: let it write in a way that may be
        repeated. At most `limit` documents are tried. Raises `ConfigError`, `ColumnError` for a mark that is not the
        client's to set; then nothing is done; and what stops the run.
        """
        options = ProcessOptions(mark, on, on_change, workers, chunk, max_attempts, timeout, limit, lease)
        with explained_database(self._state.name):
            return process(self._state, self, handler, options, filters, progress)


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


def settings_text(options: ProcessOptions, filters: Mapping[str, Any]) -> str | None:
    """Return the settings that decide what is due, as JSON; None for filters that JSON can't hold."""

    def plain(value: Any) -> Any:
        if isinstance(value, set | frozenset):
            return list(value)
        if isinstance(value, datetime):
            return {"__time__": value.isoformat()}
        raise TypeError

    try:
        text = orjson.dumps(
            {"on_change": options.on_change, "filters": dict(filters)},
            default=plain,
            option=orjson.OPT_PASSTHROUGH_DATETIME,
        )
    except TypeError:
        return None
    return text.decode()


def due_count(state: State, files: Files, mark: str, settings: str | None, on: On = "due") -> int:
    """Return how many documents a pipeline with these settings (`settings_text`) can do now."""
    kept = orjson.loads(settings) if settings else {}
    options = ProcessOptions(mark=mark, on=on, on_change=kept.get("on_change", "content"))
    filters = {name: _revived(value) for name, value in kept.get("filters", {}).items()}
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


def _revived(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"__time__"}:
            return parse_time(value["__time__"])
        return {name: _revived(one) for name, one in value.items()}
    return [_revived(one) for one in value] if isinstance(value, list) else value


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
        self.handler = handler
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
        with self._renewing(), self._pool() as pool:
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
        outcome = _Outcome()
        try:
            documents = [self._current(file, claims[file.key]) for file in files if file.key in claims]
            self._handle_all(documents, outcome, pool)
        finally:
            # Also when the user interrupts: what is done is noted, the rest given back.
            self._note(claims, outcome)

    def _current(self, file: File, claim: Claim) -> File:
        """Return the document as it was when it was claimed: it may have changed since the page was read."""
        read = file["__meta_last_updated"]
        same = read is not None and format_time(read) == claim.version
        return file if same else self.files.get(file.key) or file

    def _note(self, claims: Mapping[Key, Claim], outcome: _Outcome) -> None:
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

    # --- handling

    def _handle_all(self, files: list[File], outcome: _Outcome, pool: ThreadPoolExecutor | None) -> None:
        if isinstance(self.handler, ChunkHandler) and self.options.timeout is None and len(files) > 1:
            try:
                self.handler.chunk(files)
            except _STOPS:
                raise
            except Exception as error:  # noqa: BLE001 - tried again one by one, where it is noted
                mark, reason = self.options.mark, _reason(error)
                fields = event("one by one", mark=mark, documents=len(files), reason=reason)
                log.info("%s: %s; now one by one", mark, reason, extra=fields)
            else:
                outcome.done.update({file.key: {} for file in files})
                return
        if pool is None:
            for file in files:
                self._handle(file, outcome)
        else:
            self._handle_in(pool, files, outcome)

    def _handle_in(self, pool: ThreadPoolExecutor, files: list[File], outcome: _Outcome) -> None:
        futures: list[Future[None]] = []
        try:
            for file in files:
                futures.append(pool.submit(self._handle, file, outcome))  # noqa: PERF401 - an interrupt may come
            for future in futures:
                future.result()
        except BaseException:
            # What has begun is waited for, so that it can be noted.
            for future in futures:
                future.cancel()
            wait(futures)
            raise

    def _handle(self, file: File, outcome: _Outcome) -> None:
        try:
            values = dict(self._bounded(file) or {})
            if values:
                check_values(values, self.state.owners())
            outcome.done[file.key] = values
        except (KeyboardInterrupt, *_STOPS):
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a handler may raise anything; it is noted
            mark, reason = self.options.mark, _reason(error)
            fields = event("failed", mark=mark, key=file.key, name=file.name, reason=reason)
            log.warning("%s failed for %r: %s", mark, file.name, reason, extra=fields)
            outcome.failed[file.key] = reason

    def _bounded(self, file: File) -> Mapping[str, Any] | None:
        """Call the handler, for at most the time it has."""
        timeout = self.options.timeout
        if timeout is None:
            return self.handler(file)
        results: list[Mapping[str, Any] | None] = []
        errors: list[BaseException] = []

        def call() -> None:
            try:
                results.append(self.handler(file))
            except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
                errors.append(error)

        thread = threading.Thread(target=call, daemon=True, name=f"mmmeta-{self.options.mark}-{file.name}")
        thread.start()
        thread.join(timeout)
        if errors:
            raise errors[0]
        if not results:
            raise TimeoutError(f"the handler took longer than {timeout:g} s and was left behind")
        return results[0]

    @contextmanager
    def _pool(self) -> Iterator[ThreadPoolExecutor | None]:
        if self.options.workers == 1:
            yield None
            return
        with ThreadPoolExecutor(
            self.options.workers, thread_name_prefix=f"mmmeta-{self.options.mark}"
        ) as pool:
            yield pool

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


@dataclass
class _Outcome:
    done: dict[Key, Mapping[str, Any]] = field(default_factory=dict)
    failed: dict[Key, str] = field(default_factory=dict)


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
