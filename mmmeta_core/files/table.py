"""`m.files`: the documents as a dataset table that yields `File` objects."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final, cast

from mmmeta_core.config import Config
from mmmeta_core.database.columns import RESCUED, STATE_RESCUED, fold
from mmmeta_core.database.state import State
from mmmeta_core.errors import ColumnError, ConfigError
from mmmeta_core.files import glance
from mmmeta_core.files.file import File, warn_unknown
from mmmeta_core.files.layout import Layout
from mmmeta_core.files.publish import Publisher
from mmmeta_core.files.reading import reading
from mmmeta_core.sources import Sources
from mmmeta_core.types import Key, Kind, Row, is_key

if TYPE_CHECKING:
    import dataset
    import pandas
    from sqlalchemy import Select, Table

_REFUSED: Final = frozenset({"drop", "drop_column", "create_column", "create_column_by_example"})


class Files:
    """All documents of the state db that are not soft-deleted; ask for those with `deleted=True`.

    Reading is dataset's: `find`, `find_one`, `count`, `distinct`, `len`, iteration, `columns`, `create_index` …, with
    dataset's filters (`x=1`, `x=[1, 2]`, `x={">=": 1}`, `order_by`, `_limit`, `_offset`). Besides: a column that
    does not exist is NULL everywhere, and `x=False` matches False and never set. Own columns are written by
    `File.save`.

    Writing here (`insert`, `upsert`, `update`, `delete` and their like) is the publisher's: it changes published
    metadata in the catalog, is visible at once, and goes to the remote with the next push.

    May be used by many threads; a result that is being iterated belongs to one.
    """

    def __init__(
        self,
        state: State,
        config: Config,
        publisher: Publisher,
        sources: Sources,
        as_of: Callable[[int], Files] | None = None,
    ) -> None:
        """Take what is shown, who publishes and where documents are; `as_of` gives those of a revision."""
        self._state = state
        self._as_of = as_of
        self._config = config
        self._publisher = publisher
        self._sources = sources
        self._reading = reading(state)

    def configure(self, config: Config, publisher: Publisher) -> None:
        """Follow settings that have changed, as a pull may bring them."""
        self._config = config
        self._publisher = publisher

    # --- reading

    def find(
        self,
        *clauses: Any,
        where: Any = None,
        deleted: bool | None = False,
        **filters: Any,
    ) -> Iterator[File]:
        """Yield the documents that match all filters.

        `deleted` False leaves soft-deleted documents out, True gives only those, None both; a filter on
        `__deleted_at` stands for itself.

        Filters may also be given as a mapping, `find({"deleted": True})` or, with the other verbs too,
        `where={"deleted": True}`: for columns that are called as an argument is. Columns may be saved while this is
        iterated. Raises `ConfigError` for an operator that does not exist, or for a value that it can't take.
        """
        arguments = {name: filters.pop(name) for name in _ARGUMENTS if name in filters}
        step = arguments.get("_step", _STEP)
        query = self._query(clauses, [where or {}, filters], deleted, arguments)
        names, found = self._reading.rows(query, step, arguments.get("_limit"))
        layout = Layout(names, self._state.kinds())
        parts = (self._state, self._config, self._sources)
        with closing(found):
            for rows in found:
                for row in rows:
                    yield File(row, layout, *parts)

    __call__ = find
    all = find

    def find_one(self, *clauses: Any, deleted: bool | None = False, **filters: Any) -> File | None:
        """Return one document that matches, or None."""
        filters["_limit"] = 1
        return next(self.find(*clauses, deleted=deleted, **filters), None)

    def count(
        self,
        *clauses: Any,
        where: Any = None,
        deleted: bool | None = False,
        **filters: Any,
    ) -> int:
        """Return the number of documents that match."""
        return self._count(*self._asked(clauses, [where or {}, filters], deleted))

    def explain(
        self,
        *clauses: Any,
        where: Any = None,
        deleted: bool | None = False,
        **filters: Any,
    ) -> list[str]:
        """Return how `find` with the same arguments would go about it, a step a line, in the database's words.

        SQLite's SEARCH … USING INDEX and PostgreSQL's Index Scan look at the documents that may match, SCAN and Seq Scan
        at all: `create_index(["column"])` helps then.
        """
        arguments = {name: filters.pop(name) for name in _ARGUMENTS if name in filters}
        return self._reading.plan(self._query(clauses, [where or {}, filters], deleted, arguments))

    def distinct(
        self,
        *columns: Any,
        where: Any = None,
        deleted: bool | None = False,
        **filters: Any,
    ) -> Iterator[Row]:
        """Yield the distinct values of these columns, as dicts, in order; clauses may be among the `columns`."""
        from sqlalchemy import select

        arguments = {name: filters.pop(name) for name in ("_limit", "_offset") if name in filters}
        names = [column for column in columns if isinstance(column, str)]
        clauses = [column for column in columns if not isinstance(column, str)]
        table, conditions = self._asked(clauses, [where or {}, filters], deleted)
        found = {name: self._column(table, name) for name in names}
        there = {column.key: column for column in found.values() if column is not None}
        if not there:
            yield from ([dict.fromkeys(names)] if names and self._count(table, conditions) else [])
            return
        query = select(*there.values()).distinct().where(*conditions)
        query = query.order_by(
            *(part for one in there.values() for part in self._reading.ordering(one, descending=False))
        )
        query = query.limit(arguments.get("_limit")).offset(arguments.get("_offset", 0))
        layout = Layout(list(there), self._state.kinds())
        with closing(self._reading.rows(query, _STEP)[1]) as pages:
            for row in (row for rows in pages for row in rows):
                values = layout.decode(row)
                yield {name: None if column is None else values[column.key] for name, column in found.items()}

    def get(self, key: Key) -> File | None:
        """Return the document with this key, also a soft-deleted one, or None."""
        row = self._state.row(key) if is_key(key) else None
        if row is None:
            return None
        return File.of_row(row, self._state.kinds(), self._state, self._config, self._sources)

    def as_of(self, revision: int) -> Files:
        """Return the documents as they were published at `revision`, to be read only, with the filters of `find`.

        Own columns are not among them: they have no revisions. `__revision` is the one that touched a document last.
        Documents that were purged since are shown as deleted, without their columns. Costs what replaying the log up to
        there does, from the newest of these that is not newer than `revision`: the local catalog, the remote's snapshot,
        or a catalog that this gave before; the last few are kept in the metadir's private folder `past`, and those cost
        nothing. Raises `LogError` for a revision that does not exist yet, or that was pruned.
        """
        if self._as_of is None:
            raise ConfigError("these are the documents of one revision already: ask m.files.as_of")
        return self._as_of(revision)

    def to_pandas(self, *clauses: Any, deleted: bool | None = False, **filters: Any) -> pandas.DataFrame:
        """Return the matching documents as a pandas DataFrame; pandas is imported here only.

        Types allow for NULL: `Int64`, `Float64`, `boolean`, `string`, times `datetime64[us, UTC]`, also where a column is
        empty. A column of mixed values, or of lists, is one of objects.
        """
        import pandas

        # Not None, beside which pandas makes floats of integers, rounding large ones; but it is what times need.
        kinds = self._state.kinds()
        times = {name for name, kind in kinds.items() if kind == "datetime"}
        rows = [
            {
                name: pandas.NA if value is None and name not in times else value
                for name, value in file.items()
            }
            for file in self.find(*clauses, deleted=deleted, **filters)
        ]
        frame = pandas.DataFrame(rows, columns=None if rows else self.columns, dtype=object)
        typed = frame.convert_dtypes()
        wanted = {
            name: dtype
            for name, kind in kinds.items()
            if name in frame and (dtype := _DTYPES[kind]) is not None
            # Of times pandas 2 makes nanoseconds; those that it can't are objects and stay so.
            if frame[name].isna().all() or (kind == "datetime" and typed[name].dtype.kind == "M")
        }
        return typed.astype(wanted)

    def __iter__(self) -> Iterator[File]:
        return self.find()

    def __len__(self) -> int:
        return self._state.count(deleted=False)

    def __contains__(self, document: object) -> bool:
        """Whether a document, given as a mapping with the key or as the key itself, is here and not deleted."""
        key = document.get(self._config.unique) if isinstance(document, Mapping) else document
        row = self._state.row(cast("Key", key)) if is_key(key) else None
        return row is not None and row["__deleted_at"] is None

    @property
    def columns(self) -> list[str]:
        """The names of all columns."""
        return [name for name in self._state.columns() if name not in (RESCUED, STATE_RESCUED)]

    @property
    def unique(self) -> str:
        """The name of the key column."""
        return self._config.unique

    def newest(self, limit: int) -> list[File]:
        """Return the documents that were published last, the newest first; deleted ones are left out."""
        names, rows = glance.newest(self._state, limit)
        layout = Layout(names, self._state.kinds())
        return [File(row, layout, self._state, self._config, self._sources) for row in rows]

    def per_day(self, column: str, days: int = 30) -> list[tuple[str, int]]:
        """Return how many documents have a time in `column` on each of the newest `days` days that any has: ISO date, count.

        Days are UTC's. Deleted documents are left out.
        """
        named = self._named(column, self._state.columns())
        return [] if named is None else glance.per_day(self._state, named, days)

    def kinds(self, columns: Sequence[str] | None = None) -> dict[str, Kind]:
        """Return columns with the kinds of their values: all but bookkeeping, or these. The key counts as text."""
        known = {self._config.unique: "text", **self._state.kinds()}
        names = self.columns if columns is None else columns
        chosen = [name for name in names if columns is not None or not name.startswith("__")]
        for name in chosen:
            if name not in known:
                warn_unknown(self._state, name, known)
        return {name: known.get(name, "text") for name in chosen}

    # --- the publisher's writing

    def insert(self, row: Mapping[str, Any] | None = None, /, **data: Any) -> Key:
        """Publish a new document; return its key. Raises `DocumentError` if there is one with this key already."""
        return self._publisher.insert([{**(row or {}), **data}], existing="refuse")[0]

    def insert_ignore(self, row: Mapping[str, Any], keys: str | Sequence[str] = ()) -> Key | bool:
        """Publish a document unless there is one with the same `keys` or key; return its key, or False."""
        return (self._publisher.insert([row], keys, existing="ignore") or [False])[0]

    def insert_many(self, rows: Iterable[Mapping[str, Any]], **_: Any) -> None:
        """Publish many new documents: all, or none and a `DocumentError` if one of them exists already."""
        self._publisher.insert(rows, existing="refuse")

    def upsert(
        self, row: Mapping[str, Any] | None = None, /, keys: str | Sequence[str] = (), **data: Any
    ) -> Key | bool:
        """Publish a document, or the changes to the ones with the same `keys` (default: the key column)."""
        return (self._publisher.insert([{**(row or {}), **data}], keys, existing="update") or [True])[0]

    def upsert_many(
        self, rows: Iterable[Mapping[str, Any]], keys: str | Sequence[str] = (), **_: Any
    ) -> None:
        """Do `upsert` for many documents in one transaction."""
        self._publisher.insert(rows, keys, existing="update")

    def update(self, row: Mapping[str, Any], keys: str | Sequence[str] = ()) -> int:
        """Publish changes to the documents with the same `keys`; return how many there are."""
        return len(self._publisher.insert([row], keys, existing="only"))

    def update_many(
        self, rows: Iterable[Mapping[str, Any]], keys: str | Sequence[str] = (), **_: Any
    ) -> None:
        """Do `update` for many documents in one transaction."""
        self._publisher.insert(rows, keys, existing="only")

    def delete(self, *clauses: Any, **filters: Any) -> bool:
        """Publish that the matching documents are deleted (softly: clients are told); whether there were any.

        Generating from metadata files does not bring them back.
        """
        return self._publisher.delete([file.key for file in self.find(*clauses, **filters)]) > 0

    # --- dataset

    @property
    def table(self) -> dataset.Table:
        """The dataset table underneath, as the database is now. Its rows are raw."""
        return self._reading.table

    def close(self) -> None:
        """Close the database; the next use opens it again."""
        self._reading.close()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if name in _REFUSED:
            raise ColumnError(
                f"files.{name} is not offered: columns come and go with what is published and saved"
            )
        return getattr(self.table, name)

    def __repr__(self) -> str:
        return f"<Files {len(self)} in {self._state.name}>"

    def _repr_html_(self) -> str:
        from mmmeta_core.files.html import files_html

        return files_html(self)

    def _asked(
        self, clauses: Iterable[Any], filters: Iterable[Mapping[str, Any]], deleted: bool | None
    ) -> tuple[Table, list[Any]]:
        """Return the table, and the conditions that clauses and filters are."""
        from mmmeta_core.files.filters import translate

        table = self.table.table
        mappings, plain = _split(clauses)
        given = [one for one in (*mappings, *filters) if one]
        if deleted is not None and not any("__deleted_at" in one for one in given):
            given.append({"__deleted_at": {"not": None} if deleted else None})
        kinds, terms = self._state.kinds(), self._reading.terms
        asked = [
            clause
            for one in given
            for clause in translate(one, lambda name: self._column(table, name), kinds, terms)
        ]
        return table, [*plain, *asked]

    def _query(
        self,
        clauses: Iterable[Any],
        filters: Iterable[Mapping[str, Any]],
        deleted: bool | None,
        arguments: Mapping[str, Any],
    ) -> Select[Any]:
        table, conditions = self._asked(clauses, filters, deleted)
        orderings = list(self._orderings(table, arguments.get("order_by")))
        query = table.select().where(*conditions)
        query = query.limit(arguments.get("_limit")).offset(arguments.get("_offset", 0))
        return query.order_by(*orderings) if orderings else query

    def _count(self, table: Table, conditions: Iterable[Any]) -> int:
        from sqlalchemy import func, select

        return self._reading.number(select(func.count()).select_from(table).where(*conditions))

    def _column(self, table: Table, name: str) -> Any:
        """Return the column that is meant, whatever its case; None, and a warning, when there is none."""
        named = self._named(name, table.c.keys())
        return None if named is None else table.c[named]

    def _named(self, name: str, columns: Sequence[str]) -> str | None:
        """Return the name of the column that is meant, as `_column` does."""
        if name in columns:
            return name
        for column in columns:
            if fold(column) == fold(name):
                return column
        warn_unknown(self._state, name, self.columns)
        return None

    def _orderings(self, table: Table, order_by: str | Sequence[str] | None) -> Iterator[Any]:
        for ordering in [order_by] if isinstance(order_by, str) else order_by or ():
            column = self._column(table, ordering.lstrip("-"))
            if column is not None:
                yield from self._reading.ordering(column, descending=ordering.startswith("-"))


def _split(clauses: Iterable[Any]) -> tuple[list[Mapping[str, Any]], list[Any]]:
    """Return the filters among clauses, and the clauses of SQLAlchemy."""
    given = list(clauses)
    mappings = [one for one in given if isinstance(one, Mapping)]
    return mappings, [one for one in given if not isinstance(one, Mapping)]


_DTYPES: Final[Mapping[Kind, str | None]] = {
    "text": "string",
    "integer": "Int64",
    "float": "Float64",
    "boolean": "boolean",
    "datetime": "datetime64[us, UTC]",
    "json": None,
}
_STEP: Final = 1_000
_ARGUMENTS: Final[tuple[str, ...]] = ("_limit", "_offset", "order_by", "_streamed", "_step")
