"""Search with coverage: python tests/fuzz/run.py MINUTES [TARGET …]. What it finds is kept in tests/fuzz/cases/TARGET."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
CORPUS = Path(os.environ.get("MMMETA_FUZZ_CORPUS", ".run/fuzz"))
NAMES = ("segment", "document", "store", "config", "head", "url", "names")


def search(name: str, seconds: int) -> tuple[int, int]:
    """Fuzz one target in a process of its own; return its exit code and how many inputs it tried."""
    corpus = (CORPUS / name).absolute()
    cases = HERE / "cases" / name
    for folder in (corpus, cases):
        folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [
            *(sys.executable, str(Path(__file__).absolute()), "--one", name),
            *(f"-max_total_time={seconds}", "-print_final_stats=1", "-rss_limit_mb=2048", "-timeout=20"),
            *("-max_len=4096", f"-dict={HERE / 'words.txt'}", f"-artifact_prefix={cases}/"),
            *(str(corpus), str(HERE / "seeds" / name), str(cases)),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    tried = re.search(r"number_of_executed_units: (\d+)", done.stdout)
    if done.returncode:
        print(done.stdout[-4000:])
    return done.returncode, int(tried[1]) if tried else 0


def one(name: str) -> None:
    """Be the process that fuzzes one target."""
    import atheris

    sys.path.insert(0, str(HERE.parent))
    with atheris.instrument_imports(include=["mmmeta_core"]):
        from fuzz.targets import TARGETS

    target = TARGETS[name]
    atheris.Setup([sys.argv[0], *sys.argv[3:]], lambda data: target(bytes(data)))
    atheris.Fuzz()


def main() -> None:
    seconds = int(float(sys.argv[1]) * 60)
    failed = False
    for name in sys.argv[2:] or NAMES:
        code, tried = search(name, seconds)
        print(f"{name}: {tried:,} inputs in {seconds} s, {'FOUND' if code else 'nothing found'}", flush=True)
        failed = failed or code != 0
    sys.exit(failed)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        one(sys.argv[2])
    else:
        main()
