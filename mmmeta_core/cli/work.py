"""The commands for clients' work: process, export, status."""

from __future__ import annotations

import dataclasses
import sys
from inspect import signature
from pathlib import Path
from typing import Any

import click

from mmmeta_core.cli.commands import cli, json_option, pass_session
from mmmeta_core.cli.session import Session, fail
from mmmeta_core.cli.words import OneOf, examples

_MARK = click.option(
    "--mark", default="imported", show_default=True, help="The pipeline: your column that says done."
)
_COLUMNS = click.option("--columns", help="Only these, with commas between them.")


@cli.command(
    epilog=examples(
        "mmmeta process --into sqlite:///imports.db document_type=contract",
        "mmmeta process --into postgresql+psycopg://host/name --table letters kind=letter --mark letters",
        "mmmeta process --retry-failed --mark letters",
    )
    + "\n\nFILTERS are those of mmmeta find. A document that fails is tried again by a later run."
)
@click.argument("filters", nargs=-1)
@_MARK
@click.option(
    "--into", metavar="URL", envvar="MMMETA_INTO", show_envvar=True, help="Database, such as sqlite:///x.db."
)
@click.option("--table", default="documents", show_default=True, help="Its table, made when it is not there.")
@_COLUMNS
@click.option("--on-change", type=OneOf(["content", "again", "ignore"]), default="content", show_default=True,
    help="When a document that was done is due again: other content, any change, never.")  # fmt: skip
@click.option(
    "--chunk", type=click.IntRange(1, 500), default=500, show_default=True, help="Documents a transaction."
)
@click.option(
    "--max-attempts", type=click.IntRange(1), default=5, show_default=True, help="Then it is set aside."
)
@click.option("--limit", type=click.IntRange(1), help="At most this many.")
@click.option(
    "--retry-failed", is_flag=True, help="Make those that failed, also those set aside, due at once."
)
@json_option
@pass_session
def process(
    session: Session,
    /,
    filters: tuple[str, ...],
    mark: str,
    into: str | None,
    table: str,
    columns: str | None,
    retry_failed: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Write matching documents that are due into a database, each one once, and remove deleted ones there."""
    from mmmeta_core.cli.filters import parse_filters
    from mmmeta_core.cli.printing import echo_result
    from mmmeta_core.cli.progress import progress_bar
    from mmmeta_core.into import into_database

    if into is None and not retry_failed:
        raise click.UsageError("say what to do: --into sqlite:///file.db, or --retry-failed")
    with session.open(existing=True) as metadir:
        if retry_failed:
            again = metadir.retry_failed(mark)
            click.echo(f"due again: {again}", err=True)
        if into is None:
            return
        own = signature(metadir.files.process).parameters
        arguments = parse_filters(filters, metadir.state.kinds(), taken=own)
        handler = into_database(into, table, _listed(columns))
        try:
            with progress_bar(mark) as progress:
                done = metadir.files.process(handler, mark=mark, progress=progress, **options, **arguments)
            removed = metadir.files.process(handler, mark=mark, on="deleted", chunk=options["chunk"])
        finally:
            handler.close()
        result = _Processed(**vars(done), removed=removed.processed, not_removed=removed.failed)
        echo_result(result, as_json=as_json)
        if done.failed or removed.failed:
            fail(
                f"documents that failed: {done.failed + removed.failed}; mmmeta status --failures lists them"
            )


@cli.command(
    epilog=examples(
        "mmmeta export document_type=contract --output contracts.parquet",
        "mmmeta export --format jsonl imported=false | jq .title",
    )
    + "\n\nFILTERS are those of mmmeta find."
)
@click.argument("filters", nargs=-1)
@click.option(
    "--format",
    "format_",
    type=OneOf(["csv", "jsonl", "parquet", "sqlite"]),
    help="[default: as --output ends, else csv]",
)
@click.option("-o", "--output", type=click.Path(dir_okay=False), help="File to write; stdout unless given.")
@_COLUMNS
@click.option("--deleted", is_flag=True, help="Those that the publisher deleted.")
@click.option("--spreadsheet", is_flag=True, help="CSV cells that look like formulas get an apostrophe.")
@json_option
@pass_session
def export(
    session: Session,
    filters: tuple[str, ...],
    format_: Any,
    output: str | None,
    columns: str | None,
    deleted: bool,
    spreadsheet: bool,
    as_json: bool,
) -> None:
    """Write matching documents into a file that other programs read."""
    from mmmeta_core.cli.filters import parse_filters
    from mmmeta_core.cli.printing import echo_result
    from mmmeta_core.cli.progress import progress_bar

    with session.open(existing=True) as metadir:
        own = signature(metadir.export).parameters
        arguments = parse_filters(filters, metadir.state.kinds(), taken=own)
        chosen: Any = format_ or ("csv" if output is None else None)
        target = sys.stdout.buffer if output is None else Path(output)
        with progress_bar("export") as progress:
            result = metadir.export(
                target,
                chosen,
                columns=_listed(columns),
                deleted=deleted,
                spreadsheet=spreadsheet,
                progress=progress,
                **arguments,
            )
        if output is not None:
            echo_result(result, as_json=as_json)


@cli.command(
    epilog=examples(
        "mmmeta --remote s3://bucket/archive status", "mmmeta status --failures", "mmmeta status --json"
    )
)
@click.option("--failures", is_flag=True, help="List the documents that failed, with the error.")
@json_option
@pass_session
def status(session: Session, failures: bool, as_json: bool) -> None:
    """Tell how far everything is: revision here and at the remote, each pipeline, and what to do next."""
    from mmmeta_core.cli.printing import echo_json, echo_rows, plain
    from mmmeta_core.cli.screens import print_status

    with session.open(existing=True) as metadir:
        found = metadir.status()
        if failures:
            rows = (
                {"mark": pipeline.mark, **dataclasses.asdict(failure)}
                for pipeline in found.pipelines
                for failure in metadir.failures(pipeline.mark)
            )
            columns = ["mark", "key", "attempts", "set_aside", "failed_at", "error"]
            echo_rows(rows, columns, how="json" if as_json else "table")
            return
        if as_json:
            echo_json(plain(found))
            return
        print_status(found)


@dataclasses.dataclass(frozen=True)
class _Processed:
    """What `process` prints: what was written, and how many deleted documents were removed."""

    processed: int
    failed: int
    set_aside: int
    left: int
    seconds: float
    removed: int
    not_removed: int


def _listed(columns: str | None) -> list[str] | None:
    return [name.strip() for name in columns.split(",") if name.strip()] if columns else None
