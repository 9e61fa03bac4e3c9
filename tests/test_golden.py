"""What other versions and machines must read is as it was: `tests/golden/make.py` says when and how to renew it."""

from __future__ import annotations

import gzip
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mmmeta_core import Metadir, mmmeta
from mmmeta_core.changelog import open_segment
from mmmeta_core.head import parse_head

GOLDEN = Path(__file__).parent / "golden"
sys.path.insert(0, str(GOLDEN))

import make  # noqa: E402

RENEW = "if that is on purpose, run `python tests/golden/make.py` and say in CHANGELOG.md what it means for readers"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A copy of the metadir that was stored."""
    shutil.copytree(GOLDEN / "metadir", tmp_path / "archive")
    return tmp_path / "archive"


def check(m: Metadir) -> None:
    m.update()
    found = {file["content_hash"]: file for file in m.files.find()}
    assert set(found) == {"a", "007"}
    a = {name: found["a"][name] for name in ("title", "size", "retrieved_at", "tags", "seen")}
    assert a == {
        "title": "AA",
        "size": 1,
        "retrieved_at": datetime(2026, 1, 1, tzinfo=UTC),
        "tags": ["x"],
        "seen": "not a boolean",
    }
    assert (found["007"]["title"], found["007"]["ratio"]) == ("007", 2.5)
    (deleted,) = m.files.find(__deleted_at={"not": None})
    assert (deleted["publisher:name"], deleted["seen"]) == ("P", False)
    assert (m.revision, m.store["new_files"]) == (3, 17)
    assert m.store["local_last_updated"] == m.store["remote_last_updated"]
    assert dict(m.config.types) == {"retrieved_at": "datetime"}


def test_schemas_segment_and_head_are_as_they_were() -> None:
    written = dict(make.texts())
    stored = {name: (GOLDEN / name).read_text(encoding="utf-8") for name in written}
    assert written == stored, RENEW


def test_the_stored_segment_is_read(tmp_path: Path) -> None:
    segment = tmp_path / "segment"
    segment.write_bytes(gzip.compress((GOLDEN / "segment.jsonl").read_bytes()))
    with open_segment(segment, "stored") as (header, records):
        assert (header, list(records)) == (make.HEADER, make.DOCUMENTS)


def test_the_stored_head_is_read() -> None:
    assert parse_head((GOLDEN / "head.json").read_bytes(), "stored") == make.HEAD


def test_the_stored_metadir_is_pulled(archive: Path, tmp_path: Path) -> None:
    with mmmeta(tmp_path / "client", remote=archive) as client:
        assert client.pull().revision == 3
        check(client)


def test_the_stored_metadir_is_one_to_work_in(archive: Path) -> None:
    with mmmeta(archive) as copy:
        assert copy.revision == 1
        check(copy)


def test_the_stored_metadir_is_published_to(archive: Path, tmp_path: Path) -> None:
    with mmmeta(tmp_path / "publisher", remote=archive) as publisher:
        publisher.pull()
        publisher.files.insert(content_hash="new", title="New")
        assert publisher.push().revision == 4
    with mmmeta(tmp_path / "client", remote=archive) as client:
        client.sync()
        assert len(client.files) == 3
