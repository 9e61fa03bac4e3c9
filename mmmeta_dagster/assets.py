"""Assets for the two roles. Each one is a verb of `Metadir`; what a verb does is said there."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import dagster as dg
from pydantic import Field

from mmmeta_core import Metadir, MmmetaError, RemoteUnreachableError, UnavailableError
from mmmeta_core.database.work import OnChange
from mmmeta_core.process import Handler
from mmmeta_dagster import metadata
from mmmeta_dagster.resource import MetadirResource, find_resource
from mmmeta_dagster.run_log import progress_log, run_log

Filters: TypeAlias = Mapping[str, Any] | Callable[..., Mapping[str, Any]]
"""Filters of `files.find`, or a function that returns them when the run comes to it: "within the last week".

With partitions it is called with the partition's key.
"""

_RETRIES: Final = 2
_RETRY_SECONDS: Final = 20
_CHECK: Final = "no_failed_documents"
_ASSET_NAMES: Final[Mapping[str, str]] = {"imported": "imports"}


@dataclass(frozen=True)
class Pipeline:
    """A function that is called once for each matching document that is due; see `Documents.process`.

    With `deletions` it is called again for documents that it has done and that the publisher has deleted since.
    `partitions_def` is for coarse partitions, by month or type of document; `filters` then is a function of the key.
    """

    handler: Handler
    filters: Filters = field(default_factory=dict)
    workers: int = 1
    chunk: int = 100
    max_attempts: int = 5
    timeout: float | None = None
    on_change: OnChange = "content"
    deletions: bool = False
    pool: str | None = None
    partitions_def: dg.PartitionsDefinition[str] | None = None


@dataclass(frozen=True)
class Downloads:
    """Matching documents to fetch into the folder `dest`; see `Metadir.download`."""

    dest: str
    filters: Filters = field(default_factory=dict)
    workers: int = 8
    max_attempts: int = 5
    source: str | None = None
    pool: str | None = None
    partitions_def: dg.PartitionsDefinition[str] | None = None


class WorkConfig(dg.Config):
    """What a run of a pipeline may be told in the launchpad."""

    limit: int | None = Field(default=None, ge=1, description="Try at most this many documents.")
    filters: dict[str, Any] = Field(
        default={}, description="Further filters of files.find, such as {document_type: contract}."
    )
    retry_failed: bool = Field(
        default=False, description="Make documents that failed, also those set aside, due at once."
    )
    dry_run: bool = Field(default=False, description="Only tell how many documents are due.")


def publisher_assets(
    resource: str,
    *,
    key_prefix: str | Sequence[str] = (),
    group_name: str | None = None,
    deps: Sequence[dg.AssetKey | str | Sequence[str] | dg.AssetsDefinition] = (),
    owners: Sequence[str] | None = None,
    tags: Mapping[str, str] | None = None,
    ensure: bool = False,
    ensure_files: bool = False,
    no_meta: bool = False,
    upload_files: bool = False,
) -> list[dg.AssetsDefinition]:
    """Return a publisher's assets: `sync` → `generate` → `remote`, each below `key_prefix`.

    `resource` is the key of its `MetadirResource`. `deps` are the assets that make documents. `remote` is the archive as
    clients see it: pass its key to their `client_assets(archive=…)`, and the lineage goes on. The flags are those of
    `Metadir.generate`; a publisher without metadata files has no `files_root`, and no `generate` happens. With
    `upload_files`, documents that the archive lacks are uploaded before the catalog that names them is published.
    """
    common = _Common(resource, key_prefix, group_name, owners, tags)

    @common.asset("sync", deps, "The archive's newest revision, in the publisher's catalog.", {"mmmeta"})
    def sync(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
        with common.open(context) as metadir:
            return _materialized(metadir, metadir.pull(probe=True))

    @common.asset(
        "generate", [common.key("sync")], "Documents on disk, in the publisher's catalog.", {"mmmeta", "json"}
    )
    def generate(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
        with common.open(context) as metadir:
            if common.of(context).files_root is None:
                context.log.info("there is no files_root: what waits was written from Python")
                return _materialized(metadir, None)
            result = metadir.generate(ensure=ensure, ensure_files=ensure_files, no_meta=no_meta)
            return _materialized(metadir, result, metadata.of_invalid(metadir.invalid()))

    @common.asset(
        "remote", [common.key("generate")], "The archive as its clients see it.", {"mmmeta", "storage"}
    )
    def remote(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
        with common.open(context) as metadir:
            result = metadir.push(files=upload_files)
            if not result.published:
                context.log.info("nothing new to publish; the archive is at revision %d", result.revision)
            insight = metadir.inspect()
            return _materialized(
                metadir, result, metadata.of_columns(insight.unique, insight.columns, "files")
            )

    return [sync, generate, remote]


def client_assets(
    resource: str,
    *,
    archive: dg.AssetKey | str | Sequence[str] | None = None,
    key_prefix: str | Sequence[str] = (),
    group_name: str | None = None,
    owners: Sequence[str] | None = None,
    tags: Mapping[str, str] | None = None,
    downloads: Downloads | None = None,
    process: Mapping[str, Handler | Pipeline] | None = None,
) -> list[dg.AssetsDefinition]:
    """Return a client's assets: `sync` → `update` → `downloads` and one asset a pipeline, each below `key_prefix`.

    `resource` is the key of its `MetadirResource`, `archive` the asset that all clients hang from. `process` has
    handlers by mark, the column of the client's that says done. A pipeline's asset has the name of its mark,
    `imports` for `imported`. A run succeeds while single documents fail: these are in its log, in a table
    of the materialization, and due again later.
    """
    common = _Common(resource, key_prefix, group_name, owners, tags)
    above = [] if archive is None else [dg.AssetKey.from_coercible(archive)]

    @common.asset("sync", above, "The archive's newest revision, in the client's catalog.", {"mmmeta"})
    def sync(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
        with common.open(context) as metadir:
            return _materialized(metadir, metadir.pull(probe=True))

    @common.asset(
        "update", [common.key("sync")], "The catalog with the client's own state beside it.", {"sqlite"}
    )
    def update(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
        with common.open(context) as metadir:
            return _materialized(metadir, metadir.update(), metadata.of_documents(metadir))

    if downloads is not None and "downloaded" in (process or {}):
        raise dg.DagsterInvalidDefinitionError(
            "the mark 'downloaded' is that of downloads: give the pipeline another one"
        )
    assets = [sync, update]
    if downloads is not None:
        assets.append(_downloads(common, downloads))
    for mark, work in (process or {}).items():
        assets.append(_pipeline(common, mark, work if isinstance(work, Pipeline) else Pipeline(work)))
    return assets


def _downloads(common: "_Common", what: Downloads) -> dg.AssetsDefinition:
    @common.asset(
        "downloads",
        [common.key("update")],
        "Documents, as files of the client. Each one is fetched once, whole and verified.",
        {"file"},
        mark="downloaded",
        pool=what.pool,
        partitions_def=what.partitions_def,
    )
    def downloads(context: dg.AssetExecutionContext, config: WorkConfig) -> dg.MaterializeResult[Any]:
        with common.open(context) as metadir:
            filters = _prepared(context, metadir, "downloaded", what.filters, config)
            if config.dry_run:
                return _told(context, metadir, "downloaded", filters)
            result = metadir.download(
                what.dest,
                workers=what.workers,
                max_attempts=what.max_attempts,
                source=what.source,
                limit=config.limit,
                progress=progress_log(context, "documents"),
                **filters,
            )
            place = {"mmmeta/destination": dg.MetadataValue.path(what.dest)}
            return _worked(metadir, result, "downloaded", place)

    return downloads


def _pipeline(common: "_Common", mark: str, pipeline: Pipeline) -> dg.AssetsDefinition:
    options: dict[str, Any] = {
        "mark": mark,
        "workers": pipeline.workers,
        "chunk": pipeline.chunk,
        "max_attempts": pipeline.max_attempts,
        "timeout": pipeline.timeout,
    }

    @common.asset(
        _ASSET_NAMES.get(mark, mark),
        [common.key("update")],
        f"Documents that were handled, each one once; the client's column {mark!r} says which.",
        {"python"},
        mark=mark,
        pool=pipeline.pool,
        partitions_def=pipeline.partitions_def,
    )
    def run(context: dg.AssetExecutionContext, config: WorkConfig) -> dg.MaterializeResult[Any]:
        with common.open(context) as metadir:
            filters = _prepared(context, metadir, mark, pipeline.filters, config)
            if config.dry_run:
                return _told(context, metadir, mark, filters)
            result = metadir.files.process(
                pipeline.handler,
                on_change=pipeline.on_change,
                limit=config.limit,
                progress=progress_log(context, "documents"),
                **options,
                **filters,
            )
            more: dict[str, Any] = {}
            if pipeline.deletions:
                gone = metadir.files.process(pipeline.handler, on="deleted", **options)
                more = {"mmmeta/deletions_handled": gone.processed, "mmmeta/deletions_failed": gone.failed}
            return _worked(metadir, result, mark, more)

    return run


@dataclass(frozen=True)
class _Common:
    """What the assets of one metadir have in common."""

    resource: str
    key_prefix: str | Sequence[str]
    group_name: str | None
    owners: Sequence[str] | None
    tags: Mapping[str, str] | None

    def key(self, name: str) -> dg.AssetKey:
        prefix = [self.key_prefix] if isinstance(self.key_prefix, str) else list(self.key_prefix)
        return dg.AssetKey([*prefix, name])

    def asset(
        self,
        name: str,
        deps: Sequence[Any],
        description: str,
        kinds: set[str],
        *,
        mark: str | None = None,
        pool: str | None = None,
        partitions_def: dg.PartitionsDefinition[str] | None = None,
    ) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
        """Return what makes an asset of a function; one of a pipeline, named by `mark`, is checked for failures."""
        checks = [] if mark is None else [_failures_check(self.key(name), mark)]

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
                owners=self.owners,
                tags=self.tags,
                pool=pool,
                partitions_def=partitions_def,
            )(function)

        return define

    def of(self, context: dg.AssetExecutionContext) -> MetadirResource:
        return find_resource(context.resources, self.resource)

    @contextmanager
    def open(self, context: dg.AssetExecutionContext) -> Iterator[Metadir]:
        try:
            with run_log(context), self.of(context).open() as metadir:
                yield metadir
        except (RemoteUnreachableError, UnavailableError) as error:
            # It may pass; what was done so far is noted, and the step goes on from there.
            raise dg.RetryRequested(max_retries=_RETRIES, seconds_to_wait=_RETRY_SECONDS) from error
        except MmmetaError as error:
            # Its sentence says what to do; the traceback stays below it.
            raise dg.Failure(str(error)) from error


def _prepared(
    context: dg.AssetExecutionContext, metadir: Metadir, mark: str, filters: Filters, config: WorkConfig
) -> dict[str, Any]:
    """Return the filters of this run, after what its configuration asks for first."""
    if config.retry_failed and not config.dry_run:
        context.log.info("%d failed documents are due again", metadir.retry_failed(mark))
    if callable(filters):
        filters = filters(context.partition_key) if context.has_partition_key else filters()
    return {**filters, **config.filters}


def _told(
    context: dg.AssetExecutionContext, metadir: Metadir, mark: str, filters: Mapping[str, Any]
) -> dg.MaterializeResult[Any]:
    due = metadir.files.count(**filters, **{mark: False})
    context.log.info("%s: %d documents are not done; this was a dry run", mark, due)
    return _worked(metadir, None, mark, {"mmmeta/dry_run": True, "mmmeta/left": due})


def _failures_check(asset: dg.AssetKey, mark: str) -> dg.AssetCheckSpec:
    return dg.AssetCheckSpec(
        _CHECK,
        asset=asset,
        description=f"No document has failed for {mark!r}, so that it waits to be tried again or is set aside.",
    )


def _worked(metadir: Metadir, result: Any, mark: str, more: Mapping[str, Any]) -> dg.MaterializeResult[Any]:
    """Return what a pipeline did; its check warns of documents that failed, in this run or before."""
    failures = list(metadir.failures(mark))
    aside = sum(failure.set_aside for failure in failures)
    check = dg.AssetCheckResult(
        check_name=_CHECK,
        passed=not failures,
        severity=dg.AssetCheckSeverity.ERROR if aside else dg.AssetCheckSeverity.WARN,
        metadata={"failed": len(failures) - aside, "set_aside": aside},
        description=f"{len(failures) - aside} to be tried again, {aside} set aside" if failures else None,
    )
    shown = _materialized(metadir, result, {**metadata.of_pipeline(metadir, mark), **more})
    return dg.MaterializeResult(
        metadata=shown.metadata, data_version=shown.data_version, check_results=[check]
    )


def _materialized(
    metadir: Metadir, result: Any, more: Mapping[str, Any] | None = None
) -> dg.MaterializeResult[Any]:
    shown = {} if result is None else metadata.of_result(result)
    return dg.MaterializeResult(
        metadata={**shown, **metadata.of_metadir(metadir), **(more or {})},
        data_version=dg.DataVersion(str(metadir.revision)),
    )
