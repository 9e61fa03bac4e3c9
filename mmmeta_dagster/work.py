"""Assets of work on documents: downloads, and a function that is called once for each document that is due.

What a step of them does is here too; `fanout` has the same work done by many steps.
"""

import functools
import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import dagster as dg
from pydantic import Field

from mmmeta_core import Metadir
from mmmeta_core.database.work import LEASE_SECONDS, OnChange
from mmmeta_dagster import metadata
from mmmeta_dagster.common import Common, Context, materialized
from mmmeta_dagster.run_log import progress_log

if TYPE_CHECKING:
    from mmmeta_core.process import Handler

Filters: TypeAlias = Mapping[str, Any] | Callable[..., Mapping[str, Any]]
"""Filters of `files.find`, or a function that returns them when the run comes to it: "within the last week".

With partitions it is called with the partition's key.
"""

CHECK: Final = "no_failed_documents"
_ASSET_NAMES: Final[Mapping[str, str]] = {"imported": "imports"}
_SHOWN_RUNS: Final = 30


@dataclass(frozen=True)
class Spread:
    """Have a pipeline's documents done by many steps at once, by whatever executor the job has; see `fanout`.

    A step takes at most `documents`, a run has at most `steps` of them. What is due beyond that is for the next run. A
    step whose process was killed is begun again up to `retries` times, where the executor can tell.
    """

    documents: int = 1000
    steps: int = 100
    retries: int = 3

    def __post_init__(self) -> None:
        """Raise for what can't be."""
        if self.documents < 1 or self.steps < 1 or self.retries < 0:
            raise dg.DagsterInvalidDefinitionError(
                f"{self}: documents and steps are 1 or more, retries 0 or more"
            )


@dataclass(frozen=True)
class Pipeline:
    """A function that is called once for each matching document that is due; see `Documents.process`.

    With `deletions` it is called again for documents that it has done and that the publisher has deleted since.
    `partitions_def` is for coarse partitions, by month or type of document; `filters` then is a function of the key.
    With `spread` many steps do it; `lease` is how many seconds it takes until others get a killed worker's documents.
    """

    handler: "Handler"
    filters: Filters = field(default_factory=dict)
    workers: int = 1
    chunk: int = 100
    max_attempts: int = 5
    timeout: float | None = None
    on_change: OnChange = "content"
    deletions: bool = False
    pool: str | None = None
    partitions_def: dg.PartitionsDefinition[str] | None = None
    lease: float = LEASE_SECONDS
    spread: Spread | None = None

    def options(self, mark: str) -> dict[str, Any]:
        """Return how `Documents.process` is to work."""
        return {
            "mark": mark,
            "workers": self.workers,
            "chunk": self.chunk,
            "max_attempts": self.max_attempts,
            "timeout": self.timeout,
            "lease": self.lease,
        }


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


def downloads_asset(common: Common, what: Downloads) -> dg.AssetsDefinition:
    """Return the asset that fetches documents."""

    @common.asset(
        "downloads",
        [common.key("update")],
        "The documents that the client asks for, as files. Each one is fetched once, and is there only when it is whole"
        " and has the checksum that the catalog says.",
        {"file"},
        checks=[failures_check(common.key("downloads"), "downloaded")],
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
            return _worked(context, metadir, result, "downloaded", place)

    return downloads


def pipeline_asset(common: Common, mark: str, pipeline: Pipeline) -> dg.AssetsDefinition:
    """Return the asset of a pipeline, named after its mark."""
    name = asset_name(mark)

    @common.asset(
        name,
        [common.key("update")],
        description_of(mark),
        {"python"},
        checks=[failures_check(common.key(name), mark)],
        details=code_of(pipeline.handler),
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
                **pipeline.options(mark),
                **filters,
            )
            more = handled_deletions(metadir, mark, pipeline)
            return _worked(context, metadir, result, mark, more)

    return run


def asset_name(mark: str) -> str:
    """Return the name of a pipeline's asset."""
    return _ASSET_NAMES.get(mark, mark)


def description_of(mark: str) -> str:
    """Return what is said of a pipeline's asset."""
    return (
        "Documents that this client has handled, for example imported into a database, each one once. The column"
        f" {mark!r} of its state database says which; those that fail are tried again by later runs."
    )


def filters_of(context: Context, filters: Filters, config: WorkConfig) -> dict[str, Any]:
    """Return the filters of this run."""
    if callable(filters):
        filters = filters(context.partition_key) if context.has_partition_key else filters()
    return {**filters, **config.filters}


def retried(context: Context, metadir: Metadir, mark: str, config: WorkConfig) -> None:
    """Make failed documents due again, if the run's configuration asks for that."""
    if config.retry_failed and not config.dry_run:
        context.log.info("%d failed documents are due again", metadir.retry_failed(mark))


def _prepared(
    context: Context, metadir: Metadir, mark: str, filters: Filters, config: WorkConfig
) -> dict[str, Any]:
    """Return the filters of this run, after what its configuration asks for first."""
    retried(context, metadir, mark, config)
    return filters_of(context, filters, config)


def handled_deletions(metadir: Metadir, mark: str, pipeline: Pipeline) -> dict[str, Any]:
    """Hand deleted documents to a pipeline that asks for them; return what a materialization tells of that."""
    if not pipeline.deletions:
        return {}
    gone = metadir.files.process(pipeline.handler, on="deleted", **pipeline.options(mark))
    return {"mmmeta/deletions_handled": gone.processed, "mmmeta/deletions_failed": gone.failed}


def tell_due(context: Context, metadir: Metadir, mark: str, filters: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a dry run tells."""
    due = metadir.files.count(**filters, **{mark: False})
    context.log.info("%s: %d documents are not done; this was a dry run", mark, due)
    return {"mmmeta/dry_run": True, metadata.LEFT: due}


def _told(
    context: dg.AssetExecutionContext, metadir: Metadir, mark: str, filters: Mapping[str, Any]
) -> dg.MaterializeResult[Any]:
    return _worked(context, metadir, None, mark, tell_due(context, metadir, mark, filters))


def failures_check(asset: dg.AssetKey, mark: str) -> dg.AssetCheckSpec:
    """Return the check that warns of a pipeline's failures."""
    return dg.AssetCheckSpec(
        CHECK,
        asset=asset,
        description=f"No document has failed for {mark!r}, so that it waits to be tried again or is set aside.",
    )


def _worked(
    context: dg.AssetExecutionContext, metadir: Metadir, result: Any, mark: str, more: Mapping[str, Any]
) -> dg.MaterializeResult[Any]:
    """Return what a pipeline did; its check warns of documents that failed, in this run or before."""
    told = {**told_of(context, context.asset_key, metadir, mark, result), **more}
    done = materialized(context, metadir, result, told)
    return dg.MaterializeResult(data_version=done.data_version, check_results=[checked(metadir, mark)])


def checked(metadir: Metadir, mark: str, asset: dg.AssetKey | None = None) -> dg.AssetCheckResult:
    """Return the check of documents that failed, in this run or before."""
    failures = list(metadir.failures(mark))
    aside = sum(failure.set_aside for failure in failures)
    return dg.AssetCheckResult(
        asset_key=asset,
        check_name=CHECK,
        passed=not failures,
        severity=dg.AssetCheckSeverity.ERROR if aside else dg.AssetCheckSeverity.WARN,
        metadata={"failed": len(failures) - aside, "set_aside": aside},
        description=f"{len(failures) - aside} to be tried again, {aside} set aside" if failures else None,
    )


def told_of(
    context: Context, asset: dg.AssetKey, metadir: Metadir, mark: str, result: Any
) -> dict[str, dg.MetadataValue[Any]]:
    """Return where a pipeline stands after `result`: done in all, failures, and a chart of what its runs left."""
    backlog = {} if result is None else metadata.of_backlog(_backlog(context, asset, result.left))
    return {**metadata.of_pipeline(metadir, mark), **backlog}


def _backlog(context: Context, asset: dg.AssetKey, left: int) -> list[tuple[datetime, int]]:
    """Return when each of the last runs ended and how many documents it had left; this one, the last, with `left`."""
    which = dg.AssetRecordsFilter(
        asset, asset_partitions=[context.partition_key] if context.has_partition_key else None
    )
    records = context.instance.fetch_materializations(which, limit=_SHOWN_RUNS - 1).records
    before = []
    for record in records:
        shown = record.asset_materialization
        if shown is not None and isinstance(value := shown.metadata.get(metadata.LEFT), dg.IntMetadataValue):
            before.append((datetime.fromtimestamp(record.timestamp, UTC), value.value or 0))
    return [*reversed(before), (datetime.now(UTC), left)]


def code_of(handler: "Handler") -> Mapping[str, Any]:
    """Return where a handler is written, for Dagster to link to; nothing for what is not written in Python."""
    function: Any = handler
    while isinstance(function, functools.partial):
        function = function.func
    function = inspect.unwrap(function)
    if not inspect.isroutine(function):
        function = type(function).__call__
    code = getattr(function, "__code__", None)
    if code is None:
        return {}
    with warnings.catch_warnings():
        # Its users did not choose what Dagster calls beta, and can do without it.
        warnings.simplefilter("ignore", dg.BetaWarning)
        reference = dg.LocalFileCodeReference(
            file_path=code.co_filename, line_number=code.co_firstlineno, label=function.__qualname__
        )
        return {"dagster/code_references": dg.CodeReferencesMetadataValue(code_references=[reference])}
