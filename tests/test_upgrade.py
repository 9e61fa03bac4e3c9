"""docs/upgrade.md, run as it stands over metadirs that the old packages wrote."""

from __future__ import annotations

import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from mmmeta_core import Metadir, mmmeta
from mmmeta_core.config import Config

OLD = Path(__file__).parent / "golden" / "old"
UPGRADE = (Path(__file__).parent.parent / "docs" / "upgrade.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", UPGRADE, re.DOTALL | re.MULTILINE)
NEW_CALLS = [
    call
    for line in UPGRADE.split("## Old call, new call\n")[1].splitlines()
    if line.startswith("| `")
    for call in re.findall(r"`([^`]+)`", line.split(" | ")[1])
    if not call.startswith(("mmmeta export", "state.db", "force=", "get", "generate"))
]


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names that blocks leave behind, in a folder with an old publisher and client."""
    monkeypatch.chdir(tmp_path)
    for folder in ("archive", "archive2", "scraper"):
        (tmp_path / folder).mkdir()
    for role in ("publisher", "client"):
        shutil.copytree(OLD / "0.4" / role, tmp_path / role)
    shutil.copytree(OLD / "documents", tmp_path / "documents")
    return {}


def run(number: int, names: dict[str, Any]) -> Metadir:
    exec(compile(BLOCKS[number], "upgrade.md", "exec"), names)  # noqa: S102 - it is ours
    metadir: Metadir = names["m"]
    return metadir


def test_the_way_that_is_described_is_one(tmp_path: Path, names: dict[str, Any]) -> None:
    assert len(BLOCKS) == 3, "a new block needs a place in this test"
    with run(0, names) as m:
        assert m.revision == 1
        assert [one.version for one in m.converted] == ["0.4"]
    with run(1, names) as m:
        assert [file.key for file in m.files.find(imported=True)] == ["0042"]
        assert [file.key for file in m.files.find(title="New")] == ["c3d2"]

    with closing(sqlite3.connect("scraper/state-of-0.1.db")) as old, old:
        old.execute("CREATE TABLE files (id INTEGER PRIMARY KEY, content_hash TEXT, title TEXT, __x TEXT)")
        old.execute("INSERT INTO files VALUES (1, 'a', 'A', 'x')")
    with run(2, names) as m:
        assert (m.revision, [dict(file)["title"] for file in m.files]) == (1, ["A"])
        assert list(m.inspect().columns) == ["title"]


def test_every_new_call_is_one(names: dict[str, Any]) -> None:
    run(0, names).close()
    with mmmeta("client", files_root="documents", remote="archive") as m:
        m.sync()
        names |= {"m": m, "path": "new", "documents": "documents", "file": next(iter(m.files))}
        for call in NEW_CALLS:
            exec(compile(call, call, "exec"), names)  # noqa: S102 - it is ours
    assert len(NEW_CALLS) == 18
    assert Path("documents.csv").read_text().count("contract") >= 3


def test_a_conversion_may_be_done_again_with_types(names: dict[str, Any]) -> None:
    (text,) = re.findall(r"^```yaml\n(.*?)^```", UPGRADE, re.DOTALL | re.MULTILINE)
    types = Config.parse(text, "upgrade.md").types
    metadir = Path("publisher/_mmmeta")
    with mmmeta("publisher") as m:
        m.update()
    config = metadir / "config.yml"
    config.write_text(config.read_text().replace("metadata:\n", text, 1))
    (metadir / "meta.db").unlink()
    (metadir / "old-0.4/db").rename(metadir / "db")
    with mmmeta("publisher") as m:
        m.update()
        assert dict(m.config.types) == types
        file = m.files.find_one(content_hash="a1f0")
        assert file is not None
        assert (file["public"], file["size"], file["tags"]) == (True, 1200, ["x", "y, z", 'say "hi"'])
