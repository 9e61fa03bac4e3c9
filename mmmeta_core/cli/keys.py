"""The command that makes keys for signed publishes: keygen."""

from __future__ import annotations

from pathlib import Path

import click

from mmmeta_core.cli.commands import cli


@cli.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def keygen(file: Path) -> None:
    """Make a key to sign publishes with: FILE is private, FILE.pub is for clients.

    Give FILE to the publisher as MMMETA_SIGNING_KEY, and the line that is printed to clients as MMMETA_TRUSTED_KEYS.
    """
    from mmmeta_core.signing import keygen as make

    click.echo(make(file))
