"""A `meta.db` that others made: whatever is not what mmmeta writes is refused, runs nothing and changes nothing."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
import struct
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from mmmeta_core import Metadir, mmmeta
from mmmeta_core.database.sqlite import connect
from mmmeta_core.errors import CatalogError, MmmetaError

NAMES = [
    "title",
    "publisher:name",
    'a"b',
    "select",
    "tags",
    "is_final",
    "published_at",
    "two  words",
    "a, b)",
]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A publisher and its archive, which has a snapshot."""
    base = tmp_path_factory.mktemp("published")
    folder = base / "archive"
    folder.mkdir()
    with mmmeta(base / "publisher", remote=folder) as m:
        values: dict[str, Any] = {
            "title": "x",
            "publisher:name": "y",
            'a"b': 1,
            "select": 1.5,
            "tags": [1, {"a": None}],
        }
        more = {
            "is_final": True,
            "published_at": "2024-02-29T23:59:59.999999Z",
            "two  words": "ü\0",
            "a, b)": "z",
        }
        m.paths.config.parent.mkdir(parents=True)
        m.paths.config.write_text("metadata: {types: {published_at: datetime}}")
        m.files.insert({"content_hash": "k1", **values, **more, "rescue-me": None, "x" * 70: [2]})
        m.files.insert_many([{"content_hash": f"n{n}", "title": "t" * 100} for n in range(50)])
        m.push()
        m.files.delete(content_hash="n7")
        m.push()
    return base


@pytest.fixture
def archive(published: Path, tmp_path: Path) -> Path:
    """A copy of the archive, to be spoiled."""
    shutil.copytree(published, tmp_path, dirs_exist_ok=True)
    return tmp_path / "archive"


def meta(archive: Path) -> Path:
    return archive / "_mmmeta" / "meta.db"


def offer(archive: Path, path: Path | None = None) -> None:
    """Make `head.json` name the snapshot as it is now, so that a client takes it."""
    if path is not None:
        shutil.copyfile(path, meta(archive))
    head = archive / "_mmmeta" / "head.json"
    values = json.loads(head.read_bytes())
    data = meta(archive).read_bytes()
    values["snapshot"] |= {
        "size": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    values["log_bytes"] = 10**9
    values["snapshot"]["log_bytes"] = 10**9
    head.write_bytes(json.dumps(values).encode())


def run(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.create_function("boom", 0, lambda: 1)
        for statement in statements:
            connection.execute(statement)


def test_a_snapshot_that_mmmeta_wrote_is_taken_whatever_its_columns_are_called(
    archive: Path, tmp_path: Path
) -> None:
    offer(archive)
    with mmmeta(tmp_path / "client", remote=archive) as m:
        assert m.pull().snapshot
        m.update()
        file = m.files.get("k1")
        assert file is not None
        assert set(NAMES) <= set(file)
        assert (file['a"b'], file["select"], file["tags"], file["x" * 70]) == (1, 1.5, [1, {"a": None}], [2])
        assert len(m.files) == 50


def replaced(old: str, new: str) -> str:
    return f"UPDATE sqlite_master SET sql = replace(sql, '{old}', '{new}') WHERE name = 'files'"


WRITABLE = "PRAGMA writable_schema=ON"
SCHEMAS = {
    "a trigger": ["CREATE TRIGGER t AFTER UPDATE ON files BEGIN DELETE FROM files; END"],
    "a view": ["CREATE VIEW v AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"],
    "a view in a table's place": [
        "ALTER TABLE files RENAME TO other",
        "CREATE VIEW files AS SELECT * FROM other",
    ],
    "a view of notes": [
        "ALTER TABLE mmmeta_info RENAME TO other",
        "CREATE VIEW mmmeta_info AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
        "SELECT i AS key, i AS value FROM n",
    ],
    "another table": ["CREATE TABLE more (a)"],
    "another index": ["CREATE INDEX more ON files (title)"],
    "a unique index": ["CREATE UNIQUE INDEX more ON files (__revision, content_hash)"],
    "an index on an expression": ["CREATE INDEX more ON files (length(title || printf('%1000000d', 1)))"],
    "a virtual table": ["CREATE VIRTUAL TABLE more USING fts5(a)"],
    "a generated column": ["ALTER TABLE files ADD COLUMN g GENERATED ALWAYS AS (length(title))"],
    "a generated column that is declared": [
        "ALTER TABLE files ADD COLUMN g GENERATED ALWAYS AS (length(title))",
        "INSERT INTO mmmeta_columns VALUES ('g', 'integer', 1)",
    ],
    "a default that is computed": [
        "ALTER TABLE files ADD COLUMN g DEFAULT 5",
        "INSERT INTO mmmeta_columns VALUES ('g', 'integer', 1)",
    ],
    "a column with a type": [
        "ALTER TABLE files ADD COLUMN g INTEGER",
        "INSERT INTO mmmeta_columns VALUES ('g', 'integer', 1)",
    ],
    "a check": [
        "ALTER TABLE files ADD COLUMN g CHECK (length(randomblob(9)) > 0)",
        "INSERT INTO mmmeta_columns VALUES ('g', 'text', 1)",
    ],
    "a reference": [
        'ALTER TABLE files ADD COLUMN g REFERENCES files("content_hash") ON DELETE CASCADE',
        "INSERT INTO mmmeta_columns VALUES ('g', 'text', 1)",
    ],
    "a column that is not declared": ["ALTER TABLE files ADD COLUMN g"],
    "a column that is not there": ["INSERT INTO mmmeta_columns VALUES ('g', 'text', 1)"],
    "a bookkeeping column that is declared": ["INSERT INTO mmmeta_columns VALUES ('__deleted_at', 'text', 1)"],
    "a kind that is none": ["UPDATE mmmeta_columns SET kind = 'blob' WHERE name = 'title'"],
    "two columns of one name": ["INSERT INTO mmmeta_columns VALUES ('TITLE', 'text', 1)"],
    "no tables": ["DROP TABLE mmmeta_store"],
    "a key of another spelling": [WRITABLE, replaced("NOT NULL PRIMARY KEY", "COLLATE NOCASE NOT NULL PRIMARY KEY")],
    "private tables": ["CREATE TABLE mmmeta_pending (key PRIMARY KEY, base TEXT)"],
    "a key column that can't be": ["UPDATE mmmeta_info SET value = '__revision' WHERE key = 'unique'"],
    "no key column": ["DELETE FROM mmmeta_info WHERE key = 'unique'"],
    "a revision that is text": ["UPDATE mmmeta_info SET value = 'x' WHERE key = 'log_bytes'"],
    "statistics": ["ANALYZE"],
}  # fmt: skip


@pytest.mark.parametrize("name", SCHEMAS)
def test_another_schema_is_refused(archive: Path, tmp_path: Path, name: str) -> None:
    run(meta(archive), *SCHEMAS[name])
    offer(archive)
    refused(archive, tmp_path / "client", "is not a catalog that can be used")


def refused(archive: Path, client: Path, words: str) -> None:
    """Take what the archive offers, and be as before."""
    with mmmeta(client, remote=archive) as m:
        with pytest.raises(CatalogError, match=words):
            m.pull()
        assert not m.paths.meta.exists()
        assert not [path for path in m.paths.root.iterdir() if path.name.startswith(".tmp-")]


VALUES = {
    "a blob": "UPDATE files SET title = x'00ff'",
    "text that is not UTF-8": "UPDATE files SET title = CAST(x'ff41' AS TEXT)",
    "text that is not UTF-8 in a column of JSON": "UPDATE files SET __rescued = CAST(x'7b22ff223a317d' AS TEXT)",
    "an infinity": "UPDATE files SET title = 9e999",
    "a time that is none": "UPDATE files SET published_at = 'yesterday'",
    "a day that is none": "UPDATE files SET published_at = '2023-02-29T00:00:00.000000+00:00'",
    "an hour that is none": "UPDATE files SET published_at = '2023-02-28T24:00:00.000000+00:00'",
    "a time of the year 0": "UPDATE files SET published_at = '0000-01-01T00:00:00.000000+00:00'",
    "a time that is a number": "UPDATE files SET __deleted_at = 5",
    "a time of another form": "UPDATE files SET __meta_added = '2024-01-01'",
    "a boolean that is text": "UPDATE files SET is_final = 'true'",
    "a boolean of 2": "UPDATE files SET is_final = 2",
    "JSON that is none": "UPDATE files SET tags = '[1'",
    "JSON with a lone surrogate": "UPDATE files SET tags = '[\"\\ud800\"]'",
    "rescued values that are no object": "UPDATE files SET __rescued = '[1]'",
    "an empty key": "UPDATE files SET content_hash = ' ' WHERE content_hash = 'k1'",
    "a key that is a number": "UPDATE files SET content_hash = 1.5 WHERE content_hash = 'k1'",
    "a key that is a blob": "UPDATE files SET content_hash = x'01' WHERE content_hash = 'k1'",
    "a store value that is a blob": "INSERT INTO mmmeta_store VALUES ('a', x'00')",
    "a store value of 2 MB": "INSERT INTO mmmeta_store VALUES ('a', hex(zeroblob(1000000)))",
    "too many store values": "INSERT INTO mmmeta_store WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n "
    "LIMIT 10001) SELECT 'k' || i, '1' FROM n",
    "a huge value": "UPDATE files SET title = CAST(zeroblob(140000000) AS TEXT) WHERE content_hash = 'k1'",
}


@pytest.mark.parametrize("name", VALUES)
def test_values_that_no_column_has_are_refused(archive: Path, tmp_path: Path, name: str) -> None:
    run(meta(archive), VALUES[name])
    offer(archive)
    refused(archive, tmp_path / "client", "is not a catalog that can be used")


def test_a_damaged_index_is_refused(archive: Path, tmp_path: Path) -> None:
    run(
        meta(archive),
        WRITABLE,
        "UPDATE sqlite_master SET rootpage = (SELECT rootpage FROM sqlite_master WHERE name = 'files_revision') "
        "WHERE name = 'sqlite_autoindex_files_1'",
    )
    offer(archive)
    refused(archive, tmp_path / "client", "damaged|is not a")


def test_a_snapshot_in_another_encoding_is_refused(archive: Path, tmp_path: Path) -> None:
    other = tmp_path / "utf16.db"
    with closing(sqlite3.connect(meta(archive))) as old, closing(sqlite3.connect(other)) as new:
        new.execute("PRAGMA encoding='UTF-16le'")
        new.executescript("\n".join(old.iterdump()))
        new.execute("PRAGMA user_version=1")
    offer(archive, other)
    refused(archive, tmp_path / "client", "UTF-16le")


@pytest.mark.parametrize("page", [512, 65536])
def test_a_page_size_that_mmmeta_does_not_use_does_no_harm(archive: Path, tmp_path: Path, page: int) -> None:
    run(meta(archive), f"PRAGMA page_size={page}", "VACUUM")
    offer(archive)
    with mmmeta(tmp_path / "client", remote=archive) as m:
        assert m.pull().snapshot


@pytest.mark.parametrize("data", [b"", b"SQLite format 3\0" + b"\xff" * 4080, b"no database" * 500])
def test_what_is_no_database_is_refused(archive: Path, tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    offer(archive, path)
    refused(archive, tmp_path / "client", "is empty|be used|cannot open")


def test_a_snapshot_that_is_larger_than_is_taken(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(archive)
    monkeypatch.setenv("MMMETA_MAX_SNAPSHOT_BYTES", "5000")
    with mmmeta(tmp_path / "client", remote=archive) as m:
        with pytest.raises(MmmetaError, match="set MMMETA_MAX_SNAPSHOT_BYTES"):
            m.pull()
        assert not m.paths.meta.exists()


def test_a_client_that_has_a_catalog_keeps_it(archive: Path, tmp_path: Path) -> None:
    with mmmeta(tmp_path / "client", remote=archive) as m:
        m.pull()
        m.update()
        with mmmeta(tmp_path / "publisher", remote=archive) as publisher:
            publisher.files.insert({"content_hash": "new"})
            publisher.push()
        run(meta(archive), "UPDATE mmmeta_info SET value = 3 WHERE key = 'revision'", *SCHEMAS["a trigger"])
        offer(archive)
        before = m.paths.meta.read_bytes()
        with pytest.raises(CatalogError, match="trigger"):
            m.pull()
        assert m.paths.meta.read_bytes() == before
        assert len(m.files) == 50


# --- a metadir that was copied here


Verb = Callable[[Metadir], object]
VERBS: dict[str, Verb] = {
    "update": lambda m: m.update(),
    "inspect": lambda m: m.inspect(),
    "push": lambda m: m.push(),
    "insert": lambda m: m.files.insert({"content_hash": "new"}),
}


def copied(archive: Path, tmp_path: Path) -> Path:
    client = tmp_path / "client"
    shutil.copytree(archive / "_mmmeta", client / "_mmmeta")
    return client


@pytest.mark.parametrize(
    ("name", "verb"),
    [("a trigger", "update"), ("a generated column that is declared", "push"), ("a view in a table's place", "insert"),
     ("a trigger", "inspect")],
)  # fmt: skip
def test_a_copied_catalog_is_looked_at_by_whoever_opens_it(
    archive: Path, tmp_path: Path, name: str, verb: str
) -> None:
    client = copied(archive, tmp_path)
    path = client / "_mmmeta" / "meta.db"
    run(path, *SCHEMAS[name])
    before = path.read_bytes()
    with mmmeta(client) as m, pytest.raises(CatalogError, match="is not a catalog that can be used"):
        VERBS[verb](m)
    assert path.read_bytes() == before


def test_verify_names_a_copied_catalog_that_is_none(archive: Path, tmp_path: Path) -> None:
    client = copied(archive, tmp_path)
    run(client / "_mmmeta" / "meta.db", *SCHEMAS["a check"])
    with mmmeta(client) as m:
        assert any("mmmeta does not write" in str(finding) for finding in m.verify().findings)


@pytest.mark.parametrize(
    "name",
    [
        "a blob",
        "text that is not UTF-8",
        "a time that is none",
        "rescued values that are no object",
        "an empty key",
    ],
)
def test_a_copied_catalogs_values_are_looked_at_before_they_reach_the_state(
    archive: Path, tmp_path: Path, name: str
) -> None:
    client = copied(archive, tmp_path)
    with mmmeta(client) as m:
        m.update()
        run(
            m.paths.meta,
            VALUES[name],
            "UPDATE files SET __revision = 9",
            "UPDATE mmmeta_info SET value = 9 WHERE key = 'revision'",
        )
        shutil.rmtree(m.paths.root / "log")
        with pytest.raises(CatalogError, match=r"has a value that|is not a catalog"):
            m.update()
        assert len(m.files) == 50
        assert m.state_revision == 2


def test_a_journal_that_names_another_file_can_not_remove_it(archive: Path, tmp_path: Path) -> None:
    victim = tmp_path / "precious.txt"
    victim.write_text("do not delete")
    client = copied(archive, tmp_path)
    for name in ("meta.db", "state.db", "cache.db"):
        path = client / "_mmmeta" / name
        if not path.exists():
            run(path, "CREATE TABLE t (a)")
        hostile_journal(path, victim)
        with pytest.raises(CatalogError, match=f"{name}-journal was not written by mmmeta"):
            connect(path, pragmas={})
    with mmmeta(client) as m:
        with pytest.raises(CatalogError, match="was not written by mmmeta"):
            m.update()
        with pytest.raises(CatalogError, match="was not written by mmmeta"):
            m.inspect()
        assert any("meta.db-journal" in str(finding) for finding in m.verify().findings)
    assert victim.read_text() == "do not delete"
    (client / "_mmmeta" / "meta.db-journal").unlink()
    # That the journal is what SQLite takes for one:
    with closing(sqlite3.connect(client / "_mmmeta" / "state.db")) as connection:
        connection.execute("SELECT * FROM t")
    assert not victim.exists()


def hostile_journal(path: Path, victim: Path) -> None:
    """Leave a journal that rolls nothing back, and at its end names a file that SQLite then removes."""
    magic = bytes.fromhex("d9d505f920a163d7")
    name = str(victim).encode()
    pages = path.stat().st_size // 4096
    header = (magic + struct.pack(">IIIII", 0, 1, pages, 512, 4096)).ljust(512, b"\0")
    end = struct.pack(">I", 0x40000000 // 4096 + 1) + name + struct.pack(">II", len(name), sum(name)) + magic
    path.with_name(path.name + "-journal").write_bytes(header + end)


def test_connections_do_not_trust_a_schema(tmp_path: Path) -> None:
    with closing(connect(tmp_path / "a.db", pragmas={})) as connection:
        assert connection.execute("PRAGMA trusted_schema").fetchone() == (0,)
        assert connection.execute("PRAGMA cell_size_check").fetchone() == (1,)
