"""Documents as files in a folder of this client: each one whole, verified, and never over another's file."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

from mmmeta_core.atomic import fsync_folder, temporary
from mmmeta_core.config import Config
from mmmeta_core.database.state import State
from mmmeta_core.database.work import CONTENT, Reservation, owns, reserve
from mmmeta_core.errors import DocumentError, RefusedError
from mmmeta_core.paths import NAME
from mmmeta_core.sources import Sources, is_content
from mmmeta_core.types import Key

if TYPE_CHECKING:
    from mmmeta_core.files.file import File

_LONGEST_NAME: Final = 200
_CATEGORIES: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_DEVICES: Final = frozenset(
    {"con", "prn", "aux", "nul", *(f"com{n}" for n in range(10)), *(f"lpt{n}" for n in range(10))}
)


@dataclass(frozen=True)
class Placed:
    """Where a document lies, relative to the folder, and how many bytes came: None when it lay there already."""

    name: str
    bytes: int | None


class Folder:
    """A folder that documents are put into. May be used by many threads and processes."""

    def __init__(self, path: Path, state: State, sources: Sources, config: Config) -> None:
        """Make the folder, if need be. Raises `RefusedError` for one inside a metadir, and OSError."""
        if NAME in path.absolute().parts:
            raise RefusedError(
                f"{path} is inside a metadir, which mmmeta keeps for itself: choose another folder"
            )
        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._state = state
        self._sources = sources
        self._config = config
        self._root = path.resolve()

    def put(self, file: File, *, source: str | None = None) -> Placed:
        """Put the document there, unless it is.

        A name that a document got here stays its own, also through a kill; another document of the same name gets one
        with something of its key in it. Raises what `Sources.fetch` does, `DocumentError` for a place that can't be
        used, and OSError.
        """
        name = self._name(file)
        path = self.path / name
        is_there = path.exists()
        if is_there and self._is_content(path, file):
            return Placed(name, None)
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary(path.parent) as draft:
            size = self._sources.fetch(file.name, file, self._config, draft, source=source)
            if is_there:
                draft.replace(path)  # an older version of this very document
            else:
                os.link(draft, path)
            fsync_folder(path.parent)
        return Placed(name, size)

    def _is_content(self, path: Path, file: File) -> bool:
        """Whether the file is known to be what the publisher says of the document now."""
        return any(is_content(path, digest, self._config) for digest in (file.key, file.get(CONTENT)))

    def _name(self, file: File) -> str:
        """Return the document's name, its own from now on."""
        wanted = PurePosixPath(*safe_parts(file.name))
        for candidate in (wanted, _with_key(wanted, file.key)):
            path = self.path / candidate
            if path.is_symlink() or not path.parent.resolve().is_relative_to(self._root):
                raise DocumentError(f"{path} leads out of {self.path} by a symbolic link: remove the link")
            name = str(candidate)
            owned = Reservation(str(self._root), name, _folded(name), file.key)
            if path.exists() and not owns(self._state, owned) and not self._is_content(path, file):
                continue  # somebody else's file
            if reserve(self._state, owned):
                return name
        raise DocumentError(f"{self.path / wanted} is another file: move it away")


def safe_parts(name: str) -> list[str]:
    """Return a published file name as path parts that stay below a folder and that file systems take."""
    normal = unicodedata.normalize("NFC", name).replace("\\", "/")
    parts = [_safe(part) for part in normal.split("/") if part not in ("", ".", "..")]
    return [part for part in parts if part] or ["unnamed"]


def _safe(part: str) -> str:
    kept = "".join("_" if unicodedata.category(c) in _CATEGORIES or c in '<>:"|?*' else c for c in part)
    kept = kept.strip(" ").lstrip(".").rstrip(".") or "_"
    if kept.partition(".")[0].rstrip().lower() in _DEVICES:
        kept = f"_{kept}"
    encoded = kept.encode()
    if len(encoded) <= _LONGEST_NAME:
        return kept
    stem, dot, suffix = kept.rpartition(".")
    suffix = f".{suffix}" if dot and len(suffix.encode()) < 20 else ""
    room = _LONGEST_NAME - 10 - len(suffix.encode())
    short = (stem if suffix else kept).encode()[:room].decode(errors="ignore")
    return f"{short}-{hashlib.sha256(encoded).hexdigest()[:8]}{suffix}"


def _with_key(name: PurePosixPath, key: Key) -> PurePosixPath:
    short = hashlib.sha256(str(key).encode()).hexdigest()[:12]
    return name.with_name(f"{name.stem}-{short}{name.suffix}")


def _folded(name: str) -> str:
    """Return what two names share that a file system may take for the same."""
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())
