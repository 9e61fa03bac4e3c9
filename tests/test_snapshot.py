"""When a publisher uploads a snapshot, and when it costs more than it is worth."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from mmmeta_core import Metadir, mmmeta
from mmmeta_core.database.catalog import Position
from mmmeta_core.head import Snapshot, read_head
from mmmeta_core.remotes import LocalRemote
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


@pytest.fixture
def publisher(tmp_path: Path) -> Metadir:
    (tmp_path / "remote").mkdir()
    return mmmeta(tmp_path / "publisher", remote=tmp_path / "remote")


def test_one_that_the_store_can_not_take_is_not_made(
    publisher: Metadir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(LocalRemote, "most_at_once", 20_000)
    publisher.files.insert_many({"content_hash": f"{number:040}"} for number in range(1000))
    with caplog.at_level(logging.WARNING):
        publisher.push()
    assert "no more than 20000 can be put there at once" in caplog.text
    assert not (tmp_path / "remote" / "_mmmeta" / "meta.db").exists()
    head, _, _ = read_head(LocalRemote(tmp_path / "remote"))
    assert head is not None
    assert (head.revision, head.snapshot) == (1, None)
    with mmmeta(tmp_path / "client", remote=tmp_path / "remote") as client:
        assert client.sync().updated.added == 1000
    # Once there is room, there is one.
    monkeypatch.setattr(LocalRemote, "most_at_once", 20_000_000)
    publisher.files.insert(content_hash="x")
    publisher.push()
    assert (tmp_path / "remote" / "_mmmeta" / "meta.db").exists()
