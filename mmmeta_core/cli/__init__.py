"""The command line: arguments and printing, nothing else."""

from mmmeta_core.cli import work as _work  # it adds its commands to the group
from mmmeta_core.cli.commands import cli, main

__all__ = ["cli", "main"]

_ = _work
