"""The command line: arguments and printing, nothing else."""

from mmmeta_core.cli import checking as _checking  # these add their commands to the group
from mmmeta_core.cli import completion as _completion
from mmmeta_core.cli import doctor as _doctor
from mmmeta_core.cli import history as _history
from mmmeta_core.cli import init as _init
from mmmeta_core.cli import keys as _keys
from mmmeta_core.cli import watch as _watch
from mmmeta_core.cli import work as _work
from mmmeta_core.cli.commands import cli, main

__all__ = ["cli", "main"]

_ = _checking, _completion, _doctor, _history, _init, _keys, _watch, _work
