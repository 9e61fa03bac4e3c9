"""Reading what an URL of the web names. urllib3 is imported with the first request.

Neither the URLs nor the servers are trusted: redirects are few and stay with their scheme, an address that only this
machine's own network knows as its neighbour (link-local, where clouds keep credentials) is refused, and no
credential in an URL is ever shown.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
from contextlib import closing
from typing import TYPE_CHECKING, Final
from urllib.parse import urljoin, urlsplit

from mmmeta_core.errors import (
    RefusedError,
    RemoteDeniedError,
    RemoteError,
    RemoteNotFoundError,
    RemoteUnreachableError,
)
from mmmeta_core.remotes import base

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    import urllib3

_REDIRECTS: Final = 5
_CONNECT_SECONDS: Final = 10.0
_READ_SECONDS: Final = 60.0
_TRIES: Final = 3
_CONNECTIONS: Final = 32


class Web:
    """A pool of connections, for many threads."""

    def __init__(self) -> None:
        self._made: urllib3.PoolManager | None = None
        self._making = threading.Lock()

    def fetch(self, url: str, path: Path, *, limit: int | None = None) -> int:
        """Stream what `url` names into the file `path`, flush it to disk, and return its size in bytes.

        If it does not arrive whole the file is removed. Raises `RemoteNotFoundError`, `RemoteDeniedError`,
        `RemoteUnreachableError`, `RefusedError` for an URL or address that is not read, and `RemoteError`.
        """
        with closing(self._chunks(url, limit)) as chunks:
            return base.save(chunks, path)

    def _chunks(self, url: str, limit: int | None) -> Generator[bytes]:
        from urllib3.exceptions import HTTPError

        size = 0
        try:
            with closing(self._get(url)) as answer:
                for chunk in answer.stream(base.CHUNK, decode_content=False):
                    size += len(chunk)
                    if limit is not None and size > limit:
                        raise RemoteError(f"{shown(url)} has more than the {limit:,} bytes that are taken.")
                    yield chunk
        except HTTPError as error:
            raise RemoteUnreachableError(f"{shown(url)} did not answer: {_reason(error)}") from error

    def _get(self, url: str) -> urllib3.BaseHTTPResponse:
        here = url
        for _ in range(_REDIRECTS + 1):
            _check(here)
            answer = self._pool().request(
                "GET", here, redirect=False, preload_content=False, headers={"Accept-Encoding": "identity"}
            )
            target = answer.get_redirect_location()
            if not target:
                if answer.status != 200:
                    answer.close()
                    raise _refusal(answer.status, here)
                return answer
            answer.close()
            there = urljoin(here, target)
            if urlsplit(there).scheme != urlsplit(here).scheme:
                raise RefusedError(
                    f"{shown(here)} redirects to {shown(there)}, which has another scheme: give that URL itself"
                )
            here = there
        raise RemoteError(f"{shown(url)} redirects more than {_REDIRECTS} times.")

    def _pool(self) -> urllib3.PoolManager:
        import urllib3

        with self._making:
            if self._made is None:
                self._made = urllib3.PoolManager(
                    maxsize=_CONNECTIONS,
                    timeout=urllib3.Timeout(connect=_CONNECT_SECONDS, read=_READ_SECONDS),
                    retries=urllib3.Retry(
                        _TRIES - 1,
                        redirect=False,
                        status_forcelist=(429, 500, 502, 503, 504),
                        backoff_factor=0.2,
                        backoff_jitter=0.2,
                        raise_on_status=False,
                    ),
                )
            return self._made


def shown(url: str) -> str:
    """Return the URL without what may be a credential: userinfo, query, fragment."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "an URL that is malformed"
    return f"{parts.scheme}://{host}{port}{parts.path}"


def _check(url: str) -> None:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise RefusedError(f"{shown(url)} can't be read: it is malformed") from None
    if parts.scheme not in ("http", "https") or not host:
        raise RefusedError(f"{shown(url)} can't be read: it is no http(s) URL with a host")
    try:
        found = socket.getaddrinfo(host, port or 0, proto=socket.IPPROTO_TCP)
    except (OSError, UnicodeError) as error:
        raise RemoteUnreachableError(f"{shown(url)}: the host is not known ({error})") from None
    for *_, address in found:
        ip = ipaddress.ip_address(str(address[0]).partition("%")[0])
        mapped = getattr(ip, "ipv4_mapped", None) or ip
        if mapped.is_link_local or mapped.is_multicast or mapped.is_unspecified:
            raise RefusedError(f"{shown(url)} leads to the address {ip}, which no archive's documents are at")


def _refusal(status: int, url: str) -> RemoteError:
    if status in (404, 410):
        return RemoteNotFoundError(f"{shown(url)} does not exist (status {status}).")
    if status in (401, 403):
        return RemoteDeniedError(f"{shown(url)} may not be read (status {status}).")
    return RemoteError(f"{shown(url)} can't be read (status {status}).")


def _reason(error: Exception) -> str:
    cause = getattr(error, "reason", None) or error
    return type(cause).__name__
