"""docs/recipes.md and docs/work.md, run as they stand; docs/architecture.md names what is there; README.md lists all."""

from __future__ import annotations

import json
import re
import shlex
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from shell import done, environment, key

from mmmeta_core.files import File
from mmmeta_core.metadir import Metadir

ROOT = Path(__file__).parent.parent
RECIPES = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
ARCHITECTURE = ROOT / "docs" / "architecture.md"
WEB = "https://archive.example.org/documents"
WORK = (ROOT / "docs" / "work.md").read_text(encoding="utf-8")
SERVER = "postgresql+psycopg://user@host/name"


def test_the_recipes_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("archive", "documents"):
        (tmp_path / folder).mkdir()
    sale = {"content_hash": "s", "file_name": "sale.pdf", "title": "Sale", "document_type": "contract"}
    (tmp_path / "documents" / "sale.json").write_text(json.dumps(sale))
    (tmp_path / "documents" / "sale.pdf").write_text("the sale")
    blocks = re.findall(r"^```python\n(.*?)^```", RECIPES, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 7, "a new block needs a place in this test"
    assert WEB in blocks[2]
    blocks[2] = blocks[2].replace(WEB, "./archive")  # the web itself is for tests/remotes/test_http.py
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "recipes.md", "exec"), names)  # noqa: S102 - it is ours
    assert names["titles"] == ["Lease", "Sale"]
    assert sorted(names["frame"]["title"]) == ["Lease", "Sale"]
    assert names["rows"] == [("Lease",), ("Sale",), ("Study",)]
    assert [(revision, documents) for revision, _, documents in names["published"]] == [(1, 2), (2, 1)]
    assert (tmp_path / "archive" / "sale.pdf").read_text() == "the sale"

    lines = re.findall(r"^    mmmeta (.*)$", RECIPES, re.MULTILINE)
    assert len(lines) == 5
    for line in lines:
        arguments = [sys.executable, "-m", "mmmeta_core", *shlex.split(line)]
        ran = subprocess.run(arguments, cwd=tmp_path, env=environment(), capture_output=True, text=True)
        assert ran.returncode == 0, f"{line}: {ran.stdout}{ran.stderr}"


@pytest.fixture
def publisher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Metadir]:
    """The publisher of an archive of two contracts; what imports and removes them lies in the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "archive").mkdir()
    for name, script in (
        ("import", 'cat "$1" >> said; echo " $2 $3" >> said'),
        ("remove", 'echo "no $1" >> said'),
    ):
        (tmp_path / f"{name}.sh").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / f"{name}.sh").chmod(0o755)
    with Metadir(tmp_path / "publisher", remote="archive") as publisher:
        for name in ("lease", "sale"):
            (tmp_path / "archive" / f"{name}.txt").write_text(name)
            title, kind = name.title(), "contract"
            publisher.files.insert(
                content_hash=key(name), file_name=f"{name}.txt", title=title, document_type=kind
            )
        publisher.push()
        yield publisher


def test_the_guide_to_work_runs(
    publisher: Metadir, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    first, shares, program, database = re.findall(r"^```python\n(.*?)^```", WORK, re.DOTALL | re.MULTILINE)
    failures, retry, watch, into = re.findall(r"^    mmmeta (.*)$", WORK, re.MULTILINE)
    names: dict[str, Any] = {}

    def run(block: str) -> None:
        exec(compile(block, "work.md", "exec"), names)  # noqa: S102 - it is ours

    def said() -> list[str]:
        lines = (tmp_path / "said").read_text().splitlines()
        (tmp_path / "said").unlink()
        return sorted(lines)

    def tell(line: str) -> str:
        return done(*shlex.split(line), cwd=tmp_path, MMMETA="client", MMMETA_REMOTE="archive")

    def publish(name: str) -> None:
        publisher.files.upsert({"content_hash": key(name), "file_name": f"{name}.txt", "title": name.title()})
        (tmp_path / "archive" / f"{name}.txt").write_text(name)
        publisher.push()
        with Metadir("client", remote="archive") as client:
            client.sync()

    run(first)
    printed = capfd.readouterr().out.splitlines()
    assert sorted(printed) == ["Lease b'lease'", "Sale b'sale'"]
    assert sorted(path.name for path in (tmp_path / "contracts").iterdir()) == ["lease.txt", "sale.txt"]
    publish("study")
    run(shares)
    assert "Study" in capfd.readouterr().out
    assert names["left"].documents == 0

    publish("map")
    assert program.count("interval=60)") == 1
    program = program.replace("interval=60)", "interval=0.001, max_polls=1)")  # else it stays
    publisher.files.delete(content_hash=key("sale"))
    publisher.push()
    run(program)
    assert said() == [f"map {key('map')} --title=Map", f"no {key('sale')}"]
    publisher.files.delete(content_hash=key("lease"))
    publisher.push()
    assert "1 deleted; imported 1 removed, 0 failed" in tell(watch)
    assert said() == [f"no {key('lease')}"]

    assert SERVER in database
    run(database.replace(SERVER, "sqlite:///written.db"))  # a server is for tests/test_into.py
    with closing(sqlite3.connect("written.db")) as written:
        assert written.execute("SELECT title FROM documents ORDER BY title").fetchall() == [
            ("Map",),
            ("Study",),
        ]
    publish("plan")
    assert json.loads(tell(f"{into} --json"))["processed"] == 1

    def fail(file: File) -> None:
        raise ValueError("no good")

    names["m"].files.process(fail)
    assert "no good" in tell(failures)
    tell(retry)
    assert names["m"].due_again() == 1
    names["m"].close()


def test_the_readme_lists_every_guide() -> None:
    more = (ROOT / "README.md").read_text(encoding="utf-8").split("\n## More\n")[1]
    assert [path.name for path in (ROOT / "docs").glob("*.md") if f"(docs/{path.name})" not in more] == []


def test_what_the_architecture_names_is_there() -> None:
    text = ARCHITECTURE.read_text(encoding="utf-8")
    named = re.findall(r"`((?:mmmeta_core|tests)/[\w/.]*)(?:::(\w+))?`", text)
    assert len(named) > 25
    assert [path for path, _ in named if not (ROOT / path).exists()] == []
    for path, test in named:
        assert not test or f"def {test}(" in (ROOT / path).read_text(encoding="utf-8"), test
    layers = text.split("| layer |")[1].split("\n\n")[0]
    core = ROOT / "mmmeta_core"
    for path in core.iterdir():
        name = f"{path.name}/" if path.is_dir() else path.name
        assert f"`{name}`" in layers or name.startswith("__") or name == "py.typed", name
