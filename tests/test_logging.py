"""What is logged: by modules' own loggers, as sentences for people and fields for programs; nothing is printed."""

from __future__ import annotations

import ast
import io
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mmmeta_core.files import File
from mmmeta_core.metadir import Metadir
from mmmeta_core.remotes import UploadResult

ROOT = Path(__file__).parent.parent
GUIDE = (ROOT / "docs" / "logging.md").read_text(encoding="utf-8")
CORE = ROOT / "mmmeta_core"


def calls() -> Iterator[tuple[Path, ast.Call, str]]:
    """Each call in the package, with the name of what is called."""
    for path in sorted(CORE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = (
                    node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                )
                yield path, node, name


def test_the_library_prints_nothing_and_sets_no_logging_up() -> None:
    stray = [
        f"{path.relative_to(ROOT)}:{call.lineno} {name}"
        for path, call, name in calls()
        if name in {"print", "pprint", "echo", "addHandler", "basicConfig", "StreamHandler", "setLevel"}
        and "cli" not in path.parts
    ]
    assert stray == []


def test_loggers_are_named_by_their_modules() -> None:
    names = {
        (str(path.relative_to(CORE)), ast.unparse(call.args[0]))
        for path, call, name in calls()
        if name == "getLogger" and "cli" not in path.parts
    }
    assert len(names) > 10
    assert {argument for _, argument in names} == {"__name__"}


def test_each_event_and_its_fields_are_documented() -> None:
    rows = re.findall(r"^\| `([a-z ]+)` \| [a-z, ]+ \| (.*) \|$", GUIDE, re.MULTILINE)
    documented = {name: set(re.findall(r"`(\w+)`", fields)) for name, fields in rows}
    logged: dict[str, set[str]] = {}
    for _, call, name in calls():
        if name == "event" and call.args:
            assert isinstance(call.args[0], ast.Constant)
            fields = {keyword.arg for keyword in call.keywords if keyword.arg is not None}
            if any(keyword.arg is None for keyword in call.keywords):
                fields |= set(UploadResult.__dataclass_fields__)
            logged[str(call.args[0].value)] = fields
    assert logged == documented


@pytest.fixture
def core_logger() -> Iterator[logging.Logger]:
    logger = logging.getLogger("mmmeta_core")
    level, handlers = logger.level, list(logger.handlers)
    yield logger
    logger.setLevel(level)
    logger.handlers[:] = handlers


def test_the_block_of_the_guide_makes_lines_of_json(
    tmp_path: Path, core_logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    (block,) = re.findall(r"^```python\n(.*?)^```", GUIDE, re.DOTALL | re.MULTILINE)
    said = io.StringIO()
    monkeypatch.setattr("sys.stderr", said)
    exec(compile(block, "logging.md", "exec"), {})  # noqa: S102 - it is ours
    (tmp_path / "archive").mkdir()
    with Metadir(tmp_path / "publisher", remote=tmp_path / "archive") as m:
        m.files.insert(content_hash="a")
        m.push()
    with Metadir(tmp_path / "client", remote=tmp_path / "archive") as m:
        m.sync()
    lines = [json.loads(line) for line in said.getvalue().splitlines()]
    events = [
        {name: value for name, value in line.items() if name not in ("remote", "bytes")} for line in lines
    ]
    assert [line for line in events if "event" in line] == [
        {
            "level": "INFO",
            "message": "published revision 1: 1 documents",
            "event": "published",
            "revision": 1,
            "documents": 1,
        },
        {
            "level": "INFO",
            "message": f"pulled revision 1: 1 segments, 1 documents, {lines[1]['bytes']} bytes",
            "event": "pulled",
            "revision": 1,
            "segments": 1,
            "documents": 1,
            "snapshot": False,
        },
        {
            "level": "INFO",
            "message": "state: 1 added, 0 updated, 0 deleted, 0 restored; at revision 1",
            "event": "updated",
            "revision": 1,
            "added": 1,
            "updated": 0,
            "deleted": 0,
            "restored": 0,
        },
    ]


def told(caplog: pytest.LogCaptureFixture, name: str) -> list[dict[str, Any]]:
    """The fields of all events of this name, the time that it took left out."""
    fields = [getattr(record, "mmmeta", {}) for record in caplog.records]
    return [
        {key: value for key, value in one.items() if key != "seconds"}
        for one in fields
        if one.get("event") == name
    ]


def test_generate_and_process_tell_programs_what_they_tell_people(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "mmmeta_core")
    (tmp_path / "bad.json").write_text("{}")
    (tmp_path / "good.json").write_text('{"content_hash": "a", "file_name": "a.pdf"}')

    def fail(file: File) -> None:
        raise ValueError("no good")

    with Metadir(tmp_path, files_root=tmp_path) as m:
        m.generate()
        m.update()
        m.files.process(fail, max_attempts=1)
    counts = {"added": 1, "updated": 0, "unchanged": 0, "deleted": 0, "restored": 0, "invalid": 1, "read": 2}
    assert told(caplog, "generated") == [{"event": "generated", "root": str(tmp_path), **counts}]
    (invalid,) = told(caplog, "invalid")
    assert (invalid["path"], "content_hash" in invalid["reason"]) == ("bad.json", True)
    reason = "ValueError: no good"
    assert told(caplog, "failed") == [
        {"event": "failed", "mark": "imported", "key": "a", "name": "a.pdf", "reason": reason}
    ]
    done = {"processed": 0, "failed": 1, "set_aside": 1, "left": 1}
    assert told(caplog, "processed") == [{"event": "processed", "mark": "imported", "on": "due", **done}]
