"""Count what a process does that can leave something behind, and act at one of these steps."""

from __future__ import annotations

import itertools
import os
import sqlite3
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Self

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
CHANGES = frozenset({"os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate"})
LOOKS = frozenset({"os.scandir", "os.listdir"})

Act = Callable[[int, str, str], None]
"""What to do at a step: its number, what it is, and the path or statement."""


class Steps:
    """Each file below `base` that is opened for writing, flushed, linked, renamed or removed, each folder that is made,
    each database that is opened, each SQL statement that begins, each piece of an HTTP request that is sent.

    Where `act` is to have them fail (`failing`), only what the system can refuse is one: files and folders, and with
    `reads` also those that are read.
    """

    def __init__(self, base: Path, act: Act, *, failing: bool = False, reads: bool = False) -> None:
        self.base = str(base)
        self.act = act
        self.failing = failing
        self.reads = reads
        self._numbers = itertools.count(1)
        self.taken = 0

    def install(self) -> None:
        """Listen from here on, until the process ends."""
        fsync = os.fsync

        def heard_fsync(descriptor: int) -> None:
            self.take("fsync", str(descriptor))
            fsync(descriptor)

        os.fsync = heard_fsync  # type: ignore[assignment]
        sys.addaudithook(self.hear)
        if not self.failing:
            sqlite3.connect = sqlite3.dbapi2.connect = self._traced(sqlite3.connect)  # type: ignore[assignment]

    def take(self, event: str, what: str) -> None:
        number = self.taken = next(self._numbers)
        self.act(number, event, what)

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if (flags & WRITES or self.reads) and self._is_ours(path) and not self._is_metadata(path):
                self.take("open", str(path))
        elif event in CHANGES or (self.reads and event in LOOKS):
            if self._is_ours(arguments[0]) and not self._is_metadata(arguments[0]):
                self.take(event, str(arguments[0]))
        elif event == "http.client.send" and not self.failing:
            self.take(event, repr(arguments[1])[:80])

    def _is_ours(self, path: object) -> bool:
        text = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else ""
        return text.startswith(self.base)

    def _is_metadata(self, path: object) -> bool:
        """Whether it is a metadata file, or the folder of all: what is unreadable there comes later, and stops no other."""
        text = str(path)
        return text.startswith(f"{self.base}/documents") and text.endswith(
            (".json", "/documents", "/documents/")
        )

    def _traced(self, connect: Callable[..., sqlite3.Connection]) -> Callable[..., sqlite3.Connection]:
        take = self.take

        # Not SQLite's own trace callback: that holds the connection's mutex while it waits for the interpreter's
        # lock, so threads that share a connection wait for each other for ever.
        class Cursor(sqlite3.Cursor):
            def execute(self, sql: str, *arguments: Any) -> Self:
                take("sql", sql[:80])
                return super().execute(sql, *arguments)

            def executemany(self, sql: str, rows: Iterable[Any]) -> Self:
                return super().executemany(sql, _counted(sql, rows, take))

        class Connection(sqlite3.Connection):
            def cursor(self, factory: Any = Cursor) -> Any:
                return super().cursor(factory)

            def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
                return self.cursor().execute(sql, *arguments)  # type: ignore[no-any-return]

            def executemany(self, sql: str, rows: Iterable[Any]) -> sqlite3.Cursor:
                return self.cursor().executemany(sql, rows)  # type: ignore[no-any-return]

            def commit(self) -> None:
                take("sql", "commit()")
                super().commit()

            def __exit__(self, *error: Any) -> Any:
                take("sql", "end of with")
                return super().__exit__(*error)

        def traced(*arguments: Any, **options: Any) -> sqlite3.Connection:
            take("connect", str(arguments[0]) if arguments else "")
            return connect(*arguments, **{"factory": Connection, **options})

        return traced


def _counted(sql: str, rows: Iterable[Any], take: Callable[[str, str], None]) -> Iterator[Any]:
    for row in rows:
        take("sql", sql[:80])
        yield row


def send_at(deadly: int, number: int, note: int) -> Act:
    """Send this process a signal at a step (0: never), and say on the file descriptor `note` which one it was."""

    def act(step: int, event: str, what: str) -> None:
        if step == deadly:
            os.write(note, f"step {step}: {event} {what}\n".encode())
            os.kill(os.getpid(), number)

    return act


def fail_at(first: int, code: int, lasting: bool, note: int) -> Act:
    """Fail with this errno at a step, and, if it is `lasting`, at all that follow but removals."""

    def act(step: int, event: str, what: str) -> None:
        if step == first or (lasting and step > first and event not in ("os.remove", "os.rmdir")):
            os.write(note, f"step {step}: {event} {what}\n".encode())
            # As the system does it: a flush knows of no name.
            raise OSError(code, os.strerror(code), *(() if event == "fsync" else (what,)))

    return act
