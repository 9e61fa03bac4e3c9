"""`mmmeta` as a shell runs it, and an archive to run it on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, TypeAlias

from click.testing import CliRunner
from conftest import S3_ENVIRONMENT

from mmmeta_core.cli import cli

Result: TypeAlias = subprocess.CompletedProcess[str]

MMMETA = [sys.executable, "-m", "mmmeta_core"]
NO_AWS = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull, "AWS_MAX_ATTEMPTS": "1"}


def environment(**values: str) -> dict[str, str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MMMETA", "AWS_"))}
    return {**inherited, **S3_ENVIRONMENT, **NO_AWS, "COLUMNS": "80", **values}


def mmmeta(*arguments: str | bytes, cwd: Path, **values: str) -> Result:
    return subprocess.run(
        [*MMMETA, *arguments], cwd=cwd, env=environment(**values), capture_output=True, text=True, timeout=60
    )


def here(*arguments: str, cwd: Path, **values: str) -> Result:
    """Run a command within this process, which is quicker: for what is not about processes."""
    logger = logging.getLogger("mmmeta_core")
    before = logger.level, logger.propagate, logger.handlers[:]
    try:
        with contextlib.chdir(cwd):
            said = CliRunner().invoke(
                cli, list(arguments), env={"COLUMNS": "80", **values}, catch_exceptions=False
            )
    finally:
        logger.level, logger.propagate, logger.handlers[:] = before
        logger.setLevel(before[0])
    return Result(["mmmeta", *arguments], said.exit_code, said.stdout, said.stderr)


def done(*arguments: str, cwd: Path, **values: str) -> str:
    """Run a command that has to succeed; return what it printed."""
    result = mmmeta(*arguments, cwd=cwd, **values)
    assert result.returncode == 0, result.stderr
    return result.stdout


def reported(*arguments: str, cwd: Path, **values: str) -> Any:
    return json.loads(done(*arguments, "--json", cwd=cwd, **values))


def key(text: str) -> str:
    return hashlib.sha1(text.encode()).hexdigest()  # noqa: S324 - what the archive is keyed by


DOCUMENTS: dict[str, dict[str, Any]] = {
    "a": {
        "title": "Tax plan",
        "document_type": "contract",
        "pages": 3,
        "signed": True,
        "retrieved_at": "2021-05-01T12:00:00Z",
        "case": "007",
        "tags": ["x", "y"],
    },
    "b": {
        "title": 'Said "no",\nthen left',
        "document_type": "report",
        "pages": 12,
        "signed": False,
        "retrieved_at": "2021-06-01T00:00:00Z",
    },
    "c": {"title": "Ünïcode", "document_type": "contract", "publisher": {"name": "City"}},
    "d": {"title": "Withdrawn", "document_type": "contract"},
}


def write_documents(folder: Path) -> None:
    """Metadata files of four documents; `a` and `b` have their file, too. And one that is broken."""
    folder.mkdir()
    for name, values in DOCUMENTS.items():
        document = {"content_hash": key(name), "file_name": f"{name}.txt", **values}
        (folder / f"{name}.json").write_text(json.dumps(document), encoding="utf-8")
    for name in "ab":
        (folder / f"{name}.txt").write_text(name)
    (folder / "broken.json").write_text('{"title": ')
