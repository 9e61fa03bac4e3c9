"""A client of an archive for a deployment on several machines: what it is called and where it works is in the environment.

ARCHIVE            the archive: s3://bucket/prefix, https://…, a folder that all machines see
MMMETA             folder of the metadir, on a disk of the machine's own; it may be empty at each start
MMMETA_STATE_DB    the state db, which all machines share
IMPORT_INTO        the database that documents are imported into
EXECUTOR           celery, kubernetes, multiprocess (the default) or in_process
CELERY_BROKER      with celery: redis://host:6379/0; CELERY_BACKEND another database of it, or of another server
"""

import os
from pathlib import Path
from typing import Any

import dagster as dg
import yaml

from mmmeta_core.into import into_database
from mmmeta_dagster import MetadirResource, Pipeline, Spread, build_store_sensor, client_assets

HERE = Path(__file__).parent


def executor(name: str) -> dg.ExecutorDefinition:
    """Return what runs the steps, with its settings from the files beside this one."""
    if name == "celery":
        from dagster_celery import celery_executor

        return celery_executor.configured(_settings("celery/celery.yaml"), name)
    if name == "kubernetes":
        from dagster_k8s import k8s_job_executor

        return k8s_job_executor.configured(_settings("kubernetes/executor.yaml"), name)
    plain: dict[str, dg.ExecutorDefinition] = {
        "multiprocess": dg.multiprocess_executor,
        "in_process": dg.in_process_executor,
    }
    return plain[name]


def _settings(file: str) -> dict[str, Any]:
    text = (HERE / file).read_text(encoding="utf-8")
    settings: dict[str, Any] = yaml.safe_load(text)["execution"]["config"]
    return settings


imports = Pipeline(
    into_database(os.environ["IMPORT_INTO"], "documents"),
    chunk=500,
    pool="imports",
    spread=Spread(documents=5_000, steps=200),
)
assets = client_assets("client", key_prefix="client", process={"imported": imports})
job = dg.define_asset_job("client", dg.AssetSelection.assets(*assets))

defs = dg.Definitions(
    assets=assets,
    jobs=[job],
    sensors=[
        build_store_sensor(
            "client_sensor",
            "client",
            job,
            retry_marks=["imported"],
            default_status=dg.DefaultSensorStatus.RUNNING,
        )
    ],
    resources={
        "client": MetadirResource(
            path=dg.EnvVar("MMMETA"), remote=dg.EnvVar("ARCHIVE"), state_db=dg.EnvVar("MMMETA_STATE_DB")
        )
    },
    executor=executor(os.environ.get("EXECUTOR", "multiprocess")),
)
