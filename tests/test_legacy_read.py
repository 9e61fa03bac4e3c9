"""Old catalogs and state dbs with what real ones may have: cut off, keyed twice, of odd types and names."""

from __future__ import annotations

import csv
import json
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mmmeta_core import mmmeta
from mmmeta_core.errors import CatalogError
from mmmeta_core.legacy.catalog import CatalogConversion
from mmmeta_core.legacy.layout import held
from mmmeta_core.legacy.read import Damage, Report, is_list, parts_read, reads_as_number
from mmmeta_core.legacy.state import StateConversion, _as_written

TIMES = {"__meta_added": "2021-01-01 10:00:00.000001", "__meta_last_updated": "2021-01-02 10:00:00"}
META = "__meta_last_updated DATETIME, __meta_added DATETIME"
STATE = f"{META}, __state_last_updated DATETIME, __state_added DATETIME"


def database(path: Path, columns: str, rows: list[dict[str, Any]]) -> None:
    """Write a table `files` as the old packages did, with dataset's types."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"CREATE TABLE files ({columns})")
        for row in rows:
            names = ",".join(f'"{name}"' for name in row)
            marks = ",".join("?" * len(row))
            connection.execute(f"INSERT INTO files ({names}) VALUES ({marks})", list(row.values()))


def part(base: Path, name: str, rows: list[dict[str, str]]) -> Path:
    """Write a part of a catalog of 0.4, with every row's keys said."""
    path = base / "_mmmeta/db" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    header = ["content_hash", *dict.fromkeys(name for row in rows for name in row if name != "content_hash")]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [*header, "__mmmeta_keys"])
        writer.writeheader()
        writer.writerows({**row, "__mmmeta_keys": ",".join(row)} for row in rows)
    return path


def read(base: Path) -> tuple[dict[str, dict[str, Any]], Report]:
    report = Report()
    with parts_read(base / "_mmmeta/db", "content_hash", report) as documents:
        found = {str(old.key): old.values for old in documents}
    return found, report


# --- 0.4: parts


def test_parts_are_put_on_top_of_each_other_from_the_last_squashed_one(tmp_path: Path) -> None:
    part(tmp_path, "2021-01-01T00:00:00.1.append", [{"content_hash": "gone", "title": "x"}])
    part(tmp_path, "2021-01-02T00:00:00.1.squashed", [{"content_hash": "a", "title": "A", "size": "1"}])
    part(
        tmp_path,
        "2021-01-03T00:00:00.append",
        [{"content_hash": "b", "title": "B"}, {"content_hash": "a", "size": "2"}],
    )
    part(tmp_path, "2021-01-04T00:00:00.1.append", [{"content_hash": "a", "title": ""}])
    part(tmp_path, "2021-01-05T00:00:00.1.append.tmp", [{"content_hash": "z"}])
    found, report = read(tmp_path)
    assert found == {"a": {"title": None, "size": "2"}, "b": {"title": "B"}}
    assert report.invalid == 0
    assert report.columns() == {"size": Damage(numbers=1), "title": Damage(empty=1)}


def test_values_come_out_of_parts_as_they_went_in(tmp_path: Path) -> None:
    odd = {
        "content_hash": "k,1",
        "a,b": "comma",
        "title": 'line\r\none, "two"\n',
        "text": "x" * 200_000,
        "ü": "007",
    }
    part(tmp_path, "2021-01-01T00:00:00.1.append", [odd, {"content_hash": "2", "title": "y"}])
    found, _ = read(tmp_path)
    assert found["k,1"] == {name: value for name, value in odd.items() if name != "content_hash"}
    assert found["2"] == {"title": "y"}
    assert csv.field_size_limit() == 131072


@pytest.mark.parametrize("cut", [1, 3, 9, 30])
def test_a_part_that_was_cut_off_gives_its_whole_rows(tmp_path: Path, cut: int) -> None:
    rows = [{"content_hash": f"key{n}", "title": f"a long enough title {n}"} for n in range(3)]
    path = part(tmp_path, "2021-01-01T00:00:00.1.append", rows)
    path.write_bytes(path.read_bytes()[:-cut])
    part(tmp_path, "2021-01-02T00:00:00.1.append", [])
    (tmp_path / "_mmmeta/db/2021-01-03T00:00:00.1.append").touch()
    found, report = read(tmp_path)
    assert found == {row["content_hash"]: {"title": row["title"]} for row in rows[:2]}
    assert report.invalid == 1


def test_rows_without_a_key_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [
        {"content_hash": "", "title": "x"},
        {"content_hash": "a", "title": "A", **TIMES},
        {"content_hash": " "},
    ]
    part(tmp_path, "2021-01-01T00:00:00.1.append", rows)
    with mmmeta(tmp_path) as m:
        m.update()
        (converted,) = m.converted
        assert isinstance(converted, CatalogConversion)
        assert (converted.documents, converted.invalid) == (1, 2)


@pytest.mark.parametrize("data", [b"title\r\nx\r\n", b"content_hash\r\n\xff\xfe\r\n"])
def test_a_part_that_can_not_be_read_is_named_and_nothing_is_changed(tmp_path: Path, data: bytes) -> None:
    part(tmp_path, "2021-01-01T00:00:00.1.append", [{"content_hash": "a"}])
    (tmp_path / "_mmmeta/db/2021-01-02T00:00:00.1.append").write_bytes(data)
    with mmmeta(tmp_path) as m:
        for _ in range(2):
            with pytest.raises(CatalogError, match=r"2021-01-02T00:00:00\.1\.append"):
                m.generate()
    assert not (tmp_path / "_mmmeta/meta.db").exists()
    assert len(list((tmp_path / "_mmmeta/db").iterdir())) == 2


# --- 0.1: the table


def test_objects_become_columns_and_types_what_they_were(tmp_path: Path) -> None:
    columns = 'id INTEGER PRIMARY KEY, content_hash TEXT, publisher JSON, seen BOOLEAN, "publisher:x" TEXT, day DATE'
    database(
        tmp_path / "_mmmeta/meta.db",
        f"{columns}, {META}",
        [
            {
                "content_hash": "a",
                "publisher": '{"name": "P", "sub": {"n": [1]}}',
                "seen": 0,
                "day": "2021-01-01",
                **TIMES,
            },
            {"content_hash": "b", "publisher": '{"x": 1}', "publisher:x": "clash", "seen": 1},
            {"content_hash": "c", "publisher": "null", "__meta_added": "no time"},
        ],
    )
    with mmmeta(tmp_path) as m:
        m.update()
        a, b, c = (m.files.find_one(content_hash=key) for key in "abc")
        assert a is not None
        assert b is not None
        assert c is not None
        assert (a["publisher:name"], a["publisher:sub:n"], a["seen"], a["day"]) == (
            "P",
            [1],
            False,
            "2021-01-01",
        )
        assert a["__meta_added"] == datetime(2021, 1, 1, 10, 0, 0, 1, UTC)
        assert (b["publisher"], b["publisher:x"], b["seen"]) == ('{"x":1}', "clash", True)
        assert c["__meta_added"] is None
        assert "id" not in m.inspect().columns


def test_an_id_that_documents_have_themselves_is_kept(tmp_path: Path) -> None:
    columns = f"id INTEGER PRIMARY KEY, content_hash TEXT, {META}"
    database(tmp_path / "_mmmeta/meta.db", columns, [{"id": 4711, "content_hash": "a", **TIMES}])
    with mmmeta(tmp_path) as m:
        m.update()
        file = m.files.find_one(content_hash="a")
        assert file is not None
        assert file["id"] == 4711


def test_of_rows_with_one_key_the_last_counts(tmp_path: Path) -> None:
    columns = f"id INTEGER PRIMARY KEY, content_hash TEXT, title TEXT, {META}"
    keys = ["a", "a", None, ""]
    database(
        tmp_path / "_mmmeta/meta.db",
        columns,
        [{"content_hash": key, "title": str(n), **TIMES} for n, key in enumerate(keys)],
    )
    with mmmeta(tmp_path) as m:
        m.update()
        (converted,) = m.converted
        assert isinstance(converted, CatalogConversion)
        assert (converted.documents, converted.duplicates, converted.invalid) == (1, 1, 2)
        assert [file["title"] for file in m.files.find()] == ["1"]


def test_numbers_in_columns_that_have_text_may_have_been_text(tmp_path: Path) -> None:
    columns = f"id INTEGER PRIMARY KEY, content_hash TEXT, n BIGINT, clean BIGINT, f FLOAT, {META}"
    values: list[tuple[Any, Any, Any]] = [("007", 1, 1.5), ("x", 2, 2.0), (3, 3, None)]
    rows = [
        {"content_hash": str(k), "n": n, "clean": c, "f": f, **TIMES} for k, (n, c, f) in enumerate(values)
    ]
    database(tmp_path / "_mmmeta/meta.db", columns, rows)
    with mmmeta(tmp_path) as m:
        m.update()
        (converted,) = m.converted
        assert isinstance(converted, CatalogConversion)
        assert converted.damage == {"n": Damage(numbers=2), "f": Damage(numbers=1)}


def test_a_catalog_without_the_configured_key_is_refused(tmp_path: Path) -> None:
    database(tmp_path / "_mmmeta/meta.db", f"content_hash TEXT, {META}", [{"content_hash": "a", **TIMES}])
    (tmp_path / "_mmmeta/config.yml").write_text("metadata: {unique: reference}")
    with mmmeta(tmp_path) as m, pytest.raises(CatalogError, match="no column 'reference'"):
        m.generate()


# --- generate over what was converted


def test_the_first_generate_decides_what_columns_hold(tmp_path: Path) -> None:
    """Kinds come from the first value of a metadata file, as ever; what no file corrects is kept beside."""
    rows = [{"content_hash": str(n), "flag": "True", "tags": "['a']", "gone": "x", **TIMES} for n in range(3)]
    part(tmp_path, "2021-01-01T00:00:00.1.append", rows)
    (tmp_path / "_mmmeta/config.yml").write_text("metadata: {include: [flag, tags, gone]}")
    documents = tmp_path / "documents"
    documents.mkdir()
    for n, tags in (("0", ["a"]), ("1", "text")):
        document = {"content_hash": n, "flag": n == "0", "tags": tags}
        (documents / f"{n}.json").write_text(json.dumps(document))
    with mmmeta(tmp_path, files_root=documents, remote=tmp_path) as m:
        m.generate()
        m.push()
        m.update()
        kinds = m.inspect().columns
        assert (kinds["flag"], kinds["tags"], kinds["gone"]) == ("boolean", "json", "text")
        found = {file.key: (file["flag"], file["tags"], file["gone"]) for file in m.files.find()}
        assert found == {
            "0": (True, ["a"], None),
            "1": (False, "text", None),
            "2": ("True", "['a']", "x"),
        }
        (documents / "2.json").write_text(
            json.dumps({"content_hash": "2", "flag": "no boolean", "gone": [1]})
        )
        m.generate()
        assert m.inspect().columns == kinds, "once published, kinds stay"


def test_names_with_a_hyphen_are_included_as_0_4_did(tmp_path: Path) -> None:
    part(tmp_path, "2021-01-01T00:00:00.1.append", [{"content_hash": "a", "sub_title": "x", **TIMES}])
    (tmp_path / "_mmmeta/config.yml").write_text("metadata: {include: [sub_title]}")
    (tmp_path / "a.json").write_text('{"content_hash": "a", "sub-title": "x", "else": 1}')
    with mmmeta(tmp_path, files_root=tmp_path) as m:
        assert m.generate().updated == 0
        m.update()
        assert [(file["sub_title"], file.get("else")) for file in m.files.find()] == [("x", None)]


def test_whole_numbers_as_keys_stay_the_same_documents(tmp_path: Path) -> None:
    part(tmp_path, "2021-01-01T00:00:00.1.append", [{"content_hash": "7", "title": "x", **TIMES}])
    database(
        tmp_path / "_mmmeta/state.db",
        f"content_hash TEXT PRIMARY KEY, id BIGINT, __seen DATETIME, imported BOOLEAN, {STATE}",
        [{"content_hash": "7", "imported": 1, "__state_last_updated": "2021-01-01 00:00:00"}],
    )
    (tmp_path / "_mmmeta/config.yml").write_text("metadata: {include: [title]}")
    (tmp_path / "7.json").write_text('{"content_hash": 7, "title": "x"}')
    with mmmeta(tmp_path, files_root=tmp_path) as m:
        assert m.generate().pending == 1
        m.update()
        assert [(file.key, file["imported"]) for file in m.files.find()] == [(7, True)]


# --- state


def test_nobody_writes_to_what_is_being_converted(tmp_path: Path) -> None:
    path = tmp_path / "_mmmeta/meta.db"
    database(path, f"content_hash TEXT, {META}", [{"content_hash": "a"}])
    with held(path) as old, closing(sqlite3.connect(path, timeout=0)) as other:
        assert old.execute("SELECT count(*) FROM files").fetchone() == (1,)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("INSERT INTO files (content_hash) VALUES ('b')")
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            old.execute("DELETE FROM files")


def client(tmp_path: Path, columns: str, rows: list[dict[str, Any]], *, version: str = "0.1") -> Path:
    """An old client that has one published column, `title`."""
    seen = ", __seen DATETIME" if version == "0.4" else ""
    base = tmp_path / "client"
    published = [{"content_hash": row["content_hash"], "title": "T", **TIMES} for row in rows]
    if version == "0.1":
        database(
            base / "_mmmeta/meta.db",
            f"id INTEGER PRIMARY KEY, content_hash TEXT, title TEXT, {META}",
            published,
        )
    else:
        part(base, "2021-01-01T00:00:00.1.append", published)
        (base / "_mmmeta/config.yml").write_text("metadata: {include: [title]}")
    database(
        base / "_mmmeta/state.db",
        f"id INTEGER, content_hash TEXT, title TEXT, {STATE}{seen}, {columns}",
        [{"title": "old", "__state_added": "2021-02-01 00:00:00", **row} for row in rows],
    )
    return base


def state_of(m: Any) -> StateConversion:
    (found,) = [one for one in m.converted if isinstance(one, StateConversion)]
    return found


def test_a_clients_columns_keep_their_values(tmp_path: Path) -> None:
    columns = 'n BIGINT, at DATETIME, day DATE, o JSON, "__odd" TEXT, empty BOOLEAN, flag BIGINT, done BOOLEAN, "zwölf" TEXT'
    row = {
        "content_hash": "a",
        "n": 5,
        "at": "2021-05-01 10:00:00.000000",
        "day": "2021-05-01",
        "o": '{"k": [1]}',
    }
    row |= {"__odd": "kept", "flag": 1, "done": 0, "zwölf": "12"}
    with mmmeta(client(tmp_path, columns, [row, {"content_hash": "b", "flag": 0}])) as m:
        m.update()
        converted = state_of(m)
        assert converted.columns == ("n", "at", "day", "o", "__odd", "empty", "flag", "done", "zwölf")
        assert converted.booleans == ("flag",)
        file = m.files.find_one(content_hash="a")
        assert file is not None
        assert file["at"] == datetime(2021, 5, 1, 10, tzinfo=UTC)
        assert {name: file[name] for name in ("n", "day", "o", "flag", "done", "zwölf", "title")} == {
            "n": 5, "day": "2021-05-01", "o": {"k": [1]}, "flag": True, "done": False, "zwölf": "12", "title": "T",
        }  # fmt: skip
        assert file["__state_added"] == datetime(2021, 2, 1, tzinfo=UTC)
        assert (file.get("__odd"), json.loads(m.state.row("a")["__state_rescued"])) == (
            "kept",
            {"__odd": "kept"},
        )
        file["flag"] = file["empty"] = True
        file.save()
        assert [one.key for one in m.files.find(flag=True, empty=True)] == ["a"]
        assert {m.state.owners()[name] for name in ("n", "at", "empty", "flag")} == {"client"}
        assert m.state.owners()["title"] == "publisher"


def test_a_column_that_is_published_since_is_still_the_clients(tmp_path: Path) -> None:
    """The old copy of the catalog tells whose a column was, whatever the publisher publishes today."""
    base = client(tmp_path, "imported BOOLEAN", [{"content_hash": "a", "imported": 1}])
    with mmmeta(tmp_path / "publisher", remote=tmp_path / "publisher") as publisher:
        publisher.files.insert(content_hash="a", title="T", imported="by the publisher")
        publisher.push()
    with mmmeta(base, remote=tmp_path / "publisher") as m:
        assert m.sync().updated.clashes == ("imported",)
        assert [file["imported"] for file in m.files.find()] == [True]


def test_documents_that_the_archive_lacks_count_as_deleted_and_keep_their_state(tmp_path: Path) -> None:
    base = client(tmp_path, "imported BOOLEAN", [{"content_hash": "a", "imported": 1}, {"content_hash": "b"}])
    with mmmeta(tmp_path / "publisher", remote=tmp_path / "publisher") as publisher:
        publisher.files.insert(content_hash="b", title=["now", "a", "list"])
        publisher.push()
    with mmmeta(base, remote=tmp_path / "publisher") as m:
        m.sync()
        assert state_of(m).missing == 1
        (gone,) = m.files.find(deleted=True)
        assert (gone.key, gone["imported"], gone["title"]) == ("a", True, None)
        assert gone["__deleted_reason"] == "not in the archive"
        m.sync()
        assert len(m.converted) == 1


def test_documents_of_a_stale_copy_go_with_the_first_pull(tmp_path: Path) -> None:
    base = client(tmp_path, "imported BOOLEAN", [{"content_hash": "a", "imported": 1}, {"content_hash": "b"}])
    with mmmeta(base) as m:
        m.update()
        assert m.files.count() == 2
    with mmmeta(tmp_path / "publisher", remote=tmp_path / "publisher") as publisher:
        publisher.files.insert(content_hash="b", title="B")
        publisher.push()
    with mmmeta(base, remote=tmp_path / "publisher") as m:
        m.sync()
        assert [file["title"] for file in m.files.find()] == ["B"]
        assert [(file.key, file["imported"]) for file in m.files.find(deleted=True)] == [("a", True)]


def test_state_without_a_catalog_is_left_alone(tmp_path: Path) -> None:
    base = client(tmp_path, "imported BOOLEAN", [{"content_hash": "a"}])
    (base / "_mmmeta/meta.db").unlink()
    (base / "_mmmeta/meta.db-wal").unlink(missing_ok=True)
    with mmmeta(base) as m:
        m.push()
        with pytest.raises(CatalogError, match="pull first"):
            m.update()
    with closing(sqlite3.connect(base / "_mmmeta/state.db")) as old:
        assert old.execute("SELECT count(*) FROM files").fetchone() == (1,)
    with mmmeta(tmp_path / "publisher", remote=tmp_path / "publisher") as publisher:
        publisher.files.insert(content_hash="a", publisher={"name": "P"})
        publisher.push()
    with mmmeta(base, remote=tmp_path / "publisher") as m:
        m.sync()
        assert state_of(m).columns == ("title", "imported"), "nothing says that title was published"


def test_state_moves_to_where_the_client_keeps_it_today(tmp_path: Path) -> None:
    base, where = (
        client(tmp_path, "imported BOOLEAN", [{"content_hash": "a", "imported": 1}]),
        tmp_path / "x/s.db",
    )
    with mmmeta(base, state_db=where) as m:
        m.update()
        assert [file["imported"] for file in m.files.find()] == [True]
    assert where.exists()
    assert not (base / "_mmmeta/state.db").exists()
    assert (base / "_mmmeta/old-0.1/state.db").exists()


def test_keys_that_0_4_read_as_numbers_find_their_documents(tmp_path: Path) -> None:
    rows = [{"content_hash": key} for key in ("007", "12", "0012", "2021-05-01", "1.50", "abc")]
    base = client(tmp_path, "imported BOOLEAN", rows, version="0.4")
    with closing(sqlite3.connect(base / "_mmmeta/state.db")) as state, state:
        state.execute("DELETE FROM files WHERE content_hash = '0012'")
        for key in ("007", "12", "2021-05-01", "1.50", "abc"):
            state.execute(
                "UPDATE files SET content_hash = ?, imported = 1 WHERE content_hash = ?",
                (_as_written(key), key),
            )
        assert {key for (key,) in state.execute("SELECT content_hash FROM files")} == {
            "7", "12", "2021-05-01 00:00:00", "1.5", "abc",
        }  # fmt: skip
    with mmmeta(base) as m:
        m.update()
        assert {file.key for file in m.files.find(imported=True)} == {"007", "2021-05-01", "1.50", "abc"}
        assert {file.key for file in m.files.find(imported=False)} == {"12", "0012"}
        assert (state_of(m).shared, state_of(m).missing) == (1, 0)


@pytest.mark.parametrize(
    ("text", "number", "a_list"),
    [
        ("7", True, False), ("-7", True, False), ("0.5", True, False), ("1e-05", True, False), ("007", False, False),
        ("7.50", False, False), ("1_0", False, False), ("", False, False), ("٣", False, False), ("nan", False, False),
        ("-", False, False), ("[1, 2]", False, True), ("['a', None]", False, True), ("[a]", False, False),
        (r"['\d', 1is 2]", False, False),
        ("[" * 500, False, False),
        ("2021-01-01", False, False), ("1" * 30, True, False), ("1e400", False, False),
    ],
)  # fmt: skip
def test_texts_that_may_have_been_something_else(text: str, number: bool, a_list: bool) -> None:
    assert (reads_as_number(text), is_list(text)) == (number, a_list)
