"""The commands for what was: log, diff."""

from __future__ import annotations

import dataclasses
from typing import Any

import click

from mmmeta_core.cli.commands import cli, json_option, pass_session
from mmmeta_core.cli.session import Session
from mmmeta_core.cli.words import examples


@cli.command(
    "log",
    epilog=examples(
        "mmmeta --remote s3://bucket/archive log --limit 20",
        "mmmeta --remote s3://bucket/archive log --key 2fd4e1c67a2d28fced849ee1bb76e7391b93eb12",
        "mmmeta --remote s3://bucket/archive log --prune --keep-days 365 --dry-run",
    ),
)
@click.option("--key", help="Only what was done to this document.")
@click.option("--limit", type=click.IntRange(min=0), help="At most this many.")
@click.option("--prune", is_flag=True, help="Remove the oldest part of the log; documents stay.")
@click.option("--keep-days", type=click.FloatRange(min=0), help="With --prune: days that stay in the log.")
@click.option("--dry-run", is_flag=True, help="With --prune: only tell what would go.")
@json_option
@pass_session
def log_command(
    session: Session,
    key: str | None,
    limit: int | None,
    prune: bool,
    keep_days: float | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Tell who published what and when, the newest first."""
    from mmmeta_core.cli.filters import key_values
    from mmmeta_core.cli.printing import echo_json, echo_result, echo_rows
    from mmmeta_core.cli.progress import progress_bar

    if prune != (keep_days is not None) or (dry_run and not prune) or (prune and (key or limit is not None)):
        raise click.UsageError(
            "--prune goes with --keep-days and perhaps --dry-run, and they with --prune only"
        )
    with session.open() as metadir:
        if keep_days is not None:
            with progress_bar("segments") as progress:
                result = metadir.prune(keep_days=keep_days, dry_run=dry_run, progress=progress)
            echo_result(result, as_json=as_json)
            return
        if key is None:
            found = (dataclasses.asdict(one) for one in metadir.log(limit=limit))
        else:
            found = (dataclasses.asdict(one) for one in metadir.log(key=key_values(key), limit=limit))
        if as_json:
            for row in found:
                echo_json(row)
            return
        columns = _TOUCH if key is not None else _REVISION
        echo_rows(map(_words, found), columns, how="table")


_REVISION = ["revision", "at", "by", "added", "changed", "deleted", "restored", "store", "note"]
_TOUCH = ["revision", "at", "by", "what", "columns"]


def _words(row: dict[str, Any]) -> dict[str, Any]:
    """Return the row with names in a list as words, settings that changed among them."""
    words = {name: ", ".join(value) if isinstance(value, tuple) else value for name, value in row.items()}
    if row.get("config"):
        words["store"] = ", ".join([*row["store"], "config.yml"])
    return words


@cli.command(
    epilog=examples("mmmeta --remote s3://bucket/archive purge KEY --reason 'court order' --dry-run")
    + "\n\nExit code 0: gone, or gone before. What is left is the key. Run it again after it was interrupted."
)
@click.argument("keys", nargs=-1, required=True, metavar="KEY...")
@click.option("--reason", required=True, help="Why. It is published, so it must not say what is to be gone.")
@click.option("--files", is_flag=True, help="Remove the documents themselves from the archive, too.")
@click.option("--dry-run", is_flag=True, help="Only tell what would go.")
@json_option
@pass_session
def purge(
    session: Session, keys: tuple[str, ...], reason: str, files: bool, dry_run: bool, as_json: bool
) -> None:
    """Remove documents and all that was published of them, for good."""
    from mmmeta_core.cli.filters import key_values
    from mmmeta_core.cli.printing import echo_json, plain, text

    with session.open() as metadir:
        result = metadir.purge([key_values(key) for key in keys], reason=reason, files=files, dry_run=dry_run)
        if as_json:
            echo_json(plain(result))
            return
        counts = {"documents": result.documents, "revision": result.revision, "segments": result.segments}
        click.echo(", ".join(f"{name} {count}" for name, count in counts.items()))
        for title, names in (("file", result.files), ("still here", result.left)):
            for name in names:
                click.echo(f"{title}: {text(name)}")


@cli.command(epilog=examples("mmmeta diff 3", "mmmeta --remote s3://bucket/archive diff 3 5 --json"))
@click.argument("a", type=click.IntRange(min=1), metavar="A")
@click.argument("b", type=click.IntRange(min=1), metavar="[B]", required=False)
@json_option
@pass_session
def diff(session: Session, a: int, b: int | None, as_json: bool) -> None:
    """Print the documents that differ between revisions A and B, or the newest."""
    from mmmeta_core.cli.printing import echo_json, echo_rows

    with session.open() as metadir:
        result = metadir.diff(a, b)
        if not as_json:
            rows = ({"what": c.what, "key": c.key, "columns": ", ".join(c.columns)} for c in result)
            echo_rows(rows, ["what", "key", "columns"], how="table")
            return
        for change in result:
            columns = {name: {"old": old, "new": new} for name, (old, new) in change.columns.items()}
            echo_json({"what": change.what, "key": change.key, "columns": columns})
