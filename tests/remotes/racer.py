"""One of several processes that race for objects: `python racer.py URL VERB TIMES`, then a line on stdin starts it."""

from __future__ import annotations

import json
import os
import sys

from mmmeta_core.remotes import ABSENT, Remote, open_remote


def create(remote: Remote, times: int) -> list[str]:
    """Try to create the same objects as everybody; return those that this process created."""
    me = str(os.getpid()).encode()
    return [name for name in (f"log/{n:05}" for n in range(times)) if remote.create(name, me)]


def append(remote: Remote, times: int) -> list[str]:
    """Create the next object that is not there, as publishers do; return those that this process created."""
    mine: list[str] = []
    n = 0
    while len(mine) < times:
        name = f"log/{n:05}"
        if remote.create(name, str(os.getpid()).encode()):
            mine.append(name)
        n += 1
    return mine


def increment(remote: Remote, times: int) -> list[str]:
    """Add to a counter by compare-and-swap; return what this process made of it."""
    mine: list[str] = []
    while len(mine) < times:
        stat = remote.stat("counter")
        blob = remote.read("counter") if stat else None
        value = (blob.data if blob else b"0").decode()
        new = str(int(value) + 1)
        if remote.write("counter", new.encode(), if_match=blob.etag if blob else ABSENT) is not None:
            mine.append(new)
    return mine


def main() -> None:
    url, verb, times = sys.argv[1:]
    remote = open_remote(url)
    remote.check()
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps({"pid": os.getpid(), "mine": globals()[verb](remote, int(times))}))


if __name__ == "__main__":
    main()
