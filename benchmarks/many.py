"""Many archives and clients in one code location: loading it, and the ticks of its sensors.

python -m benchmarks.many [ARCHIVES] [CLIENTS of each] [--rounds R]

Archives are folders, so what is counted as requests costs next to nothing here; a bucket adds its own time to each, which
the sensor for many waits for in threads. Ratios are of this one run.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import dagster as dg

from mmmeta_core import mmmeta
from mmmeta_core.files import File
from mmmeta_core.remotes import LocalRemote
from mmmeta_dagster import MetadirResource, build_clients_sensor, build_store_sensor, client_assets


def handle(file: File) -> None:
    """Do nothing."""


class Deployment:
    def __init__(self, base: Path, archives: int, clients: int) -> None:
        self.resources: dict[str, Any] = {}
        for archive in range(archives):
            for client in range(clients):
                name = f"client_{archive}_{client}"
                self.resources[name] = MetadirResource(
                    path=str(base / name), remote=str(base / f"a{archive}")
                )

    def definitions(self, *, one_sensor: bool) -> dg.Definitions:
        assets, jobs, sensors = [], {}, []
        for name in self.resources:
            its = client_assets(name, key_prefix=name, group_name=name, process={"imported": handle})
            jobs[name] = dg.define_asset_job(name, dg.AssetSelection.assets(*its))
            assets += its
            if not one_sensor:
                sensors.append(
                    build_store_sensor(f"{name}_sensor", name, jobs[name], retry_marks=["imported"])
                )
        if one_sensor:
            sensors = [build_clients_sensor("watch", jobs, retry_marks=["imported"], most=10_000)]
        return dg.Definitions(
            assets=assets, jobs=list(jobs.values()), sensors=sensors, resources=self.resources
        )

    def tick(self, defs: dg.Definitions, sensor: str, instance: dg.DagsterInstance) -> int:
        found = defs.resolve_sensor_def(sensor).evaluate_tick(
            dg.build_sensor_context(instance, resources=self.resources)
        )
        return len(found.run_requests or [])


def plain(clients: int) -> dg.Definitions:
    """Return as many assets, jobs and resources without anything of mmmeta's."""
    assets, jobs, resources = [], [], {}
    for number in range(clients):
        its, before = [], None
        for name in ("sync", "update", "imports"):

            @dg.asset(
                key=[f"c{number}", name],
                deps=[before] if before else [],
                required_resource_keys={f"c{number}"},
            )
            def nothing() -> None: ...

            its.append(nothing)
            before = nothing.key
        assets += its
        jobs.append(dg.define_asset_job(f"j{number}", dg.AssetSelection.assets(*its)))
        resources[f"c{number}"] = dg.ResourceDefinition.hardcoded_resource(number)
    return dg.Definitions(assets=assets, jobs=jobs, resources=resources)


def build(base: Path, archives: int) -> None:
    for archive in range(archives):
        remote = base / f"a{archive}"
        remote.mkdir()
        with mmmeta(base / "publishers" / str(archive), remote=remote) as publisher:
            publisher.files.insert_many({"content_hash": str(number)} for number in range(10))
            publisher.push()


@contextmanager
def counted() -> Iterator[list[str]]:
    """Note what is read from archives."""
    read, reads = LocalRemote.read, []

    def noting(self: LocalRemote, name: str, **options: Any) -> Any:
        reads.append(name)
        return read(self, name, **options)

    LocalRemote.read = noting  # type: ignore[method-assign]
    try:
        yield reads
    finally:
        LocalRemote.read = read  # type: ignore[method-assign]


def seconds(code: Callable[[], object], rounds: int) -> float:
    found = []
    for _ in range(rounds):
        started = time.perf_counter()
        code()
        found.append(time.perf_counter() - started)
    return median(found)


def measure(base: Path, archives: int, clients: int, rounds: int) -> list[str]:
    """Return lines of a table."""
    build(base, archives)
    deployment, one = Deployment(base, archives, clients), Deployment(base, 1, 1)
    lines = ["| | compared with | that | this | ratio |", "|---|---|---|---|---|"]

    def line(what: str, other: str, that: float, this: float) -> None:
        lines.append(
            f"| {what} | {other} | {that * 1000:,.1f} ms | {this * 1000:,.0f} ms | {this / that:,.2f} |"
        )

    def load(made: Callable[[], dg.Definitions]) -> float:
        return seconds(lambda: dg.Definitions.validate_loadable(made()), min(rounds, 3))

    count = archives * clients
    line(
        f"load of {count} clients",
        "as many plain assets, jobs and resources",
        load(lambda: plain(count)),
        load(lambda: deployment.definitions(one_sensor=True)),
    )
    with dg.DagsterInstance.ephemeral() as instance, counted() as reads:
        defs, single = deployment.definitions(one_sensor=True), one.definitions(one_sensor=False)
        asked = deployment.tick(defs, "watch", instance)
        if asked != archives * clients:
            raise SystemExit(f"asked for {asked} runs")
        for state, prepare in (("all are to run", lambda: None), ("nothing new", lambda: sync(deployment))):
            prepare()
            small = seconds(lambda: one.tick(single, "client_0_0_sensor", instance), rounds * 5)
            reads.clear()
            big = seconds(lambda: deployment.tick(defs, "watch", instance), rounds)
            line(
                f"tick for {count} clients, {state}, {len(reads) // rounds} requests",
                "for one client",
                small,
                big,
            )
    return lines


def sync(deployment: Deployment) -> None:
    for resource in deployment.resources.values():
        with resource.open() as metadir:
            metadir.sync()
            metadir.files.process(handle)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.many")
    parser.add_argument("archives", nargs="?", type=int, default=200)
    parser.add_argument("clients", nargs="?", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print("\n".join(measure(Path(folder), options.archives, options.clients, options.rounds)))


if __name__ == "__main__":
    main()
