"""A forked process: run something in it, kill it if need be, and know how it ended."""

from __future__ import annotations

import faulthandler
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mmmeta_core.errors import MmmetaError

SECONDS = 60.0
"""After which a process counts as one that hangs."""
HUNG = 255
REFUSED = 3
"""The exit code of a process that ended with an error of mmmeta's own."""


@dataclass
class Ended:
    """How a child ended: its signal or exit code, what it said, where it was, and how long it took."""

    code: int
    said: str
    where: str
    seconds: float


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
