"""The command line as a person meets it: tables that fit, colours, what to do next, examples, completion."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shell import MMMETA, environment, here

from mmmeta_core.cli import cli
from mmmeta_core.cli.screens import advice
from mmmeta_core.cli.tables import fitted, print_table
from mmmeta_core.metadir import Metadir

ROOT = Path(__file__).parent.parent


def commands(group: click.Group = cli, name: str = "mmmeta") -> Iterator[tuple[str, click.Command]]:
    for word in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), word)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, f"{name} {word}")
        else:
            yield f"{name} {word}", command


COMMANDS = dict(commands())


def on_terminal(*arguments: str, cwd: Path, **values: str) -> str:
    ours, theirs = os.openpty()
    env = {**environment(**values), "TERM": values.get("TERM", "xterm")}
    with subprocess.Popen([*MMMETA, *arguments], cwd=cwd, env=env, stdout=theirs, stderr=theirs):
        os.close(theirs)
        read = b""
        with contextlib.suppress(OSError):
            while part := os.read(ours, 65536):
                read += part
        os.close(ours)
    return read.decode().replace("\r\n", "\n")


@pytest.fixture
def client(tmp_path: Path) -> Path:
    """A client that imported one document and failed at another."""
    (tmp_path / "archive").mkdir()
    with Metadir(tmp_path / "publisher", remote=tmp_path / "archive") as publisher:
        for key in "ab":
            publisher.files.insert(content_hash=key, title=f"漢字 {key}", file_name=f"{key}.txt")
        publisher.push()
    with Metadir(tmp_path / "client", remote=tmp_path / "archive") as m:
        m.sync()
        m.files.process(lambda file: {} if file.key == "a" else 1 / 0, max_attempts=1)
    return tmp_path / "client"


# --- the screen


def test_status_is_a_screen_with_what_to_do_next(client: Path) -> None:
    said = on_terminal("--remote", "../archive", "status", cwd=client, NO_COLOR="1", COLUMNS="300")
    assert "\x1b" not in said
    lines = said.splitlines()
    assert lines[0].split() == ["metadir", str(client)]
    assert lines[1:3] == [
        "documents  2 (0 deleted, 0 invalid, 0 to publish)",
        "here       revision 1, merged 1",
    ]
    assert lines[3].startswith("remote     revision 1, file://")
    assert [line.split()[:5] for line in lines[5:7]] == [
        ["pipeline", "due", "done", "failed", "set"],
        ["imported", "0", "1", "0", "1"],
    ]
    assert lines[-1].startswith("next: mmmeta status --failures lists what failed; ")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("values", "coloured"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)],
)
def test_colours_are_for_terminals_that_want_them(
    values: dict[str, str], coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"TERM": "xterm", **values}.items():
        monkeypatch.setenv(name, value)
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    print_table(iter([{"key": "a"}]), ["key"])
    assert terminal.getvalue() == ("\x1b[1mkey\x1b[0m\na\n" if coloured else "key\na\n")


def test_a_pipe_gets_no_colours_and_the_same_advice(client: Path) -> None:
    said = here("status", cwd=client, FORCE_COLOR="1").stdout
    assert "\x1b" not in said
    assert "imported: 0 due, 1 done, 0 failed, 1 set aside; last run " in said
    assert said.splitlines()[-1].startswith("next: mmmeta status --failures")


def test_advice_is_what_is_to_be_done_and_nothing_where_all_is_well(tmp_path: Path) -> None:
    (tmp_path / "documents").mkdir()
    (tmp_path / "archive").mkdir()
    for name, text in (("a", '{"content_hash": "a"}'), ("broken", "{")):
        (tmp_path / "documents" / f"{name}.json").write_text(text)

    def told(m: Metadir) -> list[str]:
        return [
            line.partition(" ")[2].partition(" brings")[0].partition(" the ")[0]
            for line in advice(m.status())
        ]

    with (
        Metadir(tmp_path / "publisher", tmp_path / "documents", tmp_path / "archive") as publisher,
        Metadir(tmp_path / "client", remote=tmp_path / "archive") as m,
    ):
        publisher.generate()
        assert told(publisher) == ["inspect --invalid lists", "push publishes"]
        (tmp_path / "documents" / "broken.json").unlink()
        publisher.sync()
        assert told(publisher) == []
        m.pull()
        assert told(m) == ["update merges what was pulled"]
        m.update()
        publisher.files.insert(content_hash="b")
        publisher.push()
        assert list(advice(m.status())) == ["mmmeta sync brings 1 new revision"]
        (tmp_path / "archive").rename(tmp_path / "away")
        assert told(m) == ["doctor looks why"]


# --- tables


@given(st.lists(st.integers(1, 60), min_size=1, max_size=30), st.integers(20, 300))
def test_columns_fit_or_are_left_out_from_the_end(wanted: list[int], room: int) -> None:
    widths = fitted(wanted, room)
    assert 1 <= len(widths) <= len(wanted)
    assert all(width <= most for width, most in zip(widths, wanted, strict=False))
    assert sum(widths) + 2 * (len(widths) - 1) <= max(room, min(wanted[0], 8))
    if sum(wanted) + 2 * (len(wanted) - 1) <= room:
        assert widths == wanted
    assert all(width >= min(most, 8) for width, most in zip(widths, wanted, strict=False))


def test_a_table_is_aligned_whatever_is_in_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rich.cells import cell_len

    monkeypatch.setenv("COLUMNS", "40")
    names = ["key", "title", "note", *(f"column{number}" for number in range(9))]
    rows = [
        dict.fromkeys(names, "x") | {"title": title} for title in ("plain", "漢字かな" * 9, "e\u0301" * 30)
    ]
    print_table(iter(rows), names)
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert len(lines) == 4
    assert all(cell_len(line) <= 40 for line in lines)
    assert {cell_len(line[: line.index(" x")]) for line in lines[1:]} == {
        len(lines[0].partition("note")[0]) - 1
    }
    assert said.err == "(7 more columns: --columns chooses, --json shows all)\n"


# --- help


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_examples_that_can_be_typed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = (COMMANDS[name].epilog or "").partition("Examples:\n")[2]
    lines = [line.strip() for line in text.partition("\n\n")[0].splitlines()]
    assert lines, "the help ends with examples"
    for line in lines:
        command = re.sub(r"\$\((.*)\)|\s+#.*", r"\1", line).removeprefix('eval "').rstrip('"')
        words = shlex.split(re.split(r" [|>] ", command)[0])
        assert words[0] == "mmmeta"
        context = cli.make_context("mmmeta", words[1:])
        found, arguments, group = " ".join(words[:1]), [*context._protected_args, *context.args], cli
        while isinstance(group, click.Group):
            word, group, arguments = group.resolve_command(context, arguments)
            found += f" {word}"
        assert found == name
        group.make_context(name, list(arguments), parent=context)


def test_each_command_that_prints_a_result_has_json() -> None:
    scripts = {"mmmeta completion"}
    for name, command in COMMANDS.items():
        options = {option for parameter in command.params for option in parameter.opts}
        assert ("--json" in options) is (name not in scripts), name


def test_the_exit_codes_are_in_one_table() -> None:
    text = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
    codes = re.findall(r"^\| (\d+) \|", text, re.MULTILINE)
    assert codes == ["0", "1", "2", "130", "143"]
    epilog = cli.epilog or ""
    assert [code for code in codes if code not in epilog] == []
    named = set(re.findall(r"`mmmeta ([a-z-]+)`", text))
    assert {name.split()[1] for name in COMMANDS} - named == set(), "the table of commands names each"


# --- completion


def test_bash_completes_commands_options_and_values() -> None:
    script = """
eval "$(mmmeta completion bash)"
complete_words() {
    COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
    _mmmeta_completion mmmeta
    echo "${COMPREPLY[@]}"
}
complete -p mmmeta
complete_words mmmeta st
complete_words mmmeta export --format c
"""
    path = f"{Path(MMMETA[0]).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(["bash", "-c", script], env=environment(PATH=path), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1:] == ["status store", "csv"]
    assert "_mmmeta_completion mmmeta" in done.stdout


@pytest.mark.parametrize(
    ("shell", "word"), [("zsh", "#compdef mmmeta"), ("fish", "complete --no-files --command mmmeta")]
)
def test_other_shells_get_their_script(shell: str, word: str, tmp_path: Path) -> None:
    said = here("completion", shell, cwd=tmp_path)
    assert (said.returncode, word in said.stdout) == (0, True)


def test_json_of_the_store_and_of_keys(tmp_path: Path) -> None:
    def said(*arguments: str) -> Any:
        return json.loads(here(*arguments, "--json", cwd=tmp_path).stdout)

    assert said("store", "set", "new_files", "17") == 17
    assert said("store", "touch", "seen").endswith("+00:00")
    assert set(said("keygen", str(tmp_path / "key"))) == {"file", "public"}
