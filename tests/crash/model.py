"""What has to be true of an archive and its copies, looked at with nothing but sqlite3, gzip, json and hashlib."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import re
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

Rows: TypeAlias = dict[Any, dict[str, Any]]

SEGMENT = re.compile(r"_mmmeta/log/(\d{20})\.jsonl\.gz")
HEADER = {
    "format",
    "archive",
    "revision",
    "commit",
    "previous",
    "log_bytes",
    "at",
    "unique",
    "columns",
    "store",
}
OWN_BOOKKEEPING = ("__state_added", "__state_last_updated")


@dataclass
class Archive:
    """What the log says, replayed."""

    id: str = ""
    revision: int = 0
    digest: str = ""
    size: int = 0
    rows: Rows = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    store: dict[str, str] = field(default_factory=dict)
    config: str | None = None
    commits: list[str] = field(default_factory=list)
    past: dict[int, Rows] = field(default_factory=dict)

    @property
    def live(self) -> Rows:
        return {key: row for key, row in self.rows.items() if "__deleted_at" not in row}

    def column(self, name: str) -> dict[Any, Any]:
        return {key: row.get(name) for key, row in self.live.items()}


def read_log(objects: Mapping[str, bytes]) -> Archive:
    """Replay the log of a remote: gap-free, each segment whole and chained to the one before."""
    archive = Archive()
    found = sorted((int(match[1]), name) for name in objects if (match := SEGMENT.fullmatch(name)))
    assert [number for number, _ in found] == list(range(1, len(found) + 1)), "a gap in the log"
    for number, name in found:
        lines = gzip.decompress(objects[name]).decode().split("\n")
        header, *records, end, nothing = map(json.loads, [*lines[:-1], "null"])
        assert lines[-1] == "", "the last line has an end"
        assert nothing is None
        assert header.keys() - {"config", "by", "note", "writer"} == HEADER, name
        assert (header["format"], header["revision"]) == (1, number), name
        assert header["previous"] == archive.digest, f"{name} does not follow"
        assert header["log_bytes"] == archive.size, name
        assert header["archive"] == (archive.id or header["archive"]), name
        assert header["commit"] not in archive.commits, "one publish, two revisions"
        assert end == {"end": len(records)}, name
        assert len({record["key"] for record in records}) == len(records), f"a key twice in {name}"
        assert not header["columns"].keys() & archive.kinds.keys(), f"a column twice: {name}"
        assert not [key for key in header["store"] if key.startswith("local_")], "a private key"
        archive.kinds |= header["columns"]
        for record in records:
            row = archive.rows.setdefault(record["key"], {}) | record["set"]
            archive.rows[record["key"]] = {n: value for n, value in row.items() if value is not None}
        store = archive.store | header["store"]
        archive.store = {key: text for key, text in store.items() if text is not None}
        archive.config = header.get("config", archive.config)
        archive.id, archive.revision = header["archive"], number
        archive.digest = hashlib.sha256(objects[name]).hexdigest()
        archive.size += len(objects[name])
        archive.commits.append(header["commit"])
        archive.past[number] = dict(archive.rows)
    return archive


def check_between(before: Mapping[str, bytes], now: Mapping[str, bytes], *, named: bool = False) -> Archive:
    """Check a remote at which a publisher was killed: readers see whole revisions, and nothing is gone."""
    for name, data in before.items():
        if SEGMENT.fullmatch(name):
            assert now.get(name) == data, f"{name} changed"
    archive = read_log(now)
    if "_mmmeta/head.json" in now:
        head = json.loads(now["_mmmeta/head.json"])
        assert head["revision"] <= archive.revision, "the hint runs ahead"
        assert head["archive"] == archive.id
    if named:
        check_documents(archive, now)
    return archive


def check_remote(objects: Mapping[str, bytes], *, revision: int, named: bool = False) -> Archive:
    """Check a remote that is at rest: everything repeats what the log says, and nothing unfinished lies about."""
    archive = read_log(objects)
    assert archive.revision == revision, f"at revision {archive.revision}, expected {revision}"
    left = [name for name in objects if name.endswith(("-journal", "-wal", "-shm")) or ".probe-" in name]
    assert not left, f"left at the remote: {left}"
    head = json.loads(objects["_mmmeta/head.json"])
    expected = {
        "archive": archive.id,
        "revision": revision,
        "digest": archive.digest,
        "log_bytes": archive.size,
    }
    assert {name: head[name] for name in expected} == expected, "head.json lags"
    assert head["store"] == archive.store
    assert head["config"] == archive.config
    prefix = "_mmmeta/_store/"
    values = {n.removeprefix(prefix): data.decode() for n, data in objects.items() if n.startswith(prefix)}
    assert values == archive.store, "the store's files differ from the log"
    if archive.config is not None:
        assert objects["_mmmeta/config.yml"].decode() == archive.config
    if head["snapshot"]:
        data, snapshot = objects["_mmmeta/meta.db"], head["snapshot"]
        assert (len(data), hashlib.sha256(data).hexdigest()) == (snapshot["size"], snapshot["sha256"])
        with closing(sqlite3.connect(":memory:")) as database:
            database.deserialize(data)
            assert_rows(database, archive.past[snapshot["revision"]], archive.kinds)
    if named:
        check_documents(archive, objects)
    return archive


def check_documents(archive: Archive, objects: Mapping[str, bytes]) -> None:
    """Check that the archive holds each document that its catalog names, whole."""
    for key, row in archive.live.items():
        if "file_name" in row:
            data = objects.get(row["file_name"])
            assert data is not None, f"{row['file_name']} is named and not there"
            assert hashlib.sha1(data).hexdigest() == key  # noqa: S324


def check_catalog(metadir: Path, archive: Archive, *, pending: int = 0) -> None:
    """Check that a metadir's `meta.db` is the archive at its newest revision."""
    with closing(sqlite3.connect(metadir / "_mmmeta" / "meta.db")) as database:
        info = dict(database.execute("SELECT key, value FROM mmmeta_info"))
        assert info["revision"] == archive.revision, "the catalog is at another revision"
        assert (info["archive"], info["digest"]) == (archive.id, archive.digest)
        assert info["log_bytes"] == archive.size
        assert database.execute("SELECT count(*) FROM mmmeta_pending").fetchone() == (pending,)
        assert dict(database.execute("SELECT key, value FROM mmmeta_store")) == archive.store
        if not pending:
            assert_rows(database, archive.rows, archive.kinds)


def check_store(metadir: Path, archive: Archive) -> None:
    """Check that the store's files are what was published, besides the private ones."""
    folder = metadir / "_mmmeta" / "_store"
    files = {path.name: path.read_text() for path in folder.iterdir()} if folder.is_dir() else {}
    assert {name: text for name, text in files.items() if not name.startswith("local_")} == archive.store


def check_state(metadir: Path, archive: Archive, own: Mapping[str, Mapping[Any, Any]] | None = None) -> None:
    """Check that a `state.db` has the archive's rows, and the client's own columns as given: name → key → raw value."""
    with closing(sqlite3.connect(metadir / "_mmmeta" / "state.db")) as database:
        info = dict(database.execute("SELECT key, value FROM mmmeta_info"))
        assert int(info["revision"]) == archive.revision, "the state is at another revision"
        assert json.loads(info["store"]) == archive.store
        rows = database.execute("SELECT name, owner FROM mmmeta_columns").fetchall()
        mine = {name for name, owner in rows if owner == "client"}
        assert_rows(database, archive.rows, archive.kinds, leave=mine)
        for name, values in (own or {}).items():
            found = dict(database.execute(f'SELECT content_hash, "{name}" FROM files'))
            assert {key: value for key, value in found.items() if value is not None} == values, name
        held = database.execute("SELECT mark, key FROM mmmeta_work WHERE worker IS NOT NULL").fetchall()
        assert not held, f"claimed for ever: {held}"
    handled = metadir / "_mmmeta" / "_store" / "local_last_updated"
    assert handled.read_text() == archive.store["remote_last_updated"]


def assert_rows(
    database: sqlite3.Connection, rows: Rows, kinds: Mapping[str, str], leave: set[str] | None = None
) -> None:
    """Check that the table `files` holds exactly these rows, and that the database is whole."""
    assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    cursor = database.execute("SELECT * FROM files")
    names = [column[0] for column in cursor.description]
    found: Rows = {}
    for values in cursor:
        row = dict(zip(names, values, strict=True))
        kept = {
            name: _plain(value, kinds.get(name, "json" if name == "__rescued" else "text"))
            for name, value in row.items()
            if value is not None
            and name not in (*OWN_BOOKKEEPING, "__revision", "content_hash", *(leave or ()))
        }
        found[row["content_hash"]] = kept
    assert found.keys() == rows.keys(), f"documents lost or made up: {found.keys() ^ rows.keys()}"
    for key, kept in rows.items():
        assert found[key] == kept, f"{key}: {found[key]} instead of {kept}"


def _plain(raw: Any, kind: str) -> Any:
    if kind == "boolean":
        return bool(raw)
    return json.loads(raw) if kind == "json" else raw


def check_nothing_left(work: Path) -> None:
    """Check that no unfinished file lies anywhere, and that no database was left in the middle of something."""
    left = [str(path.relative_to(work)) for path in work.rglob("*") if _is_leftover(path.name)]
    assert not left, f"left: {left}"


def _is_leftover(name: str) -> bool:
    return name.startswith(".tmp-") or name.endswith(("-journal", "-wal", "-shm"))


def check_downloads(folder: Path, expected: Mapping[str, str]) -> None:
    """Check that a folder holds these files and no others, by relative path and content."""
    found = {p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*") if p.is_file()}
    assert found == expected


def whole_downloads(folder: Path, contents: set[str]) -> None:
    """Check that what has its name in a folder is whole, whatever else is on its way."""
    for path in folder.rglob("*") if folder.is_dir() else ():
        if path.is_file() and not path.name.startswith(".tmp-"):
            assert path.read_text() in contents, f"{path.name} is not whole"


def read_table(path: Path, table: str, key: str) -> Rows:
    """Return the rows of a table by key, from a database that has to be whole."""
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        cursor = database.execute(f'SELECT * FROM "{table}"')
        names = [column[0] for column in cursor.description]
        rows = [dict(zip(names, values, strict=True)) for values in cursor]
    assert len({row[key] for row in rows}) == len(rows), "a row twice"
    return {row[key]: row for row in rows}


def read_csv(path: Path) -> Rows:
    with path.open(encoding="utf-8", newline="") as file:
        return {row["content_hash"]: row for row in csv.DictReader(file)}
