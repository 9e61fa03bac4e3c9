"""`make scale`: what the verbs take with catalogs of up to ten million rows, each step in a process of its own.

    python -m benchmarks.scale [N …] [--folder F] [--write]

Rows only, no documents. Time is of the verb, memory the highest of its process. Lines with an asterisk grow with the
archive by their nature: all of it is made, moved or merged there. The others are to be flat. MMMETA_STATE_DB is the state db
of the client; without it SQLite.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.measure import measure

STEPS: tuple[tuple[str, str, int], ...] = (
    # as shown, job, step that documents are changed to
    ("* build and publish", "build", 0),
    ("* update of the publisher, cold", "merge_all", 0),
    ("generate, 1,000 changes", "generate", 1),
    ("push, 1,000 changes", "push", 1),
    ("* snapshot, made and uploaded", "snapshot", 1),
    ("* pull of a new client", "pull", 1),
    ("* update of a new client", "update", 1),
    ("upsert from Python, 1,000 changes", "upsert", 2),
    ("push, 1,000 changes again", "push", 2),
    ("poll", "poll", 2),
    ("pull, 1,000 changes", "pull", 2),
    ("update, 1,000 changes", "update", 2),
    ("pull, nothing new", "pull", 2),
    ("update, nothing new", "update", 2),
    ("* index on two columns", "index", 2),
    ("find 1,000 by index, 1,000 by key", "find", 2),
    ("process 1,000", "process", 2),
    ("process 1,000 again", "process", 2),
    ("divide 100,000, process 1,000", "shares", 2),
    ("inspect", "inspect", 2),
)
BEGIN, END = "<!-- scale -->", "<!-- /scale -->"
PAGE = Path(__file__).parent.parent / "docs" / "scaling.md"

Found = dict[str, dict[str, float]]


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.scale")
    parser.add_argument("sizes", nargs="*", type=int, default=[100_000])
    parser.add_argument("--folder", type=Path, help="where to work; kept. Ten million rows take 40 GB")
    parser.add_argument("--write", action="store_true", help="write the table into docs/scaling.md")
    options = parser.parse_args()
    found: dict[int, Found] = {}
    for size in options.sizes:
        base = Path(tempfile.mkdtemp(prefix="mmmeta-scale-", dir=options.folder))
        found[size] = run(base, size)
        if options.folder is None:
            shutil.rmtree(base)
    lines = table(found)
    print("\n".join(lines))
    if options.write:
        before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
        after = rest.split(END)[1]
        PAGE.write_text("\n".join([f"{before}{BEGIN}", *lines, f"{END}{after}"]), encoding="utf-8")


def run(base: Path, size: int) -> Found:
    found: Found = {}
    for shown, job, step in STEPS:
        took = measure(Path(sys.executable), "scale_jobs", job, base, documents=size, step=step)
        assert took is not None
        found[shown] = took
        print(f"{size:>10,}  {shown:40} {_one(took)}", flush=True)
    return found


def table(found: dict[int, Found]) -> list[str]:
    """Return the Markdown of all that was measured."""
    head = ["", *(f"{size:,} rows" for size in found)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for shown, _, _ in STEPS:
        cells = [_one(one[shown]) for one in found.values()]
        lines.append("| " + " | ".join([shown, *cells]) + " |")
    return lines


def _one(took: dict[str, Any]) -> str:
    seconds = took["seconds"]
    time = f"{seconds * 1000:,.0f} ms" if seconds < 1 else f"{seconds:,.1f} s"
    moved = f", {took['bytes'] / 1e6:,.1f} MB" if "bytes" in took else ""
    return f"{time}, {took['memory'] / 1e6:,.0f} MB of memory{moved}"


if __name__ == "__main__":
    main()
