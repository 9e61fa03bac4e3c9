"""A conversion that is killed at any moment is finished by the next run, and nothing of the old files is lost."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from mmmeta_core import mmmeta

OLD = Path(__file__).parent / "golden" / "old"
KILLED = Path(__file__).parent / "killed.py"
POINTS = int(os.environ.get("CRASH_POINTS", "2"))
"""How many moments of each verb a process is killed at; a very large number means all."""

VERBS = [("publisher", "generate"), ("client", "pull"), ("client", "update")]
if "CRASH_POINTS" in os.environ:  # generate and push in one, which others kill too
    VERBS.append(("publisher", "sync"))


def run(base: Path, role: str, verb: str, step: int) -> subprocess.CompletedProcess[str]:
    arguments = [str(step), verb, str(base / role), str(base / "documents"), str(base / "remote")]
    return subprocess.run(
        [sys.executable, str(KILLED), *arguments], capture_output=True, text=True, timeout=120
    )


def prepare(base: Path, version: str, role: str, archive: Path) -> None:
    """An old metadir, and at the client's remote the archive that its publisher has converted."""
    shutil.copytree(OLD / version / role, base / role)
    shutil.copytree(OLD / "documents", base / "documents")
    if role == "client":
        shutil.copytree(archive, base / "remote")
    else:
        (base / "remote").mkdir()


def finish(base: Path, role: str) -> list[dict[str, Any]]:
    """Run what the role does, and return what is seen then; bookkeeping that tells the time left out."""
    for left in base.rglob(".tmp-*"):
        os.utime(left, (0, 0))
    with mmmeta(base / role, files_root=base / "documents", remote=base / "remote") as m:
        if role == "publisher":
            m.generate()
            assert m.push().revision == 1
        else:
            m.pull()
        m.update()
        assert m.verify(documents=0).findings == ()
    with mmmeta(base / role) as again:
        again.update()
        assert again.converted == ()
        return [
            {name: value for name, value in file.items() if not name.endswith(("_updated", "__state_added"))}
            | ({"__meta_added": None} if file["title"] == "Newest" else {})  # only now, in 0.1's case
            for file in again.files.find(deleted=None, order_by="content_hash")
        ]


def kept(base: Path, role: str) -> dict[str, object]:
    """Return what the files that were kept aside hold, whatever SQLite did to their pages."""
    found: dict[str, object] = {}
    (folder,) = (base / role / "_mmmeta").glob("old-*")
    for path in folder.rglob("*"):
        if path.suffix == ".db":
            with closing(sqlite3.connect(path)) as connection:
                found[path.name] = connection.execute("SELECT * FROM files").fetchall()
        elif path.is_file() and path.name != "report.json":
            found[str(path.relative_to(folder))] = path.read_bytes()
    return found


@pytest.fixture(scope="module", params=["0.1", "0.4"])
def archive(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    base = tmp_path_factory.mktemp("archive")
    prepare(base, request.param, "publisher", base)
    finish(base, "publisher")
    return request.param, base / "remote"


@pytest.mark.parametrize(("role", "verb"), VERBS)
def test_a_killed_is_finished(tmp_path: Path, archive: tuple[str, Path], role: str, verb: str) -> None:
    version, there = archive
    base = tmp_path / "whole"
    start(base, version, role, verb, there)
    rehearsal = run(base, role, verb, 0)
    assert rehearsal.returncode == 0, rehearsal.stderr
    expected, aside = finish(base, role), kept(base, role)
    assert aside
    total = int(rehearsal.stdout)
    wanted = min(POINTS, total)
    for step in sorted({1 + round(n * (total - 1) / (wanted - 1)) for n in range(wanted)}):
        base = tmp_path / str(step)
        start(base, version, role, verb, there)
        killed = run(base, role, verb, step)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert finish(base, role) == expected, step
        assert kept(base, role) == aside, step
        assert [path.name for path in (base / role).rglob(".tmp-*")] == [], step
        shutil.rmtree(base)


def start(base: Path, version: str, role: str, verb: str, there: Path) -> None:
    prepare(base, version, role, there)
    if (role, verb) == ("client", "update"):
        with mmmeta(base / role, remote=base / "remote") as m:
            m.pull()
