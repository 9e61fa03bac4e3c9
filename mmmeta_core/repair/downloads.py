"""A download that is missing or wrong, fetched again."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from mmmeta_core.config import Config
from mmmeta_core.database.sqlite_state import SqliteState
from mmmeta_core.errors import DocumentError
from mmmeta_core.files import File, Folder
from mmmeta_core.paths import Paths
from mmmeta_core.sources import Sources
from mmmeta_core.types import Key
from mmmeta_core.verify import Finding


class Again:
    """Fetches downloads of one client again. Close it."""

    def __init__(self, paths: Paths, state_db: Path, sources: Sources) -> None:
        self._config = Config.load(paths.config)
        self._state = SqliteState(state_db, self._config.unique)
        self._sources = sources

    def close(self) -> None:
        """Close the state db."""
        self._state.close()

    @cached_property
    def _places(self) -> dict[str, tuple[Path, Key]]:
        rows = self._state.connection.execute("SELECT folder, name, key FROM mmmeta_downloads")
        return {str(Path(folder) / name): (Path(folder), key) for folder, name, key in rows}

    def fetch(self, finding: Finding) -> str:
        """Put the document in its place; the bad copy is replaced only by one that came whole and has the right hash."""
        if finding.subject not in self._places:
            raise DocumentError("it is not known which document this was")
        folder, key = self._places[finding.subject]
        if not folder.is_dir():
            raise DocumentError(
                f"the folder {folder} is not there: mount it, or set the documents' mark to False"
            )
        row = self._state.row(key)
        if row is None:
            raise DocumentError(f"there is no document {key}")
        file = File.of_row(row, self._state.kinds(), self._state, self._config, self._sources)
        placed = Folder(folder, self._state, self._sources, self._config).put(file)
        if str(folder / placed.name) != finding.subject:
            return f"fetched as {folder / placed.name}, for something is in its place"
        return "fetched again"
