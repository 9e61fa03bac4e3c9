"""An archive to measure on: documents of about 1.3 KB of nested JSON with 23 keys, the same for the same number."""

from __future__ import annotations

import hashlib
import os
import random
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

FOLDER_SIZE = 1_000
CHANGED = 10
TYPES = ("contract", "invoice", "letter", "minutes", "report", "tender", "plan", "permit")
WORDS = tuple(hashlib.md5(str(n).encode()).hexdigest()[: 4 + n % 7] for n in range(400))
BEGIN = datetime(2024, 1, 1, tzinfo=UTC)


def key_of(number: int) -> str:
    return hashlib.sha1(f"document {number}".encode()).hexdigest()


def place(number: int) -> str:
    """Return the path of a document's metadata file."""
    return f"{number // FOLDER_SIZE:05}/{key_of(number)}.pdf.json"


def document(number: int, version: int = 0) -> dict[str, Any]:
    chance = random.Random(number * 1_000_003 + version)

    def text(words: int) -> str:
        return " ".join(chance.choices(WORDS, k=words))

    key = key_of(number)
    at = BEGIN + timedelta(minutes=7 * number)
    return {
        "content_hash": key,
        "file_name": place(number).removesuffix(".json"),
        "title": text(8),
        "document_type": TYPES[number % len(TYPES)],
        "reference": f"{number:08}",
        "retrieved_at": at.isoformat(timespec="seconds"),
        "published_at": at.date().isoformat(),
        "url": f"https://archive.example.org/documents/{key}?download=1",
        "size": chance.randrange(10_000, 5_000_000),
        "pages": chance.randrange(1, 80),
        "score": round(chance.random(), 6),
        "public": number % 3 != 0,
        "language": chance.choice(("de", "en", "fr")),
        "summary": text(45),
        "keywords": chance.choices(WORDS, k=5),
        "publisher": {
            "name": f"City of {chance.choice(WORDS).title()}",
            "id": chance.randrange(1, 500),
            "address": {"street": text(3), "zip_code": f"{chance.randrange(100000):05}", "country": "XX"},
        },
        "contact": {"name": text(2).title(), "mail": f"{chance.choice(WORDS)}@example.org"},
        "remark": text(12) if number % 4 == 0 else None,
        "version": version,
    }


def write(root: Path, number: int, version: int = 0, *, age: float = 3_600) -> int:
    """Write the metadata file of a document, as a new file; return its bytes. It is so many seconds old."""
    values = document(number, version)
    path = root / place(number)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = orjson.dumps(values, option=orjson.OPT_INDENT_2)
    draft = path.with_name(".draft")
    draft.write_bytes(data)
    at = time.time() - age
    os.utime(draft, (at, at))
    draft.replace(path)
    return len(data)


def build(root: Path, documents: int) -> None:
    for number in range(documents):
        write(root, number)


def change(root: Path, documents: int, step: int) -> None:
    """Change ten documents, spread over the archive, and add ten others behind the last."""
    for number in changes(documents, step):
        write(root, number, version=step if number < documents else 0, age=1_800)


def changes(documents: int, step: int) -> Iterator[int]:
    """Yield the numbers of the documents that this step changes, then of those that it adds."""
    yield from islice(range(0, documents, max(documents // CHANGED, 1)), CHANGED)
    first = documents + (step - 1) * CHANGED
    yield from range(first, first + CHANGED)
