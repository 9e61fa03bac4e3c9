"""What the command line takes for options' values and commands, with the word that may have been meant."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import click


class OneOf(click.Choice[str]):
    """One of some words; a word that is none is answered with the one that is most like it."""

    def __init__(self, choices: Sequence[str]) -> None:
        super().__init__(choices, case_sensitive=False)
        self.words: list[str] = list(choices)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the word. Raises `click.BadParameter`."""
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            self.fail(
                f"{value!r} is not one of {', '.join(self.words)}{meant(str(value), self.words)}", param, ctx
            )


def meant(word: str, words: Iterable[str]) -> str:
    """Return the end of a sentence that asks for the most similar of `words`; empty when none is."""
    from difflib import get_close_matches

    near = get_close_matches(word.casefold(), words, 1)
    return f"; did you mean {near[0]!r}?" if near else ""


def examples(*lines: str) -> str:
    """Return the end of a command's help."""
    return "\n".join(("\b", "Examples:", *(f"  {line}" for line in lines)))
