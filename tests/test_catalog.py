"""The catalog: what waits here meets what others published."""

from __future__ import annotations

from pathlib import Path

from mmmeta_core import Metadir, mmmeta


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
