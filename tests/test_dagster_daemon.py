"""The store sensor's scenarios, under Dagster's own daemon. `make test-daemon` runs them: failed runs wait for minutes."""

from __future__ import annotations

import shutil
import sqlite3
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from dagster_server import Server, until

from mmmeta_dagster.testing import ThrowawayArchive

PROJECT = """
import os, sqlite3, time
from contextlib import closing
from pathlib import Path
import dagster as dg
from mmmeta_dagster import MetadirResource, build_store_sensor, client_assets

base = Path(os.environ["SCENARIOS"])

def handler(file):
    while (base / "hold").exists():
        (base / "holding").touch()
        time.sleep(0.05)
    with closing(sqlite3.connect(base / "seen.db", timeout=60)) as database, database:
        database.execute("CREATE TABLE IF NOT EXISTS seen (key TEXT)")
        database.execute("INSERT INTO seen VALUES (?)", [file.key])

@dg.asset(deps=["imports"])
def after():
    if (base / "broken").exists():
        raise dg.Failure("the machine is out of order")

assets = [*client_assets("client", process={"imported": handler}), after]
job = dg.define_asset_job("import_job", assets)
others = client_assets("versions", key_prefix="versions")
other_job = dg.define_asset_job("version_job", others)
name = os.environ["SENSOR"]
on = dg.DefaultSensorStatus.RUNNING
defs = dg.Definitions(
    assets=[*assets, *others],
    jobs=[job, other_job],
    sensors=[
        build_store_sensor(name, "client", job, minimum_interval_seconds=1, default_status=on),
        build_store_sensor(
            f"{name}_version", "versions", other_job, key="version", minimum_interval_seconds=1, default_status=on
        ),
    ],
    resources={
        name: MetadirResource(path=str(base / name), remote=str(base / "archive")) for name in ("client", "versions")
    },
    executor=dg.in_process_executor,
)
"""


class Deployment(Server):
    def __init__(
        self, archive: ThrowawayArchive, *, location: str = "scenarios", sensor: str = "watch"
    ) -> None:
        self.folder, self.sensor = archive.folder, sensor
        project = self.folder / f"{location}.py"
        project.write_text(PROJECT, encoding="utf-8")
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n", encoding="utf-8")
        dev = [sys.executable, "-W", "ignore", "-m", "dagster", "dev", "-f", str(project), "-h", "127.0.0.1"]
        super().__init__(
            [*dev, "-p", "{port}"],
            self.folder,
            self.folder / "log.txt",
            location=project.name,
            DAGSTER_HOME=str(home),
            SCENARIOS=str(self.folder),
            SENSOR=sensor,
        )

    def seen(self) -> Counter[str]:
        """Return how often each document was handled."""
        if not (self.folder / "seen.db").exists():
            return Counter()
        with closing(sqlite3.connect(self.folder / "seen.db", timeout=60)) as database:
            return Counter(key for (key,) in database.execute("SELECT key FROM seen"))

    def skips(self, reason: str, sensor: str | None = None) -> None:
        """Wait for the latest tick to be one that is skipped for this reason."""

        def latest() -> bool:
            ticks = self.ticks(sensor or self.sensor)
            return bool(ticks) and reason in (ticks[0]["skipReason"] or "")

        until(latest, f"a tick that is skipped: {reason}")

    def next_run(self, before: list[str], sensor: str | None = None) -> str:
        """Wait for the sensor to ask for one run more; return it."""
        new = until(
            lambda: [run for run in self.runs_of(sensor or self.sensor) if run not in before], "a run"
        )
        assert len(new) == 1
        return new[0]


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[ThrowawayArchive]:
    with ThrowawayArchive(tmp_path) as one:
        yield one


@pytest.mark.daemon
def test_scenarios(archive: ThrowawayArchive) -> None:
    deployment = Deployment(archive)
    deployment.start()
    try:
        first_tick_and_advance(archive, deployment)
        changes_during_a_run(archive, deployment)
        a_value_that_goes_back(archive, deployment)
        a_publisher_whose_clock_is_behind(archive, deployment)
        a_remote_that_is_away(archive, deployment)
        a_run_that_fails(archive, deployment)
    finally:
        deployment.stop()
    renamed = Deployment(archive, location="renamed", sensor="other")
    renamed.start()
    try:
        renamed.skips("nothing new")
        assert renamed.runs_of("other") == []
    finally:
        renamed.stop()
    assert set(renamed.seen().values()) == {1}, "no document was handled twice"


def first_tick_and_advance(archive: ThrowawayArchive, deployment: Deployment) -> None:
    deployment.skips("nothing was published")
    archive.publish({"content_hash": "a"})
    deployment.wait_for(deployment.next_run([]))
    deployment.skips("nothing new")
    assert deployment.seen() == {"a": 1}


def changes_during_a_run(archive: ThrowawayArchive, deployment: Deployment) -> None:
    before = deployment.runs_of("watch")
    (archive.folder / "hold").touch()
    archive.publish({"content_hash": "b"})
    run = deployment.next_run(before)
    until((archive.folder / "holding").exists, "the run to come to its document")
    archive.publish({"content_hash": "c"})
    archive.publish({"content_hash": "d"})
    deployment.skips("is in flight")
    (archive.folder / "hold").unlink()
    deployment.wait_for(run)
    deployment.wait_for(deployment.next_run([*before, run]))
    deployment.skips("nothing new")
    assert deployment.seen() == dict.fromkeys("abcd", 1)
    assert len(deployment.runs_of("watch")) == len(before) + 2


def a_value_that_goes_back(archive: ThrowawayArchive, deployment: Deployment) -> None:
    for version in ("1", "2", "1"):
        before = deployment.runs_of("watch_version")
        archive.publish(store={"version": version})
        deployment.wait_for(deployment.next_run(before, "watch_version"))
        deployment.skips("nothing new", "watch_version")
    deployment.skips("nothing new")


def a_publisher_whose_clock_is_behind(archive: ThrowawayArchive, deployment: Deployment) -> None:
    """What it publishes has times before the client's last update."""
    before = deployment.runs_of("watch")
    with pytest.MonkeyPatch.context() as patch:
        for module in ("mmmeta_core.sync.push", "mmmeta_core.database.catalog"):
            patch.setattr(sys.modules[module], "utcnow", lambda: datetime(2001, 1, 1, tzinfo=UTC))
        archive.publish({"content_hash": "late"})
    assert archive.publisher.store["remote_last_updated"] < datetime.now(UTC) - timedelta(seconds=1)
    deployment.wait_for(deployment.next_run(before))
    deployment.skips("nothing new")
    assert deployment.seen()["late"] == 1


def a_remote_that_is_away(archive: ThrowawayArchive, deployment: Deployment) -> None:
    before = deployment.runs_of("watch")
    shutil.move(archive.remote, archive.folder / "away")
    failed = until(
        lambda: [tick for tick in deployment.ticks("watch")[:1] if tick["status"] == "FAILURE"],
        "a tick that fails",
    )
    assert any("There is no folder" in cause["message"] for cause in failed[0]["error"]["causes"])
    shutil.move(archive.folder / "away", archive.remote)
    deployment.skips("nothing new")
    assert deployment.runs_of("watch") == before


def a_run_that_fails(archive: ThrowawayArchive, deployment: Deployment) -> None:
    before = deployment.runs_of("watch")
    (archive.folder / "broken").touch()
    archive.publish({"content_hash": "e"})
    run = deployment.next_run(before)
    deployment.wait_for(run, "FAILURE")
    deployment.skips("attempt 2 comes after")
    (archive.folder / "broken").unlink()
    again = deployment.next_run([*before, run])
    deployment.wait_for(again)
    deployment.skips("nothing new")
    assert deployment.seen()["e"] == 1
