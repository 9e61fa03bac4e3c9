"""Documents to an archive and from it, beside other programs that copy files, on one S3 server on loopback.

    python -m benchmarks.transfers [--rounds R] [--write]

Each contestant is a whole command with its defaults, and they take turns. mmmeta, alone among them, keeps a catalog: it
compares each document's digest with its key, notes what is done, and a downloaded document is flushed to disk. What the
same command takes again, when nothing is left to do, is its start.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from benchmarks import report, s3
from benchmarks.tools import Tool, program, tools
from mmmeta_core import mmmeta

WIRE = Path(__file__).with_name("wire.py")
BEGIN, END = "<!-- transfers -->", "<!-- /transfers -->"
LOADS = {"1,000 of 50 KB": (1_000, 50_000), "1 of 200 MB": (1, 200_000_000)}
THREADS = 8
WANTED = "1.3"
COMMAND = Path(sys.executable).with_name("mmmeta")


@contextmanager
def server(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the URL of a server with a bucket, and what it is: rclone's, which is quick, else the one of the tests."""
    rclone = program("rclone")
    if rclone is None:
        with s3.bucket() as (endpoint, _):
            yield endpoint, s3.NAMED
        return
    (folder / s3.BUCKET).mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [rclone, "--config", "/dev/null", "--quiet", "serve", "s3", "--addr", address]
    process = subprocess.Popen([*command, "--etag-hash", "MD5", folder])
    try:
        _await(address, process)
        yield f"http://{address}", "`rclone serve s3`"
    finally:
        process.kill()
        process.wait()


def _await(address: str, process: subprocess.Popen[bytes]) -> None:
    host, _, port = address.partition(":")
    while process.poll() is None:
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise SystemExit("the S3 server ended")


class Race:
    """One load, both ways."""

    def __init__(self, base: Path, endpoint: str, load: str, contestants: dict[str, Tool]) -> None:
        self.load = load
        self.base = base
        self.endpoint = endpoint
        self.contestants = contestants
        self.documents = base / "documents"
        self.found: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
        number, size = LOADS[load]
        self.total = number * size
        (self.documents / "docs").mkdir(parents=True)
        for at in range(number):
            (self.documents / "docs" / f"{at:05}.bin").write_bytes(os.urandom(size))
        self.source = f"{s3.BUCKET}/{base.name}"
        with mmmeta(base / "publisher", files_root=self.documents, remote=self.url(self.source)) as m:
            m.generate(no_meta=True)
            m.push(files=True)

    def round(self, number: int) -> None:
        names = ["server", "mmmeta", *self.contestants]
        for name in names[number % len(names) :] + names[: number % len(names)]:
            prefix = f"{s3.BUCKET}/{self.base.name}-{number}-{name.replace(' ', '-')}"
            target = self.base / "target"
            target.mkdir()
            try:
                self.found["push", name].append(self._push(name, prefix))
                self.found["download", name].append(self._download(name, target))
            finally:
                shutil.rmtree(target)
                for left in ("one", "client"):
                    shutil.rmtree(self.base / left, ignore_errors=True)
                shutil.rmtree(self.base.parent / "served" / prefix, ignore_errors=True)

    def _push(self, name: str, prefix: str) -> float:
        folder = self.documents / "docs"
        if name == "server":
            return self._wire("put", prefix)
        if name in self.contestants:
            return _timed(self.contestants[name].up(folder, f"{prefix}/docs"))
        url = self.url(prefix)
        with mmmeta(self.base / "one", files_root=self.documents, remote=url) as m:
            m.generate(no_meta=True)
        where = ["--metadir", str(self.base / "one"), "--files-root", str(self.documents)]
        return self._twice("push", [str(COMMAND), "-q", *where, "--remote", url, "push", "--files"])

    def _download(self, name: str, target: Path) -> float:
        if name == "server":
            return self._wire("get", self.source + "/docs")
        if name in self.contestants:
            took = _timed(self.contestants[name].down(f"{self.source}/docs", target))
        else:
            url = self.url(self.source)
            with mmmeta(self.base / "client", remote=url) as m:
                m.pull()
                m.update()
            where = ["--metadir", str(self.base / "client"), "--remote", url]
            took = self._twice("download", [str(COMMAND), "-q", *where, "download", str(target)])
        came = sum(path.stat().st_size for path in target.rglob("*.bin"))
        assert came == self.total, f"{name} brought {came} of {self.total} bytes"
        return took

    def _twice(self, what: str, command: list[str]) -> float:
        took = _timed(command)
        self.found[what, "start"].append(_timed(command))
        return took

    def _wire(self, what: str, prefix: str) -> float:
        address = self.endpoint.removeprefix("http://")
        command = [sys.executable, WIRE, what, address, prefix, self.documents / "docs", str(THREADS)]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    def url(self, prefix: str) -> str:
        return f"s3://{prefix}?endpoint={self.endpoint}"

    def row(self, what: str) -> str:
        names = ("server", "mmmeta", "start", *self.contestants)
        took = {name: median(self.found[what, name]) for name in names}
        best = min((took[name] for name in self.contestants), default=took["mmmeta"])
        cells = [f"{what}, {self.load}", *(f"{seconds:.2f} s" for seconds in took.values())]
        return "| " + " | ".join([*cells, f"{took['mmmeta'] / best:.2f}", f"≤ {WANTED}"]) + " |"


def _timed(command: list[str]) -> float:
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    took = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed\n{done.stderr}")
    return took


def measure(rounds: int) -> list[str]:
    os.environ.update(s3.ENVIRONMENT)
    # The server keeps neither the condition that a publisher wants nor the checksums that newer clients add.
    os.environ.update(MMMETA_SINGLE_PUBLISHER="1", AWS_REQUEST_CHECKSUM_CALCULATION="when_required")
    with tempfile.TemporaryDirectory(prefix="mmmeta-transfers-") as name:
        folder = Path(name)
        with server(folder / "served") as (endpoint, what):
            contestants = tools(endpoint)
            rows = []
            for at, load in enumerate(LOADS):
                race = Race(folder / f"load{at}", endpoint, load, contestants)
                for number in range(rounds):
                    race.round(number)
                rows += [race.row("push"), race.row("download")]
                shutil.rmtree(race.base)
    versions = ", ".join(tool.version for tool in contestants.values())
    return [
        f"Measured on {datetime.now(UTC):%Y-%m-%d} with `python -m benchmarks.transfers`, medians of {rounds} rounds, "
        f"{os.cpu_count()} cores for client and server together; the server is {what}; {versions}.",
        "",
        "| what | server alone | mmmeta | its start | "
        + " | ".join(contestants)
        + " | to the fastest | wanted |",
        "| --- |" + " ---: |" * (len(contestants) + 5),
        *rows,
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.transfers")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="write the table into docs/performance.md")
    options = parser.parse_args()
    lines = measure(options.rounds)
    print("\n".join(lines))
    if options.write:
        report.put(BEGIN, END, "\n".join(lines))


if __name__ == "__main__":
    main()
