"""Download: documents → a folder of this client, each one whole, verified, and never over another's file."""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Final

from mmmeta_core.atomic import fsync_folder, temporary
from mmmeta_core.config import Config
from mmmeta_core.database.state import State
from mmmeta_core.errors import DocumentError, RefusedError
from mmmeta_core.files import File, Files
from mmmeta_core.paths import NAME
from mmmeta_core.process import process
from mmmeta_core.remotes import Remote

MARK: Final = "downloaded"
PATH: Final = "downloaded_path"

_DIGESTS: Final[Mapping[int, str]] = {32: "md5", 40: "sha1", 64: "sha256"}
_LONGEST_NAME: Final = 200


@dataclass(frozen=True)
class DownloadResult:
    """What came: `present` documents lay at the destination already, with the right content."""

    downloaded: int
    present: int
    failed: int
    left: int
    bytes: int
    seconds: float = field(compare=False)


def download(
    state: State,
    files: Files,
    remote: Remote,
    config: Config,
    dest: Path,
    *,
    workers: int = 8,
    filters: Mapping[str, Any],
) -> DownloadResult:
    """Fetch the matching documents that were not downloaded yet from the archive into `dest`.

    A document lies in the archive under its published file name. Its content is verified when its key is an MD5, SHA-1
    or SHA-256 of it; one that does not match is a failure, and nothing of it stays. The client's columns
    `downloaded` and `downloaded_path` (relative to `dest`) are set. Raises `RefusedError` for a destination inside a
    metadir.
    """
    started = time.monotonic()
    if NAME in dest.absolute().parts:
        raise RefusedError(
            f"{dest} is inside a metadir, which mmmeta keeps for itself: choose another folder"
        )
    dest.mkdir(parents=True, exist_ok=True)
    fetcher = _Fetcher(remote, config, dest)
    result = process(state, files, fetcher, mark=MARK, workers=workers, filters=filters)
    return DownloadResult(
        downloaded=result.processed - fetcher.present,
        present=fetcher.present,
        failed=result.failed,
        left=result.left,
        bytes=fetcher.bytes,
        seconds=time.monotonic() - started,
    )


class _Fetcher:
    def __init__(self, remote: Remote, config: Config, dest: Path) -> None:
        self.remote = remote
        self.config = config
        self.dest = dest
        self.bytes = 0
        self.present = 0
        self._lock = threading.Lock()

    def __call__(self, file: File) -> Mapping[str, Any]:
        wanted = PurePosixPath(*safe_parts(file.name))
        for name in (wanted, _with_key(wanted, str(file.key))):
            path = self.dest / name
            if path.is_symlink() or not path.parent.resolve().is_relative_to(self.dest.resolve()):
                raise DocumentError(f"{path} leads out of {self.dest} by a symbolic link: remove the link")
            if path.exists():
                if _matches(path, file.key):
                    with self._lock:
                        self.present += 1
                    return {PATH: str(name)}
                continue
            if self._fetch(file, path):
                return {PATH: str(name)}
        raise DocumentError(f"{self.dest / wanted} is another file; move it away")

    def _fetch(self, file: File, path: Path) -> bool:
        """Put the document at `path`; False when another file came to be there in the meantime."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary(path.parent) as draft:
            size = self.remote.fetch(file.name, draft)
            if _matches(draft, file.key) is False:
                raise DocumentError(
                    f"{file.name} in {self.remote.url} is not the document of {file.key}: wrong hash"
                )
            try:
                os.link(draft, path)
            except FileExistsError:
                return False
            fsync_folder(path.parent)
        with self._lock:
            self.bytes += size
        return True


def _matches(path: Path, key: object) -> bool | None:
    """Whether the file's digest is the key; None when the key is no known digest."""
    text = str(key).lower()
    algorithm = _DIGESTS.get(len(text)) if re.fullmatch("[0-9a-f]+", text) else None
    if algorithm is None:
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest() == text


def safe_parts(name: str) -> list[str]:
    """Return a published file name as path parts that stay below the destination and that file systems take."""
    normal = unicodedata.normalize("NFC", name).replace("\\", "/")
    parts = [_safe(part) for part in normal.split("/") if part not in ("", ".", "..")]
    return [part for part in parts if part] or ["unnamed"]


def _safe(part: str) -> str:
    kept = "".join(
        "_" if unicodedata.category(c) in ("Cc", "Cf", "Cs") or c in '<>:"|?*' else c for c in part
    )
    kept = kept.strip(" ").lstrip(".").rstrip(".") or "_"
    encoded = kept.encode()
    if len(encoded) <= _LONGEST_NAME:
        return kept
    stem, dot, suffix = kept.rpartition(".")
    suffix = f".{suffix}" if dot and len(suffix.encode()) < 20 else ""
    short = (
        (stem if suffix else kept)
        .encode()[: _LONGEST_NAME - 10 - len(suffix.encode())]
        .decode(errors="ignore")
    )
    return f"{short}-{hashlib.sha256(encoded).hexdigest()[:8]}{suffix}"


def _with_key(name: PurePosixPath, key: str) -> PurePosixPath:
    short = hashlib.sha256(key.encode()).hexdigest()[:12]
    return name.with_name(f"{name.stem}-{short}{name.suffix}")
