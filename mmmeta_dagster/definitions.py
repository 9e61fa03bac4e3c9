"""The example: a publisher and two clients in one deployment, on folders and SQLite. `make run` serves it.

The publisher scrapes every minute. **Client1** downloads every contract, **Client2** imports what was retrieved
within the last week into a database; both are started by a store sensor.
"""

import dagster as dg

from mmmeta_dagster import (
    Downloads,
    MetadirResource,
    Pipeline,
    build_store_sensor,
    client_assets,
    metadir_checks,
    publisher_assets,
)
from mmmeta_dagster.example import data_folder, documents, imports, last_week

_data = data_folder()
_archive = dg.AssetKey(["publisher", "remote"])

publisher = [
    documents,
    *publisher_assets("publisher", key_prefix="publisher", group_name="publisher", deps=[documents]),
]
client1 = client_assets(
    "client1",
    archive=_archive,
    key_prefix="client1",
    group_name="client1",
    downloads=Downloads(str(_data / "client1" / "contracts"), {"document_type": "contract"}),
)
client2 = client_assets(
    "client2",
    archive=_archive,
    key_prefix="client2",
    group_name="client2",
    process={"imported": Pipeline(imports(), last_week, chunk=500, deletions=True)},
)

publisher_job = dg.define_asset_job("publish", publisher, description="Scrapes, and publishes what is new.")
client1_job = dg.define_asset_job(
    "client1", client1, description="Fetches what is new of the archive and downloads its contracts."
)
client2_job = dg.define_asset_job(
    "client2",
    client2,
    description="Fetches what is new of the archive and imports what was scraped this week.",
)

defs = dg.Definitions(
    assets=[*publisher, *client1, *client2],
    asset_checks=[
        *metadir_checks("publisher", key_prefix="publisher", publisher=True, required_columns=["title"]),
        *metadir_checks("client1", key_prefix="client1"),
        *metadir_checks("client2", key_prefix="client2", required_columns=["title", "retrieved_at"]),
    ],
    jobs=[publisher_job, client1_job, client2_job],
    schedules=[
        dg.ScheduleDefinition(
            name="scrape_every_minute",
            job=publisher_job,
            cron_schedule="* * * * *",
            default_status=dg.DefaultScheduleStatus.RUNNING,
            description="Scrapes and publishes a few documents each minute, so that there is something to see.",
        )
    ],
    sensors=[
        build_store_sensor(
            "client1_sensor",
            "client1",
            client1_job,
            retry_marks=["downloaded"],
            minimum_interval_seconds=5,
            default_status=dg.DefaultSensorStatus.RUNNING,
        ),
        build_store_sensor(
            "client2_sensor",
            "client2",
            client2_job,
            retry_marks=["imported"],
            minimum_interval_seconds=5,
            default_status=dg.DefaultSensorStatus.RUNNING,
        ),
    ],
    resources={
        "publisher": MetadirResource(
            path=str(_data / "publisher"), files_root=str(_data / "archive"), remote=str(_data / "archive")
        ),
        "client1": MetadirResource(path=str(_data / "client1"), remote=str(_data / "archive")),
        "client2": MetadirResource(path=str(_data / "client2"), remote=str(_data / "archive")),
    },
    # A process for each step costs more than the steps here.
    executor=dg.in_process_executor,
)
