"""A server of static files on loopback, as the web has many: with and without etags, HEAD, or a cache in front."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from mmmeta_core.errors import RemoteError
from mmmeta_core.remotes import LocalRemote


@dataclass
class Static:
    """A folder behind a server.

    `cached` is what a cache says of a path, None that there is nothing; `labels` are headers by suffix; `refuses` is
    the status of what is no file; `after` is called after each answer.
    """

    root: Path
    url: str = ""
    etags: bool = True
    refuses: int | None = None
    after: Callable[[], object] = lambda: None
    cached: dict[str, bytes | None] = field(default_factory=dict)
    labels: dict[str, dict[str, str]] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    def take(self) -> list[str]:
        """Return what was asked for since this was last called."""
        seen, self.seen = self.seen, []
        return seen


class _Handler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Static
    etag: str | None

    def send_head(self) -> Any:
        site, name = self.site, unquote(self.path)[1:]
        site.seen.append(f"{self.command} {self.path}")
        site.headers.append({name.lower(): value for name, value in self.headers.items()})
        self.etag = _etag(site.root, name) if site.etags else None
        if name in site.cached:
            return self.answer(site.cached[name])
        if site.refuses is not None and not (site.root / name).is_file():
            return self.send_error(site.refuses)
        if self.etag is not None and self.headers.get("If-None-Match") == self.etag:
            self.send_response(304)
            return self.end_headers()
        return super().send_head()

    def handle_one_request(self) -> None:
        super().handle_one_request()
        self.site.after()

    def answer(self, body: bytes | None) -> None:
        self.etag = None
        if body is None:
            return self.send_error(404)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        return None

    def send_header(self, keyword: str, value: str) -> None:
        if keyword != "Last-Modified" or not self.site.etags:
            super().send_header(keyword, value)

    def end_headers(self) -> None:
        more = {} if self.etag is None else {"ETag": self.etag}
        for suffix, headers in self.site.labels.items():
            more |= headers if self.path.endswith(suffix) else {}
        for name, value in more.items():
            super().send_header(name, value)
        super().end_headers()

    def log_message(self, *_: Any) -> None:
        pass


def _etag(root: Path, name: str) -> str | None:
    try:
        stat = LocalRemote(root).stat(name)
    except RemoteError:  # a folder's own name
        return None
    return stat.etag if stat is not None else None


@contextmanager
def serving(root: Path) -> Iterator[Static]:
    site = Static(root)
    handler = type("Handler", (_Handler,), {"site": site})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(root)))
    server.daemon_threads = True
    server.block_on_close = False
    site.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
