"""The catalog: what waits here meets what others published."""

from __future__ import annotations

from pathlib import Path

from mmmeta_core import Metadir, mmmeta
from mmmeta_core.database.catalog import open_catalog


def two_publishers(tmp_path: Path) -> tuple[Metadir, Metadir]:
    (tmp_path / "remote").mkdir()
    a, b = (mmmeta(tmp_path / name, remote=tmp_path / "remote") for name in "ab")
    return a, b


def test_a_column_that_others_spell_otherwise_moves_aside(tmp_path: Path) -> None:
    a, b = two_publishers(tmp_path)
    a.files.upsert({"content_hash": "1", "Title": "A"})
    b.files.upsert({"content_hash": "2", "title": "B", "pages": 2})
    a.push()
    b.push()
    a.sync()
    for publisher in (a, b):
        publisher.update()
        rows = {
            file.key: (file.get("Title"), file.get("title"), file.get("pages")) for file in publisher.files
        }
        assert rows == {"1": ("A", None, None), "2": (None, "B", 2)}


def test_a_column_of_another_kind_keeps_every_value(tmp_path: Path) -> None:
    a, b = two_publishers(tmp_path)
    a.files.upsert({"content_hash": "1", "signed": True})
    b.files.upsert({"content_hash": "2", "signed": "by two"})
    a.push()
    b.push()
    a.sync()
    assert {file.key: file["signed"] for file in a.files} == {"1": True, "2": "by two"}


def test_a_change_that_was_undone_is_not_published(tmp_path: Path) -> None:
    a, _ = two_publishers(tmp_path)
    a.files.upsert({"content_hash": "1", "title": "x"})
    assert a.push().published
    a.files.upsert({"content_hash": "1", "title": "y"})
    a.files.upsert({"content_hash": "1", "title": "x"})
    assert not a.push().published
    assert a.inspect().pending == 0


def test_columns_may_have_the_names_of_sql(tmp_path: Path) -> None:
    m = mmmeta(tmp_path)
    words = [
        "TRUE",
        "select",
        "key",
        "files",
        "rowid",
        "value",
        'a"b',
        "x'); DROP TABLE files; /*",
        "*",
        "?",
        ":a",
    ]
    m.files.insert(content_hash="1", **{word: word for word in words})
    file = m.files.get("1")
    assert file is not None
    assert {word: file[word] for word in words} == {word: word for word in words}


def test_what_was_purged_is_told_also_where_nothing_was_before(tmp_path: Path) -> None:
    a, b = two_publishers(tmp_path)
    a.files.insert_many([{"content_hash": "1", "title": "x"}, {"content_hash": "2", "title": "y"}])
    a.push()
    b.sync()

    def purged(metadir: Metadir) -> list[object]:
        with open_catalog(metadir.paths.meta, "content_hash") as catalog:
            return [*catalog.purged(), *catalog.purged()]

    assert (purged(a), purged(b)) == ([], [])
    with open_catalog(a.paths.meta, "content_hash") as catalog:
        catalog.purge(["1"])  # as one that is killed before it publishes
    assert purged(a) == ["1", "1"]
    a.push()
    b.pull()
    assert (purged(a), purged(b)) == (["1", "1"], ["1", "1"])


def test_once_looked_for_what_was_purged_is_not_looked_for_again(tmp_path: Path) -> None:
    m = mmmeta(tmp_path)
    m.files.insert(content_hash="1", title="x")
    said: list[str] = []
    with open_catalog(m.paths.meta, "content_hash") as catalog:
        catalog.connection.set_trace_callback(said.append)
        assert catalog.purged() == []
        assert any(" FROM files " in statement for statement in said)
        said.clear()
        assert catalog.purged() == []
        assert not any(" FROM files " in statement for statement in said)
