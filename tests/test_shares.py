"""Work divided among workers: shares of what is due, what is left and claimed, and workers that have no catalog."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Scrape
from metadirs import publish

from mmmeta_core import CatalogError, ConfigError, Metadir, mmmeta
from mmmeta_core.files import File
from mmmeta_core.process import Left, Share


@pytest.fixture
def m(tmp_path: Path) -> Metadir:
    metadir = mmmeta(tmp_path / "metadir")
    metadir.files.insert_many({"content_hash": f"d{n}", "odd": n % 2 == 1} for n in range(10))
    return metadir


def nothing(file: File) -> None:
    pass


def test_shares_are_of_what_is_due(m: Metadir) -> None:
    assert m.files.shares(4, 9) == [Share("d0", "d3", 4), Share("d4", "d7", 4), Share("d8", "d9", 2)]
    assert m.files.shares(4, 2) == [Share("d0", "d3", 4), Share("d4", "d7", 4)]
    assert m.files.shares(4, 9, limit=5) == [Share("d0", "d3", 4), Share("d4", "d4", 1)]
    assert m.files.shares(3, 9, odd=True) == [Share("d1", "d5", 3), Share("d7", "d9", 2)]
    m.files.process(nothing, odd=True)
    assert m.files.shares(3, 9) == [Share("d0", "d4", 3), Share("d6", "d8", 2)]
    assert m.files.shares(9, 9, mark="other") == [Share("d0", "d8", 9), Share("d9", "d9", 1)]
    m.files.process(nothing)
    assert m.files.shares(3, 9) == []
    for size, most in ((0, 1), (1, 0)):
        with pytest.raises(ConfigError, match="must be more than 0"):
            m.files.shares(size, most)


def test_a_share_narrows_filters_down(m: Metadir) -> None:
    share = Share("d3", "d6", 4)

    def found(**filters: object) -> list[object]:
        return [file.key for file in m.files.find(**share.within(filters, "content_hash"))]

    assert found() == ["d3", "d4", "d5", "d6"]
    assert found(odd=True) == ["d3", "d5"]
    assert found(content_hash={">": "d4"}) == ["d5", "d6"]
    assert found(content_hash="d1") == []
    assert found(content_hash=["d1", "d4"]) == ["d4"]
    done: list[object] = []
    m.files.process(lambda file: done.append(file.key), chunk=1, **share.within({}, "content_hash"))
    assert done == ["d3", "d4", "d5", "d6"]


def test_what_is_left_and_what_of_it_is_claimed(m: Metadir) -> None:
    assert m.files.left() == Left(10, 0)
    seen: list[Left] = []

    def look(file: File) -> None:
        with mmmeta(m.path) as other:
            seen.append(other.files.left())
        if file["odd"]:
            raise ValueError("odd")

    m.files.process(look, chunk=4, limit=6)
    assert seen == [Left(10, 4)] * 4 + [Left(8, 2)] * 2
    assert m.files.left() == Left(7, 0)
    assert m.files.left(odd=True) == Left(5, 0)
    assert m.files.left(mark="other") == Left(10, 0)


def test_a_worker_without_a_catalog(tmp_path: Path, scrape: Scrape) -> None:
    remote = tmp_path / "archive"
    remote.mkdir()
    with mmmeta(tmp_path / "publisher", remote=remote) as publisher:
        publisher.paths.root.mkdir(parents=True)
        publisher.paths.config.write_text("metadata: {unique: id}\nremote: {web: 'https://x.org/{id}'}\n")
        publisher.files.insert_many([{"id": "1"}, {"id": "2"}])
        assert publisher.push().revision == 1
    with mmmeta(tmp_path / "client", remote=remote) as client:
        client.sync()
    worker = mmmeta(tmp_path / "worker", remote=remote, state_db=client.paths.state)
    assert worker.pull_settings() == 1
    urls: list[str] = []
    assert worker.files.process(lambda file: urls.append(file.remote.web)).processed == 2
    assert urls == ["https://x.org/1", "https://x.org/2"]
    assert not worker.paths.meta.exists()

    publisher.paths.config.write_text("metadata: {unique: id}\nremote: {web: 'https://y.org/{id}'}\n")
    publisher.files.insert(id="3")
    publisher.push()
    assert worker.pull_settings() == 2
    client.sync()
    assert worker.files.get("3").remote.web == "https://y.org/3"  # type: ignore[union-attr]
    # One that has a catalog is left alone.
    before = client.paths.config.read_text()
    publisher.paths.config.write_text("metadata: {unique: id}\n")
    publisher.files.insert(id="4")
    publisher.push()
    assert client.pull_settings() == 3
    assert client.paths.config.read_text() == before
    for metadir in (worker, client, publisher):
        metadir.close()


def test_settings_of_an_archive_without_any(tmp_path: Path) -> None:
    remote = tmp_path / "archive"
    remote.mkdir()
    with mmmeta(tmp_path / "worker", remote=remote) as worker:
        assert worker.pull_settings() == 0
    with publish(tmp_path, str(remote)), mmmeta(tmp_path / "worker", remote=remote) as worker:
        assert worker.pull_settings() == 3
        worker.paths.config.write_text("metadata: {unique: id}")
        with pytest.raises(CatalogError, match="keyed by 'content_hash'"):
            worker.pull_settings()


def test_a_chunk_is_found_by_an_index_and_not_by_sorting_all(tmp_path: Path) -> None:
    with mmmeta(tmp_path / "metadir") as m:
        m.files.insert_many({"content_hash": f"{number:06}", "title": "t" * 200} for number in range(5000))
        m.files.process(nothing, limit=1)
        plan = " ".join(m.files.explain({"content_hash": {">": "000100"}}, order_by="content_hash", _limit=2))
    assert "INDEX" in plan.upper()
    assert "Sort" not in plan
    assert "TEMP B-TREE" not in plan
