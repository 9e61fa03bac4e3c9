"""Where the time of a row goes, by module.

    python -m benchmarks.profile [ROW …] [--documents N] [--runs R] [--write]

A job, or a run in Dagster, is run under cProfile: time is of a module's own code, and of what SQLite, files and other C code
take that it calls. Python's own calls take longer there than they do, so compare shares. Of a whole command, and of
loading the definitions, imports are most, and `-X importtime` measures them.
"""

from __future__ import annotations

import argparse
import marshal
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from cProfile import Profile
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import archive, dagster, report, s3, transfers
from benchmarks.measure import measure
from mmmeta_core import mmmeta

LEAST = 0.02
"""The least share that has a line of its own."""
SMALL = next(iter(transfers.LOADS))
KINDS = ("own code", "SQLite", "files", "other C code")
HERE = Path(__file__).parent
PYTHON = Path(sys.executable)
OF_PYTHON = "Python's library"
IMPORT = re.compile(r"^import time: +(\d+) \| +\d+ \| +(\S+)$", re.MULTILINE)
Times = Counter[tuple[str, str]]
"""Seconds by module and kind."""


def job(before: Sequence[str], name: str, base: Path, documents: int, runs: int) -> str:
    """Profile a job of `ours` that reads no documents, each run after the others that make what it needs."""
    prepared = base / "prepared"
    archive.build(prepared / "documents", documents)
    for one in before:
        measure(PYTHON, "ours", one, prepared)
    shutil.rmtree(prepared / "documents")
    return shares([_profiled(name, shutil.copytree(prepared, base / str(run))) for run in range(runs)])


def generate(base: Path, documents: int, runs: int) -> str:
    """Profile a publisher's first `generate`, each run without what the one before it made."""
    archive.build(base / "documents", documents)
    found = []
    for _ in range(runs):
        found.append(_profiled("generate_cold", base))
        shutil.rmtree(base / "publisher")
    return shares(found)


def _profiled(name: str, base: Path) -> Times:
    stats = base / "stats"
    measure(PYTHON, "ours", name, base, profile=str(stats))
    return by_module(marshal.loads(stats.read_bytes()))  # noqa: S302


def run(base: Path, documents: int, runs: int) -> str:
    """Profile a run in Dagster that finds nothing new."""
    found = []
    with dagster.up_to_date() as (client, _), dagster.runs(client) as (_, nothing_new):
        for _ in range(runs):
            profile = Profile()
            profile.runcall(nothing_new)
            profile.create_stats()
            found.append(by_module(profile.stats))
    return shares(found)


def download(base: Path, documents: int, runs: int) -> str:
    """Profile the processor time of a download of many small documents by one thread; what it waits for is left out."""
    os.environ.update(s3.ENVIRONMENT, MMMETA_SINGLE_PUBLISHER="1")
    found = []
    with transfers.server(base / "served") as (endpoint, _):
        race = transfers.Race(base / "race", endpoint, SMALL, {})
        for run in range(runs):
            with mmmeta(base / f"{run}", remote=race.url(race.source)) as m:
                m.pull()
                m.update()
                profile = Profile(time.process_time)
                profile.runcall(m.download, base / f"{run}-documents", workers=1)
            profile.create_stats()
            found.append(by_module(profile.stats))
    return shares(found)


def by_module(stats: Mapping[tuple[str, int, str], Any]) -> Times:
    """Return the time that each module took itself, or in the C code that it called."""
    times = Times()
    for (file, _, name), (_, _, own, _, callers) in stats.items():
        if file != "~":
            times[_module(file), "own code"] += own
            continue
        for (caller, _, _), (_, _, own, _) in callers.items():
            times[_module(caller), _kind(name)] += own
    return Times({key: seconds for key, seconds in times.items() if key[0] != HERE.name})


def _module(file: str) -> str:
    path = Path(file)
    for package in (HERE.name, "mmmeta_core", "mmmeta_dagster"):
        if (HERE.parent / package) in path.parents:
            return package if package == HERE.name else _dotted(path)
    parts = path.parts
    if "site-packages" in parts:
        return parts[parts.index("site-packages") + 1].removesuffix(".py")
    return OF_PYTHON


def _dotted(path: Path) -> str:
    return ".".join(path.relative_to(HERE.parent).with_suffix("").parts).removesuffix(".__init__")


def _kind(builtin: str) -> str:
    if "sqlite3" in builtin:
        return "SQLite"
    return "files" if "posix" in builtin or "_io." in builtin else "other C code"


def shares(found: Sequence[Times]) -> str:
    """Return the table of the medians of some runs: what else the machine does hits a module in one of them only."""
    keys = {key for one in found for key in one}
    times = Times({key: median(one[key] for one in found) for key in keys})
    whole = sum(times.values())
    modules = Counter[str]()
    for (module, _), seconds in times.items():
        modules[module] += seconds
    large = [module for module, seconds in modules.most_common() if seconds >= LEAST * whole]
    small = modules.keys() - set(large)
    lines = [[_shown(module), *_line(times, {module}, whole)] for module in large]
    lines.append([f"{len(small)} others", *_line(times, small, whole)])
    said = f"{whole * 1000:,.1f} ms under the profiler, medians of {len(found)} runs."
    return f"{said}\n\n{report.markdown(['module', 'share', *KINDS], lines)}"


def _line(times: Times, modules: Iterable[str], whole: float) -> Iterator[str]:
    parts = [sum(times[module, kind] for module in modules) for kind in KINDS]
    yield f"{sum(parts) / whole:.0%}"
    yield from (f"{part / whole:.0%}" if part >= whole / 200 else "" for part in parts)


def command(base: Path, documents: int, runs: int) -> str:
    """Measure the imports of `mmmeta generate` with nothing changed."""
    archive.build(base / "documents", documents)
    measure(PYTHON, "ours", "generate_cold", base)
    where = ["--metadir", base / "publisher", "--files-root", base / "documents"]
    return imports([PYTHON.with_name("mmmeta"), *where, "generate"], "pass", runs)


def load(base: Path, documents: int, runs: int) -> str:
    """Measure what loading the definitions imports beyond Dagster."""
    return imports(["-c", "import mmmeta_dagster.definitions"], "import dagster", runs)


def imports(ours: Sequence[str | Path], floor: str, runs: int) -> str:
    """Measure a program's imports by package, those apart that `floor` has, too."""
    _, known = _imported(["-c", floor])
    found = [_imported(ours) for _ in range(runs)]
    whole = median(seconds for seconds, _ in found)
    packages, counts = Counter[str](), Counter[str]()
    for name in {name for _, modules in found for name in modules}:
        package = f"also of `{floor}`" if name in known else _package(name)
        packages[package] += median(modules.get(name, 0.0) for _, modules in found)  # type: ignore[assignment]
        counts[package] += 1
    large = {name: seconds for name, seconds in packages.most_common() if seconds >= LEAST * whole}
    few = counts.total() - sum(counts[name] for name in large)
    lines = [[_shown(name), f"{counts[name]}", *_share(seconds, whole)] for name, seconds in large.items()]
    lines.append(["others", f"{few}", *_share(packages.total() - sum(large.values()), whole)])
    lines.append(["start of Python, and the work itself", "", *_share(whole - packages.total(), whole)])
    said = f"{whole * 1000:,.1f} ms with `-X importtime`, medians of {runs} runs."
    return f"{said}\n\n{report.markdown(['imports of', 'modules', 'time', 'share'], lines)}"


def _imported(arguments: Sequence[str | Path]) -> tuple[float, dict[str, float]]:
    """Run Python; return the seconds of all, and of each module that was imported without those that it imports."""
    started = time.perf_counter()
    ran = subprocess.run([PYTHON, "-X", "importtime", *arguments], capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - started
    return seconds, {name: int(own) / 1e6 for own, name in IMPORT.findall(ran.stderr)}


def _package(module: str) -> str:
    name = module.split(".")[0]
    return OF_PYTHON if name in sys.stdlib_module_names else name


def _shown(name: str) -> str:
    return name if " " in name else f"`{name}`"


def _share(seconds: float, whole: float) -> tuple[str, str]:
    return f"{seconds * 1000:,.1f} ms", f"{seconds / whole:.0%}"


ROWS: dict[str, tuple[Callable[[Path, int, int], str], int]] = {
    # what is run, and how often
    "generate, cold": (generate, 3),
    "update, cold": (partial(job, ("generate_cold", "push", "pull"), "update_cold"), 3),
    "update, nothing new": (
        partial(job, ("generate_cold", "push", "pull", "update_cold"), "update_nothing"),
        10,
    ),
    "1,000 saves": (partial(job, ("generate_cold", "push", "pull", "update_cold"), "save"), 5),
    "mmmeta generate, nothing changed": (command, 10),
    "load of the definitions": (load, 5),
    "sync + update in Dagster, nothing new": (run, 10),
    f"download, {SMALL}": (download, 3),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.profile")
    parser.add_argument("rows", nargs="*", help=f"of: {'; '.join(ROWS)}. All of them, if none is named")
    parser.add_argument("--documents", type=int, default=10_000)
    parser.add_argument("--runs", type=int, help="how often, in the place of what suits the row")
    parser.add_argument("--write", action="store_true", help="write them into docs/performance.md")
    options = parser.parse_args()
    unknown = set(options.rows) - ROWS.keys()
    if unknown:
        parser.error(f"no such row: {min(unknown)}; there are: {'; '.join(ROWS)}")
    for name in options.rows or ROWS:
        profile, runs = ROWS[name]
        with tempfile.TemporaryDirectory() as folder:
            table = profile(Path(folder), options.documents, options.runs or runs)
        text = f"*{name}*, profiled on {datetime.now(UTC):%Y-%m-%d}: {table}"
        print(f"{text}\n", flush=True)
        if options.write:
            report.put(f"<!-- profile: {name} -->", f"<!-- end of profile: {name} -->", text)


if __name__ == "__main__":
    main()
