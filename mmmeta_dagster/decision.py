"""Which run a store sensor asks for: decided from what it sees and from the runs before, without any I/O."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import takewhile
from typing import Final

import dagster as dg

from mmmeta_core import Poll

FAILED: Final = frozenset({dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED})
FINISHED: Final = FAILED | {dg.DagsterRunStatus.SUCCESS}

_DUE_AGAIN: Final = "due again"
_FIRST_DELAY: Final = timedelta(minutes=1)
_LONGEST_DELAY: Final = timedelta(hours=6)


@dataclass(frozen=True)
class PastRun:
    """A run that this sensor asked for before; `value` is what for."""

    id: str
    status: dg.DagsterRunStatus
    value: str
    ended: datetime


@dataclass(frozen=True)
class Request:
    """A run to ask for: what for, the number of the attempt at it, and the run that it comes after."""

    value: str
    attempt: int
    after: str


def decide(
    poll: Poll, history: Sequence[PastRun], due: int, max_attempts: int, now: datetime
) -> Request | str:
    """Return the run to ask for, or why there is none. `history` has the latest run first."""
    values = f"{poll.key} at the remote is {shown(poll.remote)}, handled is {shown(poll.handled)}"
    latest = history[0] if history else None
    if latest is not None and latest.status not in FINISHED:
        return f"run {latest.id} is in flight ({latest.status.value.lower()}); {values}"
    if poll.remote is None and poll.handled is None:
        return f"the archive has no {poll.key} yet: nothing was published, or no publisher sets this key"
    if poll.changed:
        value = value_tag(poll.remote)
    elif latest is not None and latest.status in FAILED:
        # The client may have been updated, but what comes after that in the run was not done.
        value = latest.value
    elif due:
        value = _DUE_AGAIN
    else:
        return f"nothing new: {values}"
    return _next_attempt(value, history, values, max_attempts, now)


def _next_attempt(
    value: str, history: Sequence[PastRun], values: str, max_attempts: int, now: datetime
) -> Request | str:
    attempts = sum(1 for _ in takewhile(lambda run: run.value == value, history))
    if not attempts:
        return Request(value, 1, history[0].id if history else "first")
    latest = history[0]
    if attempts >= max_attempts and value != _DUE_AGAIN:
        return (
            f"gave up after {attempts} attempts, the last one was run {latest.id}, until the value changes or "
            f"the job is started by hand: {values}"
        )
    next_at = latest.ended + min(_FIRST_DELAY * 4 ** min(attempts - 1, 10), _LONGEST_DELAY)
    if now < next_at:
        return f"attempt {attempts + 1} comes after {next_at.isoformat(timespec='seconds')}: {values}"
    return Request(value, attempts + 1, latest.id)


def value_tag(value: object) -> str:
    """Return a store value as a run's tag."""
    text = shown(value)
    return text if len(text) <= 64 else hashlib.sha256(text.encode()).hexdigest()[:32]


def shown(value: object) -> str:
    """Return a store value for people."""
    if value is None:
        return "not set"
    return value.isoformat() if isinstance(value, datetime) else str(value)
