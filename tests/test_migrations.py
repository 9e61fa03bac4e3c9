"""Formats: an older database is brought up to date whole or not at all, a newer one refused with what to install."""

from __future__ import annotations

import gzip
import hashlib
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import migrated
import orjson
import pytest
from remotes.test_local import as_a_mere_user

from mmmeta_core import CatalogError, LogError, __version__, mmmeta
from mmmeta_core.changelog import open_segment, segment_name
from mmmeta_core.database.migrations import Schema, bring_up_to_date
from mmmeta_core.database.sqlite import connect
from mmmeta_core.head import parse_head
from mmmeta_core.writer import newer_format, version_of

GOLDEN = Path(__file__).parent / "golden"
INSTALL = "and was written by mmmeta 7.3.0, this mmmeta reads up to format 1: install mmmeta>=7.3.0"
HOSTILE = (
    "7.3.0; rm -rf /",
    "7.3.0\n",
    "\x1b[31m7.3.0",
    "\u096d.\u0969.\u0966",
    "7." * 60,
    "",
    "1",
    None,
    7.3,
    ["7.3.0"],
    b"7.3.0",
)


@pytest.fixture(params=["meta.sql", "state.sql"])
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A database as format 1 was first written, without a word of who wrote it, and with rows in it."""
    path = tmp_path / "old.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript((GOLDEN / request.param).read_text(encoding="utf-8"))
        connection.execute("INSERT INTO mmmeta_info VALUES ('unique', 'content_hash'), ('revision', 7)")
        connection.executemany(
            "INSERT INTO files (content_hash, __meta_added) VALUES (?, ?)", [("a", "t1"), ("007", "t2")]
        )
        connection.commit()
    return path


def ask(path: Path, sql: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


def change(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def dump(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return [f"{connection.execute('PRAGMA user_version').fetchone()}", *connection.iterdump()]


def migrate(path: Path, schema: Schema = migrated.SCHEMA) -> None:
    with closing(connect(path, pragmas={})) as connection:
        bring_up_to_date(connection, path, schema)


def is_of_format_3(path: Path) -> bool:
    return (
        ask(path, "PRAGMA user_version") == [(3,)]
        and ask(path, "SELECT step FROM journal") == [(2,), (3,)]
        and ask(path, "SELECT content_hash, __meta_added, mood FROM files ORDER BY __meta_added")
        == [("a", "t1", "calm"), ("007", "t2", "calm")]
        and ask(path, "SELECT value FROM mmmeta_info WHERE key = 'writer'") == [(__version__,)]
    )


# --- steps


def test_a_database_is_brought_up_to_date_step_by_step_and_once(old: Path) -> None:
    migrate(old)
    assert is_of_format_3(old)
    before = dump(old)
    migrate(old)
    assert dump(old) == before


def test_a_new_database_is_made_in_the_newest_format(tmp_path: Path) -> None:
    migrate(tmp_path / "new.db")
    assert ask(tmp_path / "new.db", "PRAGMA user_version") == [(3,)]
    assert ask(tmp_path / "new.db", "SELECT step FROM journal") == []


def test_a_step_that_fails_leaves_the_format_before_it(old: Path) -> None:
    def fails(connection: sqlite3.Connection) -> None:
        connection.execute("DELETE FROM files")
        connection.execute("SELECT * FROM nowhere")

    with pytest.raises(sqlite3.OperationalError, match="no such table: nowhere"):
        migrate(old, Schema(migrated.create, (migrated.to_2, fails)))
    assert ask(old, "PRAGMA user_version") == [(2,)]
    assert ask(old, "SELECT count(*) FROM files") == [(2,)]
    migrate(old)
    assert is_of_format_3(old)


@pytest.mark.parametrize("old", ["meta.sql"], indirect=True)
def test_who_is_killed_at_any_statement_goes_on_where_it_was(old: Path, tmp_path: Path) -> None:
    def run(deadly: int, path: Path) -> subprocess.CompletedProcess[str]:
        program = Path(migrated.__file__)
        return subprocess.run([sys.executable, program, str(deadly), path], capture_output=True, text=True)

    statements = int(run(0, Path(shutil.copy(old, tmp_path / "counted"))).stdout)
    assert statements > 15
    allowed = {1: 0, 2: 1, 3: 2}
    points = range(1, statements + 1)
    copies = [Path(shutil.copy(old, tmp_path / f"killed-{number}")) for number in points]
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(run, points, copies))
    for copy, result in zip(copies, results, strict=True):
        assert result.returncode == -signal.SIGKILL, result.stderr
        ((version,),) = ask(copy, "PRAGMA user_version")
        steps = ask(copy, "SELECT step FROM journal") if version > 1 else []
        assert len(steps) == allowed[version], "a format without its step, or a step without its format"
        migrate(copy)
        assert is_of_format_3(copy)


@pytest.mark.parametrize("old", ["state.sql"], indirect=True)
def test_several_at_once_take_each_step_once(old: Path) -> None:
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(migrate, [old] * 6))
    assert is_of_format_3(old)


# --- refusals


def test_an_older_mmmeta_refuses_a_database_that_was_brought_up_to_date(old: Path) -> None:
    migrate(old)
    change(old, "UPDATE mmmeta_info SET value = '7.3.0' WHERE key = 'writer'")
    before = dump(old)
    with pytest.raises(CatalogError) as caught:
        migrate(old, Schema(migrated.create))
    assert str(caught.value) == f"{old} has format 3 {INSTALL}"
    assert dump(old) == before


@pytest.mark.parametrize("name", ["meta.db", "state.db"])
def test_a_newer_database_of_a_metadir_is_refused_by_every_verb(tmp_path: Path, name: str) -> None:
    with mmmeta(tmp_path) as m:
        m.files.insert(content_hash="a")
        assert ask(m.paths.root / name, "SELECT value FROM mmmeta_info WHERE key = 'writer'") == [
            (__version__,)
        ]
    path = m.paths.root / name
    change(path, "PRAGMA user_version = 2", "UPDATE mmmeta_info SET value = '7.3.0' WHERE key = 'writer'")
    before = dump(path)
    verbs: list[Callable[[], object]] = [m.update, lambda: m.files.insert(content_hash="b")]
    verbs += (
        [m.push, m.inspect] if name == "meta.db" else [lambda: list(m.files.find()), lambda: m.state_revision]
    )
    for verb in verbs:
        with pytest.raises(CatalogError) as caught:
            verb()
        assert str(caught.value) == f"{path} has format 2 {INSTALL}"
    assert dump(path) == before


def test_a_newer_snapshot_is_refused_by_the_url_that_it_has(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    with mmmeta(tmp_path / "publisher", remote=archive) as m:
        archive.mkdir()
        m.files.insert_many({"content_hash": f"{n}", "title": "x" * 3000 * (n == 1)} for n in range(3))
        m.push()
    snapshot = archive / "_mmmeta" / "meta.db"
    change(snapshot, "PRAGMA user_version = 2", "UPDATE mmmeta_info SET value = '7.3.0' WHERE key = 'writer'")
    head = orjson.loads((snapshot.parent / "head.json").read_bytes())
    data = snapshot.read_bytes()
    head["snapshot"] |= {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    head["log_bytes"] = head["snapshot"]["log_bytes"] = 10**9  # so that the snapshot pays
    (snapshot.parent / "head.json").write_bytes(orjson.dumps(head))
    with mmmeta(tmp_path / "client", remote=archive) as client:
        with pytest.raises(CatalogError) as caught:
            client.pull()
        assert str(caught.value) == f"{snapshot.as_uri()} has format 2 {INSTALL}"
        assert client.revision == 0


@pytest.mark.parametrize(
    "info",
    [
        "DROP TABLE mmmeta_info",
        "UPDATE mmmeta_info SET value = '7.3.0; rm -rf /' WHERE key = 'writer'",
        "UPDATE mmmeta_info SET value = x'372e332e30' WHERE key = 'writer'",
        "UPDATE mmmeta_info SET value = zeroblob(1000000) WHERE key = 'writer'",
        "DELETE FROM mmmeta_info",
        "ALTER TABLE mmmeta_info RENAME COLUMN value TO worth",
    ],
)
def test_a_newer_database_that_does_not_say_who_wrote_it_is_refused_too(old: Path, info: str) -> None:
    change(
        old, "INSERT INTO mmmeta_info VALUES ('writer', '7.3.0')", info, "PRAGMA user_version = 2147483647"
    )
    with pytest.raises(CatalogError) as caught:
        migrate(old, Schema(migrated.create))
    what = "has format 2147483647, this mmmeta reads up to 1: install a newer mmmeta"
    assert str(caught.value) == f"{old} {what}"


def test_what_a_newer_database_computes_for_its_writer_is_not_run(old: Path) -> None:
    endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT 'writer' AS key, x AS value FROM n"
    change(old, "DROP TABLE mmmeta_info", f"CREATE VIEW mmmeta_info AS {endless}", "PRAGMA user_version = 2")
    with pytest.raises(CatalogError, match="install a newer mmmeta"):
        migrate(old, Schema(migrated.create))


@pytest.mark.parametrize("writer", HOSTILE, ids=repr)
def test_a_writer_that_is_no_version_is_not_shown(writer: Any) -> None:
    assert version_of(writer) is None
    assert newer_format(2, 1, writer) == "has format 2, this mmmeta reads up to 1: install a newer mmmeta"


@pytest.mark.parametrize("writer", ["7.3", "7.3.0", "7.3.0rc1", "7.3.0.post1", "7.3.0.dev4", __version__])
def test_a_writer_that_is_a_version_is_the_one_to_install(writer: str) -> None:
    assert newer_format(2, 1, writer).endswith(f"install mmmeta>={writer}")


def test_a_writer_that_is_older_than_this_one_is_no_advice() -> None:
    assert newer_format(2, 1, "0.1.0") == "has format 2, this mmmeta reads up to 1: install a newer mmmeta"


@pytest.mark.parametrize("writer", ["7.3.0", *HOSTILE[:-1]], ids=repr)
def test_newer_segments_and_heads_are_refused_with_what_to_install(tmp_path: Path, writer: Any) -> None:
    header = orjson.loads((GOLDEN / "segment.jsonl").read_bytes().split(b"\n")[0])
    segment = tmp_path / "segment"
    segment.write_bytes(gzip.compress(orjson.dumps(header | {"format": 2, "writer": writer}) + b"\n"))
    said = f"has format 2 {INSTALL}" if writer == "7.3.0" else f"{newer_format(2, 1, None)}"
    with pytest.raises(LogError) as caught, open_segment(segment, "log/2"):
        pass
    assert str(caught.value) == f"segment log/2 {said}; nothing was changed"
    with pytest.raises(LogError) as caught:
        parse_head(orjson.dumps({"format": 2, "writer": writer}), "head.json")
    assert str(caught.value) == f"head.json {said}"


def test_what_is_published_names_its_writer(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    with mmmeta(tmp_path / "publisher", remote=tmp_path / "archive") as m:
        m.files.insert(content_hash="a")
        m.push()
    metadir = tmp_path / "archive" / "_mmmeta"
    assert parse_head((metadir / "head.json").read_bytes(), "head").writer == __version__
    with open_segment(metadir / segment_name(1), "segment") as (header, _):
        assert header.writer == __version__
    assert ask(metadir / "meta.db", "SELECT value FROM mmmeta_info WHERE key = 'writer'") == [(__version__,)]


# --- what can't be written


def test_an_older_database_that_is_read_only_says_so(old: Path) -> None:
    with closing(sqlite3.connect(f"{old.as_uri()}?mode=ro", uri=True, isolation_level=None)) as connection:
        with pytest.raises(CatalogError) as caught:
            bring_up_to_date(connection, old, migrated.SCHEMA)
        assert str(caught.value).startswith(
            f"{old} has format 1 and has to be brought to format 3 first, but it can't be written ("
        )
        bring_up_to_date(connection, old, Schema(migrated.create))  # nothing to write


def test_a_snapshot_on_a_medium_that_is_read_only_says_so() -> None:
    folder = Path(tempfile.mkdtemp(prefix="mmmeta-test-"))  # one that others can look into
    try:
        shutil.copytree(GOLDEN / "metadir", folder / "medium")
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        with mmmeta(folder / "medium") as m:
            assert m.config.types  # and Python has loaded what only root may read here
            with as_a_mere_user(), pytest.raises(CatalogError) as caught:
                m.inspect()
        assert str(caught.value).startswith(
            f"{m.paths.meta} is a published copy that this metadir has to make its own first, but it can't be written ("
        )
    finally:
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755)
        shutil.rmtree(folder)
