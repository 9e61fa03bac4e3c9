"""Publishing and following an archive through a folder and a bucket, as publishers and clients do it."""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeAlias
from uuid import uuid4

import pytest
from conftest import Scrape
from remotes.proxy import Fault, Refuse, running
from remotes.proxy import Request as Sent

from mmmeta_core import LogError, Metadir, RemoteError, RemoteUnreachableError, mmmeta
from mmmeta_core.remotes import Blob, Remote, Source, Stat, open_remote
from mmmeta_core.sync import Replica, hints

on_folder = pytest.mark.parametrize("remote_url", ["folder"], indirect=True)
"""For what the kind of remote makes no difference to."""

Open: TypeAlias = Callable[..., Metadir]
Request: TypeAlias = tuple[str, str]


class Tapped(Remote):
    """A remote that notes each request, and whose line breaks where `breaks` says so."""

    def __init__(self, remote: Remote, breaks: Callable[[Request], bool] = lambda _: False) -> None:
        self.remote = remote
        self.url = remote.url
        self.breaks = breaks
        self.before: Callable[[Request], None] = lambda _: None
        self.requests: list[Request] = []

    def _tap(self, verb: str, name: str = "") -> Remote:
        self.requests.append((verb, name))
        if self.breaks((verb, name)):
            raise RemoteUnreachableError("the line broke")
        self.before((verb, name))
        return self.remote

    def check(self) -> None:
        self._tap("check").check()

    def read(self, name: str, *, etag: str | None = None, limit: int = 64 * 1024 * 1024) -> Blob | None:
        return self._tap("read", name).read(name, etag=etag, limit=limit)

    def fetch(self, name: str, path: Path, *, limit: int | None = None) -> int:
        return self._tap("fetch", name).fetch(name, path, limit=limit)

    def create(self, name: str, source: Source) -> bool:
        return self._tap("create", name).create(name, source)

    def write(self, name: str, source: Source, *, if_match: str | None = None) -> str | None:
        return self._tap("write", name).write(name, source, if_match=if_match)

    def names(self, prefix: str) -> Iterator[str]:
        return self._tap("names", prefix).names(prefix)

    def stat(self, name: str) -> Stat | None:
        return self._tap("stat", name).stat(name)

    def remove(self, name: str) -> None:
        self._tap("remove", name).remove(name)


@pytest.fixture
def remote(remote_url: str) -> Remote:
    """The remote, which all metadirs of a test share; also to look behind the scenes."""
    return open_remote(remote_url)


@pytest.fixture
def open_metadir(tmp_path: Path, remote: Remote) -> Iterator[Open]:
    opened = []

    def make(name: str, **arguments: Any) -> Metadir:
        opened.append(mmmeta(tmp_path / name, **{"remote": remote, **arguments}))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


def publish(m: Metadir, *documents: dict[str, Any]) -> int:
    """Publish documents, given by their columns; return the revision."""
    m.files.upsert_many(list(documents), ["content_hash"])
    return m.push().revision


def titles(m: Metadir) -> dict[str, Any]:
    return {file["content_hash"]: file.get("title") for file in m.files.find()}


def follow(m: Metadir) -> dict[str, Any]:
    m.pull()
    m.update()
    return titles(m)


def segment(revision: int) -> str:
    return f"_mmmeta/log/{revision:020d}.jsonl.gz"


def at_remote(remote: Remote) -> list[str]:
    return list(remote.names(""))


def content(remote: Remote, name: str) -> bytes:
    blob = remote.read(name)
    assert blob is not None
    return blob.data


def put_back(remote: Remote, backup: dict[str, bytes]) -> None:
    """Write what a backup has over what is at the remote; what came since stays."""
    for name, data in backup.items():
        remote.write(name, data)


def head(remote: Remote) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(content(remote, "_mmmeta/head.json"))
    return found


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# --- publish and pull


def test_what_is_published_arrives(open_metadir: Open) -> None:
    publisher, client = open_metadir("publisher"), open_metadir("client")
    with publisher, client:
        publisher.pull()
        assert publish(publisher, {"content_hash": "a", "title": "A", "publisher": {"name": "P"}}) == 1
        came = client.pull()
        assert (came.revision, came.segments, came.documents) == (1, 1, 1)
        assert came.unchanged is False
        assert client.update().added == 1
        file = client.files.find_one(content_hash="a")
        assert file is not None
        assert (file["title"], file["publisher:name"]) == ("A", "P")
        assert publish(publisher, {"content_hash": "a", "title": None}, {"content_hash": "b"}) == 2
        assert follow(client) == {"a": None, "b": None}


@on_folder
def test_nothing_to_publish_makes_no_revision(open_metadir: Open, remote: Remote) -> None:
    publisher = open_metadir("publisher")
    assert publisher.push().published is False
    assert at_remote(remote) == []
    publish(publisher, {"content_hash": "a", "title": "A"})
    before = at_remote(remote), head(remote)
    publisher.files.upsert({"content_hash": "a", "title": "A"}, ["content_hash"])
    publisher.store["local_note"] = 1
    assert (publisher.push().published, publisher.push().revision) == (False, 1)
    assert (at_remote(remote), head(remote)) == before


def test_an_unchanged_remote_costs_one_request(open_metadir: Open, remote: Remote) -> None:
    publish(open_metadir("publisher"), {"content_hash": "a"})
    tapped = Tapped(remote)
    client = open_metadir("client", remote=tapped)
    assert follow(client) == {"a": None}
    tapped.requests.clear()
    assert client.pull().unchanged
    assert tapped.requests == [("read", "_mmmeta/head.json")]
    assert client.poll().changed is False
    assert tapped.requests[1:] == [("read", "_mmmeta/_store/remote_last_updated")]


def test_one_change_costs_few_requests_and_few_bytes(open_metadir: Open, remote: Remote) -> None:
    publisher = open_metadir("publisher")
    publish(publisher, *({"content_hash": str(n), "title": "x" * 100} for n in range(1000)))
    tapped = Tapped(remote)
    client = open_metadir("client", remote=tapped)
    follow(client)
    publish(publisher, {"content_hash": "0", "title": "new"})
    tapped.requests.clear()
    came = client.pull()
    assert tapped.requests == [
        ("read", "_mmmeta/head.json"),
        ("fetch", segment(2)),
        ("fetch", segment(3)),  # not there: head.json may lag
    ]
    assert (came.documents, came.bytes < 1000) == (1, True)


def test_two_publishers_changes_to_one_document_merge_by_column(open_metadir: Open) -> None:
    one, other = open_metadir("one"), open_metadir("other")
    publish(one, {"content_hash": "a", "title": "A", "year": 2020, "kept": True})
    other.pull()
    other.files.upsert({"content_hash": "a", "year": 2021, "tags": ["x"]}, ["content_hash"])
    publish(one, {"content_hash": "a", "title": "B"}, {"content_hash": "b"})
    assert other.push().revision == 3
    for m in (one, other, open_metadir("client")):
        follow(m)
        file = m.files.find_one(content_hash="a")
        assert file is not None
        found = {name: file[name] for name in ("title", "year", "kept", "tags")}
        assert found == {"title": "B", "year": 2021, "kept": True, "tags": ["x"]}
        assert len(m.files) == 2


@on_folder
def test_of_two_publishers_who_add_one_document_the_later_wins_by_column(open_metadir: Open) -> None:
    one, other = open_metadir("one"), open_metadir("other")
    for m, name in ((one, "one"), (other, "other")):
        m.files.upsert({"content_hash": "a", "title": name, name: 1}, ["content_hash"])
    assert (one.push().revision, other.push().revision) == (1, 2)
    assert follow(one) == follow(other) == follow(open_metadir("client")) == {"a": "other"}
    file = one.files.find_one(content_hash="a")
    assert file is not None
    assert (file["one"], file["other"]) == (1, 1)


@on_folder
def test_a_column_that_two_publishers_began_with_different_kinds_loses_no_value(open_metadir: Open) -> None:
    one, other = open_metadir("one"), open_metadir("other")
    one.files.upsert({"content_hash": "a", "seen": True}, ["content_hash"])
    other.files.upsert({"content_hash": "b", "seen": "yes"}, ["content_hash"])
    one.push()
    other.push()
    client = open_metadir("client")
    follow(client)
    a, b = client.files.find_one(content_hash="a"), client.files.find_one(content_hash="b")
    assert a is not None
    assert b is not None
    assert (a["seen"], b["seen"]) == (True, "yes")


def test_the_loser_of_a_race_tries_the_next_revision(open_metadir: Open, remote: Remote) -> None:
    tapped = Tapped(remote)
    fast, slow = open_metadir("fast"), open_metadir("slow", remote=tapped)
    publish(fast, {"content_hash": "a"})

    def overtake(request: Request) -> None:
        """Publish as somebody else, between the other's last look and its commit."""
        if request == ("create", segment(2)):
            assert publish(fast, {"content_hash": "b"}) == 2

    tapped.before = overtake
    assert publish(slow, {"content_hash": "c"}) == 3
    assert [r for r in tapped.requests if r[0] == "create"] == [
        ("create", segment(2)),
        ("create", segment(3)),
    ]
    assert set(follow(open_metadir("client"))) == {"a", "b", "c"}


# --- store and settings


def test_store_values_and_settings_travel_in_the_segment_of_their_documents(
    open_metadir: Open, remote: Remote
) -> None:
    publisher, client = open_metadir("publisher"), open_metadir("client")
    publish(publisher, {"content_hash": "a"})
    client.pull()
    publisher.store["new_files"] = 17
    publisher.store["local_note"] = "mine"
    publisher.paths.config.write_text("metadata: {required: [title]}\n")
    assert publish(publisher, {"content_hash": "b"}) == 2
    header, *documents = gzip.decompress(content(remote, segment(2))).splitlines()
    line = json.loads(header)
    assert line["store"].keys() == {"new_files", "remote_last_updated"}
    assert (line["store"]["new_files"], line["config"]) == ("17", "metadata: {required: [title]}\n")
    assert json.loads(documents[0])["key"] == "b"
    assert content(remote, "_mmmeta/_store/new_files") == b"17"
    client.pull()
    assert client.store["new_files"] == 17
    assert client.config.required == ("title",)
    del publisher.store["new_files"]
    assert publisher.push().store_keys == 1
    assert "_mmmeta/_store/new_files" not in at_remote(remote)
    client.pull()
    assert "new_files" not in client.store


@on_folder
def test_a_client_keeps_its_own_store_values_and_settings(
    open_metadir: Open, caplog: pytest.LogCaptureFixture
) -> None:
    publisher, client = open_metadir("publisher"), open_metadir("client")
    publisher.store["colour"] = "red"
    publisher.paths.config.write_text("metadata: {required: [title]}\n")
    publish(publisher, {"content_hash": "a"})
    client.pull()
    client.store["colour"] = "blue"
    client.paths.config.write_text("metadata: {required: []}\n")
    publisher.store["colour"] = "green"
    publisher.paths.config.write_text("metadata: {required: [size]}\n")
    publisher.push()
    with caplog.at_level(logging.WARNING):
        client.pull()
    assert (client.store["colour"], client.config.required) == ("blue", ())
    assert "was changed here and is kept" in caplog.text


@on_folder
def test_remote_last_updated_is_always_the_publishers(open_metadir: Open) -> None:
    publisher, client = open_metadir("publisher"), open_metadir("client")
    client.touch("remote_last_updated")
    publish(publisher, {"content_hash": "a"})
    client.pull()
    assert client.store["remote_last_updated"] == publisher.store["remote_last_updated"]
    client.store["remote_last_updated"] = "tomorrow"
    publish(publisher, {"content_hash": "b"})
    client.pull()
    assert client.store["remote_last_updated"] == publisher.store["remote_last_updated"]


def test_nothing_private_reaches_the_remote(open_metadir: Open, remote: Remote, scrape: Scrape) -> None:
    path = scrape("one", title="One", file_name="one.txt")
    publisher, client = open_metadir("publisher", files_root=path.parent), open_metadir("client")
    for m in (publisher, client):
        m.store["local_note"] = "of this machine alone"
    publisher.store["public"] = 1
    publisher.paths.config.write_text("metadata: {}\n")
    publisher.sync()
    client.sync()
    for file in client.files.find():
        file["imported"] = True
        file.save()
    scrape("two", title="Two")
    publisher.sync()
    client.sync()
    names = at_remote(remote)
    assert {re.sub(r"\d{20}", "N", name) for name in names} == {
        *("_mmmeta/config.yml", "_mmmeta/head.json", "_mmmeta/log/N.jsonl.gz", "_mmmeta/meta.db"),
        *("_mmmeta/_store/public", "_mmmeta/_store/remote_last_updated"),
    }
    everything = b"".join(
        gzip.decompress(d) if n.endswith(".gz") else d for n in names if (d := content(remote, n))
    )
    assert not re.search(rb"of this machine|local_|imported|mmmeta_pending|__state", everything)


# --- snapshots


def text(n: int) -> str:
    """Return text that hardly compresses."""
    return hashlib.sha256(str(n).encode()).hexdigest() * 2


def big(m: Metadir, times: int = 1) -> None:
    """Publish so much that a snapshot is due."""
    for turn in range(times):
        publish(m, *({"content_hash": str(n), "title": f"{turn} {text(n + turn)}"} for n in range(300)))


def test_a_snapshot_is_written_when_due_and_a_new_client_takes_it(open_metadir: Open, remote: Remote) -> None:
    publisher = open_metadir("publisher")
    big(publisher)
    assert head(remote)["snapshot"]["revision"] == 1
    publish(publisher, {"content_hash": "0", "title": "small"})
    assert head(remote)["snapshot"]["revision"] == 1, "one small change does not make it due"
    big(publisher, 4)
    newest = head(remote)
    assert newest["snapshot"]["revision"] > 1
    client = open_metadir("client")
    came = client.pull()
    assert (came.snapshot, came.revision) == (True, newest["revision"])
    assert came.segments == newest["revision"] - newest["snapshot"]["revision"]
    client.update()
    assert titles(client) == titles(publisher)
    assert client.store["remote_last_updated"] == publisher.store["remote_last_updated"]


@on_folder
def test_the_snapshot_is_a_closed_database_without_pending_changes(
    open_metadir: Open, remote: Remote, tmp_path: Path
) -> None:
    publisher = open_metadir("publisher")
    publisher.pull()
    big(publisher)
    (tmp_path / "copy.db").write_bytes(content(remote, "_mmmeta/meta.db"))
    assert [n for n in at_remote(remote) if "meta.db" in n] == ["_mmmeta/meta.db"]
    with closing(sqlite3.connect(tmp_path / "copy.db")) as copy:
        assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert copy.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        assert copy.execute("SELECT count(*) FROM files").fetchone() == (300,)
        tables = {name for (name,) in copy.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert tables == {"files", "mmmeta_info", "mmmeta_columns", "mmmeta_store"}


@on_folder
def test_who_is_far_behind_takes_the_snapshot_and_keeps_what_waits(open_metadir: Open) -> None:
    publisher, other, client = open_metadir("publisher"), open_metadir("other"), open_metadir("client")
    publish(publisher, {"content_hash": "0", "title": "old", "year": 1}, {"content_hash": "x", "title": "X"})
    for m in (other, client):
        follow(m)
    file = client.files.find_one(content_hash="0")
    assert file is not None
    file["imported"] = True
    file.save()
    other.files.upsert({"content_hash": "0", "year": 2}, ["content_hash"])
    other.files.upsert({"content_hash": "mine", "colour": "red"}, ["content_hash"])
    other.files.delete(content_hash="x")
    publisher.store["new_files"] = 300
    publisher.paths.config.write_text("metadata: {required: [title]}\n")
    big(publisher, 5)
    assert other.pull().snapshot
    assert client.pull().snapshot
    assert (client.store["new_files"], client.config.required) == (300, ("title",))
    revision = other.push().revision
    header = gzip.decompress(content(other.remote or open_remote("."), segment(revision))).splitlines()[0]
    assert "config" not in json.loads(header), "settings of others are not published again"
    follow(client)
    found, mine = client.files.find_one(content_hash="0"), client.files.find_one(content_hash="mine")
    assert found is not None
    assert mine is not None
    assert (found["year"], found["imported"], found["title"][:2]) == (2, True, "4 ")
    assert mine["colour"] == "red"
    assert client.files.find_one(content_hash="x") is None
    assert len(client.files) == 301


@on_folder
@pytest.mark.parametrize("how", ["gone", "larger", "of the same size"])
def test_without_the_snapshot_that_head_names_the_log_is_read(
    open_metadir: Open, remote: Remote, how: str
) -> None:
    publisher = open_metadir("publisher")
    big(publisher, 5)
    snapshot = content(remote, "_mmmeta/meta.db")
    if how == "gone":
        remote.remove("_mmmeta/meta.db")
    else:
        remote.write("_mmmeta/meta.db", snapshot[:-1] + (b"xx" if how == "larger" else b"x"))
    client = open_metadir("client")
    came = client.pull()
    assert (came.snapshot, came.segments) == (False, 5)
    client.update()
    assert titles(client) == titles(publisher)


# --- the remote metadir is complete by itself


def test_a_copied_metadir_works_and_update_replays_newer_segments(
    open_metadir: Open, remote: Remote, tmp_path: Path
) -> None:
    publisher = open_metadir("publisher")
    publisher.store["new_files"] = 3
    for n in range(3):
        publish(publisher, {"content_hash": str(n), "title": str(n), f"column{n}": n})
    assert head(remote)["snapshot"]["revision"] < 3
    for name in at_remote(remote):
        path = tmp_path / "copied" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content(remote, name))
    shutil.copytree(tmp_path / "copied", tmp_path / "again")
    for name in ("copied", "again"):
        copy = open_metadir(name, remote=None)
        updated = copy.update()
        assert (updated.revision, updated.added) == (3, 3)
        assert titles(copy) == {"0": "0", "1": "1", "2": "2"}
        assert copy.store["new_files"] == 3
        assert copy.store["local_last_updated"] == publisher.store["remote_last_updated"]
        assert copy.update().added == 0
    publish(publisher, {"content_hash": "3"})
    assert set(follow(open_metadir("copied"))) == {"0", "1", "2", "3"}


def test_an_archive_is_published_where_it_lies(tmp_path: Path, scrape: Scrape) -> None:
    root = scrape("one", title="One").parent
    with mmmeta(root, files_root=root) as publisher, mmmeta(tmp_path / "client", remote=root) as client:
        publisher.generate()
        assert publisher.push().revision == 1
        assert follow(client) == {"one": "One"}
        scrape("two", title="Two")
        assert publisher.generate().added == 1
        publisher.store["new_files"] = 2
        publisher.push()
        assert follow(client) == {"one": "One", "two": "Two"}
        assert client.store["new_files"] == 2
        with mmmeta(root, files_root=root, remote=root) as same:
            same.sync()
            assert same.push().published is False
        shutil.copytree(root / "_mmmeta", tmp_path / "copy" / "_mmmeta")
        with mmmeta(tmp_path / "copy") as copy:
            copy.update()
            assert titles(copy) == {"one": "One", "two": "Two"}


def test_another_publisher_never_replaces_the_catalog_of_an_archive_that_is_published_where_it_lies(
    tmp_path: Path,
) -> None:
    home = tmp_path / "home"
    with mmmeta(home) as owner, mmmeta(tmp_path / "guest", remote=home) as guest:
        publish(owner, {"content_hash": "a", "title": "A"})
        owner.files.upsert({"content_hash": "waiting", "title": "W"}, ["content_hash"])
        guest.pull()
        big(guest, 2)
        owner.push()
        follow(guest)
        assert guest.files.find_one(content_hash="waiting") is not None
        assert len(guest.files) == 302


# --- what is wrong at the remote


@pytest.mark.parametrize(
    ("how", "revision"),
    [("missing", 2), ("cut", 2), ("foreign", 2), ("missing", 3), ("cut", 3), ("replaced", 3)],
)
def test_a_bad_segment_stops_there_and_all_goes_on_when_it_is_restored(
    open_metadir: Open, remote: Remote, how: str, revision: int
) -> None:
    publisher, client = open_metadir("publisher"), open_metadir("client")
    publish(publisher, {"content_hash": "1"})
    follow(client)
    for n in (2, 3):
        publisher.store["count"] = n
        publish(publisher, {"content_hash": str(n)})
    good = content(remote, segment(revision))
    spoil(remote, revision, how)
    before = tree(client.paths.store)
    for _ in range(2):
        with pytest.raises(LogError, match=re.escape(segment(revision))):
            client.pull()
        assert (client.revision, client.store.get("count")) == (revision - 1, None if revision == 2 else 2)
        assert len(tree(client.paths.store)) == len(before) + (revision - 2)
        client.update()
        assert set(titles(client)) == {str(n) for n in range(1, revision)}
    remote.write(segment(revision), good)
    assert set(follow(client)) == {"1", "2", "3"}
    assert client.store["count"] == 3
    assert publish(publisher, {"content_hash": "4"}) == 4


def spoil(remote: Remote, revision: int, how: str) -> None:
    good = content(remote, segment(revision))
    lines = gzip.decompress(good)
    archive = json.loads(lines.splitlines()[0])["archive"].encode()
    if how == "missing":
        remote.remove(segment(revision))
    elif how == "cut":
        remote.write(segment(revision), good[:-5])
    elif how == "foreign":
        remote.write(segment(revision), gzip.compress(lines.replace(archive, b"f" * 32)))
    else:
        remote.write(
            segment(revision), gzip.compress(lines.replace(b'"set":{', b'"set":{"__deleted_reason":"x",'))
        )


@on_folder
def test_a_segment_that_was_replaced_before_the_newest_is_noticed_with_the_next(
    open_metadir: Open, remote: Remote
) -> None:
    publisher, client = open_metadir("publisher"), open_metadir("client")
    for n in (1, 2, 3):
        publish(publisher, {"content_hash": str(n)})
    good = content(remote, segment(2))
    spoil(remote, 2, "replaced")
    with pytest.raises(LogError, match=f"{re.escape(segment(3))} .* an earlier segment was replaced"):
        client.pull()
    assert client.revision == 2
    remote.write(segment(2), good)
    client.paths.meta.unlink()
    assert set(follow(client)) == {"1", "2", "3"}


def test_a_damaged_head_is_named_and_a_push_writes_it_anew_when_it_is_removed(
    open_metadir: Open, remote: Remote
) -> None:
    publisher, client = open_metadir("publisher"), open_metadir("client")
    publish(publisher, {"content_hash": "a"})
    good = head(remote)
    remote.write("_mmmeta/head.json", b"{")
    for m in (publisher, client):
        with pytest.raises(LogError, match=r"head\.json is damaged"):
            m.pull()
    remote.remove("_mmmeta/head.json")
    assert publisher.push().published is False
    mended = head(remote)
    assert {k: mended[k] for k in ("archive", "revision", "digest")} == {
        k: good[k] for k in ("archive", "revision", "digest")
    }
    assert follow(client) == {"a": None}


@on_folder
def test_a_newer_head_is_refused(open_metadir: Open, remote: Remote) -> None:
    publish(open_metadir("publisher"), {"content_hash": "a"})
    remote.write("_mmmeta/head.json", b'{"format": 2}')
    client = open_metadir("client")
    with pytest.raises(LogError, match=r"head\.json has format 2, .* install a newer mmmeta"):
        client.pull()
    assert client.revision == 0


def test_a_remote_that_was_started_anew_is_noticed_at_once(
    open_metadir: Open, remote: Remote, tmp_path: Path
) -> None:
    publisher, client = open_metadir("publisher"), open_metadir("client")
    for n in "abc":
        publish(publisher, {"content_hash": n})
    assert set(follow(client)) == {"a", "b", "c"}
    for name in at_remote(remote):
        remote.remove(name)
    anew = open_metadir("anew")
    publish(anew, {"content_hash": "z"})
    for m in (client, publisher):
        with pytest.raises(LogError, match=r"another archive.* Move meta\.db away and pull again"):
            m.pull()
        assert m.revision == 3
    client.paths.meta.unlink()
    assert follow(client) == {"z": None}
    assert client.store["remote_last_updated"] == anew.store["remote_last_updated"]


@on_folder
def test_a_remote_that_was_set_back_is_noticed_and_no_gap_is_published(
    open_metadir: Open, remote: Remote
) -> None:
    publisher, client = open_metadir("publisher"), open_metadir("client")
    publish(publisher, {"content_hash": "a"})
    backup = {name: content(remote, name) for name in at_remote(remote)}
    publish(publisher, {"content_hash": "b"})
    follow(client)
    newest = content(remote, segment(2))
    remote.remove(segment(2))
    put_back(remote, backup)
    for do in (client.pull, publisher.push):
        with pytest.raises(LogError, match=f"{re.escape(segment(2))} is missing, .* set back"):
            do()
    remote.write(segment(2), newest)
    assert (client.pull().revision, publisher.push().published, head(remote)["revision"]) == (2, False, 2)
    remote.remove(segment(2))
    put_back(remote, backup)
    publish(open_metadir("other"), {"content_hash": "c"})
    with pytest.raises(LogError, match="replaced"):
        client.pull()
    assert set(titles(client)) == {"a", "b"}


def test_a_remote_that_was_set_back_and_went_on_otherwise_is_noticed_while_its_head_lags(
    open_metadir: Open, remote: Remote
) -> None:
    publisher, client = open_metadir("publisher"), open_metadir("client")
    publish(publisher, {"content_hash": "a"})
    backup = {name: content(remote, name) for name in at_remote(remote)}
    publish(publisher, {"content_hash": "b"})
    follow(client)
    remote.remove(segment(2))
    put_back(remote, backup)
    publish(open_metadir("other"), {"content_hash": "c"})
    remote.write("_mmmeta/head.json", backup["_mmmeta/head.json"])
    publisher.files.upsert({"content_hash": "d"}, ["content_hash"])
    for do in (client.pull, lambda: client.pull(probe=True), publisher.push):
        with pytest.raises(LogError, match=f"{re.escape(segment(2))} is another .* Move meta.db away"):
            do()
    assert segment(3) not in at_remote(remote)
    assert set(titles(client)) == {"a", "b"}
    client.paths.meta.unlink()
    assert set(follow(client)) == {"a", "c"}


def test_a_head_that_lags_costs_the_newest_segment_once(open_metadir: Open, remote: Remote) -> None:
    publisher = open_metadir("publisher")
    publish(publisher, {"content_hash": "a"})
    lagging = content(remote, "_mmmeta/head.json")
    publish(publisher, {"content_hash": "b"})
    tapped = Tapped(remote)
    client = open_metadir("client", remote=tapped)
    follow(client)
    remote.write("_mmmeta/head.json", lagging)
    fetched = []
    for _ in range(3):
        tapped.requests.clear()
        assert client.pull().unchanged
        fetched.append([name for verb, name in tapped.requests if verb == "fetch" and name == segment(2)])
    assert fetched == [[segment(2)], [], []]
    assert ("stat", segment(2)) in tapped.requests


@on_folder
def test_a_newest_segment_that_comes_damaged_once_is_ours_all_the_same(
    open_metadir: Open, remote: Remote
) -> None:
    publisher = open_metadir("publisher")
    publish(publisher, {"content_hash": "a"})
    lagging = content(remote, "_mmmeta/head.json")
    publish(publisher, {"content_hash": "b"})
    tapped = Tapped(remote)
    client = open_metadir("client", remote=tapped)
    follow(client)
    remote.write("_mmmeta/head.json", lagging)
    whole = content(remote, segment(2))
    comes = iter([whole[:-20], whole])
    tapped.before = lambda request: (
        put_back(remote, {segment(2): next(comes, whole)}) if request == ("fetch", segment(2)) else None
    )
    assert client.pull().unchanged
    assert next(comes, None) is None, "it was asked for twice"


@on_folder
def test_a_publisher_may_move_to_an_empty_remote(open_metadir: Open, tmp_path: Path) -> None:
    publisher = open_metadir("publisher")
    for n in "ab":
        publish(publisher, {"content_hash": n})
    (tmp_path / "elsewhere").mkdir()
    moved = open_metadir("publisher", remote=tmp_path / "elsewhere")
    assert publish(moved, {"content_hash": "c"}) == 3
    assert set(follow(open_metadir("client", remote=tmp_path / "elsewhere"))) == {"a", "b", "c"}


# --- lines that break


@pytest.mark.parametrize("what", ["head.json", "meta.db", "remote_last_updated", "config.yml"])
def test_a_publisher_that_is_cut_off_after_the_commit_mends_it_with_the_next_push(
    open_metadir: Open, remote: Remote, what: str
) -> None:
    publish(open_metadir("publisher"), {"content_hash": "a"})
    client, other = open_metadir("client"), open_metadir("other")
    follow(client)
    broken = Tapped(remote, breaks=lambda request: request[0] == "write" and request[1].endswith(what))
    cut_off = open_metadir("publisher", remote=broken)
    cut_off.paths.config.write_text("metadata: {required: [title]}\n")
    cut_off.files.upsert_many(
        [{"content_hash": str(n), "title": text(n)} for n in range(300)], ["content_hash"]
    )
    with pytest.raises(RemoteUnreachableError):
        cut_off.push()
    assert segment(2) in at_remote(remote)
    assert other.pull(probe=True).revision == 2, "the log is what counts"
    assert open_metadir("publisher").push().published is False
    assert head(remote)["revision"] == 2
    assert len(follow(client)) == 301
    assert client.poll().changed is False
    assert client.config.required == ("title",)


def test_a_publisher_whose_reply_is_lost_publishes_once(open_metadir: Open, remote: Remote) -> None:
    class LosesReply(Tapped):
        def create(self, name: str, source: Source) -> bool:
            super().create(name, source)
            raise RemoteUnreachableError("the reply was lost")

    publisher = open_metadir("publisher", remote=LosesReply(remote))
    assert publish(publisher, {"content_hash": "a"}) == 1
    assert publisher.push().published is False
    assert [n for n in at_remote(remote) if "/log/" in n] == [segment(1)]


@on_folder
def test_a_line_that_breaks_before_the_commit_leaves_all_waiting(open_metadir: Open, remote: Remote) -> None:
    broken = open_metadir("publisher", remote=Tapped(remote, breaks=lambda request: request[0] == "create"))
    broken.store["new_files"] = 1
    with pytest.raises(RemoteUnreachableError):
        publish(broken, {"content_hash": "a"})
    assert (at_remote(remote), broken.inspect().pending) == ([], 1)
    pushed = open_metadir("publisher").push()
    assert (pushed.revision, pushed.documents, pushed.store_keys) == (1, 1, 1)


@on_folder
def test_a_pull_that_breaks_off_has_whole_revisions_and_goes_on(open_metadir: Open, remote: Remote) -> None:
    publisher = open_metadir("publisher")
    for n in range(1, 4):
        publish(publisher, {"content_hash": str(n)})
    tapped = Tapped(remote, breaks=lambda request: request == ("fetch", segment(3)))
    client = open_metadir("client", remote=tapped)
    with pytest.raises(RemoteUnreachableError):
        client.pull()
    assert client.revision == 2
    tapped.breaks = lambda _: False
    assert (client.pull().segments, client.revision) == (1, 3)


@on_folder
@pytest.mark.parametrize("way", ["log", "snapshot"])
def test_store_and_settings_that_a_kill_left_half_taken_are_not_taken_for_changes_made_here(
    open_metadir: Open, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Else they would stay here for ever, and a publisher would publish them over newer ones."""
    monkeypatch.setattr(hints, "_SNAPSHOT_SEGMENTS", 1 if way == "snapshot" else 500)
    publisher, client = open_metadir("publisher"), open_metadir("client")
    title = "metadata: {{required: [title], types: {{year: {}}}}}\n"

    def say(number: int, kind: str) -> None:
        publisher.store["count"], publisher.store[f"only_{number}"] = number, number
        publisher.paths.config.write_text(title.format(kind))
        for _ in range(8 if way == "snapshot" else 1):
            publisher.store["filler"] = uuid4().hex
            publisher.push()
        publisher.store.pop(f"only_{number}")

    say(1, "integer")
    client.pull()
    say(2, "text")
    takes = [Replica.take_config, Replica.take_store]

    def dying(take: Callable[..., Any]) -> Callable[..., Any]:
        """Take, and die after the second of the two."""

        def wrapped(*arguments: Any) -> Any:
            took.append(take(*arguments))
            if len(took) == 2:
                raise KeyboardInterrupt
            return took[-1]

        return wrapped

    took: list[Any] = []
    with monkeypatch.context() as patched:
        for take in takes:
            patched.setattr(Replica, take.__name__, dying(take))
        with pytest.raises(KeyboardInterrupt):
            client.pull()
    assert (client.store["count"], client.paths.config.read_text()) == (2, title.format("text"))
    monkeypatch.setattr(hints, "_SNAPSHOT_SEGMENTS", 1)
    for number in range(3, 10):  # so that the one who was killed comes back by a snapshot
        say(number, "float")
    assert client.pull().snapshot
    assert (client.store["count"], client.paths.config.read_text()) == (9, title.format("float"))
    assert [key for key in client.store if key.startswith("only_")] == ["only_9"]
    assert client.push().published is False
    assert client.verify().findings == ()


# --- clocks


@on_folder
def test_order_is_by_revision_whatever_the_publishers_clock_says(
    open_metadir: Open, remote: Remote, tmp_path: Path
) -> None:
    """The other publisher's clock is hours ahead, so the store holds a time that this one's clock never reaches."""
    publisher, client = open_metadir("publisher"), open_metadir("client")
    publish(publisher, {"content_hash": "a", "title": "first"})
    ahead = datetime.now(UTC) + timedelta(hours=5)
    with closing(sqlite3.connect(publisher.paths.meta)) as catalog, catalog:
        catalog.execute(
            "UPDATE mmmeta_store SET value = ? WHERE key = 'remote_last_updated'", (ahead.isoformat(),)
        )
    seen = []
    for title in ("second", "third"):
        publish(publisher, {"content_hash": "a", "title": title})
        assert client.poll().changed
        assert follow(client) == {"a": title}
        assert client.poll().changed is False
        seen.append(client.store["remote_last_updated"])
        assert client.store["local_last_updated"] == seen[-1]
    assert ahead < seen[0] < seen[1] < ahead + timedelta(seconds=1)


# --- the server's three situations


@on_folder
def test_a_server_with_metadata_files_on_disk(open_metadir: Open, scrape: Scrape) -> None:
    root = scrape("a", title="A").parent
    publisher = open_metadir("publisher", files_root=root)
    publisher.pull()
    assert (publisher.generate().added, publisher.push().documents) == (1, 1)
    scrape("a", title="B")
    scrape("b", title="B")
    publisher.pull()
    generated = publisher.generate()
    assert (generated.added, generated.updated, publisher.push().revision) == (1, 1, 2)
    assert follow(open_metadir("client")) == {"a": "B", "b": "B"}


def test_a_server_that_has_only_the_newest_files_keeps_what_is_published(
    open_metadir: Open, scrape: Scrape, tmp_path: Path
) -> None:
    old = scrape("old", title="Old", year=1999)
    with open_metadir("publisher", files_root=old.parent) as publisher:
        publisher.sync()
    old.unlink()
    scrape("new", title="New")
    shutil.rmtree(tmp_path / "publisher")
    server = open_metadir("publisher", files_root=old.parent)
    server.pull()
    generated = server.generate()
    assert (generated.added, generated.deleted) == (1, 0)
    assert server.push().documents == 1
    assert follow(open_metadir("client")) == {"old": "Old", "new": "New"}


@on_folder
def test_a_server_without_any_files_publishes_rows(open_metadir: Open) -> None:
    server, client = open_metadir("publisher"), open_metadir("client")
    server.pull()
    server.files.insert(content_hash="a", title="A")
    server.files.upsert_many([{"content_hash": "a", "title": "AA"}, {"content_hash": "b"}], ["content_hash"])
    assert server.push().documents == 2
    assert follow(client) == {"a": "AA", "b": None}
    server.files.delete(content_hash="b")
    server.push()
    assert follow(client) == {"a": "AA"}
    server.files.insert(content_hash="b", title="back")
    server.push()
    assert follow(client) == {"a": "AA", "b": "back"}


# --- poll, sync, inspect


def test_poll_tells_of_a_publish_until_it_is_merged(open_metadir: Open) -> None:
    publisher, client = open_metadir("publisher"), open_metadir("client")
    nothing = client.poll()
    assert (nothing.remote, nothing.handled, nothing.changed) == (None, None, False)
    publisher.store["new_files"] = 17
    publish(publisher, {"content_hash": "a"})
    for step in (lambda: None, client.pull):
        step()
        polled = client.poll()
        assert (polled.remote, polled.handled) == (publisher.store["remote_last_updated"], None)
        assert polled.changed
    client.update()
    assert client.poll().handled == client.poll().remote
    assert client.poll().changed is False
    assert (client.poll("new_files").remote, client.poll("new_files").changed) == (17, False)


def test_sync_does_what_the_role_needs(open_metadir: Open, scrape: Scrape) -> None:
    root = scrape("a", title="A").parent
    publisher, client, rows = (
        open_metadir("publisher", files_root=root),
        open_metadir("client"),
        open_metadir("rows"),
    )
    done = publisher.sync()
    assert (done.pulled is None, done.generated is None, done.pushed is None) == (False, False, False)
    assert done.updated.added == 1
    done = client.sync()
    assert (done.generated, done.pushed, done.updated.added) == (None, None, 1)
    rows.files.upsert({"content_hash": "b", "title": "B"}, ["content_hash"])
    done = rows.sync()
    assert done.pushed is not None
    assert (done.pushed.revision, done.generated) == (2, None)
    for m in (publisher, client, rows):
        m.sync()
        assert titles(m) == {"a": "A", "b": "B"}
        assert m.sync().updated.added == 0


@on_folder
def test_inspect_says_where_a_metadir_stands(open_metadir: Open, scrape: Scrape) -> None:
    root = scrape("a", title="A", size=3).parent
    (root / "broken.json").write_text("{")
    publisher = open_metadir("publisher", files_root=root)
    publisher.pull()
    publisher.generate()
    before = publisher.inspect()
    assert (before.files, before.invalid, before.pending, before.revision, before.state_revision) == (
        1,
        1,
        1,
        0,
        0,
    )
    assert (before.remote_last_updated, before.local_last_updated, before.unique) == (
        None,
        None,
        "content_hash",
    )
    publisher.push()
    publisher.update()
    after = publisher.inspect()
    assert (after.pending, after.revision, after.state_revision) == (0, 1, 1)
    assert after.remote_last_updated == after.local_last_updated == publisher.store["remote_last_updated"]
    assert after.columns == {"size": "integer", "title": "text"}
    assert (after.path, after.remote) == (str(publisher.path), publisher.remote and publisher.remote.url)


@pytest.mark.parametrize("store", ["ignores conditions", "refuses what is not there"])
def test_a_store_that_cannot_keep_publishers_apart_is_refused(
    tmp_path: Path, s3_endpoint: str, bucket: str, monkeypatch: pytest.MonkeyPatch, store: str
) -> None:
    def lie(request: Sent) -> Fault:
        if request.headers.get("If-None-Match") == "*":
            if store == "refuses what is not there":
                return Refuse(412, "PreconditionFailed")
            del request.headers["If-None-Match"]
        return None

    with running(s3_endpoint) as proxy:
        proxy.before = lie
        url = f"s3://{bucket}/archive?endpoint={proxy.url}"
        with mmmeta(tmp_path / "publisher", remote=url) as publisher:
            publisher.files.insert(content_hash="a")
            with pytest.raises(RemoteError, match="does not keep conditional writes"):
                publisher.push()
            assert publisher.inspect().pending == 1
            assert publisher.remote is not None
            assert list(publisher.remote.names("")) == [], "nothing was published or left there"
            if store == "ignores conditions":
                monkeypatch.setenv("MMMETA_SINGLE_PUBLISHER", "1")
                assert publisher.push().revision == 1


def test_a_store_is_tried_out_once(tmp_path: Path, s3_endpoint: str, bucket: str) -> None:
    with running(s3_endpoint) as proxy:
        url = f"s3://{bucket}/archive?endpoint={proxy.url}"
        with mmmeta(tmp_path / "publisher", remote=url) as publisher:
            for number in range(2):
                publisher.files.insert(content_hash=f"d{number}")
                publisher.push()
    probes = [request.method for request in proxy.seen if ".probe" in request.path]
    assert probes == ["PUT", "PUT", "DELETE"]
