"""Reading what an URL of the web names. urllib3 is imported with the first request.

Neither the URLs nor the servers are trusted: redirects are few and stay with their scheme, an address that is not of the
public internet is refused unless the client allows it (see `web_client`), an answer that only trickles is given up,
and no credential in an URL is ever shown.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urljoin, urlsplit

from mmmeta_core.errors import (
    RefusedError,
    RemoteDeniedError,
    RemoteError,
    RemoteNotFoundError,
    RemoteUnreachableError,
)
from mmmeta_core.limits import way_out
from mmmeta_core.remotes import base

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

    import urllib3

PATIENCE: Final = 60.0
"""Seconds in which something has to come."""

_REDIRECTS: Final = 5
_LONGEST_URL: Final = 8192
_CONNECT_SECONDS: Final = 10.0
_TRIES: Final = 3
_AGAIN: Final = frozenset({429, 500, 502, 503, 504})
_CHUNK: Final = 64 * 1024
_SLOWEST: Final = 100
"""Bytes a second below which an answer is given up."""


@dataclass(frozen=True)
class Answer:
    """What a server answered. `url` is where redirects led; `body` comes as it was sent, never decoded."""

    url: str
    status: int
    headers: Mapping[str, str]
    body: Iterable[bytes]

    def taken(self, limit: int | None) -> Iterator[bytes]:
        """Yield the body. Raises `RemoteError` as soon as there is more of it than `limit` bytes."""
        size = 0
        for chunk in self.body:
            size += len(chunk)
            if limit is not None and size > limit:
                raise RemoteError(
                    f"{shown(self.url)} has more than the {limit:,} bytes that are taken{way_out(limit)}."
                )
            yield chunk


class Web:
    """A pool of connections, for many threads.

    An answer of which nothing, or next to nothing, comes within `patience` seconds is given up.
    """

    def __init__(self, *, patience: float = PATIENCE, own: str | None = None) -> None:
        """Take the URL of the client's `own` remote, which may be at an address that others must not lead to."""
        self._patience = patience
        self._own = None if own is None else _host_of(own)
        self._made: urllib3.PoolManager | None = None
        self._making = threading.Lock()

    def fetch(self, url: str, path: Path, *, limit: int | None = None) -> int:
        """Stream what `url` names into the file `path`, flush it to disk, and return its size in bytes.

        If it does not arrive whole the file is removed. Raises `RemoteNotFoundError`, `RemoteDeniedError`,
        `RemoteUnreachableError`, `RefusedError` for an URL or address that is not read, and `RemoteError`.
        """
        with closing(self._chunks(url, limit)) as chunks:
            return base.save(chunks, path)

    @contextmanager
    def ask(
        self, url: str, *, method: str = "GET", headers: Mapping[str, str] | None = None
    ) -> Iterator[Answer]:
        """Send one request, follow redirects, and give the answer, whatever its status.

        Raises `RemoteUnreachableError` also while the body is read, `RefusedError`, and `RemoteError`.
        """
        from urllib3.exceptions import HTTPError

        try:
            answer, there = self._get(url, method, headers or {})
            with closing(answer):
                if method == "HEAD" or answer.status == 304:
                    answer.drain_conn()  # there is no body, so the connection can be used again
                yield Answer(there, answer.status, answer.headers, self._body(answer, url))
        except HTTPError as error:
            # Without its cause, the text of which can hold the URL's query.
            raise RemoteUnreachableError(f"{shown(url)} did not answer: {_reason(error)}") from None

    def _chunks(self, url: str, limit: int | None) -> Generator[bytes]:
        with self.ask(url) as answer:
            if answer.status != 200:
                raise _refusal(answer.status, answer.url)
            yield from answer.taken(limit)

    def _body(self, answer: urllib3.BaseHTTPResponse, url: str) -> Generator[bytes]:
        size, since = 0, time.monotonic()
        while chunk := answer.read1(_CHUNK, decode_content=False):
            yield chunk
            size += len(chunk)
            passed = time.monotonic() - since
            if passed > self._patience:
                if size < passed * _SLOWEST:
                    raise RemoteUnreachableError(f"{shown(url)} sends {size} bytes in {passed:.0f} s.")
                size, since = 0, time.monotonic()

    def _get(self, url: str, method: str, headers: Mapping[str, str]) -> tuple[urllib3.BaseHTTPResponse, str]:
        here = url
        for _ in range(_REDIRECTS + 1):
            _check(here)
            answer = self._ask(here, method, headers)
            target = answer.get_redirect_location()
            if not target:
                return answer, here
            answer.close()
            here = _redirected(here, target)
        raise RemoteError(f"{shown(url)} redirects more than {_REDIRECTS} times.")

    def _ask(self, url: str, method: str, headers: Mapping[str, str]) -> urllib3.BaseHTTPResponse:
        """Send the request, again where that may help; how long to wait is not the server's to say."""
        from urllib3.exceptions import NewConnectionError, ProtocolError

        for attempt in range(1, _TRIES + 1):
            try:
                answer = self._pool().request(
                    method,
                    url,
                    redirect=False,
                    preload_content=False,
                    headers={"Accept-Encoding": "identity", **headers},
                )
            except (NewConnectionError, ProtocolError):
                if attempt == _TRIES:
                    raise
            else:
                if answer.status not in _AGAIN or attempt == _TRIES:
                    return answer
                answer.close()
            time.sleep(0.2 * 2**attempt * random.uniform(0.5, 1))  # noqa: S311 - jitter
        raise AssertionError

    def _pool(self) -> urllib3.PoolManager:
        from mmmeta_core.remotes.web_client import make_pool

        with self._making:
            if self._made is None:
                self._made = make_pool(
                    connect_seconds=_CONNECT_SECONDS, read_seconds=self._patience, own=self._own
                )
            return self._made


def shown(url: str) -> str:
    """Return the URL without what may be a credential: userinfo, query, fragment; and nothing unprintable."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "an URL that is malformed"
    if not parts.scheme:
        return "an URL without a scheme"
    if not host and parts.scheme != "file":
        return f"an URL {parts.scheme}:… without a host"
    host = f"[{host}]" if ":" in host else host
    text = f"{parts.scheme}://{host}{port}{parts.path}"
    return "".join(char if char.isprintable() else "?" for char in text)


def _redirected(here: str, target: str) -> str:
    try:
        there = urljoin(here, target)
        same = urlsplit(there).scheme == urlsplit(here).scheme
    except ValueError:
        raise RefusedError(f"{shown(here)} redirects to an URL that is malformed") from None
    if not same:
        raise RefusedError(
            f"{shown(here)} redirects to {shown(there)}, which has another scheme: give that URL itself"
        )
    return there


def _host_of(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def _check(url: str) -> None:
    if len(url) > _LONGEST_URL:
        raise RefusedError(
            f"{shown(url[:200])}… can't be read: an URL has at most {_LONGEST_URL:,} characters"
        )
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise RefusedError(f"{shown(url)} can't be read: it is no http(s) URL with a host")


def _refusal(status: int, url: str) -> RemoteError:
    if status in (404, 410):
        return RemoteNotFoundError(f"{shown(url)} does not exist (status {status}).")
    if status in (401, 403):
        return RemoteDeniedError(f"{shown(url)} may not be read (status {status}).")
    return RemoteError(f"{shown(url)} can't be read (status {status}).")


def _reason(error: Exception) -> str:
    cause = error.__cause__
    name = type(error).__name__
    return f"{name}, {cause}" if isinstance(cause, OSError | UnicodeError) and cause.args else name
