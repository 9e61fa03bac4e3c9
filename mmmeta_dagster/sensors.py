"""A sensor that starts a client's job when the archive's store says that there is something new."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from typing import Any, Final

import dagster as dg

from mmmeta_core import Metadir, Poll
from mmmeta_dagster.resource import MetadirResource

WATCH: Final = "mmmeta/watch"
"""Tag of runs that one sensor asked for: client, archive and key, whatever code location it is in."""
VALUE: Final = "mmmeta/value"
ATTEMPT: Final = "mmmeta/attempt"

_FAILED: Final = frozenset({dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED})
_FINISHED: Final = _FAILED | {dg.DagsterRunStatus.SUCCESS}
_FIRST_DELAY: Final = timedelta(minutes=1)
_LONGEST_DELAY: Final = timedelta(hours=6)
_LOOKED_AT: Final = 25
_DUE_AGAIN: Final = "due again"


def build_store_sensor(
    name: str,
    resource: str,
    target: Any,
    *,
    key: str = "remote_last_updated",
    retry_marks: Sequence[str] = (),
    max_attempts: int = 3,
    minimum_interval_seconds: int = 30,
    default_status: dg.DefaultSensorStatus = dg.DefaultSensorStatus.STOPPED,
    description: str | None = None,
) -> dg.SensorDefinition:
    """Return a sensor that requests a run of `target` when the store value `key` at the remote is not the handled one.

    `resource` is the key of the client's `MetadirResource`; `target` a job or asset selection that updates it. A tick
    reads one small object. What was handled is what the client's state db has from its last update, so a
    renamed or moved sensor asks for nothing twice; values are compared by difference, not order. One run is in
    flight at a time; what changed meanwhile is asked for when it is done. A run that failed is asked for again up to
    `max_attempts` times per value, with a delay of one minute that quadruples up to six hours. Between publishes a run is
    also requested when documents that a pipeline of `retry_marks` failed at are due again.
    """

    @dg.sensor(
        name=name,
        target=target,
        required_resource_keys={resource},
        minimum_interval_seconds=minimum_interval_seconds,
        default_status=default_status,
        description=description
        or f"Starts when {key} of the archive differs from what {resource} has handled.",
        metadata={"mmmeta/key": key, "mmmeta/resource": resource},
    )
    def watch(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        found = getattr(context.resources, resource)
        if not isinstance(found, MetadirResource):
            raise dg.DagsterInvalidDefinitionError(
                f"resource {resource!r} is a {type(found).__name__}, not a MetadirResource"
            )
        with found.open() as metadir:
            poll = metadir.poll(key)
            due = sum(metadir.due_again(mark) for mark in retry_marks)
            identity = _identity(metadir, key)
        history = _history(context.instance, identity)
        decision = _decide(poll, history, due, max_attempts, datetime.now(UTC))
        if isinstance(decision, str):
            return dg.SkipReason(decision)
        return dg.RunRequest(
            run_key=f"{identity}:{decision.value}:{decision.after}",
            tags={WATCH: identity, VALUE: decision.value, ATTEMPT: str(decision.attempt)},
        )

    return watch


@dataclass(frozen=True)
class _Run:
    """A run that this sensor asked for before; `value` is what for."""

    id: str
    status: dg.DagsterRunStatus
    value: str
    ended: datetime


@dataclass(frozen=True)
class _Request:
    """A run to ask for: what for, the number of the attempt at it, and the run that it comes after."""

    value: str
    attempt: int
    after: str


def _decide(
    poll: Poll, history: Sequence[_Run], due: int, max_attempts: int, now: datetime
) -> _Request | str:
    """Return the run to ask for, or why there is none. `history` has the latest run first."""
    values = f"{poll.key} at the remote is {_shown(poll.remote)}, handled is {_shown(poll.handled)}"
    latest = history[0] if history else None
    if latest is not None and latest.status not in _FINISHED:
        return f"run {latest.id} is in flight ({latest.status.value.lower()}); {values}"
    if poll.remote is None and poll.handled is None:
        return f"the archive has no {poll.key} yet: nothing was published, or no publisher sets this key"
    value = _tag(poll.remote)
    if not poll.changed and not _failed_at(value, latest):
        if not due:
            return f"nothing new: {values}"
        value = _DUE_AGAIN
    return _next_attempt(value, history, values, max_attempts, now)


def _next_attempt(
    value: str, history: Sequence[_Run], values: str, max_attempts: int, now: datetime
) -> _Request | str:
    attempts = sum(1 for _ in takewhile(lambda run: run.value == value, history))
    if not attempts:
        return _Request(value, 1, history[0].id if history else "first")
    latest = history[0]
    if attempts >= max_attempts and value != _DUE_AGAIN:
        return (
            f"gave up after {attempts} attempts, the last one was run {latest.id}, until the value changes or "
            f"the job is started by hand: {values}"
        )
    next_at = latest.ended + min(_FIRST_DELAY * 4 ** min(attempts - 1, 10), _LONGEST_DELAY)
    if now < next_at:
        return f"attempt {attempts + 1} comes after {next_at.isoformat(timespec='seconds')}: {values}"
    return _Request(value, attempts + 1, latest.id)


def _failed_at(value: str, latest: _Run | None) -> bool:
    return latest is not None and latest.value == value and latest.status != dg.DagsterRunStatus.SUCCESS


def _history(instance: dg.DagsterInstance, identity: str) -> list[_Run]:
    """Return the runs that were asked for, the latest first; before them one by hand that made up for them."""
    records = instance.get_run_records(filters=dg.RunsFilter(tags={WATCH: identity}), limit=_LOOKED_AT)
    history = [_run(record) for record in records]
    if history and history[0].status in _FAILED:
        job = records[0].dagster_run.job_name
        done = dg.RunsFilter(
            job_name=job, statuses=[dg.DagsterRunStatus.SUCCESS], created_after=history[0].ended
        )
        # A job without a name of its own is a selection of assets, which may be any.
        by_hand = [] if job.startswith("__") else instance.get_run_records(filters=done, limit=1)
        history = [*map(_run, by_hand), *history]
    return history


def _run(record: dg.RunRecord) -> _Run:
    run = record.dagster_run
    ended = datetime.fromtimestamp(record.end_time, UTC) if record.end_time else record.create_timestamp
    return _Run(run.run_id, run.status, run.tags.get(VALUE, ""), ended)


def _identity(metadir: Metadir, key: str) -> str:
    """Return what names this watch: client, archive and key. Nothing of it depends on Dagster's names."""
    remote = metadir.remote.url if metadir.remote else ""
    text = "\n".join([str(metadir.path.resolve()), remote, key])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _tag(value: object) -> str:
    text = _shown(value)
    return text if len(text) <= 64 else hashlib.sha256(text.encode()).hexdigest()[:32]


def _shown(value: object) -> str:
    if value is None:
        return "not set"
    return value.isoformat() if isinstance(value, datetime) else str(value)
