"""Servers of these tests alone, on loopback and free ports, that leave nothing behind."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

PATIENCE = 60


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
def serving(command: Sequence[str | Path], port: int, *, user: str | None = None) -> Iterator[None]:
    server = subprocess.Popen(
        command, user=user, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )

    def is_up() -> bool:
        assert server.poll() is None, f"{command[0]} ended"
        return listens(port)

    try:
        until(is_up, str(command[0]))
        yield
    finally:
        server.send_signal(signal.SIGQUIT)
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


@contextmanager
def postgres() -> Iterator[str]:
    """Run a PostgreSQL server; give its URL, without the name of a database."""
    found = Path("/usr/lib/postgresql").glob("*/bin/postgres")
    by_version = sorted(found, key=lambda path: [int(number) for number in re.findall(r"\d+", str(path))])
    on_path = shutil.which("postgres")
    assert by_version or on_path, "there is no PostgreSQL server here: apt-get install postgresql"
    programs = by_version[-1].parent if by_version else Path(str(on_path)).resolve().parent
    user = "nobody" if os.geteuid() == 0 else None  # the server does not run as root
    # Not below pytest's own folder, which only its user may enter.
    with tempfile.TemporaryDirectory(prefix="mmmeta-postgres-", ignore_cleanup_errors=True) as folder:
        if user:
            shutil.chown(folder, user)
        data = Path(folder) / "data"
        options = ["--auth=trust", "--username=mmmeta", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"]
        subprocess.run(
            [programs / "initdb", *options, data],
            user=user,
            cwd=folder,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        port = free_port()
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(port),
            "unix_socket_directories": "",
            "fsync": "off",
            "max_connections": "200",
        }
        server = [
            programs / "postgres",
            "-D",
            data,
            *(f"-c{name}={value}" for name, value in settings.items()),
        ]
        with serving(server, port, user=user):
            ready = [programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
            until(lambda: subprocess.run(ready).returncode == 0, "PostgreSQL")
            yield f"postgresql://mmmeta@127.0.0.1:{port}"
