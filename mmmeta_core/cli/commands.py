"""The commands of `mmmeta`. Each one calls one method of `Metadir` and prints what it returns."""

from __future__ import annotations

import inspect as inspection
import io
import logging
import sys
from typing import Any

import click

from mmmeta_core import __version__
from mmmeta_core.cli.session import Program, Session, configure_logging, fail, interruptible, sentences
from mmmeta_core.cli.words import OneOf, examples

_EPILOG = """Exit codes: 0 done (documents that can't be taken are counted as invalid), 1 not done and one sentence says why,
2 wrong usage, 130 interrupted, 143 terminated. Results go to stdout, the log to stderr."""

log = logging.getLogger(__name__)

pass_session = click.make_pass_decorator(Session)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(cls=Program, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--metadir", envvar="MMMETA", show_envvar=True, help="Folder that holds _mmmeta. [default: .]")
@click.option(
    "--files-root",
    envvar="MMMETA_FILES_ROOT",
    show_envvar=True,
    help="Folder of the metadata files. [default: metadir]",
)
@click.option(
    "--remote",
    envvar="MMMETA_REMOTE",
    show_envvar=True,
    help="The archive: a folder, s3://bucket/prefix or https://host/path.",
)
@click.option(
    "--log-level",
    type=OneOf(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="What to log to stderr.",
)
@click.option("-q", "--quiet", is_flag=True, help="Log errors only.")
@click.version_option(__version__, prog_name="mmmeta")
@click.pass_context
def cli(
    context: click.Context,
    metadir: str | None,
    files_root: str | None,
    remote: str | None,
    log_level: str,
    quiet: bool,
) -> None:
    """Keep a catalog of an archive's documents, sync it, and query it with your own state beside it."""
    configure_logging("error" if quiet else log_level)
    context.obj = Session(metadir, files_root, remote)


def run() -> None:
    """Run the command line."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A character that the terminal's encoding lacks is shown as its code; stderr is so already.
        sys.stdout.reconfigure(errors="backslashreplace")
    with sentences(), interruptible():
        cli(prog_name="mmmeta")


@cli.command(
    epilog=examples(
        "mmmeta --metadir ./publisher --files-root ./documents generate",
        "mmmeta --files-root ./documents generate --ensure",
        "mmmeta --files-root ./documents generate --no-meta",
    )
)
@click.option("--ensure", is_flag=True, help="Soft-delete documents whose metadata file is gone.")
@click.option(
    "--ensure-files", is_flag=True, help="Soft-delete documents whose own file is gone; restore those back."
)
@click.option("--no-meta", is_flag=True, help="There are no metadata files: catalog the files themselves.")
@click.option("--replace", is_flag=True, help="Start over: the catalog is to hold what is on disk now.")
@click.option("--force", is_flag=True, help="Delete even more than half of the archive.")
@json_option
@pass_session
def generate(session: Session, /, as_json: bool, **options: bool) -> None:
    """Take new and changed metadata files into the catalog."""
    from mmmeta_core.cli.printing import echo_result
    from mmmeta_core.cli.progress import progress_bar

    with session.open() as metadir:
        with progress_bar("files read") as progress:
            result = metadir.generate(progress=progress, **options)
        echo_result(result, as_json=as_json)
        if result.invalid:
            log.warning("files that can't be taken: %d; mmmeta inspect --invalid lists them", result.invalid)


def _verb(name: str, summary: str, *lines: str) -> None:
    @cli.command(name, help=summary, epilog=examples(*lines))
    @json_option
    @pass_session
    def run(session: Session, as_json: bool) -> None:
        from mmmeta_core.cli.printing import echo_result

        with session.open() as metadir:
            echo_result(getattr(metadir, name)(), as_json=as_json)


_verb(
    "update",
    "Merge what is new in the catalog into what find shows.",
    "mmmeta update",
    "mmmeta --metadir ./client update --json",
)
_verb(
    "sync",
    "Pull; generate and push where this is a publisher; update.",
    "mmmeta --remote s3://bucket/archive sync",
    "mmmeta --metadir ./publisher --files-root ./documents --remote s3://bucket/archive sync",
)


@cli.command(
    "move-state",
    epilog=examples(
        "mmmeta move-state 'postgresql+psycopg://user@host/database?schema=letters'",
        "mmmeta move-state /srv/state/letters.db --json",
    ),
)
@click.argument("to")
@json_option
@pass_session
def move_state(session: Session, to: str, as_json: bool) -> None:
    """Copy your own columns and notes of work to the state TO, a file or a URL."""
    from mmmeta_core.cli.printing import echo_result

    with session.open() as metadir:
        echo_result(metadir.move_state(to), as_json=as_json)
        log.info("name the new place in MMMETA_STATE_DB from now on")


@cli.command(
    epilog=examples(
        "mmmeta --remote https://host/archive pull",
        "mmmeta --metadir ./client --remote /srv/archive pull --json",
    )
)
@json_option
@pass_session
def pull(session: Session, as_json: bool) -> None:
    """Bring the catalog to the remote's newest revision."""
    from mmmeta_core.cli.printing import echo_result
    from mmmeta_core.cli.progress import progress_bar

    with session.open() as metadir:
        with progress_bar("revisions") as progress:
            result = metadir.pull(progress=progress)
        echo_result(result, as_json=as_json)


@cli.command(
    epilog=examples(
        "mmmeta --remote s3://bucket/archive push",
        "mmmeta --files-root ./documents --remote s3://bucket/archive push --files",
    )
)
@click.option(
    "--files", is_flag=True, help="First upload documents and metadata files that the archive lacks."
)
@json_option
@pass_session
def push(session: Session, files: bool, as_json: bool) -> None:
    """Publish what waits here as a new revision."""
    from mmmeta_core.cli.printing import echo_result
    from mmmeta_core.cli.progress import progress_bar

    with session.open(existing=True) as metadir:
        with progress_bar("files") as progress:
            result = metadir.push(files=files, progress=progress)
        echo_result(result, as_json=as_json)
        if result.files and result.files.failed:
            fail(f"files that could not be uploaded: {result.files.failed}; the log names them")


@cli.command(epilog=examples("mmmeta inspect", "mmmeta inspect --invalid", "mmmeta inspect --json"))
@click.option("--invalid", is_flag=True, help="List the metadata files that can't be taken, with the reason.")
@json_option
@pass_session
def inspect(session: Session, invalid: bool, as_json: bool) -> None:
    """Tell where this metadir stands."""
    from mmmeta_core.cli.printing import echo_json, echo_rows, plain
    from mmmeta_core.cli.screens import print_insight

    with session.open(existing=True) as metadir:
        if invalid:
            rows = [{"path": path, "reason": reason} for path, reason in metadir.invalid()]
            echo_rows(rows, ["path", "reason"], how="json" if as_json else "table")
            return
        insight, store = plain(metadir.inspect()), dict(metadir.store.items())
        if as_json:
            echo_json({**insight, "store": store})
            return
        print_insight(insight, store)


@cli.command(
    epilog=examples(
        "mmmeta find document_type=contract imported=false --limit 10",
        "mmmeta find 'retrieved_at>=2021-05-01' 'title~%tax%' --columns title,pages --order-by -pages",
        "mmmeta find document_type=contract,lease title!=null --csv > contracts.csv",
    )
    + "\n\nnull is what is not set, false is also what was never set, '\"…\"' is text as it is, a,b either of both."
)
@click.argument("filters", nargs=-1)
@click.option("--columns", help="Only these, with commas between them.")
@click.option("--limit", type=click.IntRange(min=0), help="At most this many.")
@click.option("--order-by", help="A column; -column for the other way round.")
@click.option("--deleted", is_flag=True, help="Those that the publisher deleted.")
@click.option(
    "--explain", is_flag=True, help="Tell how the database would find them: SEARCH by an index, or SCAN all."
)
@click.option("--json", "how", flag_value="json", help="Print JSON lines.")
@click.option("--csv", "how", flag_value="csv", help="Print CSV with a header.")
@click.option("--table", "how", flag_value="table", default="table", help="Print a table. [default]")
@pass_session
def find(
    session: Session,
    filters: tuple[str, ...],
    columns: str | None,
    limit: int | None,
    order_by: str | None,
    deleted: bool,
    explain: bool,
    how: str,
) -> None:
    """Print the documents that match all FILTERS."""
    from mmmeta_core.cli.filters import parse_filters
    from mmmeta_core.cli.printing import echo_json, echo_rows

    with session.open(existing=True) as metadir:
        arguments: dict[str, Any] = parse_filters(filters, metadir.state.kinds())
        if limit is not None:
            arguments["_limit"] = min(limit, sys.maxsize)
        if order_by:
            arguments["order_by"] = order_by
        if explain:
            for line in metadir.files.explain(deleted=deleted, **arguments):
                click.echo(line)
            return
        if not metadir.files and metadir.inspect().files:
            log.warning("what was generated or pulled shows here after mmmeta update")
        found = metadir.files.find(deleted=deleted, **arguments)
        if how == "json" and not columns:
            for file in found:
                echo_json({name: value for name, value in file.items() if not name.startswith("__")})
            return
        chosen = [name.strip() for name in (columns or "").split(",") if name.strip()]
        published = [name for name in metadir.files.columns if not name.startswith("__")]
        echo_rows(found, chosen or published, how=how)


@cli.command(
    epilog=examples(
        "mmmeta --remote s3://bucket/archive download ./contracts document_type=contract",
        "mmmeta --remote https://host/archive download ./new 'retrieved_at>=2021-05-01' --workers 16",
    )
    + "\n\nFILTERS are those of mmmeta find."
)
@click.argument("dest", type=click.Path(file_okay=False))
@click.argument("filters", nargs=-1)
@click.option(
    "--workers", type=click.IntRange(1, 64), default=8, show_default=True, help="Transfers at once."
)
@json_option
@pass_session
def download(session: Session, dest: str, filters: tuple[str, ...], workers: int, as_json: bool) -> None:
    """Fetch matching documents, each one once, into DEST."""
    from mmmeta_core.cli.filters import parse_filters
    from mmmeta_core.cli.printing import echo_result
    from mmmeta_core.cli.progress import progress_bar

    with session.open(existing=True) as metadir:
        arguments = parse_filters(
            filters, metadir.state.kinds(), taken=inspection.signature(metadir.download).parameters
        )
        with progress_bar("documents") as progress:
            result = metadir.download(dest, workers=workers, progress=progress, **arguments)
        echo_result(result, as_json=as_json)
        if result.failed:
            fail(f"documents that could not be fetched: {result.failed}; a later run tries them again")


@cli.group()
def store() -> None:
    """Read and write the typed key-value store."""


@store.command(
    "get", epilog=examples("mmmeta store get remote_last_updated", "mmmeta store get new_files --json")
)
@click.argument("key")
@json_option
@pass_session
def store_get(session: Session, key: str, as_json: bool) -> None:
    """Print the value of KEY."""
    from mmmeta_core.cli.printing import echo_json, echo_raw

    with session.open(existing=True) as metadir:
        if as_json:
            echo_json(metadir.store[key])
        else:
            echo_raw(metadir.store.text(key).rstrip("\n"))


@store.command(
    "set",
    epilog=examples("mmmeta store set new_files 17", "mmmeta store set local_note 'stays on this machine'"),
)
@click.argument("key")
@click.argument("value")
@json_option
@pass_session
def store_set(session: Session, key: str, value: str, as_json: bool) -> None:
    """Set KEY to VALUE.

    VALUE is a number, true, false, null, an ISO time, JSON, or else text; '"17"' is the text.
    """
    from mmmeta_core.cli.printing import echo_json
    from mmmeta_core.store import decode_value

    with session.open() as metadir:
        metadir.store[key] = decode_value(value)
        if as_json:
            echo_json(metadir.store[key])


@store.command("touch", epilog=examples("mmmeta store touch last_seen"))
@click.argument("key")
@json_option
@pass_session
def store_touch(session: Session, key: str, as_json: bool) -> None:
    """Set KEY to the current time, and print it."""
    from mmmeta_core.cli.printing import echo_json

    with session.open() as metadir:
        time = metadir.touch(key)
        if as_json:
            echo_json(time)
        else:
            click.echo(time.isoformat())


@store.command("list", epilog=examples("mmmeta store list", "mmmeta store list --json"))
@json_option
@pass_session
def store_list(session: Session, as_json: bool) -> None:
    """Print all keys and values."""
    from mmmeta_core.cli.printing import echo_json, echo_rows

    with session.open(existing=True) as metadir:
        values = dict(metadir.store.items())
        if as_json:
            echo_json(values)
        else:
            echo_rows([{"key": k, "value": v} for k, v in values.items()], ["key", "value"], how="table")
