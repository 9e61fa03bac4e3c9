"""The command that keeps a client up to date: watch."""

from __future__ import annotations

from inspect import signature
from typing import TYPE_CHECKING, Any, Final

import click

from mmmeta_core.cli.commands import cli, json_option, pass_session
from mmmeta_core.cli.session import Session, fail
from mmmeta_core.cli.words import OneOf, examples

if TYPE_CHECKING:
    from mmmeta_core.watch import Turn

_EPILOG: Final = (
    examples(
        "mmmeta --remote https://host/archive watch",
        "mmmeta --remote s3://bucket/archive watch --exec './import.sh {path} {key}' document_type=contract",
        "mmmeta --remote s3://bucket/archive watch --once --exec 'ocr --title={title} {path}' --mark ocr",
        "mmmeta --remote s3://bucket/archive watch --exec './import.sh {path} {key}' --exec-deleted './remove.sh {key}'",
    )
    + """

\b
FILTERS are those of mmmeta find. In COMMAND {path} is a temporary file with the document, {key} and {name} are
its key and file name, {column} is what a column says: each within one argument, no shell is involved. A status
other than 0 is a failure, tried again later; 75 says that nothing can be done now, and no document is to blame.
A document that was done and is deleted has no {path} any more, and counts whatever FILTERS are.
"""
)


@cli.command(epilog=_EPILOG)
@click.argument("filters", nargs=-1)
@click.option("--exec", "command", metavar="COMMAND", help="Run this for each document that is due.")
@click.option(
    "--exec-deleted",
    "deleted_command",
    metavar="COMMAND",
    help="Run this for each that was done and is deleted.",
)
@click.option(
    "--mark", default="imported", show_default=True, help="The pipeline: your column that says done."
)
@click.option(
    "--interval", type=click.FloatRange(min=0, min_open=True), default=60.0, show_default=True, help="Seconds between polls."
)  # fmt: skip
@click.option("--max-polls", type=click.IntRange(1), help="End after so many.")
@click.option("--once", is_flag=True, help="Poll once, and end with 1 if a document failed; for cron.")
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), help="Seconds that COMMAND may take.")
@click.option("--on-change", type=OneOf(["content", "again", "ignore"]), default="content", show_default=True,
    help="When a document that was done is due again: other content, any change, never.")  # fmt: skip
@click.option(
    "--max-attempts", type=click.IntRange(1), default=5, show_default=True, help="Then it is set aside."
)
@json_option
@pass_session
def watch(
    session: Session,
    /,
    filters: tuple[str, ...],
    command: str | None,
    deleted_command: str | None,
    mark: str,
    interval: float,
    max_polls: int | None,
    once: bool,
    timeout: float | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Keep this client up to date, and run a command for each document that is new, or deleted.

    Polls the remote with one request when nothing is new, and prints a line when there was. A remote that does not answer is
    asked again after a growing time. Several may run at once: each document is claimed by one.
    """
    from mmmeta_core.cli.filters import parse_filters
    from mmmeta_core.command import run_command

    if command is None and (filters or (timeout is not None and deleted_command is None)):
        raise click.UsageError("filters and --timeout go with --exec")
    handler = run_command(command, timeout=timeout) if command is not None else None
    remover = run_command(deleted_command, timeout=timeout) if deleted_command is not None else None
    if remover is not None and "path" in remover.columns:
        raise click.UsageError(
            "{path} can't be in --exec-deleted: what is deleted has no file; name it by {key}"
        )
    with session.open() as metadir:

        def asked() -> dict[str, Any]:
            own = signature(metadir.files.process).parameters
            return parse_filters(filters, metadir.state.kinds(), taken=own)  # kinds come with documents

        asked()
        failed = 0
        polls = 1 if once else max_polls
        work = {"mark": mark, "chunk": _CHUNK, "filters": asked, "on_deleted": remover, **options}
        for turn in metadir.watch(handler, interval=interval, max_polls=polls, **work):
            if turn.changed:
                _tell(turn, mark, as_json=as_json)
            failed += turn.failed
    if once and failed:
        fail(f"documents that failed: {failed}; mmmeta status --failures lists them")


_CHUNK: Final = 10
"""Documents that are claimed together: few, since a program takes its time for each."""


def _tell(turn: Turn, mark: str, *, as_json: bool) -> None:
    from mmmeta_core.cli.printing import echo_json, plain, text

    if as_json:
        echo_json(plain(turn))
        return
    said = []
    if turn.updated is not None:
        counts = {name: getattr(turn.updated, name) for name in ("added", "updated", "deleted", "restored")}
        said.append(
            ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "no document changed"
        )
    if turn.processed is not None:
        said.append(f"{mark} {turn.processed.processed} done, {turn.processed.failed} failed")
    if turn.removed is not None:
        said.append(f"{mark} {turn.removed.processed} removed, {turn.removed.failed} failed")
    at = turn.at.isoformat(timespec="seconds")
    click.echo(text(f"{at} revision {turn.revision}: {'; '.join(said)}"))
