"""What all commands share: the metadir that the options name, logging, and errors as sentences."""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

if TYPE_CHECKING:
    from mmmeta_core.metadir import Metadir

_MODULES: Final = ("checking", "completion", "doctor", "history", "init", "keys", "watch", "work")
"""Those that add further commands to the group: loaded for one that it has not, and to list all."""


class Session:
    """The options of the group; the metadir is made when a command asks for it."""

    def __init__(self, metadir: str | None, files_root: str | None, remote: str | None) -> None:
        self._arguments = (metadir, files_root, remote)

    @contextmanager
    def open(self, *, existing: bool = False) -> Iterator[Metadir]:
        """Give the metadir; `existing` refuses a path where there is none."""
        from mmmeta_core.errors import CatalogError
        from mmmeta_core.metadir import Metadir
        from mmmeta_core.paths import NAME

        with Metadir(*self._arguments) as metadir:
            if existing and not metadir.paths.root.is_dir():
                raise CatalogError(f"{metadir.path} has no {NAME}: generate, pull, or copy one there first")
            yield metadir


class Program(click.Group):
    """A group whose commands end with one sentence on stderr and an exit code, whatever stops them."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of this name."""
        if cmd_name not in self.commands:
            _load()
        return super().get_command(ctx, cmd_name)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        _load()
        return super().list_commands(ctx)

    group_class = type
    """Groups within it are of this kind, too."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command. Raises `click.UsageError` with the one that may have been meant."""
        if args[0][:1] != "-" and not ctx.resilient_parsing and self.get_command(ctx, args[0]) is None:
            from mmmeta_core.cli.words import meant

            ctx.fail(f"there is no command {args[0]!r}{meant(args[0], self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Read the arguments, and print the help if they ask for it."""
        with sentences():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with sentences():
            return super().invoke(ctx)


def _load() -> None:
    for module in _MODULES:
        import_module(f"mmmeta_core.cli.{module}")


@contextmanager
def sentences() -> Iterator[None]:
    """Turn the errors that are the user's to mend into one sentence and an exit code."""
    from mmmeta_core.errors import MmmetaError

    try:
        yield
    except MmmetaError as error:
        fail(str(error))
    except BrokenPipeError:
        # The reader, `head` for one, has seen enough. What is still buffered must not fail again at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        fail(_sentence(error))
    except KeyboardInterrupt as interrupt:
        sys.exit(_interrupted(interrupt))
    except Exception as error:
        import sqlite3

        from mmmeta_core.trouble import database_sentence

        # An error of SQLite's, or one of SQLAlchemy's around it, which is not imported for that.
        cause = getattr(error, "orig", error)
        if isinstance(cause, sqlite3.Error):
            fail(database_sentence(cause))
        raise


class Terminated(KeyboardInterrupt):
    """SIGTERM came: an end like that by Ctrl-C, with an exit code of its own."""


@contextmanager
def interruptible() -> Iterator[None]:
    """Have SIGTERM end the block as Ctrl-C does. A second signal, and one after the block, ends the process at once.

    That is safe at any moment; it is for clean-up that takes long, such as waiting for uploads that have begun.
    """
    # Whoever started this with a signal ignored, as nohup does, meant it.
    heard = [one for one in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(one) is not signal.SIG_IGN]

    def be_default() -> None:
        for one in heard:
            signal.signal(one, signal.SIG_DFL)

    def interrupt(number: int, _: object) -> None:
        be_default()
        # A wait that is interrupted may leave its lock so that a thread of a pool, at its end, finds it released.
        logging.getLogger("concurrent.futures").disabled = True
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

    def unraisable(what: sys.UnraisableHookArgs) -> None:
        # An interrupt that comes while an object is finalised is not passed on to the block.
        if isinstance(what.exc_value, KeyboardInterrupt):
            os._exit(_interrupted(what.exc_value))
        sys.__unraisablehook__(what)

    sys.unraisablehook = unraisable
    for one in heard:
        signal.signal(one, interrupt)
    try:
        yield
    finally:
        be_default()


def _interrupted(interrupt: KeyboardInterrupt) -> int:
    """Say so, and return the exit code."""
    terminated = isinstance(interrupt, Terminated)
    click.echo(f"mmmeta: {'terminated' if terminated else 'interrupted'}; run it again to go on", err=True)
    return 128 + (signal.SIGTERM if terminated else signal.SIGINT)


def fail(sentence: str) -> NoReturn:
    """Say what is wrong, and end with exit code 1."""
    click.echo(f"mmmeta: {printable(sentence)}", err=True)
    sys.exit(1)


def printable(words: str) -> str:
    """Return text of others without what a terminal would obey: escapes, carriage returns, turned text."""
    return "".join(char if char.isprintable() or char in "\n\t" else " " for char in words)


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def _sentence(error: OSError) -> str:
    from mmmeta_core.trouble import sentence

    reason = error.strerror or str(error)
    if error.filename is not None:
        what = f"{os.fsdecode(error.filename)} can't be used"
    elif error.errno == errno.ENOENT:
        return "the working folder is gone: go to another one, or give --metadir as an absolute path"
    else:
        what = "the output can't be written" if error.errno == errno.ENOSPC else "a file can't be used"
    return sentence(what, reason, error.errno)


def configure_logging(level: str) -> None:
    """Log to stderr, one line an event."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter("%(levelname)s %(message)s"))
    logger = logging.getLogger("mmmeta_core")
    logger.handlers[:] = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False
