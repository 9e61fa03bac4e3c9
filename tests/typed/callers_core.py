"""Code as callers of mmmeta_core write it. It is checked by mypy and pyright, both strict, and not run."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, assert_type

import pandas

from mmmeta_core import (
    DocumentError,
    Metadir,
    MmmetaError,
    Poll,
    Status,
    UnavailableError,
    into_database,
    mmmeta,
    never,
    run_command,
)
from mmmeta_core.files import File

WEEK_AGO = datetime.now(UTC) - timedelta(days=7)


def publish() -> int:
    m = mmmeta("./publisher", files_root=Path("./archive"), remote="s3://bucket/archive")
    pulled = m.pull()
    assert_type(pulled.bytes, int)
    generated = m.generate(ensure=True)
    assert_type(generated.added + generated.invalid, int)
    pushed = m.push(files=True)
    if pushed.files is not None:
        assert_type(pushed.files.uploaded, int)
    m.close()
    return pushed.revision


def publish_from_python(rows: list[dict[str, Any]]) -> None:
    with mmmeta("./scraper", remote=Path("./archive")) as m:
        for row in rows:
            m.files.upsert(row, ["content_hash"])
        m.files.insert(content_hash="a", title="A")
        m.files.upsert_many(rows, keys=["content_hash"])
        assert_type(m.files.delete(content_hash="a"), bool)


def loop() -> list[str]:
    titles: list[str] = []
    with Metadir() as m:
        synced = m.sync()
        if synced.pulled is not None:
            assert_type(synced.pulled.segments, int)
        for file in m.files.find(retrieved_at={">=": WEEK_AGO}, imported=False, order_by="-title"):
            assert_type(file, File)
            titles.append(str(file["title"]))
            file["imported"] = True
            file.save()
            with file.open() as stream:
                assert_type(stream.read(), bytes)
            assert_type(file.download("./pdfs"), Path)
            assert_type(file.name, str)
            url: str = file.remote.url
            values: dict[str, Any] = dict(file)
            titles.extend([url, *values])
        first = m.files.find_one({"deleted": True})
        if first is not None:
            titles.append(str(first.get("title", "")))
        assert_type(m.files.count(document_type=["contract", "bill"]), int)
        assert_type(len(m.files), int)
        for row in m.files.distinct("document_type"):
            titles.extend(row)
        titles += [same.name for same in m.files(imported=True)]
        assert_type(m.files.columns, list[str])
        frame = m.files.to_pandas(document_type="contract")
        assert_type(frame, pandas.DataFrame)
    return titles


def handle(file: File) -> Mapping[str, Any] | None:
    if file["title"] is None:
        raise DocumentError("no title")
    return {"pages": 3}


def import_document(file: File) -> None:
    if not file.get("title"):
        raise UnavailableError("the service is away")


def work(m: Metadir) -> int:
    done = m.files.process(handle, mark="imported", workers=4, timeout=60, retrieved_at={">=": WEEK_AGO})
    assert_type(done.processed + done.failed + done.set_aside + done.left, int)
    m.files.process(import_document, on="deleted")
    m.files.process(lambda file: print(file["title"]), limit=10)
    into = into_database("sqlite:///imports.db", "documents", columns=["title"])
    m.files.process(into, chunk=500)
    into.close()
    m.files.process(run_command("./import.sh {path}", timeout=60), on_change="again")
    for turn in m.watch(run_command("./import.sh {path}"), on_deleted=import_document, interval=60):
        if turn.processed is not None:
            print(turn.revision, turn.processed.processed, turn.error)
    for share in m.files.shares(1000, 100):
        m.files.process(handle, **share.within({}, m.files.unique))
    fetched = m.download("./pdfs", document_type="contract")
    assert_type(fetched.downloaded, int)
    for failure in m.failures("imported"):
        print(failure.key, failure.error)
    m.export("contracts.parquet", document_type="contract")
    return m.retry_failed() + m.files.left().claimed


def look(m: Metadir) -> str:
    m.store["new_files"] = 17
    m.store["seen"] = {"a": [1, None]}
    touched = m.touch("my_ts_key")
    assert_type(touched, datetime)
    if m.store["remote_last_updated"] > m.store.get("local_last_updated", never):
        assert_type(m.update().added, int)
    assert_type(m.status(), Status)
    assert_type(m.poll(), Poll)
    for revision in m.log(limit=3):
        print(revision.revision)
    for touch in m.log(key="a"):
        print(touch)
    for check in m.doctor().checks:
        print(check.level, check.mend)
    return "whole" if m.verify(deep=True).findings == () else "damaged"


def careful() -> None:
    try:
        publish()
    except MmmetaError as error:
        print(error)
