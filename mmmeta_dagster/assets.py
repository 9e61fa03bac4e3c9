"""Assets for the two roles. Each one is a verb of `Metadir`; what a verb does is said there."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import dagster as dg

from mmmeta_core import Metadir, MmmetaError
from mmmeta_core.database.work import OnChange
from mmmeta_core.process import Handler
from mmmeta_dagster import metadata
from mmmeta_dagster.resource import MetadirResource
from mmmeta_dagster.run_log import progress_log, run_log

Filters: TypeAlias = Mapping[str, Any] | Callable[[], Mapping[str, Any]]
"""Filters of `files.find`, or a function that returns them when the run comes to it: "within the last week"."""

_CHECK: Final = "no_failed_documents"
_ASSET_NAMES: Final[Mapping[str, str]] = {"imported": "imports"}


@dataclass(frozen=True)
class Pipeline:
    """A function that is called once for each matching document that is due; see `Documents.process`.

    With `deletions` it is called again for documents that it has done and that the publisher has deleted since.
    """

    handler: Handler
    filters: Filters = field(default_factory=dict)
    workers: int = 1
    chunk: int = 100
    max_attempts: int = 5
    timeout: float | None = None
    on_change: OnChange = "content"
    deletions: bool = False


@dataclass(frozen=True)
class Downloads:
    """Matching documents to fetch into the folder `dest`; see `Metadir.download`."""

    dest: str
    filters: Filters = field(default_factory=dict)
    workers: int = 8
    max_attempts: int = 5
    source: str | None = None


def publisher_assets(
    resource: str,
    *,
    key_prefix: str | Sequence[str] = (),
    group_name: str | None = None,
    deps: Sequence[dg.AssetKey | str | Sequence[str] | dg.AssetsDefinition] = (),
    ensure: bool = False,
    ensure_files: bool = False,
    no_meta: bool = False,
) -> list[dg.AssetsDefinition]:
    """Return a publisher's assets: `sync` → `generate` → `remote`, each below `key_prefix`.

    `resource` is the key of its `MetadirResource`. `deps` are the assets that make documents. `remote` is the archive as
    clients see it: pass its key to their `client_assets(archive=…)`, and the lineage goes on. The flags are those of
    `Metadir.generate`; a publisher without metadata files has no `files_root`, and no `generate` happens.
    """
    common = _Common(resource, key_prefix, group_name)

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
            result = metadir.push()
            if not result.published:
                context.log.info("nothing new to publish; the archive is at revision %d", result.revision)
            return _materialized(metadir, result)

    return [sync, generate, remote]


def client_assets(
    resource: str,
    *,
    archive: dg.AssetKey | str | Sequence[str] | None = None,
    key_prefix: str | Sequence[str] = (),
    group_name: str | None = None,
    downloads: Downloads | None = None,
    process: Mapping[str, Handler | Pipeline] | None = None,
) -> list[dg.AssetsDefinition]:
    """Return a client's assets: `sync` → `update` → `downloads` and one asset a pipeline, each below `key_prefix`.

    `resource` is the key of its `MetadirResource`, `archive` the asset that all clients hang from. `process` has
    handlers by mark, the column of the client's that says done. A pipeline's asset has the name of its mark,
    `imports` for `imported`. A run succeeds while single documents fail: these are in its log, in a table
    of the materialization, and due again later.
    """
    common = _Common(resource, key_prefix, group_name)
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
            return _materialized(metadir, metadir.update())

    assets = [sync, update]
    if downloads is not None:
        assets.append(_downloads(common, downloads))
    for mark, work in (process or {}).items():
        assets.append(_pipeline(common, mark, work if isinstance(work, Pipeline) else Pipeline(work)))
    return assets


def _downloads(common: "_Common", what: Downloads) -> dg.AssetsDefinition:
    @common.asset(
        "downloads", [common.key("update")], "Documents, as files of the client.", {"file"}, "downloaded"
    )
    def downloads(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
        with common.open(context) as metadir:
            result = metadir.download(
                what.dest,
                workers=what.workers,
                max_attempts=what.max_attempts,
                source=what.source,
                progress=progress_log(context, "documents"),
                **_filters(what.filters),
            )
            place = {"mmmeta/destination": dg.MetadataValue.path(what.dest)}
            return _worked(metadir, result, "downloaded", place)

    return downloads


def _pipeline(common: "_Common", mark: str, pipeline: Pipeline) -> dg.AssetsDefinition:
    name = _ASSET_NAMES.get(mark, mark)
    options: dict[str, Any] = {
        "mark": mark,
        "workers": pipeline.workers,
        "chunk": pipeline.chunk,
        "max_attempts": pipeline.max_attempts,
        "timeout": pipeline.timeout,
    }

    @common.asset(
        name, [common.key("update")], f"Documents that {mark!r} is set for, once each.", {"python"}, mark
    )
    def run(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
        with common.open(context) as metadir:
            result = metadir.files.process(
                pipeline.handler,
                on_change=pipeline.on_change,
                progress=progress_log(context, "documents"),
                **options,
                **_filters(pipeline.filters),
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

    def key(self, name: str) -> dg.AssetKey:
        prefix = [self.key_prefix] if isinstance(self.key_prefix, str) else list(self.key_prefix)
        return dg.AssetKey([*prefix, name])

    def asset(
        self, name: str, deps: Sequence[Any], description: str, kinds: set[str], mark: str | None = None
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
            )(function)

        return define

    def of(self, context: dg.AssetExecutionContext) -> MetadirResource:
        found = getattr(context.resources, self.resource)
        if not isinstance(found, MetadirResource):
            raise dg.DagsterInvalidDefinitionError(
                f"resource {self.resource!r} is a {type(found).__name__}, not a MetadirResource"
            )
        return found

    @contextmanager
    def open(self, context: dg.AssetExecutionContext) -> Iterator[Metadir]:
        try:
            with run_log(context), self.of(context).open() as metadir:
                yield metadir
        except MmmetaError as error:
            # Its sentence says what to do; the traceback stays below it.
            raise dg.Failure(str(error)) from error


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


def _filters(filters: Filters) -> Mapping[str, Any]:
    return filters() if callable(filters) else filters


def _materialized(
    metadir: Metadir, result: Any, more: Mapping[str, Any] | None = None
) -> dg.MaterializeResult[Any]:
    shown = {} if result is None else metadata.of_result(result)
    return dg.MaterializeResult(
        metadata={**shown, **metadata.of_metadir(metadir), **(more or {})},
        data_version=dg.DataVersion(str(metadir.revision)),
    )
