"""The command for shells' completion of what is typed: completion."""

from __future__ import annotations

import click

from mmmeta_core.cli.commands import cli
from mmmeta_core.cli.words import OneOf, examples

_SHELLS = ["bash", "zsh", "fish"]


@cli.command(
    epilog=examples(
        "mmmeta completion bash > ~/.local/share/bash-completion/completions/mmmeta",
        "mmmeta completion zsh > ~/.zfunc/_mmmeta     # with fpath=(~/.zfunc $fpath) before compinit in ~/.zshrc",
        "mmmeta completion fish > ~/.config/fish/completions/mmmeta.fish",
        'eval "$(mmmeta completion bash)"             # for this shell only',
    )
)
@click.argument("shell", type=OneOf(_SHELLS))
def completion(shell: str) -> None:
    """Print the script by which SHELL completes commands and options: bash, zsh or fish."""
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None  # noqa: S101 - click knows these three
    click.echo(found(cli, {}, "mmmeta", "_MMMETA_COMPLETE").source())
