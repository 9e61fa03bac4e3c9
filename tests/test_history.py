"""The log, what differs between two revisions, and the documents as they were."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from remotes.static import serving
from shell import mmmeta as shell
from test_sync import Tapped, publish, segment

from mmmeta_core import ConfigError, LogError, Metadir, RefusedError, mmmeta
from mmmeta_core.past import KEPT
from mmmeta_core.remotes import Remote, open_remote

on_folder = pytest.mark.parametrize("remote_url", ["folder"], indirect=True)
Open: TypeAlias = Callable[..., Metadir]


@pytest.fixture
def remote(remote_url: str) -> Remote:
    return open_remote(remote_url)


@pytest.fixture
def open_metadir(tmp_path: Path, remote: Remote) -> Iterator[Open]:
    opened = []

    def make(name: str, **arguments: Any) -> Metadir:
        opened.append(mmmeta(tmp_path / name, **{"remote": remote, **arguments}))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


def doc(key: str | int, **values: Any) -> dict[str, Any]:
    return {"content_hash": key, **values}


def tell(m: Metadir) -> None:
    """Publish a small history: two documents, changes, a deletion, a restoration, a store value."""
    publish(m, doc("a", title="A", pages=1), doc("b", title="B"))
    m.store["note"] = "x"
    publish(m, doc("a", title="A2", tags=["x"]), doc("c", title="C"))
    m.files.delete(content_hash="b")
    m.push()
    publish(m, doc("b", title="B again"))
    m.files.delete(content_hash="c")
    m.push()


def test_the_log_tells_who_published_what(open_metadir: Open) -> None:
    publisher, client = open_metadir("publisher"), open_metadir("client")
    before = datetime.now(UTC)
    tell(publisher)
    found = list(client.log())
    counts = [(r.revision, r.added, r.changed, r.deleted, r.restored) for r in found]
    assert counts == [(5, 0, 0, 1, 0), (4, 0, 0, 0, 1), (3, 0, 0, 1, 0), (2, 1, 1, 0, 0), (1, 2, 0, 0, 0)]
    assert [r.store for r in found][3:] == [("note", "remote_last_updated"), ("remote_last_updated",)]
    assert [r.columns for r in found][3:] == [("tags",), ("pages", "title")]
    assert all(r.at is not None and before <= r.at <= datetime.now(UTC) and "@" in r.by for r in found)
    assert [r.revision for r in client.log(limit=2)] == [5, 4]
    assert list(client.log(limit=0)) == []
    assert not (client.path / "_mmmeta").exists(), "looking at the log changes nothing"


@on_folder
def test_the_log_of_one_document(open_metadir: Open) -> None:
    publisher = open_metadir("publisher")
    tell(publisher)
    publish(publisher, doc(7, title="seven"), doc("7", title="text"))
    touches = [(t.revision, t.what, t.columns) for t in publisher.log(key="b")]
    assert touches == [(4, "restored", ("title",)), (3, "deleted", ()), (1, "added", ("title",))]
    assert [(t.revision, t.columns) for t in publisher.log(key="a", limit=1)] == [(2, ("tags", "title"))]
    assert list(publisher.log(key="nowhere")) == []
    assert len(list(publisher.log(key=7))) == len(list(publisher.log(key=["7", 7]))) == 1


@on_folder
def test_settings_are_in_the_log(open_metadir: Open, remote: Remote) -> None:
    publisher = open_metadir("publisher")
    publish(publisher, doc("a"))
    publisher.paths.config.write_text("metadata:\n  required: [title]\n")
    publisher.push()
    assert [r.config for r in publisher.log()] == [True, False]


def test_the_log_costs_one_request_a_segment(open_metadir: Open, remote: Remote) -> None:
    tell(open_metadir("publisher"))
    tapped = Tapped(remote)
    client = open_metadir("client", remote=tapped)
    next(client.log())
    assert tapped.requests == [
        ("read", "_mmmeta/head.json"),
        ("fetch", segment(6)),
        ("fetch", segment(5)),
    ]
    tapped.requests.clear()
    assert len(list(client.log())) == 5
    assert len(tapped.requests) == 1 + 1 + 5


@on_folder
def test_the_log_shows_what_a_lagging_head_does_not(open_metadir: Open, remote: Remote) -> None:
    publisher = open_metadir("publisher")
    publish(publisher, doc("a"))
    head = remote.read("_mmmeta/head.json")
    publish(publisher, doc("b"))
    publish(publisher, doc("c"))
    assert head is not None
    remote.write("_mmmeta/head.json", head.data)
    assert [r.revision for r in publisher.log()] == [3, 2, 1]
    remote.remove("_mmmeta/head.json")
    assert [r.revision for r in publisher.log()] == [3, 2, 1]


@on_folder
def test_a_damaged_log_is_said(open_metadir: Open, remote: Remote) -> None:
    publisher = open_metadir("publisher")
    for key in "abcd":
        publish(publisher, doc(key))
    second = remote.read(segment(2))
    assert second is not None
    remote.remove(segment(2))
    with pytest.raises(LogError, match=f"{segment(2)} is missing"):
        list(publisher.log())
    remote.write(segment(2), second.data)
    first = remote.read(segment(1))
    assert first is not None
    remote.write(segment(3), first.data)
    with pytest.raises(LogError, match="says revision 1"):
        list(publisher.log())
    with mmmeta(publisher.path.parent / "other", remote=publisher.path.parent / "elsewhere") as other:
        (other.path.parent / "elsewhere").mkdir()
        for key in "xyz":
            publish(other, doc(key))
        foreign = open_remote(other.path.parent / "elsewhere").read(segment(3))
    assert foreign is not None
    remote.write(segment(3), foreign.data)
    with pytest.raises(LogError, match="was replaced"):
        list(publisher.log())


def test_an_archive_that_lies_where_it_is_published(tmp_path: Path) -> None:
    with mmmeta(tmp_path / "archive") as m:
        with pytest.raises(ConfigError, match="there is no remote"):
            m.log()
        tell(m)
        assert [r.revision for r in m.log(limit=2)] == [5, 4]
        assert m.files.as_of(1).count() == 2


def test_over_https(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    with mmmeta(tmp_path / "publisher", remote=tmp_path / "site") as publisher:
        tell(publisher)
    with serving(tmp_path / "site") as site, mmmeta(tmp_path / "client", remote=site.url) as client:
        assert [r.revision for r in client.log()] == [5, 4, 3, 2, 1]
        assert [c.key for c in client.diff(1)] == ["a", "b"]


# --- as of a revision


def shown(m: Metadir, revision: int, **filters: Any) -> dict[Any, Any]:
    return {file.key: file["title"] for file in m.files.as_of(revision).find(**filters)}


def test_documents_as_they_were(open_metadir: Open) -> None:
    publisher, client = open_metadir("publisher"), open_metadir("client")
    tell(publisher)
    client.sync()
    assert shown(client, 1) == {"a": "A", "b": "B"}
    assert shown(client, 2) == {"a": "A2", "b": "B", "c": "C"}
    assert shown(client, 3) == {"a": "A2", "c": "C"}
    assert shown(client, 5) == {"a": "A2", "b": "B again"} == {f.key: f["title"] for f in client.files}
    then = client.files.as_of(2)
    assert then.count(title="A2") == then.count(pages={">=": 1}) == 1
    assert [file.key for file in then.find(order_by="-title", _limit=2)] == ["c", "b"]
    a = then.get("a")
    assert a is not None
    assert (a["tags"], a["__revision"], a.published_kinds["tags"]) == (["x"], 2, "json")
    assert [row["title"] for row in then.distinct("title")] == ["A2", "B", "C"]
    assert list(then.to_pandas()["title"]) == ["A2", "B", "C"]
    assert client.files.as_of(3).count(deleted=True) == 1
    assert len(client.files.as_of(1)) == 2


@on_folder
def test_the_past_is_not_written_to(open_metadir: Open) -> None:
    m = open_metadir("m")
    tell(m)
    then = m.files.as_of(2)
    file = then.find_one(title="C")
    assert file is not None
    file["imported"] = True
    with pytest.raises(RefusedError, match="as they were at revision 2"):
        file.save()
    with pytest.raises(RefusedError, match="as they were at revision 2"):
        then.upsert(doc("z"))
    with pytest.raises(Exception, match="readonly"):
        then.table.insert({"content_hash": "z"})
    with pytest.raises(ConfigError, match=r"m\.files\.as_of"):
        then.as_of(1)
    assert (m.files.count(), m.inspect().pending) == (2, 0)


@on_folder
def test_revisions_that_can_not_be_shown(open_metadir: Open) -> None:
    m, client = open_metadir("m"), open_metadir("client")
    with pytest.raises(LogError, match="nothing was published"):
        client.files.as_of(1)
    tell(m)
    for impossible in (0, -1, True, "1"):
        with pytest.raises(ConfigError, match="the first is 1"):
            m.files.as_of(impossible)  # type: ignore[arg-type]
    for one in (m, client):
        with pytest.raises(LogError, match=r"revision 6 does not exist yet: the newest at .* is 5"):
            one.files.as_of(6)
    assert list(client.paths.past.iterdir()) == []


def test_the_past_is_made_once_and_the_last_few_are_kept(open_metadir: Open, remote: Remote) -> None:
    publisher = open_metadir("publisher")
    for number in range(KEPT + 3):
        publish(publisher, doc("a", title=str(number + 1)))
    tapped = Tapped(remote)
    client = open_metadir("client", remote=tapped)
    client.sync()
    tapped.requests.clear()
    assert shown(client, 2) == shown(client, 2) == {"a": "2"}
    assert tapped.requests == [("read", "_mmmeta/head.json"), *(("fetch", segment(n)) for n in (1, 2))]
    tapped.requests.clear()
    assert shown(client, 4) == {"a": "4"}
    assert tapped.requests == [("read", "_mmmeta/head.json"), *(("fetch", segment(n)) for n in (3, 4))]
    tapped.requests.clear()
    assert shown(client, client.revision) == {"a": str(KEPT + 3)}
    assert tapped.requests == [], "the local catalog is of this revision"
    for number in range(1, KEPT + 4):
        assert shown(client, number) == {"a": str(number)}
    assert len(list(client.paths.past.glob("*.db"))) == len(list(client.paths.past.iterdir())) == KEPT
    assert {file.key for file in client.files.as_of(1)} == {"a"}, "one that had to make room"


@on_folder
def test_the_past_of_a_publisher_leaves_out_what_waits(open_metadir: Open) -> None:
    m = open_metadir("m")
    publish(m, doc("a", title="published"))
    m.files.upsert(doc("a", title="waits"))
    m.files.upsert(doc("b", title="waits"))
    assert shown(m, 1) == {"a": "published"}
    assert [file["title"] for file in m.files.find(order_by="content_hash")] == ["waits", "waits"]


@on_folder
def test_the_past_of_another_archive_is_not_shown(open_metadir: Open, tmp_path: Path) -> None:
    m = open_metadir("m")
    publish(m, doc("a", title="first archive"))
    assert shown(m, 1) == {"a": "first archive"}
    m.close()
    m.paths.meta.unlink()
    (tmp_path / "second").mkdir()
    with mmmeta(tmp_path / "p2", remote=tmp_path / "second") as other:
        publish(other, doc("b", title="second archive"))
    with mmmeta(m.path, remote=tmp_path / "second") as m:
        assert shown(m, 1) == {"b": "second archive"}


# --- differences


@on_folder
def test_what_differs_between_two_revisions(open_metadir: Open) -> None:
    publisher, client = open_metadir("publisher"), open_metadir("client")
    tell(publisher)
    result = client.diff(1, 2)
    assert (result.a, result.b, result.added, result.changed, result.deleted) == (1, 2, 1, 1, 0)
    a, c = result
    assert (a.key, a.what, a.columns) == ("a", "changed", {"title": ("A", "A2"), "tags": (None, ["x"])})
    assert (c.key, c.what, c.columns["title"]) == ("c", "added", (None, "C"))
    assert [(x.key, x.what) for x in client.diff(1)] == [("a", "changed"), ("b", "changed")]
    assert [(x.key, x.what) for x in client.diff(2, 3)] == [("b", "deleted")]
    assert [(x.key, x.what) for x in client.diff(3, 2)] == [("b", "added")]
    assert [(x.what, x.columns["title"]) for x in client.diff(2, 1)] == [
        ("changed", ("A2", "A")),
        ("deleted", ("C", None)),
    ]
    assert list(client.diff(3, 3)) == []
    assert list(result) == list(result), "it can be gone through again"
    with pytest.raises(LogError, match="does not exist yet"):
        client.diff(1, 9)


@on_folder
def test_a_document_that_changed_and_changed_back_does_not_differ(open_metadir: Open) -> None:
    m = open_metadir("m")
    for title in ("one", "two", "one"):
        publish(m, doc("a", title=title, rest=1), doc("b", n=len(title)))
    assert list(m.diff(1, 3)) == []
    assert [x.key for x in m.diff(2, 3)] == ["a"]
    publish(m, doc("a", rest=True))
    (change,) = m.diff(3)
    assert change.columns == {"rest": (1, True)}, "1 and True are two values"


# --- the command line


@on_folder
def test_the_commands(open_metadir: Open, tmp_path: Path, remote_url: str) -> None:
    tell(open_metadir("publisher"))

    def run(*arguments: str) -> str:
        result = shell("--metadir", "client", "--remote", remote_url, "-q", *arguments, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        return result.stdout

    lines = [line.split("\t") for line in run("log").splitlines()]
    assert [line[0] for line in lines] == ["5", "4", "3", "2", "1"]
    assert lines[3][3:8] == ["1", "1", "0", "0", "note, remote_last_updated"]
    (touch,) = [json.loads(line) for line in run("log", "--key", "c", "--limit", "1", "--json").splitlines()]
    assert (touch["revision"], touch["what"], touch["columns"]) == (5, "deleted", [])
    assert datetime.now(UTC) - datetime.fromisoformat(touch["at"]) < timedelta(minutes=5)
    first, *_ = [json.loads(line) for line in run("diff", "1", "--json").splitlines()]
    assert first == {
        "key": "a",
        "what": "changed",
        "columns": {"tags": {"old": None, "new": ["x"]}, "title": {"old": "A", "new": "A2"}},
    }


# --- docs/history.md

DOCUMENT = (Path(__file__).parent.parent / "docs/history.md").read_text(encoding="utf-8")


def test_what_the_document_shows_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive/lease.pdf").write_text("the lease")
    with mmmeta("publisher", remote="archive") as publisher:
        contract = doc("contract-7", document_type="contract", title="Lease", file_name="lease.pdf")
        publish(publisher, contract, doc("b", title="B"))
        publish(publisher, doc("contract-7", title="Lease, signed"))
    names: dict[str, Any] = {"mmmeta": mmmeta}
    blocks = re.findall(r"^```python\n(.*?)^```", DOCUMENT, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "docs/history.md", "exec"), names)  # noqa: S102 - it is ours
    names["m"].close()
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said[:2]] == ["2", "1"]
    assert said[2:] == [
        "2 changed ('title',)",
        "1 added ('document_type', 'file_name', 'title')",
        "changed contract-7 {'title': ('Lease', 'Lease, signed')}",
        "Lease 1",
    ]
    lines = re.findall(r"^    mmmeta (.*)$", DOCUMENT, re.MULTILINE)
    assert len(lines) == 7
    results = [shell(*shlex.split(line), cwd=tmp_path) for line in lines]
    assert [result.returncode for result in results] == [0] * len(lines), results
    log, touches, diff, *pruned, purge_told, purged = (result.stdout for result in results)
    assert len(log.splitlines()) == len(touches.splitlines()) == 2
    assert diff == "changed\tcontract-7\ttitle\n"
    assert all(line.startswith("segments 0, ") for line in pruned)
    assert purge_told == "documents 1, revision 2, segments 2\nfile: lease.pdf\n"
    assert purged == "documents 1, revision 3, segments 2\nfile: lease.pdf\n"
    assert not (tmp_path / "archive/lease.pdf").exists()
