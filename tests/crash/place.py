"""Where a scenario happens: folders below one base, and a remote in a folder or a bucket, that can be set back."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import shutil
import sqlite3
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

PAST = "2000-01-01T00:00:00.000000+00:00"
# The server on loopback takes any signature.
_SOMEBODY = {
    "Authorization": "AWS4-HMAC-SHA256 Credential=test-access/20240101/us-east-1/s3/aws4_request, "
    "SignedHeaders=host, Signature=0"
}
_S3 = "{http://s3.amazonaws.com/doc/2006-03-01/}"


@dataclass
class Place:
    """`base/work` is where things happen, always at the same path, for databases hold paths."""

    base: Path
    endpoint: str | None = None
    _objects: dict[str, bytes] = field(default_factory=dict)
    _contents: dict[str, bytes] = field(default_factory=dict)

    @property
    def work(self) -> Path:
        return self.base / "work"

    @property
    def publisher(self) -> Path:
        return self.work / "publisher"

    @property
    def client(self) -> Path:
        return self.work / "client"

    @property
    def documents(self) -> Path:
        return self.work / "documents"

    @property
    def downloads(self) -> Path:
        return self.work / "downloads"

    @property
    def remote(self) -> str:
        if self.endpoint:
            return f"s3://{self.bucket}/archive?endpoint={self.endpoint}"
        return str(self.work / "remote")

    @property
    def bucket(self) -> str:
        return "crash-" + hashlib.sha256(str(self.base).encode()).hexdigest()[:12]

    # --- what is at the remote, seen without mmmeta

    def objects(self) -> dict[str, bytes]:
        """All that lies at the remote, by name."""
        if not self.endpoint:
            root = Path(self.remote)
            return {
                path.relative_to(root).as_posix(): path.read_bytes()
                for path in sorted(root.rglob("*"))
                if path.is_file() and path.name != ".write.lock"
            }
        _, listing = self._ask("GET", f"/{self.bucket}?list-type=2&max-keys=1000")
        found = {
            entry.findtext(f"{_S3}Key", ""): entry.findtext(f"{_S3}ETag", "")
            for entry in ElementTree.fromstring(listing).iter(f"{_S3}Contents")  # noqa: S314
        }
        return {key.removeprefix("archive/"): self._content(key, etag) for key, etag in found.items()}

    def _content(self, key: str, etag: str) -> bytes:
        """Return an object's content; one that has this etag is asked for once, for that is its hash."""
        if etag not in self._contents:
            self._contents[etag] = self._ask("GET", f"/{self.bucket}/{quote(key)}")[1]
        return self._contents[etag]

    def put(self, name: str, data: bytes) -> None:
        if self.endpoint:
            self._ask("PUT", f"/{self.bucket}/archive/{quote(name)}", data)
            return
        path = Path(self.remote) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def _ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(urlsplit(self.endpoint or "").netloc, timeout=30)
        with closing(connection):
            connection.request(method, path, body, _SOMEBODY)
            answer = connection.getresponse()
            data = answer.read()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {data[:200]!r}")
        return answer.status, data

    # --- setting back

    def make(self) -> None:
        """Make empty folders, and an empty remote."""
        self._clear()
        self.documents.mkdir(parents=True)
        if self.endpoint:
            self._ask("PUT", f"/{self.bucket}")
            for name in self.objects():
                self._ask("DELETE", f"/{self.bucket}/archive/{quote(name)}")
        else:
            Path(self.remote).mkdir()

    def keep(self) -> None:
        """Remember how everything is."""
        shutil.copytree(self.work, self.base / "kept", symlinks=True)
        self._objects = self.objects()

    @property
    def kept(self) -> Mapping[str, bytes]:
        """What lay at the remote then."""
        return self._objects

    def restore(self) -> None:
        """Make everything as it was. Databases are copied: a link would have them share what is written."""
        if self.endpoint:
            shutil.rmtree(self.work, ignore_errors=True)
            shutil.copytree(self.base / "kept", self.work, symlinks=True)
            now = self.objects()
            for name in now.keys() - self._objects.keys():
                self._ask("DELETE", f"/{self.bucket}/archive/{quote(name)}")
            for name, data in self._objects.items():
                if now.get(name) != data:
                    self.put(name, data)
            return
        self._clear()
        shutil.copytree(self.base / "kept", self.work, symlinks=True, dirs_exist_ok=True)
        self._name_snapshot()

    def _clear(self) -> None:
        shutil.rmtree(self.work, ignore_errors=True)

    def _name_snapshot(self) -> None:
        """Let `head.json` name the copy of the snapshot: another file of the same content has another etag."""
        from mmmeta_core.remotes import LocalRemote

        path = Path(self.remote) / "_mmmeta" / "head.json"
        if path.exists():
            head = json.loads(path.read_bytes())
            there = LocalRemote(self.remote).stat("_mmmeta/meta.db")
            if head["snapshot"] and there:
                head["snapshot"]["etag"] = there.etag
                path.write_text(json.dumps(head))

    def pass_time(self) -> None:
        """Do as if hours had passed: unfinished files are old, leases and delays have ended."""
        for left in self.work.rglob(".tmp-*"):
            os.utime(left, (0, 0))
        for path in self.work.rglob("state.db"):
            with closing(sqlite3.connect(path, isolation_level=None)) as database:
                try:
                    database.execute(
                        "UPDATE mmmeta_work SET lease_until = ? WHERE lease_until IS NOT NULL", (PAST,)
                    )
                    database.execute(
                        "UPDATE mmmeta_work SET not_before = ? WHERE not_before IS NOT NULL", (PAST,)
                    )
                except sqlite3.OperationalError as error:
                    if "no such table" not in str(error):
                        raise

    # --- documents

    def scrape(self, name: str, content: str | None = None, **values: Any) -> str:
        """Write a metadata file as a scraper does, and the document's own file if it has content. Returns the key."""
        key = name
        if content is not None:
            key = hashlib.sha1(content.encode()).hexdigest()  # noqa: S324 - what the archive is keyed by
            values = {"file_name": f"{name}.txt", **values}
            (self.documents / f"{name}.txt").write_text(content)
        text = json.dumps({"content_hash": key, **values})
        (self.documents / f"{name}.json").write_text(text, encoding="utf-8")
        return key


Step = Callable[[Place], None]
