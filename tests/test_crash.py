"""A process that is killed at any moment loses nothing, publishes nothing twice, and the next run carries on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from mmmeta_core import mmmeta

KILLED = Path(__file__).parent / "killed.py"
POINTS = int(os.environ.get("CRASH_POINTS", "10"))
"""How many moments of each verb a process is killed at; a very large number means all."""


def run(base: Path, verb: str, remote: str, step: int) -> subprocess.CompletedProcess[str]:
    arguments = [str(step), verb, str(base / "publisher"), str(base / "documents"), remote]
    return subprocess.run(
        [sys.executable, str(KILLED), *arguments], capture_output=True, text=True, timeout=120
    )


def write(base: Path, name: str, **values: Any) -> None:
    (base / "documents").mkdir(parents=True, exist_ok=True)
    text = json.dumps({"content_hash": name, **values})
    (base / "documents" / f"{name}.json").write_text(text, encoding="utf-8")


def prepare(base: Path, remote: str, *, generated: bool) -> dict[str, str]:
    """Publish a revision, then change what the next one is to publish; return the titles that are to be seen then."""
    for number in range(8):
        write(base, f"d{number}", title="first")
    with mmmeta(base / "publisher", files_root=base / "documents", remote=remote) as m:
        m.sync()
        m.store["count"] = 8
        for number in range(4, 12):
            write(base, f"d{number}", title="second")
        if generated:
            m.generate()
    return {f"d{number}": "first" if number < 4 else "second" for number in range(12)}


def finish_and_check(base: Path, remote: str, expected: dict[str, str]) -> None:
    for left in (base / "publisher").rglob(".tmp-*"):
        os.utime(left, (0, 0))
    with mmmeta(base / "publisher", files_root=base / "documents", remote=remote) as m:
        result = m.sync()
        assert result.updated.revision == 2, "published exactly once"
        assert m.inspect().pending == 0
        assert {file.key: file["title"] for file in m.files} == expected
        assert not m.push().published
    assert [path.name for path in (base / "publisher").rglob(".tmp-*")] == []
    with mmmeta(base / "client", remote=remote) as client:
        client.sync()
        assert {file.key: file["title"] for file in client.files} == expected
        assert client.store["count"] == 8
        assert client.store["remote_last_updated"] == client.store["local_last_updated"]
    with mmmeta(base / "newcomer", remote=remote) as newcomer:
        assert newcomer.pull().revision == 2


def points(total: int) -> list[int]:
    """Return steps spread over the whole run, its first and its last among them."""
    wanted = min(POINTS, total)
    return sorted({1 + round(n * (total - 1) / (wanted - 1)) for n in range(wanted)})


def test_killing_generate_loses_nothing(tmp_path: Path) -> None:
    (tmp_path / "remote").mkdir()
    kill_everywhere(tmp_path, "generate", str(tmp_path / "remote"))


def test_killing_push_loses_nothing(tmp_path: Path, remote_url: str) -> None:
    kill_everywhere(tmp_path, "push", remote_url)


def kill_everywhere(tmp_path: Path, verb: str, remote_url: str) -> None:
    base, here = tmp_path / "rehearsal", place(remote_url, 0)
    prepare(base, here, generated=verb == "push")
    rehearsal = run(base, verb, here, 0)
    assert rehearsal.returncode == 0, rehearsal.stderr
    for step in points(int(rehearsal.stdout)):
        base, here = tmp_path / str(step), place(remote_url, step)
        expected = prepare(base, here, generated=verb == "push")
        killed = run(base, verb, here, step)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        finish_and_check(base, here, expected)
        shutil.rmtree(base)


def place(remote_url: str, step: int) -> str:
    """Return a remote of its own for each point."""
    where, question, options = remote_url.partition("?")
    if not where.startswith("s3:"):
        Path(f"{where}/{step}").mkdir(parents=True)
    return f"{where}/{step}{question}{options}"
