"""docs/signing.md, run as it stands."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mmmeta_core.signing import load_trust

TEXT = (Path(__file__).parent.parent / "docs" / "signing.md").read_text(encoding="utf-8")


def test_the_lines_of_the_guide_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MMMETA_SIGNING_KEY", "")  # what the guide sets ends with this test
    monkeypatch.setenv("MMMETA_TRUSTED_KEYS", "")
    (tmp_path / "archive").mkdir()
    commands = re.findall(r"^    mmmeta (.*)$", TEXT, re.MULTILINE)
    assert len(commands) == 1
    for command in commands:
        done = subprocess.run(
            [sys.executable, "-m", "mmmeta_core", *shlex.split(command)], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    blocks = re.findall(r"^```python\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 3, "a new block needs a place in this test"
    names: dict[str, Any] = {}
    for number, block in enumerate(blocks):
        exec(compile(block, "signing.md", "exec"), names)  # noqa: S102 - it is ours
        if number == 1:
            assert [file["title"] for file in names["m"].files.find()] == ["A"]
    said = capsys.readouterr().out
    assert "head.json is not signed, but publisher.key.pub says whom to trust; nothing was changed" in said
    assert [file["title"] for file in names["m"].files.find()] == ["A"]
    for name in ("m", "stranger"):
        names[name].close()


def test_the_keys_that_the_guide_shows_are_keys(tmp_path: Path) -> None:
    (block,) = re.findall(r"^```text\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    (tmp_path / "keys").write_text(block)
    trust = load_trust(tmp_path / "keys")
    assert trust is not None
    assert [(key.until, key.archive) for key in trust.keys] == [
        (1200, None),
        (None, "413672b5f0004a7e94484724c8528bfd"),
    ]
