"""Work on documents: who is at which, what failed, and when it may be tried again. A table of the state db.

A *mark* names one pipeline and is the client's column that says done. Each pipeline has its own claims,
attempts and errors.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from mmmeta_core.database.sqlite import atomic, quote, table_columns
from mmmeta_core.database.state import State
from mmmeta_core.types import Key, format_time, parse_time, utcnow

_FIRST_DELAY_SECONDS: Final = 60.0
_LONGEST_DELAY_SECONDS: Final = 24 * 3600.0
_ERROR_LENGTH: Final = 2_000


@dataclass(frozen=True)
class Failure:
    """A document that a pipeline failed at. `set_aside` ones are not tried again by themselves."""

    key: Key
    attempts: int
    error: str
    failed_at: datetime
    set_aside: bool


class Work:
    """The work of one pipeline."""

    def __init__(self, state: State, mark: str) -> None:
        self.state = state
        self.mark = mark

    def claim(self, keys: Sequence[Key], worker: str, lease: timedelta) -> list[Key]:
        """Take those of `keys` that are due and that no one else is at, for as long as the lease.

        In one transaction, so a document is never claimed by two; a worker that dies gives its documents back when
        the lease ends.
        """
        now = utcnow()
        with atomic(self.state.connection) as connection:
            marks = ",".join("?" * len(keys))
            done = set()
            if self.mark in table_columns(connection, "files"):
                done = {
                    key
                    for (key,) in connection.execute(
                        f"SELECT {quote(self.state.unique)} FROM files WHERE {quote(self.state.unique)} IN ({marks}) "
                        f"AND {quote(self.mark)} = 1",
                        keys,
                    )
                }
            taken = {
                key
                for (key,) in connection.execute(
                    f"SELECT key FROM mmmeta_work WHERE mark = ? AND key IN ({marks}) "
                    "AND (lease_until > ? OR not_before > ? OR set_aside)",
                    (self.mark, *keys, format_time(now), format_time(now)),
                )
            }
            claimed = [key for key in keys if key not in done and key not in taken]
            connection.executemany(
                "INSERT INTO mmmeta_work (mark, key, worker, lease_until) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (mark, key) DO UPDATE SET worker = excluded.worker, lease_until = excluded.lease_until",
                [(self.mark, key, worker, format_time(now + lease)) for key in claimed],
            )
        return claimed

    def finish(
        self, done: Mapping[Key, Mapping[str, Any]], failed: Mapping[Key, str], *, max_attempts: int
    ) -> int:
        """Note the outcome of claimed documents in one transaction; returns how many were set aside by it.

        `done` has the columns to set on each document, its mark among them.
        """
        set_aside = 0
        with atomic(self.state.connection) as connection:
            self.state.save_within(done.items())
            connection.executemany(
                "DELETE FROM mmmeta_work WHERE mark = ? AND key = ?", [(self.mark, key) for key in done]
            )
            for key, error in failed.items():
                set_aside += self._fail(key, error, max_attempts)
        return set_aside

    def _fail(self, key: Key, error: str, max_attempts: int) -> bool:
        connection, now = self.state.connection, utcnow()
        row = connection.execute(
            "SELECT attempts FROM mmmeta_work WHERE mark = ? AND key = ?", (self.mark, key)
        ).fetchone()
        attempts = (row[0] if row else 0) + 1
        delay = min(_FIRST_DELAY_SECONDS * 4 ** (attempts - 1), _LONGEST_DELAY_SECONDS)
        delay *= random.uniform(0.8, 1.2)  # noqa: S311 - jitter, not a secret
        aside = attempts >= max_attempts
        connection.execute(
            "INSERT INTO mmmeta_work (mark, key, attempts, error, failed_at, not_before, set_aside) "
            "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (mark, key) DO UPDATE SET worker = NULL, lease_until = NULL, "
            "attempts = excluded.attempts, error = excluded.error, failed_at = excluded.failed_at, "
            "not_before = excluded.not_before, set_aside = excluded.set_aside",
            (
                self.mark,
                key,
                attempts,
                error[:_ERROR_LENGTH],
                format_time(now),
                format_time(now + timedelta(seconds=delay)),
                aside,
            ),
        )
        return aside

    def release(self, keys: Sequence[Key]) -> None:
        """Give claimed documents back untouched."""
        with atomic(self.state.connection) as connection:
            connection.executemany(
                "UPDATE mmmeta_work SET worker = NULL, lease_until = NULL WHERE mark = ? AND key = ?",
                [(self.mark, key) for key in keys],
            )

    def retry(self) -> int:
        """Make all failed documents due at once, with new attempts; returns how many."""
        with atomic(self.state.connection) as connection:
            return connection.execute(
                "UPDATE mmmeta_work SET attempts = 0, not_before = NULL, set_aside = 0 "
                "WHERE mark = ? AND error IS NOT NULL AND (set_aside OR not_before IS NOT NULL)",
                (self.mark,),
            ).rowcount

    def due_again(self) -> int:
        """Return how many failed documents may be tried again by now and are still to be done."""
        connection = self.state.connection
        undone = (
            f"AND f.{quote(self.mark)} IS NOT 1 " if self.mark in table_columns(connection, "files") else ""
        )
        total: int = connection.execute(
            f"SELECT count(*) FROM mmmeta_work w JOIN files f ON f.{quote(self.state.unique)} = w.key "
            f"WHERE w.mark = ?1 AND w.error IS NOT NULL AND NOT w.set_aside AND f.__deleted_at IS NULL {undone}"
            "AND coalesce(w.not_before, '') <= ?2 AND coalesce(w.lease_until, '') <= ?2",
            (self.mark, format_time(utcnow())),
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
