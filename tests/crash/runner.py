"""One scenario: prepared once, then put into trouble at any number of points, and looked at after the next run."""

from __future__ import annotations

import errno
import importlib
import json
import os
import re
import shutil
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from crash.forks import REFUSED, Ended, child
from crash.model import check_between
from crash.place import Place
from crash.scenarios import Scenario, publish_again
from crash.steps import Steps, fail_at, send_at
from crash.trouble import (
    areas,
    become_somebody,
    full_but_for,
    no_larger_file,
    protect,
    release,
    small_disk,
)

SIGNALS = {"SIGINT": signal.SIGINT, "SIGTERM": signal.SIGTERM}
FAULTS = {
    "disk full": (errno.ENOSPC, True),
    "broken disk": (errno.EIO, False),
    "read only": (errno.EROFS, True),
}
"""An errno, and whether it lasts: then all that changes something fails from there on, else one thing, be it a read."""
TROUBLES = ("small disk", "small files", "no permission")
WAYS_OUT = re.compile(
    r"run it again|check the permissions|try again|free some space|check the disk|use another"
)
WRONG = (AssertionError, RuntimeError, KeyError, ValueError, OSError)
"""What a check raises, and what ends one."""


@dataclass(frozen=True)
class Point:
    """A moment: a step's number, or a share of the time that the whole takes."""

    step: int | None = None
    share: float | None = None


class Runner:
    """One scenario, prepared."""

    def __init__(self, scenario: Scenario, folder: Path, endpoint: str | None) -> None:
        self.scenario = scenario
        self.folder = folder
        self.place = Place(folder, endpoint)
        self.how = "kill"
        self.rehearsed = False
        self.steps = 0
        self.commits: list[int] = []
        self.seconds = 0.0
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self._done("prepare", child(lambda _: scenario.prepare(self.place), folder))
        self.place.keep()

    @contextmanager
    def ready(self, how: str) -> Iterator[None]:
        """Rehearse it, untroubled, and be ready for trouble of this kind for the block."""
        self.how = how
        with small_disk(self.place.work) if how == "small disk" else nullcontext():
            self.place.restore()
            counted = child(self._counted, self.folder)
            self._done("act", counted)
            known = json.loads(counted.where)
            for module in known[
                "modules"
            ]:  # so that no child has to read them, which it may not be allowed to
                importlib.import_module(module)
            self.steps = self._troubles() or len(known["steps"])
            self.commits = [number for number, what in enumerate(known["steps"], 1) if what == "COMMIT"]
            self.seconds = counted.seconds
            if how in SIGNALS or not self.rehearsed:  # else it is what was looked at before
                self._after()
                self.rehearsed = True
            yield

    def _counted(self, note: int) -> None:
        steps: list[str] = []
        Steps(self.place.work, lambda _, __, what: steps.append(what), **self._heard()).install()
        try:
            self._act()
        finally:  # a command line ends by SystemExit
            os.write(note, json.dumps({"steps": steps, "modules": list(sys.modules)}).encode())

    def _heard(self) -> dict[str, bool]:
        _, lasting = FAULTS.get(self.how, (0, True))
        return {"failing": self.how in FAULTS, "reads": not lasting}

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
            try:
                yield
            finally:
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
            with no_larger_file((step - 1) * 512) if self.how == "small files" else nullcontext():
                if self.how == "no permission":
                    become_somebody()
                self._act()
            return
        else:
            act = send_at(step, SIGNALS.get(self.how, signal.SIGKILL), note)
        if self.how in SIGNALS:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        Steps(self.place.work, act, **self._heard()).install()
        self._act()

    def _done(self, what: str, ended: Ended) -> None:
        if ended.code != 0:
            raise RuntimeError(f"{self.scenario.name}: {what}: {ended.said}")

    def point(self, point: Point) -> tuple[bool, str | None]:
        """Make trouble there, let the next run finish, and check. Returns whether that stopped it, and what is wrong."""
        self.place.restore()
        with self._trouble(point):
            ended = child(
                lambda note: self._troubled(point, note),
                self.folder,
                after=None if point.share is None else point.share * self.seconds,
            )
        stopped = ended.code != 0
        try:
            if stopped:
                self._check_end(ended)
            self._after()
        except WRONG as error:
            return stopped, f"{ended.where}{''.join(traceback.format_exception(error))}"
        return stopped, None

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

    def _after(self) -> None:
        """Look at what readers see, let the next run finish, and compare."""
        place = self.place
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
