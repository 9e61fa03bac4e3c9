"""The example as `make run` starts it: web server, daemon, schedule and sensors, seen through GraphQL."""

from __future__ import annotations

import os
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from dagster_server import Server, until

ROOT = Path(__file__).parent.parent


class Example(Server):
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        super().__init__(
            [sys.executable, "-m", "mmmeta_dagster.serve"],
            ROOT,
            folder.parent / "log.txt",
            location="mmmeta",
            MMMETA_EXAMPLE=str(folder),
        )

    def stop_schedule(self) -> None:
        query = """query($s: ScheduleSelector!) { scheduleOrError(scheduleSelector: $s) {
            ... on Schedule { scheduleState { id status } } } }"""
        state = self.ask(query, s={**self.selector, "scheduleName": "scrape_every_minute"})["scheduleOrError"]
        assert state["scheduleState"]["status"] == "RUNNING"
        stop = "mutation($id: String!) { stopRunningSchedule(id: $id) { __typename } }"
        answer = self.ask(stop, id=state["scheduleState"]["id"])
        assert answer["stopRunningSchedule"]["__typename"] == "ScheduleStateResult"

    def publish(self) -> None:
        """Scrape, generate and publish, by a run of the publisher's job; return when it is done."""
        launch = """mutation($p: ExecutionParams!) { launchRun(executionParams: $p) {
            __typename ... on LaunchRunSuccess { run { runId } } } }"""
        params = {"selector": {**self.selector, "jobName": "publish"}, "runConfigData": {}}
        answer = self.ask(launch, p=params)["launchRun"]
        assert answer["__typename"] == "LaunchRunSuccess", answer
        self.wait_for(answer["run"]["runId"])

    def imported(self) -> dict[str, str]:
        """Return what Client2's database has: title by key."""
        database = self.folder / "data" / "client2" / "imports.db"
        if not database.exists():
            return {}
        with closing(sqlite3.connect(database)) as connection:
            return dict(connection.execute("SELECT content_hash, title FROM documents"))

    def touch_imported(self) -> None:
        """Change what was imported, so that importing it again would show."""
        with (
            closing(sqlite3.connect(self.folder / "data" / "client2" / "imports.db")) as connection,
            connection,
        ):
            connection.execute("UPDATE documents SET title = 'seen: ' || title")

    def contracts(self) -> set[str]:
        return {path.name for path in (self.folder / "data" / "client1" / "contracts").rglob("*.txt")}


@pytest.fixture
def example(tmp_path: Path) -> Iterator[Example]:
    one = Example(tmp_path / "example")
    one.start()
    try:
        yield one
    finally:
        one.stop()


def test_a_publish_leads_to_a_tick_a_run_and_imported_rows(example: Example) -> None:
    example.stop_schedule()
    example.publish()
    first_runs = until(lambda: example.runs_of("client2_sensor"), "a run by Client2's sensor")
    for run in [*first_runs, *until(lambda: example.runs_of("client1_sensor"), "a run by Client1's sensor")]:
        example.wait_for(run)
    example.touch_imported()
    first = example.imported()
    assert first
    assert all("contract" in name for name in example.contracts())
    contracts = example.contracts()

    # Again: only what is new is imported, what was there is left alone.
    example.publish()
    second_runs = until(
        lambda: [run for run in example.runs_of("client2_sensor") if run not in first_runs], "a second run"
    )
    assert len(second_runs) == 1
    example.wait_for(second_runs[0])
    second = example.imported()
    assert len(second) > len(first)
    assert first.items() < second.items()
    until(lambda: contracts < example.contracts(), "new contracts at Client1")

    # Nothing new: a reason that says both values, and no further run.
    skipped = until(
        lambda: [
            t
            for t in example.ticks("client2_sensor")[:1]
            if (t["skipReason"] or "").startswith("nothing new")
        ],
        "a tick that is skipped",
    )
    assert "remote_last_updated at the remote is" in skipped[0]["skipReason"]
    assert len(example.runs_of("client2_sensor")) == len(first_runs) + 1

    # Ctrl-C stops all; a second start carries on.
    example.stop()
    with pytest.raises(OSError, match="refused"):
        example.ask("{ version }")
    example.start()
    example.publish()
    until(lambda: len(example.imported()) > len(second), "an import after the second start")
    assert second.items() < example.imported().items()
    # Dagster's own processes may be interrupted in the middle of something; ours had no error.
    assert f'File "{ROOT / "mmmeta"}' not in example.log.read_text()


def test_a_second_start_beside_a_running_one_is_refused_with_a_sentence(example: Example) -> None:
    def start(**environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "mmmeta_dagster.serve"],
            cwd=ROOT,
            env={**os.environ, "MMMETA_EXAMPLE": str(example.folder), **environment},
            capture_output=True,
            text=True,
        )

    taken = start(PORT=str(example.port))
    assert (taken.returncode, taken.stdout) == (1, "")
    assert f"port {example.port} can't be had" in taken.stderr
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    beside = start(PORT=str(free))
    assert beside.returncode == 1
    assert "the example is running already" in beside.stderr
    assert "PORT=x is no port" in start(PORT="x").stderr


def test_the_demo_tells_the_story(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "mmmeta_dagster.demo"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line.strip() for line in done.stdout.splitlines()]
    assert "client1    downloaded 2 contracts; its folder has 2" in lines
    assert "client1    downloaded 2 contracts; its folder has 4" in lines
    assert "client2    imported 3 documents of the last week; its database has 3, the catalog 4" in lines
    assert "client2    imported 3 documents of the last week; its database has 6, the catalog 8" in lines
    assert sum("sensor: nothing new" in line for line in lines) == 2
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []
