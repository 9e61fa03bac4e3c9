"""Write these metadirs anew with the mmmeta packages of old: `python tests/golden/old/make.py`.

Installs mmmeta 0.1.1 and 0.4.4 into virtual environments of their own, outside of the repository, and runs both over the
documents below: a publisher that generates again and again, a client that updates and sets columns of its own. What they
wrote is stored as it is, in `0.1`, `0.4`, and `0.4-plain` (no `config.yml`); `documents` are the metadata files as of
the last run. Times differ from one renewal to the next, nothing else does.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PINS = ["dataset==1.6.2", "SQLAlchemy==1.4.54", "banal==1.0.6", "setuptools<81"]

FULL = {
    "title": "Verträge – Übersicht 合同",  # noqa: RUF001
    "document_type": "contract",
    "size": 1200,
    "ratio": 0.5,
    "public": True,
    "retrieved_at": "2021-03-01T10:00:00",
    "published": "2021-03-01",
    "case_number": "007",
    "tags": ["x", "y, z", 'say "hi"'],
    "publisher": {"name": "Ministry", "id": 7, "address": {"zip_code": "01067"}},
    "remark": "",
    "nought": None,
    "_file_name": "full.pdf",
}

FIRST: list[dict[str, Any]] = [
    {"content_hash": "a1f0", **FULL},
    {"content_hash": "b2e1", "title": "7", "document_type": "report", "size": 0, "ratio": 1.0, "public": False,
     "retrieved_at": "2021-03-02T11:30:00", "case_number": "A 12", "tags": [], "_file_name": "b.pdf"},
    {"content_hash": "0042", "title": "True", "document_type": "contract", "size": 17, "case_number": "12",
     "tags": ["one"], "publisher": {"name": "Court", "id": 8}, "_file_name": "0042.pdf", "public": True},
    {"content_hash": "0099", "title": "line one\r\nline two, \"quoted\"", "document_type": "report",
     "_file_name": "a b/ü.pdf", "case_number": "0815"},
    {"content_hash": "dead", "title": "Will be gone", "document_type": "report", "_file_name": "dead.pdf"},
]  # fmt: skip
SECOND: list[dict[str, Any]] = [
    {**FIRST[1], "title": "Changed", "size": 70000000000, "public": True},
    {"content_hash": "c3d2", "title": "New", "document_type": "contract", "size": 3, "late": "first seen late",
     "public": False, "_file_name": "c.pdf", "retrieved_at": "2021-04-01T00:00:00"},
    {"content_hash": "99", "title": " spaces ", "document_type": "contract", "size": 5, "_file_name": "99.pdf"},
]  # fmt: skip
THIRD: list[dict[str, Any]] = [
    {"content_hash": "e5f4", "title": "Newest", "document_type": "contract", "_file_name": "e.pdf", "tags": ["n"]},
]  # fmt: skip

CONFIG = """\
metadata:
  file_name: _file_name
  unique: content_hash
  required: document_type
  include:
  - title
  - size
  - ratio
  - public
  - retrieved_at
  - published
  - case_number
  - tags
  - publisher:name
  - publisher:address:zip_code
  - remark
  - nought
  - late
remote:
  url: https://archive.example.org/{_file_name}
  uri: s3://bucket/archive/{_file_name}
  padded: https://archive.example.org/{size:>10}
  2nd: https://mirror.example.org/{_file_name}
contact: someone@example.org
"""

MARK = """
m = mmmeta(base)
for file in m.files.find():
    if file["title"] in titles:
        file["imported"] = True
        file["note"] = "für mich"
        file["score"] = 0.25
        file["tries"] = 2
        file["seen_at"] = datetime(2021, 5, 1, 10, 0)
        file.save()
    elif file["document_type"] == "report":
        file["imported"] = False
        file.save()
m.store["local_note"] = "mine"
"""


def venv(folder: Path, version: str, *extra: str) -> Path:
    """Install one mmmeta of old; return its Python."""
    python = folder / version / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder / version], check=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, f"mmmeta=={version}", *PINS, *extra], check=True)
    return python


def run(python: Path, base: Path, script: str, **names: Any) -> None:
    """Run lines of Python under one of the packages; `base` and `names` are there, and so is `mmmeta`."""
    lines = ["from datetime import datetime", "from mmmeta import mmmeta", f"base = {str(base)!r}"]
    lines += [f"{name} = {value!r}" for name, value in names.items()]
    done = subprocess.run(
        [python, "-c", "\n".join(lines) + "\n" + script], cwd=base, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(done.stderr)


def write(folder: Path, documents: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for document in documents:
        (folder / f"{document['content_hash']}.json").write_text(json.dumps(document), encoding="utf-8")


def sync(publisher: Path, client: Path) -> None:
    """Do what `aws s3 sync` would: copy the metadir but the state."""
    shutil.copytree(publisher / "_mmmeta", client / "_mmmeta", dirs_exist_ok=True, ignore=no_state)


def no_state(_: str, names: list[str]) -> list[str]:
    return [name for name in names if name.startswith("state.db") or name == "local_note"]


def keep(work: Path, name: str, *, closed: bool) -> None:
    """Store the metadirs; the client's databases as they lay there, with their logs, or `closed` into one file."""
    for role in ("publisher", "client"):
        target = HERE / name / role / "_mmmeta"
        shutil.rmtree(target, ignore_errors=True)
        for path in (work / role / "_mmmeta").glob("*.db") if closed and role == "client" else ():
            with closing(sqlite3.connect(path)) as connection:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        shutil.copytree(work / role / "_mmmeta", target, ignore=shutil.ignore_patterns("*-shm"))


def make_0_1(python: Path, work: Path) -> None:
    """One run for each of the first documents: the first value of a column decides on its type."""
    publisher, client = work / "publisher", work / "client"
    generate = "mmmeta(base).generate()"
    for document in FIRST:
        write(publisher, [document])
        run(python, publisher, generate)
    sync(publisher, client)
    run(python, client, "mmmeta(base).update()")
    run(python, client, MARK, titles=["7", "True", "Will be gone"])
    (publisher / "dead.json").unlink()
    write(publisher, SECOND)
    run(python, publisher, generate + "\nmmmeta(base).store['new_files'] = '17'")
    sync(publisher, client)
    run(python, client, "mmmeta(base).update()")
    keep(work, "0.1", closed=True)


def make_0_4(python: Path, work: Path, config: str | None) -> None:
    """Generate, squash, generate with deletions; the client's last update comes before the last generate."""
    publisher, client = work / "publisher", work / "client"
    (publisher / "_mmmeta").mkdir(parents=True)
    if config is not None:
        (publisher / "_mmmeta" / "config.yml").write_text(config, encoding="utf-8")
    write(publisher, FIRST[:3])
    run(python, publisher, "mmmeta(base).generate()")
    write(publisher, FIRST[3:])
    run(python, publisher, "m = mmmeta(base)\nm.generate()\nm.store['new_files'] = 17")
    sync(publisher, client)
    run(python, client, "mmmeta(base).update()")
    run(python, client, MARK, titles=[7, "True", "Will be gone"])
    run(python, publisher, "mmmeta(base).squash()")
    (publisher / "dead.json").unlink()
    write(publisher, SECOND)
    run(python, publisher, "mmmeta(base).generate(ensure_metadata=True)")
    sync(publisher, client)
    run(python, client, "mmmeta(base).update()")
    write(publisher, THIRD)
    run(python, publisher, "mmmeta(base).generate()")
    keep(work, "0.4" if config else "0.4-plain", closed=config is None)


def main(venvs: Path) -> None:
    python_1 = venv(venvs, "0.1.1")
    python_4 = venv(venvs, "0.4.4")
    with tempfile.TemporaryDirectory() as folder:
        make_0_1(python_1, Path(folder))
    for config in (CONFIG, None):
        with tempfile.TemporaryDirectory() as folder:
            make_0_4(python_4, Path(folder), config)
    shutil.rmtree(HERE / "documents", ignore_errors=True)
    gone = [document for document in FIRST if document["content_hash"] not in ("dead", "b2e1")]
    write(HERE / "documents", [*gone, *SECOND, *THIRD])


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(Path(folder))
