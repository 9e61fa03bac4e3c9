"""How long the example's definitions take to load, as a ratio to `import dagster`, in one alternating run.

.venv/bin/python benchmarks/definitions.py [ROUNDS]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time


def seconds(code: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - started


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    codes = {"import dagster": "import dagster", "definitions": "import mmmeta_dagster.definitions"}
    times: dict[str, list[float]] = {name: [] for name in codes}
    for _ in range(rounds):
        for name, code in codes.items():
            times[name].append(seconds(code))
    medians = {name: statistics.median(found) for name, found in times.items()}
    for name, median in medians.items():
        print(f"{name:16} {median:.2f} s")
    print(f"ratio            {medians['definitions'] / medians['import dagster']:.2f}")


if __name__ == "__main__":
    main()
