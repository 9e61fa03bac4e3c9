"""The change log: what each publish changed, in numbered segments that never change again.

A segment is gzipped JSON lines: a header, one line a document, and an end line that counts them::

    {"format": 1, "archive": …, "revision": 7, "commit": …, "previous": <sha256 of segment 6>, "at": …, "by": …, "unique": …,
     "log_bytes": <bytes of segments 1 to 6>, "columns": {"title": "text"}, "store": {"remote_last_updated": …},
     "config": "…", "writer": "0.5.0"}
    {"key": "5f1c…", "set": {"title": "Contract 7", "__meta_last_updated": …}}
    {"end": 1}
    {"signature": …, "key": …}

`set` holds the columns that changed, null for those that were emptied; `columns` and `store` those that are new or
changed with this revision; `config` the text of `config.yml` when it changed. The last line is there where the publisher
signs; see `signing`.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson

from mmmeta_core.database.catalog import Catalog, Position, apply
from mmmeta_core.database.columns import column_name, fold
from mmmeta_core.database.sqlite import atomic
from mmmeta_core.errors import LogError
from mmmeta_core.limits import RATIO_FROM, Beyond, cap, check
from mmmeta_core.signing import SEGMENT, Signature, Signer, Trust
from mmmeta_core.trouble import naming
from mmmeta_core.types import KINDS, Key, Kind, Misfit, is_deeper, is_key
from mmmeta_core.writer import newer_format, version_of

FORMAT: Final = 1
FOLDER: Final = "log"
_MAX_TEXT: Final = 1024 * 1024
"""Bytes of a store value, and of `config.yml`."""
_LEVEL: Final = 6
_UNREADABLE: Final = (OSError, EOFError, zlib.error, ValueError)


def segment_name(revision: int) -> str:
    """Return a segment's name below the metadir. Text order is the order of revisions."""
    return f"{FOLDER}/{revision:020d}.jsonl.gz"


def segment_revision(name: str) -> int | None:
    """Return the revision of a segment's file name, None for other files."""
    stem = name.rsplit("/", 1)[-1].removesuffix(".jsonl.gz")
    return int(stem) if len(stem) == 20 and stem.isdecimal() and name.endswith(".jsonl.gz") else None


class _NewerFormatError(ValueError):
    """A segment that this mmmeta is too old for."""


@dataclass(frozen=True)
class Header:
    """The first line of a segment. `writer` is the mmmeta that wrote it, None where it does not say so."""

    archive: str
    revision: int
    commit: str
    previous: str
    at: str
    unique: str
    log_bytes: int
    columns: Mapping[str, Kind] = field(default_factory=dict)
    store: Mapping[str, str | None] = field(default_factory=dict)
    config: str | None = None
    by: str = ""
    note: str | None = None
    writer: str | None = None

    def to_json(self) -> bytes:
        """Return the line."""
        line = {"format": FORMAT, **{name: getattr(self, name) for name in self.__dataclass_fields__}}
        return orjson.dumps({name: value for name, value in line.items() if value is not None})

    @classmethod
    def from_json(cls, line: bytes) -> Header:
        """Read the line. Raises ValueError with the reason."""
        values = orjson.loads(line)
        if not isinstance(values, dict):
            raise ValueError("its first line is not a header")
        written = values.pop("format", None)
        if not isinstance(written, int) or isinstance(written, bool) or written < 1:
            raise ValueError("its first line is not a header")
        if written > FORMAT:
            raise _NewerFormatError(newer_format(written, FORMAT, values.get("writer")))
        known = {name: values[name] for name in cls.__dataclass_fields__ if name in values}
        known["writer"] = version_of(values.get("writer"))
        for name, kinds in _HEADER_TYPES.items():
            if name in known and (not isinstance(known[name], kinds) or isinstance(known[name], bool)):
                raise ValueError(f"its header has a wrong {name!r}")
        _check_columns(known.get("columns", {}), known.get("unique", ""))
        _check_store(known.get("store", {}))
        if len(known.get("config") or "") > _MAX_TEXT:
            raise ValueError("its header has settings of more than 1 MiB")
        try:
            header = cls(**known)
        except TypeError:
            raise ValueError("its header is not complete") from None
        if not header.archive or header.revision < 1 or header.log_bytes < 0:
            raise ValueError("its header has no archive, or numbers that can't be")
        return header


_HEADER_TYPES: Final[Mapping[str, type | tuple[type, ...]]] = {
    "archive": str,
    "revision": int,
    "commit": str,
    "previous": str,
    "at": str,
    "unique": str,
    "log_bytes": int,
    "columns": dict,
    "store": dict,
    "config": str,
    "by": str,
    "note": str,
}


def _check_columns(columns: Mapping[Any, Any], unique: str) -> None:
    check(len(columns), cap("MMMETA_MAX_COLUMNS"), "columns")
    taken = {fold(unique)}
    for name, kind in columns.items():
        if kind not in KINDS or column_name(name) != name or fold(name) in taken:
            raise ValueError(f"its header declares a column that can't be: {name!r:.80} of kind {kind!r:.20}")
        taken.add(fold(name))


def _check_store(store: Mapping[str, Any]) -> None:
    check(len(store), cap("MMMETA_MAX_STORE_KEYS"), "store values")
    for name, text in store.items():
        if text is not None and not isinstance(text, str):
            raise ValueError(f"its header has a store value that is not text: {name!r:.80}")
        if text is not None and len(text.encode()) > _MAX_TEXT:
            raise ValueError(f"its header has a store value of more than 1 MiB: {name!r:.80}")


@dataclass(frozen=True)
class Written:
    """A segment that lies in a local file, ready to be committed."""

    path: Path
    header: Header
    documents: int
    size: int
    digest: str

    @property
    def position(self) -> Position:
        """Return where a catalog is that has this segment."""
        return position_after(self.header, self.size, self.digest)


def position_after(header: Header, size: int, digest: str) -> Position:
    """Return where a catalog is that has the segment of this header."""
    return Position(header.archive, header.revision, digest, header.log_bytes + size)


def write_segment(
    path: Path, header: Header, deltas: Iterable[tuple[Key, Mapping[str, Any]]], signer: Signer | None = None
) -> Written:
    """Write a segment to the new file `path`, streaming, signed if there is a key. The same input gives the same bytes."""
    documents, digest = 0, hashlib.sha256()
    with naming(path), path.open("xb") as raw, gzip.GzipFile("", "wb", _LEVEL, raw, mtime=0) as packed:

        def put(line: bytes) -> None:
            digest.update(line)
            packed.write(line)

        put(header.to_json() + b"\n")
        for key, values in deltas:
            put(orjson.dumps({"key": key, "set": values}) + b"\n")
            documents += 1
        put(orjson.dumps({"end": documents}) + b"\n")
        if signer is not None:
            packed.write(orjson.dumps(signer.sign(SEGMENT, digest.digest()).to_json()) + b"\n")
    return Written(path, header, documents, path.stat().st_size, digest_of(path))


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def open_segment(path: Path, name: str) -> Iterator[tuple[Header, Iterator[tuple[Key, Mapping[str, Any]]]]]:
    """Open the segment in the file `path`: its header, and its documents as a stream.

    `name` is what errors call it. Both the header and the stream raise `LogError` for a segment that is damaged,
    cut off, of a newer format, or larger than is taken (`limits`).
    """
    with gzip.open(path, "rb") as file:
        try:
            lines = _Lines(file, path.stat().st_size)
            header = Header.from_json(lines.read())
        except _NewerFormatError as error:
            raise LogError(f"segment {name} {error}; nothing was changed") from None
        except _UNREADABLE as error:
            raise _damaged(name, error) from error
        yield header, _records(lines, name)


def _damaged(name: str, error: Exception) -> LogError:
    if isinstance(error, Beyond):
        return LogError(f"segment {name} is not taken: {error}; nothing was changed")
    return LogError(
        f"segment {name} can't be read: {error}; nothing was changed. Restore it from a backup of the archive"
    )


class _Lines:
    """The lines of a segment, of which no more is unpacked than is taken."""

    def __init__(self, file: gzip.GzipFile, packed: int) -> None:
        check(packed, cap("MMMETA_MAX_SEGMENT_BYTES"), "bytes")
        self._file = file
        self._packed = packed
        self._line = cap("MMMETA_MAX_LINE_BYTES")
        self._most = cap("MMMETA_MAX_UNPACKED_BYTES")
        self._ratio = cap("MMMETA_MAX_RATIO")
        self._unpacked = 0

    def read(self) -> bytes:
        """Return the next line. Raises ValueError, `Beyond` among them, and what gzip raises."""
        line = self._file.readline(self._line + 1)
        self._unpacked += len(line)
        check(len(line), self._line, "bytes in a line")
        check(self._unpacked, self._most, "bytes once unpacked")
        if self._unpacked > RATIO_FROM:
            check(self._unpacked // self._packed, self._ratio, "unpacked bytes for each packed one")
        if not line.endswith(b"\n"):
            raise ValueError("it ends too early")
        return line

    def is_at_end(self) -> bool:
        return not self._file.peek(1)


def _records(lines: _Lines, name: str) -> Iterator[tuple[Key, Mapping[str, Any]]]:
    count = 0
    most, depth = cap("MMMETA_MAX_DOCUMENTS"), cap("MMMETA_MAX_DEPTH")
    try:
        while True:
            record = orjson.loads(lines.read())
            if "end" in record:
                break
            key, values = record["key"], record["set"]
            if not is_key(key) or not isinstance(values, dict):
                raise ValueError(f"line {count + 2} is not a document")
            if is_deeper(values, depth):
                raise Beyond(
                    f"it has more than {depth} levels in line {count + 2} (to take more, set {depth.setting})"
                )
            count += 1
            check(count, most, "documents")
            yield key, values
        if record["end"] != count:
            raise ValueError("its end line does not match")
        if not lines.is_at_end():
            Signature.of(orjson.loads(lines.read()))
        if not lines.is_at_end():
            raise ValueError("something comes after its end")
    except (*_UNREADABLE, KeyError, TypeError) as error:
        raise _damaged(name, error) from error


def check_follows(header: Header, position: Position, name: str) -> None:
    """Raise `LogError` unless the segment is the next one of this very archive's history."""
    if position.archive is not None and header.archive != position.archive:
        raise LogError(
            f"segment {name} belongs to another archive than this metadir: was the remote started anew? "
            "Move meta.db away and pull again (state is kept), or use another path"
        )
    if header.revision != position.revision + 1:
        raise LogError(f"segment {name} says revision {header.revision}, expected {position.revision + 1}")
    if header.previous != position.digest:
        raise LogError(
            f"segment {name} does not follow the history that this metadir has: an earlier segment was replaced. "
            "Move meta.db away and pull again (state is kept)"
        )


def replay_segment(catalog: Catalog, path: Path, name: str) -> int:
    """Apply the segment in the file `path` to the catalog: all of it, or nothing and a `LogError`.

    Returns the number of documents.
    """
    with open_segment(path, name) as (header, records):
        position = catalog.position
        check_follows(header, position, name)
        if header.unique != catalog.unique:
            raise LogError(
                f"segment {name} is keyed by {header.unique!r}, this catalog by {catalog.unique!r}"
            )
        after = position_after(header, path.stat().st_size, digest_of(path))
        try:
            return apply(catalog, after, header.columns, records, header.store)
        except (Misfit, Beyond) as error:
            raise _damaged(name, error) from error


def replay_folder(catalog: Catalog, metadir: Path, trust: Trust | None = None) -> int:
    """Apply the segments in `metadir/log` that are newer than the catalog; returns how many.

    For metadirs that another tool copied here. Raises `LogError` for a gap, `SignatureError` for a segment that is not
    signed by one of the keys that are trusted, if any are.
    """
    folder = metadir / FOLDER
    revisions = [segment_revision(path.name) for path in folder.iterdir()] if folder.is_dir() else []
    newest = max((revision for revision in revisions if revision), default=0)
    applied = 0
    for revision in range(catalog.position.revision + 1, newest + 1):
        path = metadir / segment_name(revision)
        if not path.is_file():
            raise LogError(f"segment {path} is missing; nothing after it was applied. Copy the metadir again")
        if trust is not None:
            trust.check_segment(path, str(path))
        with atomic(catalog.connection):
            replay_segment(catalog, path, str(path))
            catalog.note_verified(trust is not None)
        applied += 1
    return applied
