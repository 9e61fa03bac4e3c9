"""Assets for the two roles. Each one is a verb of `Metadir`; what a verb does is said there."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

from mmmeta_dagster import metadata
from mmmeta_dagster.common import Common, materialized
from mmmeta_dagster.work import Downloads, Pipeline, downloads_asset, pipeline_asset

if TYPE_CHECKING:
    from mmmeta_core.process import Handler


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
    common = Common(resource, key_prefix, group_name, owners, tags)

    @common.asset(
        "sync",
        deps,
        "The publisher's catalog of the archive's documents, as it was published last, with what other publishers"
        " have published meanwhile.",
        {"mmmeta"},
    )
    def sync(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
        with common.open(context) as metadir:
            return materialized(context, metadir, metadir.pull(probe=True))

    @common.asset(
        "generate",
        [common.key("sync")],
        "The publisher's catalog with the documents that are on disk: metadata files that are new or changed were read.",
        {"mmmeta", "json"},
    )
    def generate(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
        with common.open(context) as metadir:
            if common.of(context).files_root is None:
                context.log.info("there is no files_root: what waits was written from Python")
                return materialized(context, metadir, None)
            result = metadir.generate(ensure=ensure, ensure_files=ensure_files, no_meta=no_meta)
            return materialized(context, metadir, result, metadata.of_invalid(metadir.invalid()))

    @common.asset(
        "remote",
        [common.key("generate")],
        "The archive as its clients see it. What the publisher has changed is published as one new revision, and the"
        " clients' sensors notice it.",
        {"mmmeta", "storage"},
    )
    def remote(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
        with common.open(context) as metadir:
            result = metadir.push(files=upload_files)
            if not result.published:
                context.log.info("nothing new to publish; the archive is at revision %d", result.revision)
            insight = metadir.inspect()
            return materialized(
                context, metadir, result, metadata.of_columns(insight.unique, insight.columns, "files")
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
    process: Mapping[str, "Handler | Pipeline"] | None = None,
) -> list[dg.AssetsDefinition]:
    """Return a client's assets: `sync` → `update` → `downloads` and one asset a pipeline, each below `key_prefix`.

    `resource` is the key of its `MetadirResource`, `archive` the asset that all clients hang from. `process` has
    handlers by mark, the column of the client's that says done. A pipeline's asset has the name of its mark,
    `imports` for `imported`. A run succeeds while single documents fail: these are in its log, in a table
    of the materialization, and due again later.
    """
    common = Common(resource, key_prefix, group_name, owners, tags)
    above = [] if archive is None else [dg.AssetKey.from_coercible(archive)]

    @common.asset(
        "sync",
        above,
        "The client's copy of the archive's catalog, brought to the newest revision; only what changed is transferred.",
        {"mmmeta"},
    )
    def sync(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
        with common.open(context) as metadir:
            return materialized(context, metadir, common.pull(context, metadir))

    @common.asset(
        "update",
        [common.key("sync")],
        "The client's state database: each document of the catalog, and beside it what this client has done with it,"
        " such as downloaded or imported, which nobody else sees or overwrites.",
        {"sqlite"},
    )
    def update(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
        with common.open(context) as metadir:
            common.follow(context, metadir)
            return materialized(context, metadir, metadir.update(), metadata.of_documents(metadir))

    if downloads is not None and "downloaded" in (process or {}):
        raise dg.DagsterInvalidDefinitionError(
            "the mark 'downloaded' is that of downloads: give the pipeline another one"
        )
    assets = [sync, update]
    if downloads is not None:
        assets.append(downloads_asset(common, downloads))
    for mark, work in (process or {}).items():
        pipeline = work if isinstance(work, Pipeline) else Pipeline(work)
        if pipeline.spread is None:
            assets.append(pipeline_asset(common, mark, pipeline))
            continue
        from mmmeta_dagster.fanout import spread_asset

        assets.append(spread_asset(common, mark, pipeline))
    return assets
