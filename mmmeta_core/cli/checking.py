"""The command that looks at everything and changes nothing: verify."""

from __future__ import annotations

import click

from mmmeta_core.cli.commands import cli, json_option, pass_session
from mmmeta_core.cli.session import Session, fail


@cli.command(epilog="Exit code 0: whole. 1: each line on stdout says what is wrong and how to mend it.")
@click.option(
    "--documents",
    type=click.IntRange(min=0),
    default=100,
    show_default=True,
    help="Look for so many documents in the archive, and at so many downloads here, picked at random.",
)
@click.option("--all", "everything", is_flag=True, help="Look for all documents, and at all downloads.")
@json_option
@pass_session
def verify(session: Session, documents: int, everything: bool, as_json: bool) -> None:
    """Tell whether catalog, state, log and documents are whole."""
    from mmmeta_core.cli.printing import echo_json, plain, text
    from mmmeta_core.cli.progress import progress_bar

    sample = None if everything else documents
    with session.open(existing=True) as metadir:
        with progress_bar("documents") as progress:
            result = metadir.verify(documents=sample, downloads=sample, progress=progress)
        if as_json:
            echo_json(plain(result))
        elif result.whole:
            counts = {name: value for name, value in plain(result).items() if name != "findings"}
            counts["seconds"] = f"{result.seconds:.3f}"
            click.echo(", ".join(f"{name} {text(value)}" for name, value in counts.items()))
        else:
            for finding in result.findings:
                click.echo(text(finding))
        if not result.whole:
            fail(f"{len(result.findings)} found wrong in {metadir.path}; the output says how to mend each")
