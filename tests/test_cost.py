"""Cost follows change: what SQLite does for a few changes is the same in a large archive as in a small one."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from mmmeta_core import mmmeta

Count: TypeAlias = Callable[[Callable[[], object]], int]

SMALL, LARGE = 20, 1_500
STEPS = 10


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> Count:
    """Count the instructions of SQLite's virtual machine that a call takes, on all connections made from now on."""
    steps = 0
    connect = sqlite3.connect

    def step() -> int:
        nonlocal steps
        steps += STEPS
        return 0

    def counted(*args: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*args, **options)
        connection.set_progress_handler(step, STEPS)
        return connection

    def count(do: Callable[[], object]) -> int:
        before = steps
        do()
        return steps - before

    monkeypatch.setattr(sqlite3, "connect", counted)
    return count


def costs(base: Path, documents: int, count: Count) -> dict[str, int]:
    """Return the instructions of each verb after a change, a new document and a deletion in an archive of so many."""
    remote = base / "remote"
    remote.mkdir(parents=True)
    with (
        mmmeta(base / "publisher", remote=remote) as publisher,
        mmmeta(base / "client", remote=remote) as client,
    ):
        rows = ({"content_hash": f"{n:06}", "title": f"document {n}"} for n in range(documents))
        publisher.files.insert_many(rows)
        publisher.push()
        client.sync()
        publisher.update()

        def change() -> None:
            publisher.files.upsert_many(
                [{"content_hash": "000003", "title": "changed"}, {"content_hash": "new", "title": "new"}]
            )
            publisher.files.delete(content_hash="000005")

        found = {"publish from Python": count(change)}
        verbs: dict[str, Callable[[], object]] = {
            "push": publisher.push,
            "update of the publisher": publisher.update,
            "poll": client.poll,
            "pull": client.pull,
            "update": client.update,
            "pull, nothing new": client.pull,
            "update, nothing new": client.update,
        }
        found |= {name: count(verb) for name, verb in verbs.items()}
        assert (client.files.get("000003") or {})["title"] == "changed"
        assert len(client) == documents
        return found


def test_what_a_verb_takes_follows_what_changed(tmp_path: Path, count: Count) -> None:
    small, large = (costs(tmp_path / str(size), size, count) for size in (SMALL, LARGE))
    # To look at all documents takes more than one instruction for each.
    beyond = {name: (steps, large[name]) for name, steps in small.items() if large[name] > steps + LARGE}
    assert min(small.values()) > 0
    assert beyond == {}
