"""What is special about remotes behind a web server: read only, not listed, and whatever servers of static files do."""

from __future__ import annotations

import gzip
import logging
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from email.utils import formatdate
from pathlib import Path
from typing import Final

import pytest
from conftest import Scrape
from shell import MMMETA, environment
from website import DROP, Answer, Site, website

from mmmeta_core import mmmeta
from mmmeta_core.errors import (
    ConfigError,
    LogError,
    RemoteDeniedError,
    RemoteError,
    RemoteNotFoundError,
    RemoteUnreachableError,
)
from mmmeta_core.metadir import Metadir
from mmmeta_core.remotes import HttpRemote, LocalRemote, Remote, Source, Stat, open_remote
from mmmeta_core.sync import segments

from . import test_contract as contract
from .static import Static, serving

HEAD = "_mmmeta/head.json"
SEGMENT = "_mmmeta/log/{:020}.jsonl.gz"


class Published(HttpRemote):
    """Reads from the server, and writes as publishers do: into the folder behind it."""

    def __init__(self, url: str, root: Path) -> None:
        super().__init__(url)
        self.behind = LocalRemote(root)

    def create(self, name: str, source: Source) -> bool:
        return self.behind.create(name, source)

    def write(self, name: str, source: Source, *, if_match: str | None = None) -> str | None:
        return self.behind.write(name, source, if_match=if_match)

    def remove(self, name: str) -> None:
        self.behind.remove(name)

    def names(self, prefix: str) -> Iterator[str]:
        return self.behind.names(prefix)


@pytest.fixture
def static(tmp_path: Path) -> Iterator[Static]:
    (tmp_path / "www" / "archive").mkdir(parents=True)
    with serving(tmp_path / "www") as started:
        yield started


@pytest.fixture
def site() -> Iterator[Site]:
    with website() as started:
        yield started


@pytest.fixture
def remote(static: Static) -> Remote:
    return Published(f"{static.url}/archive", static.root / "archive")


@pytest.fixture
def plant(remote: Published) -> contract.Plant:
    def write_file(name: str, data: bytes) -> None:
        path = remote.behind.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    return write_file


class TestRead(contract.TestRead):
    """The contract, over the web."""


class TestFetch(contract.TestFetch):
    """The contract, over the web."""


class TestStat(contract.TestStat):
    """The contract, over the web."""


class TestEmptyObjects(contract.TestEmptyObjects):
    """The contract, over the web."""


class TestOpening:
    @pytest.mark.parametrize(
        ("url", "opened"),
        [
            ("https://host", "https://host"),
            ("https://HOST.example:443/a/b/", "https://host.example/a/b"),
            ("http://host:80//", "http://host"),
            ("http://host:443/a", "http://host:443/a"),
            ("http://[::1]:8080/a", "http://[::1]:8080/a"),
            ("https://host/ü b/100%25/@x", "https://host/%C3%BC%20b/100%25/@x"),
        ],
    )
    def test_an_url_has_one_form(self, url: str, opened: str) -> None:
        remote = open_remote(url)
        assert isinstance(remote, HttpRemote)
        assert (remote.url, remote.identity, repr(remote)) == (opened, opened, f"<HttpRemote {opened}>")

    @pytest.mark.parametrize(
        "url",
        [
            "https://",
            "https:///path",
            "https://me:pa55word@host/a",
            "https://pa55word@host/a",
            "https://host/a?token=pa55word",
            "https://host/a?",
            "https://host/a#pa55word",
            "https://host:0/a",
            "https://host:port/a",
            "https://[/a",
            "https://host/a\nb",
            "https://host\\@pa55word/",
            "https:/host/a",
            Path("https://host/a"),
        ],
        ids=ascii,
    )
    def test_others_are_refused_without_repeating_what_may_be_a_password(self, url: str | Path) -> None:
        with pytest.raises(ConfigError, match=r"^[A-Z].*\.$") as caught:
            open_remote(url)
        assert "pa55word" not in str(caught.value)


class TestReadOnly:
    @pytest.mark.parametrize("method", ["create", "write", "remove", "check_writable"])
    def test_nothing_is_written_and_nobody_asked(self, static: Static, method: str) -> None:
        remote = open_remote(f"{static.url}/archive")
        arguments = {"create": ("a", b"x"), "write": ("a", b"x"), "remove": ("a",)}.get(method, ())
        with pytest.raises(
            RemoteDeniedError, match=r"/archive is read only: publish to the folder or bucket"
        ):
            getattr(remote, method)(*arguments)
        assert static.seen == []

    def test_it_can_not_be_listed(self, static: Static) -> None:
        remote = open_remote(f"{static.url}/archive")
        with pytest.raises(RemoteError, match="is a web server, which can't be listed"):
            list(remote.names("_mmmeta/log/"))
        assert not remote.can_list

    @contract.use
    def test_bad_names_are_refused(self, static: Static, use: contract.Use, tmp_path: Path) -> None:
        for name in contract.BAD_NAMES:
            with pytest.raises(RemoteError, match="can't be the name of an object: it ") as caught:
                use(open_remote(static.url), name, tmp_path / "draft")
            assert type(caught.value) is RemoteError, name
        assert static.seen == []

    def test_odd_names_are_read(self, remote: Remote, plant: contract.Plant) -> None:
        for name in contract.ODD_NAMES:
            plant(name, ascii(name).encode())
        read = {name: contract.blob(remote, name).data for name in contract.ODD_NAMES}
        assert read == {name: ascii(name).encode() for name in contract.ODD_NAMES}


class TestCheck:
    def test_an_archive_is_one_request(self, remote: Remote, static: Static) -> None:
        remote.write(HEAD, b"{}")
        remote.check()
        assert static.seen == [f"HEAD /archive/{HEAD}"]

    def test_a_folder_is_an_archive_that_was_never_published(self, static: Static) -> None:
        open_remote(f"{static.url}/archive").check()
        with pytest.raises(
            RemoteNotFoundError, match=r"There is no archive at .*/archiv: .* Correct the URL"
        ):
            open_remote(f"{static.url}/archiv").check()

    @pytest.mark.parametrize(
        ("status", "expected"),
        [(404, RemoteNotFoundError), (410, RemoteNotFoundError), (401, RemoteDeniedError), (403, RemoteDeniedError),
         (503, RemoteUnreachableError), (429, RemoteUnreachableError), (418, RemoteError)],
    )  # fmt: skip
    def test_what_a_server_says(self, static: Static, status: int, expected: type[RemoteError]) -> None:
        static.refuses = status
        with pytest.raises(RemoteError, match=rf"{static.url}/archive") as caught:
            open_remote(f"{static.url}/archive").check()
        assert type(caught.value) is expected

    @pytest.mark.parametrize("host", ["127.0.0.1:{port}", "no-such-host.invalid"])
    def test_a_server_that_is_not_there_is_not_a_missing_archive(self, host: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as closed:
            port = closed.getsockname()[1]
        with pytest.raises(RemoteUnreachableError, match="did not answer"):
            open_remote(f"http://{host.format(port=port)}/archive").check()


# --- etags


OLD: Final = formatdate(1_700_000_000, usegmt=True)
SECONDS: Final = int(time.time()) + 3600
NEW: Final = formatdate(SECONDS, usegmt=True)
"""Changed later than the server's clock says that it answered: whether it is the last change cannot be known."""


def changed(when: str, **headers: str) -> Mapping[str, str]:
    return {"Last-Modified": when, **headers}


@pytest.mark.parametrize(
    ("before", "after", "unchanged"),
    [
        ({"ETag": '"a"'}, {"ETag": '"a"'}, True),
        ({"ETag": '"a"'}, {"ETag": '"b"'}, False),
        ({"ETag": 'W/"a"'}, {"ETag": 'W/"a"'}, True),
        ({"ETag": 'W/"a"'}, {"ETag": '"a"'}, True),
        ({"ETag": "plain"}, {"ETag": "plain"}, True),
        ({}, {}, False),
        ({"ETag": "with a space"}, {"ETag": "with a space"}, False),
        (changed(OLD), changed(OLD), True),
        (changed(OLD), changed(formatdate(1_600_000_000, usegmt=True)), False),
        (changed(NEW), changed(NEW), False),
        (changed("yesterday"), changed("yesterday"), False),
        (changed(NEW, ETag='"a"'), changed(NEW, ETag='"a"'), True),
        (changed(OLD, ETag='"6553f100-1"'), changed(OLD, ETag='"6553f100-1"'), True),  # nginx: the time, and the size
        (changed(NEW, ETag=f'"{SECONDS:x}-1"'), changed(NEW, ETag=f'"{SECONDS:x}-1"'), False),
    ],
)  # fmt: skip
def test_what_tells_that_nothing_changed(
    site: Site, before: Mapping[str, str], after: Mapping[str, str], unchanged: bool
) -> None:
    """Of a server that does not know of conditions."""
    site.put(f"/{HEAD}", Answer(b"x", headers=before), Answer(b"x", headers=after))
    remote = open_remote(site.url)
    first = contract.blob(remote, HEAD)
    assert (remote.read(HEAD, etag=first.etag) is None) is unchanged
    assert len(site.seen) == 2


def test_another_size_is_another_content(site: Site) -> None:
    site.put("/a", Answer(b"x", headers=changed(OLD)), Answer(b"xx", headers=changed(OLD)))
    remote = open_remote(site.url)
    second = remote.read("a", etag=contract.blob(remote, "a").etag)
    assert second is not None
    assert second.data == b"xx"


def test_a_server_that_says_unchanged_unasked_is_not_believed(site: Site) -> None:
    site.put("/a", Answer(status=304))
    for etag in (None, "", "modified 1 1"):
        with pytest.raises(RemoteError, match=r"/a can't be read \(status 304\)"):
            open_remote(site.url).read("a", etag=etag)


# --- bodies


@pytest.mark.parametrize("chunked", [False, True])
def test_a_packed_file_that_is_labelled_so_comes_as_it_lies(
    site: Site, tmp_path: Path, chunked: bool
) -> None:
    packed = gzip.compress(b"x" * 1000)
    name = SEGMENT.format(1)
    site.put(f"/{name}", Answer(packed, headers={"Content-Encoding": "gzip"}, chunked=chunked))
    remote = open_remote(site.url)
    assert contract.blob(remote, name).data == packed
    assert remote.fetch(name, tmp_path / "draft") == len(packed)
    assert (tmp_path / "draft").read_bytes() == packed
    found = remote.stat(name)
    assert found is not None
    assert found.size == len(packed)


@pytest.mark.parametrize(
    ("name", "coding"), [(HEAD, "gzip"), ("a.gz", "br"), ("a.pdf", "deflate"), ("gz", "gzip")]
)
def test_an_encoding_that_was_not_asked_for_is_refused_unread(
    site: Site, tmp_path: Path, name: str, coding: str
) -> None:
    """So a bomb stays packed."""
    bomb = gzip.compress(b"\0" * 50_000_000)
    site.put(f"/{name}", Answer(bomb, headers={"Content-Encoding": coding}))
    remote = open_remote(site.url)
    for attempt in (
        lambda: remote.read(name),
        lambda: remote.fetch(name, tmp_path / "x"),
        lambda: remote.stat(name),
    ):
        with pytest.raises(
            RemoteError, match=rf"comes with the encoding '{coding}', which was not asked for"
        ):
            attempt()
    assert not (tmp_path / "x").exists()


def test_the_limit_holds_where_no_size_is_said(site: Site, tmp_path: Path) -> None:
    site.put("/a", Answer(b"12345", chunked=True))
    remote = open_remote(site.url)
    assert contract.blob(remote, "a").data == b"12345"
    assert remote.read("a", limit=5) is not None
    for attempt in (lambda: remote.read("a", limit=4), lambda: remote.fetch("a", tmp_path / "x", limit=4)):
        with pytest.raises(RemoteError, match="has more than the 4 bytes"):
            attempt()
    assert not (tmp_path / "x").exists()
    assert remote.stat("a") is not None


@pytest.mark.parametrize(
    "answer",
    [
        DROP,
        Answer(b"12345", cut=3),
        Answer(b"12345", cut=3, chunked=True),
        Answer(b"x" * 9999, cut=1, trickles=True),
    ],
)
def test_what_does_not_come_whole_does_not_come(site: Site, tmp_path: Path, answer: Answer) -> None:
    site.put("/a", answer)
    remote = HttpRemote(site.url, patience=0.3)
    with pytest.raises(RemoteUnreachableError, match=rf"{site.url}/a"):
        remote.read("a")
    with pytest.raises(RemoteUnreachableError, match=rf"{site.url}/a"):
        remote.fetch("a", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_server_that_never_answers_is_given_up(site: Site) -> None:
    site.before = lambda path: site.ended.wait(60) and None
    with pytest.raises(RemoteUnreachableError, match="ReadTimeoutError"):
        HttpRemote(site.url, patience=0.2).check()


# --- redirects and refusals


def test_redirects_are_followed_within_the_scheme(site: Site) -> None:
    site.put(f"/old/{HEAD}", Answer(status=301, headers={"Location": f"/new/{HEAD}"}))
    site.put(f"/new/{HEAD}", Answer(b"x", headers={"ETag": '"1"'}))
    remote = open_remote(f"{site.url}/old")
    assert contract.blob(remote, HEAD).data == b"x"
    assert remote.stat(HEAD) == Stat(1, '"1"')
    remote.check()


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (
            "https://127.0.0.1/a?token=pa55word",
            "redirects to https://127.0.0.1/a, which has another scheme: give that",
        ),
        ("file:///etc/passwd", "another scheme"),
        ("http://169.254.169.254/latest/meta-data", "169.254.169.254"),
        ("/a", "redirects more than 5 times"),
    ],
)
def test_other_redirects_are_not(site: Site, target: str, reason: str) -> None:
    site.put("/a", Answer(status=302, headers={"Location": target}))
    remote = open_remote(site.url)
    for attempt in (lambda: remote.read("a"), lambda: remote.stat("a")):
        with pytest.raises(RemoteError, match=reason) as caught:
            attempt()
        assert "pa55word" not in str(caught.value)


def test_a_bucket_that_forbids_to_list_says_forbidden_of_what_is_not_there(static: Static) -> None:
    (static.root / "_mmmeta").mkdir()
    (static.root / HEAD).write_bytes(b"{}")
    static.refuses = 403
    for remote in (open_remote(static.url), open_remote(static.url)):
        assert remote.stat("nope") is None
        with pytest.raises(RemoteNotFoundError):
            remote.read("nope")
    (static.root / HEAD).unlink()
    for name in (HEAD, "nope"):
        with pytest.raises(RemoteDeniedError, match="may not be read by everyone"):
            open_remote(static.url).read(name)


# --- an archive


@pytest.fixture
def publisher(static: Static, scrape: Scrape, tmp_path: Path) -> Iterator[Metadir]:
    """An archive of one revision, published into the folder behind the server."""
    for name in "ab":
        scrape(name, file_name=f"{name} ü.txt", title=name.upper())
        (tmp_path / "documents" / f"{name} ü.txt").write_text(name)
    with mmmeta(
        tmp_path / "publisher", files_root=tmp_path / "documents", remote=static.root / "archive"
    ) as m:
        m.generate()
        m.push(files=True)
        yield m


@pytest.fixture
def client(static: Static, publisher: Metadir, tmp_path: Path) -> Iterator[Metadir]:
    with mmmeta(tmp_path / "client", remote=f"{static.url}/archive") as m:
        m.sync()
        static.take()
        yield m


def publish(publisher: Metadir, key: str) -> None:
    publisher.files.insert(content_hash=key, title=key.upper())
    publisher.push()


def titles(m: Metadir) -> list[str]:
    m.update()
    return sorted(file["title"] for file in m.files)


def test_a_client_reads_an_archive_over_the_web(
    static: Static, publisher: Metadir, client: Metadir, tmp_path: Path
) -> None:
    assert titles(client) == ["A", "B"]
    assert client.download(tmp_path / "got").downloaded == 2
    assert (tmp_path / "got" / "a ü.txt").read_text() == "a"
    assert (client.poll().changed, client.status().remote_revision) == (False, 1)
    publish(publisher, "c")
    assert (client.poll().changed, client.status().remote_revision) == (True, 2)
    assert client.pull().documents == 1
    assert titles(client) == ["A", "B", "C"]
    with mmmeta(tmp_path / "late", remote=f"{static.url}/archive") as late:
        assert late.sync().pulled is not None
        assert titles(late) == ["A", "B", "C"]


@pytest.mark.parametrize("etags", [True, False])
def test_an_unchanged_pull_is_one_request(static: Static, client: Metadir, etags: bool) -> None:
    static.etags = etags
    os.utime(static.root / "archive" / HEAD, (1_700_000_000, 1_700_000_000))
    client.pull()
    static.take()
    assert client.pull().unchanged
    assert static.take() == [f"GET /archive/{HEAD}"]
    assert static.headers[-1]["accept-encoding"] == "identity"
    assert ("if-none-match" in static.headers[-1]) is etags


def test_without_etags_nothing_is_missed_that_is_published_within_one_second(
    static: Static, publisher: Metadir, client: Metadir
) -> None:
    static.etags = False
    for key in "cdefg":
        publish(publisher, key)
        assert client.pull().documents == 1


def test_a_packed_label_on_segments_changes_nothing(
    static: Static, publisher: Metadir, client: Metadir
) -> None:
    static.labels[".gz"] = {"Content-Encoding": "gzip"}
    publish(publisher, "c")
    assert client.pull().documents == 1


def test_a_segment_that_is_a_bomb_is_refused(static: Static, publisher: Metadir, client: Metadir) -> None:
    publish(publisher, "c")
    (static.root / "archive" / SEGMENT.format(2)).write_bytes(gzip.compress(b"\0" * 100_000_000))
    with pytest.raises(LogError, match=SEGMENT.format(2)):
        client.pull()
    assert client.revision == 1


def test_a_head_that_a_cache_kept_goes_neither_back_nor_astray(
    static: Static, publisher: Metadir, client: Metadir
) -> None:
    old = (static.root / "archive" / HEAD).read_bytes()
    publish(publisher, "c")
    client.pull()
    static.cached[f"archive/{HEAD}"] = old
    assert client.pull().unchanged
    publish(publisher, "d")
    assert client.pull().documents == 1  # the log is asked, whatever the old head says
    static.cached.clear()
    publish(publisher, "e")
    assert (client.pull().documents, client.revision) == (1, 4)


def test_a_client_never_has_a_cache_remember_that_the_next_segment_is_not_there(
    static: Static, publisher: Metadir, client: Metadir
) -> None:
    publish(publisher, "c")
    assert client.pull().documents == 1
    assert static.take() == [f"GET /archive/{HEAD}", f"GET /archive/{SEGMENT.format(2)}"]
    assert client.pull(probe=True).unchanged
    assert static.take() == [f"GET /archive/{HEAD}", f"GET /archive/{SEGMENT.format(3)}"]


def test_a_missing_segment_that_a_cache_remembers_is_waited_for(
    static: Static, publisher: Metadir, client: Metadir
) -> None:
    publish(publisher, "c")
    name = f"archive/{SEGMENT.format(2)}"
    static.cached[name] = None
    static.after = lambda: static.seen.count(f"GET /{name}") < 2 or static.cached.pop(name, None)
    assert client.pull().documents == 1
    assert static.seen.count(f"GET /{name}") == 3


def test_a_missing_segment_that_a_cache_goes_on_to_remember_is_for_later(
    static: Static, publisher: Metadir, client: Metadir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "WAITS", (0.01, 0.01))
    publish(publisher, "c")
    publish(publisher, "d")
    name = f"archive/{SEGMENT.format(3)}"
    static.cached[name] = None
    with pytest.raises(
        RemoteUnreachableError, match=rf"{name} is missing, .* cache may still .* pull again later"
    ):
        client.pull()
    assert (client.revision, static.seen.count(f"GET /{name}")) == (2, 3)
    assert static.headers[-1]["cache-control"] == "no-cache"
    client.update()
    assert client.files.count() == 3
    static.cached.clear()
    assert (client.pull().documents, client.revision) == (1, 3)


def test_verify_looks_at_what_it_can(static: Static, publisher: Metadir, client: Metadir) -> None:
    whole = client.verify()
    assert (whole.findings, whole.segments, whole.documents, whole.remote_revision) == ((), 1, 2, 1)
    publish(publisher, "c")
    assert client.verify().whole
    archive = static.root / "archive"
    broken: dict[str, Callable[[], object]] = {
        "is missing, the file of document b": (archive / "b ü.txt").unlink,
        "names revision 2, the log ends at 1": (archive / SEGMENT.format(2)).unlink,
        "is not the one that this catalog has": lambda: (archive / SEGMENT.format(1)).write_bytes(b""),
        "is missing, so sensors see no news": (archive / HEAD).unlink,
    }
    for what, damage in broken.items():
        damage()
        assert any(what in finding.what for finding in client.verify().findings), what


def test_an_archive_that_was_never_published_has_no_revision(static: Static, tmp_path: Path) -> None:
    with mmmeta(tmp_path / "client", remote=f"{static.url}/archive") as m:
        assert m.pull().revision == 0
    lost = mmmeta(tmp_path / "lost", remote=f"{static.url}/elsewhere")
    with pytest.raises(RemoteNotFoundError, match="There is no archive at"):
        lost.pull()
    assert not (tmp_path / "lost").exists()


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*MMMETA, *arguments], cwd=folder, env=environment(), capture_output=True, text=True, timeout=60
    )


def test_the_command_line(static: Static, publisher: Metadir, tmp_path: Path) -> None:
    folder = tmp_path / "shell"
    folder.mkdir()
    remote = ("--remote", f"{static.url}/archive")
    for command in (("sync",), ("find", "title=A"), ("status",), ("verify",), ("download", "got")):
        result = run(folder, *remote, *command)
        assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in (folder / "got").iterdir()) == ["a ü.txt", "b ü.txt"]
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    static.take()
    for arguments in (
        (*remote, "push"),
        (*remote, "push", "--files"),
        ("--files-root", "got", *remote, "sync"),
    ):
        refused = run(folder, *arguments)
        assert refused.returncode == 1
        assert refused.stderr.count("\n") == 1
        assert (
            f"{static.url}/archive is read only: publish to the folder or bucket behind it" in refused.stderr
        )
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == before
    assert static.seen == []


def test_a_client_with_documents_of_its_own_syncs_all_the_same(
    static: Static, publisher: Metadir, client: Metadir, caplog: pytest.LogCaptureFixture
) -> None:
    client.sync()
    client.files.insert(content_hash="mine")
    with caplog.at_level(logging.WARNING, "mmmeta_core"):
        assert client.sync().pushed is None
    assert "documents wait here to be published" in caplog.text
    assert "mine" in client.files
