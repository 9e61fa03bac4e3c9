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


def sha1(data: bytes) -> str:
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()


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
