"""Tables of what was measured."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.measure import Results

PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
BEGIN, END = "<!-- measured -->", "<!-- end of what was measured -->"
CONTESTANTS = ("0.1.1", "0.4.4")
TARGETS = {
    "generate, cold": "1.6",
    "generate, nothing changed": "1.5",
    "generate, 10 changed + 10 new": "1.7",
    "update, cold": "2",
    "update, nothing new": "3",
    "update, 20 new revisions of documents": "3",
    "1,000 saves": "3",
    "iterate all": "1.5",
    "find, two conditions": "3",
    "mmmeta --help": "4",
    "mmmeta --version": "4",
    "mmmeta generate, nothing changed": "2.5",
}
ALSO_FLOOR = {"mmmeta generate, nothing changed": "generate, nothing changed"}


def rows(results: Results, size: int) -> Iterator[list[str]]:
    yield [
        "job",
        "floor",
        "mmmeta",
        "ratio",
        "wanted",
        *(f"{name}" for name in CONTESTANTS),
        "memory",
        "requests",
        "bytes",
    ]
    for job in results.jobs(size):
        floor = results.get(size, ALSO_FLOOR.get(job, job), "floor")
        ours = results.get(size, job, "ours")
        if ours is None:
            continue
        yield [
            job,
            _seconds(floor),
            _seconds(ours),
            f"{ours / floor:.2f}" if floor else "",
            f"≤ {TARGETS[job]}" if job in TARGETS else "",
            *(_times(results.get(size, job, name), ours) for name in CONTESTANTS),
            _mib(results.get(size, job, "ours", "memory")),
            _number(results.get(size, job, "ours", "requests")),
            _number(results.get(size, job, "ours", "bytes")),
        ]


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value * 1000:,.1f} ms" if value < 1 else f"{value:,.2f} s"


def _times(value: float | None, ours: float) -> str:
    return "" if value is None else f"{value / ours:,.0f} times"


def _mib(value: float | None) -> str:
    return "" if value is None else f"{value / 2**20:,.0f} MiB"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def table(results: Results, size: int) -> str:
    head, *body = rows(results, size)
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in body)])


def show(results: Results, size: int) -> None:
    print(f"\n{size:,} documents\n\n{table(results, size)}\n", flush=True)


def write(results: Results, sizes: list[int]) -> None:
    """Put the tables into docs/performance.md, between its marks."""
    text = PAGE.read_text(encoding="utf-8")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    parts = [f"Measured on {datetime.now(UTC):%Y-%m-%d}."]
    parts += [f"### {size:,} documents\n\n{table(results, size)}" for size in sizes]
    if len(sizes) > 1:
        from benchmarks import chart

        chart.draw(results, PAGE.with_name("performance.svg"))
        parts.append("![Seconds of each job by the number of documents](performance.svg)")
    PAGE.write_text(before + BEGIN + "\n\n" + "\n\n".join(parts) + "\n\n" + END + after, encoding="utf-8")
