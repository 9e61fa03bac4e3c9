"""Watch: keep a client up to date without an orchestrator, poll after poll."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from inspect import signature
from typing import Any, Final, Protocol

from mmmeta_core.database.state import State
from mmmeta_core.errors import ConfigError, LogError, RemoteError, UnavailableError
from mmmeta_core.events import event
from mmmeta_core.notebook import Shown
from mmmeta_core.process import (
    Documents,
    Handler,
    ProcessOptions,
    ProcessResult,
    due_count,
    settings_text,
)
from mmmeta_core.types import utcnow
from mmmeta_core.update import UpdateResult

log = logging.getLogger(__name__)

INTERVAL: Final = 60.0
_LONGEST_SECONDS: Final = 900.0
_AWAY: Final = (RemoteError, LogError, UnavailableError)
"""What passes by itself, or when somebody has mended the archive."""


@dataclass(frozen=True)
class Turn(Shown):
    """What one poll led to.

    `revision` is the one that is merged here. `updated`, `processed` and `removed` (deleted documents that were handled) are
    None when there was nothing new, and nothing to do. `error` says why there was no answer; after it the next poll comes
    later. `wait` is in how many seconds.
    """

    at: datetime
    revision: int
    updated: UpdateResult | None = None
    processed: ProcessResult | None = None
    removed: ProcessResult | None = None
    error: str | None = None
    wait: float = 0.0

    @property
    def changed(self) -> bool:
        """Whether something was merged or done."""
        return any(came is not None for came in (self.updated, self.processed, self.removed))

    @property
    def failed(self) -> int:
        """How many documents failed, deleted ones among them."""
        return sum(done.failed for done in (self.processed, self.removed) if done is not None)


class Answer(Protocol):
    """What a poll says."""

    @property
    def changed(self) -> bool:
        """Whether the remote has something that is not merged here."""


@dataclass(frozen=True)
class Steps:
    """What a turn is made of. `work` and `remove` do what is due, if anything is, or return None."""

    poll: Callable[[], Answer]
    pull: Callable[[], object]
    update: Callable[[], UpdateResult]
    revision: Callable[[], int]
    work: Callable[[], ProcessResult | None]
    remove: Callable[[], ProcessResult | None]


class Place(Protocol):
    """The metadir whose documents are worked on."""

    @property
    def state(self) -> State:
        """See `Metadir.state`."""

    @property
    def files(self) -> Documents:
        """See `Metadir.files`."""


class Work:
    """What is due for a pipeline. After the first time nothing but a count is asked where nothing is."""

    def __init__(
        self,
        place: Place,
        handler: Handler | None,
        mark: str,
        filters: Callable[[], Mapping[str, Any]],
        options: Mapping[str, Any],
    ) -> None:
        """Take the arguments of `Documents.process`; `filters` gives further ones, anew for each turn."""
        self._place = place
        self._handler = handler
        self._mark = mark
        self._filters = filters
        self._options = options
        self._ran = False

    def __call__(self) -> ProcessResult | None:
        """Do what is due; return None if that was nothing."""
        if self._handler is None:
            return None
        place, given = self._place, {**self._options, **self._filters()}
        on, settings = given.get("on", "due"), self._settings(given)
        if self._ran and not due_count(place.state, place.files, self._mark, settings, on):
            return None
        result = place.files.process(self._handler, mark=self._mark, **given)
        self._ran = True
        return result if result.processed or result.failed else None

    def _settings(self, given: Mapping[str, Any]) -> str | None:
        filters = {name: value for name, value in given.items() if name not in _OPTIONS}
        return settings_text(ProcessOptions(self._mark, on_change=given.get("on_change", "content")), filters)


_OPTIONS: Final = frozenset(signature(Documents.process).parameters)


def removal(place: Place, handler: Handler | None, mark: str, options: Mapping[str, Any]) -> Work:
    """Return what is due for documents that a pipeline has done and that are deleted now, whatever else they are."""
    own = {name: value for name, value in options.items() if name in _OPTIONS}
    return Work(place, handler, mark, dict, {**own, "on": "deleted"})


def watch(
    steps: Steps,
    *,
    interval: float = INTERVAL,
    max_polls: int | None = None,
    stop: threading.Event | None = None,
) -> Iterator[Turn]:
    """Yield a turn for each poll, and wait in between.

    One request when nothing is new. A remote that does not answer, or can't be read, is asked again after a growing
    time, at most a quarter of an hour; what that was is logged once. The first poll raises it: a wrong URL is wrong at
    once. Waits differ by chance, so that many clients don't come together. Ends after `max_polls`, or when `stop` is set.
    """
    if interval <= 0:
        raise ConfigError(f"interval={interval!r} must be more than 0")
    stopped = stop or threading.Event()
    number = failures = 0
    while not stopped.is_set():
        number += 1
        try:
            turn = _turn(steps)
        except _AWAY as error:
            if number == 1:
                raise
            failures += 1
            turn = Turn(utcnow(), steps.revision(), error=str(error))
            level, reason = logging.WARNING if failures == 1 else logging.DEBUG, str(error).rstrip(".")
            fields = event("away", reason=reason, failures=failures)
            log.log(level, "%s; it is asked again, less and less often", reason, extra=fields)
        else:
            if failures:
                log.info("the remote answers again", extra=event("back", failures=failures))
            failures = 0
        is_last = number == max_polls
        wait = 0.0 if is_last else _wait(interval, failures)
        yield replace(turn, wait=wait)
        if is_last:
            return
        stopped.wait(wait)


def _turn(steps: Steps) -> Turn:
    before, updated = steps.revision(), None
    if steps.poll().changed:
        steps.pull()
        result = steps.update()
        updated = result if result.revision != before else None
    return Turn(utcnow(), steps.revision(), updated, steps.work(), steps.remove())


def _wait(interval: float, failures: int) -> float:
    """Return how many seconds to wait after so many polls without an answer."""
    longest = max(interval, _LONGEST_SECONDS)
    seconds: float = min(interval * 2 ** min(failures, 20), longest)
    return seconds * random.uniform(0.9, 1.1)  # noqa: S311 - jitter, not a secret
