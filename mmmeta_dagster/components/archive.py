"""An archive that is published elsewhere as one YAML file."""

from __future__ import annotations

from typing import Annotated

import dagster as dg
from pydantic import Field

from mmmeta_dagster.archive import archive_asset, build_archive_sensor
from mmmeta_dagster.checks import with_freshness
from mmmeta_dagster.components.scaffold import ArchiveScaffolder
from mmmeta_dagster.components.settings import S3, STATUS, Freshness, Status, about, described, given
from mmmeta_dagster.resource import MetadirResource, S3Settings


class Watch(dg.Resolvable, dg.Model):
    """The sensor that reports new revisions."""

    minimum_interval_seconds: Annotated[int, Field(ge=1), about("Seconds from one look to the next.")] = 30
    default_status: Annotated[Status, STATUS] = "stopped"


@dg.scaffold_with(ArchiveScaffolder)
class Archive(dg.Component, dg.Resolvable, dg.Model):
    """An archive that no deployment of yours publishes: its asset, and a sensor that reports each new revision of it.

    Clients hang from it with `archive: <name>/remote`; with `AutomationCondition.eager()` they run when it is new.
    """

    name: Annotated[
        str,
        Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$"),
        about("Name of the archive; its resource and sensor are named after it."),
    ]
    remote: Annotated[str, given(described(MetadirResource, "remote"))]
    s3: Annotated[S3 | None, about("How to reach the bucket; left out, as AWS tools do.")] = None
    key: Annotated[
        dg.ResolvedAssetKey | None, about("Key of the asset; left out, the name and remote: city/remote.")
    ] = None
    group_name: Annotated[str | None, about("Group of the asset in Dagster; left out, the name.")] = None
    description: Annotated[str | None, about("What is in the archive, for people who see the asset.")] = None
    owners: Annotated[list[str], about("Owners of the asset: a mail address, or team:name.")] = Field(
        default=[]
    )
    freshness: Annotated[
        Freshness | None, about("Let Dagster say when nothing was published for so long.")
    ] = None
    watch: Annotated[Watch, about("The sensor that looks for new revisions.")] = Field(default=Watch())

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:  # noqa: ARG002 - its signature is Dagster's
        """Return the asset, the sensor and the resource that it looks with."""
        key = self.key or dg.AssetKey([self.name, "remote"])
        asset = archive_asset(
            key,
            group_name=self.group_name or self.name,
            description=self.description,
            owners=self.owners,
        )
        assets = [asset] if self.freshness is None else with_freshness([asset], key, self.freshness.policy())
        sensor = build_archive_sensor(
            f"{self.name}_sensor",
            self.name,
            key,
            minimum_interval_seconds=self.watch.minimum_interval_seconds,
            default_status=dg.DefaultSensorStatus[self.watch.default_status.upper()],
        )
        # Nothing is written below its path: the sensor reads one object of the remote.
        looked_with = MetadirResource(path=".", remote=self.remote, s3=self.s3 or S3Settings())
        return dg.Definitions(assets=assets, sensors=[sensor], resources={self.name: looked_with})
