"""The commands for what was: log, diff."""

from __future__ import annotations

import dataclasses
from typing import Any

import click

from mmmeta_core.cli.commands import cli, json_option, pass_session
from mmmeta_core.cli.session import Session


@cli.command("log")
@click.option("--key", help="Only what was done to this document.")
@click.option("--limit", type=click.IntRange(min=0), help="At most this many.")
@json_option
@pass_session
def log_command(session: Session, key: str | None, limit: int | None, as_json: bool) -> None:
    """Tell who published what and when, the newest first."""
    from mmmeta_core.cli.filters import key_values
    from mmmeta_core.cli.printing import echo_json, echo_rows

    with session.open() as metadir:
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


@cli.command()
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
