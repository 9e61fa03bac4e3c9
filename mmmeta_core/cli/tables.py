"""Tables and colours on a terminal. What is printed there may be cut to fit; a pipe gets all of it, and no colours."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
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
    sample = [[_shown(row[column]) for column in columns] for row in islice(rows, _SAMPLE)]
    wanted = [min(max(map(_width, cells)), _WIDEST) for cells in zip(columns, *sample, strict=True)]
    widths = fitted(wanted, _room())
    heads = zip(columns, widths, strict=False)
    click.echo((" " * _GAP).join(styled(_fit(name, width), bold=True) for name, width in heads).rstrip())
    for cells in chain(sample, ([_shown(row[column]) for column in columns] for row in rows)):
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
        print_hanging(styled(name.ljust(wide), bold=True), wide, value)


def print_list(parts: Sequence[str], styles: Sequence[Mapping[str, Any]]) -> None:
    """Print parts with commas between them, each in its style; on a terminal no line breaks within one."""
    if not is_terminal():
        click.echo(", ".join(parts))
        return
    line, taken, room = "", 0, _room()
    for number, (part, style) in enumerate(zip(parts, styles, strict=True)):
        comma = "," * (number < len(parts) - 1)
        if taken and taken + 1 + _width(part) + len(comma) > room:
            click.echo(line)
            line, taken = "", 0
        gap = " " * bool(taken)
        line += gap + styled(part, **style) + comma
        taken += len(gap) + _width(part) + len(comma)
    click.echo(line)


def print_hanging(head: str, width: int, body: str) -> None:
    """Print text beside a head of so many columns, and go on below itself where it is too long for the terminal."""
    import textwrap

    lines = textwrap.wrap(body, max(_room() - width, 20), break_on_hyphens=False, break_long_words=False) or [
        ""
    ]
    for number, line in enumerate(lines):
        click.echo(f"{head if number == 0 else ' ' * width}{line}")


def fitted(wanted: Sequence[int], room: int) -> list[int]:
    """Return how wide columns are in `room`: the widest give way first, and the last are left out if that is not enough."""
    widths = list(wanted)
    while len(widths) > 1 and sum(min(width, _NARROWEST) + _GAP for width in widths) - _GAP > room:
        widths.pop()
    for _ in range(sum(widths) + _GAP * (len(widths) - 1) - room):
        widest = max(widths)
        if widest > _NARROWEST:
            widths[widths.index(widest)] -= 1
    return widths


def _shown(value: Any) -> str:
    from mmmeta_core.cli.printing import text

    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z"
    return text(value)


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
