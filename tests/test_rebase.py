"""What waits here when somebody else publishes first: merged column by column, and nothing said twice or lost."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from mmmeta_core import Metadir, mmmeta
from mmmeta_core.database.rebase import left
from mmmeta_core.sync import hints

Open: TypeAlias = Callable[[str], Metadir]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """Open metadirs by name, all of one archive."""
    (tmp_path / "remote").mkdir()
    metadirs: dict[str, Metadir] = {}

    def open_one(name: str) -> Metadir:
        return metadirs.setdefault(name, mmmeta(tmp_path / name, remote=tmp_path / "remote"))

    yield open_one
    for m in metadirs.values():
        m.close()


@pytest.fixture(params=["by the log", "by the snapshot"])
def through(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How the one who is behind comes to know what was published."""
    way: str = request.param
    if way == "by the snapshot":
        monkeypatch.setattr(hints, "_SNAPSHOT_SEGMENTS", 1)
    return way


def upsert(m: Metadir, **values: Any) -> None:
    m.files.upsert({"content_hash": "a", **values})


def publish(m: Metadir, through: str, **values: Any) -> None:
    """Publish a document, and so much after it that a snapshot pays."""
    upsert(m, **values)
    m.push()
    for number in range(6 if through == "by the snapshot" else 0):
        m.store["number"] = number
        m.push()


def get(m: Metadir) -> dict[str, Any]:
    m.sync()
    file = m.files.get("a")
    assert file is not None
    return dict(file)


def test_who_adds_what_somebody_else_has_added_publishes_nothing(opened: Open, through: str) -> None:
    one, other = opened("one"), opened("other")
    upsert(other, title="A", size=3)
    publish(one, through, title="A", size=3)
    first = get(one)
    assert other.pull().snapshot is (through == "by the snapshot")
    pushed = other.push()
    assert (pushed.published, pushed.revision, other.inspect().pending) == (False, one.revision, 0)
    assert get(other)["__meta_added"] == first["__meta_added"]
    assert get(other)["__meta_last_updated"] == first["__meta_last_updated"]
    upsert(other, title="B")
    other.push()
    assert get(one)["__meta_added"] == first["__meta_added"] < get(one)["__meta_last_updated"]


def test_who_deletes_what_somebody_else_has_deleted_publishes_nothing(opened: Open, through: str) -> None:
    one, other = opened("one"), opened("other")
    publish(one, "by the log", title="A")
    other.sync()
    other.files.delete(content_hash="a")
    one.files.delete(content_hash="a")
    one.push()
    for number in range(6 if through == "by the snapshot" else 0):
        one.store["number"] = number
        one.push()
    assert other.pull().snapshot is (through == "by the snapshot")
    assert other.push().published is False
    assert get(other)["__deleted_at"] == get(one)["__deleted_at"]


def test_a_document_added_by_two_keeps_when_it_was_added_first(opened: Open, through: str) -> None:
    one, other = opened("one"), opened("other")
    upsert(other, colour="red")
    publish(one, through, title="A")
    first = get(one)["__meta_added"]
    assert other.push().documents == 1
    found = get(one)
    assert (found["title"], found["colour"], found["__meta_added"]) == ("A", "red", first)


def test_a_change_that_was_taken_back_leaves_no_trace(opened: Open, tmp_path: Path) -> None:
    """A snapshot that was made after it says the same as the log."""
    one = opened("one")
    publish(one, "by the log", title="A")
    before = get(opened("client"))
    upsert(one, title="B")
    upsert(one, title="A")
    assert one.push().published is False
    with one._replica.catalog() as catalog:
        catalog.snapshot(tmp_path / "snapshot.db")
    with closing(sqlite3.connect(tmp_path / "snapshot.db")) as copy:
        (updated,) = copy.execute("SELECT __meta_last_updated FROM files").fetchone()
    assert updated == before["__meta_last_updated"].isoformat(timespec="microseconds")


def test_a_snapshot_has_no_column_that_was_never_published(opened: Open, tmp_path: Path) -> None:
    one = opened("one")
    publish(one, "by the log", title="A")
    upsert(one, colour="red", title="B")
    with one._replica.catalog() as catalog:
        catalog.snapshot(tmp_path / "snapshot.db")
    with closing(sqlite3.connect(tmp_path / "snapshot.db")) as copy:
        assert copy.execute("SELECT name FROM mmmeta_columns").fetchall() == [("title",)]
        assert "colour" not in {name for _, name, *_ in copy.execute("PRAGMA table_info(files)")}
        assert copy.execute("SELECT title FROM files").fetchone() == ("A",)
    assert one.push().published
    assert get(opened("client"))["colour"] == "red"


@pytest.mark.parametrize(("theirs", "mine"), [(True, "yes"), ("yes", True), (["x"], 7), (1.5, ["x"])])
def test_a_column_that_two_began_with_different_kinds_loses_no_value(
    opened: Open, through: str, theirs: Any, mine: Any
) -> None:
    one, other = opened("one"), opened("other")
    other.files.upsert({"content_hash": "b", "seen": mine, "Seen again": mine})
    one.files.upsert({"content_hash": "c", "seen again": theirs})
    publish(one, through, seen=theirs)
    assert other.pull().snapshot is (through == "by the snapshot")
    for step in (lambda: None, other.push):
        step()
        other.update()
        b = other.files.get("b")
        assert b is not None
        assert (b["seen"], b["Seen again"]) == (mine, mine)
    for m in (one, other, opened("client")):
        m.sync()
        found = {file.key: file.get("seen") for file in m.files}
        assert found == {"a": theirs, "b": mine, "c": None}
        b = m.files.get("b")
        assert b is not None
        assert b["Seen again"] == mine


def test_values_without_a_column_are_merged_name_by_name(opened: Open, through: str) -> None:
    one, other = opened("one"), opened("other")
    publish(one, "by the log", x=True, y=True, z=True)
    other.sync()
    upsert(other, y="other", z=False)
    publish(one, through, x="one", z="one")
    other.push()
    for m in (one, other, opened("client")):
        found = get(m)
        assert {name: found.get(name) for name in "xyz"} == {"x": "one", "y": "other", "z": False}


def test_a_document_that_was_merged_is_another_version(opened: Open, through: str) -> None:
    """So that one who failed at it tries again."""
    one, other = opened("one"), opened("other")
    publish(one, "by the log", title="A")
    other.sync()
    upsert(other, colour="red")

    def fail(_: object) -> None:
        raise ValueError

    assert other.files.process(fail).failed == 1
    assert other.files.process(fail).failed == 0
    publish(one, through, title="B")
    other.pull()
    other.update()
    assert other.files.process(fail).failed == 1


def test_what_is_left_is_what_both_say_differently() -> None:
    columns = ("title", "size", "__rescued", "__meta_added", "__meta_last_updated")
    before = {"title": "A", "size": 1}
    assert left({"title": "B", "size": 1}, before, {"title": "C", "size": 2}, columns, "now") == {
        "title": "B",
        "__meta_last_updated": "now",
    }
    assert left({"title": "B", "size": 1}, before, {"title": "B", "size": 2}, columns, "now") == {}
    assert left({"title": "A", "size": True}, before, before, columns, "now")["size"] is True
    assert left({"__meta_added": "2"}, {}, {"__meta_added": "1"}, columns, "now") == {}


def test_a_metadir_whose_catalog_was_moved_away_does_not_replay_what_it_left_behind(
    opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite would roll a journal of the old catalog back into the snapshot that takes its place."""
    monkeypatch.setattr(hints, "_SNAPSHOT_SEGMENTS", 1)
    one, client = opened("one"), opened("client")
    publish(one, "by the snapshot", title="A")
    client.sync()
    with client._replica.catalog() as catalog:
        catalog.connection.execute("PRAGMA cache_size=1")
        catalog.connection.execute("BEGIN IMMEDIATE")
        catalog.connection.execute("UPDATE files SET title = 'half'")
        catalog.connection.execute("CREATE TABLE filler AS SELECT zeroblob(200000) AS x")
        journal = client.paths.meta.with_name("meta.db-journal")
        shutil.copy(journal, tmp_path / "journal")
        catalog.connection.execute("ROLLBACK")
    client.close()
    client.paths.meta.unlink()
    shutil.copy(tmp_path / "journal", journal)
    publish(one, "by the snapshot", title="B")
    assert client.pull().snapshot
    assert (get(client)["title"], client.verify().findings) == ("B", ())
