"""`mmmeta watch`: a client that is kept up to date, and what becomes of it in the middle of its work."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from remotes.static import serving
from shell import MMMETA, environment, here

from mmmeta_core.errors import ConfigError, RemoteNotFoundError, UnavailableError
from mmmeta_core.metadir import Metadir


def publish(folder: Path, *keys: str, **values: Any) -> None:
    with Metadir(folder / "publisher", remote=folder / "archive") as publisher:
        publisher.pull()
        for key in keys:
            publisher.files.upsert({"content_hash": key, **values}, ["content_hash"])
        publisher.push()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where an archive of two documents is."""
    (tmp_path / "archive").mkdir()
    publish(tmp_path, "a", "b", kind="letter")
    return tmp_path


@pytest.fixture
def m(folder: Path) -> Iterator[Metadir]:
    with Metadir(folder / "client", remote=folder / "archive") as client:
        yield client


# --- turns


def test_a_turn_brings_what_is_new_and_does_what_is_due(m: Metadir, folder: Path) -> None:
    done: list[str] = []
    turns = m.watch(lambda file: done.append(file.key), interval=0.001, max_polls=4, kind="letter")
    first = next(turns)
    assert first.updated is not None
    assert first.processed is not None
    assert (first.revision, first.updated.added, first.processed.processed) == (1, 2, 2)
    second = next(turns)
    assert (second.changed, second.revision) == (False, 1)
    publish(folder, "c", kind="letter")
    publish(folder, "d", kind="bill")
    third = next(turns)
    assert third.updated is not None
    assert (third.revision, third.updated.added, done) == (3, 2, ["a", "b", "c"])
    last = next(turns)
    assert (last.changed, last.wait) == (False, 0)
    assert next(turns, None) is None


def test_nothing_new_is_one_request(folder: Path) -> None:
    with (
        serving(folder / "archive") as site,
        Metadir(folder / "client", remote=site.url) as m,
    ):
        turns = m.watch(lambda _: None, interval=0.001)
        assert next(turns).revision == 1
        site.take()
        before = m.paths.state.stat().st_mtime_ns
        assert [next(turns).changed for _ in range(3)] == [False, False, False]
        assert site.take() == ["GET /_mmmeta/_store/remote_last_updated"] * 3
        assert m.paths.state.stat().st_mtime_ns == before, "nor is anything written"


def test_a_document_that_failed_is_tried_again_when_it_is_time(m: Metadir) -> None:
    tries: list[str] = []

    def handler(file: Any) -> None:
        tries.append(file.key)
        if len(tries) == 1:
            raise ValueError("not yet")

    turns = m.watch(handler, interval=0.001)
    first, second = next(turns), next(turns)
    assert first.processed is not None
    assert (first.processed.processed, first.processed.failed, second.changed) == (1, 1, False)
    assert m.retry_failed() == 1
    third = next(turns)
    assert third.processed is not None
    assert (third.updated, third.processed.processed, tries) == (None, 1, ["a", "b", "a"])


def test_filters_are_asked_for_anew(m: Metadir) -> None:
    wanted = ["a"]
    done: list[str] = []
    turns = m.watch(
        lambda file: done.append(file.key), interval=0.001, filters=lambda: {"content_hash": wanted[-1]}
    )
    next(turns)
    wanted.append("b")
    next(turns)
    assert done == ["a", "b"]


def test_a_remote_that_is_away_is_asked_less_and_less(
    m: Metadir, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "mmmeta_core.watch")
    turns = m.watch(interval=0.004)
    assert 0.9 * 0.004 <= next(turns).wait <= 1.1 * 0.004
    (folder / "archive").rename(folder / "away")
    away = [next(turns) for _ in range(3)]
    for number, turn in enumerate(away, 1):
        assert "archive" in (turn.error or "")
        assert 0.9 * 0.004 * 2**number <= turn.wait <= 1.1 * 0.004 * 2**number
        assert (turn.changed, turn.revision) == (False, 1)
    (folder / "away").rename(folder / "archive")
    publish(folder, "c")
    back = next(turns)
    assert (back.error, back.revision) == (None, 2)
    assert back.wait <= 1.1 * 0.004
    said = [record.getMessage() for record in caplog.records if record.name.endswith(".watch")]
    warned = [line for line in said if "; it is asked again" in line]
    assert (len(warned), said[-1]) == (1, "the remote answers again")


def test_the_wait_has_an_end() -> None:
    from mmmeta_core.watch import _wait

    assert 810 <= _wait(60, 1_000) <= 990
    assert 3_240 <= _wait(3_600, 5) <= 3_960


def test_what_is_wrong_at_first_is_raised(tmp_path: Path) -> None:
    with Metadir(tmp_path, remote=tmp_path / "nowhere") as m, pytest.raises(RemoteNotFoundError):
        next(m.watch())
    with Metadir(tmp_path) as m, pytest.raises(ConfigError, match="there is no remote"):
        next(m.watch())
    with Metadir(tmp_path, remote=tmp_path) as m, pytest.raises(ConfigError, match="interval"):
        next(m.watch(interval=0))


def test_a_handler_that_can_not_work_now_is_tried_later(m: Metadir) -> None:
    away: list[str] = []

    def handler(file: Any) -> None:
        if file.key in away:
            raise UnavailableError("the database is away")

    turns = m.watch(handler, interval=0.001, filters=lambda: {"content_hash": "b" if away else "a"})
    next(turns)
    away.append("b")
    turn = next(turns)
    assert (turn.error, turn.changed, list(m.failures())) == ("the database is away", False, [])
    away.append(away.pop().upper())
    assert next(turns).processed is not None
    away.append("b")
    with pytest.raises(UnavailableError):
        next(m.watch(handler, mark="another", filters=dict))


def test_it_ends_when_it_is_told_to(m: Metadir) -> None:
    stop = threading.Event()
    turns = m.watch(interval=3_600, stop=stop)
    next(turns)
    threading.Timer(0.01, stop.set).start()
    assert next(turns, None) is None


def test_a_document_that_was_done_and_is_deleted_reaches_who_asks_for_it(m: Metadir, folder: Path) -> None:
    gone: list[str] = []

    def remove(file: Any) -> None:
        if not gone:
            gone.append("not yet")
            raise ValueError("not yet")
        gone.append(file.key)

    turns = m.watch(lambda _: None, on_deleted=remove, interval=0.001, kind="letter")
    first = next(turns)
    assert (first.removed, first.failed) == (None, 0)
    publish(folder, "c", kind="bill")
    with Metadir(folder / "publisher", remote=folder / "archive") as publisher:
        publisher.files.delete(content_hash=["a", "c"])
        publisher.push()
    failed = next(turns)
    assert failed.removed is not None
    assert (failed.processed, failed.removed.failed, failed.failed) == (None, 1, 1)
    assert next(turns).changed is False, "it is tried again when it is time"
    assert m.retry_failed() == 1
    done = next(turns)
    assert done.removed is not None
    assert (done.removed.processed, gone) == (1, ["not yet", "a"]), "c was never done"
    publish(folder, "a", kind="letter")
    back = next(turns)
    assert back.processed is not None
    assert (back.processed.processed, back.removed) == (1, None), "it is due again"


# --- the command


@contextmanager
def watching(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`mmmeta watch` at work, as a process."""
    command = [
        *MMMETA,
        "-q",
        "--metadir",
        "client",
        "--remote",
        "archive",
        "watch",
        "--interval",
        "0.02",
        *arguments,
    ]
    with subprocess.Popen(
        command, cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        try:
            yield running
        finally:
            if running.poll() is None:
                running.kill()


def line(running: subprocess.Popen[str]) -> str:
    assert running.stdout is not None
    return running.stdout.readline()


def test_it_prints_a_line_a_change_and_ends_with_130_on_ctrl_c(folder: Path) -> None:
    with watching(folder, "--json") as running:
        first = json.loads(line(running))
        assert (first["revision"], first["updated"]["added"], first["processed"]) == (1, 2, None)
        publish(folder, "c")
        second = json.loads(line(running))
        assert (second["revision"], second["updated"]["added"]) == (2, 1)
        running.send_signal(signal.SIGINT)
        rest, error = running.communicate(timeout=30)
    assert (running.returncode, rest) == (130, "")
    assert error == "mmmeta: interrupted; run it again to go on\n"


HOLDS = """\
import fcntl, signal, sys
file = open(sys.argv[1], "a")
fcntl.flock(file, fcntl.LOCK_EX)
with open(sys.argv[2], "w") as started:
    started.write(sys.argv[3])
signal.pause()
"""


def test_sigterm_ends_the_program_at_work_and_gives_its_documents_back(folder: Path) -> None:
    (folder / "holds.py").write_text(HOLDS)
    os.mkfifo(folder / "started")
    command = shlex.join([sys.executable, "holds.py", "lock", "started"]) + " {key}"
    with watching(folder, "--exec", command) as running:
        assert (folder / "started").read_text() == "a"  # waits until the program is there
        running.send_signal(signal.SIGTERM)
        _, error = running.communicate(timeout=30)
    assert (running.returncode, error) == (143, "mmmeta: terminated; run it again to go on\n")
    with (folder / "lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # nobody holds it any more
    with Metadir(folder / "client") as m:
        assert m.files.process(lambda _: None).processed == 2, "no claim is left, and no attempt was counted"


def test_two_at_once_do_each_document_once(folder: Path) -> None:
    keys = [f"d{number}" for number in range(20)]
    publish(folder, *keys)
    command = "sh -c 'echo \"$0\" >> done' {key}"
    arguments = ("--max-polls", "3", "--exec", command)
    with watching(folder, *arguments) as one, watching(folder, *arguments) as other:
        ends = [running.communicate(timeout=60) for running in (one, other)]
    assert [running.returncode for running in (one, other)] == [0, 0], ends
    assert sorted((folder / "done").read_text().split()) == sorted(["a", "b", *keys])


def test_once_is_for_cron_and_says_by_its_exit_code_what_failed(folder: Path) -> None:
    place = ("--metadir", "client", "--remote", "archive", "watch")
    command = "sh -c 'test \"$0\" = b || exit 3' {key}"
    said = here(*place, "--once", "--exec", command, "kind=letter", cwd=folder)
    assert said.returncode == 1
    assert said.stdout.endswith(" revision 1: 2 added; imported 1 done, 1 failed\n")
    assert "WARNING imported failed for 'a': CommandError: exit status 3" in said.stderr
    assert (
        said.stderr.splitlines()[-1]
        == "mmmeta: documents that failed: 1; mmmeta status --failures lists them"
    )
    stray = here(*place, "--once", "kind=letter", cwd=folder)
    assert (stray.returncode, "go with --exec" in stray.stderr) == (2, True)


def test_a_program_removes_what_the_publisher_deleted_and_imports_what_changed(folder: Path) -> None:
    def ran(arguments: str) -> str:
        return shlex.join(["sh", "-c", f"echo {arguments} $0 >> done"]) + " {key}"

    arguments = ("--json", "--on-change", "again", "--exec", ran("import"), "--exec-deleted", ran("remove"))
    with watching(folder, *arguments) as running:
        assert json.loads(line(running))["processed"]["processed"] == 2
        with Metadir(folder / "publisher", remote=folder / "archive") as publisher:
            publisher.files.delete(content_hash="a")
            publisher.files.upsert({"content_hash": "b", "kind": "bill"}, ["content_hash"])
            publisher.push()
        turn = json.loads(line(running))
        running.send_signal(signal.SIGINT)
        running.communicate(timeout=30)
    assert (turn["processed"]["processed"], turn["removed"]["processed"]) == (1, 1)
    assert (folder / "done").read_text().splitlines() == ["import a", "import b", "import b", "remove a"]


def test_a_removal_that_failed_is_told_by_the_exit_code_and_needs_no_file(folder: Path) -> None:
    place = ("--metadir", "client", "--remote", "archive", "watch", "--once")
    assert here(*place, "--exec", "true", cwd=folder).returncode == 0
    with Metadir(folder / "publisher", remote=folder / "archive") as publisher:
        publisher.files.delete(content_hash="b")
        publisher.push()
    said = here(*place, "--timeout", "60", "--exec-deleted", "false", cwd=folder)
    assert said.returncode == 1
    assert said.stdout.endswith(" revision 2: 1 deleted; imported 0 removed, 1 failed\n")
    stray = here(*place, "--exec-deleted", "true {path}", cwd=folder)
    assert (stray.returncode, "{path} can't be in --exec-deleted" in stray.stderr) == (2, True)
