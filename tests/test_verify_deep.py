"""Verify, deep: the log against itself, and everything that repeats it against the log."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest
from metadirs import (
    HEAD,
    LOG,
    META,
    codes,
    content,
    copied,
    edit_head,
    flip,
    head_of,
    publish,
    sha1,
    sql,
    swap,
    the_one,
)
from remotes.static import serving

from mmmeta_core import Metadir, mmmeta
from mmmeta_core.changelog import digest_of
from mmmeta_core.database.state import index_name
from mmmeta_core.remotes import Remote, open_remote


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three revisions in a folder with a snapshot, and a client of it; closed."""
    base = tmp_path_factory.mktemp("built")
    (base / "remote").mkdir()
    with publish(base, str(base / "remote")) as publisher:
        publisher.store["note"] = "kept"
        publisher.push()
    with mmmeta(base / "client", remote=base / "remote") as client:
        client.sync()
        client.files.process(lambda file: None, mark="imported")
    return base


@pytest.fixture
def alone(built: Path, tmp_path: Path) -> Metadir:
    base = copied(built, tmp_path / "copy")
    return mmmeta(base / "client", remote=base / "remote")


def test_a_whole_archive_is_whole_in_its_depth_and_is_not_changed(tmp_path: Path, remote_url: str) -> None:
    with publish(tmp_path, remote_url) as publisher, mmmeta(tmp_path / "client", remote=remote_url) as m:
        m.sync()
        publisher.files.insert(content_hash="waiting", file_name="new.pdf")
        publisher.files.upsert({"content_hash": sha1(b"document 1"), "title": "changed"}, ["content_hash"])
        for one in (m, publisher):
            one.close()
            before = content(tmp_path)
            found = one.verify(deep=True, hashes=True)
            assert found.findings == ()
            assert (found.segments, found.replayed, found.hashed) == (3, 3, 3 if one is m else 2)
            assert found.compared >= 6
            assert content(tmp_path) == before


def test_a_change_that_was_taken_back_is_no_difference(tmp_path: Path) -> None:
    (tmp_path / "remote").mkdir()
    with publish(tmp_path, str(tmp_path / "remote")) as publisher:
        for title in ("new", None):
            publisher.files.upsert({"content_hash": sha1(b"document 1"), "title": title}, ["content_hash"])
        publisher.files.insert(content_hash="b", file_name="b.pdf")
        publisher.push()
        assert publisher.verify(deep=True, documents=0).findings == ()
        for title in ("new", None):
            publisher.files.upsert({"content_hash": "b", "title": title}, ["content_hash"])
        publisher.push()
        assert publisher.verify(deep=True, documents=0).findings == ()


def rewritten(remote: Remote, revision: int, old: bytes, new: bytes) -> None:
    """Change a segment's text, and pack it well again."""
    name = LOG.format(revision)
    blob = remote.read(name)
    assert blob is not None
    text = gzip.decompress(blob.data)
    assert old in text
    remote.write(name, gzip.compress(text.replace(old, new), mtime=0))


def swap_both(remote: Remote, one: str, other: str) -> None:
    first = remote.read(one)
    assert first is not None
    swap(remote, one, other)
    remote.write(other, first.data)


AT_THE_REMOTE: dict[str, tuple[Callable[[Remote], object], list[tuple[str, str]]]] = {
    "a bit of a segment": (lambda r: flip(r, LOG.format(2), 40), [(LOG.format(2), "segment-damaged")]),
    "a segment cut off": (lambda r: r.write(LOG.format(1), b"\x1f\x8b"), [(LOG.format(1), "segment-damaged")]),
    "a bit of gzip's header": (lambda r: flip(r, LOG.format(2), 9), [(LOG.format(2), "segment-replaced")]),
    "another text": (lambda r: rewritten(r, 2, b"2.pdf", b"9.pdf"), [(LOG.format(2), "segment-replaced")]),
    "two segments swapped": (lambda r: swap_both(r, LOG.format(2), LOG.format(3)),
        [(LOG.format(2), "segment-damaged"), (LOG.format(3), "segment-damaged")]),
    "another newest text": (lambda r: rewritten(r, 4, b"kept", b"lost"), [(LOG.format(4), "segment-replaced")]),
    "another archive's segment": (lambda r: rewritten(r, 1, b'"archive":"', b'"archive":"0'),
        [(LOG.format(1), "segment-replaced")]),
    "a gap": (lambda r: r.remove(LOG.format(2)), [(LOG.format(2), "segment-missing")]),
    "a snapshot's bit": (lambda r: flip(r, META, 5000), [(META, "snapshot")]),
    "no snapshot": (lambda r: r.remove(META), [(META, "snapshot")]),
    "a store value": (lambda r: r.write("_mmmeta/_store/note", b"other"), [("_mmmeta/_store/note", "hints")]),
    "no store value": (lambda r: r.remove("_mmmeta/_store/note"), [("_mmmeta/_store/note", "hints")]),
    "a value too many": (lambda r: r.write("_mmmeta/_store/more", b"1"), [("_mmmeta/_store/more", "hints")]),
    "a head's store": (lambda r: edit_head(r, store={}), [(HEAD, "head-wrong")]),
    "a head's bytes": (lambda r: edit_head(r, log_bytes=1), [(HEAD, "head-wrong")]),
    "a head's hash": (lambda r: edit_head(r, digest="0"), [(HEAD, "head-wrong")]),
    "a head's key": (lambda r: edit_head(r, unique="id"), [(HEAD, "head-wrong")]),
    "a head's settings": (lambda r: edit_head(r, config="metadata: {}"), [(HEAD, "head-wrong")]),
    "a head's snapshot": (lambda r: edit_head(r, snapshot={**head_of(r)["snapshot"], "revision": 0}), [(META, "snapshot")]),
    "a head that lags": (lambda r: edit_head(r, revision=3), [(HEAD, "head-wrong")]),
}  # fmt: skip


@pytest.mark.parametrize("damage", AT_THE_REMOTE)
def test_damage_at_the_remote_is_found_where_it_is(alone: Metadir, damage: str) -> None:
    do, expected = AT_THE_REMOTE[damage]
    remote = alone.remote
    assert remote is not None
    do(remote)
    found = alone.verify(deep=True, documents=0).findings
    assert sorted((one.subject.removeprefix(f"{remote.url}/"), one.code) for one in found) == expected


def test_damage_in_a_bucket_is_found_all_the_same(tmp_path: Path, remote_url: str) -> None:
    with publish(tmp_path, remote_url), mmmeta(tmp_path / "client", remote=remote_url) as m:
        m.sync()
        remote = open_remote(remote_url)
        flip(remote, LOG.format(2), 40)
        flip(remote, META, 5000)
        remote.write("_mmmeta/_store/remote_last_updated", b"2001-01-01T00:00:00+00:00")
        # Nothing is said of hints where the log itself is not whole.
        assert codes(m.verify(deep=True)) == ["segment-damaged", "snapshot"]


def test_a_snapshot_that_says_otherwise_than_the_log_is_found_though_its_hash_is_right(
    alone: Metadir,
) -> None:
    remote = alone.remote
    assert remote is not None
    path = alone.path.parent / "remote" / META
    sql(path, "UPDATE files SET file_name = 'other.pdf' WHERE file_name = '1.pdf'")
    snapshot = {**head_of(remote)["snapshot"], "size": path.stat().st_size, "sha256": digest_of(path)}
    edit_head(remote, snapshot=snapshot)
    finding = the_one(alone.verify(deep=True))
    assert (finding.code, "documents different: 1, such as" in finding.what) == ("snapshot", True)


def test_a_log_whose_beginning_was_pruned_is_whole(alone: Metadir) -> None:
    remote = alone.remote
    assert remote is not None
    with mmmeta(alone.path.parent / "publisher", remote=remote) as publisher:
        publisher.verify(deep=True, repair=True, documents=0)
        edit_head(remote, snapshot=None)  # the next push takes a new one
        remote.remove(META)
        publisher.files.insert(content_hash="five")
        publisher.push()
        publisher.files.insert(content_hash="six")
        publisher.push()
    alone.sync()
    assert head_of(remote)["snapshot"]["revision"] == 5
    for revision in (1, 2, 3):
        remote.remove(LOG.format(revision))
        found = alone.verify(deep=True, documents=0)
        assert found.findings == ()
        assert alone.verify(documents=0).findings == ()
        assert (found.segments, found.replayed) == (6 - revision, 1)
    remote.remove(LOG.format(5))
    assert codes(alone.verify(documents=0)) == ["segment-missing"]
    assert codes(alone.verify(deep=True, documents=0)) == ["segment-missing"]
    assert "restore it" in the_one(alone.verify(deep=True, documents=0)).mend
    edit_head(remote, snapshot=None)
    assert codes(alone.verify(documents=0)) == ["segment-missing", "segment-missing"]


def test_a_snapshot_that_is_newer_than_head_says_is_what_a_killed_publisher_leaves(alone: Metadir) -> None:
    remote = alone.remote
    assert remote is not None
    before = head_of(remote)
    with mmmeta(alone.path.parent / "publisher", remote=remote) as publisher:
        remote.remove(META)
        publisher.files.insert(content_hash="five")
        publisher.push()
    assert head_of(remote)["snapshot"]["revision"] == 5
    edit_head(remote, **before)
    assert alone.verify(deep=True, documents=0).findings == ()
    sql(alone.path.parent / "remote" / META, "UPDATE files SET size = 1")
    assert codes(alone.verify(deep=True, documents=0)) == ["snapshot"]


def test_an_archive_that_is_published_where_it_lies_is_read_over_the_web(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    with mmmeta(tmp_path / "archive") as publisher:
        for number in range(3):
            publisher.files.insert(content_hash=f"k{number}", file_name=f"{number}.pdf")
            publisher.push()
        publisher.store["later"] = 1
        publisher.files.insert(content_hash="later")
        found = publisher.verify(deep=True)
        assert (found.findings, found.replayed, found.remote_revision) == ((), 3, 3)
    with serving(tmp_path / "archive") as web, mmmeta(tmp_path / "client", remote=web.url) as m:
        m.sync()
        found = m.verify(deep=True, documents=0)
        assert (found.findings, found.segments, found.replayed, found.revision) == ((), 3, 3, 3)
        (tmp_path / "archive" / LOG.format(2)).unlink()
        assert codes(m.verify(deep=True, documents=0)) == ["segment-missing"]
        (tmp_path / "archive" / HEAD).unlink()
        why = {finding.code: finding.why for finding in m.verify(repair=True, documents=0).findings}
        assert why == {
            "segment-missing": "a segment is never made up",
            "head-missing": "the log has to be there and whole for that",
        }


HERE: dict[str, tuple[str, str, str]] = {
    "a row": ("meta.db", "UPDATE files SET size = 1 WHERE file_name = '1.pdf'", "catalog-differs"),
    "a value of another type": ("meta.db", "UPDATE files SET size = '10' WHERE file_name = '1.pdf'", "catalog-differs"),
    "no row": ("meta.db", "DELETE FROM files WHERE file_name = '1.pdf'", "catalog-differs"),
    "a row too many": ("meta.db", "INSERT INTO files (content_hash) VALUES ('x')", "catalog-differs"),
    "an older time": ("meta.db", "UPDATE files SET __meta_last_updated = '2001'", "catalog-differs"),
    "a row's revision": ("meta.db", "UPDATE files SET __revision = 0", "catalog-differs"),
    "a column's kind": ("meta.db", "UPDATE mmmeta_columns SET kind = 'text' WHERE name = 'size'", "catalog-differs"),
    "a column's revision": ("meta.db", "UPDATE mmmeta_columns SET revision = NULL WHERE name = 'size'", "catalog-differs"),
    "a column's note": ("meta.db", "DELETE FROM mmmeta_columns WHERE name = 'size'", "catalog-damaged"),
    "the store": ("meta.db", "UPDATE mmmeta_store SET value = 'x' WHERE key = 'note'", "catalog-differs"),
    "the hash": ("meta.db", "UPDATE mmmeta_info SET value = 'x' WHERE key = 'digest'", "catalog-differs"),
    "the archive": ("meta.db", "UPDATE mmmeta_info SET value = 'x' WHERE key = 'archive'", "catalog-differs"),
    "a higher revision": ("meta.db", "UPDATE mmmeta_info SET value = 9 WHERE key = 'revision'", "catalog-differs"),
    "a lower revision": ("meta.db", "UPDATE mmmeta_info SET value = 2 WHERE key = 'revision'", "catalog-differs"),
    "no number": ("meta.db", "UPDATE mmmeta_info SET value = 'x' WHERE key = 'revision'", "catalog-damaged"),
    "no key column": ("meta.db", "UPDATE mmmeta_info SET value = 'x' WHERE key = 'unique'", "catalog-damaged"),
    "a change from nowhere": ("meta.db", "INSERT INTO mmmeta_pending VALUES ('x', NULL)", "catalog-differs"),
    "another change": ("meta.db", "INSERT INTO mmmeta_pending SELECT content_hash, 1 FROM files", "catalog-differs"),
    "a published value": ("state.db", "UPDATE files SET size = 1 WHERE file_name = '1.pdf'", "state-differs"),
    "no document": ("state.db", "DELETE FROM files WHERE file_name = '1.pdf'", "state-differs"),
    "a document too many": ("state.db", "INSERT INTO files (content_hash) VALUES ('x')", "state-differs"),
    "a deletion": ("state.db", "UPDATE files SET __deleted_at = __meta_added", "state-differs"),
    "an owner": ("state.db", "UPDATE mmmeta_columns SET owner = 'nobody' WHERE name = 'imported'", "state-columns"),
    "no owner": ("state.db", "DELETE FROM mmmeta_columns WHERE name = 'imported'", "state-columns"),
    "no column": ("state.db", "ALTER TABLE files DROP COLUMN imported", "state-columns"),
    "a kind": ("state.db", "UPDATE mmmeta_columns SET kind = 'boolish' WHERE name = 'imported'", "state-columns"),
    "an own value": ("state.db", "UPDATE files SET imported = 'maybe' WHERE file_name = '1.pdf'", "state-values"),
    "a lease": ("state.db", "UPDATE mmmeta_work SET worker = 'x', lease_until = 'soon'", "state-work"),
    "attempts": ("state.db", "UPDATE mmmeta_work SET attempts = -1", "state-work"),
    "a download": ("state.db", "INSERT INTO mmmeta_downloads VALUES ('here', 'x', 'x', 'x')", "state-work"),
    "a run": ("state.db", "UPDATE mmmeta_pipelines SET last_run = 'today'", "state-work"),
    "no revision": ("state.db", "UPDATE mmmeta_info SET value = 'x' WHERE key = 'revision'", "state-damaged"),
    "merged values": ("state.db", "UPDATE mmmeta_info SET value = '{' WHERE key = 'store'", "state-damaged"),
}  # fmt: skip


@pytest.mark.parametrize("damage", HERE)
def test_an_edited_database_is_found(alone: Metadir, damage: str) -> None:
    name, statement, code = HERE[damage]
    path = alone.paths.root / name
    if "DROP COLUMN" in statement:
        sql(path, f"DROP INDEX {index_name('due', 'imported')}")
    sql(path, statement)
    before = content(alone.path)
    finding = the_one(alone.verify(deep=True, documents=0))
    assert (finding.code, finding.subject) == (code, str(path))
    if name == "state.db":
        assert codes(alone.verify(remote=False)) == [code], "the log is not needed for that"
    assert content(alone.path) == before


@pytest.mark.parametrize(("key", "found"), [("remote_last_updated", ["store"]), ("note", [])])
def test_a_store_value_here_may_wait_to_be_published_but_not_the_time_of_the_last_publish(
    alone: Metadir, key: str, found: list[str]
) -> None:
    (alone.paths.store / key).write_text("2001-01-01T00:00:00+00:00")
    assert codes(alone.verify()) == found
    (alone.paths.store / key).unlink()
    assert codes(alone.verify()) == found


def test_what_the_next_update_merges_is_no_difference(alone: Metadir) -> None:
    with mmmeta(alone.path.parent / "publisher", remote=alone.remote) as publisher:
        publisher.files.upsert({"content_hash": sha1(b"document 1"), "color": "red"}, ["content_hash"])
        publisher.files.delete(content_hash=sha1(b"document 2"))
        publisher.push()
        assert publisher.verify(deep=True).findings == ()
    alone.pull()
    assert alone.verify(deep=True).findings == ()
    alone.files.process(lambda file: {"shade": "dark"}, mark="seen")
    assert alone.verify(deep=True).findings == ()
    alone.update()
    assert alone.verify(deep=True).findings == ()
    with mmmeta(alone.path.parent / "publisher", remote=alone.remote) as publisher:
        publisher.files.upsert({"content_hash": sha1(b"document 3"), "shade": "light"}, ["content_hash"])
        publisher.push()
    alone.sync()
    assert alone.verify(deep=True).findings == (), "a column that both have is the client's"


def test_a_remote_that_went_on_from_an_older_backup_is_another_history(built: Path, tmp_path: Path) -> None:
    base = copied(built, tmp_path / "copy")
    remote = open_remote(base / "remote")
    remote.remove(LOG.format(4))
    edit_head(remote, revision=3, digest=digest_of(base / "remote" / LOG.format(3)))
    with mmmeta(tmp_path / "second", remote=remote) as second:
        second.pull()
        second.files.insert(content_hash="four")
        second.push()
    with mmmeta(base / "client", remote=remote) as client:
        before = client.paths.meta.read_bytes()
        finding = the_one(client.verify(deep=True, documents=0))
        assert (finding.code, "was set back" in finding.what) == ("set-back", True)
        assert "histories" in the_one(client.verify(repair=True, documents=0)).why
        assert client.paths.meta.read_bytes() == before


def test_documents_are_read_and_compared_with_their_hash(tmp_path: Path, remote_url: str) -> None:
    with publish(tmp_path, remote_url) as publisher:
        open_remote(remote_url).write("2.pdf", b"document 9")
        publisher.files.insert(content_hash="no digest", file_name="1.pdf")
        publisher.push()
        assert publisher.verify(documents=None).whole, "its size is right"
        found = publisher.verify(documents=None, hashes=True)
        assert (found.documents, found.hashed) == (4, 2)
        finding = the_one(found)
        assert finding.code == "document-content"
        assert finding.subject.endswith("/2.pdf")
