"""Dagster components: a publisher, client or archive as one YAML file. They only build on this package's functions."""

from mmmeta_dagster.components.archive import Archive
from mmmeta_dagster.components.client import Client
from mmmeta_dagster.components.publisher import Publisher

__all__ = ["Archive", "Client", "Publisher"]
