"""The command line: arguments and printing, nothing else."""

from mmmeta_core.cli.commands import cli, main

__all__ = ["cli", "main"]
