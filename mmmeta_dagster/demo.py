"""`make demo`: the example's story in one process, without web server and daemon, in a folder that is thrown away."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import dagster as dg

_QUIET: Final = {"loggers": {"console": {"config": {"log_level": "ERROR"}}}}


def main() -> None:
    """Tell three rounds: all is new, some is new, nothing is new."""
    with tempfile.TemporaryDirectory(prefix="mmmeta-demo-") as folder:
        os.environ["MMMETA_EXAMPLE"] = folder
        with dg.DagsterInstance.ephemeral() as instance:
            _Story(instance).tell()


class _Story:
    def __init__(self, instance: dg.DagsterInstance) -> None:
        # Imported here: the example's definitions take their folder from the environment.
        from mmmeta_dagster.definitions import defs
        from mmmeta_dagster.example import prepare

        self.instance = instance
        self.defs = defs
        self.data = prepare()

    def tell(self) -> None:
        """Print what happens."""
        say("An archive in a folder, a publisher, and two clients who may only read it.")
        self.round("Round 1: everything is new", publish=True)
        self.round("Round 2: the publisher scrapes again; only what is new moves", publish=True)
        self.round("Round 3: nothing was published since", publish=False)
        say("\nmake run shows the same live, at http://127.0.0.1:3000")

    def round(self, title: str, *, publish: bool) -> None:
        """Let the publisher publish, and both clients' sensors look."""
        say(f"\n{title}")
        if publish:
            result = self.run("publish")
            new = self.of(result, "publisher", "documents")["new"]
            remote = self.of(result, "publisher", "remote")
            say(
                f"  publisher  scraped {new} documents and published revision {remote['mmmeta/revision']} "
                f"({remote['mmmeta/bytes']} bytes of log)"
            )
        self.client1()
        self.client2()

    def client1(self) -> None:
        """Client1 downloads contracts."""
        result = self.look("client1")
        if result is not None:
            files = sum(path.is_file() for path in (self.data / "client1" / "contracts").rglob("*"))
            done = self.of(result, "client1", "downloads")["mmmeta/downloaded"]
            say(f"  client1    downloaded {done} contracts; its folder has {files}")

    def client2(self) -> None:
        """Client2 imports what is of the last week."""
        result = self.look("client2")
        if result is not None:
            rows = count_rows(self.data / "client2" / "imports.db")
            catalog = self.of(result, "client2", "update")["dagster/row_count"]
            done = self.of(result, "client2", "imports")["mmmeta/processed"]
            say(
                f"  client2    imported {done} documents of the last week; its database has {rows}, the catalog {catalog}"
            )

    def look(self, client: str) -> dg.ExecuteInProcessResult | None:
        """Evaluate a client's sensor once, and run what it asks for."""
        sensor = self.defs.resolve_sensor_def(f"{client}_sensor")
        context = dg.build_sensor_context(self.instance, resources=self.defs.resources)
        tick = sensor.evaluate_tick(context)
        if not tick.run_requests:
            say(f"  {client}    sensor: {tick.skip_message}")
            return None
        say(f"  {client}    sensor: remote_last_updated has changed")
        return self.run(client, dict(tick.run_requests[0].tags))

    def run(self, job: str, tags: dict[str, str] | None = None) -> dg.ExecuteInProcessResult:
        """Run a job."""
        return self.defs.resolve_job_def(job).execute_in_process(
            instance=self.instance, tags=tags, run_config=_QUIET
        )

    def of(self, result: dg.ExecuteInProcessResult, *key: str) -> dict[str, Any]:
        """Return the metadata that a run gave an asset."""
        events = result.get_asset_materialization_events()
        found = next(event for event in events if event.asset_key == dg.AssetKey(key))
        return {name: value.value for name, value in found.materialization.metadata.items()}


def count_rows(database: Path) -> int:
    """Return how many documents Client2 has imported."""
    with closing(sqlite3.connect(database)) as connection:
        total: int = connection.execute("SELECT count(*) FROM documents").fetchone()[0]
        return total


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
