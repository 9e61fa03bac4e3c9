"""Documents as files in a folder of this client: each one whole, verified, and never over another's file."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
import unicodedata
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

from mmmeta_core.atomic import sweep, temporary
from mmmeta_core.config import Config
from mmmeta_core.database.state import State
from mmmeta_core.database.work import CONTENT, Reservation, owns, reserve
from mmmeta_core.errors import DocumentError, MmmetaError, RefusedError, RemoteUnreachableError
from mmmeta_core.files.beneath import link, opened, replace
from mmmeta_core.paths import NAME
from mmmeta_core.sources import Sources, is_content
from mmmeta_core.types import Key

if TYPE_CHECKING:
    from mmmeta_core.files.file import File

_LONGEST_NAME: Final = 200
_MOST_PARTS: Final = 16
_CATEGORIES: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_DEVICES: Final = frozenset(
    {
        "con",
        "prn",
        "aux",
        "nul",
        "conin$",
        "conout$",
        *(f"{port}{n}" for port in ("com", "lpt") for n in "0123456789¹²³"),
    }
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
        self._root = Path(os.path.realpath(path))
        if {part.casefold() for part in (*path.absolute().parts, *self._root.parts)} & {NAME}:
            raise RefusedError(
                f"{path} is inside a metadir, which mmmeta keeps for itself: choose another folder"
            )
        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.state = state
        self._sources = sources
        self._config = config
        self._swept: set[Path] = set()
        self._sweeping = threading.Lock()

    def is_archive_away(self) -> bool:
        """Whether the archive itself does not answer, so that no document can be had from it."""
        remote = self._sources.remote
        if remote is None:
            return False
        try:
            remote.check()
        except RemoteUnreachableError:
            return True
        except MmmetaError:
            return False
        return False

    def put(self, file: File, *, source: str | None = None) -> Placed:
        """Put the document there, unless it is.

        A name that a document got here stays its own, also through a kill; another document of the same name gets one
        with something of its key in it. Raises what `Sources.fetch` does, `DocumentError` for a place that can't be
        used, and OSError.
        """
        draft: Path | None = None
        size = 0
        with ExitStack() as stack:
            for place in self._places(file):
                path = self.path / place.name
                if self._is_blocked(path):
                    continue
                self._sweep(path.parent)
                is_own, exists = owns(self.state, place), path.exists()
                if exists and self._is_there(path, place, file):
                    return Placed(place.name, None)
                if exists and not is_own:
                    continue  # somebody else's file
                if draft is None:
                    if not self._make_folder(path.parent):
                        continue
                    self._sweep(self._root)
                    draft = stack.enter_context(temporary(self._root))
                    size = self._sources.fetch(file.name, file, self._config, draft, source=source)
                if exists:  # an older version of this very document
                    with self._opened(path.parent) as folder:
                        replace(draft, folder, path.name)
                        os.fsync(folder)
                    return Placed(place.name, size)
                if self._link(draft, path, place):
                    return Placed(place.name, size)
                if self._is_there(path, place, file):  # another client was quicker
                    return Placed(place.name, None)
        raise DocumentError(f"{file.name!r:.200} has no place in {self.path}: other files are in its way")

    def _link(self, draft: Path, path: Path, place: Reservation) -> bool:
        """Give the finished file its name, which is the document's own from now on; False if it is taken.

        In this order: a name is never the document's own while somebody else's file has it.
        """
        try:
            with self._opened(path.parent) as folder:
                if not link(draft, folder, path.name):
                    return False
                if not reserve(self.state, place):
                    os.unlink(path.name, dir_fd=folder)
                    return False
                os.fsync(folder)
        except NotADirectoryError:  # a file, or a link, was put in a folder's place in the meantime
            return False
        return True

    def _make_folder(self, folder: Path) -> bool:
        """Make the folder; False if a file was put in its place in the meantime."""
        try:
            with self._opened(folder):
                return True
        except NotADirectoryError:
            return False

    @contextmanager
    def _opened(self, folder: Path) -> Iterator[int]:
        """Open a folder below this one, by the way that it has now."""
        real = Path(os.path.realpath(folder))
        if not real.is_relative_to(self._root):
            raise NotADirectoryError(errno.ENOTDIR, "leads out by a symbolic link", str(folder))
        with opened(self._root, real.relative_to(self._root).parts) as descriptor:
            yield descriptor

    def _is_there(self, path: Path, place: Reservation, file: File) -> bool:
        """Whether the very content is there, and is this document's."""
        return path.is_file() and self._is_content(path, file) and reserve(self.state, place)

    def _places(self, file: File) -> list[Reservation]:
        """Return where the document may go, the best first: where it was before, then under its own name."""
        wanted = PurePosixPath(*safe_parts(file.name))
        keyed = _with_key(wanted, file.key)
        names = dict.fromkeys(str(name) for name in (wanted, keyed, keyed.name))
        places = [Reservation(str(self._root), name, _folded(name), file.key) for name in names]
        return sorted(places, key=lambda place: not owns(self.state, place))

    def _is_blocked(self, path: Path) -> bool:
        """Whether a folder is in the file's place, or a file in its folder's."""
        if path.is_symlink() or not Path(os.path.realpath(path.parent)).is_relative_to(self._root):
            raise DocumentError(f"{path} leads out of {self.path} by a symbolic link: remove the link")
        return path.is_dir() or any(folder.exists() and not folder.is_dir() for folder in self._folders(path))

    def _folders(self, path: Path) -> Iterator[Path]:
        folder = path.parent
        while folder != self.path:
            yield folder
            folder = folder.parent

    def _is_content(self, path: Path, file: File) -> bool:
        """Whether the file is known to be what the publisher says of the document now."""
        return any(is_content(path, digest, self._config) for digest in (file.key, file.get(CONTENT)))

    def _sweep(self, folder: Path) -> None:
        """Clear away what a killed process left, once in each folder."""
        with self._sweeping:
            if folder not in self._swept:
                sweep(folder)
                self._swept.add(folder)


def safe_parts(name: str) -> list[str]:
    """Return a published file name as path parts that stay below a folder and that file systems take."""
    normal = unicodedata.normalize("NFC", name).replace("\\", "/")
    parts = [_safe(part) for part in normal.split("/") if part not in ("", ".", "..")]
    kept = [part for part in parts if part] or ["unnamed"]
    return kept if len(kept) <= _MOST_PARTS else [*kept[: _MOST_PARTS - 1], kept[-1]]


def _safe(part: str) -> str:
    kept = "".join("_" if unicodedata.category(c) in _CATEGORIES or c in '<>:"|?*' else c for c in part)
    kept = kept.strip(" .") or "_"
    if kept.partition(".")[0].rstrip().lower() in _DEVICES or kept.casefold() == NAME:
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
