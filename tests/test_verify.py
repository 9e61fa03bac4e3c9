"""Verify: each kind of damage, at the remote and here, is found, named and said how to mend; nothing is changed."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from metadirs import HEAD, LOG, content, edit_head, overwrite, publish, sql, swap, the_one
from shell import Result
from shell import mmmeta as shell

from mmmeta_core import Metadir, RemoteNotFoundError, mmmeta
from mmmeta_core.remotes import Remote, open_remote
from mmmeta_core.verify import fill


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Metadir]:
    """A client that is whole, has three revisions and one download; its databases are closed."""
    (tmp_path / "remote").mkdir()
    publish(tmp_path, str(tmp_path / "remote")).close()
    with mmmeta(tmp_path / "client", remote=tmp_path / "remote") as m:
        m.sync()
        m.download(tmp_path / "downloads", file_name="1.pdf")
        m.close()
        yield m


def test_what_is_whole_is_looked_at_and_not_changed(tmp_path: Path, remote_url: str) -> None:
    with publish(tmp_path, remote_url) as publisher, mmmeta(tmp_path / "client", remote=remote_url) as m:
        m.sync()
        m.download(tmp_path / "downloads", file_name="1.pdf")
        m.store["local_note"] = "mine"
        m.close()
        before = content(tmp_path)
        found = m.verify()
        assert found.whole
        assert (found.revision, found.remote_revision, found.segments, found.databases) == (3, 3, 3, 2)
        assert (found.documents, found.elsewhere, found.unnamed, found.downloads) == (3, 0, 0, 1)
        assert found.store_values == len(m.store) == 3
        assert content(tmp_path) == before
        assert publisher.verify().whole

        remote = open_remote(remote_url)
        remote.remove(LOG.format(3))
        remote.remove(HEAD)
        remote.write("1.pdf", b"longer than it was")
        found = m.verify()
        assert sorted(finding.subject.removeprefix(f"{remote.url}/") for finding in found.findings) == [
            "1.pdf",
            HEAD,
            LOG.format(3),
        ]


def test_what_waits_for_its_publication_is_not_looked_for(alone: Metadir, tmp_path: Path) -> None:
    with mmmeta(tmp_path / "publisher", remote=alone.remote) as publisher:
        publisher.files.insert(content_hash="new", file_name="not there yet.pdf")
        found = publisher.verify()
        assert (found.whole, found.documents) == (True, 3)


AT_THE_REMOTE: dict[str, tuple[Callable[[Remote], object], str, str]] = {
    "a gap": (lambda r: r.remove(LOG.format(2)), LOG.format(2), "is missing"),
    "a gap of two": (lambda r: [r.remove(LOG.format(n)) for n in (1, 2)], LOG.format(1), "up to 2 are missing"),
    "another newest segment": (lambda r: swap(r, LOG.format(3), LOG.format(2)), LOG.format(3), "another hash"),
    "no head": (lambda r: r.remove(HEAD), HEAD, "is missing"),
    "a damaged head": (lambda r: r.write(HEAD, b"{"), HEAD, "is damaged"),
    "a head of the future": (lambda r: edit_head(r, format=9), HEAD, "newer format"),
    "a head ahead": (lambda r: edit_head(r, revision=5), HEAD, "names revision 5, the log ends at 3"),
    "another archive": (lambda r: edit_head(r, archive="other"), HEAD, "belongs to another archive"),
    "a head with another hash": (lambda r: edit_head(r, digest="00"), HEAD, "names another hash for segment 3"),
    "a document gone": (lambda r: r.remove("2.pdf"), "2.pdf", "is missing"),
    "a document cut off": (lambda r: r.write("2.pdf", b"doc"), "2.pdf", "has 3 bytes"),
}  # fmt: skip


@pytest.mark.parametrize("damage", AT_THE_REMOTE)
def test_damage_at_the_remote_is_found(alone: Metadir, damage: str) -> None:
    do, subject, what = AT_THE_REMOTE[damage]
    assert alone.remote is not None
    do(alone.remote)
    finding = the_one(alone.verify())
    assert finding.subject == f"{alone.remote.url}/{subject}"
    assert what in finding.what


@pytest.mark.parametrize("damage", ["no head", "a damaged head"])
def test_a_head_is_mended_as_the_finding_says(alone: Metadir, tmp_path: Path, damage: str) -> None:
    assert alone.remote is not None
    AT_THE_REMOTE[damage][0](alone.remote)
    assert "push once more" in the_one(alone.verify()).mend
    alone.remote.remove(HEAD)
    with mmmeta(tmp_path / "publisher", remote=alone.remote) as publisher:
        publisher.push()
    assert alone.verify().whole


def test_a_remote_that_was_set_back_is_found(alone: Metadir) -> None:
    remote = alone.remote
    assert remote is not None
    remote.remove(LOG.format(3))
    remote.remove(HEAD)
    missing, set_back = sorted(alone.verify().findings, key=lambda finding: finding.subject)
    assert missing.subject.endswith(HEAD)
    assert "set back" in set_back.what
    assert set_back.subject.endswith(LOG.format(3))


HERE: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "no catalog": ("meta.db", Path.unlink, "is missing"),
    "a catalog that is text": ("meta.db", lambda p: p.write_text("text " * 999), "can't be read"),
    "a catalog with a damaged page": ("meta.db", lambda p: overwrite(p, 4096), "is damaged"),
    "a catalog of the future": ("meta.db", lambda p: sql(p, "PRAGMA user_version=9"), "has format 9"),
    "a catalog of another program": ("meta.db", lambda p: sql(p, "DROP TABLE mmmeta_info"), "not written by"),
    "another key in the catalog": ("meta.db", lambda p: sql(p, "UPDATE mmmeta_info SET value='id' WHERE key='unique'",
        "ALTER TABLE files RENAME content_hash TO id"), "is keyed by 'id'"),
    "a state that is text": ("state.db", lambda p: p.write_text("text " * 999), "can't be read"),
    "a state with a damaged page": ("state.db", lambda p: overwrite(p, 4096), "is damaged"),
    "a state of the future": ("state.db", lambda p: sql(p, "PRAGMA user_version=9"), "has format 9"),
    "another key in the state": ("state.db", lambda p: sql(p, "UPDATE mmmeta_info SET value='id' WHERE key='unique'",
        "ALTER TABLE files RENAME content_hash TO id"), "is keyed by 'id'"),
    "settings that are no YAML": ("config.yml", lambda p: p.write_text("metadata: ["), "can't be used"),
    "a store value that is not text": ("_store/note", lambda p: p.write_bytes(b"\xff"), "can't be read"),
    "a store value that is no value": ("_store/note", lambda p: p.write_text("9" * 9999), "can't be read"),
}  # fmt: skip


@pytest.mark.parametrize("damage", HERE)
def test_damage_here_is_found_and_not_mended_by_looking(alone: Metadir, damage: str) -> None:
    name, do, what = HERE[damage]
    path = alone.paths.root / name
    do(path)
    before = content(alone.path)
    finding = the_one(alone.verify())
    assert finding.subject == str(path)
    assert what in finding.what
    if "damaged" in damage or "text" in damage:
        assert ("backup" in finding.mend) == (name == "state.db"), "only a catalog may be thrown away"
    assert alone.verify(remote=False).findings == (finding,)
    assert content(alone.path) == before


def test_several_findings_come_together(alone: Metadir, tmp_path: Path) -> None:
    (tmp_path / "remote" / "2.pdf").unlink()
    (tmp_path / "remote" / HEAD).unlink()
    (tmp_path / "downloads" / "1.pdf").unlink()
    (alone.paths.store / "note").write_bytes(b"\xff")
    assert len(alone.verify().findings) == 4


def test_what_a_killed_writer_left_is_no_damage(alone: Metadir) -> None:
    copy = alone.path.parent / "copy"
    with closing(sqlite3.connect(alone.paths.meta, isolation_level=None)) as writer:
        writer.execute("PRAGMA cache_size=1")
        writer.execute("BEGIN IMMEDIATE")
        rows = [(f"k{n}", "x" * 500) for n in range(500)]
        writer.executemany("INSERT INTO files (content_hash, file_name) VALUES (?, ?)", rows)
        shutil.copytree(alone.path, copy)
        writer.execute("ROLLBACK")
    assert (copy / "_mmmeta" / "meta.db-journal").stat().st_size > 0
    with mmmeta(copy, remote=alone.remote) as m:
        assert m.verify(documents=None).whole


def test_downloads_that_are_gone_or_changed_are_found(alone: Metadir, tmp_path: Path) -> None:
    path = tmp_path / "downloads" / "1.pdf"
    path.write_bytes(b"document 9")
    changed = the_one(alone.verify())
    assert (changed.subject, "another hash" in changed.what) == (str(path), True)
    path.unlink()
    gone = the_one(alone.verify())
    assert (gone.subject, "is missing" in gone.what) == (str(path), True)
    assert alone.verify(downloads=0).whole

    for file in alone.files.find(downloaded=True):  # as the finding says
        file["downloaded"] = False
        file.save()
    alone.download(path.parent, file_name="1.pdf")
    assert alone.verify().whole


def test_a_download_whose_key_is_no_digest_only_has_to_exist(tmp_path: Path) -> None:
    (tmp_path / "remote").mkdir()
    for name in ("x.pdf", "gone.pdf"):
        (tmp_path / "remote" / name).write_bytes(b"x")
    with mmmeta(tmp_path / "publisher", remote=tmp_path / "remote") as publisher:
        publisher.files.insert(content_hash="x", file_name="x.pdf")
        publisher.files.insert(content_hash="gone", file_name="gone.pdf")
        publisher.push()
        with mmmeta(tmp_path / "client", remote=tmp_path / "remote") as m:
            m.sync()
            assert m.download(tmp_path / "in").downloaded == 2
            for path in (tmp_path / "in").iterdir():
                path.write_bytes(b"another")
            assert m.verify().whole
            publisher.files.delete(content_hash="gone")
            publisher.push()
            m.sync()
            (tmp_path / "in" / "gone.pdf").unlink()
            found = m.verify()
            assert found.whole, "nobody misses the download of a document that the publisher deleted"
            assert found.downloads == 1


def test_what_is_not_looked_at_is_counted(tmp_path: Path) -> None:
    (tmp_path / "remote").mkdir()
    with mmmeta(tmp_path / "publisher", remote=tmp_path / "remote") as m:
        m.files.insert(content_hash="unnamed", title="no file")
        m.files.insert(content_hash="web", file_name="w.pdf", public_url="https://example.org/w.pdf")
        m.files.insert(content_hash="gone", file_name="gone.pdf")
        m.files.insert(content_hash="out", file_name="../out.pdf")
        m.files.delete(content_hash="gone")
        m.push()
        found = m.verify(documents=None)
        assert (found.documents, found.unnamed, found.elsewhere) == (2, 1, 1)
        assert "../out.pdf" in the_one(found).subject
        m.paths.config.write_text("remote: {url: 'https://example.org/{title}'}", encoding="utf-8")
        (tmp_path / "remote" / "_mmmeta" / "config.yml").unlink(missing_ok=True)
        found = m.verify(documents=None)
        assert found.elsewhere == 1, "a template that needs what the document lacks names no place"


@pytest.mark.parametrize(("limit", "looked_at"), [(0, 0), (2, 2), (600, 600), (None, 1201), (5000, 1201)])
def test_a_sample_or_all_of_the_documents(tmp_path: Path, limit: int | None, looked_at: int) -> None:
    (tmp_path / "remote").mkdir()
    seen: list[int] = []
    with mmmeta(tmp_path / "publisher", remote=tmp_path / "remote") as m:
        m.files.insert_many({"content_hash": f"k{n}", "file_name": "same.pdf"} for n in range(1201))
        m.push()
        (tmp_path / "remote" / "same.pdf").touch()
        found = m.verify(documents=limit, progress=lambda done, total: seen.append(done))
        assert found.whole
        assert found.documents == len(seen) == looked_at
        (tmp_path / "remote" / "same.pdf").unlink()
        assert len(m.verify(documents=limit).findings) == looked_at


def test_a_client_that_is_behind_is_told_to_pull_first(alone: Metadir, tmp_path: Path) -> None:
    with publish(tmp_path, str(tmp_path / "remote"), range(4, 6)):
        found = alone.verify()
        assert found.whole
        assert (found.revision, found.remote_revision) == (3, 5)
        (tmp_path / "remote" / "1.pdf").unlink()
        assert "2 revisions behind, so pull" in the_one(alone.verify()).mend


def test_without_a_remote_its_own_log_is_looked_at(tmp_path: Path) -> None:
    with mmmeta(tmp_path / "archive") as m:
        m.files.insert(content_hash="a", file_name="a.pdf")
        assert m.verify().remote_revision is None
        m.push()
        found = m.verify()
        assert (found.whole, found.remote_revision, found.documents) == (True, 1, 0)
        (tmp_path / "archive" / LOG.format(1)).unlink()
        names = {finding.subject.rpartition("/")[2] for finding in m.verify().findings}
        assert names == {"head.json", LOG.format(1).rpartition("/")[2]}


def test_a_remote_that_is_gone_raises(alone: Metadir, tmp_path: Path) -> None:
    (tmp_path / "remote").rename(tmp_path / "elsewhere")
    with pytest.raises(RemoteNotFoundError, match="mount it"):
        alone.verify()
    assert alone.verify(remote=False).whole


def test_how_full_columns_are(tmp_path: Path) -> None:
    with mmmeta(tmp_path) as m:
        m.files.insert_many(
            [{"content_hash": "a", "title": "A"}, {"content_hash": "b"}, {"content_hash": "c"}]
        )
        m.files.delete(content_hash="c")
        with m._replica.catalog() as catalog:
            found = fill(catalog, ["title", "content-hash", "nothing"])
    assert found.documents == 2
    assert found.values == {"title": 1, "content-hash": 2, "nothing": None}


# --- the command


def command(m: Metadir, *arguments: str) -> Result:
    assert m.remote is not None
    return shell("--metadir", str(m.path), "--remote", m.remote.url, "verify", *arguments, cwd=m.path)


def test_the_command_says_what_was_looked_at(alone: Metadir) -> None:
    done = command(alone, "--all")
    assert (done.returncode, done.stderr) == (0, "")
    assert "revision 3, remote_revision 3" in done.stdout
    assert json.loads(command(alone, "--documents", "1", "--json").stdout)["documents"] == 1


def test_the_command_ends_with_1_and_says_how_to_mend(alone: Metadir, tmp_path: Path) -> None:
    (tmp_path / "remote" / "2.pdf").unlink()
    (alone.paths.store / "note").write_bytes(b"\xff")
    done = command(alone)
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 2
    assert "2.pdf is missing" in done.stdout
    assert done.stderr == f"mmmeta: 2 found wrong in {alone.path}; the output says how to mend each\n"
    done = command(alone, "--json")
    assert done.returncode == 1
    assert {"subject", "what", "mend", "code", "why"} == set(json.loads(done.stdout)["findings"][0])
