"""What Dagster adds: loading the example's definitions, a tick, and a run with nothing new.

python -m benchmarks.dagster [--rounds R]

As a module only: a script of this name would hide Dagster itself.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import dagster as dg

from benchmarks import archive, s3
from mmmeta_core import mmmeta
from mmmeta_dagster import MetadirResource, build_store_sensor, client_assets

DOCUMENTS = 100
TICKS = 30


def seconds(code: Callable[[], object]) -> float:
    started = time.perf_counter()
    code()
    return time.perf_counter() - started


def alternate(rounds: int, first: Callable[[], object], second: Callable[[], object]) -> tuple[float, float]:
    found = [(seconds(first), seconds(second)) for _ in range(rounds)]
    return median(one for one, _ in found), median(two for _, two in found)


def load(rounds: int) -> str:
    def imports(name: str) -> Callable[[], object]:
        return lambda: subprocess.run([sys.executable, "-c", f"import {name}"], check=True)

    floor, ours = alternate(rounds, imports("dagster"), imports("mmmeta_dagster.definitions"))
    return _row("load of the definitions / `import dagster`", floor, ours, f"{ours / floor:.2f}", "≤ 1.2")


def tick(rounds: int, client: MetadirResource, raw: Callable[[], object]) -> list[str]:
    from mmmeta_core.remotes.s3_client import shared_client
    from mmmeta_core.remotes.s3_options import S3Options

    requests: list[str] = []
    shared = shared_client(
        S3Options(endpoint_url=client.remote.partition("endpoint=")[2] if client.remote else None)
    )
    shared.meta.events.register("before-send.s3", lambda request, **_: requests.append(request.url))
    job = dg.define_asset_job("job", "*")
    sensor = build_store_sensor("watch", "client", job)
    with dg.DagsterInstance.ephemeral() as instance:

        def look() -> None:
            with dg.build_sensor_context(instance=instance, resources={"client": client}) as context:
                answer = sensor.evaluate_tick(context).skip_message
                if answer is None:
                    raise SystemExit("a tick on an unchanged archive asked for a run")

        look()
        requests.clear()
        look()
        number = len(requests)
        floor, ours = alternate(rounds * TICKS, raw, look)
    beyond = f"{(ours - floor) * 1000:.1f} ms beyond"
    return [
        _row("a tick / its request alone", floor, ours, beyond, "≤ 10 ms beyond"),
        f"| requests of a tick | | {number} | | 1 |",
    ]


def run(rounds: int, client: MetadirResource) -> str:
    with runs(client) as (empty, nothing_new):
        floor, took = alternate(rounds, empty, nothing_new)
    return _row(
        "sync + update, nothing new / three empty assets", floor, took, f"{took / floor:.2f}", "≤ 1.3"
    )


@contextmanager
def runs(client: MetadirResource) -> Iterator[tuple[Callable[[], object], Callable[[], object]]]:
    """Yield a run of three empty assets, and one of a client that finds nothing new; each was run once."""

    @dg.asset
    def one() -> None: ...

    @dg.asset(deps=[one])
    def two() -> None: ...

    @dg.asset(deps=[two])
    def three() -> None: ...

    ours = client_assets("client")
    with dg.DagsterInstance.ephemeral() as instance:

        def empty() -> None:
            dg.materialize([one, two, three], instance=instance)

        def nothing_new() -> None:
            dg.materialize(ours, instance=instance, resources={"client": client})

        empty()
        nothing_new()
        yield empty, nothing_new


def _row(name: str, floor: float, ours: float, ratio: str, wanted: str) -> str:
    return f"| {name} | {floor * 1000:,.1f} ms | {ours * 1000:,.1f} ms | {ratio} | {wanted} |"


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.dagster")
    parser.add_argument("--rounds", type=int, default=5)
    show(parser.parse_args().rounds)


def show(rounds: int) -> None:
    print("\n| in Dagster | floor | mmmeta | ratio | wanted |\n| --- | ---: | ---: | ---: | ---: |")
    print(load(rounds), flush=True)
    with up_to_date() as (client, raw):
        listed = raw.list_objects_v2(Bucket=s3.BUCKET)["Contents"]
        key = next(one["Key"] for one in listed if one["Key"].endswith("head.json"))
        rows = tick(rounds, client, lambda: raw.get_object(Bucket=s3.BUCKET, Key=key)["Body"].read())  # noqa: PLW0108
        print("\n".join([*rows, run(rounds, client)]), flush=True)


@contextmanager
def up_to_date() -> Iterator[tuple[MetadirResource, Any]]:
    """Yield a client that has all of an archive in a bucket, and boto3's own client."""
    with tempfile.TemporaryDirectory() as name, s3.bucket() as (endpoint, raw):
        folder = Path(name)
        archive.build(folder / "documents", DOCUMENTS)
        url = f"s3://{s3.BUCKET}/archive?endpoint={endpoint}"
        with mmmeta(folder / "publisher", files_root=folder / "documents", remote=url) as m:
            m.generate()
            m.push()
        with mmmeta(folder / "client", remote=url) as m:
            m.pull()
            m.update()
        yield MetadirResource(path=str(folder / "client"), remote=url), raw


if __name__ == "__main__":
    main()
