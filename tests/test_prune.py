"""What the log loses to retention, and what nobody loses by it."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import orjson
import pytest
from remotes.static import serving
from shell import mmmeta as shell
from test_history import Open, doc, on_folder, open_metadir, remote
from test_sync import Tapped, content, follow, publish, segment, titles

from mmmeta_core import ConfigError, ConflictError, LogError, Metadir, RemoteDeniedError, mmmeta
from mmmeta_core.changelog import Header, digest_of, open_segment, segment_revision, write_segment
from mmmeta_core.database.catalog import open_catalog
from mmmeta_core.head import read_head
from mmmeta_core.prune import PruneResult
from mmmeta_core.remotes import Remote, open_remote

_ = (remote, open_metadir)  # the fixtures


def age(remote: Remote, folder: Path, days: dict[int, float]) -> None:
    """Make the log as if revisions had been published so many days ago. Whoever was there has to begin anew."""
    head = json.loads(content(remote, "_mmmeta/head.json"))
    previous, log_bytes, draft = "", 0, folder / "draft"
    for revision in range(1, head["revision"] + 1):
        remote.fetch(segment(revision), draft)
        with open_segment(draft, "segment") as (header, records):
            kept, deltas = header.__dict__ | {}, list(records)
        at = datetime.now(UTC) - timedelta(days=days.get(revision, 0))
        changed = {"at": at.isoformat(), "previous": previous, "log_bytes": log_bytes}
        draft.unlink()
        written = write_segment(draft, Header(**{**kept, **changed}), deltas)
        remote.write(segment(revision), draft)
        previous, log_bytes = written.digest, log_bytes + written.size
    draft.unlink()
    remote.remove("_mmmeta/meta.db")
    del head["snapshot"]
    remote.write("_mmmeta/head.json", orjson.dumps({**head, "digest": previous, "log_bytes": log_bytes}))


def archive(remote: Remote, tmp_path: Path, days: dict[int, float], revisions: int = 6) -> None:
    with mmmeta(tmp_path / "before", remote=remote) as publisher:
        for number in range(1, revisions + 1):
            publish(publisher, doc("a", title=f"{number}"), doc(f"d{number}", title="once"))
    age(remote, tmp_path, days)
    shutil.rmtree(tmp_path / "before")


def log_of(remote: Remote) -> list[int]:
    return [segment_revision(name) or 0 for name in remote.names("_mmmeta/log/")]


YEARS = {1: 700.0, 2: 600.0, 3: 50.0, 4: 20.0, 5: 800.0}


def test_prune_removes_what_is_old_and_covered(open_metadir: Open, remote: Remote, tmp_path: Path) -> None:
    archive(remote, tmp_path, YEARS)
    m = open_metadir("m")
    told = m.prune(keep_days=30, dry_run=True)
    assert log_of(remote) == [1, 2, 3, 4, 5, 6]
    assert not m.paths.meta.exists()
    result = m.prune(keep_days=30)
    # The fifth says that it is old, but what comes before it stays.
    assert log_of(remote) == [4, 5, 6]
    assert (result.segments, result.first, result.snapshot) == (3, 4, 6)
    assert (told.segments, told.first, told.bytes, told.dry_run) == (3, 4, result.bytes, True)
    assert result.bytes > 0
    again = m.prune(keep_days=30)
    assert again == PruneResult(0, 0, 4, 0, dry_run=False, seconds=0)
    assert [r.revision for r in m.log()] == [6, 5, 4]
    assert [r.revision for r in m.log(limit=1)] == [6]
    assert m.verify().revision == 6


@on_folder
def test_the_newest_segment_always_stays(open_metadir: Open, remote: Remote, tmp_path: Path) -> None:
    archive(remote, tmp_path, dict.fromkeys(range(1, 7), 999.0))
    m = open_metadir("m")
    assert m.prune(keep_days=30).segments == 5
    assert log_of(remote) == [6]
    publish(m, doc("z", title="later"))
    assert follow(open_metadir("client"))["z"] == "later"


@on_folder
def test_who_was_away_for_less_pulls_by_the_log_and_others_take_the_snapshot(
    open_metadir: Open, remote: Remote, tmp_path: Path
) -> None:
    archive(remote, tmp_path, {1: 90, 2: 90})
    head, clients = content(remote, "_mmmeta/head.json"), {}
    for away in (1, 3, 5):
        # A client that pulled when `away` was the newest.
        remote.fetch(segment(away), tmp_path / "one.gz")
        kept = {n: content(remote, segment(n)) for n in range(away + 1, 7)}
        remote.write(
            "_mmmeta/head.json",
            orjson.dumps({**json.loads(head), "revision": away, "digest": digest_of(tmp_path / "one.gz")}),
        )
        for number in kept:
            remote.remove(segment(number))
        clients[away] = open_metadir(f"away{away}")
        assert follow(clients[away])["a"] == str(away)
        (file,) = clients[away].files.find(content_hash="a")
        file["imported"] = True
        file.save()
        for number, data in kept.items():
            remote.write(segment(number), data)
        remote.write("_mmmeta/head.json", head)
    assert open_metadir("m").prune(keep_days=30).segments == 2
    assert log_of(remote) == [3, 4, 5, 6]
    for away, took in (
        (1, True),
        (3, None),
        (5, False),
    ):  # the snapshot is less to transfer than three segments
        result = clients[away].pull()
        assert result.snapshot == (result.snapshot if took is None else took)
        assert (result.segments, result.revision) == (0 if result.snapshot else 6 - away, 6)
        clients[away].update()
        assert titles(clients[away]) == {"a": "6", **{f"d{n}": "once" for n in range(1, 7)}}
        assert clients[away].files.count(imported=True) == 1
        assert clients[away].pull().unchanged


@on_folder
def test_what_waits_at_a_publisher_that_fell_behind_goes_on_top(
    open_metadir: Open, remote: Remote, tmp_path: Path
) -> None:
    late, other = open_metadir("late"), open_metadir("other")
    publish(late, doc("a", title="first", pages=1), doc("b", title="B"))
    late.files.upsert(doc("a", title="mine"))
    late.files.upsert(doc("new", title="mine"))
    late.files.delete(content_hash="b")
    for number in range(3):
        publish(other, doc("a", title=f"theirs {number}", pages=number), doc("b", size=number))
    other.prune(keep_days=0)
    assert log_of(remote) == [4]
    pulled = late.pull()
    assert (pulled.snapshot, pulled.revision, late.inspect().pending) == (True, 4, 3)
    assert late.push().revision == 5
    expected = {"a": "mine", "new": "mine"}
    for m in (late, other, open_metadir("client")):
        assert follow(m) == expected
        (a,) = m.files.find(content_hash="a")
        assert a["pages"] == 2
    assert not late.push().published


@on_folder
def test_the_past_ends_where_the_log_does(open_metadir: Open, remote: Remote, tmp_path: Path) -> None:
    archive(remote, tmp_path, {1: 90, 2: 90, 3: 90})
    m, client = open_metadir("m"), open_metadir("client")
    m.prune(keep_days=30)
    for one in (m, client):
        with pytest.raises(
            LogError, match=r"revision 5 was pruned from .*: the earliest that can be had is 6"
        ):
            one.files.as_of(5)
    publish(m, doc("a", title="7"))
    client.sync()
    assert [file["title"] for file in client.files.as_of(6).find(content_hash="a")] == ["6"]
    assert [change.columns for change in client.diff(6)] == [{"title": ("6", "7")}]
    with pytest.raises(LogError, match="earliest that can be had is 6"):
        client.diff(3)


def test_prune_over_and_over_costs_nothing(open_metadir: Open, remote: Remote, tmp_path: Path) -> None:
    archive(remote, tmp_path, {1: 90})
    open_metadir("m").prune(keep_days=30)
    tapped = Tapped(remote)
    with mmmeta(tmp_path / "m", remote=tapped) as m:
        m.prune(keep_days=30)
    assert {verb for verb, _ in tapped.requests} <= {"read", "fetch", "names"}
    assert len(tapped.requests) <= 6


@on_folder
def test_nothing_is_removed_unless_the_snapshot_was_read_back(
    open_metadir: Open, remote: Remote, tmp_path: Path
) -> None:
    archive(remote, tmp_path, {1: 90, 2: 90})
    tapped = Tapped(remote)

    def spoil(request: tuple[str, str]) -> None:
        if request == ("fetch", "_mmmeta/meta.db"):
            data = content(remote, "_mmmeta/meta.db")
            remote.write("_mmmeta/meta.db", data[:-1] + b"x")

    tapped.before = spoil
    with (
        mmmeta(tmp_path / "m", remote=tapped) as m,
        pytest.raises(ConflictError, match="no segment was removed"),
    ):
        m.prune(keep_days=30)
    assert log_of(remote) == [1, 2, 3, 4, 5, 6]
    tapped.before = lambda request: None
    with mmmeta(tmp_path / "m", remote=tapped) as m:
        assert m.prune(keep_days=30).segments == 2
    assert follow(open_metadir("client"))["a"] == "6"


def test_what_can_not_be_pruned(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    with mmmeta(tmp_path / "m", remote=tmp_path / "site") as m:
        publish(m, doc("a"))
        for days in (-1, float("nan")):
            with pytest.raises(ConfigError, match="is not 0 or more"):
                m.prune(keep_days=days)
        publish(m, doc("b"))
        for many in (1e6, 1e300, float("inf")):
            assert m.prune(keep_days=many).segments == 0
    with (
        serving(tmp_path / "site") as site,
        mmmeta(tmp_path / "client", remote=site.url) as client,
        pytest.raises(RemoteDeniedError, match="read only"),
    ):
        client.prune(keep_days=0)
    (tmp_path / "empty").mkdir()
    with mmmeta(tmp_path / "n", remote=tmp_path / "empty") as m:
        assert m.prune(keep_days=0).segments == 0


def test_an_archive_that_lies_where_it_is_published(tmp_path: Path) -> None:
    with mmmeta(tmp_path / "archive") as m, mmmeta(tmp_path / "old", remote=tmp_path / "archive") as old:
        publish(m, doc("a", title="1"))
        old.sync()
        for number in range(2, 5):
            publish(m, doc("a", title=str(number)))
        m.files.upsert(doc("b", title="waits"))
        result = m.prune(keep_days=0)
        assert (result.segments, result.first, result.snapshot) == (3, 4, 4)
        assert (tmp_path / "archive/_mmmeta/snapshot.db").exists()
        assert follow(old) == {"a": "4"}
        with mmmeta(tmp_path / "new", remote=tmp_path / "archive") as new:
            assert new.pull().snapshot
            new.update()
            assert titles(new) == {"a": "4"}
            assert new.push().revision == 4
        assert m.push().revision == 5
        m.update()
        assert titles(m) == follow(old) == {"a": "4", "b": "waits"}
        # The snapshot is kept up from now on, since it is what newcomers begin with.
        publish(m, doc("a", title="long", text=secrets.token_hex(40_000)))
        head = read_head(open_remote(tmp_path / "archive"))[0]
        assert head is not None
        assert head.snapshot is not None
        assert head.snapshot.revision > 5


def test_a_folder_that_is_worked_in_after_it_was_pruned(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    with mmmeta(tmp_path / "m", remote=tmp_path / "archive") as m:
        publish(m, doc("a", title="1"))
        publish(m, doc("a", title="2"))
        m.prune(keep_days=0)
    with mmmeta(tmp_path / "archive") as here:
        here.update()
        publish(here, doc("a", title="3"))
    with mmmeta(tmp_path / "new", remote=tmp_path / "archive") as new:
        assert follow(new) == {"a": "3"}


STEPS = [int(step) for step in os.environ.get("MMMETA_KILL_STEPS", "1 4").split()]
"""At which of its writes and removals a process is killed; none named: at each."""

KILLED = """
import os, signal, sys
from mmmeta_core import mmmeta
from mmmeta_core.remotes import LocalRemote
class Deadly(LocalRemote):
    left = int(sys.argv[3])
    def step(self, name):
        if "_mmmeta/" in name:
            type(self).left -= 1
            if self.left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
    def remove(self, name):
        self.step(name)
        super().remove(name)
    def write(self, name, source, *, if_match=None):
        self.step(name)
        return super().write(name, source, if_match=if_match)
with mmmeta(sys.argv[1], remote=Deadly(sys.argv[2])) as m:
    m.prune(keep_days=30)
"""


def test_a_killed_prune_leaves_no_gap_and_goes_on(tmp_path: Path) -> None:
    original = tmp_path / "original"
    original.mkdir()
    archive(open_remote(original), tmp_path, {1: 90, 2: 90, 3: 90})
    with mmmeta(tmp_path / "client", remote=original) as client:
        client.sync()
    for steps in STEPS or count():
        base = tmp_path / f"step{steps}"
        shutil.copytree(original, base / "remote")
        shutil.copytree(tmp_path / "client", base / "client")
        code = [sys.executable, "-c", KILLED, str(base / "m"), str(base / "remote"), str(steps)]
        killed = subprocess.run(code, capture_output=True, text=True)
        left = log_of(open_remote(base / "remote"))
        assert left == list(range(left[0], 7))
        with mmmeta(base / "new", remote=base / "remote") as new:
            assert follow(new)["a"] == "6"
        if killed.returncode == 0:
            assert steps == 5, "it writes a snapshot and head.json, and removes three segments"
            break
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        with mmmeta(base / "m", remote=base / "remote") as m:
            m.prune(keep_days=30)
        assert log_of(open_remote(base / "remote")) == [4, 5, 6]


@on_folder
def test_a_snapshot_that_head_does_not_name_yet_is_taken_where_the_log_is_pruned(
    open_metadir: Open, remote: Remote, tmp_path: Path
) -> None:
    m = open_metadir("m")
    publish(m, doc("a", title="1"))
    m.prune(keep_days=0)
    for number in range(2, 5):
        publish(m, doc("a", title=str(number)))
    m.prune(keep_days=0)
    assert log_of(remote) == [4]
    publish(m, doc("a", title="5"))
    # A publisher wrote the next snapshot and was killed before head.json named it.
    with open_catalog(m.paths.meta, "content_hash") as catalog:
        catalog.snapshot(tmp_path / "newer.db")
    newer = (tmp_path / "newer.db").read_bytes()
    remote.write("_mmmeta/meta.db", newer)
    assert follow(open_metadir("client")) == {"a": "5"}
    # A catalog that is worked in is no snapshot, and a snapshot of another archive is not this one's.
    shutil.copyfile(m.paths.meta, tmp_path / "live.db")
    (tmp_path / "elsewhere").mkdir()
    with mmmeta(tmp_path / "p", remote=tmp_path / "elsewhere") as other:
        publish(other, doc("b", title="1"))
        for number in range(2, 6):
            publish(other, doc("b", title=str(number)))
        other.prune(keep_days=0)
    shutil.copyfile(tmp_path / "newer.db", tmp_path / "forged.db")
    with closing(sqlite3.connect(tmp_path / "forged.db")) as forged, forged:
        forged.execute("UPDATE mmmeta_info SET value = ? WHERE key = 'digest'", ("0" * 64,))
    wrong = [
        (tmp_path / "forged.db").read_bytes(),
        (tmp_path / "live.db").read_bytes(),
        (tmp_path / "elsewhere/_mmmeta/meta.db").read_bytes(),
    ]
    for number, data in enumerate([*wrong, newer[:-5000], b""]):
        remote.write("_mmmeta/meta.db", data)
        with pytest.raises(LogError, match="is missing"):
            follow(open_metadir(f"client{number}"))
    publish(m, doc("a", title="6"))
    assert follow(open_metadir("last")) == {"a": "6"}


@on_folder
def test_a_log_that_is_pruned_while_it_is_read(open_metadir: Open, remote: Remote, tmp_path: Path) -> None:
    other = open_metadir("other")
    publish(other, doc("a", title="1"))
    tapped = Tapped(remote)
    with mmmeta(tmp_path / "client", remote=tapped) as client:
        client.pull()
        publish(other, doc("a", title="2"))
        publish(other, doc("a", title="3"))

        def prune(request: tuple[str, str]) -> None:
            if request == ("fetch", segment(2)) and other.prune(keep_days=0).segments:
                assert log_of(remote) == [3]

        tapped.before = prune
        assert follow(client) == {"a": "3"}


def test_a_publisher_that_slept_through_a_prune_does_not_publish_into_the_gap(
    open_metadir: Open, remote: Remote, tmp_path: Path
) -> None:
    other = open_metadir("other")
    publish(other, doc("a", title="1"))
    tapped = Tapped(remote)
    slept: list[Any] = []

    def sleep(request: tuple[str, str]) -> None:
        if request[0] == "create" and not slept:
            slept.append(request)
            for number in range(2, 5):
                publish(other, doc("a", title=str(number)))
            other.prune(keep_days=0)

    tapped.before = sleep
    with mmmeta(tmp_path / "late", remote=tapped) as late:
        late.pull()
        assert publish(late, doc("b", title="late")) == 5
    assert slept == [("create", segment(2))]
    assert log_of(remote) == [4, 5]
    for m in (other, open_metadir("new"), open_metadir("late")):
        assert follow(m) == {"a": "4", "b": "late"}


@on_folder
def test_the_command(open_metadir: Open, remote: Remote, tmp_path: Path, remote_url: str) -> None:
    archive(remote, tmp_path, {1: 90, 2: 90})

    def run(*arguments: str) -> Any:
        return shell("--metadir", "m", "--remote", remote_url, "-q", "log", *arguments, cwd=tmp_path)

    done = run("--prune", "--keep-days", "30", "--json")
    assert json.loads(done.stdout)["segments"] == 2
    assert log_of(remote) == [3, 4, 5, 6]
    assert run("--prune", "--keep-days", "3", "--limit", "1").returncode == 2


@on_folder
def test_the_snapshot_holds_no_byte_of_what_waits(open_metadir: Open, remote: Remote) -> None:
    m = open_metadir("m")
    publish(m, *(doc(f"d{number}", title="published " * 40) for number in range(300)))
    publish(m, doc("d1", pages=1))
    m.files.upsert_many([doc(f"d{number}", title="unripe " * 30) for number in range(0, 300, 7)])
    m.files.insert_many([doc(f"new{number}", title="unripe", text="unripe " * 2000) for number in range(20)])
    remote.remove("_mmmeta/meta.db")
    m.prune(keep_days=0)
    snapshot = content(remote, "_mmmeta/meta.db")
    assert b"published " in snapshot
    assert b"unripe" not in snapshot
    assert m.remote is not None
    assert remote.url.encode() not in snapshot


@on_folder
def test_a_log_with_a_gap_is_damaged(open_metadir: Open, remote: Remote, tmp_path: Path) -> None:
    m: Metadir = open_metadir("m")
    for number in range(4):
        publish(m, doc("a", title=str(number)))
    remote.remove(segment(2))
    with pytest.raises(LogError, match="is missing, and no snapshot covers it"):
        list(m.log())
