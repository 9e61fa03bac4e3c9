"""The state on a real PostgreSQL server: what is other than in a file, servers that go away, and workers that share it."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from postgres import Postgres, running
from sqlalchemy import text

from mmmeta_core import (
    CatalogError,
    ColumnError,
    ConfigError,
    HistoryError,
    LogError,
    RefusedError,
    UnavailableError,
    mmmeta,
)
from mmmeta_core.database.place import Server, place
from mmmeta_core.database.postgres import session as sessions
from mmmeta_core.database.work import Work
from mmmeta_core.files import File
from mmmeta_core.metadir import Metadir

pytestmark = pytest.mark.postgres

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


@pytest.fixture
def url(postgres: Postgres, request: pytest.FixtureRequest) -> str:
    """A schema that is not there yet."""
    return postgres.url(f"s{abs(hash(request.node.nodeid)):x}")


@pytest.fixture
def m(tmp_path: Path, url: str) -> Iterator[Metadir]:
    with mmmeta(tmp_path / "m", state_db=url) as metadir:
        yield metadir


@pytest.fixture
def sql(url: str) -> Iterator[Callable[..., list[Any]]]:
    """What another program finds in the schema."""
    where = place(url)
    assert isinstance(where, Server)
    with psycopg.connect(where.uri, autocommit=True) as connection:
        connection.execute("SELECT set_config('search_path', %s, false)", (where.schema,))

        def ask(statement: str, *values: Any) -> list[Any]:
            cursor = connection.execute(statement.encode(), values)
            return cursor.fetchall() if cursor.description else []

        yield ask


def shown(m: Metadir, *columns: str) -> dict[Any, Any]:
    return {
        file.key: tuple(file.get(name) for name in columns) for file in m.files.find(order_by=m.files.unique)
    }


# --- columns


def test_columns_have_the_types_that_other_programs_expect(m: Metadir, sql: Any) -> None:
    m.files.insert(
        {
            "content_hash": "a",
            "title": "x",
            "pages": 7,
            "ratio": 0.5,
            "public": True,
            "at": NOON,
            "tags": ["x", 1],
        }
    )
    (file,) = m.files
    file["imported"] = True
    file.save()
    types = dict(
        sql(
            "SELECT column_name, data_type FROM information_schema.columns WHERE table_schema = current_schema() "
            "AND table_name = 'files'"
        )
    )
    own = ("content_hash", "title", "pages", "ratio", "public", "at", "tags", "imported")
    assert {name: types[name] for name in own} == {
        "content_hash": "text", "title": "text", "pages": "bigint", "ratio": "double precision", "public": "boolean",
        "at": "timestamp with time zone", "tags": "jsonb", "imported": "boolean",
    }  # fmt: skip
    assert sql("SELECT title, pages, ratio, public, at, tags, imported FROM files") == [
        ("x", 7, 0.5, True, NOON, ["x", 1], True)
    ]
    assert types["__meta_added"] == "timestamp with time zone"


MIXED: dict[str, Any] = {
    "number": [7, "007", 2.5, None],
    "price": [0.5, 3, "free", 2**60 + 1],
    "text": ["x", 7, "a\0b", 2.5],
    "tags": [["x"], [], ["a\0b"], [{"a": None}]],
    "public": [True, "yes", 1, False],
    "at": [NOON, "noon", 7, datetime(1, 1, 1, tzinfo=UTC)],
}


def test_a_value_that_no_column_of_a_type_can_hold_is_kept_and_found(m: Metadir, sql: Any) -> None:
    rows = [
        {
            "content_hash": f"d{at}",
            **{name: values[at] for name, values in MIXED.items() if values[at] is not None},
        }
        for at in range(4)
    ]
    m.files.insert_many(rows)
    for row in rows:
        file = m.files.get(row["content_hash"])
        assert file is not None
        for name, value in row.items():
            assert (file[name], type(file[name])) == (value, type(value)) or file[name] == value != True  # noqa: E712
    assert [file.key for file in m.files.find(number="007")] == ["d1"]
    assert [file.key for file in m.files.find(number=2.5)] == ["d2"]
    assert [file.key for file in m.files.find(number={">": 2}, order_by="number")] == ["d2", "d0", "d1"]
    assert [file.key for file in m.files.find(number=None)] == ["d3"]
    assert [file.key for file in m.files.find(order_by="-number")] == ["d1", "d0", "d2", "d3"]
    assert [file.key for file in m.files.find(number={"like": "00_"})] == ["d1"]
    assert m.files.count(number={"!=": "007"}) == 2
    assert sql("SELECT number, __rescued ->> 'number' FROM files WHERE content_hash <> 'd2' ORDER BY content_hash") == [
        (7, None), (None, "007"), (None, None)
    ]  # fmt: skip
    (file,) = m.files.find(content_hash="d0")
    file.update(mine=1, other="x")
    file.save()
    for value in ("a\0b", "text", 2.5, 3, None):
        (file,) = m.files.find(content_hash="d1")
        file["mine"] = value
        file.save()
        (again,) = m.files.find(content_hash="d1")
        assert again["mine"] == value
        assert [one.key for one in m.files.find(mine=value, content_hash="d1")] == (
            ["d1"] if value != "a\0b" else []
        )
    with pytest.raises(ColumnError, match="no document with content_hash 'nowhere' in PostgreSQL mmmeta@127"):
        m.state.save([("nowhere", {"mine": 1})])


@pytest.mark.parametrize("number", [1e16, 1.904210531330145e16, -(2.0**63), 1e15, 1e300, 1e-7, 2**63 - 1])
def test_numbers_within_lists_stay_what_they_are(m: Metadir, number: float) -> None:
    m.files.insert(content_hash="a", tags=["1e+16", [number]])
    file = m.files.get("a")
    assert file is not None
    file["mine"] = [number]
    file.save()
    found = m.files.get("a")
    assert found is not None
    for back in (found["tags"][1][0], found["mine"][0]):
        assert (back, type(back)) == (number, type(number))


def test_a_mark_that_finds_no_room_is_one_sentence_and_others_work_on(m: Metadir, sql: Any) -> None:
    m.files.insert_many({"content_hash": key} for key in "ab")
    there = sql("SELECT count(*) FROM pg_attribute WHERE attrelid = 'files'::regclass AND attnum > 0")[0][0]
    assert m.files.process(lambda _: None, mark="first").processed == 2
    sql(f"ALTER TABLE files {', '.join(f'ADD COLUMN c{at} text' for at in range(1590 - there - 1))}")
    for mark in ("second", "ctid"):
        sentence = f"no room for the column '{mark}' in .* move-state"
        with pytest.raises(ColumnError, match=sentence):
            m.files.process(lambda _: None, mark=mark)
        with pytest.raises(ColumnError, match=sentence):
            m.files.left(mark=mark)
    m.state.save((key, {"second": True, "first": True}) for key in "ab")
    assert sql("SELECT __state_rescued FROM files") == [({"second": True},)] * 2
    assert [one.get("second") for one in m.files.find(first=True)] == [True] * 2
    assert m.files.process(lambda _: None, mark="first").processed == 0


def test_documents_with_very_many_values_are_whole(m: Metadir) -> None:
    """A row of the server has to go into a page of 8 kB, whatever is moved out of it."""
    wide = {f"column {at}": f"{at:030d}" for at in range(495)}
    m.files.insert({"content_hash": "wide", **wide, "n": 1})
    m.files.insert({"content_hash": "numbers", **{f"column {at}": at for at in range(400)}})
    file = m.files.get("wide")
    assert file is not None
    assert {name: file[name] for name in wide} == wide
    assert (file["n"], [one.key for one in m.files.find(n=1)]) == (1, ["wide"])


@pytest.mark.parametrize("name", ["ctid", "xmin", "a%b", 'quo"te', "a:b", "a?b", "$1", "select", "Ä", "user"])
def test_a_column_may_be_called_anything(m: Metadir, name: str) -> None:
    m.files.insert({"content_hash": "a", name: 1})
    m.files.insert({"content_hash": "b", name: "two"})
    assert shown(m, name) == {"a": (1,), "b": ("two",)}
    assert [file.key for file in m.files.find(**{name: 1})] in (["a"], [])
    (file,) = m.files.find(content_hash="a")
    file[f"my_{name}"] = True
    file.save()
    assert [one.key for one in m.files.find(**{f"my_{name}": True})] == ["a"]


def test_keys_are_integers_while_all_are_and_text_from_then_on(m: Metadir, sql: Any, caplog: Any) -> None:
    m.files.insert_many({"content_hash": key} for key in (10, 9))
    assert list(shown(m)) == [9, 10]
    assert [file.key for file in m.files.find(content_hash={">": 9})] == [10]
    assert m.files.process(lambda _: {"score": 1}, mark="done", limit=1).processed == 1
    m.files.insert_many([{"content_hash": "a"}, {"content_hash": "x" * 3_000}])
    assert "is left out: its key is longer than an index takes" in caplog.text
    assert list(shown(m)) == ["10", "9", "a"]
    m.files.insert(content_hash="9")
    assert "or is another's as text" in caplog.text
    assert m.files.process(lambda _: None, mark="done").processed == 2
    assert [file["score"] for file in m.files.find(content_hash="9")] == [1]


def test_times_are_found_in_text_too(m: Metadir) -> None:
    said = ["2024-05-01T14:00:00+02:00", "2024-05-02", "soon", "now", "20240503T000000Z"]
    m.files.insert_many({"content_hash": str(at), "said": text} for at, text in enumerate(said))
    assert [file.key for file in m.files.find(said={">=": NOON}, order_by="content_hash")] == ["0", "1", "4"]
    assert [file.key for file in m.files.find(said=NOON)] == ["0"]


# --- schemas, formats, addresses


def test_clients_share_a_server_each_in_its_schema(tmp_path: Path, postgres: Postgres) -> None:
    remote = tmp_path / "remote"
    remote.mkdir()
    with mmmeta(tmp_path / "publisher", remote=remote) as publisher:
        publisher.files.insert_many({"content_hash": key} for key in "abc")
        publisher.push()
    for name in ('one "two" ü', "other"):
        with mmmeta(
            tmp_path / name, remote=remote, state_db=postgres.url(name.replace(" ", "%20"))
        ) as client:
            client.sync()
            assert client.files.process(lambda _: None).processed == 3
            assert name in repr(client.files)


def test_pods_without_a_disk_share_one_state(tmp_path: Path, url: str) -> None:
    """Each has a metadir of its own, which is gone with it; none takes back what another has merged."""
    remote = tmp_path / "remote"
    remote.mkdir()
    with mmmeta(tmp_path / "publisher", remote=remote) as publisher:
        publisher.files.insert_many({"content_hash": key, "title": "old"} for key in "abc")
        publisher.push()
        with mmmeta(tmp_path / "slow", remote=remote, state_db=url) as slow:
            slow.pull()
            publisher.files.upsert({"content_hash": "a", "title": "new"})
            publisher.push()
            with mmmeta(tmp_path / "fast", remote=remote, state_db=url) as fast:
                fast.sync()
                assert fast.files.process(lambda _: None).processed == 3
            merged = slow.update()
            assert (merged.added, merged.updated, merged.revision) == (0, 0, 2)
            assert shown(slow, "title", "imported")["a"] == ("new", True)
            assert not slow.poll().changed
            assert slow.sync().updated.revision == 2
    with mmmeta(tmp_path / "next", remote=remote, state_db=url) as fresh:
        result = fresh.sync().updated
        assert (result.added, result.updated, result.deleted) == (0, 0, 0)
        assert fresh.files.process(lambda _: None).processed == 0


def test_of_two_machines_the_one_whose_history_the_archive_no_longer_has_is_told_to_pull(
    tmp_path: Path, url: str
) -> None:
    """The archive was put back in between. Whoever comes first, the history that the remote has is the one that is kept."""
    remote = tmp_path / "remote"
    remote.mkdir()
    with (
        mmmeta(tmp_path / "publisher", remote=remote) as publisher,
        mmmeta(tmp_path / "before", remote=remote, state_db=url) as before,
        mmmeta(tmp_path / "after", remote=remote, state_db=url) as after,
        mmmeta(tmp_path / "slow", remote=remote, state_db=url) as slow,
    ):
        publisher.files.insert(content_hash="a", title="old")
        publisher.push()
        slow.sync()
        shutil.copytree(remote, tmp_path / "backup")
        publisher.files.upsert({"content_hash": "a", "title": "lost"})
        publisher.push()
        publisher.files.insert(content_hash="lost")
        publisher.push()
        before.pull()
        shutil.rmtree(remote)
        (tmp_path / "backup").rename(remote)

        with mmmeta(tmp_path / "anew", remote=remote) as anew:
            anew.sync()
            anew.files.insert(content_hash="new")
            anew.push()

            after.sync()
            for _ in range(2):  # it pulled before, and comes after: more revisions do not make it right
                with pytest.raises(LogError, match="pull again"):
                    before.update()
                assert shown(after, "title") == {"a": ("old",), "new": (None,)}
                assert slow.update().revision == after.update().revision == 2

            with pytest.raises(HistoryError) as refused:
                before.state.merge(before.paths.meta)
            for number in range(3):  # past the number that the other history had
                anew.files.insert(content_hash=f"new {number}")
                anew.push()
                after.sync()
                with pytest.raises(LogError, match="pull again"):
                    before.update()
            with pytest.raises(
                HistoryError
            ):  # what was confirmed before another machine merged more does not hold
                before.state.merge(before.paths.meta, confirmed=refused.value.merged)
            before.close()
            before.paths.meta.unlink()
            assert not (merged := before.sync().updated).deleted
            assert (merged.added, merged.revision) == (0, 5)
            anew.files.delete(content_hash="new")
            anew.push()
            assert before.sync().updated.deleted == 1
            assert slow.sync().updated.revision == after.sync().updated.revision == 6
            assert set(shown(after, "title")) == {"a", "new 0", "new 1", "new 2"}


def test_machines_that_came_by_a_history_before_and_after_it_was_merged_end_with_what_the_remote_has(
    tmp_path: Path, url: str
) -> None:
    """One with the outdated history merges first, or in between; each of the others makes it right again."""
    remote = tmp_path / "remote"
    remote.mkdir()
    with (
        mmmeta(tmp_path / "publisher", remote=remote) as publisher,
        mmmeta(tmp_path / "before", remote=remote, state_db=url) as before,
        mmmeta(tmp_path / "after", remote=remote, state_db=url) as after,
    ):
        publisher.files.insert(content_hash="a", title="old")
        publisher.push()
        shutil.copytree(remote, tmp_path / "backup")
        for number in range(4):
            publisher.files.upsert({"content_hash": "a", "title": f"lost {number}"})
            publisher.push()
        assert before.sync().updated.revision == 5
        assert before.files.process(lambda _: None).processed == 1
        shutil.rmtree(remote)
        (tmp_path / "backup").rename(remote)
        with mmmeta(tmp_path / "anew", remote=remote) as anew:
            anew.sync()
            anew.files.insert(content_hash="new")
            anew.push()
        merged = after.sync().updated
        assert (merged.added, merged.updated, merged.revision) == (1, 1, 2)
        assert shown(after, "title", "imported") == {"a": ("old", True), "new": (None, None)}
        with pytest.raises(LogError, match="pull again"):
            before.update()
        assert shown(after, "title", "imported") == {"a": ("old", True), "new": (None, None)}


def test_a_machine_that_came_by_a_snapshot_past_what_was_merged_compares_all_if_the_remote_still_has_it(
    tmp_path: Path, url: str
) -> None:
    """The snapshot does not say which revisions it came by."""
    remote = tmp_path / "remote"
    remote.mkdir()
    with (
        mmmeta(tmp_path / "publisher", remote=remote) as publisher,
        mmmeta(tmp_path / "one", remote=remote, state_db=url) as one,
        mmmeta(tmp_path / "two", remote=remote, state_db=url) as two,
        mmmeta(tmp_path / "three", remote=remote, state_db=url) as three,
    ):
        publisher.files.insert_many({"content_hash": key} for key in "ab")
        publisher.push()
        shutil.copytree(remote, tmp_path / "backup")
        one.sync()
        for number in range(3):
            publisher.files.upsert({"content_hash": "a", "title": f"{number}"})
            publisher.push()
        publisher.prune(keep_days=1e-9)
        assert two.pull().snapshot
        assert three.pull().snapshot
        merged = two.update()
        assert (merged.added, merged.updated, merged.unchanged, merged.deleted) == (0, 1, 1, 0)
        assert one.sync().updated.revision == three.update().revision == merged.revision == 4

        shutil.rmtree(remote)
        (tmp_path / "backup").rename(remote)
        with mmmeta(tmp_path / "anew", remote=remote) as anew:
            anew.sync()
            for number in range(4):  # past what was merged: before, nobody can tell
                anew.files.insert(content_hash=f"new {number}")
                anew.push()
        with mmmeta(tmp_path / "four", remote=remote, state_db=url) as four:
            assert four.sync().updated.added == 4
            with pytest.raises(LogError, match="pull again"):
                three.update()
            assert shown(four, "title").keys() == {"a", "b", *(f"new {number}" for number in range(4))}
            assert shown(four, "title")["a"] == (None,)


def test_a_state_of_an_older_version_has_noted_no_history(tmp_path: Path, url: str, sql: Any) -> None:
    remote = tmp_path / "remote"
    remote.mkdir()
    with (
        mmmeta(tmp_path / "publisher", remote=remote) as publisher,
        mmmeta(tmp_path / "client", remote=remote, state_db=url) as client,
    ):
        publisher.files.insert(content_hash="a")
        publisher.push()
        client.sync()
        sql("DELETE FROM mmmeta_info WHERE key = 'past'")
        publisher.files.insert(content_hash="b")
        publisher.push()
        merged = client.sync().updated
        assert (merged.added, merged.unchanged) == (1, 0)
        assert sql("SELECT json_object_keys(value::json) FROM mmmeta_info WHERE key = 'past'") == [
            ("1",),
            ("2",),
        ]


def test_many_first_merges_at_once(tmp_path: Path, url: str) -> None:
    remote = tmp_path / "remote"
    remote.mkdir()
    with mmmeta(tmp_path / "publisher", remote=remote) as publisher:
        publisher.files.insert_many({"content_hash": str(key)} for key in range(50))
        publisher.push()

    def client(number: int) -> int:
        with mmmeta(tmp_path / f"c{number}", remote=remote, state_db=url) as m:
            return int(m.sync().updated.added)

    with ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(client, range(6))) == [0] * 5 + [50]


def test_another_programs_table_and_newer_formats_are_refused(
    tmp_path: Path, url: str, m: Metadir, sql: Any
) -> None:
    m.files.insert(content_hash="a")
    sql("UPDATE mmmeta_info SET value = '99' WHERE key = 'format'")
    with (
        mmmeta(tmp_path / "m", state_db=url) as newer,
        pytest.raises(
            CatalogError,
            match=r"schema s.* has format 99 .*this mmmeta reads up to format 1: install mmmeta>=",
        ),
    ):
        len(newer.files)
    sql("DROP TABLE mmmeta_info")
    with (
        mmmeta(tmp_path / "m", state_db=url) as theirs,
        pytest.raises(CatalogError, match="did not make: name another"),
    ):
        len(theirs.files)


def test_another_key_is_refused_and_an_empty_schema_keyed_anew(tmp_path: Path, url: str) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "_mmmeta").mkdir(parents=True)
        (tmp_path / name / "_mmmeta/config.yml").write_text(f"metadata: {{unique: {name}}}")
    with mmmeta(tmp_path / "one", state_db=url) as one:
        assert len(one.files) == 0
    with mmmeta(tmp_path / "two", state_db=url) as two:
        two.files.insert(two="x")
        assert shown(two) == {"x": ()}
    with (
        mmmeta(tmp_path / "one", state_db=url) as one,
        pytest.raises(CatalogError, match="is keyed by 'two'"),
    ):
        len(one.files)


SECRET = "s3cr3t-pass"  # noqa: S105


@pytest.mark.parametrize(
    ("url", "error", "said"),
    [
        ("mysql://u:{s}@h/d", ConfigError, "not mysql: write postgresql"),
        ("postgresql+psycopg2://u:{s}@h/d", ConfigError, "only psycopg is used"),
        ("postgresql:u:{s}@h/d", ConfigError, "no '//' after 'postgresql:'"),
        ("postgresql://u:{s}@h:99999999/d", ConfigError, "can't be read"),
        ("postgresql://u:{s}@[h/d", ConfigError, "can't be read"),
        ("postgresql://u:{s}@h/d?schema=", ConfigError, "no schema can be named ''"),
        ("postgresql://u:{s}@h/d?schema=pg_x", ConfigError, "no schema can be named 'pg_x'"),
        ("postgresql://u:{s}@127.0.0.1:1/d", UnavailableError, "see whether the server runs"),
        ("postgresql://u:{s}@127.0.0.1:{port}/d?what=x", CatalogError, "correct the URL"),
        ("postgresql://nobody_else:{s}@127.0.0.1:{port}/postgres", CatalogError, "check the user"),
        ("postgresql://mmmeta:{s}@127.0.0.1:{port}/nowhere", CatalogError, "create the database"),
        ("postgresql://mmmeta:{s}@127.0.0.1:{port}/postgres?sslmode=require", CatalogError, "check sslmode"),
    ],
)
def test_what_is_wrong_with_an_address_is_one_sentence_without_the_password(
    tmp_path: Path, postgres: Postgres, url: str, error: type[Exception], said: str
) -> None:
    with pytest.raises(error) as caught:
        len(mmmeta(tmp_path, state_db=url.format(s=SECRET, port=postgres.port)).files)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert SECRET not in f"{caught.value} {caught.value!r}"


def test_no_password_is_shown(tmp_path: Path, postgres: Postgres) -> None:
    url = postgres.url("shown").replace("mmmeta@", f"mmmeta:{SECRET}@")
    with mmmeta(tmp_path, state_db=url) as m:
        m.files.insert(content_hash="a")
        for thing in (m, m.files, m.state, m.state.name, place(url), str(place(url))):
            assert SECRET not in repr(thing)
    environment = {**os.environ, "MMMETA_STATE_DB": url, "MMMETA": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-m", "mmmeta_core", "find", "--json"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(run.stdout.splitlines()[0])["content_hash"] == "a"
    wrong = environment | {"MMMETA_STATE_DB": url.replace("/postgres?", "/nowhere?")}
    run = subprocess.run(
        [sys.executable, "-m", "mmmeta_core", "find"], env=wrong, capture_output=True, text=True
    )
    assert run.returncode == 1
    assert "create the database" in run.stderr
    assert SECRET not in run.stdout + run.stderr


def test_rights_that_are_missing_are_one_sentence(tmp_path: Path, postgres: Postgres, sql: Any) -> None:
    sql("DROP ROLE IF EXISTS reader")
    sql("CREATE ROLE reader LOGIN")
    with (
        mmmeta(tmp_path, state_db=postgres.url("not_mine", user="reader")) as m,
        pytest.raises(CatalogError, match=r"permission denied for database.*GRANT CREATE"),
    ):
        len(m.files)


def test_without_the_driver_one_sentence_says_how_to_get_it(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['psycopg'] = None\n"
        "from mmmeta_core import mmmeta, ConfigError\n"
        "try: len(mmmeta(sys.argv[1], state_db='postgresql://h/d').files)\n"
        "except ConfigError as error: print(error)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert "pip install 'mmmeta[postgres]'" in run.stdout


# --- servers that go away


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Postgres]:
    """A server that a test may stop."""
    with running() as server:
        yield server


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
def test_a_run_goes_on_after_the_server_was_restarted(tmp_path: Path, own: Postgres, how: int) -> None:
    with mmmeta(tmp_path, state_db=own.url("x")) as m:
        m.files.insert_many({"content_hash": f"{at:03d}"} for at in range(60))
        seen: Counter[Any] = Counter()
        came_back = threading.Event()

        def restart() -> None:
            own.stop(how)
            own.start()
            came_back.set()

        def handler(file: File) -> None:
            seen[file.key] += 1
            if len(seen) == 25 and not came_back.is_set():
                threading.Thread(target=restart).start()
                assert came_back.wait(60)

        result = m.files.process(handler, chunk=10)
        assert (result.processed, result.failed, result.left) == (60, 0, 0)
        assert set(seen.values()) == {1}
        own.stop(how)
        own.start()
        assert len(list(m.files.find(imported=True))) == len(m.files) == 60
        own.stop(how)
        own.start()
        assert m.files.columns[0] == "content_hash"
        m.files.insert(content_hash="new")
        assert m.files.count(imported=False) == 1


def test_a_server_that_stays_away_is_one_sentence(
    tmp_path: Path, own: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "PATIENCE_SECONDS", 0.5)
    with mmmeta(tmp_path, state_db=own.url("x")) as m:
        m.files.insert(content_hash="a")
        own.stop()
        for ask in (lambda: len(m.files), lambda: list(m.files), lambda: m.state.save([("a", {"x": 1})])):
            with pytest.raises(UnavailableError, match=r"does not answer .*see whether the server runs"):
                ask()
        own.start()
        assert len(m.files) == 1


def test_what_is_iterated_may_be_saved_and_gets_new_columns(m: Metadir) -> None:
    m.files.insert_many({"content_hash": f"{at:05d}"} for at in range(2_500))
    for number, file in enumerate(m.files):
        if number % 500 == 0:
            file[f"column_{number}"] = number
            file.save()
    assert m.files.count(column_2000=2000) == 1
    iterator = iter(m.files)
    next(iterator)
    del iterator
    m.files.delete(content_hash="00000")


# --- workers


def test_claims_of_many_workers_are_disjoint(tmp_path: Path, url: str) -> None:
    with mmmeta(tmp_path / "m", state_db=url) as m:
        m.files.insert_many({"content_hash": f"{at:04d}"} for at in range(400))
        m.state.add_own("imported", "boolean")
    seen: Counter[Any] = Counter()
    lock = threading.Lock()

    def handler(file: File) -> None:
        with lock:
            seen[file.key] += 1

    def worker(_: int) -> int:
        with mmmeta(tmp_path / "m", state_db=url) as mine:
            return mine.files.process(handler, chunk=7).processed

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(worker, range(8))) == 400
    assert set(seen.values()) == {1}
    assert len(seen) == 400


def test_leases_end_by_the_servers_clock(
    tmp_path: Path, url: str, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker whose clock is years ahead or behind neither takes what others have nor keeps what it left."""
    with mmmeta(tmp_path, state_db=url) as m:
        m.files.insert_many({"content_hash": key} for key in "ab")
        code = (
            "import os, sys, mmmeta_core.types as types, datetime\n"
            "from mmmeta_core import mmmeta\n"
            "m = mmmeta(sys.argv[1], state_db=sys.argv[2])\n"
            "m.files.process(lambda file: os._exit(9), chunk=1, lease=600)"
        )
        run = subprocess.run([sys.executable, "-c", code, str(tmp_path), url])
        assert run.returncode == 9
        for years in (-30, 30):
            shifted = datetime.now(UTC) + timedelta(days=365 * years)
            for module in ("mmmeta_core.types", "mmmeta_core.database.state"):
                monkeypatch.setattr(f"{module}.utcnow", lambda shifted=shifted: shifted)
            keys: list[Any] = []
            m.files.process(lambda file, keys=keys: keys.append(file.key))
            assert keys == (["b"] if years < 0 else [])
        sql(
            "UPDATE mmmeta_work SET lease_until = clock_timestamp() - interval '1 second' WHERE lease_until IS NOT NULL"
        )
        assert m.files.process(lambda _: None).processed == 1


WORKER = """
import os, sys
from mmmeta_core import mmmeta
import psycopg
m = mmmeta(sys.argv[1], state_db=sys.argv[2])
log = psycopg.connect(sys.argv[3], autocommit=True)
def handler(file):
    log.execute("INSERT INTO public.handled (key, pid) VALUES (%s, %s)", (file.key, os.getpid()))
print("begun", flush=True)
while m.files.process(handler, chunk=5, lease=2).left:
    pass
"""


def test_killed_workers_give_back_what_they_had(
    tmp_path: Path, postgres: Postgres, url: str, sql: Any
) -> None:
    sql("DROP TABLE IF EXISTS public.handled")
    sql("CREATE TABLE public.handled (key text, pid integer)")
    total = 300
    with mmmeta(tmp_path / "m", state_db=url) as m:
        m.files.insert_many({"content_hash": f"{at:04d}"} for at in range(total))
        m.state.add_own("imported", "boolean")
        plain = postgres.url().replace("+psycopg", "").partition("?")[0]

        def begin() -> subprocess.Popen[str]:
            return subprocess.Popen(
                [sys.executable, "-c", WORKER, str(tmp_path / "m"), url, plain],
                stdout=subprocess.PIPE,
                text=True,
            )

        workers = [begin() for _ in range(3)]
        killed: set[int] = set()
        for _ in range(3):
            victim = workers.pop(0)
            assert victim.stdout is not None
            victim.stdout.readline()
            before = sql("SELECT count(*) FROM public.handled WHERE pid = %s", victim.pid)
            while (
                victim.poll() is None
                and sql("SELECT count(*) FROM public.handled WHERE pid = %s", victim.pid) == before
            ):
                time.sleep(0.001)
            victim.kill()
            victim.wait()
            victim.stdout.close()
            killed.add(victim.pid)
            workers.append(begin())
        for worker in workers:
            assert worker.wait(60) == 0
            assert worker.stdout is not None
            worker.stdout.close()
        assert m.files.count(imported=True) == total
    handled = sql("SELECT key, array_agg(pid) FROM public.handled GROUP BY key")
    assert len(handled) == total
    for key, pids in handled:
        # Again only what was in the hands of a process that was killed.
        assert len(pids) == 1 or set(pids) & killed, key
    assert sum(len(pids) - 1 for _, pids in handled) <= 5 * len(killed)


def test_what_is_due_comes_from_an_index_in_the_order_of_keys(m: Metadir) -> None:
    m.files.insert_many({"content_hash": f"{at:05d}"} for at in range(3_000))
    m.files.process(lambda _: None, limit=2_900)
    m.state.connection.execute("ANALYZE files")
    work = Work(m.state, "imported")
    for free in (False, True):
        condition = text(work.condition(free=free, few=True))
        if free:
            condition = condition.bindparams(mmmeta_mark="imported", mmmeta_worker="me")
        plan = m.files.explain(condition, deleted=None, order_by="content_hash", _limit=10)
        assert any("Index Scan using mmmeta_due_" in line for line in plan), plan
        assert not any("Sort" in line or "Join" in line for line in plan), plan
    paged = m.files.explain(content_hash={">": "01000"}, deleted=None, order_by="content_hash", _limit=10)
    assert any("Index Scan using files_pkey" in line for line in paged), paged


# --- purge


def test_purged_documents_leave_the_tables(tmp_path: Path, url: str, sql: Any, caplog: Any) -> None:
    remote = tmp_path / "remote"
    remote.mkdir()
    mark = "Zauberwort"
    with (
        mmmeta(tmp_path / "publisher", remote=remote) as publisher,
        mmmeta(tmp_path / "client", remote=remote, state_db=url) as client,
    ):
        publisher.files.insert_many([{"content_hash": "bad", "title": mark}, {"content_hash": "good"}])
        publisher.push()
        client.sync()
        client.files.process(lambda _: (_ for _ in ()).throw(ValueError(mark)))
        publisher.purge(["bad"], reason="court order")
        where = place(url)
        assert isinstance(where, Server)
        with psycopg.connect(where.uri) as reader:
            reader.execute(f'SELECT count(*) FROM "{where.schema}".files'.encode())
            with caplog.at_level(logging.WARNING):
                client.sync()
            assert "still holds bytes of purged documents" in caplog.text
        client.sync()
        client.update()
        assert sql("SELECT value FROM mmmeta_info WHERE key = 'scrub'") in ([], [(None,)])
        text = json.dumps(
            [sql(f"SELECT {table}::text FROM {table}") for table in ("files", "mmmeta_work", "mmmeta_info")]
        )
        assert text.count(mark) == 1, "the error of the other document"


# --- moving


def test_a_state_moves_to_the_server_and_back(tmp_path: Path, url: str) -> None:
    remote = tmp_path / "remote"
    remote.mkdir()
    with mmmeta(tmp_path / "publisher", remote=remote) as publisher:
        publisher.files.insert_many({"content_hash": key, "title": key.upper()} for key in "abcd")
        publisher.push()

    def handler(file: File) -> dict[str, Any]:
        if file.key == "d":
            raise ValueError("bad document")
        return {"score": 0.5, "note": ["x", file.key], "odd": 1 if file.key == "a" else "one"}

    def told(m: Metadir) -> Any:
        own = shown(m, "title", "imported", "score", "note", "odd")
        failures = [(one.key, one.attempts, one.error, one.failed_at) for one in m.failures()]
        (pipeline,) = m.status().pipelines
        return own, failures, (pipeline.done, pipeline.failed, pipeline.due, pipeline.last_run)

    back = tmp_path / "back.db"
    with mmmeta(tmp_path / "client", remote=remote) as client:
        client.sync()
        client.files.process(handler)
        before = told(client)
        moved = client.move_state(url)
        assert (moved.documents, moved.notes, moved.missing) == (3, 5, 0)
        assert told(client) == before
        with pytest.raises(RefusedError, match=r"schema s.* has own columns of a client already"):
            client.move_state(url)
        with pytest.raises(RefusedError, match=r"is at .* already"):
            client.move_state(client.paths.state)
    environment = {**os.environ, "MMMETA_STATE_DB": url, "MMMETA": str(tmp_path / "client")}
    move = [sys.executable, "-m", "mmmeta_core", "move-state", f"sqlite:///{back}", "--json"]
    with mmmeta(tmp_path / "client", remote=remote, state_db=url) as there:
        assert told(there) == before
        assert there.files.process(handler).processed == 0
        run = subprocess.run(move, env=environment, capture_output=True, text=True, check=True)
        assert json.loads(run.stdout)["documents"] == 3
        publisher.files.upsert({"content_hash": "a", "title": "new"})
        publisher.push()
        there.sync()
        assert there.files.process(handler).processed == 0
    with mmmeta(tmp_path / "client", state_db=back) as again:
        own, failures, _ = told(again)
        assert (own["b"], failures) == (before[0]["b"], before[1])


# --- the set-up


def test_verify_compares_what_was_merged_and_repair_merges_it_anew(
    tmp_path: Path, url: str, sql: Any
) -> None:
    remote = tmp_path / "remote"
    remote.mkdir()
    with (
        mmmeta(tmp_path / "publisher", remote=remote) as publisher,
        mmmeta(tmp_path / "client", remote=remote, state_db=url) as client,
    ):
        publisher.files.insert_many(
            {"content_hash": key, "title": key, "pages": [1], "more": "a\0"} for key in "abc"
        )
        publisher.push()
        client.pull()
        before = client.verify(documents=0, deep=True)
        assert before.whole
        assert not sql("SELECT 1 FROM pg_namespace WHERE nspname = current_schema()")
        client.update()
        client.files.process(lambda _: None)
        checked = client.verify(documents=0, deep=True)
        assert (checked.whole, checked.compared - before.compared) == (True, 3)
        # What the next update merges, and what waits to be published, is no difference.
        publisher.files.upsert({"content_hash": "c", "title": "new", "other": 1})
        publisher.push()
        client.pull()
        client.files.upsert({"content_hash": "b", "title": "waits"})
        client.files.insert(content_hash="waits")
        assert client.verify(documents=0, deep=True).whole

        client.push()
        client.sync()
        sql("UPDATE files SET title = 'wrong' WHERE content_hash = 'a'")
        sql("DELETE FROM files WHERE content_hash = 'b'")
        assert client.verify(documents=0).whole  # which does not look there
        (found,) = client.verify(documents=0, deep=True).findings
        assert found.code == "state-differs"
        assert str(found).startswith(
            f"{client.state_name} is not what the catalog says (documents missing: 1, such as b; "
        )
        assert "documents different: 1, such as a)" in str(found)
        told = client.verify(documents=0, repair=True, dry_run=True)
        assert [repair.subject for repair in told.repaired] == [client.state_name]
        assert shown(client, "title")["a"] == ("wrong",)
        mended = client.verify(documents=0, repair=True)
        assert (mended.whole, len(mended.repaired)) == (True, 1)
        assert shown(client, "title", "imported") == {
            "a": ("a", True),
            "b": ("waits", None),
            "c": ("new", True),
            "waits": (None, None),
        }


def test_doctor_tells_of_the_server(tmp_path: Path, postgres: Postgres, url: str, sql: Any) -> None:
    def said(state: str) -> tuple[str, str]:
        with mmmeta(tmp_path, state_db=state) as m:
            (check,) = [one for one in m.doctor().checks if one.name == "state db"]
            return check.level, check.what

    level, text = said(url)
    assert (level, "is not there yet; the server has version" in text) == ("ok", True)
    assert sql("SELECT count(*) FROM pg_namespace WHERE nspname = %s", place(url).schema) == [(0,)], (
        "nothing is made"
    )
    with mmmeta(tmp_path, state_db=url) as m:
        m.files.insert(content_hash="a")
    assert "is at revision 0" in said(url)[1]
    sql("DROP ROLE IF EXISTS looker")
    sql("CREATE ROLE looker LOGIN")
    assert "this user may not make it" in said(postgres.url("nowhere", user="looker"))[1]
    sql(f'GRANT USAGE ON SCHEMA "{place(url).schema}" TO looker')
    sql("GRANT SELECT ON mmmeta_info TO looker")
    assert "can't be written to by this user" in said(url.replace("mmmeta@", "looker@"))[1]
    sql("REVOKE ALL ON mmmeta_info FROM looker")
    sql(f'REVOKE ALL ON SCHEMA "{place(url).schema}" FROM looker')
    assert said("postgresql://mmmeta@127.0.0.1:1/x")[0] == "problem"
    sql("UPDATE mmmeta_info SET value = '99' WHERE key = 'format'")
    assert said(url)[0] == "problem"
