"""Merging a catalog into the state on PostgreSQL: its changed rows go by COPY into a table of this transaction's."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson

from mmmeta_core.database.columns import PUBLISHED_BOOKKEEPING, PURGED, RESCUED
from mmmeta_core.database.foreign import check_documents
from mmmeta_core.database.lineage import (
    PAST,
    catalog_digests,
    merged_position,
    past_after,
    relation,
)
from mmmeta_core.database.postgres.schema import locked
from mmmeta_core.database.postgres.session import Session
from mmmeta_core.database.postgres.values import LONGEST_KEY, fit
from mmmeta_core.database.sqlite import connect, quote, set_values
from mmmeta_core.database.state import Merged, is_unpulled, nothing_merged
from mmmeta_core.errors import CatalogError, HistoryError
from mmmeta_core.types import Key, Kind, format_time

if TYPE_CHECKING:
    from mmmeta_core.database.postgres.state import PostgresState

MERGED: Final = "mmmeta_merge"
"""The table of a transaction that has the catalog's rows."""
_MANY: Final = 5_000
"""Rows that make the server's statistics wrong: without them it sorts a table to find the next few of its keys."""


class Merge:
    """One merge; `run` may be called again when its transaction was undone."""

    def __init__(
        self,
        state: PostgresState,
        catalog: Path,
        *,
        everything: bool = False,
        verified: bool = False,
        confirmed: str = "",
    ) -> None:
        self.state = state
        self.catalog = catalog
        self.everything = everything
        self.verified = verified
        self.confirmed = confirmed
        self.rescued: int = 0
        self.left_out: list[Key] = []

    def run(self, session: Session) -> Merged:
        """Merge, as part of a transaction."""
        self.rescued, self.left_out = 0, []
        locked(session)
        with closing(connect(self.catalog, pragmas={})) as catalog:
            return self._merge(session, catalog)

    def _merge(self, session: Session, catalog: sqlite3.Connection) -> Merged:
        info = dict(catalog.execute("SELECT key, value FROM mmmeta_info"))
        if info.get("unique") != self.state.unique:
            raise CatalogError(
                f"the catalog is keyed by {info.get('unique')!r}, {self.state.name} by {self.state.unique!r}"
            )
        known = dict(session.execute("SELECT key, value FROM mmmeta_info").fetchall())
        if is_unpulled(info, known):
            return nothing_merged(known)
        revision, merged = int(info.get("revision", 0)), int(known.get("revision") or 0)
        archive = info.get("archive")
        moved = self.everything or ("archive" in known and archive != known["archive"])
        digests = catalog_digests(catalog, info)
        how = relation(known, digests, revision)
        if not moved and how in ("other", "unproven"):
            self._check_confirmed(known)
            moved = True
        moved = moved or (self.verified and known.get("verified") != "1")
        if not moved and how == "behind":
            return nothing_merged(known)
        whole = moved or not revision
        self._select(catalog, -1 if whole else merged)
        kinds: dict[str, Kind] = dict(catalog.execute("SELECT name, kind FROM mmmeta_columns"))
        source = f"temp.changed AS c JOIN main.files AS m ON m.{quote(self.state.unique)} = c.key"
        check_documents(catalog, self.catalog, self.state.unique, kinds, source)
        clashes = self.state.adopt(kinds)
        self._choose_keys(session, catalog)
        counts = self._write(
            session, catalog, {name: kinds[name] for name in kinds if name not in clashes}, moved
        )
        before = orjson.loads(known.get("clashes") or "[]")
        store = orjson.dumps(dict(catalog.execute("SELECT key, value FROM mmmeta_store"))).decode()
        notes = {
            "archive": archive,
            "revision": str(revision),
            "store": store,
            "verified": str(int(self.verified)),
            "clashes": orjson.dumps(clashes).decode(),
            PAST: past_after(known, digests, "other" if moved else how),
        }
        changed = {name: value for name, value in notes.items() if name not in known or known[name] != value}
        set_values(session, "mmmeta_info", changed)
        return Merged(
            **counts,
            revision=revision,
            clashes=tuple(clashes),
            new_clashes=tuple(name for name in clashes if name not in before),
        )

    def _check_confirmed(self, known: Mapping[str, Any]) -> None:
        """Raise `HistoryError` unless the remote was asked for its history since this was merged."""
        merged = merged_position(known)
        if self.confirmed != merged:
            raise HistoryError(
                f"{self.state.name} has merged revision {known['revision']} of another history of the archive than "
                f"{self.catalog} may have: pull and update again",
                merged=merged,
            )

    def _select(self, catalog: sqlite3.Connection, cursor: int) -> None:
        key = quote(self.state.unique)
        catalog.execute(
            f"CREATE TEMP TABLE changed AS SELECT {key} AS key FROM main.files WHERE __revision > ? "
            "UNION SELECT key FROM main.mmmeta_pending",
            (cursor,),
        )

    def _choose_keys(self, session: Session, catalog: sqlite3.Connection) -> None:
        """Make the key column one that takes the keys that come."""
        there = catalog.execute("SELECT 1 FROM temp.changed LIMIT 1").fetchone()
        if self.has_texts_as_keys(catalog):
            self.state.take_texts_as_keys()
        elif there is not None and session.execute("SELECT 1 FROM files LIMIT 1").fetchone() is None:
            self.state.take_integers_as_keys()

    def has_texts_as_keys(self, catalog: sqlite3.Connection) -> bool:
        """Whether one of the rows has a key that is no integer."""
        text = "SELECT 1 FROM temp.changed WHERE typeof(key) <> 'integer' LIMIT 1"
        return catalog.execute(text).fetchone() is not None

    def send(
        self,
        session: Session,
        catalog: sqlite3.Connection,
        columns: list[str],
        kinds: Mapping[str, Kind],
    ) -> set[str]:
        """Bring the chosen rows to the server, into a table of this transaction's.

        Returns the columns with a value that found no place.
        """
        unique, mixed = self.state.unique, set[str]()
        key, names = quote(unique), ",".join(map(quote, columns))
        session.execute(
            f"CREATE TEMP TABLE {MERGED} ON COMMIT DROP AS SELECT {key}, {names} FROM files WITH NO DATA"
        )
        local = self.state.kinds()
        types = {unique: self.state.key_kind, **{name: local[name] for name in columns}}
        with session.copy(MERGED, [unique, *columns]) as write:
            for row in self._rows(catalog, columns, kinds, types, mixed):
                write(row)
        session.execute(f"ALTER TABLE {MERGED} ADD PRIMARY KEY ({key})")
        session.execute(f"ANALYZE {MERGED}")
        return mixed

    def _write(
        self, session: Session, catalog: sqlite3.Connection, kinds: Mapping[str, Kind], moved: bool
    ) -> dict[str, Any]:
        there = set(self.state.columns())
        emptied = self.state.unpublished(kinds) if moved else []
        columns = [*PUBLISHED_BOOKKEEPING, *(name for name in (*kinds, *emptied) if name in there)]
        none = {"added": 0, "updated": 0, "unchanged": 0, "deleted": 0, "restored": 0, "purged_downloads": ()}
        if not moved and catalog.execute("SELECT 1 FROM temp.changed LIMIT 1").fetchone() is None:
            return none
        self.state.note_mixed(self.send(session, catalog, columns, kinds) & kinds.keys())
        key = quote(self.state.unique)
        total, added, deleted, restored = session.execute(
            f"SELECT count(*), count(*) FILTER (WHERE f.{key} IS NULL AND m.__deleted_at IS NULL), "
            "count(*) FILTER (WHERE m.__deleted_at IS NOT NULL AND f.__deleted_at IS NULL), "
            "count(*) FILTER (WHERE f.__deleted_at IS NOT NULL AND m.__deleted_at IS NULL) "
            f"FROM {MERGED} m LEFT JOIN files f ON f.{key} = m.{key}"
        ).fetchone() or (0, 0, 0, 0)
        left = self._forget_purged(session)
        written = self._copy(session, columns)
        gone = self._delete_missing(session) if moved else 0
        if written >= _MANY:
            session.execute("ANALYZE files")
        return {
            "added": added,
            "updated": written - added - deleted - restored,
            "unchanged": total - written,
            "deleted": deleted + gone,
            "restored": restored,
            "purged_downloads": left,
        }

    def _rows(
        self,
        catalog: sqlite3.Connection,
        columns: list[str],
        kinds: Mapping[str, Kind],
        types: Mapping[str, Kind],
        mixed: set[str],
    ) -> Iterator[list[Any]]:
        """Yield the changed rows as the `columns` take them, which are of these `types`, of the catalog's `kinds`.

        `mixed` learns of columns with a value that found no place. The server is not asked anything meanwhile.
        """
        unique = self.state.unique
        names = [name for name in (*PUBLISHED_BOOKKEEPING, *kinds) if name != RESCUED]
        cursor = catalog.execute(
            f"SELECT m.{quote(unique)}, m.{RESCUED}, {','.join(f'm.{quote(name)}' for name in names)} "
            f"FROM temp.changed c JOIN main.files m ON m.{quote(unique)} = c.key"
        )
        of_text = types[unique] == "text"
        for key, said, *raw in cursor:
            own = str(key) if of_text else key
            if of_text and (len(own.encode()) > LONGEST_KEY or self._is_shared(catalog, key)):
                self.left_out.append(key)
                continue
            values, misfits = fit(dict(zip(names, raw, strict=True)), types, kinds)
            if misfits:
                self.rescued += 1
                mixed.update(misfits)
                said = orjson.dumps({**(orjson.loads(said) if said else {}), **misfits}).decode()
            values[RESCUED] = said
            yield [own, *(values.get(name) for name in columns)]

    def _is_shared(self, catalog: sqlite3.Connection, key: Key) -> bool:
        """Whether the key is an integer, and another document's key is the same as text."""
        if isinstance(key, str):
            return False
        shared = f"SELECT 1 FROM main.files WHERE {quote(self.state.unique)} = ?"
        return catalog.execute(shared, (str(key),)).fetchone() is not None

    def _copy(self, session: Session, columns: list[str]) -> int:
        key, names = quote(self.state.unique), ",".join(map(quote, columns))
        now = format_time(self.state.now())
        updates = ",".join(f"{quote(name)}=excluded.{quote(name)}" for name in columns)
        here, there = (
            ",".join(
                f"CAST({table}.{RESCUED} AS text)" if name == RESCUED else f"{table}.{quote(name)}"
                for name in columns
            )
            for table in ("files", "excluded")
        )
        return session.execute(
            f"INSERT INTO files ({key},{names},__state_added,__state_last_updated) "
            f"SELECT {key},{names},CAST(? AS timestamptz),CAST(? AS timestamptz) FROM {MERGED} ORDER BY {key} "
            f"ON CONFLICT ({key}) DO UPDATE SET {updates},__state_last_updated=excluded.__state_last_updated "
            f"WHERE ({here}) IS DISTINCT FROM ({there})",
            (now, now),
        ).rowcount

    def _forget_purged(self, session: Session) -> tuple[str, ...]:
        """Drop what is noted here of documents that were purged, but not the client's own columns; return their files."""
        key = quote(self.state.unique)
        purged = f"SELECT f.{key} FROM {MERGED} m JOIN files f USING ({key}) WHERE m.__deleted_reason = ?"
        if session.execute(f"{purged} LIMIT 1", (PURGED,)).fetchone() is None:
            return ()
        self.state.to_scrub()
        session.execute(
            f"UPDATE mmmeta_work SET error = NULL, done_content = NULL WHERE key IN ({purged})", (PURGED,)
        )
        found = session.execute(
            f"SELECT folder, name FROM mmmeta_downloads WHERE key IN ({purged}) ORDER BY folder, name",
            (PURGED,),
        )
        return tuple(str(Path(folder) / name) for folder, name in found)

    def _delete_missing(self, session: Session) -> int:
        key = quote(self.state.unique)
        return session.execute(
            "UPDATE files SET __deleted_at = clock_timestamp(), __deleted_reason = 'not in the archive', "
            "__state_last_updated = clock_timestamp() WHERE __deleted_at IS NULL "
            f"AND NOT EXISTS (SELECT 1 FROM {MERGED} m WHERE m.{key} = files.{key})"
        ).rowcount
