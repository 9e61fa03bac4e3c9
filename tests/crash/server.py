"""A process that has everything imported, prepares scenarios, and forks a process for each point.

    python -m crash.server FOLDER

reads requests and writes answers, one JSON object a line. It has no thread, no connection and no database open when
it forks, so what a child inherits is as in a process that was started anew.
"""

from __future__ import annotations

import gc
import importlib
import json
import random
import sys
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from crash.runner import Point, Runner
from crash.scenarios import BY_NAME
from crash.trouble import UnavailableError

MODULES = (
    *(f"mmmeta_core.sync.{name}" for name in ("pull", "push", "retire")),
    *(
        f"mmmeta_core.{name}"
        for name in ("database.scan", "database.state", "legacy.catalog", "legacy.state")
    ),
    *(f"mmmeta_core.{name}" for name in ("plain_yaml", "remotes.local", "remotes.s3", "sources")),
    *(f"mmmeta_core.cli.{name}" for name in ("commands", "filters", "printing", "progress", "work")),
    *(
        f"mmmeta_core.{name}"
        for name in (
            "files",
            "process",
            "download",
            "export",
            "into",
            "upload",
            "store",
            "generate",
            "update",
            "standing",
        )
    ),
    *(
        "dataset",
        "sqlalchemy.dialects.sqlite",
        "alembic.migration",
        "alembic.operations",
        "boto3",
        "botocore.session",
    ),
)


@dataclass
class Report:
    """What came of one scenario's points."""

    scenario: str
    steps: int = 0
    points: int = 0
    stopped: int = 0
    failures: list[dict[str, Any]] = field(default_factory=list)


class Server:
    """Answers requests; the scenario of the last one stays prepared."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.last: tuple[str, Runner] | None = None

    def run(self, request: dict[str, Any]) -> Report:
        """Run one scenario's points: `scenario`, `endpoint`, `how`, `points`, `at_random`, `commits`, `seed`."""
        endpoint, how = request["endpoint"], request.get("how", "kill")
        name = f"{request['scenario']}{' on S3' if endpoint else ''}"
        if self.last is None or self.last[0] != name:
            folder = self.folder / name.replace(" ", "-")
            self.last = name, Runner(BY_NAME[request["scenario"]], folder, endpoint)
        runner = self.last[1]
        with runner.ready(how):
            report = Report(name if how == "kill" else f"{name}, {how}", runner.steps)
            chance = random.Random(f"{request['seed']} {report.scenario}")  # noqa: S311
            points = moments(runner.steps, request["points"], chance, at_random=request["at_random"])
            # What is done in two transactions, and should be in one, shows at the step after the first.
            after = (Point(step=number + 1) for number in runner.commits if request.get("commits"))
            for point in chain(points, after):
                stopped, wrong = runner.point(point)
                report.points += 1
                report.stopped += stopped
                if wrong is not None:
                    report.failures.append({**asdict(point), "wrong": wrong})
        return report


def moments(steps: int, wanted: int, chance: random.Random, *, at_random: int) -> Iterator[Point]:
    """Yield steps spread over the whole run, its first and its last among them, then random steps and moments."""
    wanted = min(wanted, steps)
    spread = {1 + round(n * (steps - 1) / max(wanted - 1, 1)) for n in range(wanted)}
    for step in sorted(spread):
        yield Point(step=step)
    for number in range(at_random):
        yield Point(share=chance.random()) if number % 2 else Point(step=chance.randint(1, steps))


def main() -> None:
    folder = Path(sys.argv[1]).resolve()
    for module in MODULES:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()
    server = Server(folder)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = asdict(server.run(request))
        except UnavailableError as reason:
            answer = {"skipped": str(reason)}
        except Exception:  # noqa: BLE001 - the test that asked reports it
            answer = {"error": traceback.format_exc()}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
