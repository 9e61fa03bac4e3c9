"""A deployment of Dagster as a user starts it, with web server and daemon, seen through GraphQL."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

PATIENCE = 150

T = TypeVar("T")


def until(found: Callable[[], T | None], what: str) -> T:
    """Wait for a condition, and say what was waited for when it does not come."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        value = found()
        if value:
            return value
        time.sleep(0.2)
    raise AssertionError(f"waited in vain for {what}")


class Server:
    """A process that serves Dagster on `port` of loopback; {port} in its command is that."""

    def __init__(
        self, command: Sequence[str], cwd: Path, log: Path, *, location: str, **environment: str
    ) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.command = command
        self.cwd = cwd
        self.log = log
        self.location = location
        self.environment = environment
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def selector(self) -> dict[str, str]:
        return {"repositoryName": "__repository__", "repositoryLocationName": self.location}

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [part.format(port=self.port) for part in self.command],
                cwd=self.cwd,
                env={**os.environ, "PORT": str(self.port), **self.environment},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        until(self.answers, "the web server")

    def answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        try:
            self.ask("{ repositoriesOrError { __typename } }")
        except OSError:
            return False
        return True

    def stop(self) -> int:
        """Do what Ctrl-C in a terminal does."""
        assert self.process is not None
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(60)

    def ask(self, query: str, **variables: Any) -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/graphql",
            json.dumps({"query": query, "variables": variables}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            body = json.load(answer)
        assert "errors" not in body, body["errors"]
        return body["data"]

    def status(self, run_id: str) -> str:
        query = "query($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
        return str(self.ask(query, id=run_id)["runOrError"]["status"])

    def wait_for(self, run_id: str, wanted: str = "SUCCESS") -> None:
        def finished() -> bool:
            status = self.status(run_id)
            assert status == wanted or status not in ("SUCCESS", "FAILURE", "CANCELED"), (
                f"run {run_id}: {status}\n{self.log.read_text()}"
            )
            return status == wanted

        until(finished, f"run {run_id} to be a {wanted}")

    def ticks(self, sensor: str) -> list[dict[str, Any]]:
        """Return a sensor's ticks, the latest first."""
        query = """query($s: SensorSelector!) { sensorOrError(sensorSelector: $s) { ... on Sensor {
            sensorState { status ticks(limit: 200) { status runIds skipReason error { causes { message } } } } } } }"""
        found = self.ask(query, s={**self.selector, "sensorName": sensor})["sensorOrError"]["sensorState"]
        assert found["status"] == "RUNNING"
        ticks: list[dict[str, Any]] = found["ticks"]
        return ticks

    def runs_of(self, sensor: str) -> list[str]:
        return [run for tick in self.ticks(sensor) for run in tick["runIds"]]
