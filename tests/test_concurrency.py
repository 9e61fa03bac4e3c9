"""Many processes at work on one metadir at once: nobody sees half of anything, and nobody's work is lost or done twice.

With `MMMETA_ROUNDS=n` in the environment each of them goes on n times as long.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from postgres import ON_POSTGRES

from mmmeta_core import CatalogError, mmmeta
from mmmeta_core.database import sqlite

ROUNDS = int(os.environ.get("MMMETA_ROUNDS", "1"))
DOCUMENTS = 30
SECONDS = 120 * ROUNDS

BEGIN = """
import json, os, sys, time
from pathlib import Path
from mmmeta_core import mmmeta
path, remote, *arguments = sys.argv[1:]
m = mmmeta(path, remote=remote, files_root=Path(path).parent / "documents")
print("ready", flush=True)
sys.stdin.readline()
told = {}
"""
END = """
print(json.dumps(told))
"""

GENERATE = """
root = m.files_root
told = {"added": 0, "updated": 0}
for turn in range(int(arguments[0])):
    for name in [f"d{turn}", "shared"]:
        draft = root / f"{name}.new"
        draft.write_text(json.dumps({"content_hash": name, "turn": turn}))
        draft.replace(root / f"{name}.json")
    done = m.generate()
    told["added"] += done.added
    told["updated"] += done.updated
Path(arguments[1]).touch()
"""

PUSH = """
revisions = []
while True:
    ended = Path(arguments[1]).exists()
    m.store[f"pushes_{arguments[0]}"] = len(revisions)
    pushed = m.push()
    if pushed.published:
        revisions.append(pushed.revision)
    if ended:
        break
    time.sleep(0.01)
told = {"revisions": revisions}
"""

FOLLOW = """
told = {"added": 0, "updated": 0, "revisions": []}
while True:
    ended = Path(arguments[0]).exists()
    m.pull(probe=ended)
    done = m.update()
    told["added"] += done.added
    told["updated"] += done.updated
    if done.revision not in told["revisions"]:
        told["revisions"].append(done.revision)
    if ended:
        break
    time.sleep(0.01)
"""

READ = """
documents, newest, seen = int(arguments[0]), int(arguments[1]), [-1]
while seen[-1] < newest:
    turns = [file["turn"] for file in m.files.find()]
    assert len(turns) == m.files.count() == documents, len(turns)
    assert len(set(turns)) == 1, turns
    assert turns[0] >= seen[-1], (turns[0], seen)
    seen.append(turns[0])
    time.sleep(0.01)
told = {"seen": seen}
"""

SAVE = """
name, turns = arguments[0], int(arguments[1])
for turn in range(turns):
    for file in m.files.find():
        file[name] = turn
        file.save()
told = {"saved": m.files.count(**{name: turns - 1})}
"""

PROCESS = """
handled = os.open(arguments[0], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def handler(file):
    os.write(handled, f"{file.key}\\n".encode())
    return {"double": file["number"] * 2}

told = {"processed": 0}
while True:
    ended = Path(arguments[1]).exists()
    result = m.files.process(handler, chunk=7)
    told["processed"] += result.processed
    assert result.failed == 0
    if ended and not result.left:
        break
    time.sleep(0.01)
"""

OPEN = """
barrier = Path(arguments[0])
for turn in range(int(arguments[1])):
    (barrier / f"{turn}-{os.getpid()}").touch()
    while len(list(barrier.glob(f"{turn}-*"))) < int(arguments[2]):
        time.sleep(0.001)
    with mmmeta(Path(path) / str(turn)) as m:
        assert (m.state_revision, m.revision, m.inspect().files) == (0, 0, 0)
"""


@contextmanager
def at_work(path: Path, remote: str | Path, *jobs: tuple[Any, ...]) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that begin their jobs, each a script and its arguments, at the same moment."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", f"{BEGIN}{script}{END}", str(path), str(remote), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for script, *arguments in jobs
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def told(processes: list[subprocess.Popen[str]]) -> list[dict[str, Any]]:
    """Wait for the processes, and return what they told."""
    found = []
    for process in processes:
        out, errors = process.communicate(timeout=SECONDS)
        assert process.returncode == 0, errors
        found.append(json.loads(out))
    return found


def run(path: Path, remote: str | Path, *jobs: tuple[Any, ...]) -> list[dict[str, Any]]:
    with at_work(path, remote, *jobs) as processes:
        return told(processes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty remote."""
    (tmp_path / "remote").mkdir()
    return tmp_path / "remote"


def test_generate_and_two_pushes_of_one_metadir_at_once(tmp_path: Path, remote_url: str) -> None:
    (tmp_path / "documents").mkdir()
    turns, ended = 6 * ROUNDS, tmp_path / "ended"
    publisher = tmp_path / "publisher"
    generated, *pushed = run(
        publisher, remote_url, (GENERATE, turns, ended), (PUSH, "one", ended), (PUSH, "two", ended)
    )
    assert generated == {"added": turns + 1, "updated": turns - 1}
    revisions = sorted(revision for one in pushed for revision in one["revisions"])
    assert revisions == list(range(1, len(revisions) + 1)), "each revision was published by one of them"
    with mmmeta(publisher, remote=remote_url) as m:
        assert (m.inspect().pending, m.push().published) == (0, False)
    with mmmeta(tmp_path / "client", remote=remote_url) as client:
        client.sync()
        found = {file.key: file["turn"] for file in client.files.find()}
        assert found == {**{f"d{turn}": turn for turn in range(turns)}, "shared": turns - 1}
        assert client.revision == len(revisions)
        assert client.verify().findings == ()


def test_readers_see_whole_revisions_while_two_updates_are_made(tmp_path: Path, folder: Path) -> None:
    turns, ended, client = 6 * ROUNDS, tmp_path / "ended", tmp_path / "client"
    with mmmeta(tmp_path / "publisher", remote=folder) as publisher:

        def publish(turn: int) -> None:
            publisher.files.upsert_many({"content_hash": f"d{n}", "turn": turn} for n in range(DOCUMENTS))
            publisher.push()

        publish(0)
        jobs = ((FOLLOW, ended), (FOLLOW, ended), (READ, DOCUMENTS, turns), (SAVE, "mine", turns))
        with mmmeta(client, remote=folder) as m:
            m.sync()
        with at_work(client, folder, *jobs) as processes:
            for turn in range(1, turns + 1):
                publish(turn)
            ended.touch()
            one, other, read, saved = told(processes)
    assert one["added"] + other["added"] == 0
    revisions = {*one["revisions"], *other["revisions"]}
    assert one["updated"] + other["updated"] >= DOCUMENTS
    assert (one["updated"] + other["updated"]) % DOCUMENTS == 0, "each update is merged by one of the two"
    assert max(revisions) == turns + 1
    assert read["seen"][-1] == turns
    assert saved["saved"] == DOCUMENTS
    with mmmeta(client) as m:
        assert Counter((file["turn"], file["mine"]) for file in m.files) == {(turns, turns - 1): DOCUMENTS}


def test_process_update_and_save_at_once(tmp_path: Path, folder: Path) -> None:
    """Each document is handled once, and no column that anybody saved is lost."""
    turns, ended, handled = 5 * ROUNDS, tmp_path / "ended", tmp_path / "handled"
    client = tmp_path / "client"
    with mmmeta(tmp_path / "publisher", remote=folder) as publisher:

        def publish(turn: int) -> None:
            """Publish new documents, and a change to all that are there."""
            publisher.files.upsert_many(
                {"content_hash": f"d{n}", "number": n, "turn": turn} for n in range(10 * (turn + 1))
            )
            publisher.push()

        publish(0)
        with mmmeta(client, remote=folder) as m:
            m.sync()
        jobs = (
            *((PROCESS, handled, ended) for _ in range(2)),
            (FOLLOW, ended),
            (SAVE, "one", turns),
            (SAVE, "two", turns),
        )
        with at_work(client, folder, *jobs) as processes:
            for turn in range(1, turns):
                publish(turn)
            with mmmeta(client, remote=folder) as m:
                m.sync()
            ended.touch()
            *processed, _, one, two = told(processes)
    total = 10 * turns
    assert sum(each["processed"] for each in processed) == total
    assert Counter(handled.read_text().split()) == {f"d{n}": 1 for n in range(total)}
    with mmmeta(client) as m:
        assert {file.key: file["double"] for file in m.files} == {f"d{n}": n * 2 for n in range(total)}
        assert {file["turn"] for file in m.files} == {turns - 1}
        assert m.files.count(imported=True) == total
        for name, saver in (("one", one), ("two", two)):
            # A saver may have ended before the newest documents came; what it saved is all there.
            assert m.files.count(**{name: turns - 1}) == saver["saved"] >= 10


def test_many_processes_may_be_the_first(tmp_path: Path) -> None:
    """To make a database WAL, SQLite wants it for itself and does not wait; and who makes tables may be watched."""
    (tmp_path / "barrier").mkdir()
    for turn in range(15 * ROUNDS):
        (tmp_path / "metadir" / str(turn) / "_mmmeta").mkdir(parents=True)
    job = (OPEN, tmp_path / "barrier", 15 * ROUNDS, 6)
    run(tmp_path / "metadir", tmp_path / "barrier", *[job] * 6)


@pytest.mark.skipif(ON_POSTGRES, reason="of SQLite's locks")
def test_a_lock_that_another_process_keeps_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not SQLite's "database is locked", nor advice to move the database away."""
    monkeypatch.setattr(sqlite, "_WAIT_SECONDS", 0.05)
    with mmmeta(tmp_path / "metadir") as m:
        m.files.insert(content_hash="a")
        (file,) = m.files
        file["mine"] = 1
        with sqlite.atomic(m.state.connection), mmmeta(m.path) as other:
            (file,) = other.files
            file["mine"] = 2
            started = time.monotonic()
            with pytest.raises(
                CatalogError, match=r"another process has been writing to .*state\.db for more"
            ):
                file.save()
            assert time.monotonic() - started < 10
        with m._replica.catalog() as catalog:
            catalog.connection.execute("BEGIN EXCLUSIVE")
            with mmmeta(m.path) as other, pytest.raises(CatalogError, match=r"writing to .*meta\.db"):
                other.inspect()
            catalog.connection.execute("ROLLBACK")
        file.save()
        assert m.files.count(mine=2) == 1
