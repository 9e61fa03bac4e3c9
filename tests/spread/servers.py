"""A Redis server of these tests alone, on loopback, that leaves nothing behind; and waiting."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

PATIENCE = 300


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def until(is_so: Callable[[], object], what: str, patience: float = PATIENCE) -> None:
    """Wait for a condition, and say what was waited for when it does not come."""
    end = time.monotonic() + patience
    while not is_so():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.05)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def serving(command: Sequence[str | Path], port: int) -> Iterator[None]:
    server = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )

    def is_up() -> bool:
        assert server.poll() is None, f"{command[0]} ended"
        return listens(port)

    try:
        until(is_up, str(command[0]))
        yield
    finally:
        server.terminate()  # SIGQUIT is ignored below a shell's background job
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


@contextmanager
def redis() -> Iterator[str]:
    """Run a Redis server; give its URL, without the number of a database."""
    program = shutil.which("redis-server")
    assert program, "there is no redis-server here: apt-get install redis-server"
    port = free_port()
    options = ["--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no"]
    with tempfile.TemporaryDirectory() as folder, serving([program, *options, "--dir", folder], port):
        yield f"redis://127.0.0.1:{port}"
