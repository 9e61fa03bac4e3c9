"""A process that has everything imported, prepares scenarios, and forks a process for each point.

    python -m crash.server FOLDER

reads requests and writes answers, one JSON object a line. It has no thread, no connection and no database open when
it forks, so what a child inherits is as in a process that was started anew.
"""

from __future__ import annotations

import errno
import faulthandler
import gc
import importlib
import json
import os
import random
import re
import select
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from crash.model import check_between
from crash.place import Place
from crash.scenarios import BY_NAME, Scenario, publish_again
from crash.steps import Steps, fail_at, send_at
from crash.trouble import (
    UnavailableError,
    areas,
    become_somebody,
    full_but_for,
    no_larger_file,
    protect,
    release,
    small_disk,
)
from mmmeta_core.errors import MmmetaError

MODULES = (
    *(f"mmmeta_core.cli.{name}" for name in ("commands", "filters", "printing", "progress", "work")),
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
REFUSED = 3
"""The exit code of a process that ended with an error of mmmeta's own."""

SIGNALS = {"SIGINT": signal.SIGINT, "SIGTERM": signal.SIGTERM}
FAULTS = {
    "disk full": (errno.ENOSPC, True),
    "broken disk": (errno.EIO, False),
    "read only": (errno.EROFS, True),
}
"""An errno, and whether it lasts."""
TROUBLES = ("small disk", "small files", "no permission")
WAYS_OUT = re.compile(
    r"run it again|check the permissions|try again|free some space|check the disk|use another"
)


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
            except MmmetaError as error:
                print(f"{type(error).__name__}: {error}", file=sys.stderr)
                code = REFUSED
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 1
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

    def __init__(self, scenario: Scenario, folder: Path, endpoint: str | None, how: str = "kill") -> None:
        self.scenario = scenario
        self.how = how
        self.folder = folder
        self.place = Place(folder, endpoint)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.disk = ExitStack()
        if how == "small disk":
            self.disk.enter_context(small_disk(self.place.work))
        self._done("prepare", child(lambda _: scenario.prepare(self.place), folder))
        self.place.keep()
        counted = child(self._counted, folder)
        self._done("act", counted)
        taken, *modules = counted.where.splitlines()
        for module in modules:  # so that no child has to read them, which it may not be allowed to
            importlib.import_module(module)
        self.steps = self._troubles() or int(taken)
        self.seconds = counted.seconds
        self.after(counted, self.place)

    def _counted(self, note: int) -> None:
        steps = Steps(self.place.work, lambda *_: None, failing=self.how in FAULTS)
        steps.install()
        try:
            self._act()
        finally:  # a command line ends by SystemExit
            os.write(note, "\n".join([str(steps.taken), *sys.modules]).encode())

    def _troubles(self) -> int:
        """How many points there are of trouble that has no steps."""
        if self.how == "small disk":
            return 40  # pages that are free
        if self.how == "small files":
            largest = max(path.stat().st_size for path in self.place.work.rglob("*") if path.is_file())
            return largest // 512
        return len(areas(self.place, self.folder / "kept")) if self.how == "no permission" else 0

    @contextmanager
    def _trouble(self, point: Point) -> Iterator[None]:
        """Have trouble that is around a process."""
        step = point.step or 0
        if self.how == "small disk":
            with full_but_for(step - 1, self.place.work):
                yield
        elif self.how == "no permission":
            protect(self.place, areas(self.place, self.folder / "kept")[step - 1])
            yield
            release(self.place)
        else:
            yield

    def _act(self) -> None:
        """Do it as a command line where that is to be interrupted, else as a program does."""
        if self.how not in SIGNALS:
            self.scenario.act(self.place)
            return
        assert self.scenario.command is not None
        sys.argv = ["mmmeta", "-q", *self.scenario.command(self.place)]
        importlib.import_module("mmmeta_core.cli").main()

    def _troubled(self, point: Point, note: int) -> None:
        """Do it, and have it killed, interrupted or failing at that point."""
        step = point.step or 0
        if self.how in FAULTS:
            act = fail_at(step, *FAULTS[self.how], note)
        elif self.how in TROUBLES:
            with no_larger_file(step * 512) if self.how == "small files" else nullcontext():
                if self.how == "no permission":
                    become_somebody()
                self._act()
            return
        else:
            act = send_at(step, SIGNALS.get(self.how, signal.SIGKILL), note)
        if self.how in SIGNALS:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        Steps(self.place.work, act, failing=self.how in FAULTS).install()
        self._act()

    def _done(self, what: str, ended: Ended) -> None:
        if ended.code != 0:
            raise RuntimeError(f"{self.scenario.name}: {what}: {ended.said}")

    def point(self, point: Point) -> tuple[bool, str | None]:
        """Kill there, let the next run finish, and check. Returns whether it was killed, and what is wrong."""
        self.place.restore()

        with self._trouble(point):
            ended = child(
                lambda note: self._troubled(point, note),
                self.folder,
                after=None if point.share is None else point.share * self.seconds,
            )
        killed = ended.code != 0
        try:
            if killed:
                self._check_end(ended)
            self.after(ended, self.place)
        except (AssertionError, RuntimeError, KeyError, ValueError, OSError) as error:
            return killed, f"{ended.where}{''.join(traceback.format_exception(error))}"
        return killed, None

    def _check_end(self, ended: Ended) -> None:
        """Check that a process ended as it should have: killed, or with one sentence about what stopped it."""
        if self.how == "kill":
            assert ended.code == -signal.SIGKILL, f"it failed by itself, {ended.code}: {ended.said}"
        elif self.how in SIGNALS:
            number = SIGNALS[self.how]
            word = "terminated" if number == signal.SIGTERM else "interrupted"
            assert ended.code == 128 + number, f"{ended.code}: {ended.said}"
            assert ended.said.splitlines()[-1] == f"mmmeta: {word}; run it again to go on", ended.said
            assert "Traceback" not in ended.said, ended.said
            assert "Exception ignored" not in ended.said, ended.said
        else:
            assert ended.code == REFUSED, f"{ended.code}: {ended.said}"
            assert "/" in ended.said, f"it does not say what it is about: {ended.said}"
            assert WAYS_OUT.search(ended.said.splitlines()[-1]), f"it does not say what to do: {ended.said}"
            assert "Traceback" not in ended.said, ended.said

    def after(self, ended: Ended, place: Place) -> None:
        """Look at what readers see, let the next run finish, and compare."""
        if self.how in FAULTS or self.how in TROUBLES:
            check_between(place.kept, place.objects())
        else:
            self.scenario.between(place)
        place.pass_time()

        def again(note: int) -> None:
            self.scenario.act(place)
            self.scenario.follow(place)

        self._done("the next run", child(again, self.folder))
        self.scenario.check(place)
        if any(".tmp-" in name for name in place.objects()):
            self._done("one more push", child(lambda _: publish_again(place), self.folder))
            left = [name for name in place.objects() if ".tmp-" in name]
            assert not left, f"left at the remote: {left}"


def moments(steps: int, wanted: int, chance: random.Random, *, at_random: int) -> Iterator[Point]:
    """Yield steps spread over the whole run, its first and its last among them, then random steps and moments."""
    wanted = min(wanted, steps)
    spread = {1 + round(n * (steps - 1) / max(wanted - 1, 1)) for n in range(wanted)}
    for step in sorted(spread):
        yield Point(step=step)
    for number in range(at_random):
        yield Point(share=chance.random()) if number % 2 else Point(step=chance.randint(1, steps))


def run(request: dict[str, Any], folder: Path) -> Report:
    """Run one scenario's points: `scenario`, `endpoint`, `how`, `points`, `at_random`, `seed`."""
    scenario, endpoint = BY_NAME[request["scenario"]], request["endpoint"]
    how = request.get("how", "kill")
    name = f"{scenario.name}{' on S3' if endpoint else ''}{'' if how == 'kill' else f', {how}'}"
    runner = Runner(scenario, folder / name.replace(" ", "-"), endpoint, how)
    with runner.disk:
        return _report(name, runner, request)


def _report(name: str, runner: Runner, request: dict[str, Any]) -> Report:
    report = Report(name, runner.steps)
    chance = random.Random(f"{request['seed']} {name}")  # noqa: S311
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
        except UnavailableError as reason:
            answer = {"skipped": str(reason)}
        except Exception:  # noqa: BLE001 - the test that asked reports it
            answer = {"error": traceback.format_exc()}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
