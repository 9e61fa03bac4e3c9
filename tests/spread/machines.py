"""What the machines of test_celery.py run. Each has a folder of its own; the state db and the archive they share."""

from __future__ import annotations

import os
from typing import Any

import dagster as dg
import psycopg2
from dagster_celery import celery_executor

from mmmeta_core.files import File
from mmmeta_dagster import MetadirResource, Pipeline, S3Settings, Spread, client_assets

CHUNK = 20
_connections: dict[int, Any] = {}


def handle(file: File) -> None:
    """Note the document in a table, with the process that did it, and take a little time."""
    pid = os.getpid()
    if pid not in _connections:
        _connections[pid] = psycopg2.connect(os.environ["MACHINES_DATABASE"])
        _connections[pid].autocommit = True
    _connections[pid].cursor().execute(
        "INSERT INTO handled (key, title, pid, machine) VALUES (%s, %s, %s, %s); SELECT pg_sleep(0.002)",
        (file.key, file["title"], pid, os.environ["MACHINE"]),
    )


pipeline = Pipeline(
    handle,
    chunk=CHUNK,
    lease=6,
    spread=Spread(documents=int(os.environ.get("MACHINES_SHARE", "1")), steps=200),
)
defs = dg.Definitions(
    assets=client_assets("client", process={"imported": pipeline}),
    jobs=[dg.define_asset_job("imports", "*", executor_def=celery_executor)],
    resources={
        "client": MetadirResource(
            path=dg.EnvVar("MACHINE"),
            remote=dg.EnvVar("MACHINES_REMOTE"),
            state_db=dg.EnvVar("MACHINES_STATE"),
            s3=S3Settings(endpoint_url=dg.EnvVar("MACHINES_S3")),
        )
    },
)
