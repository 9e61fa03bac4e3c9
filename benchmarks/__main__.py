"""`make bench`: measure, print a table, and write docs/performance.md.

    python -m benchmarks [N …] [--rounds R] [--originals] [--write]

For each size an archive is built, and in each round each contestant does the same jobs in turn, each job in a process
of its own. What is printed and written are medians and ratios of this one run.
"""

from __future__ import annotations

import argparse
import compileall
import shutil
import sys
import tempfile
from pathlib import Path

import mmmeta_core
from benchmarks import archive, dagster, originals, report
from benchmarks.measure import Results, measure, whole_command

SINCE_SHARE = 0.6928
"""So that of 10,000 documents 866 contracts are found."""

STEPS: tuple[tuple[str, str, int], ...] = (
    # job as shown, job of the contestant, step that the archive is changed to before it
    ("generate, cold", "generate_cold", 0),
    ("generate, nothing changed", "generate_again", 0),
    ("update, cold", "update_cold", 0),
    ("update, nothing new", "update_nothing", 0),
    ("generate, 10 changed + 10 new", "generate_again", 1),
    ("update, 20 new revisions of documents", "update_again", 1),
    ("1,000 saves", "save", 1),
    ("iterate all", "iterate", 1),
    ("find, two conditions", "find", 1),
    ("process, empty handler", "process", 1),
    ("export", "export", 1),
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks")
    parser.add_argument("sizes", nargs="*", type=int, default=[10_000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--originals", action="store_true", help="the mmmeta packages of old, one round")
    parser.add_argument("--write", action="store_true", help="write docs/performance.md and its chart")
    options = parser.parse_args()
    # As pip does when it installs a package: else each process would compile the modules anew where Python writes none.
    compileall.compile_dir(Path(mmmeta_core.__file__).parent, quiet=1)
    results = Results()
    pythons = originals.environments() if options.originals else {}
    with tempfile.TemporaryDirectory() as folder:
        for size in options.sizes:
            _one_size(Path(folder), size, options.rounds, pythons, results)
            report.show(results, size)
    dagster.show(options.rounds)
    if options.write:
        report.write(results, options.sizes)


def _one_size(folder: Path, size: int, rounds: int, pythons: dict[str, Path], results: Results) -> None:
    built = folder / "built"
    archive.build(built, size)
    for number in range(rounds):
        contestants = {"floor": Path(sys.executable), "ours": Path(sys.executable)}
        if number == 0 and size <= originals.LARGEST:
            contestants |= pythons
        bases = {name: folder / name for name in contestants}
        for base in bases.values():
            shutil.copytree(built, base / "documents", copy_function=_copy)
        _one_round(size, contestants, bases, results)
        _commands(size, bases["ours"], results)
        for base in bases.values():
            shutil.rmtree(base)
    shutil.rmtree(built)


def _one_round(size: int, contestants: dict[str, Path], bases: dict[str, Path], results: Results) -> None:
    since = archive.BEGIN + archive.timedelta(minutes=7 * int(size * (1 - SINCE_SHARE)))
    step = 0
    for shown, job, wanted in STEPS:
        if wanted != step:
            step = wanted
            for base in bases.values():
                archive.change(base / "documents", size, step)
        for name, python in contestants.items():
            if name == "ours" and job in ("update_cold", "update_again"):
                for before in ("push", "pull"):
                    results.add(size, before + shown[6:], name, measure(python, "ours", before, bases[name]))
            module = name if name in ("floor", "ours") else "original"
            found = measure(python, module, job, bases[name], since=since.isoformat())
            results.add(size, shown, name, found)
    results.add(
        size, "pull, nothing new", "ours", measure(contestants["ours"], "ours", "pull", bases["ours"])
    )


def _commands(size: int, base: Path, results: Results) -> None:
    where = ["--metadir", base / "publisher", "--files-root", base / "documents"]
    results.add(size, "mmmeta generate, nothing changed", "ours", whole_command([*where, "generate"]))
    for option in ("--help", "--version"):
        results.add(size, f"mmmeta {option}", "floor", whole_command(None))
        results.add(size, f"mmmeta {option}", "ours", whole_command([option]))


def _copy(source: str, target: str) -> None:
    Path(target).hardlink_to(source)


if __name__ == "__main__":
    main()
