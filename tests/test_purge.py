"""What is left of a document that was purged: at the remote, at publishers, at clients, wherever they stand."""

from __future__ import annotations

import gzip
import json
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from remotes.static import serving
from shell import mmmeta as shell
from test_history import Open, doc, on_folder, open_metadir, remote
from test_prune import STEPS, log_of
from test_sync import Tapped, content, follow, publish, titles

from mmmeta_core import (
    ConfigError,
    DocumentError,
    LogError,
    Metadir,
    RemoteDeniedError,
    RemoteUnreachableError,
    mmmeta,
)
from mmmeta_core.database.sqlite_state import SqliteState
from mmmeta_core.remotes import Remote, open_remote

_ = (remote, open_metadir)  # the fixtures

MARK = "Zauberwort"
SECRET: dict[str, Any] = {
    "title": f"about {MARK}",
    "tags": [MARK, "x"],
    "publisher": {"name": f"{MARK} Ltd"},
    "__odd": MARK,
    "text": f"{MARK} " * 3000,
}
REASON = "court order 7/26"


def traces(named: Iterator[tuple[str, bytes]]) -> list[str]:
    """Return the names of what holds the mark."""
    found = []
    for name, data in named:
        unpacked = b""
        with suppress(gzip.BadGzipFile):
            unpacked = gzip.decompress(data)
        if MARK.encode() in data + unpacked:
            found.append(name)
    return found


def in_folder(folder: Path) -> list[str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return traces((path.name, path.read_bytes()) for path in files)


def at(remote: Remote) -> list[str]:
    return traces((name, content(remote, name)) for name in remote.names(""))


def tombstone(m: Metadir, key: str | int = "bad") -> dict[str, Any]:
    file = m.files.get(key)
    assert file is not None
    hidden = ("__meta_", "__state_", "__deleted_at")
    return {n: v for n, v in file.items() if v is not None and not n.startswith(hidden)}


GONE = {"content_hash": "bad", "__deleted_reason": "purged"}


def test_no_byte_is_left_anywhere(open_metadir: Open, remote: Remote, tmp_path: Path) -> None:
    publisher, client = open_metadir("publisher"), open_metadir("client")
    publish(publisher, doc("good", title="stays"), doc("bad", **SECRET))
    client.sync()
    client.files.as_of(1)
    (file,) = client.files.find(content_hash="bad")
    file["imported"] = True
    file.save()
    for number in range(3):
        publish(publisher, doc("good", title=f"stays {number}"), doc("bad", title=f"{MARK} {number}"))
    client.sync()
    (client.paths.root / "log").mkdir()
    (client.paths.root / "log/00000000000000000001.jsonl.gz").write_bytes(
        content(remote, "_mmmeta/log/00000000000000000001.jsonl.gz")
    )
    list(publisher.files.find())
    publish(publisher, doc("good", title="after"))
    assert at(remote)
    assert in_folder(publisher.paths.root)
    assert {"meta.db", "state.db"} <= {name.removesuffix("-wal") for name in in_folder(client.paths.root)}

    result = publisher.purge(["bad"], reason=REASON)
    assert (result.documents, result.revision, result.segments, result.first) == (1, 6, 4, 5)
    assert at(remote) == in_folder(publisher.paths.root) == []
    assert log_of(remote) == [5, 6]

    updated = client.sync().updated
    assert (updated.deleted, updated.updated, updated.revision) == (1, 1, 6)
    assert in_folder(client.paths.root) == []
    assert not client.paths.past.exists()
    for path in (client.paths.meta, client.paths.state, publisher.paths.meta, publisher.paths.state):
        with closing(sqlite3.connect(path)) as database:
            assert database.execute("PRAGMA freelist_count").fetchone() == (0,), f"{path} was rewritten"
    assert tombstone(client) == {**GONE, "imported": True}
    assert titles(client) == {"good": "after"}
    assert follow(open_metadir("new")) == {"good": "after"}
    newest = next(client.log())
    assert (newest.note, newest.deleted) == (REASON, 1)
    assert [touch.what for touch in client.log(key="bad")] == ["purged"]
    with pytest.raises(LogError, match="was pruned"):
        client.files.as_of(4)

    again = publisher.purge(["bad"], reason=REASON)
    assert (again.documents, again.revision, again.segments) == (0, 6, 0)


@on_folder
def test_clients_wherever_they_stand(open_metadir: Open, remote: Remote) -> None:
    publisher = open_metadir("publisher")
    clients = {name: open_metadir(name) for name in ("first", "second", "newest")}
    publish(publisher, doc("good", title="1"), doc("bad", title=MARK))
    clients["first"].sync()
    publish(publisher, doc("bad", title=MARK, more=MARK), doc("other", title="2"))
    clients["second"].sync()
    publish(publisher, doc("good", title="3"))
    clients["newest"].sync()
    publisher.purge(["bad"], reason=REASON)
    assert log_of(remote) == [3, 4]
    for name, client in clients.items():
        assert in_folder(client.paths.root), name
        pulled = client.pull()
        assert pulled.revision == 4
        client.update()
        assert in_folder(client.paths.root) == [], name
        assert (titles(client), tombstone(client)) == ({"good": "3", "other": "2"}, GONE)
    for number, (name, client) in enumerate(clients.items()):
        assert publish(client, doc("more", title=name)) == 5 + number


@on_folder
def test_what_another_publisher_had_waiting_goes_with_it(open_metadir: Open, remote: Remote) -> None:
    one, late, far = open_metadir("one"), open_metadir("late"), open_metadir("far")
    publish(one, doc("bad", title=MARK), doc("good", title="G"))
    publish(one, doc("bad", pages=3))
    for other in (late, far):
        other.sync()
        other.files.upsert(doc("bad", title=f"{MARK} mine", extra=MARK))
        other.files.upsert(doc("good", pages=1 if other is late else 2))
    publish(one, doc("good", title="G2"))
    one.purge(["bad"], reason=REASON)
    far.close()
    for other in (late, far):
        assert other.sync().updated.deleted == 1
        assert in_folder(other.paths.root) == []
        assert tombstone(other) == GONE
    assert at(remote) == []
    assert tombstone(open_metadir("new2").sync() and open_metadir("new2")) == GONE


@on_folder
@pytest.mark.parametrize(
    "change", [{"title": f"{MARK} 2"}, {"title": "x", "fresh": MARK}], ids=["old column", "new"]
)
def test_a_change_that_was_published_at_the_same_time_is_purged_too(
    open_metadir: Open, remote: Remote, tmp_path: Path, change: dict[str, Any]
) -> None:
    other = open_metadir("other")
    publish(other, doc("bad", title=MARK))
    tapped = Tapped(remote)
    raced: list[Any] = []

    def race(request: tuple[str, str]) -> None:
        if request[0] == "create" and not raced:
            raced.append(request)
            publish(other, doc("bad", **change))
            publish(other, doc("good", title="G"))

    tapped.before = race
    with mmmeta(tmp_path / "m", remote=tapped) as m:
        m.pull()
        m.purge(["bad"], reason=REASON)
        assert raced
        assert tombstone(m) == GONE
        assert in_folder(m.paths.root) == []
    assert at(remote) == []
    assert follow(other) == {"good": "G"}
    assert in_folder(other.paths.root) == []


@on_folder
def test_generate_and_push_do_not_bring_it_back(open_metadir: Open, remote: Remote, scrape: Any) -> None:
    root = scrape("bad", title=MARK, file_name="bad.txt").parent
    scrape("good", title="G", file_name="good.txt")
    for name in ("good", "bad"):
        (root / f"{name}.txt").write_text(f"{MARK if name == 'bad' else 'fine'}")
    m = open_metadir("m", files_root=root)
    m.paths.root.mkdir(parents=True)
    m.paths.config.write_text("metadata:\n  digest: none\n")
    m.generate()
    assert m.push(files=True).files.uploaded == 4  # type: ignore[union-attr]
    assert sorted(at(remote))[-2:] == ["bad.json", "bad.txt"]
    told = m.purge(["bad"], reason=REASON, files=True, dry_run=True)
    assert (told.files, told.left, told.dry_run) == (("bad.txt", "bad.json"), (str(root / "bad.json"),), True)
    assert len(at(remote)) > 2
    result = m.purge(["bad"], reason=REASON, files=True)
    assert (result.files, result.left) == (told.files, told.left)
    assert at(remote) == []

    for again in range(3):
        if again == 1:
            scrape("bad", title=f"{MARK} again", file_name="bad.txt", fresh=MARK)
        if again == 2:
            scrape("copy", content_hash="bad", title=f"{MARK} copied")
        generated = m.generate()
        assert (generated.purged, generated.added, generated.updated, generated.pending) == (1, 0, 0, 0)
        assert not m.push(files=True).published
    m.update()
    assert in_folder(m.paths.root) == at(remote) == []
    assert (titles(m), tombstone(m)) == ({"good": "G"}, GONE)
    assert m.generate(ensure=True, ensure_files=True).restored == 0


@on_folder
def test_publishing_from_python_does_not_bring_it_back(open_metadir: Open, caplog: Any) -> None:
    m = open_metadir("m")
    publish(m, doc("bad", title=MARK), doc("good", title="G"))
    m.purge(["bad"], reason=REASON)
    m.files.upsert_many([doc("bad", title=MARK), doc("good", title="G2")])
    assert "'bad' was purged and stays so" in caplog.text
    m.files.update(doc("bad", title=MARK), ["content_hash"])
    assert m.files.insert_ignore(doc("bad", title=MARK), ["content_hash"]) is False
    with pytest.raises(DocumentError, match="was purged"):
        m.files.insert(doc("bad", title=MARK))
    assert m.inspect().pending == 1
    assert (titles(m), tombstone(m)) == ({"good": "G2"}, GONE)


def test_files_that_others_need_stay(open_metadir: Open, remote: Remote) -> None:
    m = open_metadir("m")
    remote.write("shared.txt", b"both")
    remote.write("mine.pdf", b"one")
    remote.write("mine.json", json.dumps({"content_hash": "somebody else"}).encode())
    remote.write("mine.pdf.json", json.dumps({"content_hash": "own", "title": MARK}).encode())
    publish(
        m,
        doc("a", file_name="shared.txt"),
        doc("b", file_name="shared.txt"),
        doc("own", file_name="mine.pdf"),
    )
    publish(m, doc("odd", file_name="../outside"), doc("meta", file_name="_mmmeta/head.json"), doc("none"))
    result = m.purge(["a", "own", "odd", "meta", "none"], reason=REASON, files=True)
    assert result.files == ("mine.pdf", "mine.pdf.json")
    left = [name for name in remote.names("") if not name.startswith("_mmmeta/")]
    assert left == ["mine.json", "shared.txt"]
    assert m.purge(["b"], reason=REASON, files=True).files == ("shared.txt",)
    assert open_metadir("new").pull().revision == m.revision


@on_folder
def test_what_a_client_did_with_it(open_metadir: Open, remote: Remote, tmp_path: Path, caplog: Any) -> None:
    publisher, client = open_metadir("publisher"), open_metadir("client")
    remote.write("f.txt", b"x")
    publish(publisher, doc("bad", title=MARK, file_name="f.txt"), doc("worse", title=MARK))
    client.sync()
    client.download(tmp_path / "pdfs", content_hash="bad")

    def handle(file: Any) -> None:
        if file.key == "worse":
            raise ValueError(file["title"])

    client.files.process(handle)
    publisher.purge(["bad", "worse"], reason=REASON)
    client.sync()
    assert in_folder(client.paths.root) == []
    assert (tmp_path / "pdfs/f.txt").exists()
    assert f"{tmp_path / 'pdfs/f.txt'} is here of a document that the publisher purged" in caplog.text
    undone: list[Any] = []
    result = client.files.process(lambda file: undone.append(dict(file)), mark="downloaded", on="deleted")
    assert (result.processed, undone[0]["content_hash"]) == (1, "bad")
    assert undone[0]["downloaded_path"] == "f.txt"


@on_folder
def test_what_is_known_to_be_purged_is_not_shown_again_from_an_old_log(
    open_metadir: Open, remote: Remote, tmp_path: Path
) -> None:
    publisher, client = open_metadir("publisher"), open_metadir("client")
    publish(publisher, doc("bad", **SECRET), doc("good", title="G"))
    client.sync()
    publish(publisher, doc("good", title="G2"))
    tapped = Tapped(remote, lambda request: request[0] == "remove")
    with mmmeta(publisher.path, remote=tapped) as m, pytest.raises(RemoteUnreachableError):
        m.purge(["bad"], reason=REASON)
    assert len(at(remote)) == 1, "the first segment"
    client.sync()
    then = client.files.as_of(1)
    assert [file["title"] for file in then.find()] == ["G"]
    (bad,) = then.find(deleted=True)
    assert (bad["title"], bad["__deleted_reason"]) == (None, "purged")
    assert [change.key for change in client.diff(1, 2)] == ["good"]
    client.close()
    assert in_folder(client.paths.root) == []
    publisher.purge(["bad"], reason=REASON)
    assert at(remote) == []


@on_folder
def test_a_state_db_that_is_in_use_is_rewritten_later(open_metadir: Open, caplog: Any) -> None:
    publisher, client = open_metadir("publisher"), open_metadir("client")
    publish(publisher, doc("bad", **SECRET), *(doc(f"d{n}", title="x") for n in range(50)))
    client.sync()
    publisher.purge(["bad"], reason=REASON)
    reader = SqliteState(client.paths.state, "content_hash")
    rows = reader.connection.execute("SELECT * FROM files")
    rows.fetchone()
    client.sync()
    assert "the next update removes them" in caplog.text
    assert in_folder(client.paths.root)
    rows.close()
    reader.close()
    client.sync()
    assert in_folder(client.paths.root) == []


def test_an_archive_that_lies_where_it_is_published(tmp_path: Path) -> None:
    base = tmp_path / "archive"
    with mmmeta(base) as m, mmmeta(tmp_path / "client", remote=base) as client:
        publish(m, doc("bad", **SECRET), doc("good", title="G"))
        client.sync()
        publish(m, doc("bad", title=f"{MARK} 2"))
        result = m.purge(["bad"], reason=REASON)
        assert (result.segments, result.revision) == (2, 3)
        assert in_folder(base) == []
        assert log_of(open_remote(base)) == [3]
        assert follow(client) == {"good": "G"}
        assert in_folder(tmp_path / "client") == []
        with mmmeta(tmp_path / "new", remote=base) as new:
            assert follow(new) == {"good": "G"}
        assert publish(m, doc("later", title="L")) == 4
        assert follow(client) == {"good": "G", "later": "L"}
        shutil.copytree(base, tmp_path / "copy")
    with mmmeta(tmp_path / "copy") as copy:
        copy.update()
        assert titles(copy) == {"good": "G", "later": "L"}


@on_folder
def test_what_can_not_be_purged(open_metadir: Open, remote: Remote, tmp_path: Path) -> None:
    m = open_metadir("m")
    publish(m, doc("bad", title=MARK), doc(7, title="seven"))
    for keys, reason in (([], REASON), (["bad"], " ")):
        with pytest.raises(ConfigError, match="which documents and for what reason"):
            m.purge(keys, reason=reason)
    with pytest.raises(DocumentError, match="there is no document with content_hash 'nowhere', '7'"):
        m.purge(["bad", "nowhere", "7"], reason=REASON)
    assert (m.revision, titles(m)) == (1, {"bad": MARK, 7: "seven"})
    assert m.purge([["7", 7]], reason=REASON).documents == 1
    (tmp_path / "site").mkdir()
    with mmmeta(tmp_path / "p", remote=tmp_path / "site") as p:
        publish(p, doc("bad"))
    with serving(tmp_path / "site") as site, mmmeta(tmp_path / "c", remote=site.url) as client:
        with pytest.raises(RemoteDeniedError, match="read only"):
            client.purge(["bad"], reason=REASON)
        assert follow(client) == {"bad": None}


KILLED = """
import os, signal, sys
from mmmeta_core import mmmeta
from mmmeta_core.remotes import LocalRemote
class Deadly(LocalRemote):
    left = int(sys.argv[3])
    def step(self):
        type(self).left -= 1
        if self.left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
    def remove(self, name):
        self.step()
        super().remove(name)
    def create(self, name, source):
        self.step()
        created = super().create(name, source)
        self.step()
        return created
    def write(self, name, source, *, if_match=None):
        self.step()
        return super().write(name, source, if_match=if_match)
with mmmeta(sys.argv[1], remote=Deadly(sys.argv[2])) as m:
    m.purge(["bad"], reason="r", files=True)
"""


def test_a_killed_purge_is_finished_by_the_next(tmp_path: Path) -> None:
    original = tmp_path / "original"
    original.mkdir()
    (original / "bad.txt").write_text(MARK)
    with mmmeta(tmp_path / "publisher", remote=original) as m:
        publish(m, doc("bad", file_name="bad.txt", **SECRET), doc("good", title="G"))
        publish(m, doc("bad", title=f"{MARK} 2"))
        publish(m, doc("good", title="G2"))
    for steps in STEPS or count():
        base = tmp_path / f"step{steps}"
        shutil.copytree(original, base / "remote")
        shutil.copytree(tmp_path / "publisher", base / "m")
        code = [sys.executable, "-c", KILLED, str(base / "m"), str(base / "remote"), str(steps)]
        killed = subprocess.run(code, capture_output=True, text=True)
        with mmmeta(base / "early", remote=base / "remote") as early:
            assert follow(early)["good"] == "G2"
        if killed.returncode == 0:
            assert steps > 8
            break
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        # On every other machine than the first, too.
        again = base / ("m" if steps % 2 else "elsewhere")
        with mmmeta(again, remote=base / "remote") as m:
            m.purge(["bad"], reason="r", files=True)
            assert tombstone(m) == GONE
        assert in_folder(base / "remote") == in_folder(again) == []
        assert log_of(open_remote(base / "remote")) == [3, 4]
        with mmmeta(base / "early", remote=base / "remote") as early:
            assert follow(early) == {"good": "G2"}
            assert in_folder(base / "early") == []


@on_folder
def test_the_command(open_metadir: Open, remote: Remote, tmp_path: Path, remote_url: str) -> None:
    publish(open_metadir("publisher"), doc("bad", title=MARK), doc(7, title=MARK))

    def run(*arguments: str) -> Any:
        return shell("--metadir", "m", "--remote", remote_url, "-q", "purge", *arguments, cwd=tmp_path)

    missing = run("bad", "worse", "--reason", "r")
    assert (missing.returncode, missing.stdout) == (1, "")
    assert "there is no document with content_hash 'worse'" in missing.stderr
    assert at(remote)
    done = run("bad", "7", "--reason", "r", "--json")
    assert json.loads(done.stdout)["documents"] == 2, done.stderr
    assert at(remote) == in_folder(tmp_path / "m") == []
