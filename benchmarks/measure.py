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

Medians = dict[str, dict[str, dict[str, float]]]
"""By job, contestant and what: seconds, memory, requests, bytes."""

CHILD = Path(__file__).with_name("child.py")


class JobError(Exception):
    """A job ended with an error; the message is what it said."""


def measure(python: Path, module: str, job: str, base: Path, **options: Any) -> dict[str, float] | None:
    """Run a job of a module beside this one; None where it has none of this name. Raises `JobError`."""
    source = CHILD.with_name(f"{module}.py").read_text(encoding="utf-8")
    if f"def {job}(" not in source and f"{job} =" not in source:
        return None
    done = subprocess.run(
        [python, "-W", "ignore", CHILD, module, job, base, json.dumps(options)],
        capture_output=True,
        text=True,
        cwd=base,
    )
    if done.returncode:
        raise JobError(f"{module}: {job} failed\n{done.stderr}")
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
    """All that was measured with an archive of one size, by job and contestant."""

    def __init__(self) -> None:
        self._found: defaultdict[str, defaultdict[str, list[dict[str, float]]]]
        self._found = defaultdict(lambda: defaultdict(list))

    def add(self, job: str, contestant: str, found: dict[str, float] | None) -> None:
        if found is not None:
            self._found[job][contestant].append(found)

    def medians(self) -> Medians:
        """Return the median of each number that was measured."""
        return {
            job: {name: _medians(rounds) for name, rounds in contestants.items()}
            for job, contestants in self._found.items()
        }


def _medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    whats = dict.fromkeys(what for one in rounds for what in one)
    return {what: float(f"{median(one[what] for one in rounds if what in one):.9g}") for what in whats}
