"""The benchmarks of scale, with a handful."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_bench() -> None:
    lines = run("benchmarks", "40", "50", "--rounds", "1", "--files", "40")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| ")]
    moved = {row[0]: row[1:6] for row in rows if row[0].startswith("pull") and ":" in row[0]}
    assert list(moved.values())[1:] == [
        ["3", "3", "1.00", "≤ segments + 2", "yes"],
        ["1", "1", "1.00", "1", "yes"],
        ["0", "0", "", "0", "yes"],
    ]
    assert [row[0] for row in rows].count("update, cold") == 2
    assert [row[0] for row in rows].count("generate, cold") == 1, "a catalog without files is not generated"


def test_many() -> None:
    lines = run("benchmarks.many", "3", "2", "--rounds", "1")
    assert len(lines) == 5
    assert lines[2].startswith("| load of 6 clients | as many plain assets")
    assert [re.search(r"\d+ requests", line).group() for line in lines[3:]] == ["3 requests"] * 2  # type: ignore[union-attr]


def test_scale() -> None:
    lines = run("benchmarks.scale", "3000")
    memory = [int(found) for line in lines for found in re.findall(r"([\d,]+) MB of memory", line)]
    assert len(memory) > 15
    assert max(memory) < 200
    assert any(line.startswith("| process 1,000 again | ") for line in lines)
