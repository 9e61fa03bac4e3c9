"""One job in a process of its own: `child.py CONTESTANT JOB FOLDER OPTIONS` prints what it took, as JSON.

Runs under the Python of each contestant, so it needs nothing but Python.
"""

import importlib
import json
import resource
import sys
import time
from pathlib import Path


class Clock:
    def __init__(self, options):
        self.options = options
        self.found = {}
        self._started = 0.0
        self._profile = None
        if "profile" in options:
            from cProfile import Profile

            self._profile = Profile()

    def start(self):
        self._started = time.perf_counter()
        if self._profile:
            self._profile.enable()

    def stop(self):
        if self._profile:
            self._profile.disable()
            self._profile.dump_stats(self.options["profile"])
        self.found["seconds"] = time.perf_counter() - self._started

    def note(self, **values):
        self.found.update(values)


def peak():
    """The most memory that this process had. Linux's `ru_maxrss` is no less than that of the process which started it."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main():
    contestant, job, folder, options = sys.argv[1:]
    sys.path[0] = str(Path(__file__).parent.parent)
    clock = Clock(json.loads(options))
    getattr(importlib.import_module(f"benchmarks.{contestant}"), job)(Path(folder), clock)
    clock.note(memory=peak())
    print(json.dumps(clock.found))


if __name__ == "__main__":
    main()
