"""What all commands share: the metadir that the options name, logging, and errors as sentences."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

import click

if TYPE_CHECKING:
    from mmmeta_core.metadir import Metadir


class Session:
    """The options of the group; the metadir is made when a command asks for it."""

    def __init__(self, metadir: str | None, files_root: str | None, remote: str | None) -> None:
        self._arguments = (metadir, files_root, remote)

    @contextmanager
    def open(self) -> Iterator[Metadir]:
        """Give the metadir; turn errors into one sentence on stderr and exit code 1."""
        from mmmeta_core.errors import MmmetaError
        from mmmeta_core.metadir import Metadir

        try:
            with Metadir(*self._arguments) as metadir:
                yield metadir
        except MmmetaError as error:
            fail(str(error))
        except BrokenPipeError:
            # The reader, `head` for one, has seen enough.
            sys.stderr.close()
            sys.exit(0)
        except OSError as error:
            fail(f"{error.filename or ''}: {error.strerror}".lstrip(": "))
        except KeyboardInterrupt:
            click.echo("mmmeta: interrupted; run it again to go on", err=True)
            sys.exit(130)


def fail(sentence: str) -> NoReturn:
    """Say what is wrong, and end with exit code 1."""
    click.echo(f"mmmeta: {sentence}", err=True)
    sys.exit(1)


def configure_logging(level: str) -> None:
    """Log to stderr, one line an event."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logger = logging.getLogger("mmmeta_core")
    logger.handlers[:] = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False
