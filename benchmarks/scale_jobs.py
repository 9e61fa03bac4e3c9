"""The jobs of `scale.py`, each run in a process of its own by `child.py`. Catalogs here have rows and no documents."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson

from mmmeta_core import Metadir, mmmeta
from mmmeta_core.database.catalog import Change, open_catalog
from mmmeta_core.database.columns import Columns
from mmmeta_core.sync import Replica
from mmmeta_core.sync.hints import write_hints

Clock = Any

BEGIN = datetime(2020, 1, 1, tzinfo=UTC)
TYPES = ("contract", "invoice", "letter", "minutes", "report", "tender", "plan", "permit")
SEGMENT = 250_000
"""Documents of one publish, while an archive is built."""
CHANGED = 1_000


def row(number: int, version: int = 0) -> dict[str, Any]:
    """Return a document's metadata, about 400 bytes; its key says nothing of its number."""
    key = hashlib.sha1(str(number).encode()).hexdigest()
    at = BEGIN + timedelta(seconds=17 * number)
    return {
        "content_hash": key,
        "file_name": f"{key[:2]}/{key}.pdf",
        "title": f"Number {number} of the series {key[8:20]}, version {version}",
        "document_type": TYPES[number % len(TYPES)],
        "retrieved_at": at.isoformat(timespec="seconds"),
        "url": f"https://archive.example.org/documents/{key}",
        "size": 10_000 + number % 5_000_000,
        "public": number % 3 != 0,
    }


def spread(documents: int, step: int) -> Iterator[int]:
    """Return the numbers of documents that step `step` changes: half of them anywhere in the archive, half new."""
    stride = max(documents // (CHANGED // 2), 1)
    yield from ((number * stride + step) % documents for number in range(CHANGED // 2))
    yield from (documents + step * CHANGED + number for number in range(CHANGED // 2))


def publisher(base: Path) -> Metadir:
    (base / "remote").mkdir(exist_ok=True)
    root = base / "documents"
    root.mkdir(exist_ok=True)
    return mmmeta(base / "publisher", files_root=root, remote=base / "remote", state_db=base / "publisher.db")


def client(base: Path) -> Metadir:
    return mmmeta(base / "client", remote=base / "remote")


def build(base: Path, clock: Clock) -> None:
    """Publish the archive, a segment after the other, as a publisher without metadata files does."""
    total = clock.options["documents"]
    with publisher(base) as m:
        m.paths.root.mkdir(parents=True)
        clock.start()
        for first in range(0, total, SEGMENT):
            with open_catalog(m.paths.meta, "content_hash") as catalog:
                columns = catalog.columns()
                columns.fit(row(0))  # so that `stage` makes the columns before it asks for the first document
                catalog.stage(_changes(columns, range(first, min(first + SEGMENT, total))), columns)
            m.push()
        clock.stop()
        clock.note(revision=m.revision, log=sum(p.stat().st_size for p in (base / "remote").rglob("*.gz")))


def _changes(columns: Columns, numbers: range) -> Iterator[Change]:
    for number in numbers:
        values = row(number)
        yield Change(values.pop("content_hash"), columns.fit(values).row)


def merge_all(base: Path, clock: Clock) -> None:
    """The publisher's own first update."""
    with publisher(base) as m:
        clock.start()
        m.update()
        clock.stop()


def generate(base: Path, clock: Clock) -> None:
    """Take metadata files of a thousand documents into the catalog, which has the others already."""
    step = clock.options["step"]
    with publisher(base) as m:
        for number in spread(clock.options["documents"], step):
            (m.files_root / f"{number}.json").write_bytes(orjson.dumps(row(number, step)))
        clock.start()
        result = m.generate()
        clock.stop()
        clock.note(documents=result.added + result.updated)


def upsert(base: Path, clock: Clock) -> None:
    """Publish a thousand documents from Python."""
    step = clock.options["step"]
    with publisher(base) as m:
        clock.start()
        m.files.upsert_many(row(number, step) for number in spread(clock.options["documents"], step))
        clock.stop()


def push(base: Path, clock: Clock) -> None:
    with publisher(base) as m:
        clock.start()
        result = m.push()
        clock.stop()
        clock.note(documents=result.documents, bytes=result.bytes)


def snapshot(base: Path, clock: Clock) -> None:
    with publisher(base) as m:
        remote = m.remote
        assert remote is not None
        clock.start()
        with open_catalog(m.paths.meta, "content_hash") as catalog:
            write_hints(Replica(m.paths), remote, catalog, None, covering=catalog.position.revision)
        clock.stop()
        clock.note(bytes=(base / "remote" / "_mmmeta" / "meta.db").stat().st_size)


def pull(base: Path, clock: Clock) -> None:
    with client(base) as m:
        clock.start()
        result = m.pull()
        clock.stop()
        clock.note(documents=result.documents, bytes=result.bytes)


def update(base: Path, clock: Clock) -> None:
    with client(base) as m:
        clock.start()
        result = m.update()
        clock.stop()
        clock.note(documents=result.added + result.updated)


def poll(base: Path, clock: Clock) -> None:
    with client(base) as m:
        clock.start()
        assert m.poll().changed
        clock.stop()


def index(base: Path, clock: Clock) -> None:
    with client(base) as m:
        clock.start()
        m.files.create_index(["size", "document_type"])
        clock.stop()


def find(base: Path, clock: Clock) -> None:
    """Find a thousand documents, or two, by an index, and a thousand by their keys."""
    total = clock.options["documents"]
    with client(base) as m:
        m.files.find_one()
        clock.start()
        found = list(m.files.find(size={">=": 11_000, "<": 11_000 + CHANGED}))
        for number in range(0, total, max(total // CHANGED, 1)):
            assert m.files.get(row(number)["content_hash"]) is not None
        clock.stop()
        clock.note(documents=len(found))


def process(base: Path, clock: Clock) -> None:
    """Claim, handle and note a thousand documents."""
    with client(base) as m:
        m.files.find_one()
        clock.start()
        result = m.files.process(lambda file: None, limit=CHANGED)
        clock.stop()
        clock.note(documents=result.processed)


def shares(base: Path, clock: Clock) -> None:
    """Divide a hundred thousand due documents, and do a thousand of the last share."""
    with client(base) as m:
        m.files.find_one()
        clock.start()
        parts = m.files.shares(CHANGED, 100)
        result = m.files.process(lambda file: None, **parts[-1].within({}, m.files.unique))
        clock.stop()
        clock.note(documents=result.processed)


def inspect(base: Path, clock: Clock) -> None:
    with client(base) as m:
        clock.start()
        m.inspect()
        clock.stop()
