"""The jobs as this project does them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

# Verbs load what they need with their first call, which is in the whole commands; the jobs are those of a process that runs.
import mmmeta_core.database.sqlite_state
import mmmeta_core.generate
import mmmeta_core.standing
import mmmeta_core.sync.pull
import mmmeta_core.sync.push
import mmmeta_core.update  # noqa: F401
from benchmarks import archive
from mmmeta_core import Metadir, mmmeta
from mmmeta_core.database.catalog import Change, open_catalog
from mmmeta_core.database.columns import Columns
from mmmeta_core.remotes import LocalRemote

Clock = Any


class Counting(LocalRemote):
    """A folder that counts what a bucket would be asked for."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.requests = 0

    def read(self, *args: Any, **options: Any) -> Any:
        self.requests += 1
        return super().read(*args, **options)

    def fetch(self, *args: Any, **options: Any) -> Any:
        self.requests += 1
        return super().fetch(*args, **options)

    def stat(self, *args: Any) -> Any:
        self.requests += 1
        return super().stat(*args)


@contextmanager
def publisher(base: Path) -> Iterator[Metadir]:
    (base / "remote").mkdir(exist_ok=True)
    with mmmeta(base / "publisher", files_root=base / "documents", remote=base / "remote") as m:
        yield m


@contextmanager
def client(base: Path) -> Iterator[Metadir]:
    with mmmeta(base / "client", remote=base / "remote") as m:
        yield m


def build(base: Path, clock: Clock) -> None:
    """The rows of generate_cold without files to read them from, waiting for their publication."""
    with publisher(base) as m:
        m.paths.root.mkdir(parents=True)
        with open_catalog(m.paths.meta, "content_hash") as catalog:
            columns = catalog.columns()
            columns.fit(
                archive.document(0)
            )  # so that `stage` makes the columns before it asks for the first document
            catalog.stage(_changes(columns, clock.options["documents"]), columns)


def _changes(columns: Columns, documents: int) -> Iterator[Change]:
    for number in range(documents):
        values = archive.document(number)
        yield Change(values.pop("content_hash"), columns.fit(values).row)


def generate_cold(base: Path, clock: Clock) -> None:
    with publisher(base) as m:
        clock.start()
        m.generate()
        clock.stop()


generate_again = generate_cold


def push(base: Path, clock: Clock) -> None:
    with publisher(base) as m:
        clock.start()
        result = m.push()
        clock.stop()
        clock.note(bytes=result.bytes)


def pull(base: Path, clock: Clock) -> None:
    remote = Counting(base / "remote")
    with mmmeta(base / "client", remote=remote) as m:
        clock.start()
        result = m.pull()
        clock.stop()
        clock.note(bytes=result.bytes, requests=remote.requests, segments=result.segments)


def update_cold(base: Path, clock: Clock) -> None:
    with client(base) as m:
        clock.start()
        m.update()
        clock.stop()


update_again = update_nothing = update_cold


def save(base: Path, clock: Clock) -> None:
    with client(base) as m:
        files = list(m.files.find(_limit=1000))
        clock.start()
        for file in files:
            file["imported"] = True
            file.save()
        clock.stop()


def iterate(base: Path, clock: Clock) -> None:
    with client(base) as m:
        m.files.find_one()
        clock.start()
        count = sum(1 for _ in m.files)
        clock.stop()
        clock.note(documents=count)


def find(base: Path, clock: Clock) -> None:
    since = datetime.fromisoformat(clock.options["since"])
    with client(base) as m:
        m.files.create_index(["document_type"])
        m.files.find_one()
        clock.start()
        found = list(m.files.find(document_type="contract", retrieved_at={">=": since}))
        clock.stop()
        clock.note(documents=len(found))


def process(base: Path, clock: Clock) -> None:
    with client(base) as m:
        m.files.find_one()
        clock.start()
        result = m.files.process(lambda file: None, mark="handled", chunk=500)
        clock.stop()
        clock.note(documents=result.processed)


def export(base: Path, clock: Clock) -> None:
    with client(base) as m:
        clock.start()
        m.export(base / "out.jsonl")
        clock.stop()
