"""A hundred machines would do as two do here: they share an archive in a bucket, a state db, a broker, and are killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg2
import pytest
import yaml

from mmmeta_core import mmmeta
from spread.machines import CHUNK
from spread.servers import until

DOCUMENTS = int(os.environ.get("SPREAD_DOCUMENTS", "1600"))
KILLS = int(os.environ.get("SPREAD_KILLS", "4"))
SEED = os.environ.get("SPREAD_SEED") or str(random.randrange(10**6))  # noqa: S311
MACHINES = Path(__file__).with_name("machines.py")
BIN = Path(sys.executable).parent
SHARE = max(200, DOCUMENTS // 100)
VISIBILITY_SECONDS = 5 + SHARE // 50
PATIENCE = 600 + DOCUMENTS / 20


class Machine:
    """A Celery worker with one process to work, in a folder of its own; `dead` are its processes that were killed."""

    def __init__(self, folder: Path, config: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self.folder.mkdir()
        self.config = config
        path = f"{BIN}{os.pathsep}{os.environ['PATH']}"  # dagster-celery calls celery
        self.environment = {**os.environ, **environment, "PATH": path, "MACHINE": str(folder)}
        self.dead: set[int] = set()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [BIN / "dagster-celery", "worker", "start", "-A", "dagster_celery.app", "-y", self.config]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--", "--concurrency=1", "--without-mingle", "--without-gossip"],
                cwd=self.folder,
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def is_there(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def is_ready(self) -> bool:
        """Whether it has a process to work."""
        assert self.is_there, (self.folder / "log").read_text()[-5000:]
        return bool(self.workers())

    def workers(self) -> list[int]:
        """Return its processes that work: none while it starts."""
        return self.pids()[2:]  # below dagster-celery and celery

    def pids(self) -> list[int]:
        """Return its processes, the one that works last."""
        assert self.process is not None
        found, last = [], [self.process.pid]
        while last:
            found += last
            listed = subprocess.run(
                ["ps", "-o", "pid=", "--ppid", ",".join(map(str, last))], capture_output=True, text=True
            )
            last = [int(pid) for pid in listed.stdout.split()]
        return found

    def kill(self) -> None:
        if self.process is None:
            return
        self.dead |= set(self.pids())
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def kill_one(self, pid: int) -> None:
        """Kill the process that works only, as the kernel does when memory is short."""
        self.dead.add(pid)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def places(
    tmp_path: Path,
    redis_url: str,
    database: str,
    s3_endpoint: str,
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
) -> dict[str, str]:
    """What machines have in common, as their environment has it; DAGSTER_HOME with its storage in PostgreSQL."""
    home = tmp_path / "dagster"
    home.mkdir()
    # Of the two drivers this is the one that dagster-postgres comes with.
    url = database.replace("postgresql:", "postgresql+psycopg2:")
    instance = {"storage": {"postgres": {"postgres_url": url}}, "telemetry": {"enabled": False}}
    (home / "dagster.yaml").write_text(yaml.safe_dump(instance))
    with closing(psycopg2.connect(database)) as connection:
        connection.autocommit = True
        connection.cursor().execute(
            "CREATE TABLE handled (key text, title text, pid int, machine text, at timestamptz DEFAULT clock_timestamp())"
        )
    names = {
        "DAGSTER_HOME": str(home),
        "MACHINES_DATABASE": database,
        "MACHINES_REMOTE": f"s3://{bucket}/archive",
        "MACHINES_S3": s3_endpoint,
        "MACHINES_SHARE": str(SHARE),
        "MACHINES_STATE": f"{database.replace('postgresql:', 'postgresql+psycopg:')}?schema=client",
        "MACHINE": str(tmp_path / "nowhere"),
    }
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    return names


@pytest.fixture
def config(tmp_path: Path, redis_url: str) -> Path:
    """The executor's and the workers' settings: a task is another's when its worker does not say that it is done."""
    settings = {
        "broker": f"{redis_url}/0",
        "backend": f"{redis_url}/1",
        "config_source": {
            "task_acks_late": True,
            "task_reject_on_worker_lost": True,
            "broker_transport_options": {"visibility_timeout": VISIBILITY_SECONDS},
        },
    }
    path = tmp_path / "celery.yaml"
    path.write_text(yaml.safe_dump({"execution": {"config": settings}}))
    return path


@pytest.fixture
def machines(tmp_path: Path, config: Path, places: dict[str, str]) -> Iterator[list[Machine]]:
    machines = [Machine(tmp_path / f"machine{number}", config, places) for number in (1, 2)]
    try:
        for machine in machines:
            machine.start()
        for machine in machines:  # so that none has all to itself
            until(machine.is_ready, f"{machine.folder.name} to start", PATIENCE)
        yield machines
    finally:
        for machine in machines:
            machine.kill()


@contextmanager
def running(config: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run the job; the steps are for the machines."""
    command = [
        sys.executable,
        "-m",
        "dagster",
        "job",
        "execute",
        "-f",
        MACHINES,
        "-a",
        "defs",
        "-j",
        "imports",
    ]
    with log.open("wb") as out, subprocess.Popen([*command, "-c", config], stdout=out, stderr=out) as run:
        try:
            yield run
        finally:
            run.kill()


def rows(database: str, query: str) -> list[tuple[Any, ...]]:
    with closing(psycopg2.connect(database)) as connection, connection.cursor() as cursor:
        cursor.execute(query)
        return cursor.fetchall()


def remote_of(places: dict[str, str]) -> str:
    return f"{places['MACHINES_REMOTE']}?endpoint={places['MACHINES_S3']}"


def publish(places: dict[str, str], tmp_path: Path) -> None:
    with mmmeta(tmp_path / "publisher", remote=remote_of(places)) as publisher:
        publisher.files.insert_many(
            {"content_hash": f"{number:06}", "title": f"title {number}"} for number in range(DOCUMENTS)
        )
        publisher.push()


def test_workers_are_killed_and_every_document_is_done(
    machines: list[Machine], places: dict[str, str], config: Path, tmp_path: Path
) -> None:
    print(f"SPREAD_SEED={SEED}")
    chance = random.Random(SEED)  # noqa: S311
    publish(places, tmp_path)
    database = places["MACHINES_DATABASE"]
    with running(config, tmp_path / "run.log") as run:
        for number in range(KILLS):
            handled = int(DOCUMENTS * (number + chance.random()) / (KILLS + 1))

            def has_come_so_far(handled: int = handled) -> bool:
                """Whether so much is handled, and both had their part in it before one is killed."""
                assert all(machine.is_there for machine in machines)
                there, at = rows(database, "SELECT count(*), count(DISTINCT machine) FROM handled")[0]
                return run.poll() is not None or (there >= handled and at == len(machines))

            until(has_come_so_far, f"{handled} documents", PATIENCE)
            machine = chance.choice(machines)
            worker = machine.workers()
            if worker and chance.random() < 0.5:
                machine.kill_one(worker[0])
            else:
                machine.kill()
                machine.start()
        until(lambda: run.poll() is not None, "the run", PATIENCE)
    assert run.returncode == 0, (tmp_path / "run.log").read_text()[-5000:]

    # Done once: noted twice is only what a process had in hand, and had not noted as done yet, when it was killed.
    by_key = defaultdict(list)
    for key, title, pid, at in rows(database, "SELECT key, title, pid, at FROM handled ORDER BY at, ctid"):
        assert title == f"title {int(key)}"
        by_key[key].append((pid, at))
    assert sorted(by_key) == [f"{number:06}" for number in range(DOCUMENTS)]
    dead = set.union(*(machine.dead for machine in machines))
    twice = {key: noted for key, noted in by_key.items() if len(noted) > 1}
    assert all({pid for pid, _ in noted[:-1]} <= dead for noted in twice.values()), (dead, twice)
    assert len(twice) <= KILLS * CHUNK
    assert {machine for (machine,) in rows(database, "SELECT DISTINCT machine FROM handled")} == {
        str(machine.folder) for machine in machines
    }

    # The state is what the archive says, and Dagster tells of it.
    with mmmeta(tmp_path / "looking", remote=remote_of(places), state_db=places["MACHINES_STATE"]) as client:
        client.pull()
        assert client.files.left().documents == 0
        assert client.files.count(imported=True) == len(client.files) == DOCUMENTS
        assert client.verify(documents=0).whole
    with dg.DagsterInstance.get() as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey("imports"))
    assert event is not None
    assert event.asset_materialization is not None
    told = {name: value.value for name, value in event.asset_materialization.metadata.items()}
    assert (told["mmmeta/processed"], told["mmmeta/failed"], told["mmmeta/left"]) == (DOCUMENTS, 0, 0)
    assert not (tmp_path / "nowhere").exists()
