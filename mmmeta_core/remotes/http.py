"""A remote behind a web server, `https://host/path`: read only, without credentials, from any server of static files.

Nothing is listed, so an archive is known by its `_mmmeta/head.json`. What a server says of the past is believed only as
far as it goes: a time in whole seconds tells two contents apart only when it lies some seconds back.
"""

from __future__ import annotations

import re
import secrets
from contextlib import closing, contextmanager
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, NoReturn
from urllib.parse import quote, urlsplit

from mmmeta_core.errors import (
    ConfigError,
    RefusedError,
    RemoteDeniedError,
    RemoteError,
    RemoteNotFoundError,
    RemoteUnreachableError,
)
from mmmeta_core.limits import cap
from mmmeta_core.paths import HEAD, NAME, remote_name
from mmmeta_core.remotes import base
from mmmeta_core.remotes.base import READ_LIMIT, Blob, Remote, Source, Stat
from mmmeta_core.remotes.web import PATIENCE, Answer, Web

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping
    from datetime import datetime

_ABSENT: Final = frozenset({404, 410})
_NO_HEAD: Final = frozenset({405, 501})
_ETAG: Final = re.compile(r'(W/)?"[\x21\x23-\x7e]*"|[\x21\x23-\x7e]+')
_PACKED: Final = re.compile(r"\.(gz|tgz|svgz)", re.IGNORECASE)
_SETTLED_SECONDS: Final = 2
_KEPT: Final = "/%:@!$&'()*+,;=~-._"
_SHAPE: Final = "https://host/path, without user, password, query or fragment"


class HttpRemote(Remote):
    """The files below an URL, for reading. Anyone may read them: what needs a password is not for this.

    An answer of which nothing, or next to nothing, comes within `patience` seconds is given up.
    """

    can_list: ClassVar[bool] = False
    can_write: ClassVar[bool] = False
    is_cached: ClassVar[bool] = True

    def __init__(self, url: str, *, patience: float = PATIENCE) -> None:
        self.url: str = _parsed(url)
        self._web = Web(patience=patience, own=self.url)
        self._answered = False

    def check(self) -> None:
        """Raise if there is no archive, or no answer.

        An archive that was never published has no `head.json`; then its folder has to be there. A server that neither
        lists a folder nor forbids that says that there is none, and then neither can this tell.
        """
        if self.stat(remote_name(HEAD)) is not None:
            return
        for folder in (f"{self.url}/{NAME}/", f"{self.url}/"):
            with self._looking(folder) as answer:
                if answer.status not in _ABSENT:
                    _check_answered(answer, folder)
                    return
        raise RemoteNotFoundError(
            f"There is no archive at {self.url}: neither {remote_name(HEAD)} nor a folder is there. Correct the URL, "
            "or publish first."
        )

    def read(self, name: str, *, etag: str | None = None, limit: int = READ_LIMIT) -> Blob | None:
        """See `Remote.read`."""
        known = etag if etag and _ETAG.fullmatch(etag) else None
        with self._asking(self._url(name), condition=known) as answer:
            if answer.status == 304 and known is not None:
                self._answered = True
                return None
            self._check(answer, name)
            size = _size(answer)
            if size is not None and _is_same(_etag(answer.headers, size), etag):
                return None
            data = b"".join(self._body(answer, name, limit))
        found = _etag(answer.headers, len(data))
        return None if _is_same(found, etag) else Blob(data, found)

    def fetch(self, name: str, path: Path, *, limit: int | None = None) -> int:
        """See `Remote.fetch`."""
        with closing(self._chunks(name, limit)) as chunks:
            return base.save(chunks, path)

    def create(self, name: str, source: Source) -> bool:  # noqa: ARG002
        """Refuse: it is read only."""
        self._deny(name)

    def write(self, name: str, source: Source, *, if_match: str | None = None) -> str | None:  # noqa: ARG002
        """Refuse: it is read only."""
        self._deny(name)

    def remove(self, name: str) -> None:
        """Refuse: it is read only."""
        self._deny(name)

    def names(self, prefix: str) -> Iterator[str]:
        """Refuse: a web server has no list."""
        base.check_prefix(prefix)
        raise RemoteError(
            f"{self.url} is a web server, which can't be listed: use the folder or bucket behind it."
        )

    def clock(self) -> datetime | None:
        """See `Remote.clock`."""
        with self._looking(self._url(remote_name(HEAD))) as answer:
            return base.time_of(answer.headers)

    def stat(self, name: str) -> Stat | None:
        """See `Remote.stat`."""
        with self._looking(self._url(name)) as answer:
            try:
                self._check(answer, name)
            except RemoteNotFoundError:
                return None
            size = _size(answer)
            if size is None:
                size = sum(map(len, answer.taken(cap("MMMETA_MAX_DOCUMENT_BYTES"))))
            return Stat(size, _etag(answer.headers, size))

    def _deny(self, name: str) -> NoReturn:
        base.check_name(name)
        self.check_writable()
        raise AssertionError

    def _url(self, name: str) -> str:
        return "/".join([self.url, *(quote(part, safe="") for part in base.check_name(name).split("/"))])

    @contextmanager
    def _asking(self, url: str, method: str = "GET", condition: str | None = None) -> Iterator[Answer]:
        # A cache on the way may keep what it has, and that there was nothing, but has to ask whether it is true.
        headers = {"Cache-Control": "no-cache"} | ({"If-None-Match": condition} if condition else {})
        try:
            with self._web.ask(url, method=method, headers=headers) as answer:
                yield answer
        except RefusedError as error:  # an address or a redirect; nobody is asked to confirm a remote's
            raise RemoteError(f"{error}.") from None

    @contextmanager
    def _looking(self, url: str) -> Iterator[Answer]:
        """Ask without the content; where the server can't do that, or leaves out the size, with it, unread."""
        with self._asking(url, "HEAD") as answer:
            done = answer.status not in _NO_HEAD and (answer.status != 200 or _size(answer) is not None)
            if done:
                yield answer
        if not done:
            with self._asking(url) as answer:
                yield answer

    def _chunks(self, name: str, limit: int | None) -> Generator[bytes]:
        with self._asking(self._url(name)) as answer:
            self._check(answer, name)
            yield from self._body(answer, name, limit)

    def _body(self, answer: Answer, name: str, limit: int | None) -> Iterator[bytes]:
        size = _size(answer)
        if limit is not None and size is not None and size > limit:
            raise base.too_large(self.url, name, size, limit)
        return answer.taken(limit)

    def _check(self, answer: Answer, name: str) -> None:
        """Raise unless the answer is the object as it lies there."""
        status, what = answer.status, self._url(name)
        if status in _ABSENT or _is_folder(answer, what) or (status == 403 and self._is_public(name)):
            raise RemoteNotFoundError(f"There is no object {what} (status {status}).")
        _check_answered(answer, what)
        if status in (401, 403):
            raise RemoteDeniedError(
                f"{what} may not be read by everyone (status {status}): use the folder or bucket behind it."
            )
        if status != 200:
            raise RemoteError(f"{what} can't be read (status {status}).")
        coding = answer.headers.get("Content-Encoding", "").strip().lower()
        # Many servers call a file that lies there packed so, and send it as it lies.
        if coding not in ("", "identity") and not (
            coding in ("gzip", "x-gzip") and _PACKED.fullmatch(Path(name).suffix)
        ):
            raise RemoteError(
                f"{what} comes with the encoding {coding[:20]!r}, which was not asked for: "
                "let the server send the archive's files as they are."
            )
        self._answered = True

    def _is_public(self, name: str) -> bool:
        """Whether the archive can be read, so that "forbidden" is what a bucket says of objects that it does not have.

        A bucket that everyone may read but not list does not tell the two apart.
        """
        head = remote_name(HEAD)
        if not self._answered and name != head:
            with self._looking(self._url(head)) as answer:
                self._answered = answer.status == 200
        return self._answered and name != head


def _parsed(url: str) -> str:
    """Return the URL in its one form, without a slash at its end. Raises `ConfigError`."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", 0
    if "@" in url.partition("//")[2].partition("/")[0] or "?" in url or "#" in url:
        raise ConfigError(
            f"The URL of a remote has what may be a password, or belongs to no archive: write {_SHAPE}."
        )
    if not host or port == 0 or not url.isprintable() or "\\" in url or " " in host:
        raise ConfigError(f"The URL of the remote is malformed: write {_SHAPE}.")
    shown_port = "" if port in (None, {"http": 80, "https": 443}[parts.scheme]) else f":{port}"
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}{shown_port}{quote(parts.path, safe=_KEPT)}".rstrip("/")


def _check_answered(answer: Answer, what: str) -> None:
    if answer.status == 429 or answer.status >= 500:
        raise RemoteUnreachableError(
            f"The server of {what} could not answer (status {answer.status}): try again later."
        )


def _is_folder(answer: Answer, url: str) -> bool:
    """Whether the server led from what was asked for to a folder of that name."""
    return urlsplit(answer.url).path == f"{urlsplit(url).path}/"


def _size(answer: Answer) -> int | None:
    text = answer.headers.get("Content-Length", "")
    return int(text) if text.isdecimal() and text.isascii() and len(text) < 20 else None


def _etag(headers: Mapping[str, str], size: int) -> str:
    """Return what tells this content from others: the server's word if it can be taken, else one that is never seen again.

    Some etags (nginx) are the time of the last change in seconds, and say no more than that does.
    """
    etag, changed, now = (
        headers.get("ETag", "").strip(),
        _seconds(headers, "Last-Modified"),
        _seconds(headers, "Date"),
    )
    is_settled = changed is not None and now is not None and now - changed >= _SETTLED_SECONDS
    if _ETAG.fullmatch(etag) and (is_settled or changed is None or f"{changed:x}" not in etag.lower()):
        return etag
    return f"modified {changed} {size}" if not etag and is_settled else f"unknown {secrets.token_hex(8)}"


def _is_same(found: str, known: str | None) -> bool:
    return known is not None and found.removeprefix("W/") == known.removeprefix("W/")


def _seconds(headers: Mapping[str, str], name: str) -> int | None:
    try:
        return int(parsedate_to_datetime(headers.get(name, "")).timestamp())
    except (ValueError, TypeError, OverflowError):
        return None
