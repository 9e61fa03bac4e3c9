"""Status: where everything stands, here, at the remote and in each pipeline."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mmmeta_core import CatalogError, Metadir, mmmeta
from mmmeta_core.files import File
from mmmeta_core.remotes import LocalRemote
from mmmeta_core.remotes.base import READ_LIMIT, Blob
from mmmeta_core.standing import Pipeline

NOW = datetime.now(UTC)


@pytest.fixture
def m(tmp_path: Path) -> Iterator[Metadir]:
    """A client of ten documents, half of them contracts, one of these deleted."""
    with mmmeta(tmp_path / "publisher", remote=make(tmp_path / "remote")) as publisher:
        publisher.files.insert_many(
            {
                "content_hash": f"d{n}",
                "kind": "contract" if n % 2 else "letter",
                "at": NOW - timedelta(days=n),
            }
            for n in range(10)
        )
        publisher.files.delete(content_hash="d9")
        publisher.push()
    with mmmeta(tmp_path / "client", remote=tmp_path / "remote") as client:
        client.sync()
        yield client


def make(folder: Path) -> Path:
    folder.mkdir()
    return folder


class Handler:
    def __init__(self, *bad: str) -> None:
        self.bad = bad

    def __call__(self, file: File) -> None:
        if file.key in self.bad:
            raise ValueError("bad document")


def numbers(pipeline: Pipeline) -> dict[str, int]:
    return {name: getattr(pipeline, name) for name in ("due", "done", "failed", "set_aside")}


def pipelines(m: Metadir) -> dict[str, dict[str, int]]:
    return {pipeline.mark: numbers(pipeline) for pipeline in m.status().pipelines}


def make_due(m: Metadir) -> None:
    passed = "UPDATE mmmeta_work SET not_before = '2000-01-01T00:00:00.000000+00:00'"
    m.state.run(lambda database: database.execute(passed))


def test_a_metadir_that_has_done_nothing_has_no_pipelines(m: Metadir) -> None:
    status = m.status()
    assert (status.remote_revision, status.remote_error, status.pipelines) == (1, None, ())
    assert status.metadir == m.inspect()
    assert (status.metadir.files, status.metadir.deleted, status.metadir.revision) == (9, 1, 1)


def test_each_pipeline_says_what_is_due_done_failed_and_set_aside(m: Metadir) -> None:
    before = datetime.now(UTC)
    m.files.process(Handler("d1", "d2"), mark="imported", limit=6)
    m.files.process(Handler("d0"), mark="ocr", max_attempts=1)
    imported, ocr = m.status().pipelines
    assert (imported.mark, ocr.mark) == ("imported", "ocr")
    assert numbers(imported) == {"due": 3, "done": 4, "failed": 2, "set_aside": 0}
    assert numbers(ocr) == {"due": 0, "done": 8, "failed": 0, "set_aside": 1}
    for pipeline in (imported, ocr):
        assert pipeline.last_run is not None
        assert before <= pipeline.last_run <= datetime.now(UTC)


@pytest.mark.parametrize(
    ("filters", "due"),
    [
        ({}, 9),
        ({"kind": "contract"}, 4),
        ({"kind": ["contract", "letter"]}, 9),
        ({"kind": {"!=": "contract"}}, 5),
        ({"at": {">=": NOW - timedelta(days=2, hours=1)}}, 3),
        ({"kind": {"letter"}, "content_hash": {">=": "d4"}}, 3),
        ({"other": False}, 9),
    ],
)
def test_due_is_counted_with_the_filters_of_the_last_run(
    m: Metadir, filters: dict[str, Any], due: int
) -> None:
    m.files.process(Handler(), mark="imported", content_hash="d0")
    m.files.process(Handler(*(f"d{n}" for n in range(10))), mark="other", limit=1)
    m.files.process(Handler(), mark="imported", limit=1, **filters)
    done = m.files.count(imported=True, **filters)
    assert pipelines(m)["imported"] == {
        "due": due - done,
        "done": m.files.count(imported=True),
        "failed": 0,
        "set_aside": 0,
    }
    assert done >= 1


def test_what_failed_is_due_again_when_its_time_has_come(m: Metadir) -> None:
    m.files.process(Handler("d1"), max_attempts=2)
    assert pipelines(m)["imported"] == {"due": 0, "done": 8, "failed": 1, "set_aside": 0}
    make_due(m)
    assert pipelines(m)["imported"] == {"due": 1, "done": 8, "failed": 1, "set_aside": 0}
    m.files.process(Handler("d1"), max_attempts=2)
    assert pipelines(m)["imported"] == {"due": 0, "done": 8, "failed": 0, "set_aside": 1}
    assert m.retry_failed() == 1
    assert pipelines(m)["imported"]["due"] == 1
    m.files.process(Handler())
    assert pipelines(m)["imported"] == {"due": 0, "done": 9, "failed": 0, "set_aside": 0}


def test_what_the_publisher_changes_is_due_with_the_setting_of_the_last_run(
    m: Metadir, tmp_path: Path
) -> None:
    m.files.process(Handler(), mark="once", on_change="ignore")
    m.files.process(Handler(), mark="always", on_change="again")
    with mmmeta(tmp_path / "publisher", remote=tmp_path / "remote") as publisher:
        publisher.files.upsert_many([{"content_hash": "d1", "kind": "letter"}, {"content_hash": "new"}])
        publisher.push()
    assert (m.status().remote_revision, m.status().metadir.revision) == (2, 1)
    m.sync()
    assert {mark: found["due"] for mark, found in pipelines(m).items()} == {"always": 2, "once": 1}


def test_downloads_are_a_pipeline_like_others(m: Metadir, tmp_path: Path) -> None:
    m.download(tmp_path / "downloads", kind="letter")
    assert pipelines(m)["downloaded"] == {"due": 0, "done": 0, "failed": 5, "set_aside": 0}


@pytest.mark.parametrize(
    ("remote", "reason"),
    [
        ("s3://archive/x?endpoint=http://127.0.0.1:9", "check the endpoint"),
        ("{base}/not mounted", "There is no folder"),
    ],
)
def test_a_remote_that_does_not_answer_is_said_and_not_raised(
    m: Metadir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remote: str, reason: str
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    m.files.process(Handler(), limit=2)
    with mmmeta(m.path, remote=remote.format(base=tmp_path)) as other:
        status = other.status()
    assert status.remote_revision is None
    assert reason in (status.remote_error or "")
    assert (status.metadir.files, status.pipelines[0].done) == (9, 2)


@pytest.mark.parametrize("damage", [b"", b"not JSON", b"[]", b"{}"])
def test_a_remote_whose_head_is_damaged_is_said_and_not_raised(
    m: Metadir, tmp_path: Path, damage: bytes
) -> None:
    (tmp_path / "remote" / "_mmmeta" / "head.json").write_bytes(damage)
    status = m.status()
    assert status.metadir.files == 9
    assert (status.remote_revision, "head.json is damaged" in (status.remote_error or "")) == (None, True)


def test_it_is_one_request_and_changes_nothing(m: Metadir) -> None:
    asked = []

    class Counting(LocalRemote):
        def read(self, name: str, *, etag: str | None = None, limit: int = READ_LIMIT) -> Blob | None:
            asked.append(name)
            return super().read(name, etag=etag, limit=limit)

    m.files.process(Handler("d3"))
    assert isinstance(m.remote, LocalRemote)
    m.remote = Counting(m.remote.root)
    before = m.inspect(), list(m.failures()), {file.key: dict(file) for file in m.files}
    assert m.status() == m.status()
    assert asked == ["_mmmeta/head.json"] * 2
    assert before == (m.inspect(), list(m.failures()), {file.key: dict(file) for file in m.files})


def test_without_a_remote_and_without_an_archive(tmp_path: Path) -> None:
    with mmmeta(tmp_path / "alone") as m:
        with pytest.raises(CatalogError, match="has no _mmmeta"):
            m.status()
        m.files.insert(content_hash="k")
        status = m.status()
        assert (status.remote_revision, status.remote_error, status.metadir.pending) == (None, None, 1)
    with mmmeta(tmp_path / "alone", remote=make(tmp_path / "empty")) as m:
        assert m.status().remote_revision == 0
