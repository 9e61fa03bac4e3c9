"""One sensor for clients of several archives, real ones in folders, against a real instance."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from mmmeta_core import mmmeta
from mmmeta_core.remotes import LocalRemote
from mmmeta_dagster import MetadirResource, build_clients_sensor, build_store_sensor, client_assets
from mmmeta_dagster.sensors import identity_of


@dataclass
class Deployment:
    """Archives a, b, … with two clients each, named a_1, a_2, …"""

    folder: Path
    instance: dg.DagsterInstance
    archives: str = "abc"
    cursor: str | None = None

    def __post_init__(self) -> None:
        self.clients = {
            f"{archive}_{number}": MetadirResource(
                path=str(self.folder / f"{archive}_{number}"), remote=str(self.folder / archive)
            )
            for archive in self.archives
            for number in (1, 2)
        }
        self.assets = {
            name: client_assets(name, key_prefix=name, process={"imported": self.handle})
            for name in self.clients
        }
        self.jobs = {name: dg.define_asset_job(name, assets) for name, assets in self.assets.items()}
        self.failing = False
        for archive in self.archives:
            (self.folder / archive).mkdir()

    def handle(self, file: Any) -> None:
        if self.failing:
            raise SystemExit("broken")

    def publish(self, archive: str, key: str) -> None:
        with mmmeta(self.folder / f"publisher_{archive}", remote=self.folder / archive) as publisher:
            publisher.files.upsert({"content_hash": key})
            publisher.push()

    def tick(self, **options: Any) -> tuple[list[dg.RunRequest], str]:
        sensor = build_clients_sensor("watch", self.jobs, **options)
        context = dg.build_sensor_context(self.instance, resources=self.clients, cursor=self.cursor)
        found = sensor.evaluate_tick(context)
        self.cursor = found.cursor
        return list(found.run_requests or []), str(found.skip_message)

    def run(self, request: dg.RunRequest) -> bool:
        defs = dg.Definitions(
            assets=self.assets[str(request.job_name)],
            jobs=[self.jobs[str(request.job_name)]],
            resources=self.clients,
        )
        job = defs.resolve_job_def(str(request.job_name))
        return job.execute_in_process(
            instance=self.instance, tags=dict(request.tags), raise_on_error=False
        ).success


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield Deployment(tmp_path, instance)


def asked(requests: list[dg.RunRequest]) -> list[str]:
    return [str(request.job_name) for request in requests]


def test_each_client_is_asked_for_once_a_change(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[str] = []
    read = LocalRemote.read

    def counted(self: LocalRemote, name: str, **options: Any) -> Any:
        reads.append(name)
        return read(self, name, **options)

    for archive in "ab":
        deployment.publish(archive, "1")
    monkeypatch.setattr(LocalRemote, "read", counted)
    requests, _ = deployment.tick()
    assert reads == ["_mmmeta/head.json"] * 3
    assert asked(requests) == ["a_1", "a_2", "b_1", "b_2"]
    assert deployment.run(requests[0])
    again, _ = deployment.tick()
    assert asked(again) == ["a_2", "b_1", "b_2"]
    assert {one.run_key for one in again} < {one.run_key for one in requests}
    for request in again:
        assert deployment.run(request)
    requests, said = deployment.tick()
    assert (requests, said) == ([], "looked at 3 of 3 archives: nothing new, 2 clients wait")
    # The sensor for one client knows of these runs, too.
    sensor = build_store_sensor("one", "a_1", deployment.jobs["a_1"])
    context = dg.build_sensor_context(deployment.instance, resources={"a_1": deployment.clients["a_1"]})
    assert "nothing new" in str(sensor.evaluate_tick(context).skip_message)


def test_a_broken_archive_holds_up_no_other(deployment: Deployment) -> None:
    for archive in "abc":
        deployment.publish(archive, "1")
    head = deployment.folder / "a" / "_mmmeta" / "head.json"
    good = head.read_bytes()
    head.write_text("{")
    requests, _ = deployment.tick()
    assert asked(requests) == ["b_1", "b_2", "c_1", "c_2"]
    for request in requests:
        assert deployment.run(request)
    requests, said = deployment.tick()
    assert requests == []
    assert "1 gave no answer, such as " in said
    assert "head.json is damaged" in said
    # It comes last as long as it is broken.
    assert asked(deployment.tick(most=1)[0]) == []
    head.write_bytes(good)
    assert asked(deployment.tick()[0]) == ["a_1", "a_2"]


def test_a_tick_goes_on_where_the_last_one_stopped(deployment: Deployment) -> None:
    for archive in "abc":
        deployment.publish(archive, "1")
    assert asked(deployment.tick(most=1)[0]) == ["a_1", "a_2"]
    assert asked(deployment.tick(most=2)[0]) == ["b_1", "b_2"]
    assert asked(deployment.tick(most=3)[0]) == ["c_1", "c_2", "a_1", "a_2"]


def test_what_does_not_answer_in_time_is_left_behind(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, answered = LocalRemote.read, threading.Event()

    def slow(self: LocalRemote, name: str, **options: Any) -> Any:
        if self.root.name == "b":
            answered.wait()
        return read(self, name, **options)

    for archive in "abc":
        deployment.publish(archive, "1")
    monkeypatch.setattr(LocalRemote, "read", slow)
    requests, _ = deployment.tick(seconds=0.5, workers=1)
    assert asked(requests) == ["a_1", "a_2"]
    assert json.loads(deployment.cursor or "")["following"].endswith("/c")
    requests, _ = deployment.tick(seconds=0.5, workers=1)
    assert asked(requests) == ["c_1", "c_2", "a_1", "a_2"]
    answered.set()


def test_a_run_that_failed_is_asked_for_again_after_a_while(deployment: Deployment) -> None:
    deployment.publish("a", "1")
    (first, _), _ = deployment.tick()
    (deployment.folder / "a_1").write_text("a file where its folder is to be")
    assert not deployment.run(first)
    (deployment.folder / "a_1").unlink()
    requests, _ = deployment.tick()
    assert asked(requests) == ["a_2"]


def test_a_client_without_a_remote_is_a_mistake(tmp_path: Path) -> None:
    job = dg.define_asset_job("lonely", client_assets("lonely"))
    context = dg.build_sensor_context(resources={"lonely": MetadirResource(path=str(tmp_path))})
    with pytest.raises(dg.DagsterInvalidDefinitionError, match="'lonely' has no remote"):
        build_clients_sensor("watch", {"lonely": job}).evaluate_tick(context)


def test_clients_in_containers_have_one_path_and_are_told_apart(tmp_path: Path) -> None:
    def identity(state: str | None) -> str:
        resource = MetadirResource(path=str(tmp_path), remote=str(tmp_path), state_db=state)
        return identity_of(resource.open(), "remote_last_updated")

    server = "postgresql+psycopg://user:%s@example.org/clients?schema=%s"
    assert (
        identity(server % ("old", "a")) == identity(server % ("new", "a")) != identity(server % ("old", "b"))
    )
    assert identity(None) != identity(server % ("old", "a"))
