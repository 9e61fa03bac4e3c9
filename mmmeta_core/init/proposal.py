"""What the metadata files that are there suggest: the key column, the column of file names, columns of times.

Bounded, however large the archive: some files of some folders are read, and none that is large.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from mmmeta_core.atomic import TEMPORARY
from mmmeta_core.database.columns import column_name
from mmmeta_core.documents import METADIR, flatten, read_document
from mmmeta_core.errors import DocumentError
from mmmeta_core.types import is_key, is_key_column

MOST_FILES: Final = 100
MOST_ENTRIES: Final = 20_000
"""Names in folders that are looked at."""
MOST_BYTES: Final = 256 * 1024
"""Of one metadata file; a larger one is passed over."""

_LONGEST_KEY: Final = 200
_MOST_COLUMNS: Final = 500
_FIRST: Final = ("content_hash", "sha256", "sha1", "md5", "hash", "checksum", "uuid", "id", "_id", "url")
_FILE_NAMES: Final = ("file_name", "_file_name", "filename", "file", "file_path", "path", "name")


@dataclass(frozen=True)
class Proposal:
    """What to write into `config.yml`. `keys` could each be the key column, the most fitting first.

    `lacking` says for each of their columns how many of the files that were looked at have no value there that could be
    a key; `unread` files could not be taken.
    """

    looked: int = 0
    unread: int = 0
    keys: tuple[str, ...] = ()
    file_name: str | None = None
    times: tuple[str, ...] = ()
    lacking: dict[str, int] = field(default_factory=dict)


def propose(root: Path) -> Proposal:
    """Look at some metadata files below `root`. What can't be read is passed over."""
    documents: list[dict[str, Any]] = []
    unread = 0
    for path in _metadata_files(root):
        try:
            documents.append(flatten(read_document(path, limit=MOST_BYTES)))
        except DocumentError:
            unread += 1
        if len(documents) + unread == MOST_FILES:
            break
    columns = _columns(documents)
    return Proposal(
        looked=len(documents),
        unread=unread,
        keys=tuple(sorted(filter(lambda name: _is_distinct(name, documents), columns), key=_rank)),
        file_name=_file_name(columns, documents, root),
        times=tuple(name for name in columns if _are_times(name, documents)),
        lacking={name: sum(not is_key(one.get(name)) for one in documents) for name in columns},
    )


def _metadata_files(root: Path) -> Iterator[Path]:
    """Yield JSON files below `root`, those nearest to it first; links are not followed."""
    folders, seen = deque([root]), 0
    while folders and seen < MOST_ENTRIES:
        folder, found = folders.popleft(), []
        with suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                seen += 1
                if seen > MOST_ENTRIES:
                    break
                with suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        if entry.name != METADIR:
                            folders.append(Path(entry.path))
                    elif _is_metadata(entry):
                        found.append(Path(entry.path))
        yield from sorted(found)


def _is_metadata(entry: os.DirEntry[str]) -> bool:
    name = entry.name
    return name.endswith(".json") and not name.startswith(TEMPORARY) and entry.is_file(follow_symlinks=False)


def _columns(documents: list[dict[str, Any]]) -> list[str]:
    """Return the names that are columns as they are written, in the order in which they come."""
    names = dict.fromkeys(name for one in documents for name in one)
    return [name for name in names if is_key_column(name) and column_name(name) == name][:_MOST_COLUMNS]


def _is_distinct(name: str, documents: list[dict[str, Any]]) -> bool:
    """Whether all documents have a value there that can be a key, each another one."""
    values = [one.get(name) for one in documents]
    if not all(is_key(value) and len(str(value)) <= _LONGEST_KEY for value in values):
        return False
    return len(set(map(str, values))) == len(values) and not _are_times(name, documents)


def _rank(name: str) -> tuple[int, bool]:
    """Return where a key of this name stands: hashes and identifiers before titles and file names."""
    low = name.casefold()
    last = low.rpartition(":")[2]
    if low in _FIRST:
        return _FIRST.index(low), False
    if last in _FIRST or last.endswith(("_id", "_hash", "_key", "_uuid")):
        return len(_FIRST), ":" in low
    return len(_FIRST) + 1, low in _FILE_NAMES


def _file_name(columns: list[str], documents: list[dict[str, Any]], root: Path) -> str | None:
    """Return the column that names documents which are there; else one that is called as if it did."""
    by_name = sorted(
        (name for name in columns if any(isinstance(one.get(name), str) for one in documents)),
        key=lambda name: _FILE_NAMES.index(name) if name in _FILE_NAMES else len(_FILE_NAMES),
    )
    counts = {name: sum(_is_there(one.get(name), root) for one in documents) for name in by_name}
    if counts and (most := max(counts.values())):
        return next(name for name, count in counts.items() if count == most)
    return next((name for name in by_name if name in _FILE_NAMES), None)


def _is_there(value: Any, root: Path) -> bool:
    if not isinstance(value, str) or not value or "\0" in value or len(value) > 1024:
        return False
    if value.startswith("/") or ".." in value.split("/"):
        return False
    try:
        return (root / value).is_file() and not value.endswith(".json")
    except (OSError, ValueError):
        return False


def _are_times(name: str, documents: list[dict[str, Any]]) -> bool:
    """Whether all values there are dates with a time of day, as text."""
    values = [value for one in documents if (value := one.get(name)) is not None]
    return bool(values) and all(isinstance(value, str) and _is_time(value) for value in values)


def _is_time(text: str) -> bool:
    if not 16 <= len(text) <= 40 or text[10] not in "T ":
        return False
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True
