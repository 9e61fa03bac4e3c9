"""A real HTTP server on loopback that answers as a test has scripted it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Answer:
    """`cut` ends the connection after so many bytes of the body; then it may trickle on, a byte now and then."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int | None = None
    trickles: bool = False
    chunked: bool = False


DROP = Answer(status=0)
"""No answer at all: the connection ends."""


@dataclass
class Site:
    """What lies at which path, and what was asked for. Of several answers each is given once, the last for ever."""

    url: str
    seen: list[str] = field(default_factory=list)
    connections: int = 0
    before: Callable[[str], None] = lambda path: None
    dated: bool = True
    """Whether the server says the time by itself."""
    ended: threading.Event = field(default_factory=threading.Event)
    _scripts: dict[str, list[Answer]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def put(self, path: str, *answers: Answer | bytes) -> str:
        """Script a path; return its URL."""
        made = [Answer(answer) if isinstance(answer, bytes) else answer for answer in answers]
        self._scripts[path] = made
        return f"{self.url}{path}"

    def take(self, path: str) -> Answer:
        with self._lock:
            self.seen.append(path)
            script = self._scripts.get(path.partition("?")[0], [Answer(b"not here", 404)])
            return script.pop(0) if len(script) > 1 else script[0]


@contextmanager
def website(address: str = "127.0.0.1", port: int = 0) -> Iterator[Site]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            site.connections += 1
            super().setup()

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            try:
                self.answer()
            except ConnectionError:
                self.close_connection = True

        def answer(self) -> None:
            site.before(self.path)
            answer = site.take(self.path)
            if answer is DROP:
                self.close_connection = True
                return
            (self.send_response if site.dated else self.send_response_only)(answer.status)
            length = (
                {"Transfer-Encoding": "chunked"}
                if answer.chunked
                else {"Content-Length": str(len(answer.body))}
            )
            for name, value in {**length, **answer.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            body = answer.body[: answer.cut]
            self.wfile.write(f"{len(body):x}\r\n".encode() + body + b"\r\n" if answer.chunked else body)
            if answer.chunked and answer.cut is None:
                self.wfile.write(b"0\r\n\r\n")
            self.wfile.flush()
            while answer.trickles and not site.ended.wait(0.02):
                self.wfile.write(b".")
                self.wfile.flush()
            self.close_connection = self.close_connection or answer.cut is not None

    server = ThreadingHTTPServer((address, port), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    site = Site(f"http://{address}:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield site
    finally:
        site.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()
