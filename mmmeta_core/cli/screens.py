"""Where everything stands, and what to do next, on one screen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from mmmeta_core.cli.printing import text
from mmmeta_core.cli.tables import is_terminal, print_pairs, print_table, styled

if TYPE_CHECKING:
    from datetime import datetime

    from mmmeta_core.standing import Status


def print_status(status: Status) -> None:
    """Print it in lines that programs can read, too; on a terminal as a table."""
    here = status.metadir
    documents = f"{here.files} ({here.deleted} deleted, {here.invalid} invalid, {here.pending} to publish)"
    there = status.remote_error or ("none" if here.remote is None else f"revision {status.remote_revision}")
    revisions = f"revision {here.revision}, merged {here.state_revision}"
    further = list(advice(status))
    if is_terminal():
        where = f"{there}, {here.remote}" if here.remote and not status.remote_error else there
        rows = {"metadir": text(here.path), "documents": documents, "here": revisions, "remote": text(where)}
        print_pairs(rows)
        _print_pipelines(status)
    else:
        click.echo(f"documents: {documents}\nhere: {revisions}\nremote: {text(there)}")
        for pipeline in status.pipelines:
            click.echo(
                f"{text(pipeline.mark)}: {pipeline.due} due, {pipeline.done} done, {pipeline.failed} failed, "
                f"{pipeline.set_aside} set aside; last run {_time(pipeline.last_run)}"
            )
    for line in further:
        click.echo(f"{styled('next:', fg='yellow', bold=True)} {text(line)}")


def advice(status: Status) -> Iterator[str]:
    """Yield what to do next, the most pressing first; nothing when all is as it should be."""
    here, there = status.metadir, status.remote_revision
    if status.remote_error is not None:
        yield "mmmeta doctor looks why the remote does not answer as it should"
    if here.invalid:
        yield f"mmmeta inspect --invalid lists the {here.invalid} metadata files that can't be taken"
    if here.pending:
        yield f"mmmeta push publishes the {here.pending} documents that wait here"
    if there is not None and there > here.revision:
        yield f"mmmeta sync brings {there - here.revision} new revision{'s' * (there - here.revision > 1)}"
    elif here.revision > here.state_revision:
        yield "mmmeta update merges what was pulled"
    for pipeline in status.pipelines:
        if pipeline.set_aside:
            yield (
                f"mmmeta status --failures lists what failed; mmmeta process --mark {pipeline.mark} --retry-failed makes "
                "it due again"
            )


def _print_pipelines(status: Status) -> None:
    if not status.pipelines:
        return
    click.echo()
    rows = [
        {
            "pipeline": pipeline.mark,
            "due": pipeline.due,
            "done": pipeline.done,
            "failed": pipeline.failed,
            "set aside": pipeline.set_aside,
            "last run": pipeline.last_run or "never",
        }
        for pipeline in status.pipelines
    ]
    print_table(iter(rows), list(rows[0]))
    click.echo()


def print_insight(insight: dict[str, Any], store: dict[str, Any]) -> None:
    """Print what `inspect` found, a line each."""
    columns = insight.pop("columns")
    named = {name: text(value) for name, value in insight.items()}
    named["columns"] = text(", ".join(f"{column} ({kind})" for column, kind in columns.items()))
    named |= {f"store {text(key)}": text(value) for key, value in store.items()}
    if is_terminal():
        print_pairs(named)
    else:
        for name, value in named.items():
            click.echo(f"{name}: {value}")


def _time(time: datetime | None) -> str:
    return time.isoformat(timespec="seconds") if time else "never"
