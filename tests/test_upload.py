"""Upload: `push(files=True)` brings what the archive lacks before the catalog names it, once, and nothing from outside."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from mmmeta_core import ConfigError, Metadir, RemoteError, mmmeta
from mmmeta_core.database.scan import Uploaded, open_scan
from mmmeta_core.remotes import Blob, Remote, Stat, open_remote
from mmmeta_core.remotes.base import READ_LIMIT, Source


class Counting(Remote):
    """A real remote, and what was asked of it: method and name, in order."""

    def __init__(self, url: str, fail: str = "") -> None:
        self.real = open_remote(url)
        self.url = self.real.url
        self.fail = fail
        self.asked: list[tuple[str, str]] = []
        self._lock = threading.Lock()

    def note(self, method: str, name: str = "") -> Remote:
        with self._lock:
            self.asked.append((method, name))
        if self.fail and name.endswith(self.fail):
            raise RemoteError(f"no room for {name}")
        return self.real

    @property
    def identity(self) -> str:
        return self.real.identity

    def check(self) -> None:
        self.note("check").check()

    def read(self, name: str, *, etag: str | None = None, limit: int = READ_LIMIT) -> Blob | None:
        return self.note("read", name).read(name, etag=etag, limit=limit)

    def fetch(self, name: str, path: Path, *, limit: int | None = None) -> int:
        return self.note("fetch", name).fetch(name, path, limit=limit)

    def create(self, name: str, source: Source) -> bool:
        return self.note("create", name).create(name, source)

    def write(self, name: str, source: Source, *, if_match: str | None = None) -> str | None:
        return self.note("write", name).write(name, source, if_match=if_match)

    def names(self, prefix: str) -> Iterator[str]:
        return self.note("names", prefix).names(prefix)

    def stat(self, name: str) -> Stat | None:
        return self.note("stat", name).stat(name)

    def remove(self, name: str) -> None:
        self.note("remove", name).remove(name)

    def documents(self, *methods: str) -> list[str]:
        """What was asked of files outside of the metadir."""
        return sorted(
            n for m, n in self.asked if not n.startswith("_mmmeta") and (not methods or m in methods)
        )


class Publisher:
    """A folder of documents with metadata files, and what there is in the archive."""

    def __init__(self, base: Path, url: str) -> None:
        self.root = base / "documents"
        self.root.mkdir(parents=True)
        self.base = base
        self.url = url

    def add(self, name: str, content: str | None = None, *, beside: bool = False, **values: Any) -> str:
        """Write a document (none without content) with its metadata file, and return its key."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is not None:
            path.write_text(content)
        key = hashlib.sha256((content or name).encode()).hexdigest()
        document = {"content_hash": key, "file_name": path.name if beside else name, **values}
        path.with_name(path.name + ".json").write_text(json.dumps(document))
        return str(document["content_hash"])

    def open(self, remote: Remote | str | None = None, **options: Any) -> Metadir:
        return mmmeta(self.base / "publisher", files_root=self.root, remote=remote or self.url, **options)

    def push(self, remote: Remote | str | None = None, *, files: bool = True) -> Any:
        with self.open(remote) as m:
            m.generate()
            return m.push(files=files)

    def archive(self) -> dict[str, bytes]:
        remote = open_remote(self.url)
        names = [name for name in remote.names("") if not name.startswith("_mmmeta")]
        blobs = {name: remote.read(name) for name in names}
        return {name: blob.data for name, blob in blobs.items() if blob is not None}


@pytest.fixture
def publisher(tmp_path: Path, remote_url: str) -> Publisher:
    return Publisher(tmp_path, remote_url)


@pytest.fixture
def here(tmp_path: Path) -> Publisher:
    """A publisher to a folder, for what does not depend on the kind of remote."""
    (tmp_path / "remote").mkdir()
    return Publisher(tmp_path, str(tmp_path / "remote"))


def counts(result: Any) -> tuple[int, int, int, int]:
    files = result.files
    return files.uploaded, files.present, files.missing, files.failed


def test_documents_are_there_before_the_catalog_that_names_them(publisher: Publisher) -> None:
    publisher.add("a.txt", "alpha")
    publisher.add("deep/er/ü b.txt", "beta")
    remote = Counting(publisher.url)
    result = publisher.push(remote)
    assert counts(result) == (4, 0, 0, 0)
    assert (result.revision, result.files.bytes) == (1, sum(map(len, publisher.archive().values())))
    assert {name: data.decode() for name, data in publisher.archive().items() if name.endswith(".txt")} == {
        "a.txt": "alpha",
        "deep/er/ü b.txt": "beta",
    }
    commit = next(n for n, (method, name) in enumerate(remote.asked) if name.startswith("_mmmeta/log/"))
    written = {n for n, (method, name) in enumerate(remote.asked) if name in publisher.archive()}
    assert max(written) < commit
    with mmmeta(publisher.base / "client", remote=publisher.url) as client:
        client.sync()
        assert client.download(publisher.base / "downloads").downloaded == 2
    assert (publisher.base / "downloads" / "deep" / "er" / "ü b.txt").read_text() == "beta"


def test_each_small_file_is_one_request(here: Publisher) -> None:
    for number in range(3):
        here.add(f"{number}.txt", str(number))
    here.add("large.bin", "x" * 300_000)
    remote = Counting(here.url)
    assert counts(here.push(remote)) == (8, 0, 0, 0)
    assert remote.documents("create") == ["0.txt", "1.txt", "2.txt"]
    assert remote.documents("write") == [
        *(f"{number}.txt.json" for number in range(3)),
        "large.bin",
        "large.bin.json",
    ]
    assert remote.documents("stat") == ["large.bin"], "what is large is asked for before it is sent"
    assert len(list(filter(None, remote.documents()))) == 9


def test_a_document_that_others_brought_is_not_written_again(here: Publisher) -> None:
    here.add("a.txt", "alpha")
    here.add("b.txt", "beta")
    remote = open_remote(here.url)
    remote.write("a.txt", b"alpha")
    remote.write("b.txt", b"of another size")
    etag = remote.stat("a.txt")
    assert counts(here.push()) == (3, 1, 0, 0)
    assert remote.stat("a.txt") == etag
    assert here.archive()["b.txt"] == b"beta"


def test_a_file_that_is_written_to_meanwhile_is_not_taken_for_uploaded(here: Publisher) -> None:
    class Growing(Counting):
        def write(self, name: str, source: Source, *, if_match: str | None = None) -> str | None:
            etag = super().write(name, source, if_match=if_match)
            if name == "a.txt.json" and isinstance(source, Path):
                source.write_text(source.read_text() + " ")
            return etag

    here.add("a.txt", "alpha")
    assert counts(here.push(Growing(here.url))) == (1, 0, 0, 1)
    assert counts(here.push()) == (1, 1, 0, 0)


def test_without_being_asked_for_nothing_is_uploaded(here: Publisher) -> None:
    here.add("a.txt", "alpha")
    assert here.push(files=False).files is None
    assert here.archive() == {}
    assert counts(here.push()) == (2, 0, 0, 0)


def test_a_second_push_uploads_nothing_and_asks_nothing(publisher: Publisher) -> None:
    publisher.add("a.txt", "alpha")
    publisher.add("gone.txt")
    open_remote(publisher.url).write("gone.txt", b"kept in the archive alone")
    assert counts(publisher.push()) == (3, 1, 0, 0)
    remote = Counting(publisher.url)
    result = publisher.push(remote)
    assert (counts(result), result.published) == ((0, 4, 0, 0), False)
    assert remote.documents() == []
    assert Counter(method for method, _ in remote.asked) == {"read": 1}


def test_what_changed_is_uploaded_again_and_nothing_else(publisher: Publisher) -> None:
    publisher.add("a.txt", "alpha", title="old")
    publisher.add("b.txt", "beta", content_hash="no digest")
    publisher.push()
    publisher.add("a.txt", "alpha", title="a new title")
    (publisher.root / "b.txt").write_text("atebe"[:4])  # of the same size
    (publisher.root / "a.txt").touch()
    remote = Counting(publisher.url)
    assert counts(publisher.push(remote)) == (2, 2, 0, 0)
    assert remote.documents("write") == ["a.txt.json", "b.txt"]
    assert publisher.archive()["b.txt"] == b"ateb"
    assert json.loads(publisher.archive()["a.txt.json"])["title"] == "a new title"


def test_one_bad_document_does_not_stop_the_others(here: Publisher, caplog: pytest.LogCaptureFixture) -> None:
    here.add("good.txt", "good")
    here.add("wrong.txt", "wrong", content_hash=hashlib.sha256(b"something else").hexdigest())
    here.add("absent.txt")
    here.add("full.txt", "full")
    with caplog.at_level(logging.WARNING, "mmmeta_core"):
        result = here.push(Counting(here.url, fail="full.txt"))
    assert counts(result) == (5, 0, 1, 2)
    assert result.revision == 1, "the catalog is published all the same"
    assert {name for name in here.archive() if name.endswith(".txt")} == {"good.txt"}
    said = sorted(record.message for record in caplog.records)
    assert [line.split("'")[1] for line in said] == ["absent.txt", "full.txt", "wrong.txt"]
    assert "neither here nor in the archive" in said[0]
    assert "another hash" in said[2]
    here.add("absent.txt", "late", content_hash=hashlib.sha256(b"absent.txt").hexdigest())
    (here.root / "absent.txt").write_text("absent.txt")
    assert counts(here.push()) == (3, 4, 0, 1), "what failed is tried again, the metadata file is a new one"


def test_a_document_may_lie_beside_its_metadata_file(publisher: Publisher) -> None:
    publisher.add("2024/may/a.txt", "alpha", beside=True)
    publisher.add(
        "2024/june/a.txt.copy", None, content_hash=hashlib.sha256(b"alpha").hexdigest(), file_name="a.txt"
    )
    assert counts(publisher.push()) == (3, 0, 0, 0)
    assert publisher.archive()["a.txt"] == b"alpha", "under its published name, which clients ask for"
    remote = Counting(publisher.url)
    publisher.push(remote)
    assert remote.documents() == []


@pytest.mark.parametrize(
    "name",
    [
        "../secret.txt",
        "{base}/secret.txt",
        "deep/../../secret.txt",
        "link.txt",
        "links/secret.txt",
        "a\0b",
        "..",
        ".",
    ],
)
def test_what_is_outside_of_the_root_is_never_read(here: Publisher, name: str) -> None:
    (here.base / "secret.txt").write_text("secret")
    (here.root / "link.txt").symlink_to(here.base / "secret.txt")
    (here.root / "links").symlink_to(here.base)
    here.add("deep/m", None, content_hash="k", file_name=name.format(base=here.base))
    assert counts(here.push()) == (1, 0, 1, 0)
    assert list(here.archive()) == ["deep/m.json"]


@pytest.mark.parametrize(
    "name", ["_mmmeta/state.db", "_mmmeta/head.json", "sub/_mmmeta/state.db", "_MMMETA/state.db", "x"]
)
def test_what_is_private_to_a_metadir_never_leaves(here: Publisher, name: str) -> None:
    for folder in ("_mmmeta", "sub/_mmmeta", "_MMMETA"):
        (here.root / folder).mkdir(parents=True)
        for file in ("state.db", "head.json"):
            (here.root / folder / file).write_text("private")
    (here.root / "x").symlink_to(here.root / "_mmmeta" / "state.db")
    here.add("m", None, content_hash="k", file_name=name)
    assert counts(here.push())[0] == 1
    assert list(here.archive()) == ["m.json"]
    for path in (here.base / "remote").rglob("*"):
        assert not path.is_file() or b"private" not in path.read_bytes()


def test_a_metadata_file_that_became_a_link_out_is_not_followed(here: Publisher) -> None:
    here.add("a.txt", "alpha")
    with here.open() as m:
        m.generate()
        (here.root / "a.txt.json").unlink()
        (here.base / "secret.json").write_text("{}")
        (here.root / "a.txt.json").symlink_to(here.base / "secret.json")
        assert counts(m.push(files=True)) == (1, 0, 1, 0)
    assert list(here.archive()) == ["a.txt"]


def test_files_without_metadata_are_uploaded_as_they_are(publisher: Publisher) -> None:
    (publisher.root / "sub").mkdir()
    for name in ("a.txt", "sub/b.bin", "sub/c.json"):
        (publisher.root / name).write_text(name)
    with publisher.open() as m:
        m.generate(no_meta=True)
        assert counts(m.push(files=True)) == (3, 0, 0, 0)
        (publisher.root / "a.txt").unlink()
        assert counts(m.push(files=True)) == (0, 3, 0, 0)
    assert publisher.archive() == {name: name.encode() for name in ("a.txt", "sub/b.bin", "sub/c.json")}


def test_an_archive_that_is_published_where_it_lies_needs_no_upload(tmp_path: Path) -> None:
    here = Publisher(tmp_path, str(tmp_path / "documents"))
    here.add("a.txt", "alpha")
    for remote in (str(here.root), here.root.as_uri(), f"{here.base}/documents/../documents"):
        assert counts(here.push(remote)) == (0, 0, 0, 0)
    assert sorted(here.archive()) == ["a.txt", "a.txt.json"]


def test_a_deleted_document_is_not_uploaded(here: Publisher) -> None:
    key = here.add("a.txt", "alpha")
    here.add("b.txt", "beta")
    with here.open() as m:
        m.generate()
        m.update()
        m.files.delete(content_hash=key)
        m.push(files=True)
    assert "a.txt" not in here.archive()
    assert "b.txt" in here.archive()


def test_a_publish_with_another_root_than_was_looked_at_is_refused(here: Publisher) -> None:
    here.add("a.txt", "alpha")
    here.push(files=False)
    with (
        mmmeta(here.base / "publisher", remote=here.url) as m,
        pytest.raises(ConfigError, match="files_root"),
    ):
        m.push(files=True)


@pytest.mark.parametrize("url", ["s3://archive/x?endpoint=http://127.0.0.1:9", "{base}/not mounted"])
def test_a_remote_that_is_not_there_ends_it_and_nothing_is_published(here: Publisher, url: str) -> None:
    for number in range(40):
        here.add(f"{number}.txt", str(number))
    os.environ["AWS_MAX_ATTEMPTS"] = "1"
    remote = Counting(url.format(base=here.base))
    try:
        with pytest.raises(RemoteError):
            here.push(remote)
    finally:
        del os.environ["AWS_MAX_ATTEMPTS"]
    assert len(remote.asked) < 40
    assert not any(name.startswith("_mmmeta/log/") for _, name in remote.asked)
    result = here.push()
    assert (counts(result), result.documents) == ((80, 0, 0, 0), 40)


def test_progress_reaches_its_end(here: Publisher) -> None:
    for number in range(3):
        here.add(f"{number}.txt", str(number))
    seen: list[tuple[int, int | None]] = []
    with here.open() as m:
        m.generate()
        m.push(files=True, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (6, 6)
    assert all(total is not None and done <= total for done, total in seen)


KILLED = """
import os, signal, sys
from mmmeta_core import mmmeta
from mmmeta_core.remotes import LocalRemote, S3Remote
deadly, path, root, remote = int(sys.argv[1]), *sys.argv[2:]
left = [deadly]
def hear(event, arguments):
    if event == "open" and str(arguments[0]).startswith(root) and not str(arguments[0]).endswith("documents"):
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
with mmmeta(path, files_root=root, remote=remote) as m:
    m.generate()
    sys.addaudithook(hear)
    m.push(files=True)
"""


def test_after_a_kill_the_next_push_goes_on_and_all_is_there(publisher: Publisher) -> None:
    moment = 70 if publisher.url.startswith("s3:") else 30
    for number in range(40):
        publisher.add(f"{number % 4}/{number}.txt", f"content {number}")
    arguments = [str(moment), str(publisher.base / "publisher"), str(publisher.root), publisher.url]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, *arguments], capture_output=True, text=True, timeout=60
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not any(name.startswith("_mmmeta/log/") for name in open_remote(publisher.url).names("_mmmeta/"))
    before = publisher.archive()
    result = publisher.push()
    assert (result.revision, result.documents, counts(result)[2:]) == (1, 40, (0, 0))
    assert counts(result)[0] + counts(result)[1] == 80
    if moment == 70:
        assert before
        assert counts(result)[1] > 0, "what was noted is not uploaded again"
    there = publisher.archive()
    assert {name: data.decode() for name, data in there.items() if name.endswith(".txt")} == {
        f"{number % 4}/{number}.txt": f"content {number}" for number in range(40)
    }
    with mmmeta(publisher.base / "client", remote=publisher.url) as client:
        client.sync()
        result = client.download(publisher.base / "downloads")
    assert (result.downloaded, result.failed) == (40, 0)


def test_two_metadirs_may_upload_to_one_archive(here: Publisher) -> None:
    here.add("a.txt", "alpha")
    here.push()
    with mmmeta(here.base / "other", files_root=here.root, remote=here.url) as m:
        m.pull()
        m.generate()
        remote = Counting(here.url)
        m.remote = remote
        assert counts(m.push(files=True)) == (1, 1, 0, 0)
    assert remote.documents("write") == ["a.txt.json"]
    with closing(sqlite3.connect(here.base / "other" / "_mmmeta" / "cache.db")) as cache:
        assert cache.execute("SELECT count(*) FROM uploads").fetchone() == (2,)


def test_many_threads_may_ask_what_was_uploaded(tmp_path: Path) -> None:
    files = [Uploaded("s3://bucket", f"{number}.pdf", number, number) for number in range(200)]
    with open_scan(tmp_path / "cache.db") as scan, ThreadPoolExecutor(8) as pool:
        scan.note_uploads(files[::2])
        for _ in range(20):
            assert list(pool.map(scan.is_uploaded, files)) == [True, False] * 100
