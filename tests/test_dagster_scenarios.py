"""What happens to a store sensor's client, scenario by scenario, with the kit that users test theirs with."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from mmmeta_core import RemoteNotFoundError
from mmmeta_core.files import File
from mmmeta_dagster import Downloads, build_archive_sensor, build_store_sensor, client_assets
from mmmeta_dagster.testing import ThrowawayArchive


class Deployment:
    """A client that imports, its job and its sensor; it can be out of order."""

    def __init__(self, archive: ThrowawayArchive, *, sensor: str = "watch") -> None:
        self.archive = archive
        self.imported: list[object] = []
        self.broken = False

        def handler(file: File) -> None:
            if self.broken:
                raise SystemExit("out of order")
            self.imported.append(file.key)

        self.assets = client_assets("client", process={"imported": handler})
        self.job = dg.define_asset_job("import_job", self.assets)
        self.sensor = build_store_sensor(sensor, "client", self.job, retry_marks=["imported"])
        self.defs = dg.Definitions(
            assets=self.assets,
            jobs=[self.job],
            sensors=[self.sensor],
            resources=archive.resources,
            executor=dg.in_process_executor,
        )

    def tick(self) -> dg.RunRequest | str:
        found = self.archive.tick(self.sensor)
        return found if isinstance(found, str) else found[0]

    def settle(self) -> int:
        """Tick and run until nothing is asked for; return the number of runs."""
        runs = 0
        while isinstance(request := self.tick(), dg.RunRequest):
            assert self.archive.run(self.defs, "import_job", request).success
            runs += 1
            assert runs < 10
        return runs


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[ThrowawayArchive]:
    with ThrowawayArchive(tmp_path) as one:
        yield one


@pytest.fixture
def deployment(archive: ThrowawayArchive) -> Deployment:
    return Deployment(archive)


def test_first_tick_on_an_empty_archive_and_on_a_current_client(
    archive: ThrowawayArchive, deployment: Deployment
) -> None:
    assert "nothing was published" in str(deployment.tick())
    archive.publish({"content_hash": "a"})
    assert archive.materialize(deployment.assets).success, "by hand, before the sensor ever ran"
    assert "nothing new" in str(deployment.tick())
    assert deployment.imported == ["a"]


def test_advanced_then_nothing_new(archive: ThrowawayArchive, deployment: Deployment) -> None:
    for number in range(3):
        archive.publish({"content_hash": f"d{number}"})
        assert deployment.settle() == 1
        assert "nothing new" in str(deployment.tick())
    assert deployment.imported == ["d0", "d1", "d2"]


def test_two_publishes_during_one_run_are_one_run_more(
    archive: ThrowawayArchive, deployment: Deployment
) -> None:
    archive.publish({"content_hash": "a"})
    request = deployment.tick()
    assert isinstance(request, dg.RunRequest)
    archive.publish({"content_hash": "b"})
    assert archive.run(deployment.defs, "import_job", request).success
    archive.publish({"content_hash": "c"})
    archive.publish({"content_hash": "d"})
    assert deployment.settle() == 1
    assert deployment.imported == ["a", "b", "c", "d"]


def test_a_run_that_failed_is_asked_for_again_with_another_key(
    archive: ThrowawayArchive, deployment: Deployment
) -> None:
    archive.publish({"content_hash": "a"})
    first = deployment.tick()
    assert isinstance(first, dg.RunRequest)
    shutil.move(archive.remote, archive.folder / "away")
    assert not archive.run(deployment.defs, "import_job", first).success
    with pytest.raises(RemoteNotFoundError, match="create it, mount it"):
        deployment.tick()
    shutil.move(archive.folder / "away", archive.remote)
    assert "attempt 2 comes after" in str(deployment.tick())
    assert deployment.imported == []


def test_a_value_that_went_back_is_new(archive: ThrowawayArchive, deployment: Deployment) -> None:
    sensor = build_store_sensor("version", "client", deployment.job, key="version")
    keys = set()
    for version in ("1", "2", "1"):
        archive.publish(store={"version": version})
        (request,) = archive.tick(sensor)
        assert isinstance(request, dg.RunRequest)
        keys.add(request.run_key)
        assert archive.run(deployment.defs, "import_job", request).success
        assert "nothing new" in str(archive.tick(sensor))
    assert len(keys) == 3


def test_a_renamed_sensor_asks_for_nothing_twice(archive: ThrowawayArchive, deployment: Deployment) -> None:
    archive.publish({"content_hash": "a"})
    request = deployment.tick()
    renamed = Deployment(archive, sensor="renamed")
    again = renamed.tick()
    assert isinstance(request, dg.RunRequest)
    assert isinstance(again, dg.RunRequest)
    assert request.run_key == again.run_key
    assert archive.run(deployment.defs, "import_job", request).success
    assert "nothing new" in str(renamed.tick())


def test_documents_of_a_publisher_with_a_slow_clock_arrive(
    archive: ThrowawayArchive, deployment: Deployment
) -> None:
    archive.publish({"content_hash": "a"})
    assert deployment.settle() == 1
    path = archive.remote / "_mmmeta" / "_store" / "remote_last_updated"
    os.utime(path, (0, 0))
    archive.publisher.store["remote_last_updated"] = "2001-01-01T00:00:00Z"
    archive.publish({"content_hash": "b"})
    assert deployment.settle() == 1
    assert deployment.imported == ["a", "b"]


def test_a_remote_that_is_away_fails_the_tick_and_loses_nothing(
    archive: ThrowawayArchive, deployment: Deployment
) -> None:
    archive.publish({"content_hash": "a"})
    shutil.move(archive.remote, archive.folder / "away")
    with pytest.raises(RemoteNotFoundError, match="create it, mount it"):
        deployment.tick()
    shutil.move(archive.folder / "away", archive.remote)
    assert deployment.settle() == 1
    assert deployment.imported == ["a"]


def test_the_kit_publishes_files_and_deletions_and_reports_archives(archive: ThrowawayArchive) -> None:
    assert (
        archive.publish({"content_hash": "a", "content": b"A"}, {"content_hash": "b", "content": b"B"}) == 1
    )
    assert archive.delete("b") == 2
    contracts = archive.folder / "contracts"
    assert archive.materialize(client_assets("client", downloads=Downloads(str(contracts)))).success
    assert [(path.name, path.read_bytes()) for path in contracts.iterdir()] == [("a.bin", b"A")]
    sensor = build_archive_sensor("seen", "client", "archive")
    assert archive.tick(sensor) == []
    assert "is known" in str(archive.tick(sensor))
