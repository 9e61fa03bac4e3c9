"""Downloads: each document once, whole and verified, under a safe name, and never over another's file."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from website import Answer, Site, website

from mmmeta_core import Metadir, UnavailableError, mmmeta
from mmmeta_core.errors import ColumnError, ConfigError, DocumentError, RefusedError, RemoteNotFoundError
from mmmeta_core.files import File
from mmmeta_core.files.placing import safe_parts
from mmmeta_core.remotes import open_remote

DOCUMENTS = int(os.environ.get("DOWNLOAD_DOCUMENTS", "300"))
"""How many documents the process has to fetch that is killed."""

Open: TypeAlias = Callable[..., Metadir]


def key(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()  # noqa: S324 - what the archive is keyed by


def row(name: str, data: bytes | None = None, **values: Any) -> dict[str, Any]:
    """Return the metadata of a document whose content is its name unless it is given."""
    return {"content_hash": key(name.encode() if data is None else data), "file_name": name, **values}


@pytest.fixture
def site() -> Iterator[Site]:
    with website() as made:
        yield made


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """Open a metadir below `tmp_path`, with these settings if it is new."""
    made = []

    def metadir(name: str = "client", config: str = "", **options: Any) -> Metadir:
        (tmp_path / name / "_mmmeta").mkdir(parents=True, exist_ok=True)
        if config:
            (tmp_path / name / "_mmmeta" / "config.yml").write_text(config)
        made.append(mmmeta(tmp_path / name, **options))
        return made[-1]

    yield metadir
    for one in made:
        one.close()


@pytest.fixture
def m(opened: Open, site: Site) -> Metadir:
    """A metadir whose documents are at the site under their keys: any name can be published then."""
    return opened(config=f"remote: {{site: '{site.url}/{{content_hash}}'}}")


def offer(m: Metadir, site: Site, *names: str, **values: Any) -> None:
    """Publish documents whose content is their name."""
    for name in names:
        site.put(f"/{key(name.encode(errors='surrogatepass'))}", name.encode())
    m.files.upsert_many([row(name, **values) for name in names])


def publish(remote: str, *rows: Mapping[str, Any], path: Path) -> None:
    with mmmeta(path, remote=remote) as publisher:
        publisher.pull()
        publisher.files.upsert_many(rows)
        publisher.push()


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def make_due(m: Metadir) -> None:
    """Let the time go by that a failed document waits, and that a killed process holds its claims."""
    passed = "UPDATE mmmeta_work SET not_before = NULL, lease_until = '2000-01-01' WHERE done_at IS NULL"
    m.state.run(lambda database: database.execute(passed))


def errors(m: Metadir) -> dict[Any, str]:
    return {failure.key: failure.error for failure in m.failures("downloaded")}


def path_of(m: Metadir, name: str) -> str | None:
    (path,) = [file["downloaded_path"] for file in m.files if file["file_name"] == name]
    return None if path is None else str(path)


# --- what arrives


@pytest.mark.parametrize("workers", [1, 4])
def test_each_matching_document_comes_once(
    tmp_path: Path, remote_url: str, opened: Open, workers: int
) -> None:
    archive, names = open_remote(remote_url), ["a/1.txt", "a/2.txt", "b/ü 3.txt"]
    for name in names:
        archive.create(name, name.encode())
    rows = [row(name, kind="contract" if "a/" in name else "letter") for name in names]
    publish(remote_url, *rows, path=tmp_path / "publisher")
    m = opened(remote=remote_url)
    m.sync()
    dest = tmp_path / "some" / "folder"
    first = m.download(dest, workers=workers, kind="contract")
    assert (first.downloaded, first.present, first.failed, first.left, first.bytes) == (2, 0, 0, 0, 14)
    assert tree(dest) == {"a/1.txt": b"a/1.txt", "a/2.txt": b"a/2.txt"}
    assert m.download(dest, workers=workers, kind="contract").downloaded == 0
    assert m.download(dest, workers=workers).downloaded == 1
    assert tree(dest) == {name: name.encode() for name in names}
    assert {file["downloaded_path"] for file in m.files(downloaded=True)} == set(names)
    assert m.files.count(downloaded=False) == 0


def test_a_document_with_the_wrong_content_is_a_failure_and_nothing_of_it_stays(
    tmp_path: Path, remote_url: str, opened: Open
) -> None:
    archive = open_remote(remote_url)
    archive.create("good.txt", b"good.txt")
    archive.create("bad.txt", b"an error page")
    bad = row("bad.txt")
    publish(remote_url, row("good.txt"), bad, row("missing.txt"), path=tmp_path / "publisher")
    m = opened(remote=remote_url)
    m.sync()
    result = m.download(tmp_path / "out")
    assert (result.downloaded, result.failed, result.set_aside, result.left) == (1, 2, 0, 2)
    assert list(tree(tmp_path / "out")) == ["good.txt"]
    said = errors(m)
    assert "bad.txt is not the document of" in said[bad["content_hash"]]
    assert "another hash" in said[bad["content_hash"]]
    assert said[key(b"missing.txt")].startswith("RemoteNotFoundError")
    assert {file.name for file in m.files(downloaded=True)} == {"good.txt"}
    archive.write("bad.txt", b"bad.txt")
    assert m.download(tmp_path / "out").failed == 0, "not before its time"
    assert m.retry_failed("downloaded") == 2
    again = m.download(tmp_path / "out")
    assert (again.downloaded, again.failed) == (1, 1)
    assert tree(tmp_path / "out") == {"good.txt": b"good.txt", "bad.txt": b"bad.txt"}
    assert list(said) != list(errors(m)) == [key(b"missing.txt")]


def test_a_document_whose_content_changed_comes_again_over_its_own_older_file(
    tmp_path: Path, remote_url: str, opened: Open
) -> None:
    archive = open_remote(remote_url)
    config = tmp_path / "publisher" / "_mmmeta" / "config.yml"
    config.parent.mkdir(parents=True)
    config.write_text("metadata: {unique: id}")
    values = {"id": "17", "file_name": "report.txt"}
    archive.write("report.txt", b"first")
    publish(remote_url, {**values, "content_hash": key(b"first")}, path=tmp_path / "publisher")
    m = opened(remote=remote_url)
    m.sync()
    out = tmp_path / "out"
    assert m.download(out).downloaded == 1
    archive.write("report.txt", b"second")
    publish(remote_url, {**values, "title": "only this"}, path=tmp_path / "publisher")
    m.sync()
    assert m.download(out).downloaded == 0
    publish(remote_url, {**values, "content_hash": key(b"second")}, path=tmp_path / "publisher")
    m.sync()
    assert m.download(out, on_change="ignore").downloaded == 0
    assert m.download(out).downloaded == 1
    assert tree(out) == {"report.txt": b"second"}
    assert m.download(out).downloaded == 0


def test_deleted_documents_are_not_fetched(tmp_path: Path, m: Metadir, site: Site) -> None:
    offer(m, site, "kept", "deleted")
    m.files.delete(file_name="deleted")
    assert m.download(tmp_path / "out").downloaded == 1
    assert tree(tmp_path / "out") == {"kept": b"kept"}


def test_downloads_with_other_marks_do_not_know_each_other(tmp_path: Path, m: Metadir, site: Site) -> None:
    offer(m, site, "a.txt", "b.txt")
    m.download(tmp_path / "one", file_name="a.txt")
    result = m.download(tmp_path / "two", mark="copied")
    assert (result.downloaded, tree(tmp_path / "two")) == (2, {"a.txt": b"a.txt", "b.txt": b"b.txt"})
    found = {file.name: (file["downloaded_path"], file["copied_path"]) for file in m.files}
    assert found == {"a.txt": ("a.txt", "a.txt"), "b.txt": (None, "b.txt")}


def test_at_most_so_many_are_tried(tmp_path: Path, m: Metadir, site: Site) -> None:
    offer(m, site, *"abcde")
    result = m.download(tmp_path / "out", limit=3)
    assert (result.downloaded, result.left, len(site.seen)) == (3, 2, 3)
    assert m.download(tmp_path / "out").downloaded == 2


def test_workers_fetch_at_once(tmp_path: Path, m: Metadir, site: Site) -> None:
    together = threading.Barrier(4)
    site.before = lambda path: together.wait(30) and None
    offer(m, site, *"abcdefgh")
    assert m.download(tmp_path / "out", workers=4).downloaded == 8


def test_progress_is_told(tmp_path: Path, m: Metadir, site: Site) -> None:
    offer(m, site, "a", "b")
    told: list[tuple[int, int | None]] = []
    m.download(tmp_path / "out", progress=lambda done, total: told.append((done, total)))
    assert told == [(2, 2)]


@pytest.mark.parametrize(
    ("options", "published", "error"),
    [
        ({"workers": 0}, {}, ConfigError),
        ({"limit": -1}, {}, ConfigError),
        ({"mark": "file_name"}, {}, ColumnError),
        ({}, {"downloaded": False}, ColumnError),
        ({}, {"downloaded_path": "/etc/passwd"}, ColumnError),
    ],
)
def test_what_can_not_be_noted_is_not_fetched(
    tmp_path: Path, m: Metadir, site: Site, options: Any, published: Any, error: type[Exception]
) -> None:
    offer(m, site, "a.txt", **published)
    with pytest.raises(error):
        m.download(tmp_path / "out", **options)
    assert site.seen == []
    assert list(m.failures("downloaded")) == []


# --- names


NAMES = {
    "plain.txt": "plain.txt",
    "a/b/c.txt": "a/b/c.txt",
    "../up.txt": "up.txt",
    "x/../../../up2.txt": "x/up2.txt",
    "/etc/absolute.txt": "etc/absolute.txt",
    "//server/share.txt": "server/share.txt",
    "C:\\Windows\\evil.txt": "C_/Windows/evil.txt",
    "..\\..\\back.txt": "back.txt",
    "dots/./.../x.txt": "dots/_/x.txt",
    ".hidden": "hidden",
    ".ssh/authorized_keys": "ssh/authorized_keys",
    ".tmp-123-abc": "tmp-123-abc",
    "_mmmeta/state.db": "__mmmeta/state.db",
    "_MMMETA/config.yml": "__MMMETA/config.yml",
    "./_mmmeta/_store/local_x": "__mmmeta/_store/local_x",
    "..": "unnamed",
    "///": "unnamed",
    "con": "_con",
    "dev/NUL.txt": "dev/_NUL.txt",
    "dev/com1.tar.gz": "dev/_com1.tar.gz",
    "dev/LPT³ .x": "dev/_LPT³ .x",
    "dev/conin$": "dev/_conin$",
    "dev/console": "dev/console",
    "nul\0byte.txt": "nul_byte.txt",
    "tab\tnew\nline\x1b[2J.txt": "tab_new_line_[2J.txt",
    "invoice\u202efdp.exe": "invoice_fdp.exe",
    "zero\u200bwidth\ufeff.txt": "zero_width_.txt",
    'a<b>c:d"e|f?g*h': "a_b_c_d_e_f_g_h",
    "  spaces . ": "spaces",
    ". .": "_",
    "stream.txt::$DATA": "stream.txt__$DATA",
    "nfd/cafe\u0301.txt": "nfd/caf\u00e9.txt",
    "emoji 📄 数据.pdf": "emoji 📄 数据.pdf",
    "~/home.txt": "~/home.txt",
    "$HOME/`id`;rm -rf .txt": "$HOME/`id`;rm -rf .txt",
    "-rf": "-rf",
    "%2e%2e%2fescaped": "%2e%2e%2fescaped",
}


def test_names_are_made_safe(tmp_path: Path, m: Metadir, site: Site) -> None:
    offer(m, site, *NAMES)
    outside = tree(tmp_path)
    out = tmp_path / "out"
    result = m.download(out)
    assert (result.downloaded, errors(m)) == (len(NAMES), {})
    for name, expected in NAMES.items():
        where = path_of(m, name)
        assert where is not None
        assert where == expected or (expected == "unnamed" and where.startswith("unnamed-")), name
        assert (out / where).read_bytes() == name.encode()
    # Two documents are left without a name: the quicker one has the name itself, the other one something of its key.
    assert set(NAMES.values()) <= set(tree(out))
    assert len(tree(out)) == len(NAMES)
    written = {name for name, data in tree(tmp_path).items() if outside.get(name) != data}
    assert {name for name in written if not name.startswith(("out/", "client/_mmmeta/state.db"))} == set()


def test_documents_without_a_name_have_their_key(tmp_path: Path, opened: Open, site: Site) -> None:
    m = opened(config=f"remote: {{site: '{site.url}/{{content_hash}}'}}")
    site.put("/k%3A1", b"x")
    m.files.insert(content_hash="../k:1")
    m.files.insert({"content_hash": 17, "file_name": ""})
    site.put("/17", b"y")
    assert m.download(tmp_path / "out").downloaded == 2, errors(m)
    assert tree(tmp_path / "out") == {"k_1": b"x", "17": b"y"}


def test_long_names_are_cut_and_keep_their_ending(tmp_path: Path, m: Metadir, site: Site) -> None:
    names = [
        "a" * 250 + ".pdf",
        "a" * 251 + ".pdf",
        "ü" * 300 + ".tar.gz",
        "." + "x" * 400,
        f"{'d' * 300}/x.pdf",
    ]
    deep = "/".join("d" * 100 for _ in range(60))
    offer(m, site, *names, deep)
    result = m.download(tmp_path / "out")
    assert (result.downloaded, result.failed) == (6, 0)
    assert str(path_of(m, deep)) == "/".join("d" * 100 for _ in range(16))
    found = [str(path_of(m, name)) for name in names]
    assert len(set(found)) == 5
    assert [name.endswith(".pdf") for name in found] == [True, True, False, False, True]
    assert found[2].endswith(".gz")
    assert max(len(part.encode()) for name in found for part in name.split("/")) <= 200


@settings(deadline=None, max_examples=300)
@given(
    st.text(
        st.one_of(
            st.sampled_from("./\\ :~_-ac\u0301\u00e9\u202e\0\n"), st.characters(exclude_categories=["Cs"])
        ),
        max_size=400,
    )
)
def test_any_name_becomes_one_that_stays_below_and_is_taken(name: str) -> None:
    parts = safe_parts(name)
    assert parts
    for part in parts:
        assert 0 < len(part.encode()) <= 200
        assert part not in (".", "..")
        assert not set(part) & set('/\\<>:"|?*')
        assert not part.startswith((".", " "))
        assert all(
            unicodedata.category(char)[0] != "C" or unicodedata.category(char) in "CoCn" for char in part
        )
        assert part == unicodedata.normalize("NFC", part)
        assert part.casefold() != "_mmmeta"
    assert safe_parts("/".join(parts)) == parts


@pytest.mark.parametrize(
    "names",
    [
        ["same.txt", "./same.txt", "/same.txt"],
        ["Case.TXT", "case.txt", "CASE.txt"],
        ["caf\u00e9.txt", "cafe\u0301.txt"],
        ["stra\u00dfe", "STRASSE"],
        ["a?b", "a*b", "a_b"],
        ["x/y", "x", "x/y/z"],
        ["x", "x/y", "x/y/z"],
        ["x/y/z", "x/y", "x"],
    ],
)
@pytest.mark.parametrize("workers", [1, 4])
def test_names_that_are_in_each_others_way_all_get_a_place(
    tmp_path: Path, m: Metadir, site: Site, names: list[str], workers: int
) -> None:
    for name in names:
        offer(m, site, name)
        if workers == 1:  # one after the other
            m.download(tmp_path / "out", workers=1)
    m.download(tmp_path / "out", workers=workers)
    assert errors(m) == {}
    where = [str(path_of(m, name)) for name in names]
    assert len({unicodedata.normalize("NFD", path).casefold() for path in where}) == len(names)
    assert tree(tmp_path / "out") == {path: name.encode() for path, name in zip(where, names, strict=True)}
    before = list(site.seen)
    for file in m.files:
        assert file.download(tmp_path / "out") == tmp_path / "out" / str(file["downloaded_path"])
    assert site.seen == before, "each keeps its place, and nothing is fetched again"


def test_a_document_keeps_its_place_when_a_better_one_becomes_free(
    tmp_path: Path, opened: Open, site: Site
) -> None:
    m = opened(config=f"{{metadata: {{unique: id}}, remote: {{site: '{site.url}/x'}}}}")
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.txt").write_bytes(b"somebody else's")
    site.put("/x", b"first")
    m.files.upsert({"id": "17", "file_name": "a.txt", "content_hash": key(b"first")})
    m.download(out)
    (out / "a.txt").unlink()
    (placed,) = tree(out)
    site.put("/x", b"second")
    m.files.upsert({"id": "17", "content_hash": key(b"second")})
    m.download(out)
    assert tree(out) == {placed: b"second"}


# --- what is there already


def test_a_file_with_the_right_content_is_adopted(tmp_path: Path, m: Metadir, site: Site) -> None:
    offer(m, site, "a/1.txt", "a/2.txt")
    out = tmp_path / "out"
    (out / "a").mkdir(parents=True)
    (out / "a" / "1.txt").write_bytes(b"a/1.txt")
    inode = (out / "a" / "1.txt").stat().st_ino
    result = m.download(out)
    assert (result.downloaded, result.present, result.failed, result.bytes) == (1, 1, 0, 7)
    assert site.seen == [f"/{key(b'a/2.txt')}"]
    assert (out / "a" / "1.txt").stat().st_ino == inode
    assert path_of(m, "a/1.txt") == "a/1.txt"


@pytest.mark.parametrize("content", [b"", b"my own notes"])
def test_a_users_own_file_is_never_overwritten(
    tmp_path: Path, m: Metadir, site: Site, content: bytes
) -> None:
    offer(m, site, "a.txt", "b.txt")
    out = tmp_path / "out"
    (out / "b.txt").mkdir(parents=True)
    (out / "b.txt" / "own").write_bytes(content)
    (out / "a.txt").write_bytes(content)
    assert m.download(out).downloaded == 2
    found = tree(out)
    assert (found.pop("a.txt"), found.pop("b.txt/own")) == (content, content)
    assert found == {str(path_of(m, name)): name.encode() for name in ("a.txt", "b.txt")}
    assert str(path_of(m, "a.txt")).startswith("a-")


def test_a_users_own_file_that_came_between_two_tries_is_not_overwritten(
    tmp_path: Path, m: Metadir, site: Site
) -> None:
    offer(m, site, "a.txt")
    site.put(f"/{key(b'a.txt')}", Answer(status=404), b"a.txt")
    out = tmp_path / "out"
    assert m.download(out).failed == 1
    (out / "a.txt").write_bytes(b"got it by mail")
    make_due(m)
    assert m.download(out).downloaded == 1
    assert (out / "a.txt").read_bytes() == b"got it by mail"
    assert len(tree(out)) == 2


def test_a_users_own_file_that_came_during_the_fetch_is_not_overwritten_then_or_later(
    tmp_path: Path, opened: Open, site: Site
) -> None:
    m = opened(config=f"{{metadata: {{unique: id}}, remote: {{site: '{site.url}/x'}}}}")
    out = tmp_path / "out"
    site.put("/x", b"first")
    site.before = lambda path: (out / "a.txt").write_bytes(b"just now") and None
    m.files.upsert({"id": "17", "file_name": "a.txt", "content_hash": key(b"first")})
    assert m.download(out).downloaded == 1
    placed = str(path_of(m, "a.txt"))
    assert tree(out) == {"a.txt": b"just now", placed: b"first"}
    site.put("/x", b"second")
    m.files.upsert({"id": "17", "content_hash": key(b"second")})
    assert m.download(out).downloaded == 1
    assert tree(out) == {"a.txt": b"just now", placed: b"second"}


def test_when_all_places_are_taken_it_is_a_failure(tmp_path: Path, m: Metadir, site: Site) -> None:
    offer(m, site, "a.txt")
    out = tmp_path / "out"
    out.mkdir()
    for name in ("a.txt", f"a-{hashlib.sha256(key(b'a.txt').encode()).hexdigest()[:12]}.txt"):
        (out / name).write_bytes(b"own")
    assert m.download(out).failed == 1
    assert "has no place in" in errors(m)[key(b"a.txt")]
    assert set(tree(out).values()) == {b"own"}
    assert site.seen == [], "nothing is fetched that has no place"


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("a", "outside"),
        ("a/x.txt", "outside/theirs.txt"),
        ("a/x.txt", "outside/new.txt"),
        ("a", "outside/new"),
    ],
)
def test_a_link_out_of_the_folder_is_not_followed(
    tmp_path: Path, m: Metadir, site: Site, link: str, target: str
) -> None:
    offer(m, site, "a/x.txt", "b/y.txt")
    outside, out = tmp_path / "outside", tmp_path / "out"
    outside.mkdir()
    (outside / "theirs.txt").write_bytes(b"theirs")
    (out / link).parent.mkdir(parents=True)
    (out / link).symlink_to(tmp_path / target)
    result = m.download(out)
    assert (result.downloaded, result.failed) == (1, 1)
    assert tree(outside) == {"theirs.txt": b"theirs"}
    assert "symbolic link: remove the link" in errors(m)[key(b"a/x.txt")]
    (out / link).unlink()
    make_due(m)
    assert m.download(out).downloaded == 1


def test_the_destination_itself_may_be_a_link_and_hold_links(tmp_path: Path, m: Metadir, site: Site) -> None:
    offer(m, site, "a/x.txt", "circle/x.txt")
    (tmp_path / "disk" / "elsewhere").mkdir(parents=True)
    (tmp_path / "disk" / "a").symlink_to("elsewhere")
    (tmp_path / "disk" / "circle").symlink_to("circle")
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    assert m.download(tmp_path / "out").downloaded == 2
    assert (tmp_path / "disk" / str(path_of(m, "circle/x.txt"))).read_bytes() == b"circle/x.txt"
    assert (tmp_path / "disk" / "elsewhere" / "x.txt").read_bytes() == b"a/x.txt"


# --- the destination


@pytest.mark.parametrize(
    "dest",
    ["client/_mmmeta", "client/_mmmeta/x", "client/x/../_mmmeta/y", "link", "link/x", "other/_MMMETA/x"],
)
def test_a_destination_inside_a_metadir_is_refused(tmp_path: Path, m: Metadir, site: Site, dest: str) -> None:
    offer(m, site, "a.txt")
    (tmp_path / "link").symlink_to(m.paths.root)
    before = set(tree(tmp_path))
    for download in (m.download, next(iter(m.files)).download):
        with pytest.raises(RefusedError, match="is inside a metadir"):
            download(tmp_path / dest)
    assert {name for name in tree(tmp_path) if "state.db" not in name} <= before
    assert not (m.paths.root / "x").exists()


def test_the_folder_of_the_metadir_may_be_the_destination(tmp_path: Path, m: Metadir, site: Site) -> None:
    offer(m, site, "_mmmeta/config.yml", "_mmmeta/_store/local_x", "a.txt")
    config = m.paths.config.read_bytes()
    assert m.download(m.path).downloaded == 3
    assert m.paths.config.read_bytes() == config
    assert "local_x" not in m.store
    assert (m.path / "a.txt").read_bytes() == b"a.txt"


@pytest.mark.parametrize("dest", ["file", "file/below"])
def test_a_destination_that_is_a_file_is_an_error(tmp_path: Path, m: Metadir, site: Site, dest: str) -> None:
    offer(m, site, "a.txt")
    (tmp_path / "file").write_bytes(b"own")
    with pytest.raises(OSError, match="file"):
        m.download(tmp_path / dest)
    assert (tmp_path / "file").read_bytes() == b"own"
    assert list(m.failures("downloaded")) == []


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that nobody can write to")
def test_a_destination_that_takes_no_files_is_a_failure_of_each_document(m: Metadir, site: Site) -> None:
    offer(m, site, "a.txt", "self/b.txt")
    result = m.download("/proc")
    assert (result.downloaded, result.failed) == (0, 2)
    assert all("Error: " in error for error in errors(m).values())


CHILD = """
import resource, signal, sys
from mmmeta_core import mmmeta
path, dest, most = sys.argv[1:]
if int(most):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(most), int(most)))
with mmmeta(path) as m:
    print(m.download(dest, workers=4))
"""


def child(m: Metadir, dest: Path, most: int = 0) -> subprocess.Popen[str]:
    """Download in a process of its own, in which no file can be longer than `most` bytes."""
    command = [sys.executable, "-c", CHILD, str(m.path), str(dest), str(most)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_document_that_does_not_fit_on_the_disk_is_a_failure_and_the_others_come(
    tmp_path: Path, m: Metadir, site: Site
) -> None:
    large = b"x" * 3_000_000
    site.put(f"/{key(large)}", large)
    m.files.insert(row("large.bin", large))
    offer(m, site, *(f"{n}.txt" for n in range(8)))
    process = child(m, tmp_path / "out", most=2_000_000)
    printed, said = process.communicate(timeout=60)
    assert "downloaded=8, present=0, failed=1" in printed, said
    assert "File too large" in errors(m)[key(large)]
    assert len(tree(tmp_path / "out")) == 8, "nothing of the large one stays"
    make_due(m)
    assert m.download(tmp_path / "out").downloaded == 1


# --- kills and company


@pytest.mark.parametrize("moment", ["asked", "half of the body sent"])
def test_a_kill_loses_nothing_and_what_is_there_is_not_fetched_again(
    tmp_path: Path, m: Metadir, site: Site, moment: str
) -> None:
    names = [f"{n % 7}/{n}.txt" for n in range(DOCUMENTS)]
    offer(m, site, *names)
    out, deadly = tmp_path / "out", DOCUMENTS // 2
    lock, reached = threading.Lock(), threading.Event()
    process: list[subprocess.Popen[str]] = []
    if moment != "asked":
        name = names[-1]
        site.put(f"/{key(name.encode())}", Answer(name.encode(), cut=3, trickles=True))
        last = f"/{key(name.encode())}"
        m.files.upsert(content_hash=key(name.encode()), file_name=".tmp-0.txt")

    def kill(path: str) -> None:
        with lock:
            is_time = path == last if moment != "asked" else len(site.seen) == deadly
            if is_time and moment == "asked":
                process[0].send_signal(signal.SIGKILL)
            if is_time:
                reached.set()

    site.before = kill
    process.append(child(m, out))
    assert reached.wait(60)
    if moment != "asked":
        while not list(out.rglob(".tmp-*")):
            assert process[0].poll() is None
        process[0].send_signal(signal.SIGKILL)
    process[0].communicate(timeout=60)
    assert process[0].returncode == -signal.SIGKILL
    site.before = lambda path: None
    if moment != "asked":
        site.put(last, names[-1].encode())
    before = {name for name in tree(out) if "/.tmp-" not in f"/{name}"}
    for name in before:
        assert (out / name).read_bytes() in {n.encode() for n in names}, "whole"
    assert m.download(out).downloaded < DOCUMENTS, "what the dead process had in hand is not ours yet"
    make_due(m)
    for left in out.rglob(".tmp-*"):
        os.utime(left, (0, 0))
    assert m.download(out).failed == 0
    assert m.files.count(downloaded=True) == DOCUMENTS
    assert sorted(tree(out).values()) == sorted(name.encode() for name in names), "whole, and no litter"
    asked = Counter(site.seen)
    assert asked.total() <= DOCUMENTS + 4, "only what was in the workers' hands is asked for again"
    assert set(asked) == {f"/{key(name.encode())}" for name in names}


def test_two_clients_can_fill_one_folder_at_once(tmp_path: Path, opened: Open, site: Site) -> None:
    config = f"remote: {{site: '{site.url}/{{content_hash}}'}}"
    clients = [opened(name, config) for name in ("one", "two")]
    names = [f"{n}.txt" for n in range(40)]
    for client in clients:
        offer(client, site, *names)
    out = tmp_path / "out"
    threads = [threading.Thread(target=client.download, args=(out,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tree(out) == {name: name.encode() for name in names}
    for client in clients:
        assert errors(client) == {}
        assert {file["downloaded_path"] for file in client.files} == set(names)


def test_two_runs_of_one_client_fetch_each_document_once(tmp_path: Path, m: Metadir, site: Site) -> None:
    offer(m, site, *(f"{n}.txt" for n in range(120)))
    processes = [child(m, tmp_path / "out") for _ in range(2)]
    for process in processes:
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
    assert m.download(tmp_path / "out").left == 0
    assert set(Counter(site.seen).values()) == {1}
    assert m.files.count(downloaded=True) == len(tree(tmp_path / "out")) == 120


# --- one document


def one(m: Metadir, name: str) -> File:
    found = m.files.find_one(file_name=name)
    assert found is not None
    return found


def test_one_document_is_downloaded_and_no_column_is_set(tmp_path: Path, m: Metadir, site: Site) -> None:
    offer(m, site, "a/x.txt")
    file = one(m, "a/x.txt")
    for _ in range(2):
        path = file.download(tmp_path / "out")
        assert path == tmp_path / "out" / "a" / "x.txt"
        assert path.read_bytes() == b"a/x.txt"
    assert len(site.seen) == 1
    assert "downloaded" not in m.files.columns
    path.unlink()
    assert file.download(str(tmp_path / "out")).read_bytes() == b"a/x.txt"
    assert m.download(tmp_path / "out").present == 1


def test_one_document_that_can_not_be_had_raises(tmp_path: Path, m: Metadir, site: Site) -> None:
    offer(m, site, "gone", "wrong")
    site.put(f"/{key(b'gone')}", Answer(status=404))
    site.put(f"/{key(b'wrong')}", b"something else")
    with pytest.raises(RemoteNotFoundError):
        one(m, "gone").download(tmp_path / "out")
    with pytest.raises(DocumentError, match="another hash"):
        one(m, "wrong").download(tmp_path / "out")
    assert tree(tmp_path / "out") == {}


def test_a_document_of_an_archive_is_opened_and_downloaded_by_hand(
    tmp_path: Path, remote_url: str, opened: Open
) -> None:
    open_remote(remote_url).create("d/a b.txt", b"d/a b.txt")
    publish(remote_url, row("d/a b.txt"), path=tmp_path / "publisher")
    m = opened(remote=remote_url)
    m.sync()
    file = one(m, "d/a b.txt")
    with file.open() as stream:
        assert stream.read() == b"d/a b.txt"
    assert file.download(tmp_path / "out").read_bytes() == b"d/a b.txt"


def test_a_content_hash_beside_another_key_is_verified_too(opened: Open, tmp_path: Path) -> None:
    (tmp_path / "remote").mkdir()
    for name in ("right", "wrong"):
        (tmp_path / "remote" / name).write_bytes(b"right")
    m = opened(config="metadata: {unique: id}", remote=tmp_path / "remote")
    m.files.insert_many({**row(name, name.encode()), "id": name} for name in ("right", "wrong"))
    assert (m.download(tmp_path / "out").downloaded, [one.key for one in m.failures("downloaded")]) == (
        1,
        ["wrong"],
    )


def test_an_archive_that_does_not_answer_stops_the_run_and_blames_no_document(
    opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    m = opened(remote="s3://bucket/x?endpoint=http://127.0.0.1:9")
    m.files.insert_many(row(f"{number}.txt") for number in range(20))
    with pytest.raises(UnavailableError, match=r"check the endpoint and the network"):
        m.download(tmp_path / "out")
    assert list(m.failures("downloaded")) == []
    assert m.files.count(downloaded=False) == 20
