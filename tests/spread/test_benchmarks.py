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
