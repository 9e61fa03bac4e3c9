"""What the assets of one metadir have in common: keys, resource, log, and errors as one sentence."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import dagster as dg

from mmmeta_core import Metadir, MmmetaError, RemoteUnreachableError, UnavailableError
from mmmeta_dagster import metadata
from mmmeta_dagster.resource import MetadirResource, find_resource
from mmmeta_dagster.run_log import run_log

if TYPE_CHECKING:
    from mmmeta_core.sync.pull import PullResult

Context: TypeAlias = dg.AssetExecutionContext | dg.OpExecutionContext

_RETRIES: Final = 2
_RETRY_SECONDS: Final = 20


@dataclass(frozen=True)
class Common:
    """What the assets of one metadir have in common."""

    resource: str
    key_prefix: str | Sequence[str]
    group_name: str | None
    owners: Sequence[str] | None
    tags: Mapping[str, str] | None

    def key(self, name: str) -> dg.AssetKey:
        """Return the key of the asset with this name."""
        prefix = [self.key_prefix] if isinstance(self.key_prefix, str) else list(self.key_prefix)
        return dg.AssetKey([*prefix, name])

    def asset(
        self,
        name: str,
        deps: Sequence[Any],
        description: str,
        kinds: set[str],
        *,
        checks: Sequence[dg.AssetCheckSpec] = (),
        details: Mapping[str, Any] | None = None,
        pool: str | None = None,
        partitions_def: dg.PartitionsDefinition[str] | None = None,
    ) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
        """Return what makes an asset of a function that returns a `MaterializeResult`."""

        def define(function: Callable[..., Any]) -> dg.AssetsDefinition:
            # Dagster looks for this very class, not for the generic that types are checked with.
            function.__annotations__["return"] = dg.MaterializeResult
            return dg.asset(
                key=self.key(name),
                deps=list(deps),
                description=description,
                group_name=self.group_name,
                kinds=kinds,
                required_resource_keys={self.resource},
                check_specs=checks,
                metadata=details,
                owners=self.owners,
                tags=self.tags,
                pool=pool,
                partitions_def=partitions_def,
            )(function)

        return define

    def of(self, context: Context) -> MetadirResource:
        """Return the metadir's resource in a run."""
        return find_resource(context.resources, self.resource)

    @contextmanager
    def open(self, context: Context) -> Iterator[Metadir]:
        """Give the metadir, with its log in that of the run. Its errors end the step, or ask for it again."""
        try:
            with run_log(context), self.of(context).open() as metadir:
                yield metadir
        except (RemoteUnreachableError, UnavailableError) as error:
            # It may pass; what was done so far is noted, and the step goes on from there.
            raise dg.RetryRequested(max_retries=_RETRIES, seconds_to_wait=_RETRY_SECONDS) from error
        except MmmetaError as error:
            # Its sentence says what to do; the traceback stays below it.
            raise dg.Failure(str(error), allow_retries=False) from error

    def pull(self, context: Context, metadir: Metadir) -> "PullResult":
        """Pull as `sync` does."""
        result = metadir.pull(probe=True)
        self.of(context).note_pulled(context.run.run_id)
        return result

    def follow(self, context: Context, metadir: Metadir) -> None:
        """Pull, should the run's `sync` have been on another machine, which keeps its metadir on a disk of its own."""
        if self.of(context).has_pulled(context.run.run_id):
            return
        synced = metadata.revision_of(context.instance, self.key("sync"))
        if metadir.remote is not None and synced is not None and metadir.revision < synced:
            metadir.pull(probe=True)


def materialized(
    context: dg.AssetExecutionContext, metadir: Metadir, result: Any, more: Mapping[str, Any] | None = None
) -> dg.MaterializeResult[Any]:
    """Tell of a verb's result and of where the metadir stands after it, and return what ends the step."""
    insight = metadir.inspect()
    shown = {} if result is None else metadata.of_result(result)
    # What is returned with the result is stored twice, with the step's output and with the materialization.
    context.add_asset_metadata({**shown, **metadata.of_insight(insight), **(more or {})})
    return dg.MaterializeResult(data_version=dg.DataVersion(str(insight.revision)))
