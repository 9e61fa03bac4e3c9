"""What kills and broken disks brought to light, one by one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Scrape
from shell import environment

from mmmeta_core import mmmeta
from mmmeta_core.atomic import TEMPORARY

OLD, YOUNG = f"{TEMPORARY}1-old", f"{TEMPORARY}1-young"


def litter(folder: Path) -> None:
    """Leave what a process that was killed hours ago left, and what one is writing now."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (OLD, YOUNG):
        (folder / name).write_bytes(b"half of")
    os.utime(folder / OLD, (0, 0))


def lying_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith(TEMPORARY))


def test_a_publish_clears_away_what_others_left_in_a_folder(scrape: Scrape, tmp_path: Path) -> None:
    (tmp_path / "remote").mkdir()
    with mmmeta(tmp_path / "a", files_root=tmp_path / "documents", remote=tmp_path / "remote") as m:
        scrape("d1", file_name="d1.txt")
        (tmp_path / "documents" / "d1.txt").write_text("content")
        m.generate()
        m.push()
        litter(tmp_path / "remote" / "_mmmeta")
        litter(tmp_path / "remote")
        m.push()
        assert lying_in(tmp_path / "remote" / "_mmmeta") == [OLD, YOUNG], "nothing was published"
    with mmmeta(tmp_path / "b", remote=tmp_path / "remote") as m:
        m.pull()
        m.store["by"] = "b"
        m.push()
    assert lying_in(tmp_path / "remote" / "_mmmeta") == [YOUNG]
    with mmmeta(tmp_path / "a", files_root=tmp_path / "documents", remote=tmp_path / "remote") as m:
        m.push(files=True)
    assert lying_in(tmp_path / "remote") == [YOUNG], "where documents are uploaded to"


def test_an_export_clears_away_what_a_killed_one_left(scrape: Scrape, tmp_path: Path) -> None:
    scrape("d1")
    with mmmeta(tmp_path / "a", files_root=tmp_path / "documents") as m:
        m.generate()
        m.update()
        litter(tmp_path / "out")
        m.export(tmp_path / "out" / "all.csv")
    assert lying_in(tmp_path / "out") == [YOUNG]


# Reads one folder's listing as a broken disk does, in a process of its own: hooks can't be taken away again.
BROKEN = """
import errno, sys
from mmmeta_core import mmmeta

def hook(event, arguments):
    if event == "os.scandir" and str(arguments[0]).rstrip("/").endswith(sys.argv[3]):
        raise OSError(errno.EIO, "Input/output error", str(arguments[0]))

with mmmeta(sys.argv[1], files_root=sys.argv[2]) as m:
    sys.addaudithook(hook)
    result = m.generate(ensure=True, force=True)
print(result.deleted)
"""


@pytest.mark.parametrize("folder", ["documents/sub", "documents/sub/below"])
def test_a_folder_that_cannot_be_read_deletes_nothing(scrape: Scrape, tmp_path: Path, folder: str) -> None:
    for name in ("a", "b", "sub/c", "sub/below/d"):
        scrape(name)
    with mmmeta(tmp_path / "m", files_root=tmp_path / "documents") as m:
        m.generate()
    (tmp_path / "documents" / "b.json").unlink()
    ran = subprocess.run(
        [sys.executable, "-c", BROKEN, str(tmp_path / "m"), str(tmp_path / "documents"), folder],
        capture_output=True,
        text=True,
        env=environment(),
    )
    assert ran.stdout == "1\n", f"only what is known to be gone: {ran.stderr}"
    with mmmeta(tmp_path / "m", files_root=tmp_path / "documents") as m:
        m.update()
        assert {file.key for file in m.files} == {"a", "sub/c", "sub/below/d"}
        assert m.generate(ensure=True).deleted == 0
