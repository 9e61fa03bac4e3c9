"""Where an archive's objects are: a folder, a bucket, or a web server's folder, which is read only.

Each kind is imported when it is asked for, boto3 with the first request to a bucket, urllib3 with the first to a web server.
"""

from __future__ import annotations

import os
import re
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

from mmmeta_core.errors import ConfigError
from mmmeta_core.remotes.base import ABSENT, Blob, Remote, Source, Stat, UploadResult

if TYPE_CHECKING:
    from mmmeta_core.remotes.http import HttpRemote
    from mmmeta_core.remotes.local import LocalRemote
    from mmmeta_core.remotes.s3 import S3Remote
    from mmmeta_core.remotes.s3_options import S3Options

__all__ = [
    "ABSENT",
    "Blob",
    "HttpRemote",
    "LocalRemote",
    "Remote",
    "S3Options",
    "S3Remote",
    "Source",
    "Stat",
    "UploadResult",
    "open_remote",
]

_HOMES: Final = {"HttpRemote": "http", "LocalRemote": "local", "S3Options": "s3_options", "S3Remote": "s3"}
_KINDS: Final = "a folder, or a file://, s3:// or https:// URL"
# One slash is what is left of an URL that has been a Path.
_SCHEME: Final = re.compile(r"(s3|file|https?)(?=:)|([A-Za-z][A-Za-z0-9+.-]*)(?=://)")


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"mmmeta_core.remotes.{_HOMES[name]}"), name)


def open_remote(url: str | os.PathLike[str] | Remote, *, s3: S3Options | None = None) -> Remote:
    """Return the remote at a folder's path, `file:///folder`, `s3://bucket/prefix?endpoint=…` or `https://host/path`.

    Does no I/O: `Remote.check` says whether it is there. `s3` is for buckets only; what the URL says goes
    before it. A `Remote` is returned as it is. Raises `ConfigError`.
    """
    if isinstance(url, Remote):
        return url
    if isinstance(url, os.PathLike):
        text = os.fsdecode(url)
    elif isinstance(url, str):
        text = url
    else:
        raise ConfigError(f"A remote is {_KINDS}, not a value of type {type(url).__name__}.")
    return _open(text, s3)


def _open(text: str, s3: S3Options | None) -> Remote:
    scheme = _SCHEME.match(text)
    if not text.strip() or "\0" in text:
        raise ConfigError(f"The remote is empty or has a NUL: give {_KINDS}.")
    if scheme is None or text.startswith("file://"):
        from mmmeta_core.remotes.local import LocalRemote

        return LocalRemote(_expanded(text) if scheme is None else _folder_of(text))
    if text.startswith("s3://"):
        from mmmeta_core.remotes.s3 import S3Remote
        from mmmeta_core.remotes.s3_options import S3Options

        return S3Remote(text, s3 or S3Options())
    if text.startswith(("https://", "http://")):
        from mmmeta_core.remotes.http import HttpRemote

        return HttpRemote(text)
    if scheme[0] in ("s3", "file", "https", "http"):
        raise ConfigError(
            f"A remote of {scheme[0]} begins with {scheme[0]}:// and is given as text, not as a Path."
        )
    raise ConfigError(f"Remotes of {scheme[0]} are not known: give {_KINDS}.")


def _expanded(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:  # its own word for a user that is not known
        raise ConfigError(
            f"The remote {text!r} names the home folder of an unknown user: correct it."
        ) from None


def _folder_of(url: str) -> Path:
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ConfigError("The file:// URL is malformed: write file:///folder.") from None
    path = unquote(parts.path, errors="surrogateescape")
    if parts.netloc not in ("", "localhost") or not path.startswith("/") or parts.query or parts.fragment:
        raise ConfigError("A file:// URL names an absolute folder of this machine: write file:///folder.")
    return Path(path)
