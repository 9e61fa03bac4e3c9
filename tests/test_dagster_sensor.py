"""The store sensor against a real instance, its runs and a real archive."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest
from conftest import Scrape

from mmmeta_core import Metadir, mmmeta
from mmmeta_core.errors import RemoteNotFoundError, RemoteUnreachableError
from mmmeta_core.files import File
from mmmeta_dagster import MetadirResource, build_store_sensor, client_assets
from mmmeta_dagster.sensors import WATCH

STATUS = dg.DagsterRunStatus


@dataclass
class Client:
    """A client with a job and a sensor, on an instance of its own."""

    instance: dg.DagsterInstance
    path: Path
    remote: str
    key: str = "remote_last_updated"
    broken: bool = False
    imported: list[object] = field(default_factory=list)

    def __post_init__(self) -> None:
        def handler(file: File) -> None:
            if file["bad"]:
                raise ValueError("bad")
            self.imported.append(file.key)

        @dg.asset(deps=["imports"])
        def after() -> None:
            if self.broken:
                raise dg.Failure("the machine is out of order")

        assets = [*client_assets("client", process={"imported": handler}), after]
        job = dg.define_asset_job("import_job", assets)
        sensor = build_store_sensor("watch", "client", job, key=self.key, retry_marks=["imported"])
        self.resource = MetadirResource(path=str(self.path), remote=self.remote)
        self.defs = dg.Definitions(
            assets=assets,
            jobs=[job],
            sensors=[sensor],
            resources={"client": self.resource},
            executor=dg.in_process_executor,
        )

    def tick(self) -> dg.RunRequest | str:
        context = dg.build_sensor_context(self.instance, resources={"client": self.resource})
        found = self.defs.resolve_sensor_def("watch").evaluate_tick(context)
        return found.run_requests[0] if found.run_requests else str(found.skip_message)

    def run(self, request: dg.RunRequest) -> dg.ExecuteInProcessResult:
        job = self.defs.resolve_job_def("import_job")
        return job.execute_in_process(instance=self.instance, tags=dict(request.tags), raise_on_error=False)

    def tick_and_run(self) -> dg.ExecuteInProcessResult:
        request = self.tick()
        assert isinstance(request, dg.RunRequest), request
        return self.run(request)


@pytest.fixture
def publisher(tmp_path: Path, remote_url: str, scrape: Scrape) -> Iterator[Metadir]:
    (tmp_path / "documents").mkdir()
    with mmmeta(tmp_path / "publisher", files_root=tmp_path / "documents", remote=remote_url) as m:
        yield m


@pytest.fixture
def client(tmp_path: Path, remote_url: str) -> Iterator[Client]:
    with dg.instance_for_test() as instance:
        yield Client(instance, tmp_path / "client", remote_url)


def test_each_publish_is_imported_once(publisher: Metadir, client: Client, scrape: Scrape) -> None:
    assert "has no remote_last_updated yet" in str(client.tick())
    scrape("a")
    publisher.sync()
    assert client.tick_and_run().success
    assert client.imported == ["a"]
    assert str(client.tick()).startswith("nothing new: remote_last_updated at the remote is 20")
    scrape("b")
    publisher.sync()
    assert client.tick_and_run().success
    assert client.imported == ["a", "b"]
    assert "nothing new" in str(client.tick())


def test_a_client_that_is_current_is_not_started(publisher: Metadir, client: Client, scrape: Scrape) -> None:
    scrape("a")
    publisher.sync()
    with client.resource.open() as m:
        m.sync()
    assert "nothing new" in str(client.tick())


def test_the_same_request_has_the_same_run_key(publisher: Metadir, client: Client, scrape: Scrape) -> None:
    scrape("a")
    publisher.sync()
    first, second = client.tick(), client.tick()
    assert isinstance(first, dg.RunRequest)
    assert isinstance(second, dg.RunRequest)
    assert first.run_key == second.run_key


def test_a_failed_run_is_asked_for_again_and_a_run_by_hand_settles_it(
    publisher: Metadir, client: Client, scrape: Scrape, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmmeta_dagster.decision._FIRST_DELAY", timedelta(0))
    scrape("a")
    publisher.sync()
    client.broken = True
    requests = []
    for _ in range(3):
        request = client.tick()
        assert isinstance(request, dg.RunRequest), request
        requests.append(request)
        assert not client.run(request).success
    assert [request.tags["mmmeta/attempt"] for request in requests] == ["1", "2", "3"]
    assert len({request.run_key for request in requests}) == 3
    assert "gave up after 3 attempts" in str(client.tick())
    client.broken = False
    assert client.defs.resolve_job_def("import_job").execute_in_process(instance=client.instance).success
    assert "nothing new" in str(client.tick())
    assert client.imported == ["a"]


def test_a_failed_run_is_not_asked_for_again_at_once(
    publisher: Metadir, client: Client, scrape: Scrape
) -> None:
    scrape("a")
    publisher.sync()
    client.broken = True
    assert not client.tick_and_run().success
    assert "attempt 2 comes after" in str(client.tick())


def test_while_a_run_is_in_flight_no_other_is_asked_for(
    publisher: Metadir, client: Client, scrape: Scrape
) -> None:
    scrape("a")
    publisher.sync()
    request = client.tick()
    assert isinstance(request, dg.RunRequest)
    job = client.defs.resolve_job_def("import_job")
    run = client.instance.create_run_for_job(job, tags=dict(request.tags), status=STATUS.STARTED)
    scrape("b")
    publisher.sync()
    assert f"run {run.run_id} is in flight (started)" in str(client.tick())
    client.instance.report_run_canceled(run)
    assert client.tick_and_run().success
    assert sorted(map(str, client.imported)) == ["a", "b"]


def test_a_renamed_sensor_or_code_location_sees_the_same_runs(
    publisher: Metadir, client: Client, scrape: Scrape, remote_url: str
) -> None:
    scrape("a")
    publisher.sync()
    request = client.tick()
    assert isinstance(request, dg.RunRequest)
    renamed = build_store_sensor("another_name", "moved", dg.AssetSelection.all())
    context = dg.build_sensor_context(
        client.instance, resources={"moved": client.resource}, sensor_name="another_name", repository_name="x"
    )
    (theirs,) = renamed.evaluate_tick(context).run_requests or []
    assert theirs.tags[WATCH] == request.tags[WATCH]
    client.run(request)
    context = dg.build_sensor_context(client.instance, resources={"moved": client.resource})
    assert "nothing new" in str(renamed.evaluate_tick(context).skip_message)


def test_a_publish_is_noticed_whatever_the_publisher_wrote_as_its_time(
    publisher: Metadir, client: Client, scrape: Scrape
) -> None:
    scrape("a")
    publisher.sync()
    client.tick_and_run()
    with client.resource.open() as m:
        handled = m.poll().handled
    scrape("b")
    publisher.store["remote_last_updated"] = handled.replace(year=handled.year - 5)
    publisher.sync()
    assert client.tick_and_run().success
    assert client.imported == ["a", "b"]


def test_any_key_of_the_store(publisher: Metadir, client: Client, scrape: Scrape, tmp_path: Path) -> None:
    other = Client(client.instance, tmp_path / "other", client.remote, key="scraper_done")
    scrape("a")
    publisher.sync()
    assert "the archive has no scraper_done yet" in str(other.tick())
    publisher.store["scraper_done"] = "run 17"
    publisher.sync()
    assert other.tick_and_run().success
    assert str(other.tick()) == "nothing new: scraper_done at the remote is run 17, handled is run 17"
    scrape("b")
    publisher.sync()
    assert "nothing new" in str(other.tick())


def test_documents_that_failed_are_tried_again_without_a_publish(
    publisher: Metadir, client: Client, scrape: Scrape
) -> None:
    scrape("a", bad=True)
    publisher.sync()
    assert client.tick_and_run().success
    assert "nothing new" in str(client.tick())
    with client.resource.open() as m:
        assert m.retry_failed() == 1
    request = client.tick()
    assert isinstance(request, dg.RunRequest)
    assert request.tags["mmmeta/value"] == "due again"


def test_a_remote_that_is_not_there_fails_the_tick_and_loses_nothing(
    publisher: Metadir, client: Client, scrape: Scrape, tmp_path: Path
) -> None:
    nowhere = Client(client.instance, tmp_path / "elsewhere", str(tmp_path / "unmounted"))
    with pytest.raises(RemoteNotFoundError, match="unmounted"):
        nowhere.tick()
    closed = Client(client.instance, tmp_path / "third", "s3://bucket/x?endpoint=http://127.0.0.1:9")
    started = time.monotonic()
    with pytest.raises(RemoteUnreachableError):
        closed.tick()
    assert time.monotonic() - started < 60, "a tick has a minute"


def test_one_small_object_is_all_that_a_tick_reads(
    publisher: Metadir, client: Client, scrape: Scrape, monkeypatch: pytest.MonkeyPatch
) -> None:
    scrape("a")
    publisher.sync()
    client.tick_and_run()
    asked: list[str] = []
    kind = type(publisher.remote)
    for method in ("read", "fetch", "stat", "names", "check"):
        original = getattr(kind, method)

        def counted(self: object, *names: str, _original: object = original, **options: object) -> object:
            asked.extend(names[:1] or ["check"])
            return _original(self, *names, **options)  # type: ignore[operator]

        monkeypatch.setattr(kind, method, counted)
    assert "nothing new" in str(client.tick())
    assert asked == ["_mmmeta/_store/remote_last_updated"]
