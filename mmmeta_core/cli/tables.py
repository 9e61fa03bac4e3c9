"""Tables and colours on a terminal. What is printed there may be cut to fit; a pipe gets all of it, and no colours."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any, Final

import click

_SAMPLE: Final = 200
_WIDEST: Final = 60
_NARROWEST: Final = 8
_GAP: Final = 2


def is_terminal() -> bool:
    """Whether stdout is a terminal."""
    return sys.stdout is not None and sys.stdout.isatty()


def styled(text: str, **style: Any) -> str:
    """Return the text in a style of `click.style`, plain where nobody wants colours: NO_COLOR, a pipe, a dumb terminal."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not is_terminal()
    return text if plain else click.style(text, **style)


def print_table(rows: Iterator[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Print aligned columns as they come; their widths are of the first rows, and what is too wide is cut.

    Columns that find no room at all are left out, and stderr says so.
    """
    from mmmeta_core.cli.printing import text

    sample = [[text(row[column]) for column in columns] for row in islice(rows, _SAMPLE)]
    wanted = [min(max(map(_width, cells)), _WIDEST) for cells in zip(columns, *sample, strict=True)]
    widths = fitted(wanted, _room())
    heads = zip(columns, widths, strict=False)
    click.echo((" " * _GAP).join(styled(_fit(name, width), bold=True) for name, width in heads).rstrip())
    for cells in chain(sample, ([text(row[column]) for column in columns] for row in rows)):
        line = (" " * _GAP).join(_fit(cell, width) for cell, width in zip(cells, widths, strict=False))
        click.echo(line.rstrip())
    if len(widths) < len(columns):
        hidden = len(columns) - len(widths)
        click.echo(
            f"({hidden} more column{'s' * (hidden > 1)}: --columns chooses, --json shows all)", err=True
        )


def print_pairs(pairs: Mapping[str, str]) -> None:
    """Print names and what they are, one below the other; long values go on below themselves."""
    wide = max(map(len, pairs)) + _GAP
    for name, value in pairs.items():
        click.echo(f"{styled(name.ljust(wide), bold=True)}{value}")


def fitted(wanted: Sequence[int], room: int) -> list[int]:
    """Return how wide columns are in `room`: the widest give way first, and the last are left out if that is not enough."""
    widths = list(wanted)
    while len(widths) > 1 and sum(min(width, _NARROWEST) + _GAP for width in widths) - _GAP > room:
        widths.pop()
    over = sum(widths) + _GAP * (len(widths) - 1) - room
    while over > 0 and max(widths) > _NARROWEST:
        widest = widths.index(max(widths))
        others = [width for width in widths if width < widths[widest]]
        step = min(over, widths[widest] - max([_NARROWEST, *others]) or 1)
        widths[widest] -= step
        over -= step
    return widths


def _room() -> int:
    import shutil

    return shutil.get_terminal_size().columns


def _width(text: str) -> int:
    """Return how many columns of a terminal the text takes: a Chinese character two, a combining one none."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def _fit(cell: str, width: int) -> str:
    taken = _width(cell)
    if taken <= width:
        return cell + " " * (width - taken)
    if cell.isascii():
        return f"{cell[: width - 1]}…"
    from rich.cells import set_cell_size

    return f"{set_cell_size(cell, width - 1)}…"
