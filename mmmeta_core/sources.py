"""Where the bytes of documents come from, and whether they are the right ones.

A publisher may say where a document can be had: by the templates under `remote:` in `config.yml`, or by the
document's own `public_url`. Else, and when none of these has it, it lies in the archive itself under its file name.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from mmmeta_core.config import Config, expand
from mmmeta_core.errors import ConfigError, DocumentError, MmmetaError, RefusedError
from mmmeta_core.limits import cap
from mmmeta_core.remotes import HttpRemote, LocalRemote, Remote, S3Options, S3Remote
from mmmeta_core.remotes.web import Web, shown

ARCHIVE: Final = "archive"
PUBLIC_URL: Final = "public_url"
CONTENT: Final = "content_hash"
ALLOW_FILES: Final = "MMMETA_ALLOW_FILE_URLS"
"""Set to 1 by a client that lets its publisher's URLs name any file of this machine."""

_DIGESTS: Final[Mapping[int, str]] = {32: "md5", 40: "sha1", 64: "sha256"}
_MOST_BUCKETS: Final = 16
"""Buckets that are kept connected: a publisher may name any number."""


class Sources:
    """The places where documents can be had. May be used by many threads."""

    def __init__(self, remote: Remote | None) -> None:
        self.remote = remote
        self._web = Web(own=remote.url if isinstance(remote, HttpRemote) else None)
        self._buckets: dict[str, Remote] = {}
        self._making = threading.Lock()

    def fetch(
        self, name: str, values: Mapping[str, Any], config: Config, path: Path, *, source: str | None = None
    ) -> int:
        """Write the document into the file `path`, flushed to disk and verified; return its size in bytes.

        `values` is the document's row, `name` its file name in the archive. The places are tried in turn, or only
        `source`: the name of a template, `public_url` or `archive`. Raises `DocumentError` for wrong content, and
        the error of the first place that failed when none has the document; then there is no file.
        """
        first: MmmetaError | None = None
        for url in self._urls(values, config, source):
            try:
                size = self._read(url, name, path)
                if is_document(path, values, config) is False:
                    raise DocumentError(
                        f"{self._shown(url, name)} is not the document of {values.get(config.unique)}: "
                        "its content has another hash. If keys are no hashes here, the publisher sets metadata.digest: none"
                    )
            except MmmetaError as error:
                path.unlink(missing_ok=True)
                first = first or error
            else:
                return size
        if first is None:
            wanted = (
                f"no source {source!r}" if source else "neither a remote, nor a template, nor a public_url"
            )
            raise DocumentError(f"there is {wanted} to have {name!r} from")
        raise first

    def _urls(self, values: Mapping[str, Any], config: Config, source: str | None) -> Iterator[str | None]:
        """Yield the URLs that the document may be at, None for the archive itself."""
        for name, template in config.remote.items():
            if source in (None, name):
                try:
                    yield expand(template, values)
                except ConfigError as error:  # this document lacks a column that the template needs
                    if source is not None:
                        raise DocumentError(str(error)) from None
        public = values.get(PUBLIC_URL)
        if (
            source in (None, PUBLIC_URL)
            and PUBLIC_URL not in config.remote
            and isinstance(public, str)
            and public
        ):
            yield public
        if source in (None, ARCHIVE) and ARCHIVE not in config.remote and self.remote is not None:
            yield None

    def _shown(self, url: str | None, name: str) -> str:
        return f"{self.remote.url}/{name}" if url is None and self.remote is not None else shown(url or "")

    def _read(self, url: str | None, name: str, path: Path) -> int:
        limit = cap("MMMETA_MAX_DOCUMENT_BYTES")
        if url is None and self.remote is not None:
            return self.remote.fetch(name, path, limit=limit)
        url = (url or "").strip()
        scheme = url.partition(":")[0].lower()
        if scheme in ("http", "https"):
            return self._web.fetch(url, path, limit=limit)
        if scheme == "s3":
            return self._from_bucket(url, path, limit)
        if scheme == "file":
            return self._from_file(url, path, limit)
        raise RefusedError(
            f"documents can't be had from {shown(url):.200}: give an https, http, s3 or file URL"
        )

    def _from_bucket(self, url: str, path: Path, limit: int) -> int:
        bucket, _, key = url.partition(":")[2].removeprefix("//").partition("/")
        if "?" in bucket:  # where to send this client's credentials is not the publisher's to say
            raise RefusedError(f"{shown(url)} has settings: give s3://bucket/key alone")
        with self._making:
            remote = self._buckets.get(bucket)
            if remote is None:
                options = self.remote.options if isinstance(self.remote, S3Remote) else S3Options()
                remote = S3Remote(f"s3://{bucket}", options)
                if len(self._buckets) >= _MOST_BUCKETS:
                    self._buckets.pop(next(iter(self._buckets)))
                self._buckets[bucket] = remote
        return remote.fetch(key, path, limit=limit)

    def _from_file(self, url: str, path: Path, limit: int) -> int:
        file = _file_of(url)
        # Not `Path.resolve`, which raises RuntimeError for links that lead in a circle.
        real = Path(os.path.realpath(file))
        own = os.path.realpath(self.remote.root) if isinstance(self.remote, LocalRemote) else None
        inside = own is not None and real.is_relative_to(own)
        if not inside and os.environ.get(ALLOW_FILES) != "1":
            raise RefusedError(
                f"{shown(url)} is a file outside the archive, which a publisher can't make this machine read; "
                f"set {ALLOW_FILES}=1 to allow it"
            )
        return LocalRemote(real.parent).fetch(real.name, path, limit=limit)


def _file_of(url: str) -> Path:
    try:
        parts = urlsplit(url)
    except ValueError:
        raise RefusedError(f"documents can't be had from {shown(url)}") from None
    if parts.netloc not in ("", "localhost"):
        raise RefusedError(f"{shown(url)} names a file of another machine")
    name = unquote(parts.path)
    if not name.startswith("/") or "\0" in name:
        raise RefusedError(f"{shown(url)} names no file: write file:///folder/file")
    return Path(name)


def is_document(path: Path, values: Mapping[str, Any], config: Config) -> bool | None:
    """Whether the file is what the document's row says: its key, and its `content_hash` where that is another column.

    None when neither is a digest.
    """
    found = [is_content(path, values.get(config.unique), config)]
    if config.unique != CONTENT and config.digest is None:
        found.append(is_content(path, values.get(CONTENT), config))
    known = [one for one in found if one is not None]
    return all(known) if known else None


def has_digest(values: Mapping[str, Any], config: Config) -> bool:
    """Whether the document's row says what its content is, so that `is_document` can tell."""
    by_column = config.digest is None and _algorithm(values.get(CONTENT), config) is not None
    return by_column or _algorithm(values.get(config.unique), config) is not None


def is_content(path: Path, key: object, config: Config) -> bool | None:
    """Whether the file's digest is the document's key; None when the key is no digest.

    Which digest it is `metadata.digest` says, else its length: MD5, SHA-1 or SHA-256 in hexadecimal.
    """
    algorithm = _algorithm(key, config)
    if algorithm is None:
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest() == str(key).lower()


def _algorithm(key: object, config: Config) -> str | None:
    text = str(key).lower()
    algorithm = config.digest or (_DIGESTS.get(len(text)) if re.fullmatch("[0-9a-f]+", text) else None)
    return None if algorithm == "none" else algorithm
