"""Work on documents: what is due, who is at it, what failed, and when it may be tried again. Tables of the state db.

A *mark* names one pipeline and is the client's column that says done. Each pipeline has its own claims, attempts
and errors. For each document that it has done it keeps which version that was, so that a document the publisher has
changed since can be due again.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from mmmeta_core.database.connection import Connection
from mmmeta_core.database.sqlite import quote
from mmmeta_core.database.state import State
from mmmeta_core.types import Key, Sql, format_time, parse_time

On: TypeAlias = Literal["due", "deleted"]
"""Which documents: those that are due, or those that were done and that the publisher has deleted since."""

OnChange: TypeAlias = Literal["content", "again", "ignore"]
"""When a document that was done is due again: its `content_hash` changed, anything published of it changed, never."""

CONTENT: Final = "content_hash"
LEASE_SECONDS: Final = 120.0
"""How long a claim lasts unless told otherwise."""

_FIRST_DELAY_SECONDS: Final = 60.0
_LONGEST_DELAY_SECONDS: Final = 24 * 3600.0
_ERROR_LENGTH: Final = 2_000


@dataclass(frozen=True)
class Failure:
    """A document that a pipeline failed at. `set_aside` ones are not tried again until they change or are re-armed."""

    key: Key
    attempts: int
    error: str
    failed_at: datetime
    set_aside: bool


@dataclass(frozen=True)
class Tally:
    """Where a pipeline stands: documents done, failed and to be tried again, and set aside; its last run's settings."""

    mark: str
    done: int
    failed: int
    set_aside: int
    settings: str | None
    last_run: datetime | None


class Claim(NamedTuple):
    """A document that is ours for now, and which version of it."""

    key: Key
    version: Sql
    content: Sql


class Work:
    """The work of one pipeline. `worker` names who claims: one run of one process."""

    def __init__(
        self, state: State, mark: str, *, worker: str = "", on: On = "due", on_change: OnChange = "content"
    ) -> None:
        self.state = state
        self.mark = mark
        self.worker = worker
        self.on: On = on
        self.on_change: OnChange = on_change

    # --- what there is to do

    def condition(self, *, free: bool = True, few: bool = False) -> str:
        """Return the SQL condition on a row of `files` that its document is to be done.

        With `free` also that nobody else is at it and that no failure stands in the way; `few` is for who takes the first
        ones of many. Its parameters, `:mmmeta_mark` and
        others, come from `parameters`.
        """
        state, mine = self.state, f"w.mark = :mmmeta_mark AND w.key = files.{quote(self.state.unique)}"
        done = state.is_set(self.mark)
        if self.on == "deleted":
            todo = f"files.__deleted_at IS NOT NULL AND {done}"
        elif (changed := self._changed()) is None:
            todo = f"files.__deleted_at IS NULL AND {state.is_unset(self.mark)}"
        else:
            todo = (
                f"files.__deleted_at IS NULL AND ({state.is_unset(self.mark)} OR EXISTS "
                f"(SELECT 1 FROM mmmeta_work w WHERE {mine} AND w.done_at IS NOT NULL AND {changed}))"
            )
        if not free:
            return todo
        return (
            f"{todo} AND NOT EXISTS (SELECT 1 FROM mmmeta_work w WHERE {mine} AND ("
            f"(w.lease_until > {state.now_sql} AND {state.differ('w.worker', ':mmmeta_worker')}) OR "
            f"((w.set_aside OR w.not_before > {state.now_sql}) AND "
            f"{state.same('w.failed_version', 'files.__meta_last_updated')})){state.one_by_one if few else ''})"
        )

    def claimed(self) -> str:
        """Return the SQL condition that a document is to be done, and that a claim on it has not ended."""
        mine = f"w.mark = :mmmeta_mark AND w.key = files.{quote(self.state.unique)}"
        return (
            f"{self.condition(free=False)} AND EXISTS "
            f"(SELECT 1 FROM mmmeta_work w WHERE {mine} AND w.lease_until > {self.state.now_sql})"
        )

    def parameters(self) -> dict[str, Sql]:
        """Return the values for `condition`, as of now."""
        values: dict[str, Sql] = {"mmmeta_mark": self.mark, "mmmeta_worker": self.worker}
        if self.state.now_sql == ":mmmeta_now":
            values["mmmeta_now"] = format_time(self.state.now())
        return values

    def _changed(self) -> str | None:
        if self.on_change == "again":
            return self.state.differ("w.done_version", "files.__meta_last_updated")
        if self.on_change == "ignore" or self.state.unique == CONTENT:
            return None
        if CONTENT not in self.state.columns():
            return None
        return self.state.differ("w.done_content", self.state.as_text(f"files.{CONTENT}"))

    # --- claims

    def claim(self, keys: Sequence[Key], lease: timedelta) -> list[Claim]:
        """Take those of `keys` that are still to be done, for as long as the lease.

        In one transaction, so a document is never claimed by two; a worker that dies gives its documents back when
        the lease ends.
        """
        key = quote(self.state.unique)
        content = self.state.as_text(CONTENT) if CONTENT in self.state.columns() else "NULL"

        def take(connection: Connection) -> list[Claim]:
            names = {f"key{number}": one for number, one in enumerate(self.state.locked(keys))}
            rows = connection.execute(
                f"SELECT {key}, __meta_last_updated, {content} AS content FROM files "
                f"WHERE {key} IN ({','.join(f':{name}' for name in names)}) AND {self.condition()} ORDER BY files.{key}",
                {**names, **self.parameters()},
            ).fetchall()
            until = self._until(lease)
            connection.executemany(
                "INSERT INTO mmmeta_work (mark, key, worker, lease_until) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (mark, key) DO UPDATE SET worker = excluded.worker, lease_until = excluded.lease_until",
                [(self.mark, row[0], self.worker, until) for row in rows],
            )
            return [Claim(*row) for row in rows]

        return self.state.run(take)

    def renew(self, lease: timedelta) -> None:
        """Extend all claims of this worker."""
        self.state.run(
            lambda connection: connection.execute(
                "UPDATE mmmeta_work SET lease_until = ? WHERE mark = ? AND worker = ?",
                (self._until(lease), self.mark, self.worker),
            )
        )

    def _until(self, lease: timedelta) -> str:
        return format_time(self.state.now() + lease)

    def release(self) -> None:
        """Give back what this worker has claimed and not finished."""
        mine = (self.mark, self.worker)

        def give_back(connection: Connection) -> None:
            connection.execute(
                "DELETE FROM mmmeta_work WHERE mark = ? AND worker = ? AND error IS NULL AND done_at IS NULL",
                mine,
            )
            connection.execute(
                "UPDATE mmmeta_work SET worker = NULL, lease_until = NULL WHERE mark = ? AND worker = ?", mine
            )

        self.state.run(give_back)

    # --- outcomes

    def finish(
        self,
        done: Sequence[tuple[Claim, Mapping[str, Any]]],
        failed: Sequence[tuple[Claim, str]],
        *,
        max_attempts: int,
    ) -> int:
        """Note the outcome of claimed documents in one transaction; returns how many were set aside by it.

        `done` comes with further columns of the client's to set. A deleted document that was dealt with loses its
        mark, so it is due again should the publisher restore it.
        """
        is_done = self.on == "due"

        def note(connection: Connection) -> int:
            now = format_time(self.state.now())
            self.state.save_within((claim.key, {**values, self.mark: is_done}) for claim, values in done)
            if is_done:
                connection.executemany(
                    "INSERT INTO mmmeta_work (mark, key, done_at, done_version, done_content) VALUES (?, ?, ?, ?, ?) "
                    "ON CONFLICT (mark, key) DO UPDATE SET worker = NULL, lease_until = NULL, attempts = 0, error = NULL, "
                    "failed_at = NULL, failed_version = NULL, not_before = NULL, set_aside = FALSE, "
                    "done_at = excluded.done_at, done_version = excluded.done_version, done_content = excluded.done_content",
                    [(self.mark, claim.key, now, claim.version, claim.content) for claim, _ in done],
                )
            else:
                connection.executemany(
                    "DELETE FROM mmmeta_work WHERE mark = ? AND key = ?",
                    [(self.mark, claim.key) for claim, _ in done],
                )
            return sum([self._fail(connection, claim, error, max_attempts) for claim, error in failed])

        return self.state.run(note)

    def _fail(self, connection: Connection, claim: Claim, error: str, max_attempts: int) -> bool:
        now = self.state.now()
        row = connection.execute(
            f"SELECT attempts FROM mmmeta_work WHERE mark = ? AND key = ? AND {self.state.same('failed_version', '?')}",
            (self.mark, claim.key, claim.version),
        ).fetchone()
        attempts = (row[0] if row else 0) + 1
        delay = min(_FIRST_DELAY_SECONDS * 4 ** (attempts - 1), _LONGEST_DELAY_SECONDS)
        delay *= random.uniform(0.8, 1.2)  # noqa: S311 - jitter, not a secret
        aside = attempts >= max_attempts
        values = {
            "attempts": attempts,
            "error": error[:_ERROR_LENGTH],
            "failed_at": format_time(now),
            "failed_version": claim.version,
            "not_before": format_time(now + timedelta(seconds=delay)),
            "set_aside": aside,
        }
        updates = ",".join(f"{name} = excluded.{name}" for name in values)
        connection.execute(
            f"INSERT INTO mmmeta_work (mark, key, {','.join(values)}) VALUES (?, ?, {','.join('?' * len(values))}) "
            f"ON CONFLICT (mark, key) DO UPDATE SET worker = NULL, lease_until = NULL, {updates}",
            (self.mark, claim.key, *values.values()),
        )
        return aside

    def retry(self) -> int:
        """Make all failed documents due at once, with new attempts; returns how many."""
        return self.state.run(
            lambda connection: (
                connection.execute(
                    "UPDATE mmmeta_work SET attempts = 0, not_before = NULL, set_aside = FALSE, failed_version = NULL "
                    "WHERE mark = ? AND error IS NOT NULL AND (set_aside OR not_before IS NOT NULL)",
                    (self.mark,),
                ).rowcount
            )
        )

    # --- reports

    def due_again(self) -> int:
        """Return how many failed documents may be tried again by now and are still to be done."""
        if self.mark not in self.state.columns():
            return 0
        total: int = self.state.connection.execute(
            f"SELECT count(*) FROM mmmeta_work v JOIN files ON files.{quote(self.state.unique)} = v.key "
            f"WHERE v.mark = :mmmeta_mark AND v.error IS NOT NULL AND {self.condition()}",
            self.parameters(),
        ).fetchone()[0]
        return total

    def failures(self) -> Iterator[Failure]:
        """Yield the failed documents, the latest first."""
        rows = self.state.connection.execute(
            "SELECT key, attempts, error, failed_at, set_aside FROM mmmeta_work "
            "WHERE mark = ? AND error IS NOT NULL ORDER BY failed_at DESC, key",
            (self.mark,),
        )
        for key, attempts, error, failed_at, aside in rows.fetchall():
            yield Failure(key, attempts, error, parse_time(failed_at), bool(aside))

    def note_run(self, settings: str | None) -> None:
        """Remember with which settings the pipeline ran last, so that others can tell what is due for it."""
        self.state.run(
            lambda connection: connection.execute(
                "INSERT INTO mmmeta_pipelines (mark, settings, last_run) VALUES (?, ?, ?) "
                "ON CONFLICT (mark) DO UPDATE SET settings = excluded.settings, last_run = excluded.last_run",
                (self.mark, settings, format_time(self.state.now())),
            )
        )


def tallies(state: State) -> list[Tally]:
    """Return where each pipeline of this state db stands, by name."""
    connection, there = state.connection, state.columns()
    found = []
    for mark, settings, last_run in connection.execute(
        "SELECT mark, settings, last_run FROM mmmeta_pipelines ORDER BY mark"
    ).fetchall():
        failed, aside = connection.execute(
            "SELECT count(*), count(CASE WHEN set_aside THEN 1 END) FROM mmmeta_work WHERE mark = ? AND error IS NOT NULL",
            (mark,),
        ).fetchone()
        done = 0
        if mark in there:
            (done,) = connection.execute(
                f"SELECT count(*) FROM files WHERE {state.is_set(mark)} AND __deleted_at IS NULL"
            ).fetchone()
        ran = parse_time(last_run) if last_run else None
        found.append(Tally(mark, done, failed - int(aside), int(aside), settings, ran))
    return found


class Reservation(NamedTuple):
    """A name in a folder that is to be a document's own. `folded` is what a file system may take for the same name."""

    folder: str
    name: str
    folded: str
    key: Key


def owns(state: State, reservation: Reservation) -> bool:
    """Whether the name is the document's already."""
    row = state.connection.execute(
        "SELECT name, key FROM mmmeta_downloads WHERE folder = ? AND folded = ?",
        (reservation.folder, reservation.folded),
    ).fetchone()
    return bool(row == (reservation.name, reservation.key))


def reserve(state: State, reservation: Reservation) -> bool:
    """Make the name the document's own; False when it is another one's. Outlives a kill."""
    if owns(state, reservation):
        return True

    def note(connection: Connection) -> bool:
        cursor = connection.execute(
            "INSERT INTO mmmeta_downloads (folder, name, folded, key) VALUES (?, ?, ?, ?) "
            "ON CONFLICT (folder, folded) DO NOTHING",
            reservation,
        )
        return cursor.rowcount == 1 or owns(state, reservation)

    return state.run(note)
