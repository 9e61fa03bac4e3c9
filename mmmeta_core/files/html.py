"""Documents in a notebook: the first rows of the table, and one document."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmmeta_core.notebook import MOST_COLUMNS, MOST_ROWS, pairs, table

if TYPE_CHECKING:
    from mmmeta_core.files.file import File
    from mmmeta_core.files.table import Files


def files_html(files: Files) -> str:
    """Return the first documents, by key: the key, then what is published, then this client's own columns."""
    total, unique = len(files), files.unique
    names = [name for name in files.columns if not name.startswith("__") and name != unique]
    columns = [unique, *names][:MOST_COLUMNS]
    rows = [[file.get(name) for name in columns] for file in files.find(order_by=unique, _limit=MOST_ROWS)]
    more = [name for name in names if name not in columns]
    title = f"{total:,} document{'s' * (total != 1)}" + (
        f", the first {len(rows)}" if len(rows) < total else ""
    )
    return table(title, columns, rows, f"further columns: {', '.join(more)}" if more else "")


def file_html(file: File) -> str:
    """Return all that is known of a document, bookkeeping last."""
    values = {name: file.get(name) for name in sorted(file, key=lambda name: name.startswith("__"))}
    return pairs(file.name, {name: value for name, value in values.items() if value is not None})
