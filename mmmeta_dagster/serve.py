"""`make run`: the example in Dagster's web server and daemon, on 127.0.0.1 and the port in `PORT`.

Everything is kept below `.run` (`MMMETA_EXAMPLE`), so that a second start carries on. Whatever `DAGSTER_HOME` is set
to stays untouched.
"""

from __future__ import annotations

import fcntl
import os
import socket
import sys
from pathlib import Path
from typing import Final, NoReturn

import dagster as dg

from mmmeta_dagster.example import example_folder, prepare

_SETTINGS: Final = """\
telemetry:
  enabled: false
nux:
  enabled: false
"""
_UNFINISHED: Final = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def main() -> NoReturn:
    """Become `dagster dev`, so that Ctrl-C stops all that it starts."""
    port = _port()
    prepare()
    home = example_folder() / "dagster"
    home.mkdir(parents=True, exist_ok=True)
    (home / "dagster.yaml").write_text(_SETTINGS, encoding="utf-8")
    _hold(home)
    os.environ["DAGSTER_HOME"] = str(home)
    _end_lost_runs()
    print(f"mmmeta: Dagster is starting on http://127.0.0.1:{port} (Ctrl-C stops it)", flush=True)  # noqa: T201
    workspace = str(Path("workspace.yaml").absolute())
    # `dagster dev` warns that another program supersedes it, which needs a project laid out for it.
    quiet = ["-W", "ignore:Function `dev_command` is superseded"]
    command = [
        *quiet,
        *("-m", "dagster", "dev"),
        *("-h", "127.0.0.1"),
        *("-p", str(port)),
        *("-w", workspace),
    ]
    os.execv(sys.executable, [sys.executable, *command])  # noqa: S606


def _port() -> int:
    text = os.environ.get("PORT") or "3000"
    if not text.isdecimal() or not 0 < int(text) < 65536:
        sys.exit(f"mmmeta: PORT={text} is no port: give a number from 1 to 65535")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", int(text)))
        except OSError as error:
            sys.exit(
                f"mmmeta: port {text} can't be had ({error.strerror}): choose another, make run PORT=3001"
            )
    return int(text)


def _hold(home: Path) -> None:
    """Hold a lock that lasts as long as this process, whatever program it becomes."""
    descriptor = os.open(home / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(f"mmmeta: the example is running already, with {home}: stop that one first")
    os.set_inheritable(descriptor, True)


def _end_lost_runs() -> None:
    """Note as failed what was running when the last start was stopped; the sensors ask for it again."""
    with dg.DagsterInstance.get() as instance:
        for record in instance.get_run_records(filters=dg.RunsFilter(statuses=_UNFINISHED)):
            instance.report_run_failed(record.dagster_run, "The example was stopped while this ran.")


if __name__ == "__main__":
    main()
