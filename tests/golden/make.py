"""Write the golden files anew, on purpose: `python tests/golden/make.py`, then look at what git says has changed.

They hold what other versions and machines must read. A change of the SQL schemas, the segment or the head needs a higher
format number, unless older versions can read it. The stored `metadir` is made by this script only when it is
missing: it stays as an older version wrote it.
"""

from __future__ import annotations

import gzip
import hashlib
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mmmeta_core import mmmeta
from mmmeta_core.changelog import Header, write_segment
from mmmeta_core.head import Head, Snapshot
from mmmeta_core.signing import HEAD as HEAD_DOMAIN
from mmmeta_core.signing import SEGMENT, Signer, head_digest, public_line

HERE = Path(__file__).parent

HEADER = Header(
    archive="0123456789abcdef0123456789abcdef",
    revision=7,
    commit="fedcba9876543210fedcba9876543210",
    previous="a" * 64,
    at="2026-01-02T03:04:05.000006+00:00",
    unique="content_hash",
    log_bytes=12345,
    columns={
        "title": "text",
        "publisher:name": "text",
        "seen": "boolean",
        "retrieved_at": "datetime",
        "tags": "json",
    },
    store={"gone": None, "new_files": "17", "remote_last_updated": "2026-01-02T03:04:05.000006+00:00"},
    config="metadata:\n  required: [title]\n",
    by="scraper@server",
)
DOCUMENTS = [
    ("5f1c", {"title": "Vertrag „7“", "seen": True, "retrieved_at": "2026-01-01T00:00:00.000000+00:00"}),
    ("007", {"title": None, "publisher:name": "P", "tags": ["a", {"b": None}], "__rescued": {"a b": 1}}),
    (8, {"__deleted_at": "2026-01-02T03:04:05.000006+00:00", "__deleted_reason": "metadata file is gone"}),
]
HEAD = Head(
    archive=HEADER.archive,
    revision=7,
    unique="content_hash",
    digest="b" * 64,
    log_bytes=13000,
    snapshot=Snapshot(revision=5, size=40960, sha256="c" * 64, log_bytes=9000, etag='"d"'),
    store={"new_files": "17"},
    config="metadata:\n  required: [title]\n",
)


SEED = bytes(range(32))
"""The private key of the signed ones; everybody knows it."""
WRITER = "1.2.3"


def signer() -> Signer:
    """Return the key of the signed ones."""
    return Signer(Ed25519PrivateKey.from_private_bytes(SEED))


def vector(segment: str, head: str) -> dict[str, object]:
    """Return what signing the golden segment and head goes through, step by step, for other programs to compare with."""
    key, (*lines, last) = signer(), segment.splitlines(keepends=True)
    content = hashlib.sha256("".join(lines).encode()).digest()
    values = orjson.loads(head)
    signature = values.pop("signature")
    canonical = orjson.dumps(values, option=orjson.OPT_SORT_KEYS)
    return {
        "private_key": SEED.hex(),
        "public_key": key.public.hex(),
        "trusted_keys_line": public_line(key.public),
        "key": key.key,
        "segment": {
            "sha256_of_the_lines_before": content.hex(),
            "signed_bytes": (SEGMENT + content).hex(),
            "signature": orjson.loads(last)["signature"],
        },
        "head": {
            "canonical": canonical.decode(),
            "sha256_of_canonical": head_digest(values).hex(),
            "signed_bytes": (HEAD_DOMAIN + head_digest(values)).hex(),
            "signature": signature["signature"],
        },
    }


def schema(path: Path) -> str:
    """Return a database's format and the statements that make it."""
    with closing(sqlite3.connect(path)) as connection:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        found = connection.execute(
            "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY type DESC, name"
        )
        return f"PRAGMA user_version = {version};\n" + "".join(f"{sql};\n" for (sql,) in found)


def texts() -> Iterator[tuple[str, str]]:
    """Yield name and text of each golden file, as the present version writes them."""
    with tempfile.TemporaryDirectory() as folder:
        with mmmeta(folder) as m:
            m.files.insert(content_hash="a")
        yield "meta.sql", schema(m.paths.meta)
        yield "state.sql", schema(m.paths.state)
        segment = write_segment(Path(folder) / "segment", HEADER, DOCUMENTS).path
        yield "segment.jsonl", gzip.decompress(segment.read_bytes()).decode()
        signed = write_segment(
            Path(folder) / "signed", replace(HEADER, writer=WRITER), DOCUMENTS, signer()
        ).path
        segment_text = gzip.decompress(signed.read_bytes()).decode()
    yield "head.json", HEAD.to_json().decode()
    head_text = replace(HEAD, writer=WRITER).to_json(signer()).decode()
    yield "segment-signed.jsonl", segment_text
    yield "head-signed.json", head_text
    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    yield "signing.json", orjson.dumps(vector(segment_text, head_text), option=options).decode()


def make_metadir(path: Path) -> None:
    """Publish an archive of three revisions, of which the snapshot has the first."""
    path.mkdir()
    with tempfile.TemporaryDirectory() as folder, mmmeta(folder, remote=path) as m:
        m.paths.root.mkdir()
        m.paths.config.write_text("metadata: {types: {retrieved_at: datetime}}\n")
        m.files.insert(content_hash="a", title="A", size=1, retrieved_at="2026-01-01T00:00:00Z", tags=["x"])
        m.files.insert(content_hash="b", title="B", publisher={"name": "P"}, seen=False)
        m.push()
        m.store["new_files"] = 17
        m.files.upsert({"content_hash": "a", "title": "AA", "seen": "not a boolean"}, ["content_hash"])
        m.push()
        m.files.insert(content_hash="007", title="007", ratio=2.5)
        m.files.delete(content_hash="b")
        m.push()
    (path / "_mmmeta" / ".write.lock").unlink(missing_ok=True)


if __name__ == "__main__":
    for name, text in texts():
        (HERE / name).write_text(text, encoding="utf-8")
    if not (HERE / "metadir").exists():
        make_metadir(HERE / "metadir")
