"""Definitions that tests run in processes of their own: what they need comes from the environment."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import dagster as dg

from mmmeta_core import ConfigError
from mmmeta_core.files import File
from mmmeta_dagster import MetadirResource, Pipeline, Spread, client_assets


def handle(file: File) -> None:
    """Note the document in a file that all processes append to; die or give up at one that is named, once."""
    folder = Path(os.environ["FANNED_FOLDER"])
    with (folder / "handled").open("a") as handled:
        handled.write(f"{file.key}\n")
    deadly, hopeless = folder / f"dies-at-{file.key}", folder / f"stops-at-{file.key}"
    if deadly.exists():
        deadly.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    if hopeless.exists():
        hopeless.unlink()
        raise ConfigError("nothing can be done")


def job() -> dg.JobDefinition:
    pipeline = Pipeline(handle, chunk=2, lease=1, spread=Spread(documents=5))
    client = MetadirResource(
        path=dg.EnvVar("FANNED_METADIR"),
        remote=dg.EnvVar("FANNED_REMOTE"),
        state_db=dg.EnvVar("FANNED_STATE"),
    )
    return dg.Definitions(
        assets=client_assets("client", process={"imported": pipeline}),
        jobs=[dg.define_asset_job("imports", "imports")],
        resources={"client": client},
    ).resolve_job_def("imports")
