"""Repair of a state db: in its place, or made anew with all of the client's own that can be read."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from metadirs import (
    KEYS,
    PUBLISHED,
    SELECT,
    asides,
    codes,
    mended,
    overwrite,
    own,
    sql,
    the_one,
)
from shell import environment

from mmmeta_core import Metadir, mmmeta

STATE: dict[str, str] = {
    "a published value": "UPDATE files SET size = 1",
    "no document": f"DELETE FROM files WHERE content_hash = '{KEYS[3]}'",
    "a document too many": "INSERT INTO files (content_hash) VALUES ('x')",
    "no owner": "DELETE FROM mmmeta_columns WHERE name = 'imported'",
    "another owner": "UPDATE mmmeta_columns SET owner = 'x', kind = 'y' WHERE name = 'page'",
    "a letter of a name": "ALTER TABLE files RENAME COLUMN imported TO imqorted",
    "a letter of a note": "UPDATE mmmeta_columns SET name = 'paqe' WHERE name = 'page'",
    "a letter of a published name": "ALTER TABLE files RENAME COLUMN size TO siza",
    "a lease": f"UPDATE mmmeta_work SET worker = 'x', lease_until = 'y' WHERE key = '{KEYS[1]}'",
}


@pytest.mark.parametrize("damage", STATE)
def test_a_state_is_mended_in_its_place_and_keeps_all_of_the_client_s(site: Metadir, damage: str) -> None:
    before = own(site)
    sql(site.paths.state, STATE[damage])
    mended(site, "state.db")
    assert {row for row in sql(site.paths.state, SELECT) if row[0] != "x"} == PUBLISHED
    mine = own(site)
    if damage == "no document":
        before[0].remove((KEYS[3], None, None, None, None))
        mine[0].remove((KEYS[3], None, None, None, None))
    mine[0][:] = [row for row in mine[0] if row[0] != "x"]
    assert mine == before
    assert asides(site.path) == []
    assert [file.key for file in site.files.find(imported=True, order_by="file_name")] == [KEYS[1], KEYS[2]]
    assert "x" not in {file.key for file in site.files.find()}


def test_notes_of_work_that_can_not_be_are_dropped_so_that_it_is_due_again(site: Metadir) -> None:
    sql(
        site.paths.state,
        "UPDATE mmmeta_work SET attempts = -1, failed_at = 'x' WHERE mark = 'parsed'",
        "INSERT INTO mmmeta_downloads VALUES ('not absolute', 'x', 'x', 'x')",
        "UPDATE mmmeta_pipelines SET last_run = 'x'",
    )
    mended(site, "state.db")
    assert list(site.failures("parsed")) == []
    seen: list[Any] = []
    site.files.process(lambda file: seen.append(file.key), mark="parsed", file_name="3.pdf")
    assert seen == [KEYS[3]]


SALVAGED: dict[str, Callable[[Path], object]] = {
    "its name": lambda p: overwrite(p, 0, b"x" * 16),
    "an index": lambda p: sql(p, "PRAGMA writable_schema = 1", "DELETE FROM sqlite_master WHERE name LIKE '%worker'"),
    "a bookkeeping column": lambda p: sql(p, "ALTER TABLE files DROP COLUMN __state_added"),
    "the notes": lambda p: sql(p, "DELETE FROM mmmeta_info"),
    "no notes of columns": lambda p: sql(p, "DROP TABLE mmmeta_columns"),
}  # fmt: skip


@pytest.mark.parametrize("damage", SALVAGED)
def test_a_damaged_state_is_made_anew_with_the_client_s_own(site: Metadir, damage: str) -> None:
    before = own(site)
    SALVAGED[damage](site.paths.state)
    damaged = site.paths.state.read_bytes()
    done = mended(site, "state.db")
    assert "your own columns of 3 documents were taken over" in done.repaired[0].done
    assert set(sql(site.paths.state, SELECT)) == PUBLISHED
    assert own(site) == before
    assert [(site.paths.root / name).read_bytes() for name in asides(site.path)] == [damaged]
    assert site.files.process(lambda file: None, mark="imported", file_name=["1.pdf", "2.pdf"]).processed == 0


def test_of_a_large_state_with_holes_all_the_rest_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / "remote").mkdir()
    with mmmeta(tmp_path / "publisher", remote=tmp_path / "remote") as publisher:
        publisher.files.insert_many({"content_hash": f"k{n}", "title": "t" * 200} for n in range(2000))
        publisher.push()
    with mmmeta(tmp_path / "client", remote=tmp_path / "remote") as m:
        m.sync()
        m.files.process(lambda file: {"mine": f"own {file.key}"}, mark="imported", chunk=500)
        m.close()
        size = m.paths.state.stat().st_size
        for part in (0.3, 0.5, 0.9):
            overwrite(m.paths.state, int(size * part) // 4096 * 4096, b"\xff" * 4096)
        done = mended(m, "state.db")
        rows = sql(m.paths.state, "SELECT content_hash, imported, mine FROM files")
        kept = [row for row in rows if row[1:] != (None, None)]
        assert len(rows) == 2000
        assert all(row[1:] == (1, f"own {row[0]}") for row in kept)
        assert len(kept) > 1900
        lost = 2000 - len(kept)
        assert f"{lost} documents could not be read and are due again" in done.repaired[0].done or lost == 0
        assert m.files.process(lambda file: None, mark="imported").processed == lost


def test_what_is_only_in_the_write_ahead_log_is_taken_over(site: Metadir, tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from mmmeta_core import mmmeta; m = mmmeta(sys.argv[1]);\n"
        "for file in m.files.find(): file['late'] = 'in the log'; file.save()\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    ((page,),) = sql(site.paths.state, "SELECT rootpage FROM sqlite_master WHERE name = 'mmmeta_pipelines'")
    subprocess.run([sys.executable, "-c", code, str(site.path)], env=environment(), check=False)
    assert site.paths.state.with_name("state.db-wal").stat().st_size > 0
    overwrite(site.paths.state, (page - 1) * 4096, b"x" * 4096)
    done = site.verify(repair=True)
    site.close()
    assert (codes(done), len(done.repaired)) == ([], 1)
    assert sql(site.paths.state, "SELECT DISTINCT late FROM files") == [("in the log",)]
    assert asides(site.path)[0] == "state.db.damaged-1"


def test_a_state_of_which_nothing_can_be_read_is_left_alone(site: Metadir) -> None:
    site.paths.state.write_text("text " * 999)
    finding = the_one(site.verify(repair=True))
    assert (finding.code, "nothing of your own can be read" in finding.why) == ("state-damaged", True)
    assert site.paths.state.read_text() == "text " * 999


def test_a_state_that_another_process_has_open_is_left_alone(site: Metadir) -> None:
    code = "import sys; from mmmeta_core import mmmeta; m = mmmeta(sys.argv[1]); len(m); print(1, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(site.path)],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        overwrite(site.paths.state, 0, b"x" * 16)
        before = site.paths.state.read_bytes()
        finding = the_one(site.verify(repair=True))
        assert "another process has" in finding.why
        assert site.paths.state.read_bytes() == before
        other.kill()
    overwrite(site.paths.state, 0, b"x" * 16)
    mended(site, "state.db")
