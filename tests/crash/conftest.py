from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from shell import environment

POINTS = int(os.environ.get("CRASH_POINTS", "9"))
"""At how many steps of each scenario a process is killed, spread over all of them."""
AT_RANDOM = int(os.environ.get("CRASH_AT_RANDOM", "2"))
"""At how many random steps and moments besides."""
SEED = os.environ.get("CRASH_SEED") or str(random.randrange(10**6))  # noqa: S311

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.crash)


Ask = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def scratch() -> Iterator[Path]:
    """A folder for many small files; in memory where that can be, for a kill asks nothing of the disk."""
    memory = Path("/dev/shm")  # noqa: S108
    folder = Path(
        tempfile.mkdtemp(prefix="mmmeta-crash-", dir=memory if os.access(memory, os.W_OK) else None)
    )
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def ask(scratch: Path) -> Iterator[Ask]:
    """Ask the process that forks the others; see `crash.server`."""
    server = subprocess.Popen(
        [sys.executable, "-m", "crash.server", str(scratch)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[1],
        env=environment(),
        text=True,
    )
    assert server.stdin is not None
    assert server.stdout is not None

    def asked(**request: Any) -> dict[str, Any]:
        assert server.stdin is not None
        assert server.stdout is not None
        print(json.dumps(request), file=server.stdin, flush=True)
        answer: dict[str, Any] = json.loads(server.stdout.readline())
        assert "error" not in answer, answer["error"]
        return answer

    with server:
        yield asked
        server.stdin.close()


@pytest.fixture
def stop(ask: Ask) -> Callable[..., None]:
    """Run a scenario, and stop it at some points: by a kill, or in another way; `most` says that this must have ended it."""

    def run(
        scenario: str,
        *,
        how: str = "kill",
        endpoint: str | None = None,
        points: int = POINTS,
        at_random: int = AT_RANDOM,
        most: bool = True,
        commits: bool = False,
    ) -> None:
        request = {"how": how, "points": points, "at_random": at_random, "commits": commits, "seed": SEED}
        report = ask(scenario=scenario, endpoint=endpoint, **request)
        if "skipped" in report:
            pytest.skip(report["skipped"])
        wrong = "\n\n".join(
            f"{point['step'] or point['share']}: {point['wrong']}" for point in report["failures"]
        )
        assert not wrong, f"{report['scenario']}, CRASH_SEED={SEED}:\n{wrong}"
        if most:
            assert report["stopped"] >= report["points"] / 2, "most of them ended before they were stopped"

    return run
