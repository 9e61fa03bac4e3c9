"""One document: what the publisher says of it, and this client's own columns."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, BinaryIO, Final, Self

from mmmeta_core.config import Config, expand
from mmmeta_core.database.state import State
from mmmeta_core.files.layout import Layout
from mmmeta_core.files.placing import Folder
from mmmeta_core.sources import Sources
from mmmeta_core.types import Key, Kind, Row

log = logging.getLogger(__name__)


_NOTHING: Final[Mapping[str, Any]] = {}


class Urls:
    """Where a document can be had: an attribute for each template under `remote:` in `config.yml`."""

    def __init__(self, templates: Mapping[str, str], row: Mapping[str, Any]) -> None:
        self._templates = templates
        self._row = row

    def __getattr__(self, name: str) -> str:
        template = self._templates.get(name)
        if template is None:
            known = ", ".join(sorted(self._templates)) or "none"
            raise AttributeError(f"config.yml has no template remote.{name}; there are: {known}")
        return expand(template, self._row)

    def __dir__(self) -> Iterable[str]:
        return sorted(self._templates)

    def __repr__(self) -> str:
        return f"<Urls {', '.join(sorted(self._templates)) or 'none'}>"


class File(Mapping[str, Any]):
    """A document's row. Reading a column that is not there gives None; own columns are set and then saved.

        file["imported"] = True
        file.save()

    Setting a column of the publisher's raises `ReadOnlyColumnError` at once.
    """

    __slots__ = ("_changed", "_config", "_layout", "_read", "_row", "_set", "_sources", "_state")

    def __init__(
        self, row: Sequence[Any], layout: Layout, state: State, config: Config, sources: Sources
    ) -> None:
        """Take a raw row of the state db; it is decoded when that is needed."""
        self._row = row
        self._layout = layout
        self._state = state
        self._config = config
        self._sources = sources
        self._read: Row | None = None
        self._set: Mapping[str, Any] = _NOTHING
        self._changed: Mapping[str, Any] = _NOTHING

    @classmethod
    def of_row(
        cls, row: Row, kinds: Mapping[str, Kind], state: State, config: Config, sources: Sources
    ) -> Self:
        """Take one raw row that is not of a query."""
        return cls(tuple(row.values()), Layout(tuple(row), kinds), state, config, sources)

    @property
    def _values(self) -> Row:
        if self._read is None:
            own: list[str] = []
            if self._layout.is_rescued(self._row):
                own = [name for name, owner in self._state.owners().items() if owner == "client"]
            self._read = {**self._layout.decode(self._row, own), **self._set}
        return self._read

    @property
    def key(self) -> Key:
        """The value of the key column."""
        key: Key = self[self._config.unique]
        return key

    @property
    def unique(self) -> str:
        """The name of the key column."""
        return self._config.unique

    @property
    def published_kinds(self) -> dict[str, Kind]:
        """The columns that the publisher writes, and their kinds; key and bookkeeping left out."""
        owners = self._state.owners()
        return {name: kind for name, kind in self._layout.kinds.items() if owners.get(name) == "publisher"}

    @property
    def rescued(self) -> dict[str, Any]:
        """What the document says that has no column of its own: its name can't be one, or there were too many."""
        there = {*self._layout.kinds, *self._state.owners()}
        return {name: value for name, value in self._values.items() if name not in there}

    @property
    def name(self) -> str:
        """The document's file name as published, its key when it has none."""
        return str(self._values.get(self._config.file_name) or self.key)

    @property
    def remote(self) -> Urls:
        """Where the document can be had, as the publisher's templates say: `file.remote.url`."""
        return Urls(self._config.remote, self._values)

    def open(self, *, source: str | None = None) -> BinaryIO:
        """Return the document's bytes as an open file, which is fetched whole and verified first.

        From where `Sources.fetch` says, or from `source` alone; raises what that does. Nothing is left on disk when the
        file is closed.
        """
        with tempfile.TemporaryDirectory(prefix="mmmeta-") as folder:
            path = Path(folder) / "document"
            self.fetch(path, source=source)
            return path.open("rb")  # the name goes with the folder, the content with the file

    def fetch(self, path: Path, *, source: str | None = None) -> int:
        """Write the document into the file `path`, verified and flushed to disk; return its size in bytes.

        Raises what `open` does; then there is no file. `download` is for files that are to stay.
        """
        return self._sources.fetch(self.name, self._values, self._config, path, source=source)

    def download(self, dest: str | os.PathLike[str], *, source: str | None = None) -> Path:
        """Put the document into the folder `dest`, unless it is there, and return its path; no column is set.

        Under its file name, made safe, and beside another document of the same name with something of its key in it.
        Raises what `open` does, `RefusedError` for a folder inside a metadir, `DocumentError` for a place that is
        taken, and OSError.
        """
        folder = Folder(Path(dest), self._state, self._sources, self._config)
        return folder.path / folder.put(self, source=source).name

    def __getitem__(self, column: str) -> Any:
        if self._read is None and column not in self._set:
            at = self._layout.plain(self._row, column)
            if at is not None:
                return self._row[at]
        if column not in self._values:
            warn_unknown(self._state, column, self._values)
        return self._values.get(column)

    def get(self, column: str, default: Any = None) -> Any:
        """Return a column's value, `default` when there is no such column or it is NULL."""
        value = self._values.get(column)
        return default if value is None else value

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, column: object) -> bool:
        return column in self._values

    def __setitem__(self, column: str, value: Any) -> None:
        self.update({column: value})

    def update(self, values: Mapping[str, Any] | None = None, /, **more: Any) -> None:
        """Set several own columns; `save` writes them."""
        changes = {**(values or {}), **more}
        self._state.check_own(changes)
        if self._read is not None:
            self._read.update(changes)
        self._set = {**self._set, **changes}
        self._changed = {**self._changed, **changes}

    def save(self) -> None:
        """Write the changed columns into the state db, durably and as a whole; new columns come into being."""
        if self._changed:
            self._state.save([(self.key, self._changed)])
            self._changed = _NOTHING

    def __repr__(self) -> str:
        return f"<File {self.name!r} {self._config.unique}={self.key!r}>"

    def _repr_html_(self) -> str:
        from mmmeta_core.files.html import file_html

        return file_html(self)


_warned: set[tuple[str, str]] = set()


def warn_unknown(state: State, column: str, known: Iterable[str]) -> None:
    """Say once per database and column that there is no such column, with the nearest name."""
    if (state.name, column) in _warned:
        return
    _warned.add((state.name, column))
    near = get_close_matches(column, [name for name in known if not name.startswith("__")], n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    log.warning("there is no column %r (yet): it counts as NULL everywhere%s", column, hint)
