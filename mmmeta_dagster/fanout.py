"""A pipeline whose documents are done by many steps at once, in processes or machines that the job's executor finds.

plan → work, once a share of the documents → finish, which tells of it all as the asset's materialization. A share is a range
of keys. Who works on it claims in the state db what is still due of it, so a step that is begun again goes on where
the one before was killed, and two that have the same share do no document twice. What steps tell each other is in
Dagster's event log: nothing goes through an I/O manager, so machines need no disk in common, only the state db.
"""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import dagster as dg

from mmmeta_core import Metadir
from mmmeta_core.process import ProcessResult, Share
from mmmeta_dagster import metadata
from mmmeta_dagster.common import Common
from mmmeta_dagster.run_log import progress_log
from mmmeta_dagster.work import (
    Pipeline,
    Spread,
    WorkConfig,
    asset_name,
    checked,
    code_of,
    description_of,
    failures_check,
    filters_of,
    handled_deletions,
    retried,
    tell_due,
    told_of,
)

_SHARE: Final = "mmmeta/share"
_RETRY_SECONDS: Final = 1
_WAITED_LEASES: Final = 2
_LONGEST_PAUSE: Final = 5.0


def spread_asset(common: Common, mark: str, pipeline: Pipeline) -> dg.AssetsDefinition:
    """Return the asset of a pipeline with `spread`: the same as `pipeline_asset` to all who look at it from outside."""
    ops = _Ops(common, mark, pipeline)
    plan, work, finish = ops.plan(), ops.work(), ops.finish()

    def graph(update: Any) -> Any:
        done = plan(after=update).map(lambda share: work(share=share))
        result, failures = finish(done=done.collect())
        return {"result": result, ops.check.get_python_identifier(): failures}

    define: Any = dg.graph_asset(
        key=ops.key,
        ins={"update": dg.AssetIn(key=common.key("update"), dagster_type=dg.Nothing)},
        config=_config_of(plan.name, work.name, finish.name),
        description=description_of(mark),
        group_name=common.group_name,
        kinds={"python"},
        check_specs=[ops.check],
        metadata=code_of(pipeline.handler),
        owners=common.owners,
        tags=common.tags,
        partitions_def=pipeline.partitions_def,
    )
    asset: dg.AssetsDefinition = define(graph)
    return asset


def _config_of(*ops: str) -> dg.ConfigMapping:
    """Return what takes the configuration of one asset, and gives it to each of its ops."""

    @dg.config_mapping
    def each(config: WorkConfig) -> Mapping[str, Any]:
        given = {"config": config.model_dump(exclude_none=True)}
        return dict.fromkeys(ops, given)

    return each


class _Ops:
    """The three ops of one pipeline."""

    def __init__(self, common: Common, mark: str, pipeline: Pipeline) -> None:
        self.common = common
        self.mark = mark
        self.pipeline = pipeline
        self.spread = pipeline.spread or Spread()
        self.key = common.key(asset_name(mark))
        self.check = failures_check(self.key, mark)

    def plan(self) -> dg.OpDefinition:
        """Return the op that divides the documents that are due."""

        def plan(context: dg.OpExecutionContext, config: WorkConfig) -> Iterator[dg.DynamicOutput[None]]:
            if config.dry_run:
                return
            with self._open(context) as metadir:
                retried(context, metadir, self.mark, config)
                shares = metadir.files.shares(
                    self.spread.documents,
                    self.spread.steps,
                    limit=config.limit,
                    **self._which(),
                    **filters_of(context, self.pipeline.filters, config),
                )
                total = sum(share.documents for share in shares)
                context.log.info("%s: %d documents are due, in %d steps", self.mark, total, len(shares))
                for number, share in enumerate(shares):
                    noted = json.dumps([share.first, share.last, share.documents])
                    yield dg.DynamicOutput(None, f"{number:04}", metadata={_SHARE: noted})

        ins, out = {"after": dg.In(dg.Nothing)}, dg.DynamicOut(dg.Nothing)
        return self._op(plan, "Divides the documents that are due.", ins=ins, out=out)

    def work(self) -> dg.OpDefinition:
        """Return the op that does one share."""

        def work(context: dg.OpExecutionContext, config: WorkConfig) -> None:
            share = self._share(context)
            with self._open(context) as metadir:
                unique = metadir.files.unique
                filters = share.within(filters_of(context, self.pipeline.filters, config), unique)
                result = self._done(context, metadir, filters)
            counts = metadata.of_result(result)
            context.add_output_metadata({**counts, _SHARE: share.documents})

        return self._op(
            work,
            "Does one share of the documents, as far as nobody else does.",
            ins={"share": dg.In(dg.Nothing)},
            out=dg.Out(dg.Nothing),
            pool=self.pipeline.pool,
            # Also for a process that was killed.
            retry_policy=dg.RetryPolicy(max_retries=self.spread.retries, delay=_RETRY_SECONDS),
        )

    def finish(self) -> dg.OpDefinition:
        """Return the op that tells of it all."""

        def finish(context: dg.OpExecutionContext, config: WorkConfig) -> Iterator[Any]:
            with self._open(context) as metadir:
                filters = filters_of(context, self.pipeline.filters, config)
                if config.dry_run:
                    result, more = None, tell_due(context, metadir, self.mark, filters)
                else:
                    result = self._counted(context, metadir, filters)
                    more = metadata.of_result(result) | handled_deletions(metadir, self.mark, self.pipeline)
                told = told_of(context, self.key, metadir, self.mark, result)
                revision = metadir.state_revision
                yield dg.MaterializeResult(
                    asset_key=self.key,
                    metadata={**told, **more, metadata.REVISION: revision},
                    data_version=dg.DataVersion(str(revision)),
                    check_results=[checked(metadir, self.mark, self.key)],
                )

        return self._op(
            finish,
            "Tells what came of all shares.",
            ins={"done": dg.In(dg.Nothing)},
            out={name: dg.Out(dg.Nothing) for name in ("result", self.check.get_python_identifier())},
        )

    # --- what they have in common

    def _op(self, function: Any, description: str, **options: Any) -> dg.OpDefinition:
        name = f"{self.key.to_python_identifier()}__{function.__name__}"
        required = {self.common.resource}
        define: Any = dg.op(name=name, description=description, required_resource_keys=required, **options)
        op: dg.OpDefinition = define(function)
        return op

    @contextmanager
    def _open(self, context: dg.OpExecutionContext) -> Iterator[Metadir]:
        """Give the metadir, with the archive's settings also on a machine that was not here before."""
        with self.common.open(context) as metadir:
            if metadir.remote is not None:
                metadir.pull_settings()
            yield metadir

    def _which(self) -> dict[str, Any]:
        return {"mark": self.mark, "on_change": self.pipeline.on_change}

    def _done(
        self, context: dg.OpExecutionContext, metadir: Metadir, filters: Mapping[str, Any]
    ) -> ProcessResult:
        """Process until nothing of the share is in the hands of a worker that was killed, however long its lease is."""
        processed = failed = aside = 0
        held, since, started = -1, time.monotonic(), time.monotonic()
        while True:
            result = metadir.files.process(
                self.pipeline.handler,
                on_change=self.pipeline.on_change,
                progress=progress_log(context, "documents"),
                **self.pipeline.options(self.mark),
                **filters,
            )
            processed, failed = processed + result.processed, failed + result.failed
            aside += result.set_aside
            before, held = held, metadir.files.left(**self._which(), **filters).claimed
            now = time.monotonic()
            if held != before:
                since = now
            if not held or now - since > _WAITED_LEASES * self.pipeline.lease:
                return ProcessResult(processed, failed, aside, result.left, now - started)
            context.log.info("waiting for %d documents that another worker has claimed", held)
            time.sleep(min(self.pipeline.lease / 4, _LONGEST_PAUSE))

    def _counted(
        self, context: dg.OpExecutionContext, metadir: Metadir, filters: Mapping[str, Any]
    ) -> ProcessResult:
        """Return what came of all shares. What a killed worker had noted is seen in what is no longer left."""
        processed = failed = aside = 0
        seconds = 0.0
        for noted in _outputs(context, f"{self.key.to_python_identifier()}__work").values():
            count = {
                name: int(noted[f"mmmeta/{name}"]) for name in ("processed", "failed", "set_aside", "left")
            }
            processed += max(count["processed"], int(noted[_SHARE]) - count["left"])
            failed, aside = failed + count["failed"], aside + count["set_aside"]
            seconds += noted["mmmeta/seconds"]
        left = metadir.files.left(**self._which(), **filters).documents
        return ProcessResult(processed, failed, aside, left, seconds)

    def _share(self, context: dg.OpExecutionContext) -> Share:
        """Return what this step is to do."""
        noted = _outputs(context, f"{self.key.to_python_identifier()}__plan")[str(context.get_mapping_key())]
        return Share(*json.loads(noted[_SHARE]))


def _outputs(context: dg.OpExecutionContext, op: str) -> dict[str, dict[str, Any]]:
    """Return the metadata of an op's outputs, by share: of this run, and of the one that it retries the rest of."""
    found: dict[str, dict[str, Any]] = {}
    run: dg.DagsterRun | None = context.run
    kind = dg.DagsterEventType.STEP_OUTPUT
    while run is not None:
        of_run = {}
        for record in context.instance.get_records_for_run(run.run_id, of_type=kind).records:
            event = record.event_log_entry.dagster_event
            if event is not None and event.node_name == op:
                output = event.step_output_data
                share = output.mapping_key or str(event.step_key).partition("[")[2].rstrip("]")
                of_run[share] = {name: value.value for name, value in output.metadata.items()}
        found = of_run | found
        retries = run.step_keys_to_execute is not None and run.parent_run_id is not None
        run = context.instance.get_run_by_id(str(run.parent_run_id)) if retries else None
    return found
