"""The command that looks whether the set-up is right: doctor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from mmmeta_core.cli.commands import cli, json_option, pass_session
from mmmeta_core.cli.session import Session, fail
from mmmeta_core.cli.words import examples

if TYPE_CHECKING:
    from mmmeta_core.doctor import Check

_INDENT: Final = 25
_COLOURS: Final = {"ok": "green", "warning": "yellow", "problem": "red"}


@cli.command(
    epilog=examples(
        "mmmeta --remote s3://bucket/archive doctor",
        "mmmeta --metadir ./publisher --files-root ./documents --remote s3://bucket/archive doctor",
        "mmmeta --metadir ./publisher --remote s3://bucket/archive doctor --write",
        "mmmeta doctor --json | jq '.checks[] | select(.level != \"ok\")'",
    )
    + "\n\nExit code 0: no problem, though there may be warnings. 1: a problem; its line says how to mend it."
)
@click.option(
    "--write",
    is_flag=True,
    help="Write a small object to the remote and remove it, whoever this is. With --files-root that is always done.",
)
@json_option
@pass_session
def doctor(session: Session, write: bool, as_json: bool) -> None:
    """Tell whether the set-up is right: versions, folders, locks, settings, keys, remote.

    What is in the archive, and whether it is whole, is for mmmeta verify.
    """
    from mmmeta_core.cli.printing import echo_json, plain

    with session.open() as metadir:
        result = metadir.doctor(write=write, seen=None if as_json else _tell)
    if as_json:
        echo_json({**plain(result), "healthy": result.healthy})
    if not result.healthy:
        problems = sum(check.level == "problem" for check in result.checks)
        fail(f"problems: {problems}; the output says how to mend each")


def _tell(check: Check) -> None:
    """Print a check: for people on a terminal, and a line with tabs in a pipe."""
    from mmmeta_core.cli.printing import text
    from mmmeta_core.cli.tables import is_terminal, print_hanging, styled

    if not is_terminal():
        click.echo("\t".join(map(text, (check.level, check.name, check.what, check.mend))))
        return
    level = styled(check.level.ljust(7), fg=_COLOURS[check.level])
    print_hanging(f"{level}  {text(check.name):14}  ", _INDENT, text(check.what))
    if check.mend:
        print_hanging(f"{'':{_INDENT}}→ ", _INDENT + 2, text(check.mend))
