"""Documents on disk: find them, read their metadata files, cut those flat, and hash what they describe."""

from __future__ import annotations

import heapq
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import orjson

from mmmeta_core.atomic import TEMPORARY
from mmmeta_core.errors import ConfigError, DocumentError
from mmmeta_core.trouble import WAYS_OUT
from mmmeta_core.types import is_deeper

if TYPE_CHECKING:
    from pathlib import Path

METADIR: Final = "_mmmeta"

OnError: TypeAlias = Callable[[str, str], None]
"""Called with a path relative to the root, and why what is at or below it could not be seen."""

_BOM: Final = b"\xef\xbb\xbf"
_LONG_NUMBER: Final = b"0" * 19
_AS_NOUGHTS: Final = bytes(
    ord("0") if chr(byte).isdigit() and byte < 128 else ord(" ") for byte in range(256)
)
_PLAIN: Final = frozenset({str, int, float, bool, type(None), list})
_JSON_NAMES: Final = {list: "an array", str: "text", bool: "true or false", type(None): "null"}
_MOST_AT_ONCE: Final = 64 * 1024
_NAMES_LIMIT: Final = 16 * 1024 * 1024
_INT64_MAX: Final = 2**63 - 1
_name: Final = attrgetter("name")


class Entry(NamedTuple):
    """A file that `walk` found: folder relative to the root ("" for the root itself), size in bytes."""

    folder: str
    name: str
    size: int
    mtime_ns: int
    inode: int


def walk(root: Path, *, suffix: str | None, on_error: OnError) -> Iterator[tuple[str, list[Entry]]]:
    """Go through the folders below `root`, each with its files whose names end in `suffix` (None: all).

    Folders come in the order of their paths as text, files in the order of their names: the order in which
    SQLite sorts them. Every folder that was read to its end is given, be it empty, and no other. Left out are
    `_mmmeta` folders, unfinished files, and what is neither file nor folder. A link to a file is taken if it
    stays below the root, one to a folder never.

    What can't be read, is not UTF-8, or leads out of the root goes to `on_error`, and the rest goes on.
    Nothing is known of what is at or below such a path: it must not count as gone.
    Raises `ConfigError`, at once, if `root` is not a folder that can be read.
    """
    try:
        top = os.path.realpath(root, strict=True)
        with os.scandir(top):
            pass
    except OSError as error:
        way_out = WAYS_OUT.get(error.errno or 0, "correct the path")
        raise ConfigError(f"{root} is not a folder that can be read: {error.strerror}; {way_out}") from None
    return _walk(top, suffix, on_error)


def _walk(top: str, suffix: str | None, on_error: OnError) -> Iterator[tuple[str, list[Entry]]]:
    pending = [""]
    while pending:
        folder = heapq.heappop(pending)
        reader = _Folder(top, folder, suffix, on_error)
        try:
            reader.read()
        except OSError as error:
            on_error(folder, f"can't be read: {error.strerror}")
            continue
        for below in reader.folders:
            heapq.heappush(pending, below)
        yield folder, reader.files


class _Folder:
    """One folder on its way of being read."""

    def __init__(self, top: str, folder: str, suffix: str | None, on_error: OnError) -> None:
        self.top = top
        self.folder = folder
        self.prefix = f"{folder}/" if folder else ""
        self.suffix = suffix or ""
        self.on_error = on_error
        self.files: list[Entry] = []
        self.folders: list[str] = []

    def read(self) -> None:
        with os.scandir(f"{self.top}/{self.folder}") as entries:
            for entry in entries:
                name = entry.name
                try:
                    # First what nearly all are, by one look at each.
                    if name.endswith(self.suffix) and name.isascii() and entry.is_file(follow_symlinks=False):
                        if not name.startswith(TEMPORARY) and name != METADIR:
                            self.add(name, entry.stat(follow_symlinks=False))
                    else:
                        self.see(entry)
                except FileNotFoundError:  # deleted since the folder was read
                    continue
                except OSError as error:
                    self.report(entry, f"can't be read: {error.strerror}")
        self.files.sort(key=_name)

    def see(self, entry: os.DirEntry[str]) -> None:
        """Look at what may be no file, or has a name that may be none."""
        name = entry.name
        if name == METADIR or name.startswith(TEMPORARY):
            return
        if entry.is_dir(follow_symlinks=False):
            if self.is_named_well(entry):
                self.folders.append(self.prefix + name)
        elif entry.is_symlink():
            self.see_link(entry)
        elif name.endswith(self.suffix) and self.is_named_well(entry):
            self.add(name, entry.stat(follow_symlinks=False))

    def see_link(self, entry: os.DirEntry[str]) -> None:
        """Take a link to a file; a folder in here that a link leads to is reached by its own path."""
        target = os.path.realpath(entry.path)
        is_folder = entry.is_dir()
        if not (is_folder or entry.name.endswith(self.suffix)):
            return
        base = self.top.rstrip("/") + "/"
        if not f"{target}/".startswith(base) or METADIR in target[len(base) :].split("/"):
            self.report(
                entry, "is a link that leads out of the folder of documents; put the file itself there"
            )
        elif not os.path.lexists(target):
            self.report(entry, "is a link to a file that is not there")
        elif not is_folder and self.is_named_well(entry):
            self.add(entry.name, entry.stat())

    def add(self, name: str, status: os.stat_result) -> None:
        if not stat.S_ISREG(status.st_mode):
            return
        mtime = status.st_mtime_ns
        if not -_INT64_MAX <= mtime <= _INT64_MAX:
            # Some file systems have times and inode numbers beyond what a database can hold.
            mtime = _INT64_MAX if mtime > 0 else -_INT64_MAX
        self.files.append(Entry(self.folder, name, status.st_size, mtime, status.st_ino & _INT64_MAX))

    def is_named_well(self, entry: os.DirEntry[str]) -> bool:
        if entry.name.isascii():
            return True
        try:
            entry.name.encode()
        except UnicodeEncodeError:
            self.report(entry, "has a name that is not UTF-8; rename it")
            return False
        return True

    def report(self, entry: os.DirEntry[str], reason: str) -> None:
        path = os.fsencode(self.prefix + entry.name)
        self.on_error(path.decode(errors="backslashreplace"), reason)


def read_document(path: str | Path, *, limit: int, max_depth: int = 32) -> dict[str, Any]:
    """Read a metadata file of at most `limit` bytes, nested at most `max_depth` levels.

    Raises `DocumentError` for whatever is wrong with it, so that the others can go on. Its message is the reason
    alone, to be put after the path, which the caller has; one from an `OSError` has that as its cause.
    """
    data = _read(path, limit).removeprefix(_BOM)
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise DocumentError(_fault(data, error, max_depth)) from None
    if not isinstance(document, dict):
        found = _JSON_NAMES.get(type(document), "a number")
        raise DocumentError(f"must hold a JSON object at the top, not {found}")
    # Counting is cheaper than walking, and enough for nearly all.
    if data.count(b"{") + data.count(b"[") > max_depth and is_deeper(document, max_depth):
        raise DocumentError(_too_deep(max_depth))
    return _exact(data) if _LONG_NUMBER in data.translate(_AS_NOUGHTS) else document


def flatten(document: Mapping[str, Any], max_depth: int = 32) -> dict[str, Any]:
    """Return the document without objects in objects: `{"publisher": {"name": 1}}` has `publisher:name`.

    Lists, with what is in them, and empty objects are values. Raises `DocumentError` if two values get the
    same name, or for names that are not text.
    """
    return _Flat().take(document, "", max_depth)


def sha1(path: Path) -> str:
    """Return the hexadecimal SHA-1 of the file's bytes, the usual `content_hash`. Raises OSError."""
    import hashlib

    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.sha1(usedforsecurity=False)).hexdigest()


def _read(path: str | Path, limit: int) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # a file object takes half as long again
        try:
            parts = [os.read(descriptor, _MOST_AT_ONCE)]
            size = len(parts[0])
            while size <= limit and (more := os.read(descriptor, _MOST_AT_ONCE)):
                parts.append(more)
                size += len(more)
            if size > limit:
                size = max(size, os.fstat(descriptor).st_size)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise DocumentError(f"can't be read: {error.strerror}") from error
    if size > limit:
        raise DocumentError(f"has {size:,} bytes, more than the {limit:,} of metadata.max_metadata_bytes")
    return b"".join(parts)


def _fault(data: bytes, error: orjson.JSONDecodeError, max_depth: int) -> str:
    try:
        data.decode()
    except UnicodeDecodeError as undecodable:
        return f"not UTF-8 text (byte {undecodable.start})"
    if not data.strip():
        return "not valid JSON: the file is empty"
    if error.msg.startswith(("depth limit", "Recursion limit", "array and object recursion")):
        return _too_deep(max_depth)
    return f"not valid JSON: {error.msg} (line {error.lineno}, column {error.colno})"


def _too_deep(max_depth: int) -> str:
    return f"nested deeper than {max_depth} levels"


def _exact(data: bytes) -> dict[str, Any]:
    """Read valid JSON again, slower: orjson makes rounded floats of integers beyond 64 bits."""
    import json

    document: dict[str, Any] = json.loads(data)
    return document


class _Flat:
    """A document on its way of being cut flat."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.room = _NAMES_LIMIT

    def take(self, part: Mapping[str, Any], prefix: str, levels: int) -> dict[str, Any]:
        if not levels:
            raise DocumentError(f"{prefix.rstrip(':')!r:.200} is nested too deep")
        values = self.values
        # Each value repeats the names above it, so a small file could become a huge document.
        self.room -= len(part) * len(prefix)
        if self.room < 0:
            raise DocumentError(f"its names have more than {_NAMES_LIMIT:,} characters once flattened")
        for key, value in part.items():
            if not isinstance(key, str):
                raise DocumentError(f"the name {key!r:.80} below {prefix!r:.200} is not text")
            name = prefix + key
            if type(value) in _PLAIN and name not in values:
                values[name] = value
                continue
            is_object = isinstance(value, Mapping)
            if is_object and value:
                self.take(value, f"{name}:", levels - 1)
            elif name in values:
                raise DocumentError(
                    f"two values have the name {name!r:.200} once flattened; rename one of them"
                )
            else:
                values[name] = {} if is_object else value
        return values
