"""`m.files` as something to ask: filters, order, counting, columns that do not exist, threads."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from postgres import ON_POSTGRES

from mmmeta_core import mmmeta
from mmmeta_core.errors import ColumnError, ConfigError
from mmmeta_core.metadir import Metadir

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
DOCUMENTS: list[dict[str, Any]] = [
    {
        "content_hash": "a",
        "title": "Alpha",
        "n": 1,
        "public": True,
        "at": NOON,
        "said": "2024-05-01T14:00:00+02:00",
    },
    {"content_hash": "b", "title": "beta_x", "n": 2, "public": False, "at": NOON + timedelta(days=1)},
    {
        "content_hash": "c",
        "title": "Gamma%",
        "n": 2.5,
        "said": "2024-05-01 12:00:00.000001Z",
        "tags": ["x", "y"],
    },
    {"content_hash": "d", "title": "delta", "said": "2024-05-02", "publisher": {"name": "ACME"}},
    {"content_hash": "e", "n": "007", "said": "soon"},
]


@pytest.fixture
def m(tmp_path: Path) -> Iterator[Metadir]:
    with mmmeta(tmp_path / "archive") as metadir:
        metadir.files.insert_many([*DOCUMENTS, {"content_hash": "gone", "title": "Alpha"}])
        metadir.files.delete(content_hash="gone")
        yield metadir


def keys(m: Metadir, *clauses: Any, **filters: Any) -> str:
    found = "".join(str(file.key) for file in m.files.find(*clauses, order_by="content_hash", **filters))
    assert m.files.count(*clauses, **filters) == len(found)
    return found


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({}, "abcde"),
        ({"title": "Alpha"}, "a"),
        ({"TITLE": "Alpha"}, "a"),
        ({"title": "Alpha", "n": 1}, "a"),
        ({"title": "Alpha", "n": 2}, ""),
        ({"publisher:name": "ACME"}, "d"),
        ({"n": 2}, "b"),
        ({"n": "007"}, "e"),
        ({"n": 7}, ""),
        ({"title": None}, "e"),
        ({"title": {"not": None}}, "abcd"),
        ({"title": ["Alpha", "delta"]}, "ad"),
        ({"title": {"Alpha", None}}, "ae"),
        ({"title": []}, ""),
        ({"title": {"=": ("Alpha",)}}, "a"),
        ({"title": {"==": "Alpha"}}, "a"),
        ({"title": {"is": "Alpha"}}, "a"),
        ({"title": {"!=": "Alpha"}}, "bcd"),
        ({"title": {"<>": ["Alpha", "delta"]}}, "bc"),
        ({"title": {"notin": ["Alpha", None]}}, "bcd"),
        ({"title": {"notin": []}}, "abcde"),
        ({"title": {"in": iter(["Alpha"])}}, "a"),
        ({"n": {">": 1, "<": 2.5}}, "b"),
        ({"n": {"gt": 1, "lt": 2.5}}, "b"),
        ({"n": {">=": 2, "<=": 2.5}}, "bc"),
        ({"n": {"gte": 2, "lte": 2.5}}, "bc"),
        ({"n": {"between": [1, 2]}}, "ab"),
        ({"n": {"..": (1, 2)}}, "ab"),
        ({"title": {"like": "%a"}}, "ad"),
        ({"title": {"LIKE": "%a"}}, "ad"),
        ({"title": {"ilike": "ALPHA"}}, "a"),
        ({"title": {"notlike": "%a"}}, "bc"),
        ({"title": {"notilike": "ALPHA"}}, "bcd"),
        ({"title": {"startswith": "beta_"}}, "b"),
        ({"title": {"endswith": "%"}}, "c"),
        ({"public": True}, "a"),
        ({"public": False}, "bcde"),
        ({"Public": False}, "bcde"),
        ({"public": {"!=": True}}, "bcde"),
        ({"public": {"!=": False}}, "a"),
        ({"public": [False]}, "bcde"),
        ({"public": [True, None]}, "acde"),
        ({"public": {"notin": [True]}}, "bcde"),
        ({"public": {"notin": [False]}}, "a"),
        ({"public": None}, "cde"),
        ({"__deleted_at": {"not": None}}, "gone"),
        ({"deleted": True}, "gone"),
        ({"deleted": None, "title": "Alpha"}, "agone"),
    ],
)
def test_filters_match(m: Metadir, filters: dict[str, Any], found: str) -> None:
    result = "".join(str(file.key) for file in m.files.find(order_by="content_hash", **filters))
    assert result == found


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({"at": NOON}, "a"),
        ({"at": {">": NOON}}, "b"),
        ({"at": NOON.replace(tzinfo=None)}, "a"),
        ({"at": {">=": "2024-05-01T14:00:00+02:00"}}, "ab"),
        ({"at": {"<": date(2024, 5, 2)}}, "a"),
        ({"at": {"startswith": "2024-05-01"}}, "a"),
        ({"at": [NOON, "2024-05-02T12:00"]}, "ab"),
        ({"said": NOON}, "a"),
        ({"said": {">": NOON}}, "cd"),
        ({"said": {"<": NOON + timedelta(microseconds=1)}}, "a"),
        ({"said": {"<=": NOON + timedelta(microseconds=1)}}, "ac"),
        ({"said": {"!=": NOON}}, "cde"),
        ({"said": [NOON, "soon", None]}, "abe"),
        ({"said": {"notin": [NOON, "soon"]}}, "cd"),
        ({"said": {"..": [NOON, datetime(2024, 5, 2, tzinfo=UTC)]}}, "acd"),
        ({"said": date(2024, 5, 2)}, "d"),
        ({"said": {">": datetime.min.replace(tzinfo=UTC)}}, "acd"),
        ({"said": {">=": "2024-05-01T14"}}, "ade"),
    ],
)
def test_times_are_compared_as_times_also_with_text(m: Metadir, filters: dict[str, Any], found: str) -> None:
    assert keys(m, **filters) == found


@pytest.mark.parametrize(
    "condition",
    [
        {"lik": "x"},
        {"": 1},
        {"in": "abc"},
        {"in": 5},
        {"between": [1]},
        {"between": [1, None]},
        {"between": 5},
        {"startswith": 5},
        {"like": None},
        {">": None},
        {">": [1]},
        {"=": {"a": 1}},
        2**70,
        "\ud800",
        b"bytes",
        object(),
    ],
)
def test_what_can_not_be_asked_is_an_error_and_no_silence(m: Metadir, condition: Any) -> None:
    for column in ("title", "no_such_column"):
        with pytest.raises(ConfigError, match=column):
            m.files.count(**{column: condition})


UNKNOWN: list[tuple[Any, bool]] = [
    (None, True), (False, True), (True, False), (1, False), ("", False), (NOON, False), ([None], True), ([False], True),
    ([1], False), ([], False), ({"!=": 1}, False), ({"!=": True}, True), ({"!=": False}, False), ({"not": None}, False),
    ({">": 1}, False), ({"<": NOON}, False), ({"..": [1, 2]}, False), ({"like": "%"}, False), ({"notlike": "x"}, False),
    ({"startswith": ""}, False), ({"in": [None]}, True), ({"notin": [1]}, False), ({"notin": [True]}, True),
    ({"notin": []}, True),
]  # fmt: skip


@pytest.mark.parametrize(("condition", "matches"), UNKNOWN)
def test_a_column_that_does_not_exist_is_as_one_that_is_null(
    m: Metadir, condition: Any, matches: bool
) -> None:
    m.files.insert(content_hash="other", empty=1)
    m.files.delete(content_hash="other")
    assert {m.files.count(nowhere=condition), m.files.count(empty=condition)} == {5 * matches}


def test_an_unknown_column_is_told_once_with_the_nearest_name(
    m: Metadir, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert list(m.files.find(titel="Alpha")) == []
            assert len(list(m.files.find(order_by=["-titel", "title"]))) == 5
            assert list(m.files.distinct("titel")) == [{"titel": None}]
            assert m.files.count(zzz=False) == 5
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert "'titel'" in told[0]
    assert "did you mean 'title'?" in told[0]
    assert "'zzz'" in told[1]
    assert "did you mean" not in told[1]


def test_order_limit_and_offset(m: Metadir) -> None:
    def found(**arguments: Any) -> list[Any]:
        return [file.key for file in m.files(**arguments)]

    assert found(order_by="-content_hash") == list("edcba")
    assert found(order_by=["Public", "-content_hash"]) == ["e", "d", "c", "b", "a"]
    assert found(order_by="content_hash", _limit=2) == ["a", "b"]
    assert found(order_by="content_hash", _limit=2, _offset=3) == ["d", "e"]
    assert found(order_by="content_hash", _step=1, _streamed=True) == list("abcde")


def test_all_ways_to_look(m: Metadir) -> None:
    assert {file.key for file in m.files} == {file.key for file in m.files.all()} == set("abcde")
    assert len(m.files) == len(m) == m.files.count() == 5
    assert m.files.count(deleted=None) == 6
    first, gone = m.files.find_one(title="Alpha"), m.files.get("gone")
    assert first is not None
    assert first.key == "a"
    assert gone is not None
    assert gone["__deleted_reason"]
    assert m.files.find_one(title="x") is m.files.get("x") is m.files.get(2**70) is None
    for key, there in {
        "a": True,
        "gone": False,
        "x": False,
        2**70: False,
        "\ud800": False,
        None: False,
    }.items():
        assert (key in m.files) is ({"content_hash": key} in m.files) is there
    assert first in m.files
    assert 1.5 not in m.files
    assert "title" in m.files.columns
    assert not [name for name in m.files.columns if "rescued" in name]
    assert str(m.files).startswith("<Files 5 in ")


def test_distinct_values(m: Metadir) -> None:
    assert list(m.files.distinct("public")) == [{"public": None}, {"public": False}, {"public": True}]
    assert list(m.files.distinct("PUBLIC", "nope", public=True)) == [{"PUBLIC": True, "nope": None}]
    assert list(m.files.distinct("title", _limit=1, title={"not": None})) == [{"title": "Alpha"}]
    assert list(m.files.distinct("title", m.files.table.table.c.n == 1)) == [{"title": "Alpha"}]
    assert list(m.files.distinct("nope", title="x")) == []


def test_clauses_and_indexes_are_datasets(m: Metadir) -> None:
    column = m.files.table.table.c.n
    # On PostgreSQL 2.5 is not in the column, whose numbers are integers.
    assert keys(m, column > 1, title={"not": None}) == ("b" if ON_POSTGRES else "bc")
    m.files.create_index(["title"])
    assert m.files.has_index(["title"])
    for name in ("drop", "drop_column", "create_column"):
        with pytest.raises(ColumnError, match=name):
            getattr(m.files, name)
    with pytest.raises(AttributeError):
        m.files.nonsense  # noqa: B018


def test_columns_may_be_made_and_saved_while_iterating(m: Metadir) -> None:
    m.files.insert_many({"content_hash": f"more{i}"} for i in range(2500))
    for n, file in enumerate(m.files.find(imported=False)):
        file["imported"] = True
        if n % 500 == 0:
            file[f"column{n}"] = n
        if n % 100 == 0:
            file.save()
    assert m.files.count(imported=True) == 26
    assert m.files.count(imported=False) == 2505 - 26
    assert m.files.count(column500=500) == 1


def test_more_threads_than_a_pool_has_connections_ask_and_save_at_once(m: Metadir) -> None:
    threads = 18  # SQLAlchemy has 15 connections at most, unless told otherwise
    barrier = Barrier(threads)

    def work(n: int) -> int:
        barrier.wait(60)
        seen = m.files.count(public=False)
        barrier.wait(60)
        file = m.files.get("abcde"[n % 5])
        assert file is not None
        file[f"own{n}"] = n
        file.save()
        return seen

    with ThreadPoolExecutor(threads) as pool:
        assert set(pool.map(work, range(threads))) == {4}
    saved = {
        name: value for file in m.files for name, value in file.items() if name.startswith("own") and value
    }
    assert saved == {f"own{n}": n for n in range(1, threads)}


@settings(deadline=None, max_examples=60)
@given(
    st.text(max_size=70)
    | st.text("a.-\"'`;:%()[]?$ \\", max_size=8)
    | st.sampled_from(["1=1; --", '" OR 1=1'])
)
def test_no_name_or_value_is_ever_sql(injected: Metadir, name: str) -> None:
    files = injected.files
    if name in ("_limit", "_offset", "order_by", "deleted", "_step"):
        return
    known = name == 'x"); DROP TABLE files; --'
    try:
        name.encode()
    except UnicodeEncodeError:
        return
    assert files.count(**{name: None}) == (0 if known or name in files.columns else 1)
    assert files.count(title=name) == 0
    assert files.count(title={"like": name}) == (1 if name and not name.strip("%") else 0)
    assert [file.key for file in files.find(order_by=[name, f"-{name}"])] == ["a"]


@pytest.fixture(scope="module")
def injected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Metadir]:
    with mmmeta(tmp_path_factory.mktemp("injected")) as metadir:
        metadir.files.insert({"content_hash": "a", "title": "title"})
        yield metadir


@pytest.mark.parametrize(
    "name", ['x"); DROP TABLE files; ', "a'b", "a%b", "a:b", "a(b)", "?", "select", "rowid", "key"]
)
def test_a_column_of_any_name_can_be_published_saved_and_asked_for(m: Metadir, name: str) -> None:
    own = f"my {name}".strip()
    m.files.upsert({"content_hash": "a", name: 1})
    file = m.files.get("a")
    assert file is not None
    file[own] = NOON
    file.save()
    assert [f[own] for f in m.files.find(order_by=name, **{name: 1, own: {"<=": NOON}})] == [NOON]
    assert m.files.count(**{name: False}) == 4
    assert list(m.files.distinct(name, **{name: [1]})) == [{name.strip(): 1}] or name != name.strip()


def test_a_data_frame_has_the_values_as_they_are(m: Metadir) -> None:
    m.files.upsert({"content_hash": "a", "big": 2**60 + 1})
    frame = m.files.to_pandas().set_index("content_hash").sort_index()
    assert len(frame) == 5
    assert frame.loc["a", "big"] == 2**60 + 1
    assert frame.loc["e", "n"] == "007"
    assert frame.loc["a", "at"] == NOON
    assert str(frame["at"].dt.tz) == "UTC"
    assert frame.loc["c", "tags"] == ["x", "y"]
    assert list(frame["public"].isna()) == [False, False, True, True, True]
    assert sorted(m.files.to_pandas(title="Alpha", deleted=None)["content_hash"]) == ["a", "gone"]
    alone = m.files.to_pandas(content_hash="c")
    assert str(alone["__deleted_at"].dtype) == str(alone["__meta_added"].dtype) == "datetime64[us, UTC]"
    assert str(m.files.to_pandas(title="no such title")["__deleted_at"].dtype) == "datetime64[us, UTC]"
    empty = m.files.to_pandas(title="no such title")
    assert len(empty) == 0
    assert list(empty.columns) == m.files.columns


def test_an_archive_with_nothing_in_it_can_be_asked(tmp_path: Path) -> None:
    with mmmeta(tmp_path) as m:
        assert list(m.files) == list(m.files.find(imported=False)) == list(m.files.distinct("title")) == []
        assert len(m.files) == m.files.count(a=1) == len(m.files.to_pandas()) == 0
        assert m.files.find_one() is None


def test_asking_needs_no_pandas(m: Metadir) -> None:
    code = (
        "import sys; from mmmeta_core import mmmeta; m = mmmeta(sys.argv[1]); print(len(list(m.files)), "
        "'pandas' in sys.modules); m.close()"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(m.path)], capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == ["5", "False"]


def test_explain_tells_whether_an_index_is_used(tmp_path: Path) -> None:
    with mmmeta(tmp_path / "metadir") as m:
        m.files.insert_many({"content_hash": f"d{n}", "kind": str(n % 3), "size": n} for n in range(30))
        ask: dict[str, Any] = {"kind": ["1", "2"], "size": {">=": 3}, "order_by": "-size", "_limit": 5}
        before = m.files.explain(**ask)
        assert any(line.startswith("SCAN files") or "Seq Scan on files" in line for line in before)
        m.files.create_index(["kind"])
        after = m.files.explain(**ask)
        assert len(list(m.files.find(**ask))) == 5
        if ON_POSTGRES:  # which scans so few documents all the same
            return
        assert any("USING INDEX" in line and "(kind=?)" in line for line in after)
        assert not any(line.startswith("SCAN files") for line in after)
        assert m.files.explain({"content_hash": "d1"})[0].startswith("SEARCH files USING INDEX")


def test_the_newest_documents_are_those_that_were_published_last(tmp_path: Path) -> None:
    with mmmeta(tmp_path) as m:
        assert m.files.newest(2) == []
        for key in "abcd":
            m.files.insert(content_hash=key, title=key.upper(), tags=[key])
        m.files.delete(content_hash="d")
        assert [(file.key, file["title"], file["tags"]) for file in m.files.newest(2)] == [
            ("c", "C", ["c"]),
            ("b", "B", ["b"]),
        ]


def test_documents_are_counted_by_the_days_of_a_column(m: Metadir) -> None:
    first, second = ("2024-05-01", 1), ("2024-05-02", 1)
    assert m.files.per_day("at") == m.files.per_day("AT") == [first, second]
    assert m.files.per_day("at", days=1) == [second]
    assert m.files.per_day("no such column") == []
    m.files.insert(content_hash="f", at=NOON + timedelta(hours=13), day="a name of its own")
    assert m.files.per_day("at") == [first, ("2024-05-02", 2)]
