"""mmmeta as a citizen of Dagster: a resource, assets for publishers and clients, and a sensor on a store timestamp."""

from mmmeta_dagster.assets import Downloads, Pipeline, client_assets, publisher_assets
from mmmeta_dagster.resource import MetadirResource, S3Settings
from mmmeta_dagster.sensors import build_store_sensor

__all__ = [
    "Downloads",
    "MetadirResource",
    "Pipeline",
    "S3Settings",
    "build_store_sensor",
    "client_assets",
    "publisher_assets",
]
