"""The program's version and help, said without loading it: click and the commands take four times as long as Python itself.

`help.txt` is what click prints, and a test holds it to that. After a change to the commands:

    COLUMNS=80 .venv/bin/mmmeta -q --help > mmmeta_core/cli/help.txt
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Final

_HELP: Final = __file__.removesuffix("quick.py") + "help.txt"
_WIDTH: Final = 80
"""Columns from which on click breaks no line."""


def answer(arguments: Sequence[str]) -> bool:
    """Print the version or the help if the arguments ask for that alone; return whether they do and it was printed."""
    if len(arguments) != 1 or sys.stdout is None or "_MMMETA_COMPLETE" in os.environ:
        return False
    if arguments[0] == "--version":
        from mmmeta_core.writer import __version__

        text = f"mmmeta, version {__version__}\n"
    elif arguments[0] in ("-h", "--help") and _is_wide():
        with open(_HELP, encoding="ascii") as file:  # noqa: PTH123 - pathlib takes longer than all of this
            text = file.read()
    else:
        return False
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError:  # the program itself says what is wrong
        return False
    return True


def _is_wide() -> bool:
    if "COLUMNS" in os.environ:
        return False
    return not sys.stdout.isatty() or os.get_terminal_size(sys.stdout.fileno()).columns >= _WIDTH
