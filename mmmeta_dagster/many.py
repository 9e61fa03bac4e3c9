"""One sensor for many clients of many archives: each archive is asked once a tick, whatever hangs from it."""

import json
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Self

import dagster as dg

from mmmeta_core import Metadir, MmmetaError, Poll
from mmmeta_dagster.decision import PastRun, decide
from mmmeta_dagster.resource import MetadirResource, find_resource
from mmmeta_dagster.sensors import WATCH, history_of, identity_of, requested, together

_UNSUCCESSFUL: Final = [status for status in dg.DagsterRunStatus if status != dg.DagsterRunStatus.SUCCESS]
_LOOKED_AT: Final = 1000


def build_clients_sensor(
    name: str,
    clients: Mapping[str, Any],
    *,
    key: str | Sequence[str] = "remote_last_updated",
    retry_marks: Sequence[str] = (),
    max_attempts: int = 3,
    workers: int = 16,
    seconds: float = 40,
    most: int = 100,
    minimum_interval_seconds: int = 30,
    default_status: dg.DefaultSensorStatus = dg.DefaultSensorStatus.STOPPED,
    description: str | None = None,
) -> dg.SensorDefinition:
    """Return a sensor that does for many clients what `build_store_sensor` does for one.

    `clients` are jobs by the key of their client's `MetadirResource`. What is asked for, and when again, is decided for each
    client by itself, by what its own state db has handled; either kind of sensor knows the runs that the other has asked
    for. A tick reads `head.json` of each archive once, `workers` of them at a time. It looks for at most `seconds` and
    asks for at most `most` runs; the next one goes on from there, as the cursor says. An archive that does not answer is
    said in the log and in the skip reason, looked at last by the next tick, and holds up no other.
    """
    keys = [key] if isinstance(key, str) else list(key)
    jobs = {job.name: job for job in clients.values()}
    looking = _Looking(keys, retry_marks, workers, seconds)

    @dg.sensor(
        name=name,
        jobs=list(jobs.values()),
        required_resource_keys=set(clients),
        minimum_interval_seconds=minimum_interval_seconds,
        default_status=default_status,
        description=description
        or f"Starts the jobs of {len(clients)} clients when {', '.join(keys)} of their archive differs.",
        metadata={"mmmeta/key": ", ".join(keys), "mmmeta/clients": len(clients)},
    )
    def watch(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        archives = _by_archive({one: find_resource(context.resources, one) for one in clients})
        cursor = _Cursor.read(context.cursor)
        order = cursor.order(list(archives))
        looks = looking.at({archive: archives[archive] for archive in order})
        past = _Past(context.instance, [seen.identity for look in looks.values() for seen in look.seen])
        requests: list[dg.RunRequest] = []
        waiting, following = 0, None
        for archive in order:
            if archive not in looks or len(requests) >= most:
                following = archive
                break
            for seen in looks[archive].seen:
                decision = decide(seen.poll, past.of(seen), seen.due, max_attempts, datetime.now(UTC))
                if not isinstance(decision, str):
                    requests.append(requested(decision, seen.identity, clients[seen.client].name))
                elif not decision.startswith("nothing new"):
                    waiting += 1
                    context.log.info("%s: %s", seen.client, decision)
        broken = {archive: look.error for archive, look in looks.items() if look.error is not None}
        for archive, error in broken.items():
            context.log.warning("%s: %s", archive, error)
        told = f"looked at {len(looks)} of {len(archives)} archives: nothing new, {waiting} clients wait"
        if broken:
            told += f"; {len(broken)} gave no answer, such as {next(iter(broken.values()))}"
        return dg.SensorResult(
            run_requests=requests,
            skip_reason=None if requests else told,
            cursor=_Cursor(following, tuple(broken)).to_json(),
        )

    return watch


def _by_archive(resources: Mapping[str, MetadirResource]) -> dict[str, list[tuple[str, Metadir]]]:
    """Return the clients, not connected yet, by the archive that they are reached at."""
    found: dict[str, list[tuple[str, Metadir]]] = {}
    for name, resource in resources.items():
        metadir = resource.open()
        if metadir.remote is None:
            raise dg.DagsterInvalidDefinitionError(f"resource {name!r} has no remote to look at")
        found.setdefault(metadir.remote.identity, []).append((name, metadir))
    return found


@dataclass(frozen=True)
class _Seen:
    """A client as it was seen, with the number of its documents that are due again."""

    client: str
    identity: str
    poll: Poll
    due: int


@dataclass(frozen=True)
class _Look:
    """What was seen of the clients of one archive, and why it was not of all of them."""

    seen: Sequence[_Seen] = ()
    error: str | None = None


@dataclass(frozen=True)
class _Looking:
    """Looks at archives, some at once, for a limited time."""

    keys: Sequence[str]
    retry_marks: Sequence[str]
    workers: int
    seconds: float

    def at(self, archives: Mapping[str, Sequence[tuple[str, Metadir]]]) -> dict[str, _Look]:
        """Return what was seen, in the order of `archives`; those that there was no time for are missing.

        The threads of archives that do not answer are left behind: their requests end by themselves.
        """
        end = time.monotonic() + self.seconds
        waiting, taking = iter(archives.items()), threading.Lock()
        begun: dict[str, _Look] = {}

        def work() -> None:
            while time.monotonic() < end:
                with taking:
                    archive, clients = next(waiting, (None, ()))
                    if archive is None:
                        return
                    begun[archive] = _Look(error=f"no answer in {self.seconds:g} s")
                begun[archive] = self._one(clients)

        threads = [
            threading.Thread(target=work, daemon=True) for _ in range(min(self.workers, len(archives)))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(end - time.monotonic(), 0))
        with taking:
            return dict(begun)

    def _one(self, clients: Sequence[tuple[str, Metadir]]) -> _Look:
        seen: list[_Seen] = []
        try:
            head = clients[0][1].remote_head()
            for name, metadir in clients:
                with metadir:
                    poll = together(metadir.polled(self.keys, head))
                    due = sum(metadir.due_again(mark) for mark in self.retry_marks)
                    seen.append(_Seen(name, identity_of(metadir, poll.key), poll, due))
        except MmmetaError as error:
            return _Look(seen, str(error))
        return _Look(seen)


class _Past:
    """The runs that were asked for before. One query for all clients that nothing ever went wrong with."""

    def __init__(self, instance: dg.DagsterInstance, identities: Sequence[str]) -> None:
        self._instance = instance
        which = dg.RunsFilter(tags={WATCH: list(identities)}, statuses=_UNSUCCESSFUL)
        runs = instance.get_runs(which, limit=_LOOKED_AT) if identities else []
        self._troubled = {run.tags[WATCH] for run in runs} if len(runs) < _LOOKED_AT else set(identities)

    def of(self, seen: _Seen) -> list[PastRun]:
        """Return a client's runs, as far as they matter for what is decided."""
        if seen.poll.changed or seen.due or seen.identity in self._troubled:
            return history_of(self._instance, seen.identity)
        return []


@dataclass(frozen=True)
class _Cursor:
    """Where the next tick begins, None for any place, and the archives that are looked at last."""

    following: str | None = None
    broken: Sequence[str] = ()

    @classmethod
    def read(cls, text: str | None) -> Self:
        return cls(**json.loads(text)) if text else cls()

    def to_json(self) -> str:
        return json.dumps({"following": self.following, "broken": self.broken})

    def order(self, archives: Sequence[str]) -> list[str]:
        at = archives.index(self.following) if self.following in archives else 0
        turned = [*archives[at:], *archives[:at]]
        return sorted(turned, key=lambda archive: archive in self.broken)
