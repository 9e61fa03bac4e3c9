"""What a pull moves: its requests and the bytes of their answers, from an S3 server on loopback."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from benchmarks import archive, floor, s3
from benchmarks.contestants import FLOOR, OURS
from benchmarks.rows import TRAFFIC
from mmmeta_core import Metadir, mmmeta
from mmmeta_core.remotes.s3_client import shared_client
from mmmeta_core.remotes.s3_options import S3Options

Found = tuple[str, str, dict[str, float]]


class Wire:
    """Counts what a client of boto3 asks for and gets."""

    def __init__(self, client: Any) -> None:
        self.requests = 0
        self.bytes = 0
        client.meta.events.register("before-send.s3", self._asks)
        client.meta.events.register("after-call.s3", self._gets)

    def _asks(self, **_: Any) -> None:
        self.requests += 1

    def _gets(self, http_response: Any, **_: Any) -> None:
        if http_response.status_code in (200, 206):
            self.bytes += int(http_response.headers["content-length"])

    @contextmanager
    def afresh(self) -> Iterator[None]:
        self.requests = self.bytes = 0
        yield


def pulls(base: Path, size: int) -> Iterator[Found]:
    """Yield row, contestant and count. `base` has the documents, which are changed."""
    with s3.bucket() as (endpoint, _):
        url = f"s3://{s3.BUCKET}/archive?endpoint={endpoint}"
        wire = Wire(shared_client(S3Options(endpoint_url=endpoint)))
        with (
            mmmeta(base / "publisher", files_root=base / "documents", remote=url) as publisher,
            mmmeta(base / "client", remote=url) as client,
        ):
            _publish(publisher)
            client.pull()
            client.update()
            archive.change(base / "documents", size, 1)
            _publish(publisher)
            yield from _pull(client, wire, base / "documents", size)


def _publish(publisher: Metadir) -> None:
    publisher.generate()
    publisher.push()


def _pull(client: Metadir, wire: Wire, documents: Path, size: int) -> Iterator[Found]:
    new_bytes, new_requests, same_requests, same_bytes = (row.shown for row in TRAFFIC)
    with wire.afresh():
        result = client.pull()
        assert result.documents == 20
        yield new_bytes, FLOOR.name, {"bytes": len(gzip.compress(_lines(documents, size), 6))}
        yield new_bytes, OURS.name, {"bytes": wire.bytes}
        yield new_requests, FLOOR.name, {"requests": result.segments + 2}
        yield new_requests, OURS.name, {"requests": wire.requests}
    with wire.afresh():
        assert client.pull().unchanged
        yield same_requests, FLOOR.name, {"requests": 1}
        yield same_requests, OURS.name, {"requests": wire.requests}
        yield same_bytes, FLOOR.name, {"bytes": 0}
        yield same_bytes, OURS.name, {"bytes": wire.bytes}


def _lines(documents: Path, size: int) -> bytes:
    """Return the rows of the documents that were changed, as lines of JSON."""
    changed = (documents / archive.place(number) for number in archive.changes(size, 1))
    return b"".join(orjson.dumps(floor.read(str(path))) + b"\n" for path in changed)
