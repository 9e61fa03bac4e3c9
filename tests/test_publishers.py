"""Several publishers, each a process of its own, at the same time: every push is there, once, and none is lost."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from mmmeta_core import mmmeta
from mmmeta_core.remotes import Remote, open_remote

PUBLISHERS = 4
PUSHES = 6

PUBLISHER = """
import json, sys
from mmmeta_core import mmmeta

path, remote, me, pushes = sys.argv[1:]
revisions = []
with mmmeta(path, remote=remote) as m:
    m.files.upsert({"content_hash": f"{me}-0", "number": 0}, ["content_hash"])
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(int(pushes)):
        m.files.upsert({"content_hash": f"{me}-{number}", "number": number}, ["content_hash"])
        m.files.upsert({"content_hash": "shared", f"by_{me}": number, "latest": me}, ["content_hash"])
        m.store[f"count_{me}"] = number
        pushed = m.push()
        assert pushed.published, pushed
        revisions.append(pushed.revision)
print(json.dumps(revisions))
"""


def publish_at_once(folder: Path, remote: str) -> list[list[int]]:
    """Run the publishers; return the revisions that each of them published."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PUBLISHER, str(folder / f"publisher{me}"), remote, str(me), str(PUSHES)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for me in range(PUBLISHERS)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        return [json.loads(process.communicate(timeout=120)[0]) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def segments(remote: Remote, folder: Path) -> list[list[Any]]:
    found = []
    for name in remote.names("_mmmeta/log/"):
        remote.fetch(name, folder / "segment")
        found.append(
            [json.loads(line) for line in gzip.decompress((folder / "segment").read_bytes()).splitlines()]
        )
    return found


def test_publishers_at_once_lose_nothing(tmp_path: Path, remote_url: str) -> None:
    total = PUBLISHERS * PUSHES
    published = publish_at_once(tmp_path, remote_url)
    assert sorted(revision for revisions in published for revision in revisions) == list(range(1, total + 1))
    assert all(revisions == sorted(revisions) for revisions in published)

    remote = open_remote(remote_url)
    log = segments(remote, tmp_path)
    assert [header["revision"] for header, *_ in log] == list(range(1, total + 1))
    assert len({header["archive"] for header, *_ in log}) == 1
    assert len({header["commit"] for header, *_ in log}) == total
    times = [header["store"]["remote_last_updated"] for header, *_ in log]
    assert times == sorted(set(times))
    added = [line["key"] for _, *lines, _ in log for line in lines if line["key"] != "shared"]
    expected = [f"{me}-{number}" for me in range(PUBLISHERS) for number in range(PUSHES)]
    assert sorted(added) == sorted(expected)

    head = remote.read("_mmmeta/head.json")
    assert head is not None
    assert json.loads(head.data)["revision"] == total
    with mmmeta(tmp_path / "client", remote=remote) as client:
        assert client.pull().revision == total
        client.update()
        assert {file["content_hash"] for file in client.files.find()} == {*expected, "shared"}
        shared = client.files.find_one(content_hash="shared")
        assert shared is not None
        assert [shared[f"by_{me}"] for me in range(PUBLISHERS)] == [PUSHES - 1] * PUBLISHERS
        said = [
            line["set"].get("latest") for _, *lines, _ in log for line in lines if line["key"] == "shared"
        ]
        assert shared["latest"] == [latest for latest in said if latest][-1]
        for me in range(PUBLISHERS):
            assert client.store[f"count_{me}"] == PUSHES - 1
            there = remote.read(f"_mmmeta/_store/count_{me}")
            assert there is not None
            assert there.data == str(PUSHES - 1).encode()
        assert client.store["remote_last_updated"] == client.poll().remote == client.poll().handled
