"""What is in deploy/, as far as it can be started or checked without containers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg2
import pytest
import yaml
from dagster._config import validate_config

from mmmeta_core import mmmeta
from spread.servers import until
from spread.test_celery import Machine

DEPLOY = Path(__file__).parents[2] / "deploy"


def read(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text(encoding="utf-8"))


@pytest.fixture
def home(tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """DAGSTER_HOME with the example's settings, for a real PostgreSQL server."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").write_bytes((DEPLOY / "dagster.yaml").read_bytes())
    server, name = database.removeprefix("postgresql://mmmeta@").split("/")
    host, port = server.split(":")
    settings = {"HOST": host, "PORT": port, "USER": "mmmeta", "PASSWORD": "any", "DB": name}
    for key, value in settings.items():
        monkeypatch.setenv(f"DAGSTER_POSTGRES_{key}", value)
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    return home


def test_an_instance_has_the_settings(home: Path, database: str) -> None:
    with dg.DagsterInstance.get() as instance:
        assert type(instance.event_log_storage).__name__ == "PostgresEventLogStorage"
        assert type(instance.run_coordinator).__name__ == "QueuedRunCoordinator"
        concurrency = instance.get_concurrency_config()
        assert concurrency.pool_config.pool_granularity is not None
        assert concurrency.pool_config.pool_granularity.value == "op"
        assert concurrency.pool_config.default_pool_limit == 16
        assert concurrency.run_queue_config is not None
        assert concurrency.run_queue_config.max_concurrent_runs == 20
        assert (instance.run_retries_enabled, instance.run_retries_max_retries) == (True, 3)
        instance.report_runless_asset_event(dg.AssetMaterialization("kept"))
    with closing(psycopg2.connect(database)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT asset_key FROM asset_keys")
        assert cursor.fetchall() == [('["kept"]',)]


def test_the_daemon_has_what_is_new_imported_by_celery(
    home: Path, tmp_path: Path, database: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker and a daemon with the files as they are: the sensor asks for the run, the queue starts it."""
    archive = tmp_path / "archive"
    archive.mkdir()
    with mmmeta(tmp_path / "publisher", remote=archive) as publisher:
        publisher.files.insert_many({"content_hash": f"{n:03}", "title": f"t{n}"} for n in range(100))
        publisher.push()
    url = database.replace("postgresql:", "postgresql+psycopg:")
    environment = {
        "ARCHIVE": str(archive),
        "MMMETA": str(tmp_path / "orchestrator"),
        "MMMETA_STATE_DB": f"{url}?schema=client",
        "IMPORT_INTO": url,
        "EXECUTOR": "celery",
        "CELERY_BROKER": f"{redis_url}/2",
        "CELERY_BACKEND": f"{redis_url}/3",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    machine = Machine(
        tmp_path / "machine", DEPLOY / "celery" / "celery.yaml", {"MMMETA": str(tmp_path / "machine")}
    )
    machine.start()
    command = [sys.executable, "-m", "dagster._daemon", "run", "-f", DEPLOY / "definitions.py"]
    with (tmp_path / "log").open("wb") as log, dg.DagsterInstance.get() as instance:
        daemon = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

        def is_done() -> bool:
            assert daemon.poll() is None, (tmp_path / "log").read_text()[-5000:]
            runs = instance.get_runs()
            assert not any(run.status == dg.DagsterRunStatus.FAILURE for run in runs)
            return [run.status for run in runs] == [dg.DagsterRunStatus.SUCCESS]

        try:
            until(is_done, "the run that the sensor asks for", 600)
        finally:
            os.killpg(daemon.pid, signal.SIGKILL)  # with the server of the code, which would wait for others
            daemon.wait()
            machine.kill()
    with closing(psycopg2.connect(database)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*), count(DISTINCT title) FROM documents")
        assert cursor.fetchone() == (100, 100)
    assert (tmp_path / "machine" / "_mmmeta").is_dir()


def test_kubernetes_takes_its_settings() -> None:
    from dagster_k8s import k8s_job_executor
    from dagster_k8s.job import UserDefinedDagsterK8sConfig

    executor = read("kubernetes/executor.yaml")["execution"]["config"]
    schema = k8s_job_executor.config_schema.config_type
    assert validate_config(schema, executor).success
    assert not validate_config(schema, {**executor, "max_pods": 3}).success
    # What is below step_k8s_config is Kubernetes' own, which its client's models know.
    for config in (executor["step_k8s_config"], snake(_launcher()["runK8sConfig"])):
        UserDefinedDagsterK8sConfig.from_dict(config)
    with pytest.raises(Exception, match="memory_mount"):
        UserDefinedDagsterK8sConfig.from_dict({"container_config": {"memory_mount": 1}})


def test_the_run_launcher_takes_its_values() -> None:
    from dagster_k8s import K8sRunLauncher

    given = snake({name: value for name, value in _launcher().items() if name != "runK8sConfig"})
    given["run_k8s_config"] = snake(_launcher()["runK8sConfig"])
    # What the chart itself fills in.
    filled = {
        "service_account_name": "dagster",
        "instance_config_map": "i",
        "dagster_home": "/d",
        "postgres_password_secret": "s",
    }
    schema = dg.Shape(dict(K8sRunLauncher.config_type()))
    assert validate_config(schema, {**filled, **given}).success
    assert not validate_config(schema, {**filled, **given, "pull_policy": "Always"}).success


def _launcher() -> dict[str, Any]:
    config: dict[str, Any] = read("kubernetes/values.yaml")["runLauncher"]["config"]["k8sRunLauncher"]
    return config


def snake(value: Any) -> Any:
    """Write camelCase names as the Python packages do."""
    if isinstance(value, dict):
        names = {name: "".join(f"_{c.lower()}" if c.isupper() else c for c in name) for name in value}
        return {names[name]: snake(one) for name, one in value.items()}
    return value
