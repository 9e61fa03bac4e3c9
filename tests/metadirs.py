"""A small archive for the tests of verify and repair, and ways to damage one."""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson

from mmmeta_core import Metadir, mmmeta
from mmmeta_core.remotes import Remote, open_remote
from mmmeta_core.verify import Finding, VerifyResult

LOG = "_mmmeta/log/{:020d}.jsonl.gz"
HEAD = "_mmmeta/head.json"
META = "_mmmeta/meta.db"
SELECT = "SELECT content_hash, file_name, size, __deleted_at FROM files"


def sha1(data: bytes) -> str:
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()


KEYS = {number: sha1(f"document {number}".encode()) for number in (1, 2, 3)}
PUBLISHED = {(key, f"{number}.pdf", len("document 1"), None) for number, key in KEYS.items()}
"""What the publisher says, as SELECT gives it: key, name, size, deleted."""


def publish(base: Path, remote_url: str, numbers: range = range(1, 4)) -> Metadir:
    """One revision a document, which lies in the archive: 1.pdf, 2.pdf, …"""
    publisher = mmmeta(base / "publisher", remote=remote_url)
    for number in numbers:
        data = f"document {number}".encode()
        open_remote(remote_url).write(f"{number}.pdf", data)
        publisher.files.insert(content_hash=sha1(data), file_name=f"{number}.pdf", size=len(data))
        publisher.push()
    return publisher


def content(*folders: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}


def codes(result: VerifyResult) -> list[str]:
    return sorted(finding.code for finding in result.findings)


def the_one(result: VerifyResult) -> Finding:
    (finding,) = result.findings
    assert not result.whole
    assert finding.mend
    return finding


def edit_head(remote: Remote, **values: Any) -> None:
    blob = remote.read(HEAD)
    assert blob is not None
    remote.write(HEAD, orjson.dumps({**orjson.loads(blob.data), **values}))


def head_of(remote: Remote) -> dict[str, Any]:
    blob = remote.read(HEAD)
    assert blob is not None
    head: dict[str, Any] = orjson.loads(blob.data)
    return head


def text_of(remote: Remote, name: str) -> str:
    blob = remote.read(name)
    assert blob is not None
    return blob.data.decode()


def swap(remote: Remote, one: str, other: str) -> None:
    """Put a copy of the other object in the place of one."""
    blob = remote.read(other)
    assert blob is not None
    remote.write(one, blob.data)


def flip(remote: Remote, name: str, offset: int) -> None:
    """Turn one bit over."""
    blob = remote.read(name)
    assert blob is not None
    data = bytearray(blob.data)
    data[offset] ^= 1
    remote.write(name, bytes(data))


def overwrite(path: Path, offset: int, data: bytes = b"\xff" * 3000) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def sql(path: Path, *statements: str) -> list[tuple[Any, ...]]:
    """Run statements on a database; return the rows of the last one."""
    rows: list[tuple[Any, ...]] = []
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            rows = connection.execute(statement).fetchall()
    return rows


def copied(base: Path, to: Path) -> Path:
    shutil.copytree(base, to)
    return to


def made(base: Path, remote_url: str) -> Metadir:
    """A client with a download, a mark, a note and a failure of its own; its databases are closed."""
    with publish(base, remote_url) as publisher:
        publisher.store["note"] = "kept"
        publisher.push()
    with mmmeta(base / "client", remote=remote_url) as m:
        m.sync()
        m.files.process(
            lambda file: {"page": file["file_name"]}, mark="imported", file_name=["1.pdf", "2.pdf"]
        )
        m.files.process(lambda file: 1 / 0, mark="parsed", file_name="3.pdf")
    return m


def own(m: Metadir) -> Any:
    """The client's own columns and notes, as SQLite has them."""
    path = m.paths.state
    return (
        sorted(sql(path, "SELECT content_hash, imported, page, downloaded, downloaded_path FROM files")),
        sorted(
            sql(path, "SELECT mark, key, attempts, error, failed_at, done_at, done_version FROM mmmeta_work")
        ),
        sorted(sql(path, "SELECT mark, settings, last_run FROM mmmeta_pipelines")),
        sorted(sql(path, "SELECT * FROM mmmeta_downloads")),
        sorted(sql(path, "SELECT name, kind FROM mmmeta_columns WHERE owner = 'client'")),
    )


def remote_of(m: Metadir) -> Remote:
    assert m.remote is not None
    return m.remote


def asides(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*.damaged-*"))


def mended(m: Metadir, *expected: str) -> VerifyResult:
    """Repair, which a dry run has told without changing anything, and see that all is whole afterwards."""
    base = m.path.parent
    before = content(base)
    told = m.verify(repair=True, dry_run=True)
    assert content(base) == before
    done = m.verify(repair=True)
    m.close()
    assert done.findings == ()
    assert {(one.subject, one.what) for one in told.repaired} <= {
        (one.subject, one.what) for one in done.repaired
    }
    assert sorted({one.subject.rpartition("/")[2] for one in done.repaired}) == sorted(expected)
    again = m.verify(deep=True, hashes=True, documents=None, downloads=None)
    assert (again.findings, again.repaired) == ((), ())
    return done
