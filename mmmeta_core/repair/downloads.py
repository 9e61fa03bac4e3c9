"""A download that is missing or wrong, fetched again."""

from __future__ import annotations

from pathlib import Path

from mmmeta_core.config import Config
from mmmeta_core.database.state import State
from mmmeta_core.errors import DocumentError
from mmmeta_core.files import File, Folder
from mmmeta_core.paths import Paths
from mmmeta_core.sources import Sources
from mmmeta_core.verify import Finding


def fetch_again(paths: Paths, state_db: Path, sources: Sources, finding: Finding) -> str:
    """Put the document in its place; the bad copy is replaced only by one that came whole and has the right hash."""
    config = Config.load(paths.config)
    state = State(state_db, config.unique)
    try:
        rows = state.connection.execute("SELECT folder, name, key FROM mmmeta_downloads").fetchall()
        places = [
            (Path(folder), key) for folder, name, key in rows if str(Path(folder) / name) == finding.subject
        ]
        if not places:
            raise DocumentError("it is not known which document this was")
        folder, key = places[0]
        if not folder.is_dir():
            raise DocumentError(
                f"the folder {folder} is not there: mount it, or set the documents' mark to False"
            )
        row = state.row(key)
        if row is None:
            raise DocumentError(f"there is no document {key}")
        file = File.of_row(row, state.kinds(), state, config, sources)
        placed = Folder(folder, state, sources, config).put(file)
    finally:
        state.close()
    if str(folder / placed.name) != finding.subject:
        return f"fetched as {folder / placed.name}, for something is in its place"
    return "fetched again"
