"""A PostgreSQL server on loopback, of this test run alone."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ON_POSTGRES = os.environ.get("MMMETA_TEST_STATE") == "postgresql"
"""Whether each metadir's state is to lie on a PostgreSQL server: make test-postgres."""

_DEBIAN = Path("/usr/lib/postgresql")


def programs() -> Path:
    """The folder of the newest server's programs: Debian keeps them off the PATH."""
    found = sorted(
        _DEBIAN.glob("*/bin/postgres"), key=lambda path: [int(n) for n in re.findall(r"\d+", str(path))]
    )
    if found:
        return found[-1].parent
    on_path = shutil.which("postgres")
    if on_path is None:
        raise RuntimeError("there is no PostgreSQL server here: apt-get install postgresql")
    return Path(on_path).resolve().parent


class Postgres:
    """One server: `start`, `stop`, `url()`. Its data is thrown away."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # The server refuses to run as root.
        self._user = "nobody" if os.geteuid() == 0 else None
        if self._user:
            entry = pwd.getpwnam(self._user)
            os.chown(folder, entry.pw_uid, entry.pw_gid)
        self._run(
            "initdb",
            "--auth=trust",
            "--username=mmmeta",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--no-sync",
            "data",
        )
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._server: subprocess.Popen[bytes] | None = None

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [programs() / program, *arguments],
            cwd=self.folder,
            user=self._user,
            group=None,
            capture_output=True,
        )
        assert done.returncode == 0, done.stderr.decode()

    def start(self) -> None:
        options = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "fsync": "off",
            "max_connections": "300",
            "shared_buffers": "64MB",
            "log_min_messages": "fatal",
        }
        self._server = subprocess.Popen(
            [
                programs() / "postgres",
                "-D",
                "data",
                *(f"-c{name}={value}" for name, value in options.items()),
            ],
            cwd=self.folder,
            user=self._user,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C in a test is not for the server
        )
        until = time.monotonic() + 60
        while subprocess.run(
            [programs() / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)], check=False
        ).returncode:
            assert self._server.poll() is None, "the server ended"
            assert time.monotonic() < until, "the server does not come up"
            time.sleep(0.05)

    def stop(self, how: int = signal.SIGINT) -> None:
        """End it: SIGINT lets go of clients, SIGQUIT is a crash."""
        assert self._server is not None
        self._server.send_signal(how)
        self._server.wait()

    def url(self, schema: str = "public", database: str = "postgres", user: str = "mmmeta") -> str:
        return f"postgresql+psycopg://{user}@127.0.0.1:{self.port}/{database}?schema={schema}"


@contextmanager
def running() -> Iterator[Postgres]:
    # Not below pytest's own folder, which only its user may enter.
    with tempfile.TemporaryDirectory(
        prefix="mmmeta-postgres-", dir="/tmp", ignore_cleanup_errors=True
    ) as folder:
        server = Postgres(Path(folder))
        server.start()
        try:
            yield server
        finally:
            server.stop(signal.SIGQUIT)
