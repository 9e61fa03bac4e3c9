"""The command that looks at everything, and mends what can be proven: verify."""

from __future__ import annotations

import click

from mmmeta_core.cli.commands import cli, json_option, pass_session
from mmmeta_core.cli.session import Session, fail
from mmmeta_core.cli.words import examples


@cli.command(
    epilog=examples(
        "mmmeta --remote s3://bucket/archive verify",
        "mmmeta --remote s3://bucket/archive verify --deep --all --hashes",
        "mmmeta --remote s3://bucket/archive verify --repair --dry-run",
    )
    + "\n\nExit code 0: whole, or so after the repair. 1: each line on stdout says what is wrong and how to mend it. "
    "Lines that begin with 'repaired' or 'would be repaired' say what --repair did or would do."
)
@click.option(
    "--documents",
    type=click.IntRange(min=0),
    default=100,
    show_default=True,
    help="Look for so many documents in the archive, and at so many downloads here, picked at random.",
)
@click.option("--all", "everything", is_flag=True, help="Look for all documents, and at all downloads.")
@click.option(
    "--hashes", is_flag=True, help="Read these documents, and compare their content with their hash."
)
@click.option("--deep", is_flag=True, help="Read the whole log, and compare everything with what it says.")
@click.option("--repair", is_flag=True, help="Mend what can be proven; looks deep, and at all downloads.")
@click.option("--dry-run", is_flag=True, help="With --repair: only tell what would be mended.")
@json_option
@pass_session
def verify(
    session: Session,
    documents: int,
    everything: bool,
    hashes: bool,
    deep: bool,
    repair: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Tell whether everything is whole, and mend what can be proven."""
    from mmmeta_core.cli.printing import echo_counts, echo_json, plain, text
    from mmmeta_core.cli.progress import progress_bar
    from mmmeta_core.cli.tables import styled

    if dry_run and not repair:
        raise click.UsageError("--dry-run goes with --repair")
    sample = None if everything else documents
    with session.open(existing=True) as metadir:
        with progress_bar("looked at") as progress:
            result = metadir.verify(
                documents=sample,
                downloads=None if repair else sample,
                hashes=hashes,
                deep=deep,
                repair=repair,
                dry_run=dry_run,
                progress=progress,
            )
        if as_json:
            echo_json(plain(result))
        else:
            for one in result.repaired:
                click.echo(styled(text(f"{'would be ' * dry_run}repaired: {one}"), fg="green"))
            for finding in result.findings:
                click.echo(styled(text(finding), fg="red"))
        if not result.whole:
            fail(f"{len(result.findings)} found wrong in {metadir.path}; the output says how to mend each")
        if not as_json:
            counts = {n: v for n, v in plain(result).items() if n not in ("findings", "repaired")}
            counts["seconds"] = f"{result.seconds:.3f}"
            echo_counts(counts)
