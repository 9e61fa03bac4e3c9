"""When a publisher uploads a snapshot, and when it costs more than it is worth."""

from __future__ import annotations

from mmmeta_core.database.catalog import Position
from mmmeta_core.head import Head, Snapshot
from mmmeta_core.sync import hints
from mmmeta_core.sync.pull import _snapshot_pays


def is_due(size: int, segments: int, log_bytes: int) -> bool:
    last = Snapshot(100, size, "", 1_000_000, "", "meta.db")
    return hints._is_due(Position("a", 100 + segments, "", 1_000_000 + log_bytes), last, 0)


def test_it_is_due_when_the_log_after_it_is_worth_it() -> None:
    assert not is_due(8_000_000, 499, 2_000_000)
    assert is_due(8_000_000, 500, 0)
    assert is_due(8_000_000, 1, 2_000_001)


def test_of_a_large_one_no_publish_costs_more_than_a_megabyte() -> None:
    assert is_due(400_000_000, 500, 0)
    assert not is_due(4_000_000_000, 3_999, 0)
    assert is_due(4_000_000_000, 4_000, 0)
    assert is_due(4_000_000_000, 1, 1_000_000_001)


def pays(*, size: int, log_bytes: int, revision: int = 40, position: int = 0, had: int = 0) -> bool:
    snapshot = Snapshot(revision, size, "", log_bytes, "", "meta.db")
    head = Head("a", revision, "content_hash", "", log_bytes, snapshot)
    return _snapshot_pays(head, Position("a", position, "", had))


def test_a_new_client_takes_what_is_quicker() -> None:
    assert not pays(size=40_000_000, log_bytes=5_600_000)
    assert not pays(size=400_000_000, log_bytes=56_000_000)
    # Ten million rows: the log is a seventh of the snapshot, and takes ten minutes to replay.
    assert pays(size=4_000_000_000, log_bytes=556_000_000)
    # Who was here before takes what is new.
    assert not pays(size=4_000_000_000, log_bytes=556_000_000, position=39, had=500_000_000)
    # Many small segments are as many requests.
    assert pays(size=40_000_000, log_bytes=5_600_000, revision=3_000)
