"""Run one verb of a metadir and be killed with SIGKILL at its n-th step; 0: count the steps and print them.

    killed.py STEP VERB METADIR FILES_ROOT REMOTE

A step is whatever can leave something behind: a file that is opened, linked, renamed or removed, an SQL statement that
begins, a piece of an HTTP request that is sent.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from typing import Any

EVENTS = frozenset({"open", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "http.client.send"})


class Steps:
    def __init__(self, deadly: int, base: str) -> None:
        self.deadly = deadly
        self.base = base
        self.taken = 0

    def take(self) -> None:
        self.taken += 1
        if self.taken == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "http.client.send" or (event in EVENTS and str(arguments[0]).startswith(self.base)):
            self.take()


def main() -> None:
    step, verb, metadir, files_root, remote = sys.argv[1:]
    from mmmeta_core import mmmeta

    steps = Steps(int(step), os.path.commonpath([metadir, files_root]))
    connect = sqlite3.connect

    def traced(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*arguments, **options)
        connection.set_trace_callback(lambda statement: steps.take())
        return connection

    sqlite3.connect = traced  # type: ignore[assignment]
    sys.addaudithook(steps.hear)
    with mmmeta(metadir, files_root=files_root, remote=remote) as m:
        getattr(m, verb)()
    print(steps.taken)


if __name__ == "__main__":
    main()
