"""History: who published what when, what differs between two revisions, and documents as they were.

All of it is read from the log, newest first where that is what people ask for. Nothing at the remote is changed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, Final, Generic, Literal, TypeAlias, TypeVar

from mmmeta_core.changelog import Header, digest_of, open_segment, segment_name
from mmmeta_core.database.columns import PURGED
from mmmeta_core.database.past import Past
from mmmeta_core.database.sqlite import chunks
from mmmeta_core.errors import LogError, RemoteNotFoundError
from mmmeta_core.files.layout import decode_row
from mmmeta_core.head import read_head
from mmmeta_core.limits import cap
from mmmeta_core.notebook import Shown
from mmmeta_core.paths import remote_name
from mmmeta_core.remotes import Remote
from mmmeta_core.signing import Trust
from mmmeta_core.types import Key, Row, parse_time

What: TypeAlias = Literal["added", "changed", "deleted", "restored", "purged"]
Records: TypeAlias = Iterator[tuple[Key, Mapping[str, Any]]]
T = TypeVar("T")

_SEPARATOR: Final = "__"


@dataclass(frozen=True)
class Revision:
    """One publish, as its segment tells. `at` and `by` are what the publisher said, for people; `at` None is no time.

    Each document counts once: `deleted` (purged ones too), `restored`, `added`, or else `changed`; where two publishers
    added the same document, the second counts it as added, too. `columns` are those that are new, `store` the keys of
    values that changed; `config` is whether the settings did. `note` is why, where the publisher said so.
    """

    revision: int
    at: datetime | None
    by: str
    added: int
    changed: int
    deleted: int
    restored: int
    columns: tuple[str, ...]
    store: tuple[str, ...]
    config: bool
    note: str | None
    bytes: int


@dataclass(frozen=True)
class Touch:
    """What one publish did to one document, and which columns it set or emptied."""

    revision: int
    at: datetime | None
    by: str
    what: What
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Change:
    """How a document differs. `columns` gives the old and the new value; a document that is not there has none."""

    key: Key
    what: Literal["added", "changed", "deleted"]
    columns: Mapping[str, tuple[Any, Any]]


@dataclass(frozen=True)
class Diff(Shown):
    """What differs between the revisions `a` and `b`: counts, and iterating it yields each `Change`, by key, as a stream."""

    a: int
    b: int
    added: int
    changed: int
    deleted: int
    changes: Callable[[], Iterator[Change]] = field(compare=False, repr=False)

    def __iter__(self) -> Iterator[Change]:
        return self.changes()


# --- the log


def revisions(remote: Remote, *, limit: int | None = None, trust: Trust | None = None) -> Iterator[Revision]:
    """Yield what was published, the newest first, as far back as the log reaches.

    One request for `head.json`, one to see that nothing is newer, one a segment; nothing else is held than the
    segment at hand. Raises `LogError` for a segment that is missing, damaged or was replaced. With `trust` the newest have
    to be signed, down to the one that a signed `head.json` names; each one before is named by the next.
    """
    yield from islice(_newest_first(remote, _revision, trust=trust), limit)


def touches(
    remote: Remote, keys: Collection[Key], *, limit: int | None = None, trust: Trust | None = None
) -> Iterator[Touch]:
    """Yield each publish that touched the document, the newest first. `keys` are ways to write its key.

    Costs what `revisions` does: the whole log is read unless `limit` ends it.
    """
    found = _newest_first(remote, lambda header, records, _: _touch(header, records, keys), trust=trust)
    yield from islice((touch for touch in found if touch is not None), limit)


def mentions(remote: Remote, keys: Collection[Key], *, below: int, above: int = 0) -> int:
    """Return the newest revision between the two whose segment names one of these documents; `above` if there is none.

    Reads the log from `below` downwards.
    """
    found = _newest_first(
        remote,
        lambda header, records, _: (header.revision, _names(records, keys)),
        first=below - 1,
        last=above + 1,
    )
    return next((revision for revision, named in found if named), above)


def _names(records: Records, keys: Collection[Key]) -> bool:
    return sum(key in keys for key, _ in records) > 0  # to the end, which tells whether the segment is whole


def _revision(header: Header, records: Records, size: int) -> Revision:
    counts = dict.fromkeys(("added", "changed", "deleted", "restored", PURGED), 0)
    for _, values in records:
        counts[_what(values)] += 1
    counts["deleted"] += counts.pop(PURGED)
    return Revision(
        header.revision,
        _time(header.at),
        header.by,
        **counts,
        columns=tuple(header.columns),
        store=tuple(header.store),
        config=header.config is not None,
        note=header.note,
        bytes=size,
    )


def _touch(header: Header, records: Records, keys: Collection[Key]) -> Touch | None:
    touch = None
    for key, values in records:  # to the end, which tells whether the segment is whole
        if key in keys:
            columns = tuple(name for name in values if not name.startswith(_SEPARATOR))
            touch = Touch(header.revision, _time(header.at), header.by, _what(values), columns)
    return touch


def _what(values: Mapping[str, Any]) -> What:
    if values.get("__deleted_at") is not None:
        return "purged" if values.get("__deleted_reason") == PURGED else "deleted"
    if "__meta_added" in values:
        return "added"
    return "restored" if "__deleted_at" in values else "changed"


def _time(text: str) -> datetime | None:
    try:
        return parse_time(text)
    except ValueError:
        return None


@dataclass(frozen=True)
class _Segment(Generic[T]):
    value: T
    digest: str
    previous: str


def _newest_first(
    remote: Remote,
    read: Callable[[Header, Records, int], T],
    *,
    first: int | None = None,
    last: int = 1,
    trust: Trust | None = None,
) -> Iterator[T]:
    """Read the segments down to the revision `last`, from `first` or the newest."""
    follows: str | None = None
    with tempfile.TemporaryDirectory(prefix="mmmeta-") as folder:
        draft = Path(folder) / "segment"
        newest = _newest(remote, trust) if first is None else first
        later: list[_Segment[T]] = []
        while first is None:  # head.json lags for a moment after a publish
            one = _segment(remote, newest + len(later) + 1, draft, read, trust)
            if one is None:
                break
            later.append(one)
        for revision in range(newest + len(later), last - 1, -1):
            segment = later.pop() if later else _segment(remote, revision, draft, read)
            if segment is None:
                _check_pruned(remote, revision)
                return
            if follows not in (None, segment.digest):
                raise LogError(
                    f"segment {_url(remote, revision)} is not the one that the next one follows: it was replaced. "
                    "Restore it from a backup of the archive"
                )
            follows = segment.previous
            yield segment.value


def _newest(remote: Remote, trust: Trust | None) -> int:
    head, _, _ = read_head(remote, trust=trust)
    return head.revision if head is not None else 0


def _segment(
    remote: Remote,
    revision: int,
    draft: Path,
    read: Callable[[Header, Records, int], T],
    trust: Trust | None = None,
) -> _Segment[T] | None:
    try:
        size = remote.fetch(remote_name(segment_name(revision)), draft, limit=cap("MMMETA_MAX_SEGMENT_BYTES"))
    except RemoteNotFoundError:
        return None
    if trust is not None:
        trust.check_segment(draft, _url(remote, revision))
    with open_segment(draft, _url(remote, revision)) as (header, records):
        if header.revision != revision:
            raise LogError(f"segment {_url(remote, revision)} says revision {header.revision}")
        return _Segment(read(header, records, size), digest_of(draft), header.previous)


def _check_pruned(remote: Remote, revision: int) -> None:
    """Raise `LogError` unless the segment is missing because it was pruned."""
    head, _, _ = read_head(remote)
    covered = head.snapshot.revision if head is not None and head.snapshot is not None else 0
    if revision > covered or (head is not None and revision == head.revision):
        raise LogError(
            f"segment {_url(remote, revision)} is missing, and no snapshot covers it: restore it from a backup of the "
            "archive"
        )


def _url(remote: Remote, revision: int) -> str:
    return f"{remote.url}/{remote_name(segment_name(revision))}"


# --- two revisions


def diff(a: int, b: int, at: Callable[[int], Past]) -> Diff:
    """Compare the documents of two revisions; `at` gives those of each.

    Only rows that were touched in between are looked at. `b` may be the earlier one.
    """

    def changes() -> Iterator[Change]:
        yield from _changes(at(a), at(b))

    counts = dict.fromkeys(("added", "changed", "deleted"), 0)
    for change in changes():
        counts[change.what] += 1
    return Diff(a, b, **counts, changes=changes)


def _changes(a: Past, b: Past) -> Iterator[Change]:
    older, newer = sorted((a, b), key=lambda past: past.revision)
    key = newer.quoted_key
    touched = newer.connection.cursor().execute(
        f"SELECT {key} FROM files WHERE __revision > ? ORDER BY {key}", (older.revision,)
    )
    kinds = {id(past): past.kinds() for past in (a, b)}
    for some in chunks(one for (one,) in touched):
        rows = {id(past): past.rows(some) for past in (a, b)}
        for one in some:
            before, after = (_values(rows[id(past)].get(one), kinds[id(past)]) for past in (a, b))
            columns = {
                name: (before.get(name), after.get(name))
                for name in sorted({**before, **after})
                if not _same(before.get(name), after.get(name))
            }
            if before and after:
                if columns:
                    yield Change(one, "changed", columns)
            elif before or after:
                yield Change(one, "added" if after else "deleted", columns)


def _values(row: Row | None, kinds: Mapping[str, Any]) -> dict[str, Any]:
    """Return the document's values by column, its key among them; none when it is not there, or deleted."""
    if row is None or row["__deleted_at"] is not None:
        return {}
    values = decode_row(row, kinds)
    return {name: value for name, value in values.items() if not name.startswith(_SEPARATOR)}


def _same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and bool(a == b)
