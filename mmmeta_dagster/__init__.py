"""mmmeta as a citizen of Dagster: a resource, assets for publishers and clients, and a sensor on a store timestamp."""

from mmmeta_dagster.archive import archive_asset, build_archive_sensor
from mmmeta_dagster.assets import client_assets, publisher_assets
from mmmeta_dagster.checks import freshness, metadir_checks, with_freshness
from mmmeta_dagster.components import Archive, Client, Publisher
from mmmeta_dagster.frames import DocumentsIOManager
from mmmeta_dagster.many import build_clients_sensor
from mmmeta_dagster.resource import MetadirResource, S3Settings
from mmmeta_dagster.sensors import build_store_sensor
from mmmeta_dagster.work import Downloads, Pipeline, Spread, WorkConfig

__all__ = [
    "Archive",
    "Client",
    "DocumentsIOManager",
    "Downloads",
    "MetadirResource",
    "Pipeline",
    "Publisher",
    "S3Settings",
    "Spread",
    "WorkConfig",
    "archive_asset",
    "build_archive_sensor",
    "build_clients_sensor",
    "build_store_sensor",
    "client_assets",
    "freshness",
    "metadir_checks",
    "publisher_assets",
    "with_freshness",
]
