"""A real HTTP proxy on loopback in front of a real S3 server, which loses replies, cuts them short, refuses, or lies.

What is done to which request says a function (`before`), or chance, by a seed (`Storm`).
"""

from __future__ import annotations

import http.client
import random
import threading
import time
from collections import Counter
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


@dataclass(frozen=True)
class Shorten:
    """Send so many bytes of the answer's body, and say that this is all."""

    to: int


@dataclass(frozen=True)
class Delay:
    """Answer later, and in two pieces."""

    seconds: float


@dataclass(frozen=True)
class Relabel:
    """Say another etag than the object has."""

    etag: str = '"lie"'


@dataclass(frozen=True)
class Recall:
    """Answer what was answered the last time but one that something else was there, as a cache does; else the truth."""


Fault = Lose | Cut | Refuse | Shorten | Delay | Relabel | Recall | None

ABSENT = Refuse(404, "NoSuchKey")
"""There is no such object, says the store, whether there is or not."""


@dataclass
class Proxy:
    """What `before` answers to the requests, in their order, is done to them; `after` runs before a reply is lost."""

    target: str
    before: Callable[[Request], Fault] = lambda request: None
    after: Callable[[Request], None] = lambda request: None
    seen: list[Request] = field(default_factory=list)
    url: str = ""
    past: dict[str, list[tuple[int, list[tuple[str, str]], bytes]]] = field(default_factory=dict)
    """What was answered to each GET that `Recall` may answer again."""

    def once(self, method: str, fault: Fault) -> None:
        """Do this to the next request of this method only."""
        left = [fault]
        self.before = lambda request: left.pop() if request.method == method and left else None

    def methods(self) -> list[str]:
        return [request.method for request in self.seen]


class Storm:
    """Faults by chance: a `share` of all requests meet one that can happen to them. `met` counts them by their kind."""

    def __init__(self, seed: int, share: float) -> None:
        self.dice = random.Random(seed)  # noqa: S311 - it decides what goes wrong
        self.share = share
        self.met: Counter[str] = Counter()
        self.lock = threading.Lock()

    def __call__(self, request: Request) -> Fault:
        with self.lock:
            if self.dice.random() >= self.share:
                return None
            fault = self.dice.choice(self._possible(request))
            name = fault.code if isinstance(fault, Refuse) else type(fault).__name__
            self.met[f"{request.method} {name}"] += 1
            return fault

    def _possible(self, request: Request) -> list[Fault]:
        faults: list[Fault] = [
            *(Lose(), Delay(0.01), Relabel(), Refuse(500, "InternalError")),
            *(Refuse(503, "SlowDown"), Refuse(429, "TooManyRequests")),
        ]
        if request.method == "GET" and "list-type" not in request.path:
            faults += [
                ABSENT,
                Recall(),
                Cut(0),
                Cut(self.dice.randrange(400)),
                Shorten(self.dice.randrange(400)),
            ]
        if request.method == "PUT" and {"if-none-match", "if-match"} & {h.lower() for h in request.headers}:
            faults += [Refuse(409, "ConditionalRequestConflict"), Refuse(412, "PreconditionFailed")]
        return faults


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


Reply = tuple[int, list[tuple[str, str]], bytes]


def _recalled(proxy: Proxy, request: Request, fault: Fault, reply: Reply) -> Reply:
    past = proxy.past.setdefault(request.path, [])
    if reply[0] == 200 and (not past or past[-1][2] != reply[2]):
        past.append(reply)
    return past[-2] if isinstance(fault, Recall) and len(past) > 1 else reply


def _spoilt(
    fault: Fault, headers: list[tuple[str, str]], data: bytes
) -> tuple[list[tuple[str, str]], bytes, int]:
    """Return the headers, what is sent of the body, and how much of it is said to come."""
    if isinstance(fault, Cut):
        return headers, data[: fault.after], len(data)
    if isinstance(fault, Shorten):
        return headers, data[: fault.to], len(data[: fault.to])
    if isinstance(fault, Relabel):
        return [(k, fault.etag if k.lower() == "etag" else v) for k, v in headers], data, len(data)
    return headers, data, len(data)


def _forward(target: str, request: Request, body: bytes) -> Reply:
    connection = http.client.HTTPConnection(urlsplit(target).netloc)
    skipped = ("connection", "expect", "transfer-encoding")
    headers = {k: v for k, v in request.headers.items() if k.lower() not in skipped}
    connection.request(request.method, request.path, body, headers)
    reply = connection.getresponse()
    data = reply.read()
    connection.close()
    return reply.status, reply.getheaders(), data


def _delay(fault: Fault) -> float:
    return fault.seconds if isinstance(fault, Delay) else 0


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
            status, headers, data = _forward(proxy.target, request, body)
            if isinstance(fault, Lose):
                proxy.after(request)
                return
            if self.command == "GET":
                status, headers, data = _recalled(proxy, request, fault, (status, headers, data))
            headers, shown, size = _spoilt(fault, headers, data)
            self.answer(status, headers, shown, size, _delay(fault))

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_any  # noqa: N815

        def answer(
            self, status: int, headers: list[tuple[str, str]], data: bytes, size: int, delay: float = 0
        ) -> None:
            time.sleep(delay)
            self.send_response_only(status)
            for name, value in headers:
                if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                    self.send_header(name, value)
            length = dict(headers).get("Content-Length", "0") if self.command == "HEAD" else str(size)
            self.send_header("Content-Length", length)
            self.send_header("Connection", "close")
            self.end_headers()
            if self.command != "HEAD":
                half = len(data) // 2
                self.wfile.write(data[:half])
                time.sleep(delay)
                self.wfile.write(data[half:])

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    return Handler
