"""Bits flip anywhere in a metadir: verify finds it, or nothing is different; repair brings back what was published."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from mmmeta_core import mmmeta
from mmmeta_core.verify import VerifyResult

FLIPS = int(os.environ.get("MMMETA_FLIPS", "4"))
"""Trials of each kind. `make test-flips` runs more."""
SEED = int(os.environ.get("MMMETA_FLIPS_SEED", "1"))
PUBLISHED = {
    f"key{n}": {"title": f"Title {n} " * 4, "pages": n, "signed": n % 2 == 0, "file_name": f"{n}.pdf"}
    for n in range(60)
} | {"gone": {"title": "Gone", "pages": None, "signed": None, "file_name": None}}
OWN = {f"key{n}": {"imported": 1, "note": f"note {n}"} for n in range(0, 60, 2)}
CLIENT, REMOTE = "client/_mmmeta", "remote/_mmmeta"
LOG = f"{REMOTE}/log/{{:020d}}.jsonl.gz"


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four revisions of an archive, and a client with columns of its own; all closed."""
    base = tmp_path_factory.mktemp("flips")
    (base / "remote").mkdir()
    keys = list(PUBLISHED)
    with mmmeta(base / "publisher", remote=base / "remote") as publisher:
        for some in (keys[:20], keys[20:40], keys[40:]):
            publisher.files.insert_many({"content_hash": key, **PUBLISHED[key]} for key in some)
            publisher.store["count"] = len(some)
            publisher.push()
        publisher.files.delete(content_hash="gone")
        publisher.paths.config.write_text("metadata:\n  required: [title]\n", encoding="utf-8")
        publisher.push()
    with mmmeta(base / "client", remote=base / "remote") as client:
        client.sync()
        for key, values in OWN.items():
            client.files.process(lambda file: None, mark="imported", content_hash=key)
            (file,) = client.files.find(content_hash=key)
            file["note"] = values["note"]
            file.save()
    shutil.rmtree(base / "publisher")
    return base


def rows(path: Path, columns: str) -> Any:
    """What a database says, read without this package."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        connection.text_factory = bytes
        return {
            key: values for key, *values in connection.execute(f"SELECT content_hash,{columns} FROM files")
        }


def published(path: Path) -> Any:
    return rows(
        path, "title, pages, signed, file_name, __meta_added, __deleted_at, __deleted_reason, __rescued"
    )


def own(path: Path) -> dict[bytes, list[Any]]:
    found: dict[bytes, list[Any]] = rows(path, "imported, note")
    return found


@pytest.fixture
def copy(archive: Path, tmp_path: Path) -> Iterator[Path]:
    base = tmp_path / "copy"
    yield base
    shutil.rmtree(base, ignore_errors=True)


def again(archive: Path, copy: Path) -> None:
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(archive, copy)


def flip(path: Path, chance: random.Random) -> str:
    data = bytearray(path.read_bytes())
    how = chance.choice(["bit", "bit", "byte", "zeros", "cut"])
    at = chance.randrange(len(data))
    if how == "bit":
        data[at] ^= 1 << chance.randrange(8)
    elif how == "byte":
        data[at] = (data[at] + chance.randrange(1, 256)) % 256
    elif how == "zeros":
        length = chance.randrange(1, 600)
        data[at : at + length] = bytes(len(data[at : at + length]))
    else:
        del data[max(at, 1) :]
    path.write_bytes(data)
    return f"{how} at {at}"


def verified(base: Path, *, repair: bool = False) -> VerifyResult:
    with mmmeta(base / "client", remote=base / "remote") as m:
        return m.verify(deep=True, repair=repair, documents=0)


def refused(result: VerifyResult) -> bool:
    """Whether it is a number of the format that was hit: that a newer mmmeta wrote this can't be ruled out."""
    return any(finding.code == "newer" for finding in result.findings)


def trial_of_the_catalog(archive: Path, copy: Path, chance: random.Random) -> str:
    path = copy / CLIENT / "meta.db"
    how = flip(path, chance)
    found = verified(copy)
    if found.whole:
        assert published(path) == published(archive / CLIENT / "meta.db"), how
        return "the same"
    if refused(found):
        return "refused"
    mended = verified(copy, repair=True)
    assert mended.whole, (how, mended.findings)
    assert mended.repaired
    assert published(path) == published(archive / CLIENT / "meta.db"), how
    assert published(copy / CLIENT / "state.db") == published(archive / CLIENT / "state.db"), how
    assert own(copy / CLIENT / "state.db") == own(archive / CLIENT / "state.db"), how
    return "mended"


def trial_of_the_state(archive: Path, copy: Path, chance: random.Random) -> str:
    path, was = copy / CLIENT / "state.db", archive / CLIENT / "state.db"
    how = flip(path, chance)
    found = verified(copy)
    if found.whole:
        assert published(path) == published(was), how
        mine, before = own(path), own(was)
        assert mine.keys() == before.keys(), how
        changed = [key for key in mine if mine[key] != before[key]]
        assert "zeros" in how or len(changed) <= 1, (how, changed)
        return "the same" if not changed else "own value"
    if refused(found):
        return "refused"
    mended = verified(copy, repair=True)
    left = {finding.code for finding in mended.findings}
    if left == {"state-damaged"}:
        assert "nothing of your own can be read" in mended.findings[0].why, (how, mended.findings)
        return "hopeless"
    assert left <= {"state-values"}, (how, mended.findings)
    assert published(path) == published(was), how
    lost = [key for key, values in own(was).items() if own(path).get(key) != values]
    assert how.startswith(("zeros", "cut")) or len(lost) <= 40, (how, lost)
    return "mended" if not lost else "mended in part"


def trial_of_the_log(archive: Path, copy: Path, chance: random.Random) -> str:
    path = copy / LOG.format(chance.randrange(1, 5))
    before = path.read_bytes()
    how = flip(path, chance)
    if path.read_bytes() == before:  # zeros where there were some
        return "the same"
    found = verified(copy)
    assert [finding.subject for finding in found.findings] == [path.as_uri()], how
    damaged = path.read_bytes()
    left = verified(copy, repair=True)
    assert [finding.subject for finding in left.findings] == [path.as_uri()], how
    assert not left.repaired
    assert left.findings[0].why == "a segment is never made up"
    assert path.read_bytes() == damaged
    return "found"


def trial_of_the_hints(archive: Path, copy: Path, chance: random.Random) -> str:
    name = chance.choice(["head.json", "head.json", "meta.db", "_store/count", "config.yml"])
    path = copy / REMOTE / name
    before = path.read_bytes()
    how = f"{name}: {flip(path, chance)}"
    mended = verified(copy, repair=True)
    if refused(mended):
        return "refused"
    if mended.findings:
        assert {finding.code for finding in mended.findings} <= {"set-back", "other-archive"}, (
            how,
            mended.findings,
        )
        return "refused"
    head, was = (json.loads((base / REMOTE / "head.json").read_bytes()) for base in (copy, archive))
    said = [name for name in was if name not in ("snapshot", "format")]
    assert {name: head.get(name) for name in said} == {name: was[name] for name in said}, how
    assert (copy / REMOTE / "_store/count").read_text() == "21", how
    assert (copy / REMOTE / "config.yml").read_text() == "metadata:\n  required: [title]\n", how
    shutil.rmtree(copy / "client")
    with mmmeta(copy / "client", remote=copy / "remote") as fresh:
        fresh.pull()
    assert published(copy / CLIENT / "meta.db") == published(archive / CLIENT / "meta.db"), how
    return "mended" if path.read_bytes() != before or mended.repaired else "the same"


@pytest.mark.parametrize(
    "trial", [trial_of_the_catalog, trial_of_the_state, trial_of_the_log, trial_of_the_hints]
)
def test_bits_that_flip(archive: Path, copy: Path, trial: Any) -> None:
    seen = set()
    for number in range(FLIPS):
        again(archive, copy)
        seen.add(trial(archive, copy, random.Random(f"{SEED} {number}")))  # noqa: S311 - no secret
    assert seen & {"mended", "mended in part", "found"}, seen
