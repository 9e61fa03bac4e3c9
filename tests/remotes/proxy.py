"""A real HTTP proxy on loopback in front of a real S3 server, which loses replies, cuts them short, or refuses."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: Message


@dataclass(frozen=True)
class Lose:
    """Let the request reach the server, and end the connection instead of answering."""


@dataclass(frozen=True)
class Cut:
    """Let the request reach the server, and end the connection after so many bytes of the answer's body."""

    after: int


@dataclass(frozen=True)
class Refuse:
    """Answer in place of the server, as S3 does."""

    status: int
    code: str
    message: str = "said the test"


Fault = Lose | Cut | Refuse | None


@dataclass
class Proxy:
    """What `before` answers to the requests, in their order, is done to them; `after` runs before a reply is lost."""

    target: str
    before: Callable[[Request], Fault] = lambda request: None
    after: Callable[[Request], None] = lambda request: None
    seen: list[Request] = field(default_factory=list)
    url: str = ""

    def once(self, method: str, fault: Fault) -> None:
        """Do this to the next request of this method only."""
        left = [fault]
        self.before = lambda request: left.pop() if request.method == method and left else None

    def methods(self) -> list[str]:
        return [request.method for request in self.seen]


@contextmanager
def running(target: str) -> Iterator[Proxy]:
    proxy = Proxy(target)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(proxy))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    proxy.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield proxy
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _handler(proxy: Proxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            self.close_connection = True
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            request = Request(self.command, self.path, self.headers)
            proxy.seen.append(request)
            fault = proxy.before(request)
            if isinstance(fault, Refuse):
                text = f"<Error><Code>{fault.code}</Code><Message>{fault.message}</Message></Error>".encode()
                self.answer(fault.status, [("Content-Type", "application/xml")], text, len(text))
                return
            status, headers, data = self.forward(body)
            if isinstance(fault, Lose):
                proxy.after(request)
                return
            shown = data[: fault.after] if isinstance(fault, Cut) else data
            self.answer(status, headers, shown, len(data))

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_any  # noqa: N815

        def forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
            connection = http.client.HTTPConnection(urlsplit(proxy.target).netloc)
            skipped = ("connection", "expect", "transfer-encoding")
            headers = {k: v for k, v in self.headers.items() if k.lower() not in skipped}
            connection.request(self.command, self.path, body, headers)
            reply = connection.getresponse()
            data = reply.read()
            connection.close()
            return reply.status, reply.getheaders(), data

        def answer(self, status: int, headers: list[tuple[str, str]], data: bytes, size: int) -> None:
            self.send_response_only(status)
            for name, value in headers:
                if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                    self.send_header(name, value)
            length = dict(headers).get("Content-Length", "0") if self.command == "HEAD" else str(size)
            self.send_header("Content-Length", length)
            self.send_header("Connection", "close")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    return Handler
