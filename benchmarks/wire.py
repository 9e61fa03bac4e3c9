"""The server alone: its objects asked for, or sent to it, by threads that do nothing else with them.

python benchmarks/wire.py get|put HOST:PORT PREFIX FOLDER THREADS prints the seconds. Requests are not signed.
"""

from __future__ import annotations

import http.client
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PIECE = 1 << 20
TRIES = 3


def main() -> None:
    what, server, prefix, folder, threads = sys.argv[1:]
    files = [(path.name, path) for path in Path(folder).iterdir()]
    shares = [files[at :: int(threads)] for at in range(int(threads))]

    def ask(connection: http.client.HTTPConnection, name: str, path: Path) -> int:
        with path.open("rb") as file:
            headers = {"Content-Length": str(path.stat().st_size)} if what == "put" else {}
            connection.request(what.upper(), f"/{prefix}/{name}", file if what == "put" else None, headers)
            answer = connection.getresponse()
            while answer.read(PIECE):
                pass
            return answer.status

    def share(some: list[tuple[str, Path]]) -> None:
        connection = http.client.HTTPConnection(server)
        for name, path in some:
            # Asked again like the other programs do: a server may fail at a folder that several requests need first.
            answers = (ask(connection, name, path) for _ in range(TRIES))
            assert any(status == 200 for status in answers), name
        connection.close()

    started = time.perf_counter()
    with ThreadPoolExecutor(int(threads)) as pool:
        list(pool.map(share, filter(None, shares)))
    print(time.perf_counter() - started)


if __name__ == "__main__":
    main()
