"""What `generate` saw of each file: `cache.db`, private to this metadir and safe to delete.

It makes the next run read only files that changed, remembers which columns each file gave, and holds the report
of invalid ones. It is written after the catalog, so it never claims a document that the catalog has not.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import orjson

from mmmeta_core.database.sqlite import atomic, check_version, chunks, connect
from mmmeta_core.errors import CatalogError
from mmmeta_core.trouble import explained_database, passes
from mmmeta_core.types import Key

VERSION: Final = 1
RACY: Final = -1
"""The mtime that is noted for a file that may still change without its mtime showing it."""

_SCHEMA: Final = (
    """CREATE TABLE sources (
  folder TEXT NOT NULL, name TEXT NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, inode INTEGER NOT NULL,
  key, shape INTEGER, problem TEXT,
  PRIMARY KEY (folder, name)
) WITHOUT ROWID""",
    "CREATE INDEX sources_key ON sources (key)",
    "CREATE INDEX sources_problem ON sources (folder, name) WHERE problem IS NOT NULL",
    "CREATE TABLE shapes (id INTEGER PRIMARY KEY, columns TEXT NOT NULL UNIQUE)",
    """CREATE TABLE uploads (
  remote TEXT NOT NULL, name TEXT NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
  PRIMARY KEY (remote, name)
) WITHOUT ROWID""",
    "CREATE TABLE info (key TEXT PRIMARY KEY, value) WITHOUT ROWID",
)
# A lost cache costs time, never data.
_KNOWN_SHAPES: Final = 1_000
_PRAGMAS: Final = {"journal_mode": "WAL", "synchronous": "NORMAL", "cache_size": "-16384"}


class Seen(NamedTuple):
    """A file as it was when it was last looked at; `key` is the last one that it had."""

    folder: str
    name: str
    size: int
    mtime_ns: int
    inode: int
    key: Key | None
    shape: int | None
    problem: str | None

    @property
    def path(self) -> str:
        """Return the path below the root."""
        return f"{self.folder}/{self.name}" if self.folder else self.name


class Uploaded(NamedTuple):
    """A file as it was when it was brought to the archive."""

    remote: str
    name: str
    size: int
    mtime_ns: int


class Scan:
    """An open scan cache. Get one with `open_scan`."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self.connection = connection
        self.path = path
        self._asking = threading.Lock()
        self._shapes: dict[tuple[str, ...], int] = {}
        self._columns: dict[int, frozenset[str]] = {}

    def begin(self, root: Path, settings: str) -> None:
        """Forget what does not hold for this root; look at every file again when `settings` differ from last time."""
        known = dict(self.connection.execute("SELECT key, value FROM info"))
        if known == {"root": str(root), "settings": settings}:
            return
        with atomic(self.connection):
            if known.get("root", str(root)) != str(root):
                self.connection.execute("DELETE FROM sources")
            self.forget_times()
            self.connection.executemany(
                "INSERT OR REPLACE INTO info (key, value) VALUES (?, ?)",
                [("root", str(root)), ("settings", settings)],
            )

    def forget_times(self) -> None:
        """Make the next look at every file a fresh one."""
        self.connection.execute("UPDATE sources SET mtime_ns = ?", (RACY,))

    def marks(self, folder: str) -> dict[str, tuple[int, int, int]]:
        """Return size, `mtime_ns` and inode of one folder's files, by name: what tells whether they changed."""
        rows = self.connection.execute(
            "SELECT name, size, mtime_ns, inode FROM sources WHERE folder = ?", (folder,)
        )
        return {name: (size, mtime_ns, inode) for name, size, mtime_ns, inode in rows}

    def seen(self, folder: str, name: str) -> Seen:
        """Return what is known of a file that `marks` has named."""
        row = self.connection.execute("SELECT * FROM sources WHERE folder = ? AND name = ?", (folder, name))
        return Seen._make(row.fetchone())

    def folders(self) -> set[str]:
        """Return the folders that files were seen in."""
        return {folder for (folder,) in self.connection.execute("SELECT DISTINCT folder FROM sources")}

    def remember(self, seen: Iterable[Seen]) -> None:
        """Note files as they are now. Within a transaction, or else each on its own."""
        self.connection.executemany("INSERT OR REPLACE INTO sources VALUES (?, ?, ?, ?, ?, ?, ?, ?)", seen)

    def forget(self, gone: Iterable[Seen], keys: Iterable[Key]) -> set[Key]:
        """Drop files that are no longer there, and return which of their `keys` other files have.

        Those others are noted as still to be read.
        """
        with atomic(self.connection):
            self.connection.executemany(
                "DELETE FROM sources WHERE folder = ? AND name = ?",
                [(seen.folder, seen.name) for seen in gone],
            )
            others = list(self.with_keys(keys))
            self.remember(other._replace(mtime_ns=RACY) for other in others)
        return {other.key for other in others if other.key is not None}

    def with_keys(self, keys: Iterable[Key]) -> Iterator[Seen]:
        """Yield the readable files that have one of these keys, in the order of their paths."""
        for some in chunks(keys):
            rows = self.connection.execute(
                f"SELECT * FROM sources WHERE key IN ({','.join('?' * len(some))}) AND problem IS NULL "
                "ORDER BY folder, name",
                some,
            )
            yield from map(Seen._make, rows.fetchall())

    def paths_with_keys(self, keys: Iterable[Key]) -> Iterator[tuple[Key, str]]:
        """Yield key and path of the readable files that have one of these keys."""
        for some in chunks(keys):
            rows = self.connection.execute(
                f"SELECT key, folder, name FROM sources WHERE key IN ({','.join('?' * len(some))}) AND problem IS NULL",
                some,
            )
            for key, folder, name in rows.fetchall():
                yield key, f"{folder}/{name}" if folder else name

    def sources(self) -> Iterator[Seen]:
        """Yield all readable files, in the order of their paths."""
        rows = self.connection.cursor().execute(
            "SELECT * FROM sources WHERE problem IS NULL ORDER BY folder, name"
        )
        yield from map(Seen._make, rows)

    def is_uploaded(self, file: Uploaded) -> bool:
        """Whether this very file was brought to the archive before. Many threads may ask."""
        # Since Python 3.12 two that execute the same statement at once can be given one for both.
        with self._asking:
            row = self.connection.execute(
                "SELECT 1 FROM uploads WHERE remote = ? AND name = ? AND size = ? AND mtime_ns = ?", file
            ).fetchone()
        return row is not None

    def note_uploads(self, files: Iterable[Uploaded | None]) -> None:
        """Note what was brought to the archive."""
        with atomic(self.connection):
            self.connection.executemany(
                "INSERT OR REPLACE INTO uploads VALUES (?, ?, ?, ?)",
                [file for file in files if file is not None],
            )

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield path and reason of each file that can't be taken."""
        rows = self.connection.execute(
            "SELECT * FROM sources WHERE problem IS NOT NULL ORDER BY folder, name"
        )
        for row in rows:
            seen = Seen(*row)
            yield seen.path, seen.problem or ""

    def count(self, *, problems: bool) -> int:
        """Return how many files are known, or how many of them have a problem."""
        where = " WHERE problem IS NOT NULL" if problems else ""
        total: int = self.connection.execute(f"SELECT count(*) FROM sources{where}").fetchone()[0]
        return total

    def shape_id(self, columns: Iterable[str]) -> int:
        """Return the number under which a set of columns is noted."""
        names = tuple(columns)
        known = self._shapes.get(names)
        if known is None:
            if len(self._shapes) >= _KNOWN_SHAPES:
                self._shapes.clear()
            known = self._shapes[names] = self._note_shape(names)
        return known

    def _note_shape(self, columns: Iterable[str]) -> int:
        text = orjson.dumps(sorted(columns)).decode()
        self.connection.execute("INSERT OR IGNORE INTO shapes (columns) VALUES (?)", (text,))
        row = self.connection.execute("SELECT id FROM shapes WHERE columns = ?", (text,)).fetchone()
        number: int = row[0]
        return number

    def shape(self, number: int | None) -> frozenset[str]:
        """Return the columns of a shape; none for one that isn't known."""
        if number is None:
            return frozenset()
        known = self._columns.get(number)
        if known is None:
            if len(self._columns) >= _KNOWN_SHAPES:
                self._columns.clear()
            row = self.connection.execute("SELECT columns FROM shapes WHERE id = ?", (number,)).fetchone()
            known = self._columns[number] = frozenset(orjson.loads(row[0])) if row else frozenset()
        return known


@contextmanager
def open_scan(path: Path) -> Iterator[Scan]:
    """Open the scan cache at `path` for the block; one that can't be read is made anew."""
    try:
        connection = _open(path)
    except CatalogError as error:
        if passes(error.__cause__):  # nothing is wrong with it, and what it remembers was not lost
            raise
        for leftover in (path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")):
            leftover.unlink(missing_ok=True)
        connection = _open(path)
    with closing(connection), explained_database(path):
        yield Scan(connection, path)


def _open(path: Path) -> sqlite3.Connection:
    connection = connect(path, pragmas=_PRAGMAS)
    try:
        if check_version(connection, path, VERSION) == 0:
            with atomic(connection):
                for statement in _SCHEMA:
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {VERSION}")
    except BaseException:
        connection.close()
        raise
    return connection
