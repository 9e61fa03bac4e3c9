"""An archive that is published elsewhere, as an asset: all clients hang from it, and it is new when it was published."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import dagster as dg

from mmmeta_core import MmmetaError
from mmmeta_dagster import metadata
from mmmeta_dagster.resource import find_resource

if TYPE_CHECKING:
    from mmmeta_core.head import Head

AssetKeyLike = dg.AssetKey | str | Sequence[str]


def archive_asset(
    key: AssetKeyLike,
    *,
    group_name: str | None = None,
    description: str | None = None,
    owners: Sequence[str] | None = None,
    tags: Mapping[str, str] | None = None,
) -> dg.AssetSpec:
    """Return an archive as an external asset, for a deployment that does not publish it.

    With the key of its publisher's `remote` asset it is the same node of the lineage, whatever code location that is in.
    """
    return dg.AssetSpec(
        key=dg.AssetKey.from_coercible(key),
        group_name=group_name,
        description=description or "An archive of documents that is published elsewhere.",
        kinds={"mmmeta", "storage"},
        owners=owners,
        tags=tags,
    )


def build_archive_sensor(
    name: str,
    resource: str,
    archive: AssetKeyLike,
    *,
    minimum_interval_seconds: int = 30,
    default_status: dg.DefaultSensorStatus = dg.DefaultSensorStatus.STOPPED,
    description: str | None = None,
) -> dg.SensorDefinition:
    """Return a sensor that reports a materialization of `archive` for each new revision that it sees at the remote.

    So `AutomationCondition.eager()` on a client's `sync` asset, and whatever else looks at upstream assets, works across
    deployments. `resource` is the key of a client's `MetadirResource`; a tick reads one small object. A revision that
    is known is not reported again, also one that the publisher's own `remote` asset has reported in this deployment.
    """
    key = dg.AssetKey.from_coercible(archive)

    @dg.sensor(
        name=name,
        required_resource_keys={resource},
        minimum_interval_seconds=minimum_interval_seconds,
        default_status=default_status,
        description=description or f"Reports each new revision of the archive {key.to_user_string()}.",
        metadata={"mmmeta/resource": resource, "mmmeta/archive": key.to_user_string()},
    )
    def watch(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        with find_resource(context.resources, resource).open() as metadir:
            if metadir.remote is None:
                raise MmmetaError(f"resource {resource!r} has no remote to look at")
            head, url = metadir.remote_head(), metadir.remote.url
        if head is None:
            return dg.SkipReason(f"{url} has no revision yet: nothing was published")
        known = metadata.revision_of(context.instance, key)
        if head.revision == known:
            return dg.SkipReason(f"nothing new: revision {known} of {url} is known")
        return dg.SensorResult(asset_events=[_materialization(key, head, url)])

    return watch


def _materialization(key: dg.AssetKey, head: "Head", url: str) -> dg.AssetMaterialization:
    return dg.AssetMaterialization(
        asset_key=key,
        description="Seen at the remote.",
        metadata={metadata.REVISION: head.revision, "dagster/uri": url, **metadata.of_store(head.store)},
        tags={"dagster/data_version": str(head.revision)},
    )
