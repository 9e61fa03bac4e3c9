"""The command that makes keys for signed publishes: keygen."""

from __future__ import annotations

from pathlib import Path

import click

from mmmeta_core.cli.commands import cli, json_option
from mmmeta_core.cli.words import examples


@cli.command(epilog=examples("mmmeta keygen ~/publisher.key"))
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@json_option
def keygen(file: Path, as_json: bool) -> None:
    """Make a key to sign publishes with: FILE is private, FILE.pub is for clients.

    Give FILE to the publisher as MMMETA_SIGNING_KEY, and the line that is printed to clients as MMMETA_TRUSTED_KEYS.
    """
    from mmmeta_core.cli.printing import echo_json
    from mmmeta_core.signing import keygen as make

    line = make(file)
    if as_json:
        echo_json({"file": str(file), "public": line})
    else:
        click.echo(line)
