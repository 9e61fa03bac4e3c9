"""Stores that lose replies, refuse, answer in part or of the past: all is there in the end, once, and nothing is lost.

With `MMMETA_ROUNDS=n` in the environment n storms are weathered.
"""

from __future__ import annotations

import gzip
import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from remotes.proxy import (
    ABSENT,
    Cut,
    Delay,
    Fault,
    Lose,
    Proxy,
    Recall,
    Refuse,
    Relabel,
    Request,
    Shorten,
    Storm,
    running,
)

from mmmeta_core import ConflictError, LogError, Metadir, RemoteError, RemoteUnreachableError, mmmeta
from mmmeta_core.remotes import Remote, open_remote, s3_client
from mmmeta_core.sync import hints, segments

ROUNDS = int(os.environ.get("MMMETA_ROUNDS", "1"))
SEGMENT = "_mmmeta/log/{:020d}.jsonl.gz"
HEAD = "_mmmeta/head.json"

Open: TypeAlias = Callable[[str], Metadir]


@pytest.fixture(scope="module")
def liar(s3_endpoint: str) -> Iterator[Proxy]:
    with running(s3_endpoint) as started:
        yield started


@pytest.fixture
def proxy(liar: Proxy, monkeypatch: pytest.MonkeyPatch) -> Proxy:
    """A store that does what a test says, and is asked once for everything: what botocore asks for again never gets here."""
    monkeypatch.setattr(s3_client, "ATTEMPTS", 1)
    monkeypatch.setattr(segments, "WAITS", (0.01, 0.01, 0.01))
    liar.before = lambda request: None
    return liar


@pytest.fixture
def direct(bucket: str, s3_endpoint: str) -> Remote:
    """The archive as it is."""
    return open_remote(f"s3://{bucket}/archive?endpoint={s3_endpoint}")


@pytest.fixture
def opened(tmp_path: Path, bucket: str, proxy: Proxy) -> Iterator[Open]:
    """Open metadirs whose remote is the store that lies."""
    metadirs: list[Metadir] = []

    def open_one(name: str) -> Metadir:
        metadirs.append(mmmeta(tmp_path / name, remote=f"s3://{bucket}/archive?endpoint={proxy.url}"))
        return metadirs[-1]

    yield open_one
    for m in metadirs:
        m.close()


def log_of(remote: Remote, folder: Path) -> list[list[dict[str, Any]]]:
    found = []
    for name in remote.names("_mmmeta/log/"):
        remote.fetch(name, folder / "segment")
        lines = gzip.decompress((folder / "segment").read_bytes()).splitlines()
        found.append([json.loads(line) for line in lines])
    return found


def on(method: str, ending: str, *faults: Fault) -> Callable[[Request], Fault]:
    """Do this to the first requests of this kind, one each."""
    left = list(faults)

    def before(request: Request) -> Fault:
        is_meant = request.method == method and request.path.partition("?")[0].endswith(ending)
        return left.pop(0) if is_meant and left else None

    return before


@pytest.mark.parametrize(
    "fault",
    [
        Lose(),
        Refuse(409, "ConditionalRequestConflict"),
        Refuse(412, "PreconditionFailed"),
        Delay(0.01),
        Relabel(),
    ],
    ids=lambda fault: getattr(fault, "code", type(fault).__name__),
)
def test_a_commit_is_made_once_whatever_the_store_says_of_it(
    opened: Open, proxy: Proxy, direct: Remote, tmp_path: Path, fault: Fault
) -> None:
    publisher = opened("publisher")
    publisher.files.insert(content_hash="a")
    proxy.before = on("PUT", SEGMENT.format(1), fault)
    assert publisher.push().revision == 1
    assert (publisher.inspect().pending, publisher.push().published) == (0, False)
    assert [[line["key"] for line in lines] for _, *lines, _ in log_of(direct, tmp_path)] == [["a"]]


@pytest.mark.parametrize("fault", [Refuse(503, "SlowDown"), Refuse(429, "TooMany")])
def test_a_commit_that_was_refused_is_made_with_the_next_push(
    opened: Open, proxy: Proxy, direct: Remote, tmp_path: Path, fault: Fault
) -> None:
    publisher = opened("publisher")
    publisher.files.insert(content_hash="a")
    proxy.before = on("PUT", SEGMENT.format(1), fault)
    with pytest.raises(RemoteUnreachableError, match="try again later"):
        publisher.push()
    assert publisher.inspect().pending == 1
    assert publisher.push().revision == 1
    assert len(log_of(direct, tmp_path)) == 1


def test_a_commit_whose_reply_and_whose_recognition_are_lost_is_recognised_by_the_next_push(
    opened: Open, proxy: Proxy, direct: Remote, tmp_path: Path
) -> None:
    publisher = opened("publisher")
    publisher.files.insert(content_hash="a", title="A")
    lost = on("PUT", SEGMENT.format(1), Lose())
    unread = on("GET", SEGMENT.format(1), None, Lose())
    proxy.before = lambda request: lost(request) or unread(request)
    with pytest.raises(RemoteUnreachableError):
        publisher.push()
    publisher.files.upsert({"content_hash": "a", "title": "B"})
    assert publisher.push().revision == 2
    publisher.update()
    assert [[line["set"]["title"] for line in lines] for _, *lines, _ in log_of(direct, tmp_path)] == [
        ["A"],
        ["B"],
    ]


@pytest.mark.parametrize(("what", "to"), [(SEGMENT.format(2), 40), (HEAD, 0)])
def test_what_came_in_part_though_the_store_calls_it_whole_is_asked_for_again(
    opened: Open, proxy: Proxy, what: str, to: int
) -> None:
    publisher, client = opened("publisher"), opened("client")
    publish(publisher, "a")
    client.pull()
    publish(publisher, "b")
    proxy.before = on("GET", what, Shorten(to))
    assert client.pull().documents == 1
    publish(publisher, "c")
    proxy.before = lambda request: Shorten(to) if request.method == "GET" and "head" in request.path else None
    with pytest.raises(LogError, match=r"head\.json is damaged"):
        client.pull()
    assert client.revision == 2
    proxy.before = lambda request: None
    assert client.pull().documents == 1


@pytest.mark.parametrize(("what", "after"), [(SEGMENT.format(2), 20), (HEAD, 0)])
def test_what_is_cut_off_leaves_the_last_good_revision(
    opened: Open, proxy: Proxy, what: str, after: int
) -> None:
    publisher, client = opened("publisher"), opened("client")
    publish(publisher, "a")
    client.pull()
    publish(publisher, "b")
    proxy.before = on("GET", what, Cut(after))
    with pytest.raises(RemoteUnreachableError, match=r"No complete answer about s3://"):
        client.pull()
    assert client.revision == 1
    assert client.pull().documents == 1


def test_a_segment_that_is_said_not_to_be_there_is_waited_for(opened: Open, proxy: Proxy) -> None:
    publisher, client = opened("publisher"), opened("client")
    publish(publisher, "a")
    client.pull()
    publish(publisher, "b")
    proxy.before = on("GET", SEGMENT.format(2), ABSENT, ABSENT, ABSENT)
    assert client.pull().documents == 1
    publish(publisher, "c")
    proxy.before = on("GET", SEGMENT.format(3), *[ABSENT] * 4)
    with pytest.raises(
        LogError, match=r"is missing, but head\.json names revision 3; nothing after revision 2"
    ):
        client.pull()
    assert (client.revision, client.pull().documents) == (2, 1)


def test_a_head_of_the_past_takes_nobody_back(opened: Open, proxy: Proxy) -> None:
    publisher, client, newcomer = opened("publisher"), opened("client"), opened("newcomer")
    for key in "abc":
        publish(publisher, key)
        client.pull()
    proxy.before = lambda request: (
        Recall() if request.method == "GET" and request.path.endswith(HEAD) else None
    )
    assert (client.pull().revision, newcomer.pull().revision) == (3, 3)
    publisher.files.insert(content_hash="d")
    assert publisher.push().revision == 4, "its hints may lag"
    assert (client.pull().revision, newcomer.pull().revision) == (4, 4)
    proxy.before = lambda request: None
    assert publisher.push().published is False
    found = client.remote_head()
    assert found is not None
    assert (found.revision, client.pull().unchanged) == (4, True)


def test_a_publisher_who_is_shown_the_past_publishes_on_top_of_the_present(
    opened: Open, proxy: Proxy, direct: Remote, tmp_path: Path
) -> None:
    one, other = opened("one"), opened("other")
    publish(one, "a")
    other.pull()
    publish(one, "b")
    other.files.insert(content_hash="c")
    stale = on("GET", HEAD, Recall())
    absent = on("GET", SEGMENT.format(2), ABSENT)
    proxy.before = lambda request: stale(request) or absent(request)
    assert other.push().revision == 3
    assert [lines[1]["key"] for lines in log_of(direct, tmp_path)] == ["a", "b", "c"]


def test_a_snapshot_that_is_larger_than_head_says_is_not_stored(
    opened: Open, proxy: Proxy, direct: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hints, "_SNAPSHOT_SEGMENTS", 1)
    publisher, client = opened("publisher"), opened("client")
    for key in "abcde":
        publish(publisher, key)
    good = tmp_path / "snapshot"
    size = direct.fetch("_mmmeta/meta.db", good)

    def swap(request: Request) -> Fault:
        """Put a larger one there between the look at its size and the fetch."""
        if request.method == "GET" and request.path.endswith("meta.db"):
            direct.write("_mmmeta/meta.db", good.read_bytes() + bytes(10_000_000))
        return None

    proxy.before = swap
    with pytest.raises(RemoteError, match=rf"meta\.db' in .* more than the {size:,} that are taken"):
        client.pull()
    assert (client.revision, list(client.paths.root.glob(".tmp-*"))) == (0, [])
    assert client.pull().revision == 5, "the log is whole"


def test_documents_reach_the_archive_and_come_back_whole(
    opened: Open, proxy: Proxy, direct: Remote, tmp_path: Path
) -> None:
    """An upload counts when the archive has it, a download when its content is what the publisher says."""
    folder = tmp_path / "documents"
    folder.mkdir()
    for n in range(6):
        (folder / f"{n}.txt").write_text(f"document {n}")
    publisher = mmmeta(tmp_path / "publisher", files_root=folder, remote=opened("x").remote or direct)
    publisher.generate(no_meta=True)
    faults = [Lose(), Refuse(503, "SlowDown"), Relabel(), Delay(0.01)]
    uploads = on("PUT", ".txt", *faults)
    looks = on("HEAD", ".txt", ABSENT, Lose())
    proxy.before = lambda request: uploads(request) or looks(request)
    for _ in range(10):
        try:
            if publisher.push(files=True).files == publisher.push(files=True).files:
                break
        except RemoteUnreachableError:
            continue
    publisher.close()
    assert {name for name in direct.names("") if name.endswith(".txt")} == {f"{n}.txt" for n in range(6)}
    client = opened("client")
    client.sync()
    gets = on("GET", ".txt", Cut(3), Shorten(4), Refuse(503, "SlowDown"), ABSENT, Relabel())
    proxy.before = gets
    for _ in range(10):
        client.retry_failed("downloaded")
        if client.download(tmp_path / "out").left == 0:
            break
    assert {path.name: path.read_text() for path in (tmp_path / "out").iterdir()} == {
        f"{n}.txt": f"document {n}" for n in range(6)
    }


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_in_any_storm_all_is_there_exactly_once(
    opened: Open, proxy: Proxy, direct: Remote, tmp_path: Path, seed: int
) -> None:
    storm = Storm(seed, 0.2)
    pushes, publishers, clients = (
        3 if ROUNDS == 1 else 6,
        [opened("one"), opened("other")],
        [opened("client")],
    )
    over = threading.Event()

    def publish_all(me: int) -> None:
        m = publishers[me]
        for number in range(pushes):
            m.files.upsert({"content_hash": f"{me}-{number}", "number": number})
            m.files.upsert({"content_hash": "shared", f"by_{me}": number})
            m.store[f"count_{me}"] = number
            weathered(m.push)
            assert m.inspect().pending == 0

    def follow(m: Metadir) -> None:
        seen = 0
        while not over.is_set():
            with suppress(RemoteError, LogError):
                m.pull(probe=True)
            m.update()
            assert m.revision >= seen
            seen = m.revision
            shared = m.files.get("shared")
            for me in range(2):
                # Whole revisions only: what was published together is seen together.
                newest = shared.get(f"by_{me}") if shared is not None else None
                assert (
                    m.files.count(content_hash={"startswith": f"{me}-"})
                    == (-1 if newest is None else newest) + 1
                )
                assert m.store.get(f"count_{me}") == newest

    for m in publishers:
        m.files.count()
        weathered(m.push)
    proxy.before = storm
    with ThreadPoolExecutor(3) as pool:
        following = [pool.submit(follow, m) for m in clients]
        publishing = [pool.submit(publish_all, me) for me in range(2)]
        try:
            for one in publishing:
                one.result(300)
        finally:
            over.set()
        for one in following:
            one.result(60)
    proxy.before = lambda request: None
    log = log_of(direct, tmp_path)
    assert [header["revision"] for header, *_ in log] == list(range(1, len(log) + 1))
    assert len(log) == 2 * pushes
    added = Counter(line["key"] for _, *lines, _ in log for line in lines)
    assert added == {**{f"{me}-{n}": 1 for me in range(2) for n in range(pushes)}, "shared": 2 * pushes}
    for m in (*publishers, *clients, opened("newcomer")):
        m.push()
        m.sync()
        assert {f.key: f.get("number") for f in m.files if f.key != "shared"} == {
            f"{me}-{n}": n for me in range(2) for n in range(pushes)
        }
        shared = m.files.get("shared")
        assert shared is not None
        assert (shared["by_0"], shared["by_1"]) == (pushes - 1, pushes - 1)
        assert m.store["count_0"] == m.store["count_1"] == pushes - 1
        assert m.verify().findings == ()
    assert len(storm.met) > 5, storm.met


def weathered(do: Callable[[], object]) -> None:
    """Do it until it is done. All that may go wrong is an error of the remote's, or of what came from there."""
    for _ in range(200):
        try:
            do()
        except (RemoteError, LogError, ConflictError):
            continue
        return
    pytest.fail("the storm did not pass")


def publish(m: Metadir, key: str) -> None:
    m.files.insert(content_hash=key)
    m.push()
