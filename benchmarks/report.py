"""Tables of what was measured, kept with their dates in measured.json, from which docs/performance.md is written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.measure import Medians
from benchmarks.rows import ROWS, Row

PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
KEPT = Path(__file__).with_name("measured.json")
BEGIN, END = "<!-- measured -->", "<!-- end of what was measured -->"
OTHERS = ("sqlite-utils", "0.1.1", "0.4.4")
HEAD = ("job", "floor", "mmmeta", "ratio", "wanted", "reached", *OTHERS, "memory", "requests", "bytes")


@dataclass(frozen=True)
class Measured:
    """The medians of one size, of one run."""

    date: str
    rounds: int | None
    medians: Medians

    @classmethod
    def now(cls, rounds: int, medians: Medians) -> Measured:
        return cls(f"{datetime.now(UTC):%Y-%m-%d}", rounds, medians)

    def get(self, job: str, contestant: str, what: str = "seconds") -> float | None:
        return self.medians.get(job, {}).get(contestant, {}).get(what)


def kept() -> dict[int, Measured]:
    """Return what was kept of each size, small ones first."""
    found = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {}
    return {size: Measured(**found[str(size)]) for size in sorted(map(int, found))}


def keep(size: int, measured: Measured) -> None:
    """Put what was measured in the place of what an earlier run measured of this size."""
    found = {number: asdict(one) for number, one in (kept() | {size: measured}).items()}
    KEPT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def table(measured: Measured) -> str:
    return markdown(HEAD, (_cells(row, measured) for row in ROWS.values() if row.shown in measured.medians))


def _cells(row: Row, measured: Measured) -> Iterator[str]:
    floor = measured.get(row.floor_of or row.shown, "floor", row.what)
    ours = measured.get(row.shown, "ours", row.what)
    assert ours is not None
    yield row.shown
    yield _amount(floor, row.what)
    yield _amount(ours, row.what)
    yield f"{ours / floor:.2f}" if floor else ""
    yield row.aim
    reached = floor is not None and row.limit is not None and ours <= floor * row.limit
    yield "" if floor is None or row.limit is None else "yes" if reached else "no"
    for name in OTHERS:
        yield _times(measured.get(row.shown, name), ours)
    yield _amount(measured.get(row.shown, "ours", "memory"), "memory")
    for what in ("requests", "bytes"):
        yield _amount(measured.get(row.shown, "ours", what), what) if what != row.what else ""


def memory(found: dict[int, Measured]) -> str:
    """Return what the process of each job took, by size."""
    shown = [
        row.shown
        for row in ROWS.values()
        if any(one.get(row.shown, "ours", "memory") for one in found.values())
    ]
    lines = (
        [job, *(_amount(one.get(job, "ours", "memory"), "memory") for one in found.values())] for job in shown
    )
    return markdown(["memory of", *(f"{size:,}" for size in found)], lines)


def markdown(head: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    head = list(head)
    rows = [head, ["---", *["---:"] * (len(head) - 1)], *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _amount(value: float | None, what: str) -> str:
    if value is None:
        return ""
    if what == "seconds":
        return f"{value * 1000:,.1f} ms" if value < 1 else f"{value:,.2f} s"
    return f"{value / 2**20:,.0f} MiB" if what == "memory" else f"{value:,.0f}"


def _times(value: float | None, ours: float) -> str:
    return "" if value is None else f"{value / ours:,.{0 if value > 10 * ours else 1}f} times"


def write() -> None:
    """Put the tables of all that was kept into docs/performance.md, between its marks."""
    found = kept()
    parts = [f"### {size:,} documents\n\n{_when(one)}\n\n{table(one)}" for size, one in found.items()]
    if len(found) > 1:
        from benchmarks import chart

        chart.draw(found, PAGE.with_name("performance.svg"))
        parts += [
            "### By size",
            memory(found),
            "![Seconds of each job by the number of documents](performance.svg)",
        ]
    put(BEGIN, END, "\n\n".join(parts))


def _when(one: Measured) -> str:
    rounds = (
        ""
        if one.rounds is None
        else ", one round"
        if one.rounds == 1
        else f", medians of {one.rounds} rounds"
    )
    return f"Measured on {one.date}{rounds}."


def put(begin: str, end: str, text: str) -> None:
    """Put a text between two marks, which docs/performance.md has."""
    before, rest = PAGE.read_text(encoding="utf-8").split(begin)
    after = rest.split(end)[1]
    PAGE.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")
