"""Documents on their way through the handler: in this thread or in several, with a time limit, errors noted."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from mmmeta_core.database.state import State, check_values
from mmmeta_core.errors import ConfigError, UnavailableError
from mmmeta_core.events import event
from mmmeta_core.files import File
from mmmeta_core.process.settings import ChunkHandler, Handler, ProcessOptions
from mmmeta_core.types import Key

log = logging.getLogger(__name__)

_STOPS: Final = (UnavailableError, ConfigError)
"""What a handler raises when no document is to blame."""


@dataclass
class Outcome:
    """What came of a chunk so far: what to save with the mark of each document that is done, and why others failed."""

    done: dict[Key, Mapping[str, Any]] = field(default_factory=dict)
    failed: dict[Key, str] = field(default_factory=dict)


class Handling:
    """One run's way of handling documents."""

    def __init__(self, state: State, handler: Handler, options: ProcessOptions) -> None:
        self._state = state
        self._handler = handler
        self._options = options

    def all(self, files: list[File], outcome: Outcome, pool: ThreadPoolExecutor | None) -> None:
        """Handle a chunk. What comes of it is in `outcome` also if this raises what stops the run, or is interrupted."""
        if isinstance(self._handler, ChunkHandler) and self._options.timeout is None and len(files) > 1:
            try:
                self._handler.chunk(files)
            except _STOPS:
                raise
            except Exception as error:  # noqa: BLE001 - tried again one by one, where it is noted
                mark, reason = self._options.mark, _reason(error)
                fields = event("one by one", mark=mark, documents=len(files), reason=reason)
                log.info("%s: %s; now one by one", mark, reason, extra=fields)
            else:
                outcome.done.update({file.key: {} for file in files})
                return
        if pool is None:
            for file in files:
                self._one(file, outcome)
        else:
            self._in_threads(pool, files, outcome)

    def _in_threads(self, pool: ThreadPoolExecutor, files: list[File], outcome: Outcome) -> None:
        futures: list[Future[None]] = []
        try:
            for file in files:
                futures.append(pool.submit(self._one, file, outcome))  # noqa: PERF401 - an interrupt may come
            for future in futures:
                future.result()
        except BaseException:
            # What has begun is waited for, so that it can be noted.
            for future in futures:
                future.cancel()
            wait(futures)
            raise

    def _one(self, file: File, outcome: Outcome) -> None:
        try:
            values = dict(self._bounded(file) or {})
            if values:
                check_values(values, self._state.owners())
            outcome.done[file.key] = values
        except (KeyboardInterrupt, *_STOPS):
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a handler may raise anything; it is noted
            mark, reason = self._options.mark, _reason(error)
            fields = event("failed", mark=mark, key=file.key, name=file.name, reason=reason)
            log.warning("%s failed for %r: %s", mark, file.name, reason, extra=fields)
            outcome.failed[file.key] = reason

    def _bounded(self, file: File) -> Mapping[str, Any] | None:
        """Call the handler, for at most the time it has."""
        timeout = self._options.timeout
        if timeout is None:
            return self._handler(file)
        results: list[Mapping[str, Any] | None] = []
        errors: list[BaseException] = []

        def call() -> None:
            try:
                results.append(self._handler(file))
            except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
                errors.append(error)

        thread = threading.Thread(target=call, daemon=True, name=f"mmmeta-{self._options.mark}-{file.name}")
        thread.start()
        thread.join(timeout)
        if errors:
            raise errors[0]
        if not results:
            raise TimeoutError(f"the handler took longer than {timeout:g} s and was left behind")
        return results[0]

    @contextmanager
    def pool(self) -> Iterator[ThreadPoolExecutor | None]:
        """Give the threads that a run needs; None for the one that it is in."""
        if self._options.workers == 1:
            yield None
            return
        with ThreadPoolExecutor(
            self._options.workers, thread_name_prefix=f"mmmeta-{self._options.mark}"
        ) as pool:
            yield pool


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
