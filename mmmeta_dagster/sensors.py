"""A sensor that starts a client's job when the archive's store says that there is something new."""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import dagster as dg

from mmmeta_core import Metadir, Poll
from mmmeta_dagster.decision import FAILED, PastRun, Request, decide, shown
from mmmeta_dagster.resource import find_resource

WATCH: Final = "mmmeta/watch"
"""Tag of runs that one sensor asked for: client, archive and key, whatever code location it is in."""
VALUE: Final = "mmmeta/value"
ATTEMPT: Final = "mmmeta/attempt"

_LOOKED_AT: Final = 25


def build_store_sensor(
    name: str,
    resource: str,
    target: Any,
    *,
    key: str | Sequence[str] = "remote_last_updated",
    retry_marks: Sequence[str] = (),
    max_attempts: int = 3,
    minimum_interval_seconds: int = 30,
    default_status: dg.DefaultSensorStatus = dg.DefaultSensorStatus.STOPPED,
    description: str | None = None,
) -> dg.SensorDefinition:
    """Return a sensor that requests a run of `target` when the store value `key` at the remote is not the handled one.

    Of several keys any will do. `resource` is the key of the client's `MetadirResource`; `target` a job or asset
    selection that updates it. A tick reads one small object. What was handled is what the client's state db has from its
    last update, so a renamed or moved sensor asks for nothing twice; values are compared by difference, not order. One
    run is in flight at a time; what changed meanwhile is asked for when it is done. A run that failed is asked for again
    up to `max_attempts` times per value, with a delay of one minute that quadruples up to six hours. Between publishes a
    run is also requested when documents that a pipeline of `retry_marks` failed at are due again.
    """
    keys = [key] if isinstance(key, str) else list(key)
    named = ", ".join(keys)

    @dg.sensor(
        name=name,
        target=target,
        required_resource_keys={resource},
        minimum_interval_seconds=minimum_interval_seconds,
        default_status=default_status,
        description=description
        or f"Starts when {named} of the archive differs from what {resource} has handled.",
        metadata={"mmmeta/key": named, "mmmeta/resource": resource},
    )
    def watch(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        with find_resource(context.resources, resource).open() as metadir:
            poll = metadir.poll(keys[0]) if len(keys) == 1 else together(metadir.polls(keys))
            due = sum(metadir.due_again(mark) for mark in retry_marks)
            identity = identity_of(metadir, poll.key)
        history = history_of(context.instance, identity)
        decision = decide(poll, history, due, max_attempts, datetime.now(UTC))
        if isinstance(decision, str):
            return dg.SkipReason(decision)
        return requested(decision, identity)

    return watch


def requested(request: Request, identity: str, job: str | None = None) -> dg.RunRequest:
    """Return the run that was decided on, as Dagster takes it."""
    return dg.RunRequest(
        run_key=f"{identity}:{request.value}:{request.after}",
        job_name=job,
        tags={WATCH: identity, VALUE: request.value, ATTEMPT: str(request.attempt)},
    )


def together(polls: Sequence[Poll]) -> Poll:
    """Return what several keys say as one; one key says the same alone."""
    if len(polls) == 1:
        return polls[0]
    return Poll(
        key=", ".join(poll.key for poll in polls),
        remote=_values({poll.key: poll.remote for poll in polls}),
        handled=_values({poll.key: poll.handled for poll in polls}),
        changed=any(poll.changed for poll in polls),
    )


def _values(values: Mapping[str, Any]) -> str | None:
    there = [f"{key}={shown(value)}" for key, value in values.items() if value is not None]
    return ", ".join(there) or None


def history_of(instance: dg.DagsterInstance, identity: str) -> list[PastRun]:
    """Return the runs that were asked for, the latest first; before them one by hand that made up for them."""
    records = instance.get_run_records(filters=dg.RunsFilter(tags={WATCH: identity}), limit=_LOOKED_AT)
    history = [_past(record) for record in records]
    if history and history[0].status in FAILED:
        job = records[0].dagster_run.job_name
        done = dg.RunsFilter(
            job_name=job, statuses=[dg.DagsterRunStatus.SUCCESS], created_after=history[0].ended
        )
        # A job without a name of its own is a selection of assets, which may be any.
        by_hand = [] if job.startswith("__") else instance.get_run_records(filters=done, limit=1)
        history = [*map(_past, by_hand), *history]
    return history


def _past(record: dg.RunRecord) -> PastRun:
    run = record.dagster_run
    ended = datetime.fromtimestamp(record.end_time, UTC) if record.end_time else record.create_timestamp
    return PastRun(run.run_id, run.status, run.tags.get(VALUE, ""), ended)


def identity_of(metadir: Metadir, key: str) -> str:
    """Return what names this watch: client, archive and key. Nothing of it depends on Dagster's names.

    Clients in containers may all have the same path; then it is the state db, elsewhere, that tells them apart.
    """
    remote = metadir.remote.url if metadir.remote else ""
    elsewhere = [metadir.state_name] if metadir.state_name != str(metadir.paths.state) else []
    text = "\n".join([str(metadir.path.resolve()), remote, key, *elsewhere])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
