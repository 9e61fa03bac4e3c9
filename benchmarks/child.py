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

    def start(self):
        self._started = time.perf_counter()

    def stop(self):
        self.found["seconds"] = time.perf_counter() - self._started

    def note(self, **values):
        self.found.update(values)


def main():
    contestant, job, folder, options = sys.argv[1:]
    sys.path.insert(0, str(Path(__file__).parent))
    clock = Clock(json.loads(options))
    getattr(importlib.import_module(contestant), job)(Path(folder), clock)
    clock.note(memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    print(json.dumps(clock.found))


if __name__ == "__main__":
    main()
