"""docs/recipes.md, run as it stands; docs/architecture.md names what is there; README.md lists all guides."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from shell import environment

ROOT = Path(__file__).parent.parent
RECIPES = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
ARCHITECTURE = ROOT / "docs" / "architecture.md"
WEB = "https://archive.example.org/documents"


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
        done = subprocess.run(arguments, cwd=tmp_path, env=environment(), capture_output=True, text=True)
        assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"


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
