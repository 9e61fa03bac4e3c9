"""Code as callers of mmmeta_dagster write it. It is checked by mypy and pyright, both strict, and not run."""

from __future__ import annotations

from typing import Any, assert_type

import dagster as dg

from mmmeta_core import Metadir, into_database
from mmmeta_core.files import File
from mmmeta_dagster import (
    DocumentsIOManager,
    Downloads,
    MetadirResource,
    Pipeline,
    S3Settings,
    Spread,
    archive_asset,
    build_archive_sensor,
    build_clients_sensor,
    build_store_sensor,
    client_assets,
    freshness,
    metadir_checks,
    publisher_assets,
    with_freshness,
)


def import_document(file: File) -> dict[str, Any]:
    return {"title": file["title"]}


contracts: dict[str, Any] = {"document_type": "contract"}
archive = archive_asset(["elsewhere", "remote"], group_name="elsewhere")
publisher = with_freshness(
    publisher_assets("publisher", key_prefix=["publisher"], group_name="publisher", ensure=True),
    ["publisher", "remote"],
    freshness(hours=24),
)
client = client_assets(
    "client",
    archive=archive.key,
    key_prefix="client",
    owners=["team:archive"],
    downloads=Downloads("./pdfs", contracts),
    process={
        "imported": import_document,
        "letters": Pipeline(into_database("sqlite:///imports.db"), {"kind": "letter"}, deletions=True),
        "many": Pipeline(import_document, workers=4, spread=Spread(documents=1000)),
    },
)
assert_type(client, list[dg.AssetsDefinition])
assert_type(publisher, list[dg.AssetsDefinition])


@dg.asset
def titles(client: MetadirResource) -> list[str]:
    with client.open() as m:
        assert_type(m, Metadir)
        m.sync()
        return [str(file["title"]) for file in m.files.find(contracts)]


job = dg.define_asset_job("client", client)  # pyright: ignore[reportUnknownMemberType] - Dagster's own
sensor = build_store_sensor("watch", "client", job, key=["remote_last_updated"], retry_marks=["imported"])
assert_type(sensor, dg.SensorDefinition)
resource = MetadirResource(
    path="./client",
    remote="s3://bucket/archive",
    s3=S3Settings(endpoint_url="https://host", anonymous=True),
)

defs = dg.Definitions(
    assets=[archive, titles, *publisher, *client],
    asset_checks=[*metadir_checks("client", key_prefix="client", required_columns=["title"])],
    jobs=[job],
    sensors=[
        sensor,
        build_archive_sensor("reports", "client", ["elsewhere", "remote"]),
        build_clients_sensor("watch_all", {"client": job}, retry_marks=["imported"]),
    ],
    resources={"client": resource, "documents": DocumentsIOManager(metadir=resource)},
)
