"""Which history of its archive a catalog is of: an archive that was put back to an older revision may go on otherwise.

A catalog notes the digests of its newest revisions as they come, a state those of the revisions that were merged into it.
So the two can be told apart where they part, in both directions, without a look at the remote or at a clock.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Any, Final, Literal, TypeAlias

import orjson

from mmmeta_core.database.connection import Connection
from mmmeta_core.database.sqlite import set_values

Digests: TypeAlias = Mapping[int, str]
"""The digests of segments by their revision, shortened."""

Relation: TypeAlias = Literal["onward", "behind", "other", "unproven"]
"""How a catalog stands to what a state has merged: it has that and perhaps more; less of it; another history; or it has
come by a snapshot past what was merged, and can't tell."""

MOST: Final = 500
"""How many revisions are noted."""
PAST: Final = "past"
"""Under which key a state has them."""

_LENGTH: Final = 16
_KEY: Final = "past {:020d}"


def note_digest(catalog: sqlite3.Connection, revision: int, digest: str) -> None:
    """Note what a catalog has come by before it goes on to the next revision; within a transaction."""
    if revision:
        set_values(catalog, "mmmeta_local", {_KEY.format(revision): digest[:_LENGTH]})
        catalog.execute(
            "DELETE FROM mmmeta_local WHERE key >= ? AND key <= ?",
            (_KEY.format(0), _KEY.format(max(revision - MOST, 0))),
        )


def catalog_digests(connection: Connection, info: Mapping[str, Any], schema: str = "main") -> dict[int, str]:
    """Return the digests of the catalog's newest revisions, one after the other down to where a snapshot began.

    `info` is what its `mmmeta_info` says.
    """
    if not info.get("revision") or not info.get("digest"):
        return {}
    noted = connection.execute(
        f"SELECT key, value FROM {schema}.mmmeta_local WHERE key >= ? AND key < ?",
        (_KEY.format(0), _KEY.format(int(info["revision"]))),
    ).fetchall()
    return {
        **{int(key.split()[1]): str(digest) for key, digest in noted},
        int(info["revision"]): str(info["digest"])[:_LENGTH],
    }


def merged_digests(known: Mapping[str, Any]) -> dict[int, str]:
    """Return the digests that a state has noted; `known` is what its `mmmeta_info` says."""
    noted: dict[str, str] = orjson.loads(known.get(PAST) or "{}")
    return {int(revision): digest for revision, digest in noted.items()}


def merged_position(known: Mapping[str, Any]) -> str:
    """Return what tells apart what a state has merged from anything that it may have merged before or after."""
    revision = int(known.get("revision") or 0)
    return f"{known.get('archive')} {revision} {merged_digests(known).get(revision)}"


def relation(known: Mapping[str, Any], catalog: Digests, revision: int) -> Relation:
    """Return how a catalog at `revision`, with these digests, stands to what a state has merged.

    Where nothing was noted, by an older version or so long ago that it was dropped, the numbers alone decide.
    """
    merged, past = int(known.get("revision") or 0), merged_digests(known)
    if revision < merged:
        here = past.get(revision)
        return "other" if here is not None and here != catalog.get(revision, here) else "behind"
    if merged not in past:
        return "onward"
    there = catalog.get(merged)
    if there is None:
        return "unproven"
    return "onward" if there == past[merged] else "other"


def past_after(known: Mapping[str, Any], catalog: Digests, how: Relation) -> str:
    """Return the JSON of what a state is to note once the catalog is merged."""
    merged = int(known.get("revision") or 0)
    before = merged_digests(known) if how == "onward" and merged in merged_digests(known) else {}
    newest = sorted({**before, **catalog}.items())[-MOST:]
    return orjson.dumps({str(revision): digest for revision, digest in newest}).decode()
