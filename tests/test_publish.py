"""Writing published metadata from Python: at once here, with the next push everywhere, and all or nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import Scrape
from hypothesis import given, settings
from hypothesis import strategies as st
from postgres import ON_POSTGRES

from mmmeta_core import mmmeta
from mmmeta_core.errors import DocumentError
from mmmeta_core.files import Files
from mmmeta_core.metadir import Metadir

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    (tmp_path / "remote").mkdir()
    return tmp_path / "remote"


@pytest.fixture
def m(tmp_path: Path, remote: Path) -> Iterator[Metadir]:
    with mmmeta(tmp_path / "publisher", files_root=tmp_path / "documents", remote=remote) as metadir:
        yield metadir


@pytest.fixture
def client(tmp_path: Path, remote: Path) -> Iterator[Metadir]:
    with mmmeta(tmp_path / "client", remote=remote) as metadir:
        yield metadir


def shown(m: Metadir, *columns: str) -> dict[Any, Any]:
    """What there is, by key: the one column asked for, or a tuple of several."""
    rows = {file.key: tuple(file.get(column) for column in columns) for file in m.files}
    return {key: row[0] if len(row) == 1 else row for key, row in rows.items()}


def test_what_is_written_is_there_at_once_and_everywhere_after_the_push(m: Metadir, client: Metadir) -> None:
    key = m.files.insert(content_hash="a", title="x", publisher={"name": "ACME", "seat": {"city": "Ulm"}})
    assert key == "a"
    m.files.upsert({"content_hash": 7, "tags": ["x", 1], "at": NOON, "ok": False})
    m.files.upsert({"content_hash": "a", "title": "y"}, ["content_hash"])
    seven = "7" if ON_POSTGRES else 7  # keys there are of one type
    expected = {"a": ("y", "Ulm", None, None, None), seven: (None, None, ["x", 1], NOON, False)}
    columns = ("title", "publisher:seat:city", "tags", "at", "ok")
    assert shown(m, *columns) == expected
    assert m.push().documents == 2
    client.sync()
    assert shown(client, *columns) == expected
    assert m.push().revision == 1


def test_a_new_key_is_inserted_and_a_known_one_refused(m: Metadir) -> None:
    m.files.insert({"content_hash": "a", "title": "x"}, title="y")
    with pytest.raises(DocumentError, match="'a' exists already"):
        m.files.insert(content_hash="a", title="z")
    assert shown(m, "title") == {"a": "y"}


def test_upsert_sets_what_it_names_and_leaves_the_rest(m: Metadir) -> None:
    assert m.files.upsert({"content_hash": "a", "title": "x", "n": 1}) == "a"
    m.files.upsert({"content_hash": "a", "n": None})
    m.files.upsert({"content_hash": "a"})
    assert shown(m, "title", "n") == {"a": ("x", None)}


def test_other_columns_may_tell_which_documents_are_meant(m: Metadir) -> None:
    m.files.insert_many(
        {"content_hash": k, "url": u, "on": o} for k, u, o in [("a", "u", True), ("b", "u", False)]
    )
    m.files.upsert({"url": "u", "title": "both"}, keys="url")
    m.files.upsert({"url": "u", "on": False, "title": "one"}, ["url", "on"])
    m.files.upsert({"url": "v", "content_hash": "c", "title": "new"}, ["url"])
    assert shown(m, "title") == {"a": "both", "b": "one", "c": "new"}
    assert m.files.update({"url": "u", "title": "z"}, ["url"]) == 2
    assert (
        m.files.update({"url": 1, "title": "z"}, ["url"]) == m.files.update({"no-such": 1}, ["no-such"]) == 0
    )
    with pytest.raises(DocumentError, match="not a key"):
        m.files.upsert({"url": "w"}, ["url"])
    with pytest.raises(DocumentError, match="lacks on"):
        m.files.upsert({"url": "u", "content_hash": "d"}, ["url", "on"])


def test_keys_are_read_as_the_settings_and_column_names_say(m: Metadir) -> None:
    m.paths.root.mkdir(parents=True)
    m.paths.config.write_text("metadata:\n  types: {case-no: integer, case_no: integer}\n")
    m.files.insert({"content_hash": "a", "case-no": "17", "publisher": {"id": 1}})
    m.files.upsert({"case-no": "17", "content_hash": "b", "title": "x"}, ["case-no"])
    m.files.upsert({"publisher": {"id": 1}, "content_hash": "b", "n": 1}, ["publisher:id"])
    assert shown(m, "title", "case_no", "n") == {"a": ("x", 17, 1)}


def test_a_document_may_come_twice_in_a_batch(m: Metadir) -> None:
    m.files.upsert_many([{"content_hash": "a", "n": 1, "x": 1}, {"content_hash": "a", "n": 2}])
    m.files.upsert_many([{"content_hash": "b", "url": "u"}, {"content_hash": "c", "url": "u"}], ["url"])
    assert shown(m, "n", "x", "url") == {"a": (2, 1, None), "b": (None, None, "u")}
    with pytest.raises(DocumentError, match="'d' exists already"):
        m.files.insert_many([{"content_hash": "d"}, {"content_hash": "d"}])
    assert "d" not in m.files


def test_insert_ignore_leaves_a_document_as_it_is(m: Metadir) -> None:
    assert m.files.insert_ignore({"content_hash": "a", "url": "u", "n": 1}, ["url"]) == "a"
    assert m.files.insert_ignore({"content_hash": "b", "url": "u"}, ["url"]) is False
    assert m.files.insert_ignore({"content_hash": "a", "url": "v"}, ["url"]) is False
    assert m.files.insert_ignore({"content_hash": "a", "n": 2}) is False
    assert shown(m, "url", "n") == {"a": ("u", 1)}


def test_update_never_adds(m: Metadir) -> None:
    m.files.insert_many([{"content_hash": "a", "n": 1}, {"content_hash": "b", "n": 1}])
    assert m.files.update({"content_hash": "a", "n": 2}) == 1
    assert m.files.update({"content_hash": "x", "n": 2}) == 0
    m.files.update_many([{"content_hash": "b", "n": 3}, {"content_hash": "y", "n": 3}])
    assert shown(m, "n") == {"a": 2, "b": 3}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"title": "no key"}, "lacks content_hash"),
        ({"content_hash": None}, "lacks content_hash"),
        ({"content_hash": True}, "not a key"),
        ({"content_hash": ""}, "not a key"),
        ({"content_hash": 1.5}, "not a key"),
        ({"content_hash": "z", "a": {"b": 1}, "a:b": 2}, "a:b"),
        ({"content_hash": "z", 5: 1}, "not text"),
        ({"content_hash": "z", "new": b"bytes"}, "'new'"),
        ({"content_hash": "z", "new": float("inf")}, "'new'"),
        ({"content_hash": "there"}, "exists already"),
    ],
)
def test_one_bad_document_and_nothing_is_written(m: Metadir, bad: dict[Any, Any], message: str) -> None:
    m.files.insert(content_hash="there")
    m.push()
    writers: list[Callable[[list[dict[Any, Any]]], None]] = [m.files.insert_many]
    if "exists" not in message:
        writers.append(m.files.upsert_many)
    for write in writers:
        with pytest.raises(DocumentError, match=message):
            write([{"content_hash": "fine", "fresh": 1}, bad])
        assert list(shown(m)) == ["there"]
        assert "fresh" not in m.inspect().columns
        assert m.inspect().pending == 0


def test_rows_that_fail_while_they_are_made_leave_nothing(m: Metadir) -> None:
    def rows() -> Iterator[dict[str, Any]]:
        for n in range(1500):
            yield {"content_hash": n}
            yield {"content_hash": n, "again": 1}
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        m.files.upsert_many(rows())
    assert len(m.files) == m.inspect().pending == 0


def test_a_deleted_document_is_gone_for_clients_and_comes_back(m: Metadir, client: Metadir) -> None:
    m.files.insert_many({"content_hash": key, "title": key, "n": 1} for key in "abc")
    m.push()
    client.sync()
    assert m.files.delete(title=["a", "b", "c"]) is True
    assert m.files.delete(title=["a", "b", "c"]) is False
    assert len(m.files) == 0
    m.push()
    assert client.sync().updated.deleted == 3
    assert client.files.count(deleted=True) == 3
    assert m.files.update({"content_hash": "a", "n": 2}) == 0
    m.files.upsert({"content_hash": "a", "n": 3})
    m.files.insert(content_hash="b", n=4)
    assert m.files.insert_ignore({"content_hash": "c", "n": 5}) == "c"
    m.push()
    assert client.sync().updated.restored == 3
    # What is inserted is new; what is updated is as it was.
    expected = {"a": ("a", 3), "b": (None, 4), "c": (None, 5)}
    assert shown(client, "title", "n") == shown(m, "title", "n") == expected


def test_a_document_whose_file_is_gone_comes_back_by_hand_and_stays(m: Metadir, scrape: Scrape) -> None:
    path = scrape("a", title="x")
    scrape("b")
    m.sync()
    path.unlink()
    m.generate(ensure=True)
    m.update()
    assert "a" not in m.files
    m.files.upsert({"content_hash": "a", "n": 1})
    assert shown(m, "title")["a"] == "x"
    m.sync()
    assert "a" in m.files


def test_what_is_deleted_by_hand_generate_does_not_bring_back(m: Metadir, scrape: Scrape) -> None:
    scrape("a", title="x")
    m.sync()
    m.files.delete(content_hash="a")
    scrape("a", title="y")
    m.sync()
    assert "a" not in m.files


def test_values_of_another_kind_are_kept_until_they_are_replaced(m: Metadir, client: Metadir) -> None:
    def check(*expected: Any) -> None:
        m.push()
        client.sync()
        columns = ("flag", "__x", "big")
        assert shown(client, *columns)["a"] == shown(m, *columns)["a"] == expected

    m.files.insert({"content_hash": "a", "flag": True, "__x": 1})
    check(True, 1, None)
    m.files.upsert({"content_hash": "a", "flag": "perhaps", "big": 2**70})
    check("perhaps", 1, str(2**70))
    assert m.files.count(flag=True) == 0
    m.files.upsert({"content_hash": "a", "__x": None})
    check("perhaps", None, str(2**70))
    m.files.upsert({"content_hash": "a", "flag": False, "big": 7})
    check(False, None, 7)


def test_rows_of_a_data_frame_go_in_and_come_out(m: Metadir) -> None:
    frame = pd.DataFrame(
        {"content_hash": ["a", "b"], "at": pd.to_datetime([NOON, None]), "n": [1.5, None], "s": ["x", None]}
    )
    m.files.upsert_many(frame.to_dict("records"))  # type: ignore[arg-type]
    assert shown(m, "at", "n", "s") == {"a": (NOON, 1.5, "x"), "b": (None, None, None)}


values = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text("ab\0é", max_size=3)
values |= st.floats(allow_nan=False, allow_infinity=False) | st.lists(st.text("ab", max_size=2), max_size=2)
values |= st.datetimes(timezones=st.just(UTC))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Files, Metadir, Metadir]]:
    base = tmp_path_factory.mktemp("shared")
    (base / "remote").mkdir()
    with (
        mmmeta(base / "p", remote=base / "remote") as publisher,
        mmmeta(base / "c", remote=base / "remote") as client,
    ):
        yield publisher.files, publisher, client


@settings(deadline=None, max_examples=25)
@given(
    st.dictionaries(
        st.sampled_from(["a", "b"]), st.dictionaries(st.sampled_from("vwxyz"), values), min_size=1
    )
)
def test_published_values_of_every_type_reach_the_client(
    shared: tuple[Files, Metadir, Metadir], documents: dict[str, dict[str, Any]]
) -> None:
    files, publisher, client = shared
    files.upsert_many({"content_hash": key, **values} for key, values in documents.items())
    publisher.push()
    client.sync()
    for m in (publisher, client):
        for key, document in documents.items():
            file = m.files.get(key)
            assert file is not None
            for name, value in document.items():
                back = file.get(name)
                if isinstance(value, datetime) and isinstance(back, str):  # in a column of another kind
                    back = datetime.fromisoformat(back)
                assert back == value
                alike = ON_POSTGRES and {type(back), type(value)} == {int, float}
                assert alike or type(back) is type(value)


def test_threads_publish_at_once_and_nothing_is_lost(m: Metadir) -> None:
    def work(n: int) -> None:
        m.files.upsert({"content_hash": n % 3, f"by{n}": n})

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(12)))
    found = {name: value for file in m.files for name, value in file.items() if name.startswith("by")}
    assert found.keys() == {f"by{n}" for n in range(12)}
    assert m.files.count(by4=4) == m.files.count(content_hash=1, by10=10) == 1
