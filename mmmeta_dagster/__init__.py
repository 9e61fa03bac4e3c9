"""mmmeta as a citizen of Dagster: a resource, assets for publishers and clients, and a sensor on a store timestamp."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_HOMES = {
    **dict.fromkeys(("archive_asset", "build_archive_sensor"), "archive"),
    **dict.fromkeys(("client_assets", "publisher_assets"), "assets"),
    **dict.fromkeys(("freshness", "metadir_checks", "with_freshness"), "checks"),
    **dict.fromkeys(("Archive", "Client", "Publisher"), "components"),
    **dict.fromkeys(("MetadirResource", "S3Settings"), "resource"),
    **dict.fromkeys(("Downloads", "Pipeline", "Spread", "WorkConfig"), "work"),
    "DocumentsIOManager": "frames",
    "build_clients_sensor": "many",
    "build_store_sensor": "sensors",
}


def __getattr__(name: str) -> Any:
    # Imported when asked for: who writes Python needs no components, and a code location is loaded for each run.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"mmmeta_dagster.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
