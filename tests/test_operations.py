"""docs/operations.md: its blocks and shell lines run as they stand, and it explains each kind of finding."""

from __future__ import annotations

import re
import shlex
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any, get_args

import pytest
from metadirs import overwrite
from shell import environment

from mmmeta_core import Metadir, into_database
from mmmeta_core.repair.plan import NEVER, STAGES
from mmmeta_core.verify import Code

TEXT = (Path(__file__).parent.parent / "docs" / "operations.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
LINES = re.findall(r"^    (mmmeta .*)$", TEXT, re.MULTILINE)


def run(block: str, names: dict[str, Any]) -> Metadir:
    exec(compile(block, "operations.md", "exec"), names)  # noqa: S102 - it is ours
    metadir: Metadir = names["m"]
    return metadir


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Metadir:
    """A client that has imported one of two documents into a database."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "archive").mkdir()
    with Metadir(tmp_path / "publisher", remote="archive") as publisher:
        publisher.files.insert_many({"content_hash": key, "title": key.upper()} for key in "ab")
        publisher.push()
    with Metadir("client", remote="archive") as m, closing(into_database("sqlite:///imports.db")) as into:
        m.sync()
        m.files.process(into, mark="imported", content_hash="a")
    return m


def imported() -> list[str]:
    with Metadir("client", remote="archive") as m:
        return [file.key for file in m.files.find(imported=True)]


def test_a_state_comes_back_from_a_backup_or_from_what_was_imported(client: Metadir) -> None:
    backup, restore, tell = BLOCKS
    names: dict[str, Any] = {}
    run(backup, names)
    with closing(sqlite3.connect("state-backup.db")) as state:
        assert state.execute("SELECT content_hash FROM files WHERE imported").fetchall() == [("a",)]
    client.paths.state.write_bytes(b"lost")
    run(restore, names)
    assert imported() == ["a"]
    run(tell, names).close()
    assert imported() == ["a"]


def test_the_shell_lines_run(client: Metadir, tmp_path: Path) -> None:
    watch, doctor, quick, deep, dry_run, repair = LINES

    def say(line: str) -> tuple[int, str]:
        arguments = [sys.executable, "-m", "mmmeta_core", *shlex.split(line)[1:]]
        done = subprocess.run(arguments, cwd=tmp_path, env=environment(), capture_output=True, text=True)
        return done.returncode, done.stdout

    (tmp_path / "import.sh").write_text('#!/bin/sh\ncp "$1" came-$2\n')
    (tmp_path / "import.sh").chmod(0o755)
    assert say(watch)[0] == 0
    (service,) = re.findall(r"^ExecStart=/usr/local/bin/(mmmeta .*)$", TEXT, re.MULTILINE)
    assert watch.partition(" watch ")[2] == service.replace("watch ", "watch --once ").partition(" watch ")[2]
    code, said = say(doctor)
    assert (code, {row.split("\t")[0] for row in said.splitlines()}) == (0, {"ok"})
    for line in (quick, deep):
        code, said = say(line)
        assert (code, said.startswith("revision 1, ")) == (0, True)
    overwrite(client.paths.meta, 4096)
    code, said = say(dry_run)
    assert (code, said.startswith("would be repaired: ")) == (1, True)
    code, said = say(repair)
    assert (code, said.startswith("repaired: ")) == (0, True)


def test_each_kind_of_finding_is_explained_once_and_is_either_repaired_or_not() -> None:
    explained = [
        code
        for row in re.findall(r"^\| (`.*?) \|", TEXT, re.MULTILINE)
        for code in re.findall(r"`(.*?)`", row)
    ]
    codes = [code for code in explained if "." not in code and "/" not in code]
    assert sorted(codes) == sorted(get_args(Code))
    repaired = [code for stage in STAGES.values() for code in stage]
    assert sorted([*repaired, *NEVER]) == sorted(get_args(Code))
