"""The command that begins an archive: init."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mmmeta_core.cli.commands import cli, json_option
from mmmeta_core.cli.session import printable
from mmmeta_core.cli.words import examples

if TYPE_CHECKING:
    from mmmeta_core.init import InitResult, Proposal
    from mmmeta_core.metadir import Metadir

log = logging.getLogger(__name__)
T = TypeVar("T")


@cli.command(
    epilog=examples(
        "mmmeta init",
        "mmmeta --metadir ./publisher --files-root ./documents --remote s3://bucket/archive init",
        "mmmeta --files-root ./documents init --key id --url 'https://host/{file_name}' --yes",
    )
)
@click.option("--key", metavar="COLUMN", help="The key column, metadata.unique.")
@click.option("--file-name", metavar="COLUMN", help="The column with the document's path in the archive.")
@click.option(
    "--url",
    "urls",
    multiple=True,
    metavar="[NAME=]TEMPLATE",
    help="Where documents can be had, such as 'https://host/{file_name}'; may be given several times.",
)
@click.option("-y", "--yes", is_flag=True, help="Ask nothing. In a pipe nothing is asked anyway.")
@click.option("--dry-run", is_flag=True, help="Only print what would be written.")
@json_option
@click.pass_context
def init(
    context: click.Context,
    key: str | None,
    file_name: str | None,
    urls: tuple[str, ...],
    yes: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Begin an archive: look at its metadata files, and write _mmmeta/config.yml.

    What no option says is asked for on a terminal, and else taken as it is proposed. Nothing is ever overwritten, and
    where --remote is an archive already, whose settings come with a pull, nothing is written.
    """
    from mmmeta_core.metadir import Metadir

    templates = _templates(urls)
    asks = not yes and _is_terminal()
    places = {name: context.find_root().params.get(name) for name in ("metadir", "files_root", "remote")}
    with _prompting():
        if asks:
            _ask_places(places)
        with Metadir(*places.values()) as metadir:
            proposal = _proposal(metadir)
            first = metadir.init(proposal, dry_run=True, unique=key, file_name=file_name, urls=templates)
            if asks and first.archive is None:
                key = key or _ask_key(proposal, first.unique)
                file_name = file_name or _ask("File name column", first.file_name, _column)
                templates = templates or _ask_url(file_name)
                first = metadir.init(proposal, dry_run=True, unique=key, file_name=file_name, urls=templates)
                click.echo(f"\n{first.text}", err=True)
                if not dry_run and not click.confirm(f"Write {first.config}?", default=True, err=True):
                    click.echo("mmmeta: nothing was written", err=True)
                    context.exit(1)
            result = metadir.init(proposal, dry_run=dry_run, unique=key, file_name=file_name, urls=templates)
    _tell(result, proposal, _next(places, result, proposal), dry_run=dry_run, as_json=as_json)


def _templates(urls: tuple[str, ...]) -> dict[str, str]:
    templates: dict[str, str] = {}
    for url in urls:
        name, equals, template = url.partition("=")
        if not (equals and name.isidentifier()):
            name, template = "url", url
        if name in templates:
            raise click.UsageError(f"--url is given twice for {name!r}: write --url another_name={template}")
        templates[name] = template
    return templates


def _is_terminal() -> bool:
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr))


@contextmanager
def _prompting() -> Iterator[None]:
    """Let Ctrl-C at a prompt end the command as it does elsewhere; click makes an error of its own of it."""
    try:
        yield
    except click.Abort as abort:
        if isinstance(abort.__context__, KeyboardInterrupt):
            raise abort.__context__ from None
        raise KeyboardInterrupt from None


def _proposal(metadir: Metadir) -> Proposal:
    from mmmeta_core.init import Proposal

    return metadir.propose() if metadir.files_root.is_dir() else Proposal()


# --- questions


def _ask(question: str, default: str, check: Callable[[str], str] | None = None) -> str:
    answer: str = click.prompt(
        question, default=default, value_proc=check, err=True, show_default=bool(default)
    )
    return answer


def _ask_places(places: dict[str, Any]) -> None:
    from mmmeta_core.errors import ConfigError
    from mmmeta_core.init import check_new
    from mmmeta_core.remotes import open_remote

    def remote(text: str) -> str:
        try:
            if text.strip():
                open_remote(text)
        except ConfigError as error:
            raise click.UsageError(str(error)) from None
        return text.strip()

    if not places["metadir"]:
        places["metadir"] = _ask("Folder that is to hold _mmmeta", ".")
    check_new(Path(places["metadir"]))
    if not places["remote"]:
        where = "The archive (a folder, s3://bucket/prefix or https://host/path; empty: this very folder)"
        places["remote"] = _ask(where, "", remote) or None
    if not places["files_root"]:
        where = "Folder of the metadata files (empty: there are none)"
        default = str(places["metadir"]) if _has_json(places["metadir"]) else ""
        places["files_root"] = _ask(where, default, _folder) or None


def _has_json(folder: str) -> bool:
    from mmmeta_core.init import propose

    proposal = propose(Path(folder))
    return bool(proposal.looked or proposal.unread)


def _folder(text: str) -> str:
    if text.strip() and not Path(text).is_dir():
        raise click.UsageError(f"{text} is not a folder")
    return text.strip() and text


def _ask_key(proposal: Proposal, default: str) -> str:
    if proposal.looked:
        could = ", ".join(proposal.keys[:8]) or "none"
        click.echo(
            f"Metadata files looked at: {proposal.looked}. Columns that all have, each with another value: {could}",
            err=True,
        )
    return _ask("Key column", default, _column)


def _column(text: str) -> str:
    from mmmeta_core.types import is_key_column

    name = text.strip()
    if not is_key_column(name):
        raise click.UsageError("a column's name has 1 to 63 bytes, and no '__' first")
    return name


def _ask_url(file_name: str) -> dict[str, str]:
    from mmmeta_core.config import columns_of
    from mmmeta_core.errors import ConfigError

    def template(text: str) -> str:
        try:
            columns_of(text)
        except ConfigError as error:
            raise click.UsageError(str(error)) from None
        return text.strip()

    url = _ask(f"URL of a document, such as https://host/{{{file_name}}} (empty: none)", "", template)
    return {"url": url} if url else {}


# --- answers


def _next(places: dict[str, Any], result: InitResult, proposal: Proposal) -> list[str]:
    """Return the commands to go on with, as a shell takes them."""
    options = {
        "--metadir": ("MMMETA", places["metadir"]),
        "--files-root": ("MMMETA_FILES_ROOT", places["files_root"]),
        "--remote": ("MMMETA_REMOTE", places["remote"]),
    }
    if result.archive is None and not places["files_root"] and proposal.looked:
        options["--files-root"] = ("MMMETA_FILES_ROOT", places["metadir"] or ".")
    given = [
        word
        for option, (variable, value) in options.items()
        if value and os.environ.get(variable) != value and (option, value) != ("--metadir", ".")
        for word in (option, str(value))
    ]
    if result.archive is not None:
        return [shlex.join(["mmmeta", *given, "sync"])]
    if not proposal.looked and not places["files_root"]:
        return []
    verbs = [["sync"]] if _is_in_place(places) else [["generate"], ["push", "--files"], ["update"]]
    return [shlex.join(["mmmeta", *given, *verb]) for verb in verbs]


def _is_in_place(places: dict[str, Any]) -> bool:
    """Whether the metadata files lie where they are published."""
    root, remote = (
        Path(places[name] or places["metadir"] or ".").resolve() for name in ("files_root", "remote")
    )
    return root == remote


def _tell(
    result: InitResult, proposal: Proposal, further: list[str], *, dry_run: bool, as_json: bool
) -> None:
    from mmmeta_core.cli.printing import echo_json, plain

    for name in result.unknown:
        log.warning("none of the %d metadata files looked at has a column %r", proposal.looked, name)
    lacking = proposal.lacking.get(result.unique, 0)
    if lacking:
        log.warning(
            "%d of %d metadata files looked at have no key in %r; they will be reported as invalid",
            *(lacking, proposal.looked, result.unique),
        )
    if as_json:
        echo_json({**plain(result), "looked": proposal.looked, "keys": proposal.keys, "next": further})
        return
    if result.archive is not None:
        click.echo(f"this is a client of {printable(result.archive)}, whose settings come with a pull")
    elif dry_run:
        click.echo(printable(result.text), nl=False)
    else:
        click.echo(f"wrote {printable(result.config)}: key {result.unique}, file name {result.file_name}")
    if not further and result.archive is None:
        click.echo(
            "next: publish documents from Python with files.upsert and push, see docs/recipes.md", err=dry_run
        )
    for command in further:
        click.echo(f"next: {printable(command)}", err=dry_run)
