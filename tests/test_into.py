"""Into a database: `files.process(into_database(…))` keeps documents as rows of a table of the user's."""

from __future__ import annotations

import json
import logging
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from hypothesis import given, settings
from hypothesis import strategies as st

from mmmeta_core import ConfigError, Metadir, UnavailableError, into_database, mmmeta
from mmmeta_core.into import IntoDatabase

NOON = datetime(2024, 5, 1, 12, 0, 0, 250, tzinfo=UTC)


@pytest.fixture
def m(tmp_path: Path) -> Iterator[Metadir]:
    with mmmeta(tmp_path / "metadir") as metadir:
        metadir.files.insert_many(
            {"content_hash": f"d{n}", "title": f"Title {n}", "pages": n} for n in range(6)
        )
        yield metadir


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "target.db"


def ask(target: Path, statement: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(target)) as database:
        return database.execute(statement).fetchall()


def do(target: Path, script: str) -> None:
    with closing(sqlite3.connect(target)) as database, database:
        database.executescript(script)


def run(m: Metadir, target: Path, *arguments: Any, on: Any = "due", **options: Any) -> Any:
    handler = into_database(f"sqlite:///{target}", *arguments)
    try:
        return m.files.process(handler, on=on, **options)
    finally:
        handler.close()


def test_the_table_is_made_with_the_key_as_its_primary_key(m: Metadir, target: Path) -> None:
    result = run(m, target)
    assert (result.processed, result.failed, result.left) == (6, 0, 0)
    assert ask(target, "SELECT name, type, pk FROM pragma_table_info('documents') ORDER BY name") == [
        ("content_hash", "TEXT", 1),
        ("pages", "BIGINT", 0),
        ("title", "TEXT", 0),
    ]
    assert ask(target, "SELECT * FROM documents ORDER BY 1 LIMIT 2") == [
        ("d0", 0, "Title 0"),
        ("d1", 1, "Title 1"),
    ]
    assert run(m, target).processed == 0


@pytest.mark.parametrize("options", [{"chunk": 1}, {"chunk": 4}, {"workers": 3, "timeout": 60}])
def test_a_document_that_comes_again_is_updated_and_never_doubled(
    m: Metadir, target: Path, options: dict[str, Any]
) -> None:
    run(m, target, **options)
    m.files.upsert_many([{"content_hash": f"d{n}", "title": "new", "pages": None} for n in (1, 3)])
    m.files.insert(content_hash="d6", title="late")
    assert run(m, target, on_change="again", **options).processed == 3
    assert ask(target, "SELECT content_hash, title, pages FROM documents ORDER BY 1") == [
        ("d0", "Title 0", 0),
        ("d1", "new", None),
        ("d2", "Title 2", 2),
        ("d3", "new", None),
        ("d4", "Title 4", 4),
        ("d5", "Title 5", 5),
        ("d6", "late", None),
    ]


def test_values_come_back_as_they_were(tmp_path: Path, target: Path) -> None:
    values: dict[str, Any] = {
        "text": "ü\n'\"\\ 日本 \U0001f600",
        "number": "007",
        "large": 2**63 - 1,
        "half": 0.5,
        "yes": True,
        "no": False,
        "at": NOON.astimezone(timezone(timedelta(hours=5))),
        "tags": ["a", {"b": [None, 1.5, "ü"]}],
        "empty": {},
        "publisher": {"name": "Office", "zip-code": 1},
        "nothing": None,
    }
    with mmmeta(tmp_path / "metadir") as m:
        m.files.insert(content_hash="k", **values)
        m.files.insert(content_hash="other")
        assert run(m, target, "my docs").processed == 2
    expected = {
        **{name: values[name] for name in ("text", "number", "large", "half", "yes", "no", "tags", "empty")},
        "content_hash": "k",
        "publisher:name": "Office",
        "publisher:zip_code": 1,
        "at": NOON.replace(tzinfo=None),
    }
    engine = sqlalchemy.create_engine(f"sqlite:///{target}")
    table = sqlalchemy.Table("my docs", sqlalchemy.MetaData(), autoload_with=engine)
    with engine.connect() as connection:
        rows = [
            dict(row)
            for row in connection.execute(sqlalchemy.select(table).order_by("content_hash")).mappings()
        ]
    engine.dispose()
    assert rows == [expected, {**dict.fromkeys(expected), "content_hash": "other"}]
    assert [type(rows[0][name]) for name in ("yes", "no")] == [bool, bool]
    raw = "SELECT yes, no, at, tags, typeof(large) FROM \"my docs\" WHERE content_hash = 'k'"
    assert ask(target, raw) == [(1, 0, "2024-05-01 12:00:00.000250", json.dumps(values["tags"]), "integer")]
    assert ask(target, 'SELECT count(*) FROM "my docs" WHERE tags IS NULL') == [(1,)], (
        "SQL's NULL, not the one of JSON"
    )


LEAVES = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=8)
VALUES = LEAVES | st.floats(allow_nan=False, allow_infinity=False) | st.lists(LEAVES, max_size=3)


@settings(deadline=None, max_examples=20)
@given(
    st.lists(st.fixed_dictionaries({"a": VALUES, "b": VALUES, "c": st.datetimes() | st.none()}), max_size=4)
)
def test_whatever_is_published_is_in_its_column_or_rescued(
    tmp_path_factory: Any, documents: list[dict[str, Any]]
) -> None:
    base = tmp_path_factory.mktemp("round")
    with mmmeta(base / "m") as m:
        m.files.insert_many({"content_hash": str(number), **one} for number, one in enumerate(documents))
        expected = {file.key: {name: file.get(name) for name in "abc"} for file in m.files}
        result = run(m, base / "target.db")
        assert (result.processed, result.failed) == (len(documents), 0)
        kinds = m.files.kinds()
    if not documents:
        return
    with closing(sqlite3.connect(base / "target.db")) as database:
        database.row_factory = sqlite3.Row
        rows = {row["content_hash"]: dict(row) for row in database.execute("SELECT * FROM documents")}
    found = {}
    for key, row in rows.items():
        there = {name: row.get(name) for name in "abc"}
        for name, value in there.items():
            if value is not None and kinds[name] == "boolean":
                there[name] = bool(value)
            elif value is not None and kinds[name] == "json":
                there[name] = json.loads(value)
            elif value is not None and kinds[name] == "datetime":
                there[name] = datetime.fromisoformat(value).replace(tzinfo=UTC)
        found[key] = {**there, **json.loads(row.get("rescued") or "{}")}
    assert found == expected


def test_a_value_of_another_kind_is_in_the_column_rescued_until_it_fits(m: Metadir, target: Path) -> None:
    run(m, target)
    m.files.upsert({"content_hash": "d1", "pages": "twelve", "title": ["a"]})
    run(m, target, on_change="again")
    bad = "SELECT pages, title, rescued FROM documents WHERE content_hash = 'd1'"
    ((pages, title, rescued),) = ask(target, bad)
    assert (pages, title, json.loads(rescued)) == (None, None, {"pages": "twelve", "title": ["a"]})
    assert ask(target, "SELECT count(*) FROM documents WHERE rescued IS NULL") == [(5,)]
    m.files.upsert({"content_hash": "d1", "pages": 12, "title": "a"})
    run(m, target, on_change="again")
    assert ask(target, bad) == [(12, "a", None)]


@pytest.mark.parametrize("kind", ["published", "the user's"])
def test_another_column_named_rescued_is_left_alone(m: Metadir, target: Path, kind: str) -> None:
    if kind == "published":
        m.files.upsert({"content_hash": "d0", "rescued": "from the sea"})
    else:
        do(target, "CREATE TABLE documents (content_hash TEXT PRIMARY KEY, rescued TEXT);"
            "INSERT INTO documents VALUES ('d0', 'from the sea')")  # fmt: skip
    m.files.upsert({"content_hash": "d0", "pages": "many"})
    assert run(m, target).failed == 0
    assert ask(target, "SELECT rescued, rescued_ FROM documents WHERE content_hash = 'd0'") == [
        ("from the sea", '{"pages": "many"}')
    ]


def test_columns_come_later_when_the_publisher_adds_some(m: Metadir, target: Path) -> None:
    run(m, target)
    handler = into_database(f"sqlite:///{target}")
    m.files.process(handler)
    m.files.upsert({"content_hash": "d7", "publisher": {"name": "x"}, "at": NOON})
    m.files.process(handler)
    m.files.upsert({"content_hash": "d8", "tags": ["a"]})
    m.files.process(handler)
    handler.close()
    assert ask(
        target,
        "SELECT \"publisher:name\", tags FROM documents WHERE content_hash > 'd5' ORDER BY content_hash",
    ) == [
        ("x", None),
        (None, '["a"]'),
    ]


def test_a_table_of_the_users_keeps_what_is_in_it(m: Metadir, target: Path) -> None:
    do(target, "CREATE TABLE inbox (note TEXT DEFAULT 'new', content_hash VARCHAR(40) NOT NULL PRIMARY KEY, pages);"
        "INSERT INTO inbox VALUES ('mine', 'd1', 77), ('elsewhere', 'x', 1);"
        "CREATE VIEW short AS SELECT pages FROM inbox; CREATE INDEX by_note ON inbox (note)")  # fmt: skip
    run(m, target, "inbox", ["title", "pages"])
    m.files.upsert({"content_hash": "d1", "title": "again"})
    run(m, target, "inbox", ["title", "pages"], on_change="again")
    assert ask(target, "SELECT content_hash, note, pages, title FROM inbox ORDER BY 1 LIMIT 3") == [
        ("d0", "new", 0, "Title 0"),
        ("d1", "mine", 1, "again"),
        ("d2", "new", 2, "Title 2"),
    ]
    assert ask(target, "SELECT * FROM inbox WHERE content_hash = 'x'") == [("elsewhere", "x", 1, None)]
    m.files.delete(content_hash=["d1", "d2"])
    run(m, target, "inbox", on="deleted")
    assert ask(target, "SELECT content_hash FROM inbox ORDER BY 1") == [
        ("d0",),
        ("d3",),
        ("d4",),
        ("d5",),
        ("x",),
    ]
    assert len(ask(target, "SELECT * FROM sqlite_master WHERE name IN ('short', 'by_note')")) == 2


def test_times_and_lists_are_text_in_columns_of_text(m: Metadir, target: Path) -> None:
    do(target, "CREATE TABLE documents (content_hash PRIMARY KEY, at TEXT, tags, yes INTEGER)")
    m.files.upsert({"content_hash": "k", "at": NOON, "tags": ["ü"], "yes": True})
    assert run(m, target, "documents", ["at", "tags", "yes"], content_hash="k").processed == 1
    assert ask(target, "SELECT * FROM documents") == [("k", "2024-05-01T12:00:00.000250+00:00", '["ü"]', 1)]


def test_a_deleted_document_loses_its_row_and_a_restored_one_gets_it_back(m: Metadir, target: Path) -> None:
    run(m, target)
    m.files.delete(pages={">=": 3})
    assert run(m, target).processed == 0
    assert run(m, target, on="deleted").processed == 3
    assert run(m, target, on="deleted").processed == 0
    assert ask(target, "SELECT count(*) FROM documents") == [(3,)]
    m.files.upsert({"content_hash": "d4", "title": "back"})
    assert run(m, target).processed == 1
    assert ask(target, "SELECT title, pages FROM documents WHERE content_hash = 'd4'") == [("back", 4)]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (None, {"content_hash": "d2", "title": "Title 2", "pages": 2}),
        (["title"], {"content_hash": "d2", "title": "Title 2"}),
        (["content_hash", "title", "not published"], {"content_hash": "d2", "title": "Title 2"}),
        ({"title": "Überschrift", "pages": "n"}, {"content_hash": "d2", "Überschrift": "Title 2", "n": 2}),
        ({"content_hash": "id", "pages": "title"}, {"id": "d2", "title": 2}),
        ([], {"content_hash": "d2"}),
    ],
)
def test_columns_are_those_asked_for_under_the_names_asked_for(
    m: Metadir, target: Path, columns: Any, expected: dict[str, Any]
) -> None:
    for title in ("Title 2", "Title 2"):
        m.files.upsert({"content_hash": "d2", "title": title})
        run(m, target, "documents", columns, on_change="again", content_hash="d2")
    with closing(sqlite3.connect(target)) as database:
        database.row_factory = sqlite3.Row
        assert [dict(row) for row in database.execute("SELECT * FROM documents")] == [expected]


def test_own_columns_and_bookkeeping_stay_here(m: Metadir, target: Path) -> None:
    for file in m.files:
        file["my_note"] = "private"
        file.save()
    run(m, target)
    assert b"private" not in target.read_bytes()


@pytest.mark.parametrize("chunk", [1, 2, 100])
def test_only_the_document_that_the_database_refuses_fails(
    m: Metadir, target: Path, chunk: int, caplog: pytest.LogCaptureFixture
) -> None:
    do(
        target,
        "CREATE TABLE documents (content_hash TEXT PRIMARY KEY, title TEXT CHECK (title != 'Title 3'))",
    )
    with caplog.at_level(logging.INFO, "mmmeta_core"):
        result = run(m, target, "documents", ["title"], chunk=chunk)
    assert (result.processed, result.failed) == (5, 1)
    assert [key for (key,) in ask(target, "SELECT content_hash FROM documents ORDER BY 1")] == [
        "d0",
        "d1",
        "d2",
        "d4",
        "d5",
    ]
    (failure,) = m.failures()
    assert (failure.key, failure.attempts) == ("d3", 1)
    assert failure.error.startswith(
        "DocumentError: table 'documents' does not take it: CHECK constraint failed"
    )
    assert "Title 3" not in caplog.text.replace("title != 'Title 3'", ""), (
        "a document's values are not logged"
    )


@pytest.mark.parametrize(
    ("keys", "expected"),
    [(["a", "b"], ["a", "b"]), ([7, 2**62], [7, 2**62]), ([7, "007"], [7]), (["007", 7], ["007", "7"])],
)
def test_keys_are_text_or_integers(
    tmp_path: Path, target: Path, keys: list[Any], expected: list[Any]
) -> None:
    handler = into_database(f"sqlite:///{target}")
    with mmmeta(tmp_path / "metadir") as m:
        for key in keys:
            m.files.insert(content_hash=key)
            m.files.process(handler)
        assert [
            row for (row,) in ask(target, "SELECT content_hash FROM documents ORDER BY rowid")
        ] == expected
        assert len(list(m.failures())) == len(keys) - len(expected)
    handler.close()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("", r"database URL \(…\)"),
        ("target.db", r"database URL \(…\)"),
        ("user:secret@host", r"database URL \(…\)"),
        ("postgres://user:secret@host/db", r"database URL \(postgres…\)"),
        ("nosuch+driver://user:secret@host/db", r"database URL \(nosuch\+driver…\)"),
        ("postgresql://user:secret@host:port/db", r"database URL \(postgresql…\)"),
        ("postgresql+psycopg2://user:secret@host/db", "driver 'psycopg2' .* is not installed"),
        ("mysql+pymysql://user:secret@host/db", "driver 'pymysql' .* is not installed"),
    ],
)
def test_a_url_that_can_not_be_used_is_said_at_once_without_its_password(url: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected) as caught:
        into_database(url)
    assert "secret" not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("table", "columns"),
    [
        ("", None), (" ", None), ("x" * 64, None), ("t", "title"), ("t", ["a-b"]), ("t", {"title": ""}),
        ("t", {"title": "__x"}), ("t", {"title": "a", "pages": "A"}),
    ],
)  # fmt: skip
def test_names_that_can_not_be_are_said_at_once(table: str, columns: Any) -> None:
    with pytest.raises(ConfigError):
        into_database("sqlite://", table, columns)


@pytest.mark.parametrize(
    ("table", "columns", "expected"),
    [
        ("(id INTEGER PRIMARY KEY, title)", None, "has no column 'content_hash'"),
        ("(id INTEGER PRIMARY KEY, content_hash)", None, "has the primary key id, not 'content_hash'"),
        ("(content_hash TEXT, title)", None, "has the primary key none, not"),
        (
            "(content_hash, title, PRIMARY KEY (content_hash, title))",
            None,
            "the primary key content_hash, title",
        ),
        ("(content_hash PRIMARY KEY, TITLE TEXT)", None, r"columns=\{'title': 'TITLE'\}"),
        ("(content_hash PRIMARY KEY)", {"title": "content_hash"}, "is the key's"),
    ],
)
def test_a_table_that_is_not_for_documents_ends_the_run_and_no_document_is_to_blame(
    m: Metadir, target: Path, table: str, columns: Any, expected: str
) -> None:
    do(target, f"CREATE TABLE documents {table}")
    with pytest.raises(ConfigError, match=expected):
        run(m, target, "documents", columns)
    assert list(m.failures()) == []
    assert ask(target, "SELECT count(*) FROM documents") == [(0,)]
    assert run(m, target, "another").processed == 6


def test_a_database_that_is_not_there_ends_the_run_and_no_document_is_to_blame(
    m: Metadir, tmp_path: Path
) -> None:
    target = tmp_path / "not mounted" / "target.db"
    with pytest.raises(
        UnavailableError, match=r"table 'documents' can't be used: unable to open database file"
    ):
        run(m, target, chunk=2)
    assert list(m.failures()) == []
    target.parent.mkdir()
    assert run(m, target, chunk=2).processed == 6


def test_a_table_that_goes_away_ends_the_run_and_the_next_one_makes_it_again(
    m: Metadir, target: Path
) -> None:
    handler = into_database(f"sqlite:///{target}")
    assert m.files.process(handler, limit=2).processed == 2
    do(target, "DROP TABLE documents")
    with pytest.raises(UnavailableError, match="no such table"):
        m.files.process(handler)
    assert list(m.failures()) == []
    assert m.files.process(handler).processed == 4
    handler.close()


def test_a_read_only_database_is_no_documents_fault(m: Metadir, target: Path) -> None:
    run(m, target, limit=1)
    handler = into_database(f"sqlite:///file:{target}?mode=ro&uri=true")
    with pytest.raises(UnavailableError, match="readonly"):
        m.files.process(handler)
    handler.close()
    assert list(m.failures()) == []


def test_what_is_shown_of_a_handler_has_no_password() -> None:
    handler = into_database("sqlite://user:secret@/x.db?password=secret", "t")
    assert repr(handler) == "<IntoDatabase sqlite://user:***@/x.db table=t>"
    handler.close()
    assert "t>" in repr(handler)


def test_a_closed_handler_opens_again(m: Metadir, target: Path) -> None:
    handler = into_database(f"sqlite:///{target}")
    assert isinstance(handler, IntoDatabase)
    for _ in range(3):
        assert m.files.process(handler, limit=2).processed == 2
        handler.close()
    assert ask(target, "SELECT count(*) FROM documents") == [(6,)]


IMPORT = """
import sys
from mmmeta_core import into_database, mmmeta
path, target, chunk = sys.argv[1:]
with mmmeta(path) as m:
    m.update()
    handler = into_database(f"sqlite:///{target}")
    print("ready", flush=True)
    sys.stdin.readline()
    result = m.files.process(handler, chunk=int(chunk))
    handler.close()
    print(result.processed, result.failed)
"""


@pytest.mark.parametrize("own_state", [True, False], ids=["two clients", "two workers of one client"])
def test_two_processes_may_write_into_one_table(tmp_path: Path, target: Path, own_state: bool) -> None:
    paths = [tmp_path / "one", tmp_path / ("two" if own_state else "one")]
    for path in {*paths}:
        with mmmeta(path) as m:
            m.files.insert_many({"content_hash": f"{n:03}", f"c{n % 7}": n} for n in range(150))
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", IMPORT, str(path), str(target), "1" if own_state else "3"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for path in paths
    ]  # fmt: skip
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    done = [tuple(map(int, out.split())) for out, _ in said]
    assert sum(processed for processed, _ in done) == (300 if own_state else 150)
    assert sum(failed for _, failed in done) == 0, said
    expected = [(f"{n:03}", n) for n in range(150)]
    columns = ",".join(f"c{n}" for n in range(7))
    assert ask(target, f"SELECT content_hash, coalesce({columns}) FROM documents ORDER BY 1") == expected


def test_what_has_no_column_in_the_catalog_is_kept_as_rescued(m: Metadir, tmp_path: Path) -> None:
    m.files.insert({"content_hash": "long", "x" * 80: 1})
    own = m.files.get("long")
    assert own is not None
    own["mine"] = "stays here"
    own.save()
    handler = into_database(f"sqlite:///{tmp_path / 'rescued.db'}", "documents")
    m.files.process(handler, content_hash="long")
    handler.close()
    with closing(sqlite3.connect(tmp_path / "rescued.db")) as database:
        (row,) = database.execute("SELECT rescued FROM documents").fetchall()
    assert json.loads(row[0]) == {"x" * 80: 1}
