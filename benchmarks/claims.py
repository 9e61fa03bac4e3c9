"""Documents that workers claim and mark in a second, by how many processes there are.

    python -m benchmarks.claims [N] [--workers 1 2 4 8] [--chunk 100] [--rounds 3] [--write]

The handler does nothing, so what is measured is claiming and noting alone. On SQLite, and on the PostgreSQL server of
MMMETA_STATE_DB, or one that is started for this where its programs are installed. Ratios are to one worker in the same run.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from mmmeta_core import mmmeta
from mmmeta_core.database.place import place

BEGIN, END = "<!-- claims -->", "<!-- /claims -->"
ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "scaling.md"

WORKER = """
import sys
from mmmeta_core import mmmeta
with mmmeta(sys.argv[1], state_db=sys.argv[2]) as m:
    len(m.files)
    print("ready", flush=True)
    sys.stdin.readline()
    print(m.files.process(lambda file: None, mark=sys.argv[3], chunk=int(sys.argv[4])).processed)
"""


def timed(path: Path, state: str, mark: str, workers: int, chunk: int, total: int) -> float:
    """Return the documents a second of so many workers who begin at once."""
    arguments = [sys.executable, "-c", WORKER, str(path), state, mark, str(chunk)]
    processes = [
        subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(workers)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    started = time.perf_counter()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    done = sum(int(process.communicate()[0]) for process in processes)
    seconds = time.perf_counter() - started
    assert done == total, f"{done} of {total} documents"
    return total / seconds


@contextmanager
def server() -> Iterator[str | None]:
    """Give the URL of a schema of its own, None where there is no server."""
    given = os.environ.get("MMMETA_STATE_DB")
    if given:
        yield given
        return
    sys.path.insert(0, str(ROOT / "tests"))
    from postgres import running

    try:
        with running() as started:
            yield started.url("claims")
    except RuntimeError as error:
        print(f"PostgreSQL is left out: {error}")
        yield None


def measured(
    base: Path, name: str, state: str, options: argparse.Namespace
) -> list[tuple[str, int, float, float]]:
    path = base / name
    with mmmeta(path, state_db=state) as m:
        m.files.insert_many(
            {"content_hash": f"{at:08d}", "title": f"document {at}"} for at in range(options.n)
        )
    found: dict[int, list[float]] = {workers: [] for workers in options.workers}
    for turn in range(options.rounds):
        for workers in options.workers:
            mark = f"done_{turn}_{workers}"
            found[workers].append(timed(path, state, mark, workers, options.chunk, options.n))
    one = median(found[options.workers[0]])
    return [(name, workers, median(rates), median(rates) / one) for workers, rates in found.items()]


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.claims")
    parser.add_argument("n", nargs="?", type=int, default=10_000)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--chunk", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="write the table into docs/scaling.md")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="mmmeta-claims-") as folder:
        rows += measured(Path(folder), "SQLite", str(Path(folder) / "state.db"), options)
        with server() as url:
            if url is not None:
                place(url)
                rows += measured(Path(folder), "PostgreSQL", url, options)
    lines = [
        f"Measured on {datetime.now(UTC):%Y-%m-%d} with `python -m benchmarks.claims {options.n}`, "
        f"chunks of {options.chunk}, "
        f"medians of {options.rounds} rounds, {os.cpu_count()} cores for workers and server together.",
        "",
        "| state db | workers | documents/s | to one worker |",
        "| --- | ---: | ---: | ---: |",
        *(f"| {name} | {workers} | {rate:,.0f} | {ratio:.2f} |" for name, workers, rate, ratio in rows),
    ]
    print("\n".join(lines))
    if options.write:
        text = PAGE.read_text(encoding="utf-8")
        before, _, rest = text.partition(BEGIN)
        after = rest.partition(END)[2]
        PAGE.write_text(f"{before}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
