"""The least that a job needs, written for it alone: what the machine, orjson and sqlite3 allow.

Each function is one job of `jobs`; it prepares before it calls `clock.start`.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import Any

import orjson

from benchmarks import archive

Clock = Any


def flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}:")
        else:
            yield prefix + name, orjson.dumps(value).decode() if isinstance(value, list) else value


def scan(root: Path) -> Iterator[os.DirEntry[str]]:
    for entry in os.scandir(root):
        if entry.is_dir():
            yield from scan(Path(entry.path))
        elif entry.name.endswith(".json"):
            yield entry


def read(path: str) -> dict[str, Any]:
    with open(path, "rb") as file:
        return dict(flat(orjson.loads(file.read())))


def _insert(database: sqlite3.Connection, names: list[str], rows: Iterable[dict[str, Any]]) -> None:
    columns = ",".join(f'"{name}"' for name in names)
    updates = ",".join(f'"{name}"=excluded."{name}"' for name in names)
    database.executemany(
        f"INSERT INTO files ({columns}) VALUES ({','.join('?' * len(names))}) "
        f"ON CONFLICT (content_hash) DO UPDATE SET {updates}",
        ([row.get(name) for name in names] for row in rows),
    )


def _fill(database: sqlite3.Connection, rows: Iterator[dict[str, Any]]) -> None:
    first = next(rows)
    columns = ",".join(f'"{name}"' for name in first if name != "content_hash")
    database.execute(f"CREATE TABLE files (content_hash PRIMARY KEY, {columns}, revision DEFAULT 1)")
    database.execute("CREATE TABLE seen (path PRIMARY KEY, size, mtime) WITHOUT ROWID")
    _insert(database, list(first), chain([first], rows))


def build(base: Path, clock: Clock) -> None:
    """The rows of generate_cold without files to read them from."""
    with closing(sqlite3.connect(base / "floor.db")) as database:
        _fill(database, (dict(flat(archive.document(at))) for at in range(clock.options["documents"])))
        database.commit()


def generate_cold(base: Path, clock: Clock) -> None:
    """scandir, read, parse, executemany; note size and time of each file for the next run."""
    clock.start()
    database = sqlite3.connect(base / "floor.db", isolation_level=None)
    entries = list(scan(base / "documents"))
    database.execute("BEGIN")
    _fill(database, (read(entry.path) for entry in entries))
    _note(database, entries)
    database.execute("COMMIT")
    database.close()
    clock.stop()


def _note(database: sqlite3.Connection, entries: list[os.DirEntry[str]]) -> None:
    seen = ((entry.path, entry.stat().st_size, entry.stat().st_mtime_ns) for entry in entries)
    database.executemany("INSERT OR REPLACE INTO seen VALUES (?, ?, ?)", seen)


def generate_again(base: Path, clock: Clock) -> None:
    """walk, stat, compare; read and write what differs."""
    clock.start()
    database = sqlite3.connect(base / "floor.db", isolation_level=None)
    seen = {path: (size, mtime) for path, size, mtime in database.execute("SELECT * FROM seen")}
    new = []
    for entry in scan(base / "documents"):
        stat = entry.stat()
        if seen.get(entry.path) != (stat.st_size, stat.st_mtime_ns):
            new.append(entry)
    if new:
        database.execute("BEGIN")
        rows = [{**read(entry.path), "revision": 2} for entry in new]
        _insert(database, list(rows[0]), rows)
        _note(database, new)
        database.execute("COMMIT")
    database.close()
    clock.stop()


def _merge(base: Path, clock: Clock, revision: int) -> None:
    catalog = sqlite3.connect(base / "floor.db")
    catalog.execute("CREATE INDEX IF NOT EXISTS by_revision ON files (revision)")
    names = [row[1] for row in catalog.execute("PRAGMA table_info(files)")]
    catalog.commit()
    catalog.close()
    columns = ",".join(f'"{name}"' for name in names)
    updates = ",".join(f'"{name}"=excluded."{name}"' for name in names)
    clock.start()
    state = sqlite3.connect(base / "state.db", isolation_level=None)
    state.execute("PRAGMA journal_mode=WAL")
    state.execute("PRAGMA synchronous=NORMAL")
    state.execute("ATTACH ? AS meta", (str(base / "floor.db"),))
    state.execute("BEGIN")
    others = ",".join(f'"{name}"' for name in names if name != "content_hash")
    state.execute(f"CREATE TABLE IF NOT EXISTS files (content_hash PRIMARY KEY, {others}, imported)")
    state.execute(
        f"INSERT INTO main.files ({columns}) SELECT {columns} FROM meta.files WHERE revision >= ? "
        f"ON CONFLICT (content_hash) DO UPDATE SET {updates}",
        (revision,),
    )
    state.execute("COMMIT")
    state.close()
    clock.stop()


def update_cold(base: Path, clock: Clock) -> None:
    """ATTACH and INSERT … SELECT."""
    _merge(base, clock, 1)


def update_again(base: Path, clock: Clock) -> None:
    """ATTACH and INSERT … SELECT of what has the newest revision, by an index."""
    _merge(base, clock, 2)


def update_nothing(base: Path, clock: Clock) -> None:
    """ATTACH and INSERT … SELECT that finds nothing, by an index."""
    _merge(base, clock, 3)


def save(base: Path, clock: Clock) -> None:
    """1,000 UPDATE statements by key, each a commit, in WAL mode."""
    state = sqlite3.connect(base / "state.db", isolation_level=None)
    state.execute("PRAGMA journal_mode=WAL")
    state.execute("PRAGMA synchronous=NORMAL")
    keys = [key for (key,) in state.execute("SELECT content_hash FROM files LIMIT 1000")]
    clock.start()
    for key in keys:
        state.execute("UPDATE files SET imported = 1 WHERE content_hash = ?", (key,))
    clock.stop()
    state.close()


def iterate(base: Path, clock: Clock) -> None:
    """All rows, as SQLAlchemy gives them."""
    import sqlalchemy

    engine = sqlalchemy.create_engine(f"sqlite:///{base / 'state.db'}")
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text("SELECT 1"))
        clock.start()
        count = 0
        for row in connection.execute(sqlalchemy.text("SELECT * FROM files")):
            count += len(row._mapping) > 0
        clock.stop()
    clock.note(documents=count)


def find(base: Path, clock: Clock) -> None:
    """Two conditions, rows as sqlite3 gives them, with an index on one of them."""
    state = sqlite3.connect(base / "state.db")
    state.execute("CREATE INDEX IF NOT EXISTS by_type ON files (document_type)")
    state.commit()
    clock.start()
    rows = state.execute(
        "SELECT * FROM files WHERE document_type = ? AND retrieved_at >= ?",
        ("contract", clock.options["since"]),
    ).fetchall()
    clock.stop()
    clock.note(documents=len(rows))
    state.close()


def process(base: Path, clock: Clock) -> None:
    """Nothing to compare with: chunks of keys that are noted as done in one commit each."""
    state = sqlite3.connect(base / "state.db", isolation_level=None)
    state.execute("PRAGMA synchronous=NORMAL")
    clock.start()
    keys = [key for (key,) in state.execute("SELECT content_hash FROM files")]
    for start in range(0, len(keys), 500):
        state.execute("BEGIN IMMEDIATE")
        some = ((key,) for key in keys[start : start + 500])
        state.executemany("UPDATE files SET imported = 2 WHERE content_hash = ?", some)
        state.execute("COMMIT")
    clock.stop()
    clock.note(documents=len(keys))
    state.close()
