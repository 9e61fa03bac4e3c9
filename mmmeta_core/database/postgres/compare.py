"""Comparing what a state on PostgreSQL has merged with the catalog: its rows go there as for a merge."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Final

from mmmeta_core.database.columns import PUBLISHED_BOOKKEEPING, RESCUED, fold
from mmmeta_core.database.foreign import check_documents
from mmmeta_core.database.lineage import catalog_digests, relation
from mmmeta_core.database.postgres.merge import MERGED, Merge
from mmmeta_core.database.postgres.schema import locked
from mmmeta_core.database.postgres.session import Session
from mmmeta_core.database.sqlite import connect, quote
from mmmeta_core.types import Kind

_UPDATED: Final = "__meta_last_updated"
"""A change that was taken back before it was published leaves its time."""


@dataclass(frozen=True)
class Compared:
    """How many documents were compared, and what is otherwise than the catalog says."""

    documents: int
    differences: tuple[str, ...] = ()


class Comparison(Merge):
    """One comparison. What the next update merges, and what waits here to be published, is no difference."""

    def compare(self, session: Session) -> Compared:
        """Compare, as part of a transaction. Updates of others wait for its end."""
        locked(session)
        with closing(connect(self.catalog, pragmas={})) as catalog:
            info = dict(catalog.execute("SELECT key, value FROM mmmeta_info"))
            known = dict(session.execute("SELECT key, value FROM mmmeta_info").fetchall())
            merged, revision = int(known.get("revision") or 0), int(info.get("revision", 0))
            same = (info.get("archive"), info.get("unique")) == (known.get("archive"), self.state.unique)
            if (
                not merged
                or not same
                or relation(known, catalog_digests(catalog, info), revision) != "onward"
            ):
                return Compared(0)  # it is merged anew, or the catalog has to catch up
            return self._compare(session, catalog, merged)

    def _compare(self, session: Session, catalog: sqlite3.Connection, merged: int) -> Compared:
        owners = self.state.owners()
        mine = {fold(name) for name, owner in owners.items() if owner == "client"}
        declared = "SELECT name, kind FROM mmmeta_columns WHERE revision <= ?"
        kinds: dict[str, Kind] = {
            name: kind for name, kind in catalog.execute(declared, (merged,)) if fold(name) not in mine
        }
        lacking = sorted(name for name in kinds if owners.get(name) != "publisher")
        if lacking:
            return Compared(0, tuple(f"there is no published column {name}" for name in lacking))
        key = quote(self.state.unique)
        catalog.execute(
            f"CREATE TEMP TABLE changed AS SELECT {key} AS key FROM main.files WHERE __revision <= ? "
            "AND NOT EXISTS (SELECT 1 FROM main.mmmeta_pending p WHERE p.key = files." + key + ")",
            (merged,),
        )
        check_documents(
            catalog,
            self.catalog,
            self.state.unique,
            kinds,
            f"temp.changed AS c JOIN main.files AS m ON m.{key} = c.key",
        )
        if self.state.key_kind == "integer" and self.has_texts_as_keys(catalog):
            return Compared(0, ("keys are integers here, and text in the catalog",))
        return self._counted(session, catalog, kinds)

    def _counted(self, session: Session, catalog: sqlite3.Connection, kinds: Mapping[str, Kind]) -> Compared:
        there = set(self.state.columns())
        columns = [*PUBLISHED_BOOKKEEPING, *(name for name in kinds if name in there)]
        self.send(session, catalog, columns, kinds)
        key = quote(self.state.unique)
        compared = [name for name in columns if name != _UPDATED]
        here, other = (
            ",".join(
                f"CAST({table}.{RESCUED} AS text)" if name == RESCUED else f"{table}.{quote(name)}"
                for name in compared
            )
            for table in ("f", "m")
        )
        joined = f"FROM {MERGED} m LEFT JOIN files f ON f.{key} = m.{key}"
        ((total,),) = session.execute(f"SELECT count(*) FROM {MERGED}").fetchall()
        found = []
        for what, condition in (
            ("missing", f"f.{key} IS NULL"),
            ("different", f"f.{key} IS NOT NULL AND ({here}) IS DISTINCT FROM ({other})"),
        ):
            ((count, example),) = session.execute(
                f"SELECT count(*), min(CAST(m.{key} AS text)) {joined} WHERE {condition}"
            ).fetchall()
            if count:
                found.append(f"documents {what}: {count}, such as {example:.80}")
        return Compared(total, tuple(found))
