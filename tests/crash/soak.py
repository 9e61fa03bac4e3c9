"""All points of all scenarios, then random ones until the time is up: `make soak`, `make soak HOURS=8`.

    python -m crash.soak MINUTES [SEED]

A line for each scenario, the failures in full, and a summary at the end; exit code 1 if anything failed.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shell import environment

from crash.runner import FAULTS, SIGNALS, TROUBLES
from crash.scenarios import CLIENTS, PUBLISHERS

ALL = 10**9
ROUND = 40
"""Random moments of a scenario before it is the next one's turn."""

HERE = Path(__file__).parents[1]


def main() -> None:
    ends = time.monotonic() + float(sys.argv[1]) * 60
    seed = sys.argv[2] if len(sys.argv) > 2 else str(random.randrange(10**6))  # noqa: S311
    print(
        f"seed {seed}, until {time.strftime('%H:%M', time.localtime(time.time() + float(sys.argv[1]) * 60))}"
    )
    folder = Path(tempfile.mkdtemp(prefix="mmmeta-soak-"))
    quick = {"stdout": subprocess.PIPE, "text": True, "cwd": HERE, "env": environment()}
    total = stopped = failed = 0
    with (
        subprocess.Popen([sys.executable, "s3server.py"], stderr=subprocess.DEVNULL, **quick) as s3,
        subprocess.Popen(
            [sys.executable, "-m", "crash.server", str(folder)], stdin=subprocess.PIPE, **quick
        ) as server,
    ):
        try:
            endpoint = f"http://127.0.0.1:{int(s3.stdout.readline())}"
            for request in requests(endpoint, seed):
                if time.monotonic() > ends:
                    break
                print(json.dumps(request), file=server.stdin, flush=True)
                answer: dict[str, Any] = json.loads(server.stdout.readline())
                if "skipped" in answer:
                    print(
                        f"{request['scenario']}, {request.get('how')}: skipped, {answer['skipped']}",
                        flush=True,
                    )
                    continue
                if "error" in answer:
                    failed += 1
                    print(f"FAILED {request}\n{answer['error']}", flush=True)
                    continue
                total, stopped = total + answer["points"], stopped + answer["stopped"]
                failed += len(answer["failures"])
                print(
                    f"{time.strftime('%H:%M:%S')} {answer['scenario']}: {answer['points']} points of "
                    f"{answer['steps']} steps, {answer['stopped']} stopped, {len(answer['failures'])} failed; "
                    f"{total} in all",
                    flush=True,
                )
                for failure in answer["failures"]:
                    print(
                        f"FAILED {answer['scenario']} {failure['step'] or failure['share']}: {failure['wrong']}"
                    )
            server.stdin.close()
        finally:
            s3.kill()
            server.kill()
            shutil.rmtree(folder, ignore_errors=True)
    print(f"{total} points, {stopped} processes stopped, {failed} failures; seed {seed}")
    sys.exit(failed > 0 or total == 0)


def requests(endpoint: str, seed: str) -> Iterator[dict[str, Any]]:
    """Yield what to ask of `crash.server`: every step once, a bucket's last, then random rounds for ever."""
    places = [(scenario.name, None) for scenario in (*PUBLISHERS, *CLIENTS)]
    places += [(scenario.name, endpoint) for scenario in (*PUBLISHERS, *CLIENTS) if scenario.s3]
    commands = {scenario.name for scenario in (*PUBLISHERS, *CLIENTS) if scenario.command}
    for how in ("kill", *SIGNALS, *FAULTS, *TROUBLES):
        for name, where in places:
            if how == "kill" or (where is None and (name in commands or how not in SIGNALS)):
                more = {"how": how, "points": ALL, "at_random": 0, "seed": seed}
                yield {"scenario": name, "endpoint": where, **more}
    number = 0
    while True:
        number += 1
        for name, where in places:
            more = {"points": 0, "at_random": ROUND, "seed": f"{seed}-{number}"}
            yield {"scenario": name, "endpoint": where, **more}


if __name__ == "__main__":
    os.nice(5)
    main()
