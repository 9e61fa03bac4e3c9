"""Many at once: an object is created by exactly one, and no compare-and-swap is lost."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from mmmeta_core.remotes import ABSENT, Remote, S3Options, S3Remote, open_remote

from .proxy import Lose, Request, running

RACERS = 4
SECONDS = 60


def race(url: str, verb: str, times: int) -> dict[int, list[str]]:
    """Run so many processes at once; return by process id what each of them achieved."""
    command = [sys.executable, str(Path(__file__).with_name("racer.py")), url, verb, str(times)]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(RACERS)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        reports = [json.loads(process.communicate(timeout=SECONDS)[0]) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    return {report["pid"]: report["mine"] for report in reports}


def together(work: Callable[[int], Any], threads: int) -> list[Any]:
    """Run `work(0)`, `work(1)`, … in threads that begin at the same moment."""
    barrier = threading.Barrier(threads)

    def begin(n: int) -> Any:
        barrier.wait(SECONDS)
        return work(n)

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(begin, range(threads)))


def create(remote: Remote, name: str, me: int) -> bool:
    return remote.create(name, b"%d" % me)


def swap(remote: Remote, last: str, me: int) -> str | None:
    return remote.write("head", f"{me} after {last}".encode(), if_match=last)


def content(remote: Remote, name: str) -> bytes:
    found = remote.read(name)
    assert found is not None
    return found.data


class TestProcesses:
    def test_each_object_is_created_by_exactly_one(self, remote_url: str) -> None:
        won = race(remote_url, "create", 100)
        names = [f"log/{n:05}" for n in range(100)]
        assert Counter(name for mine in won.values() for name in mine) == Counter(names)
        remote = open_remote(remote_url)
        assert list(remote.names("")) == names
        for pid, mine in won.items():
            assert {content(remote, name) for name in mine} <= {str(pid).encode()}

    def test_a_log_has_no_gap_and_loses_nobodys_entry(self, remote_url: str) -> None:
        won = race(remote_url, "append", 25)
        names = [f"log/{n:05}" for n in range(RACERS * 25)]
        assert sorted(name for mine in won.values() for name in mine) == names
        assert list(open_remote(remote_url).names("")) == names

    def test_no_update_by_compare_and_swap_is_lost(self, remote_url: str) -> None:
        won = race(remote_url, "increment", 25)
        total = RACERS * 25
        assert sorted(int(value) for mine in won.values() for value in mine) == list(range(1, total + 1))
        assert content(open_remote(remote_url), "counter") == str(total).encode()


class TestThreads:
    def test_each_object_is_created_by_exactly_one(self, remote_url: str) -> None:
        remote = open_remote(remote_url)
        for n in range(10):
            won = together(partial(create, remote, f"log/{n}"), 8)
            assert won.count(True) == 1
            assert won.count(False) == 7
            assert content(remote, f"log/{n}") == b"%d" % won.index(True)

    def test_a_write_with_a_condition_is_won_by_exactly_one(self, remote_url: str) -> None:
        remote = open_remote(remote_url)
        last = ABSENT
        for _ in range(10):
            before = last
            etags = together(partial(swap, remote, last), 8)
            (last,) = [etag for etag in etags if etag is not None]
            assert content(remote, "head") == f"{etags.index(last)} after {before}".encode()
            assert remote.read("head", etag=last) is None

    def test_a_create_and_a_write_where_there_is_none_exclude_each_other(self, remote_url: str) -> None:
        remote = open_remote(remote_url)
        for n in range(10):

            def work(me: int, name: str = f"a/{n}") -> bool:
                if me % 2:
                    return remote.create(name, b"%d" % me)
                return remote.write(name, b"%d" % me, if_match=ABSENT) is not None

            won = together(work, 6)
            assert won.count(True) == 1
            assert content(remote, f"a/{n}") == b"%d" % won.index(True)

    def test_new_folders_are_no_obstacle(self, remote_url: str) -> None:
        remote = open_remote(remote_url)
        assert together(lambda me: remote.create(f"a/b/c/d/{me}", b"x"), 16) == [True] * 16
        assert len(list(remote.names("a/b/c/d/"))) == 16


def test_exactly_one_wins_where_each_first_reply_is_lost(s3_endpoint: str, bucket: str) -> None:
    seen: set[str] = set()

    def lose_the_first(request: Request) -> Lose | None:
        writer = request.headers.get("x-amz-meta-mmmeta-write", "")
        if not writer or writer in seen:
            return None
        seen.add(writer)
        return Lose()

    with running(s3_endpoint) as proxy:
        proxy.before = lose_the_first
        remote = S3Remote(f"s3://{bucket}/base", S3Options(endpoint_url=proxy.url))
        for n in range(4):
            won = together(partial(create, remote, f"log/{n}"), 6)
            assert won.count(True) == 1
            assert content(remote, f"log/{n}") == b"%d" % won.index(True)
        assert len(seen) == 24
