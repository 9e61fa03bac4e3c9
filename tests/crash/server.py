"""A process that has everything imported, prepares scenarios, and forks a process for each point.

    python -m crash.server FOLDER

reads requests and writes answers, one JSON object a line. It has no thread, no connection and no database open when
it forks, so what a child inherits is as in a process that was started anew.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import json
import os
import random
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from crash.place import Place
from crash.scenarios import BY_NAME, Scenario
from crash.steps import Steps, kill_at

MODULES = (
    *(
        f"mmmeta_core.{name}"
        for name in ("files", "process", "download", "export", "into", "upload", "store")
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
SECONDS = float(os.environ.get("CRASH_SECONDS", "60"))
"""After which a process counts as one that hangs."""
HUNG = 255


@dataclass
class Ended:
    """How a child ended: its signal or exit code, what it said, where it was, and how long it took."""

    code: int
    said: str
    where: str
    seconds: float


@dataclass
class Report:
    """What came of one scenario's points."""

    scenario: str
    steps: int = 0
    points: int = 0
    killed: int = 0
    failures: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Point:
    """A moment: a step's number, or a share of the time that the whole takes."""

    step: int | None = None
    share: float | None = None


def child(action: Callable[[int], None], folder: Path, *, after: float | None = None) -> Ended:
    """Run `action` in a forked process, which gets a descriptor to note where it is; kill it `after` some seconds."""
    started = time.monotonic()
    here, there = os.pipe()
    with (folder / "said").open("wb") as said, (folder / "where").open("wb") as where:
        pid = os.fork()
        if pid == 0:
            os.close(here)
            _become(said.fileno())
            faulthandler.dump_traceback_later(SECONDS * 0.8)  # what hangs says where
            code = 1
            try:
                action(where.fileno())
                code = 0
            except BaseException:  # noqa: BLE001 - reported by the parent
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        os.close(there)
        limit = SECONDS if after is None else after
        if not select.select([here], [], [], limit)[0]:
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        os.close(here)
    said_text = (folder / "said").read_text(errors="replace")
    code = os.waitstatus_to_exitcode(status)
    if after is None and time.monotonic() - started >= limit:
        code, said_text = HUNG, f"it hung and was killed\n{said_text}"
    return Ended(
        code,
        said_text,
        (folder / "where").read_text(errors="replace"),
        time.monotonic() - started,
    )


def _become(said: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nowhere, 0)
    os.dup2(said, 1)
    os.dup2(said, 2)


class Runner:
    """One scenario, prepared."""

    def __init__(self, scenario: Scenario, folder: Path, endpoint: str | None) -> None:
        self.scenario = scenario
        self.folder = folder
        self.place = Place(folder, endpoint)
        folder.mkdir(parents=True)
        self._done("prepare", child(lambda _: scenario.prepare(self.place), folder))
        self.place.keep()
        counted = child(self._counted, folder)
        self._done("act", counted)
        self.steps = int(counted.where)
        self.seconds = counted.seconds
        self.after(counted, self.place)

    def _counted(self, note: int) -> None:
        steps = Steps(self.place.work, lambda *_: None)
        steps.install()
        self.scenario.act(self.place)
        os.write(note, str(steps.taken).encode())

    def _done(self, what: str, ended: Ended) -> None:
        if ended.code != 0:
            raise RuntimeError(f"{self.scenario.name}: {what}: {ended.said}")

    def point(self, point: Point) -> tuple[bool, str | None]:
        """Kill there, let the next run finish, and check. Returns whether it was killed, and what is wrong."""
        self.place.restore()

        def act(note: int) -> None:
            Steps(self.place.work, kill_at(point.step or 0, note)).install()
            self.scenario.act(self.place)

        ended = child(act, self.folder, after=None if point.share is None else point.share * self.seconds)
        killed = ended.code == -signal.SIGKILL
        if not killed and ended.code != 0:
            return killed, f"it failed by itself: {ended.said}"
        try:
            self.after(ended, self.place)
        except (AssertionError, RuntimeError, KeyError, ValueError, OSError) as error:
            return killed, f"{ended.where}{''.join(traceback.format_exception(error))}"
        return killed, None

    def after(self, ended: Ended, place: Place) -> None:
        """Look at what readers see, let the next run finish, and compare."""
        self.scenario.between(place)
        place.pass_time()

        def again(note: int) -> None:
            self.scenario.act(place)
            self.scenario.follow(place)

        self._done("the next run", child(again, self.folder))
        self.scenario.check(place)


def moments(steps: int, wanted: int, chance: random.Random, *, at_random: int) -> Iterator[Point]:
    """Yield steps spread over the whole run, its first and its last among them, then random steps and moments."""
    wanted = min(wanted, steps)
    spread = {1 + round(n * (steps - 1) / max(wanted - 1, 1)) for n in range(wanted)}
    for step in sorted(spread):
        yield Point(step=step)
    for number in range(at_random):
        yield Point(share=chance.random()) if number % 2 else Point(step=chance.randint(1, steps))


def run(request: dict[str, Any], folder: Path) -> Report:
    """Run one scenario's points: `scenario`, `endpoint`, `points`, `at_random`, `seed`."""
    scenario, endpoint = BY_NAME[request["scenario"]], request["endpoint"]
    name = f"{scenario.name}{' on S3' if endpoint else ''}"
    runner = Runner(scenario, folder / name.replace(" ", "-"), endpoint)
    report = Report(name, runner.steps)
    chance = random.Random(f"{request['seed']} {name}")
    for point in moments(runner.steps, request["points"], chance, at_random=request["at_random"]):
        killed, wrong = runner.point(point)
        report.points += 1
        report.killed += killed
        if wrong is not None:
            report.failures.append({**asdict(point), "wrong": wrong})
    return report


def main() -> None:
    folder = Path(sys.argv[1]).resolve()
    for module in MODULES:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = asdict(run(request, folder))
        except Exception:  # noqa: BLE001 - the test that asked reports it
            answer = {"error": traceback.format_exc()}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
