"""Dagster components: a publisher or a client as one YAML file. They only build on the functions of this package."""

from mmmeta_dagster.components.client import Client
from mmmeta_dagster.components.publisher import Publisher

__all__ = ["Client", "Publisher"]
