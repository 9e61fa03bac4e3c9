"""The README's story, run as it stands; its command line; and that what the documents point to is there."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas
import pytest

from mmmeta_core.config import Config
from mmmeta_core.metadir import Metadir

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
STORY = README.split("## Dagster\n", 1)[0]
COMMAND_LINE = STORY.split("## Command line\n", 1)[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("[!.]*/**/*.md")])


def write_archive(folder: Path) -> None:
    """Two contracts, one of them scraped yesterday, and a report of yesterday, each with its file."""
    folder.mkdir()
    now = datetime.now(UTC)
    for name, kind, days in (("lease", "contract", 1), ("sale", "contract", 30), ("study", "report", 1)):
        retrieved = (now - timedelta(days=days)).isoformat()
        metadata = {"content_hash": f"{name}!", "file_name": f"{name}.pdf", "title": name.title()}
        more = {"document_type": kind, "retrieved_at": retrieved}
        (folder / f"{name}.json").write_text(json.dumps(metadata | more))
        (folder / f"{name}.pdf").write_text(f"the {name}")


class Reader:
    """Executes the README's blocks of Python one after the other, as someone does who tries them out."""

    def __init__(self) -> None:
        self.imported: list[str] = []
        self.scraped = [{"content_hash": "x", "title": "X"}, {"content_hash": "y", "title": "Y"}]
        self.names: dict[str, Any] = {"import_document": self.import_document, "scraper": self.scraper}
        self.blocks = re.findall(r"^```python\n(.*?)^```", STORY, re.DOTALL | re.MULTILINE)

    def import_document(self, file: Any) -> None:
        assert dict(file)["document_type"]
        if file["title"] == "Damaged":
            raise ValueError("it can't be read")
        self.imported.append(file["title"])

    def scraper(self) -> Iterator[dict[str, Any]]:
        yield from self.scraped

    def run(self, number: int) -> Metadir:
        exec(compile(self.blocks[number], "README.md", "exec"), self.names)  # noqa: S102 - it is ours
        metadir: Metadir = self.names["m"]
        return metadir


def test_the_story_of_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_archive(tmp_path / "archive")
    (tmp_path / "archive2").mkdir()
    reader = Reader()
    assert len(reader.blocks) == 7, "a new block needs a place in this test"
    publish, contracts, imports, process, export, scrape, store = range(7)

    with reader.run(publish) as m:
        assert (m.inspect().files, m.revision) == (3, 1)

    for _ in range(2):
        with reader.run(contracts) as m:
            assert not list(m.files.find(document_type="contract", downloaded=False))
    came = {path.name: path.read_text() for path in (tmp_path / "contracts").iterdir()}
    assert came == {"lease.pdf": "the lease", "sale.pdf": "the sale"}

    for _ in range(2):
        with reader.run(imports) as m:
            assert sorted(reader.imported) == ["Lease", "Study"]
            assert [file["title"] for file in m.files.find(imported=False)] == ["Sale"]

    week_ago = reader.names["week_ago"].isoformat()
    damaged = {"content_hash": "d", "title": "Damaged", "document_type": "report", "retrieved_at": week_ago}
    for name, title in (("bad", "Damaged"), ("good", "Good")):
        metadata = json.dumps(damaged | {"title": title, "content_hash": name})
        (tmp_path / "archive" / f"{name}.json").write_text(metadata)
    reader.run(publish).close()
    with Metadir("client2", remote="archive") as reader.names["m"]:
        reader.names["m"].sync()
        m = reader.run(process)
        assert sorted(reader.imported) == ["Good", "Lease", "Study"]
        (failure,) = m.failures("imported")
        assert (failure.key, failure.attempts) == ("bad", 1)

    with reader.run(export) as m:
        with closing(sqlite3.connect("imports.db")) as database:
            rows = database.execute("SELECT * FROM documents ORDER BY content_hash").fetchall()
        assert rows == [("lease!", "Lease", "contract"), ("sale!", "Sale", "contract")]
        assert len(reader.names["contracts"]) == len(pandas.read_parquet("contracts.parquet")) == 2

    for path in (tmp_path / "archive").glob("*.json"):
        path.unlink()
    with reader.run(publish) as m:
        assert (m.inspect().files, m.revision) == (5, 2)

    with reader.run(scrape) as m:
        assert (m.revision, m.inspect().files) == (1, 2)
        reader.scraped.append({"content_hash": "x", "title": "X, corrected"})
        reader.run(scrape).close()
        assert [file["title"] for file in m.files.find(order_by="title")] == ["X, corrected", "Y"]

        reader.run(store)
        assert m.store["new_files"] == 17
        assert datetime.now(UTC) - m.store["my_ts_key"] < timedelta(minutes=1)
        m.push()
    with Metadir("reader", remote="archive2") as client:
        client.pull()
        assert client.store["new_files"] == 17
        assert not [key for key in client.store if key.startswith("local_")]


def test_the_settings_of_the_readme_are_settings() -> None:
    (text,) = re.findall(r"^```yaml\n(.*?)^```", STORY, re.DOTALL | re.MULTILINE)
    assert Config.parse(text, "README.md") == Config(
        include=("title", "document_type", "publisher:name"),
        required=("title",),
        types={"retrieved_at": "datetime"},
        indexes=("document_type",),
        remote={"url": "https://archive.example.org/{file_name}"},
    )


@pytest.fixture
def shell(tmp_path: Path, s3_endpoint: str, s3_client: Any) -> dict[str, str]:
    """The environment of a shell that finds `mmmeta` and the bucket of the README."""
    s3_client.create_bucket(Bucket="bucket")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "AWS_ENDPOINT_URL": s3_endpoint, "COLUMNS": "80"}


def test_the_shell_lines_of_the_readme_run(tmp_path: Path, shell: dict[str, str]) -> None:
    write_archive(tmp_path / "documents")
    (tmp_path / "documents" / "broken.json").write_text("{")
    lines = re.findall(r"^    (mmmeta .*)$", COMMAND_LINE, re.MULTILINE)
    assert len(lines) == 5
    said = []
    for line in lines:
        result = subprocess.run(["bash", "-c", line], cwd=tmp_path, env=shell, capture_output=True, text=True)
        assert result.returncode == 0, f"{line}: {result.stderr}"
        said.append(result.stdout)
    published, invalid, synced, stored, exported = said
    assert "generated.added 3, " in published
    assert "pushed.revision 1, " in published
    assert invalid.startswith("broken.json\tnot valid JSON")
    assert "updated.added 3, " in synced
    assert datetime.now(UTC) - datetime.fromisoformat(stored.strip()) < timedelta(minutes=1)
    assert exported.startswith("documents 2, ")


def test_the_sixty_seconds_of_the_readme(tmp_path: Path, shell: dict[str, str]) -> None:
    write_archive(tmp_path / "documents")
    (block,) = re.findall(r"^```console\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    told = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE)
    assert len(told) == 11
    mark = "--- the next one ---"
    script = f"\necho '{mark}'\n".join(line for line, _ in told)
    ran = subprocess.run(["bash", "-ec", script], cwd=tmp_path, env=shell, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    for (line, expected), said in zip(told, ran.stdout.split(f"{mark}\n"), strict=True):
        assert told_apart(said) == told_apart(expected), line


def told_apart(output: str) -> str:
    """The output without what differs each time: seconds, bytes, times."""
    return re.sub(r"(seconds|bytes) [\d.]+|\d{4}-[\d-]+T[\d:+]+", r"\1 …", output)


def test_the_help_in_the_readme_is_what_the_program_prints(tmp_path: Path) -> None:
    (block,) = re.findall(r"^```text\n(.*?)^```", COMMAND_LINE, re.DOTALL | re.MULTILINE)
    result = subprocess.run(
        [sys.executable, "-m", "mmmeta_core", "--help"],
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "80"},
        capture_output=True,
        text=True,
    )
    assert block == result.stdout


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_document_links_to_exists(path: Path) -> None:
    links = re.findall(r"\]\(([^()\s]+)\)", path.read_text(encoding="utf-8"))
    local = [link.partition("#")[0] for link in links if not re.match(r"[a-z]+:", link)]
    assert [link for link in local if not (path.parent / link).exists()] == []


def test_the_make_targets_that_documents_name_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    text = "\n".join(path.read_text(encoding="utf-8") for path in DOCUMENTS)
    named = set(re.findall(r"(?:^    |`)make ([a-z]+)", text, re.MULTILINE))
    assert {"run", "test", "demo", "check"} <= named
    assert named <= targets
