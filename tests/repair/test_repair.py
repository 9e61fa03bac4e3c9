"""Repair: what can be proven is mended, in a folder and in a bucket; nothing else is touched, and a kill loses nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from metadirs import (
    HEAD,
    KEYS,
    LOG,
    META,
    PUBLISHED,
    SELECT,
    asides,
    codes,
    content,
    copied,
    edit_head,
    flip,
    head_of,
    mended,
    overwrite,
    own,
    remote_of,
    sql,
    text_of,
    the_one,
)
from shell import environment
from shell import mmmeta as shell

from mmmeta_core import Metadir, mmmeta
from mmmeta_core.remotes import Remote

CATALOG: dict[str, Callable[[Path], object]] = {
    "gone": Path.unlink,
    "text": lambda p: p.write_text("text " * 999),
    "a page": lambda p: overwrite(p, 4096),
    "cut off": lambda p: p.write_bytes(p.read_bytes()[:-5000]),
    "a row": lambda p: sql(p, "UPDATE files SET size = 1"),
    "its place": lambda p: sql(p, "UPDATE mmmeta_info SET value = 'x' WHERE key = 'digest'"),
    "another program's": lambda p: sql(p, "DROP TABLE mmmeta_info"),
}


@pytest.mark.parametrize("damage", CATALOG)
def test_a_catalog_is_rebuilt_from_the_log(site: Metadir, damage: str) -> None:
    before = own(site)
    CATALOG[damage](site.paths.meta)
    damaged = site.paths.meta.read_bytes() if damage != "gone" else b""
    mended(site, "meta.db")
    assert set(sql(site.paths.meta, SELECT)) == set(sql(site.paths.state, SELECT)) == PUBLISHED
    assert own(site) == before
    kept = [(site.paths.root / name).read_bytes() for name in asides(site.path)]
    assert kept == ([damaged] if damage != "gone" else [])
    assert site.update().updated == 0
    assert site.pull().unchanged


def test_what_waits_to_be_published_is_carried_over(site: Metadir, tmp_path: Path) -> None:
    with mmmeta(tmp_path / "publisher", remote=site.remote) as publisher:
        publisher.files.insert(content_hash="new", title="New")
        publisher.files.upsert({"content_hash": KEYS[1], "title": "One"}, ["content_hash"])
        publisher.files.delete(content_hash=KEYS[2])
        publisher.store["note"] = "changed"
        publisher.close()
        sql(publisher.paths.meta, f"UPDATE files SET size = 7 WHERE content_hash = '{KEYS[3]}'")
        done = mended(publisher, "meta.db")
        assert "3 changes that wait to be published were carried over" in done.repaired[0].done
        assert publisher.store["note"] == "changed"
        assert publisher.push().documents == 3
    site.sync()
    found = set(sql(site.paths.meta, "SELECT content_hash, title, size, __deleted_at IS NULL FROM files"))
    assert found == {
        ("new", "New", None, 1),
        (KEYS[1], "One", 10, 1),
        (KEYS[2], None, 10, 0),
        (KEYS[3], None, 10, 1),
    }
    assert site.store["note"] == "changed"


def test_a_change_that_can_not_be_read_is_counted_and_the_others_are_carried_over(
    site: Metadir, tmp_path: Path
) -> None:
    with mmmeta(tmp_path / "publisher", remote=site.remote) as publisher:
        publisher.files.insert_many(
            [{"content_hash": "a", "title": "A"}, {"content_hash": "b", "title": "B"}]
        )
        publisher.close()
        sql(publisher.paths.meta, "UPDATE mmmeta_pending SET key = 'nobody' WHERE key = 'a'")
        done = mended(publisher, "meta.db", "state.db")
        assert (
            "1 changes that wait to be published were carried over, 1 could not be read"
            in done.repaired[0].done
        )
        assert publisher.inspect().pending == 1
        (gone,) = publisher.files.find(content_hash="a", deleted=True)
        assert gone["title"] == "A", "nothing is deleted for good"


def test_a_catalog_that_is_behind_comes_to_the_newest_revision_with_the_store(
    site: Metadir, tmp_path: Path
) -> None:
    with mmmeta(tmp_path / "publisher", remote=site.remote) as publisher:
        publisher.store["note"] = "newer"
        publisher.files.insert(content_hash="four", file_name="1.pdf")
        publisher.push()
    overwrite(site.paths.meta, 4096)
    site.verify(repair=True)
    assert (site.revision, site.store["note"]) == (5, "newer")
    assert site.update().added == 1
    assert site.verify(deep=True).findings == ()


HINTS: dict[str, tuple[Callable[[Remote], object], list[str]]] = {
    "no head": (lambda r: r.remove(HEAD), ["head.json"]),
    "half a head": (lambda r: r.write(HEAD, b'{"format": 1'), ["head.json"]),
    "a head's hash": (lambda r: edit_head(r, digest="0"), ["head.json"]),
    "a head's archive": (lambda r: edit_head(r, archive="x"), ["head.json"]),
    "a head's values": (lambda r: edit_head(r, store={"note": "x"}), ["head.json"]),
    "a snapshot's bit": (lambda r: flip(r, META, 5000), ["meta.db"]),
    "no snapshot": (lambda r: r.remove(META), ["meta.db"]),
    "a store value": (lambda r: r.write("_mmmeta/_store/note", b"x"), ["note"]),
    "a value too many": (lambda r: r.write("_mmmeta/_store/more", b"x"), ["more"]),
}


@pytest.mark.parametrize("damage", HINTS)
def test_what_repeats_the_log_is_written_anew_from_it(site: Metadir, damage: str, tmp_path: Path) -> None:
    remote = remote_of(site)
    before, segments = head_of(remote), [remote.read(LOG.format(n)) for n in (1, 2, 3, 4)]
    do, subjects = HINTS[damage]
    do(remote)
    mended(site, *subjects)
    now = head_of(remote)
    snapshot = now.pop("snapshot")
    before.pop("snapshot")
    assert now == before
    assert text_of(remote, "_mmmeta/_store/note") == "kept"
    assert "_mmmeta/_store/more" not in set(remote.names("_mmmeta/_store/"))
    assert [remote.read(LOG.format(n)) for n in (1, 2, 3, 4)] == segments
    assert snapshot is not None
    for revision in range(1, snapshot["revision"] + 1):
        remote.remove(LOG.format(revision))  # so that the snapshot is needed
    with mmmeta(tmp_path / "fresh", remote=remote) as fresh:
        fresh.pull()
        assert set(sql(fresh.paths.meta, SELECT)) == PUBLISHED


NEVER: dict[str, tuple[Callable[[Remote], object], str]] = {
    "a segment's bit": (lambda r: flip(r, LOG.format(2), 40), "a segment is never made up"),
    "a gap": (lambda r: r.remove(LOG.format(2)), "a segment is never made up"),
    "a document": (lambda r: r.write("2.pdf", b"document 9"), "documents in the archive are the publisher's"),
    "no document": (lambda r: r.remove("2.pdf"), "documents in the archive are the publisher's"),
    "a newer head": (lambda r: edit_head(r, format=9), "a newer mmmeta has to do it"),
    "a head that is ahead": (lambda r: edit_head(r, revision=9), "which of the two histories is to go on"),
}


@pytest.mark.parametrize("damage", NEVER)
def test_what_can_not_be_proven_is_left_alone_and_says_why(site: Metadir, damage: str) -> None:
    remote = remote_of(site)
    do, why = NEVER[damage]
    do(remote)
    everything = {name: remote.read(name) for name in remote.names("")}
    before = content(site.path)
    left = site.verify(repair=True, hashes=True, documents=None)
    site.close()
    assert why in the_one(left).why
    assert left.repaired == ()
    assert {name: remote.read(name) for name in remote.names("")} == everything
    assert {path: data for path, data in content(site.path).items() if path.name != ".lock"} == {
        path: data for path, data in before.items() if path.name != ".lock"
    }


def test_without_a_whole_log_a_catalog_is_not_rebuilt(site: Metadir) -> None:
    flip(remote_of(site), LOG.format(3), 40)
    overwrite(site.paths.meta, 4096)
    before = site.paths.meta.read_bytes()
    left = {finding.code: finding.why for finding in site.verify(repair=True).findings}
    assert left == {
        "catalog-damaged": "the log has to be there and whole for that",
        "segment-damaged": "a segment is never made up",
    }
    assert site.paths.meta.read_bytes() == before


def test_the_log_after_the_snapshot_is_enough(site: Metadir) -> None:
    snapshot = head_of(remote_of(site))["snapshot"]["revision"]
    assert snapshot < 4
    flip(remote_of(site), LOG.format(1), 40)
    overwrite(site.paths.meta, 4096)
    left = site.verify(repair=True)
    assert codes(left) == ["segment-damaged"]
    assert [one.subject for one in left.repaired] == [str(site.paths.meta)]
    assert set(sql(site.paths.meta, SELECT)) == PUBLISHED


def test_settings_and_stored_values_come_back_as_they_were_published(site: Metadir, tmp_path: Path) -> None:
    text = "metadata:\n  required: [file_name]\n"
    with mmmeta(tmp_path / "publisher", remote=site.remote) as publisher:
        publisher.paths.config.write_text(text, encoding="utf-8")
        publisher.push()
    site.sync()
    site.close()
    site.paths.config.write_text("metadata: [", encoding="utf-8")
    (site.paths.store / "note").write_bytes(b"\xff")
    (site.paths.store / "remote_last_updated").unlink()
    mended(site, "config.yml", "note", "remote_last_updated")
    assert site.paths.config.read_text() == text
    assert (site.store["note"], site.poll().changed) == ("kept", False)
    assert asides(site.path) == ["config.yml.damaged-1", "note.damaged-1"]
    (site.paths.store / "local_mine").write_bytes(b"\xff")
    assert the_one(site.verify(repair=True)).why == "it is no published value"


def test_a_download_is_replaced_by_one_that_has_the_right_hash(site: Metadir, tmp_path: Path) -> None:
    path = tmp_path / "downloads" / "1.pdf"
    remote = remote_of(site)
    for damage in (lambda: path.write_bytes(b"document 9"), path.unlink):
        damage()
        mended(site, "1.pdf")
        assert path.read_bytes() == b"document 1"
    path.write_bytes(b"document 9")
    remote.write("1.pdf", b"document X")
    left = site.verify(repair=True)
    assert "its content has another hash" in the_one(left).why
    assert path.read_bytes() == b"document 9", "what is there stays until a good one has come"
    remote.write("1.pdf", b"document 1")
    shutil.rmtree(path.parent)
    assert "mount it" in the_one(site.verify(repair=True)).why
    assert not path.parent.exists()


def test_all_at_once(anywhere: Metadir, tmp_path: Path) -> None:
    site = anywhere
    remote = remote_of(site)
    before = own(site)
    (tmp_path / "downloads" / "1.pdf").unlink()
    overwrite(site.paths.meta, 0)
    overwrite(site.paths.state, 0, b"x" * 16)
    (site.paths.store / "note").write_bytes(b"\xff")
    remote.remove(HEAD)
    flip(remote, META, 5000)
    mended(site, "1.pdf", "head.json", "meta.db", "note", "state.db")
    assert own(site) == before
    assert set(sql(site.paths.meta, SELECT)) == set(sql(site.paths.state, SELECT)) == PUBLISHED


def test_an_archive_that_is_published_where_it_lies_is_repaired_from_its_own_log(tmp_path: Path) -> None:
    with mmmeta(tmp_path / "archive") as m:
        m.files.insert_many(
            {"content_hash": key, "file_name": f"{n}.pdf", "size": 10} for n, key in KEYS.items()
        )
        m.push()
        m.files.insert(content_hash="waiting")
        m.files.process(lambda file: None, mark="imported", content_hash=KEYS[1])
        m.close()
        overwrite(m.paths.meta, 0, b"x" * 16)
        overwrite(m.paths.state, 0, b"x" * 16)
        (tmp_path / "archive" / HEAD).unlink()
        mended(m, "head.json", "meta.db", "state.db")
        assert {row for row in sql(m.paths.meta, SELECT) if row[0] != "waiting"} == PUBLISHED
        assert [file.key for file in m.files.find(imported=True)] == [KEYS[1]]
        assert m.inspect().pending == 1, "only the file's name was damaged, so what waits can be read"
        m.files.insert(content_hash="next")
        assert m.push().documents == 2
        with mmmeta(tmp_path / "client", remote=tmp_path / "archive") as client:
            client.pull()
            assert len(sql(client.paths.meta, SELECT)) == 5


STEPS = int(os.environ.get("MMMETA_KILLS", "3"))
KILLED = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent.parent)!r})
from killed import Steps; from mmmeta_core import mmmeta
base, deadly = sys.argv[1:]
steps = Steps(int(deadly), base); sys.addaudithook(steps.hear)
with mmmeta(base + "/client", remote=base + "/remote") as m: m.verify(repair=True)
print(steps.taken)
"""


def test_a_repair_that_is_killed_at_any_step_is_done_by_the_next(site: Metadir, tmp_path: Path) -> None:
    def damaged(name: str) -> Metadir:
        m = mmmeta(
            copied(tmp_path / "client", tmp_path / name / "client").parent / "client",
            remote=tmp_path / name / "remote",
        )
        copied(tmp_path / "remote", tmp_path / name / "remote")
        sql(m.paths.meta, "UPDATE files SET size = 1")
        overwrite(m.paths.state, 0, b"x" * 16)
        (tmp_path / name / "remote" / HEAD).unlink()
        return m

    def run(name: str, step: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", KILLED, str(tmp_path / name), str(step)]
        return subprocess.run(command, env=environment(), capture_output=True, text=True)

    before = own(site)
    damaged("whole")
    total = int(run("whole", 0).stdout)
    assert total > 50
    for step in range(1, total, max(total // STEPS, 1)):
        with damaged(f"killed{step}") as m:
            state = m.paths.state.read_bytes()
            assert run(f"killed{step}", step).returncode == -9
            assert m.verify(repair=True, downloads=0).findings == (), step
            m.close()
            assert set(sql(m.paths.meta, SELECT)) == set(sql(m.paths.state, SELECT)) == PUBLISHED, step
            assert own(m) == before, step
            assert state in [path.read_bytes() for path in m.paths.root.glob("state.db.damaged-*")], step


# --- the command


def test_the_command_says_what_it_did_and_ends_with_0_when_all_is_whole(site: Metadir) -> None:
    arguments = ("--metadir", str(site.path), "--remote", remote_of(site).url, "verify", "--repair")
    overwrite(site.paths.meta, 4096)
    told = shell(*arguments, "--dry-run", cwd=site.path)
    assert (told.returncode, told.stdout.count("\n")) == (1, 2)
    assert told.stdout.startswith(f"would be repaired: {site.paths.meta} is damaged (")
    done = shell(*arguments, cwd=site.path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"repaired: {site.paths.meta} is damaged (")
    remote_of(site).remove(LOG.format(2))
    (site.paths.store / "note").write_bytes(b"\xff")
    left = shell(*arguments, "--json", cwd=site.path)
    found = json.loads(left.stdout)
    assert (left.returncode, found["repaired"]) == (1, [])
    assert {one["code"]: one["why"] for one in found["findings"]} == {
        "segment-missing": "a segment is never made up",
        "store": "the log has to be there and whole for that",
    }
    wrong = shell("--metadir", str(site.path), "verify", "--dry-run", cwd=site.path)
    assert wrong.returncode == 2
