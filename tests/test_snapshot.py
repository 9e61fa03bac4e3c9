"""When a publisher uploads a snapshot, and when it costs more than it is worth."""

from __future__ import annotations

from mmmeta_core.database.catalog import Position
from mmmeta_core.head import Snapshot
from mmmeta_core.sync import hints


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
