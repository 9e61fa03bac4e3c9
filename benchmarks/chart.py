"""A picture of how the time of each job grows with the documents: both axes logarithmic, mmmeta beside its floor."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot

from benchmarks.report import Measured

SHOWN = ("generate, cold", "generate, nothing changed", "update, cold", "update, nothing new", "iterate all")


def draw(found: dict[int, Measured], path: Path) -> None:
    figure, axes = pyplot.subplots(figsize=(8, 5))
    for number, job in enumerate(SHOWN):
        for contestant, style in (("ours", "-o"), ("floor", ":")):
            points = [(size, one.get(job, contestant)) for size, one in found.items()]
            sizes = [size for size, seconds in points if seconds is not None]
            seconds = [seconds for _, seconds in points if seconds is not None]
            label = job if contestant == "ours" else None
            axes.loglog(sizes, seconds, style, color=f"C{number}", label=label)
    axes.set_xlabel("documents")
    axes.set_ylabel("seconds (dotted: the floor)")
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
