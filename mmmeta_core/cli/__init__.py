"""The command line: arguments and printing, nothing else."""

from __future__ import annotations

import atexit
import gc
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmmeta_core.cli.commands import cli

__all__ = ["cli", "main"]


def main() -> None:
    """Run the command line."""
    from mmmeta_core.cli.quick import answer

    if not answer(sys.argv[1:]):
        # Next to nothing that loading makes is garbage: not to look for it while a command loads, nor at the end
        # through all that was loaded, makes a short command quicker.
        gc.set_threshold(20_000, 10, 10)
        atexit.register(gc.freeze)
        from mmmeta_core.cli.commands import run

        run()


def __getattr__(name: str) -> Any:
    if name != "cli":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mmmeta_core.cli.commands import cli

    return cli
