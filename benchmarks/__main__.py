"""`make bench`: measure, print a table, and write docs/performance.md.

    python -m benchmarks [N …] [--rounds R] [--files F] [--others] [--write]

For each size an archive is built, and in each round each contestant does the same jobs in turn, each job in a process
of its own. What is printed and written are medians and ratios of this one run. Of more than F documents only catalogs
are built, and what reads metadata files is left out.
"""

from __future__ import annotations

import argparse
import compileall
import shutil
import tempfile
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import mmmeta_core
from benchmarks import archive, dagster, report, traffic
from benchmarks.contestants import FLOOR, OURS, Contestant, others
from benchmarks.measure import JobError, Results, measure, whole_command
from benchmarks.rows import COMMANDS, STEPS, Step

SINCE_SHARE = 0.6928
"""So that of 10,000 documents 866 contracts are found."""
OF_ALL_ROUNDS = 300_000
"""The most documents in all rounds of a size, so that large ones take fewer."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks")
    parser.add_argument("sizes", nargs="*", type=int, default=[10_000])
    parser.add_argument("--rounds", type=int, default=5, help="at most; large sizes take fewer")
    parser.add_argument(
        "--files", type=int, default=100_000, help="the most documents that are built as files"
    )
    parser.add_argument("--others", action="store_true", help="sqlite-utils, and the mmmeta packages of old")
    parser.add_argument("--write", action="store_true", help="write docs/performance.md and its chart")
    options = parser.parse_args()
    # As pip does when it installs a package: else each process would compile the modules anew where Python writes none.
    compileall.compile_dir(Path(mmmeta_core.__file__).parent, quiet=1)
    contestants = [FLOOR, OURS, *(others() if options.others else ())]
    for size in options.sizes:
        rounds = max(1, min(options.rounds, OF_ALL_ROUNDS // size))
        with tempfile.TemporaryDirectory() as folder:
            results = Results()
            Size(Path(folder), size, size <= options.files, contestants, results).run(rounds)
        measured = report.Measured.now(rounds, results.medians())
        print(f"\n{size:,} documents\n\n{report.table(measured)}\n", flush=True)
        if options.write:
            report.keep(size, measured)
            report.write()
    dagster.show(options.rounds)


class Size:
    """All that is measured with an archive of one size."""

    def __init__(
        self, folder: Path, size: int, files: bool, contestants: Sequence[Contestant], results: Results
    ) -> None:
        self.folder = folder
        self.size = size
        self.files = files
        self.contestants = contestants
        self.results = results
        since = archive.BEGIN + timedelta(minutes=7 * int(size * (1 - SINCE_SHARE)))
        self.options = {"since": since.isoformat(), "documents": size}

    def run(self, rounds: int) -> None:
        built = self.folder / "built"
        built.mkdir()
        if self.files:
            archive.build(built, self.size)
            self._traffic(built)
        for turn in range(rounds):
            bases = {one: self.folder / one.name for one in self.contestants if one.does(self.size, turn)}
            for base in bases.values():
                shutil.copytree(built, base / "documents", copy_function=_link)
            self._round(bases)
            self._commands(bases[OURS])
            for base in bases.values():
                shutil.rmtree(base)

    def _round(self, bases: dict[Contestant, Path]) -> None:
        change = 0
        for step in STEPS:
            if step.change != change:
                change = step.change
                for base in bases.values():
                    archive.change(base / "documents", self.size, change)
            for contestant, base in bases.items():
                self._step(step, contestant, base)

    def _step(self, step: Step, contestant: Contestant, base: Path) -> None:
        counts = self.files or not step.reads_files
        job = step.job if counts else step.instead
        try:
            found = measure(contestant.python, contestant.module, job, base, **self.options) if job else None
        except JobError as error:
            if not contestant.may_fail:
                raise SystemExit(str(error)) from None
            print(f"{contestant.name}: {str(error).splitlines()[-1]}")
            return
        if counts:
            self.results.add(step.shown, contestant.name, found)

    def _commands(self, base: Path) -> None:
        generate, *options = COMMANDS
        if self.files:
            where = ["--metadir", base / "publisher", "--files-root", base / "documents", "generate"]
            self.results.add(generate.shown, OURS.name, whole_command(where))
        for row in options:
            self.results.add(row.shown, FLOOR.name, whole_command(None))
            self.results.add(row.shown, OURS.name, whole_command([row.shown.split()[-1]]))

    def _traffic(self, built: Path) -> None:
        base = self.folder / "traffic"
        shutil.copytree(built, base / "documents", copy_function=_link)
        for shown, contestant, found in traffic.pulls(base, self.size):
            self.results.add(shown, contestant, found)
        shutil.rmtree(base)


def _link(source: str, target: str) -> None:
    Path(target).hardlink_to(source)


if __name__ == "__main__":
    main()
