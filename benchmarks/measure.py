"""Jobs in processes of their own, and what they took."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

CHILD = Path(__file__).with_name("child.py")


def measure(python: Path, contestant: str, job: str, base: Path, **options: Any) -> dict[str, float] | None:
    """Run a job; None where the contestant has none of this name or can't do it."""
    source = CHILD.with_name(f"{contestant}.py").read_text(encoding="utf-8")
    if f"def {job}(" not in source and f"{job} =" not in source:
        return None
    done = subprocess.run(
        [python, "-W", "ignore", CHILD, contestant, job, base, json.dumps(options)],
        capture_output=True,
        text=True,
        cwd=base,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["?"])[-1]
        if contestant != "original":
            raise SystemExit(f"{contestant}: {job} failed\n{done.stderr}")
        print(f"{python.parent.parent.name}: {job} failed: {last}")
        return None
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def whole_command(arguments: Sequence[str | Path] | None) -> dict[str, float]:
    """Run `mmmeta` with arguments, or Python with nothing to do, from the outside."""
    python = Path(sys.executable)
    command = [python, "-c", "pass"] if arguments is None else [python.with_name("mmmeta"), *arguments]
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return {"seconds": time.perf_counter() - started}


class Results:
    """All that was measured, by size, job and contestant."""

    def __init__(self) -> None:
        self._found: defaultdict[tuple[int, str, str], list[dict[str, float]]] = defaultdict(list)

    def add(self, size: int, job: str, contestant: str, found: dict[str, float] | None) -> None:
        if found is not None:
            self._found[size, job, contestant].append(found)

    def jobs(self, size: int) -> list[str]:
        return list(dict.fromkeys(job for at, job, _ in self._found if at == size))

    def sizes(self) -> list[int]:
        return list(dict.fromkeys(size for size, _, _ in self._found))

    def get(self, size: int, job: str, contestant: str, what: str = "seconds") -> float | None:
        """Return the median of what was measured."""
        found = [one[what] for one in self._found.get((size, job, contestant), []) if what in one]
        return median(found) if found else None
