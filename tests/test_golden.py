"""What other versions and machines must read is as it was: `tests/golden/make.py` says when and how to renew it."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import shutil
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from mmmeta_core import Metadir, mmmeta
from mmmeta_core.changelog import open_segment
from mmmeta_core.head import parse_head
from mmmeta_core.signing import Trust, TrustedKey

GOLDEN = Path(__file__).parent / "golden"
sys.path.insert(0, str(GOLDEN))

import make  # noqa: E402

RENEW = "if that is on purpose, run `python tests/golden/make.py` and say in CHANGELOG.md what it means for readers"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A copy of the metadir that was stored."""
    shutil.copytree(GOLDEN / "metadir", tmp_path / "archive")
    return tmp_path / "archive"


def check(m: Metadir) -> None:
    m.update()
    found = {file["content_hash"]: file for file in m.files.find()}
    assert set(found) == {"a", "007"}
    a = {name: found["a"][name] for name in ("title", "size", "retrieved_at", "tags", "seen")}
    assert a == {
        "title": "AA",
        "size": 1,
        "retrieved_at": datetime(2026, 1, 1, tzinfo=UTC),
        "tags": ["x"],
        "seen": "not a boolean",
    }
    assert (found["007"]["title"], found["007"]["ratio"]) == ("007", 2.5)
    (deleted,) = m.files.find(__deleted_at={"not": None})
    assert (deleted["publisher:name"], deleted["seen"]) == ("P", False)
    assert (m.revision, m.store["new_files"]) == (3, 17)
    assert m.store["local_last_updated"] == m.store["remote_last_updated"]
    assert dict(m.config.types) == {"retrieved_at": "datetime"}


def test_schemas_segment_and_head_are_as_they_were() -> None:
    written = dict(make.texts())
    stored = {name: (GOLDEN / name).read_text(encoding="utf-8") for name in written}
    assert written == stored, RENEW


def test_the_stored_segment_is_read(tmp_path: Path) -> None:
    segment = tmp_path / "segment"
    segment.write_bytes(gzip.compress((GOLDEN / "segment.jsonl").read_bytes()))
    with open_segment(segment, "stored") as (header, records):
        assert (header, list(records)) == (make.HEADER, make.DOCUMENTS)


def test_the_stored_head_is_read() -> None:
    assert parse_head((GOLDEN / "head.json").read_bytes(), "stored") == make.HEAD


def test_the_stored_signed_segment_and_head_are_read_and_trusted(tmp_path: Path) -> None:
    vector = json.loads((GOLDEN / "signing.json").read_text())
    trust = Trust((TrustedKey(bytes.fromhex(vector["public_key"])),), "the vector")
    segment, head = tmp_path / "segment", (GOLDEN / "head-signed.json").read_bytes()
    segment.write_bytes(gzip.compress((GOLDEN / "segment-signed.jsonl").read_bytes()))
    trust.check_segment(segment, "stored")
    trust.check_head(head, "stored")
    with open_segment(segment, "stored") as (header, records):
        assert (header, list(records)) == (replace(make.HEADER, writer="1.2.3"), make.DOCUMENTS)
    assert parse_head(head, "stored") == replace(make.HEAD, writer="1.2.3")


def test_the_vector_is_what_the_format_says() -> None:
    """By docs/format.md alone, with nothing of mmmeta."""
    vector = json.loads((GOLDEN / "signing.json").read_text())
    public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(vector["public_key"]))
    assert vector["key"] == hashlib.sha256(public.public_bytes_raw()).hexdigest()[:16]
    assert vector["trusted_keys_line"] == f"ed25519 {base64.b64encode(public.public_bytes_raw()).decode()}"

    *lines, last = (GOLDEN / "segment-signed.jsonl").read_bytes().splitlines(keepends=True)
    message = b"mmmeta segment 1\n" + hashlib.sha256(b"".join(lines)).digest()
    assert json.loads(last) == {"signature": vector["segment"]["signature"], "key": vector["key"]}
    public.verify(base64.b64decode(json.loads(last)["signature"]), message)

    head = json.loads((GOLDEN / "head-signed.json").read_text())
    signature = head.pop("signature")
    canonical = json.dumps(head, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert canonical == vector["head"]["canonical"]
    message = b"mmmeta head 1\n" + hashlib.sha256(canonical.encode()).digest()
    assert message.hex() == vector["head"]["signed_bytes"]
    public.verify(base64.b64decode(signature["signature"]), message)


def test_the_stored_metadir_is_pulled(archive: Path, tmp_path: Path) -> None:
    with mmmeta(tmp_path / "client", remote=archive) as client:
        assert client.pull().revision == 3
        check(client)


def test_the_stored_metadir_is_one_to_work_in(archive: Path) -> None:
    with mmmeta(archive) as copy:
        assert copy.revision == 1
        check(copy)


def test_the_stored_metadir_is_published_to(archive: Path, tmp_path: Path) -> None:
    with mmmeta(tmp_path / "publisher", remote=archive) as publisher:
        publisher.pull()
        publisher.files.insert(content_hash="new", title="New")
        assert publisher.push().revision == 4
    with mmmeta(tmp_path / "client", remote=archive) as client:
        client.sync()
        assert len(client.files) == 3
