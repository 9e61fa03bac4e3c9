"""`mmmeta init`: what it proposes, what it writes, and where it writes nothing."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import subprocess
import threading
from itertools import product
from pathlib import Path
from typing import Any

import click
import pytest
from conftest import Scrape
from hypothesis import given, settings
from hypothesis import strategies as st
from shell import MMMETA, Result, environment, here, mmmeta

from mmmeta_core.cli.init import _prompting
from mmmeta_core.cli.session import Terminated
from mmmeta_core.config import Config
from mmmeta_core.errors import ConfigError, RefusedError
from mmmeta_core.init import Proposal, proposal, propose
from mmmeta_core.init.settings import settings_text
from mmmeta_core.metadir import Metadir
from mmmeta_core.types import is_key_column

COLUMNS = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=15).filter(is_key_column)
NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
TEMPLATES = st.text(
    st.characters(exclude_categories=("Cs",), exclude_characters="{}"), min_size=1, max_size=30
).filter(lambda text: bool(text.strip()))


# --- the text


@settings(max_examples=60, deadline=None)
@given(COLUMNS, COLUMNS, st.dictionaries(NAMES, TEMPLATES, max_size=3), st.lists(COLUMNS, max_size=7))
def test_whatever_is_chosen_is_read_back(
    unique: str, file_name: str, urls: dict[str, str], times: list[str]
) -> None:
    text = settings_text(unique, file_name, urls, times)
    assert Config.parse(text, "text") == Config(unique=unique, file_name=file_name, remote=urls)


@pytest.mark.parametrize("word", ["true", "no", "null", "on", "1_000", "Yes", "y", "plain", "publisher:name"])
def test_a_word_that_yaml_reads_as_something_else_stays_text(word: str) -> None:
    assert Config.parse(settings_text(word, word, {"url": word}), "text").unique == word


def test_each_setting_is_in_the_file_and_can_be_uncommented() -> None:
    text = settings_text("id", "path", {}, ["retrieved_at", "publisher:since"])
    live = re.sub(r"^( *)# ( *[a-z_]+:(?: .*)?)$", r"\1\2", text, flags=re.MULTILINE)
    assert Config.parse(live, "text") == Config(
        unique="id",
        file_name="path",
        include=("title", "publisher:name"),
        required=("title",),
        types={"retrieved_at": "datetime", "publisher:since": "datetime"},
        indexes=("document_type",),
        digest="sha1",
        remote={"url": "https://archive.example.org/{file_name}"},
    )
    assert set(re.findall(r"^ *(?:# +)?([a-z_]+):", text, re.MULTILINE)) >= set(Config.__dataclass_fields__)


def test_a_template_that_can_not_be_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with Metadir(tmp_path) as m, pytest.raises(ConfigError, match=r"'remote\.url': the template"):
        m.init(urls={"url": "https://host/{"})
    assert list(tmp_path.iterdir()) == []


# --- the proposal


def test_a_key_is_what_all_have_and_no_two_share(scrape: Scrape, tmp_path: Path) -> None:
    for number in range(3):
        scrape(
            f"{number // 2}/{number}",
            content_hash=None,
            title=f"Title {number}",
            case_id=number,
            kind="contract",
            seen=f"2026-01-0{number + 1}T10:00",
            share=number / 3,
            signed=True,
            publisher={"id": f"p{number}"},
        )
    scrape("2", content_hash="x", title="Another", case_id=7, publisher={"id": "p7"})
    found = propose(tmp_path / "documents")
    assert (found.looked, found.unread) == (4, 0)
    assert found.keys == ("case_id", "publisher:id", "title")
    assert found.times == ("seen",)
    assert (found.lacking["content_hash"], found.lacking["title"], found.lacking["kind"]) == (3, 0, 1)


def test_content_hash_goes_before_all_others(scrape: Scrape, tmp_path: Path) -> None:
    for number in range(2):
        scrape(str(number), id=number, sha256=f"s{number}", title=f"t{number}")
    assert propose(tmp_path / "documents").keys == ("content_hash", "sha256", "id", "title")


def test_1_and_the_text_1_are_not_two_keys(scrape: Scrape, tmp_path: Path) -> None:
    scrape("a", content_hash=None, number=1)
    scrape("b", content_hash=None, number="1")
    assert propose(tmp_path / "documents").keys == ()


@pytest.mark.parametrize(
    ("documents", "column"),
    [
        ([{"name": "A study", "datei": "a/1.pdf"}, {"name": "Another", "datei": "gone.pdf"}], "datei"),
        ([{"_file_name": "gone.pdf", "title": "x"}, {"title": "y"}], "_file_name"),
        ([{"title": "x", "mails": ["a/1.pdf"]}], None),
        ([{"url": "../documents/a/1.pdf", "link": "/etc/passwd", "meta": "a/1.json"}], None),
        ([{"text": "a\0b"}, {"text": "x" * 5_000}], None),
    ],
    ids=["one that is there", "a usual name", "no text", "what is not below", "what is no path"],
)
def test_the_file_name_is_what_names_a_document(
    scrape: Scrape, tmp_path: Path, documents: list[dict[str, Any]], column: str | None
) -> None:
    for number, values in enumerate(documents, 1):
        scrape(f"a/{number}", **values)
    (tmp_path / "documents" / "a" / "1.pdf").write_text("the document")
    assert propose(tmp_path / "documents").file_name == column


def test_what_can_not_be_read_is_passed_over(scrape: Scrape, tmp_path: Path) -> None:
    root = scrape("good").parent
    (root / "broken.json").write_text("{")
    (root / "list.json").write_text("[]")
    (root / "deep.json").write_text('{"a":' * 5_000 + "1" + "}" * 5_000)
    (root / "large.json").write_text(json.dumps({"content_hash": "x" * proposal.MOST_BYTES}))
    (root / "link.json").symlink_to("/etc/passwd")
    (root / "_mmmeta").mkdir()
    (root / "_mmmeta" / "ours.json").write_text("{}")
    (root / ".tmp-1.json").write_text("{}")
    os.mkfifo(root / "pipe.json")
    found = propose(root)
    assert (found.looked, found.unread, found.keys) == (1, 4, ("content_hash",))
    assert propose(root / "nowhere") == Proposal()


def test_names_that_no_column_has_are_not_proposed(scrape: Scrape, tmp_path: Path) -> None:
    scrape("a", **{"content_hash": None, "__id": "x", "an\x1b[31mid": "x", "case-id": "x", "n" * 64: "x"})
    assert propose(tmp_path / "documents").keys == ()


def test_only_so_many_files_and_names_are_looked_at(
    scrape: Scrape, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(8):
        scrape(f"{number}/{number}")
    root = tmp_path / "documents"
    monkeypatch.setattr(proposal, "MOST_FILES", 3)
    assert propose(root).looked == 3
    monkeypatch.setattr(proposal, "MOST_FILES", 100)
    monkeypatch.setattr(proposal, "MOST_ENTRIES", 12)
    assert propose(root).looked == 4


# --- the verb


@pytest.mark.parametrize(
    ("unique", "file_name", "urls"),
    list(
        product([None, "id"], [None, "path"], [{}, {"url": "https://h/{id}"}, {"a": "s3://b/{id}", "b": "x"}])
    ),
)
def test_what_is_written_is_what_config_loads(
    scrape: Scrape, tmp_path: Path, unique: str | None, file_name: str | None, urls: dict[str, str]
) -> None:
    scrape("a", id=1, file="a.pdf")
    with Metadir(tmp_path / "m", tmp_path / "documents") as m:
        planned = m.init(unique=unique, file_name=file_name, urls=urls, dry_run=True)
        assert not (tmp_path / "m").exists()
        result = m.init(unique=unique, file_name=file_name, urls=urls)
        assert (planned.text, planned.written, result.written) == (result.text, False, True)
        assert m.paths.config.read_text(encoding="utf-8") == result.text
        assert Config.load(m.paths.config) == m.config
        assert m.config == Config(unique or "content_hash", file_name or "file", remote=urls)
        assert (result.unique, result.file_name) == (m.config.unique, m.config.file_name)
        assert result.unknown == (() if file_name is None else ("path",))
        assert not list(m.paths.root.glob(".tmp-*"))


def test_settings_that_are_there_stay(tmp_path: Path) -> None:
    with Metadir(tmp_path) as m:
        m.paths.root.mkdir()
        m.paths.config.write_text("metadata: {unique: mine}\n")
        for dry_run in (False, True):
            with pytest.raises(RefusedError, match=r"config\.yml is there already and is left as it is"):
                m.init(dry_run=dry_run)
        assert m.config.unique == "mine"
        m.paths.config.unlink()
        m.paths.config.symlink_to("elsewhere.yml")
        with pytest.raises(RefusedError, match="is there already"):
            m.init()


def test_of_several_at_once_one_writes(tmp_path: Path) -> None:
    said: list[str] = []
    barrier = threading.Barrier(4)

    def run(number: int) -> None:
        with Metadir(tmp_path) as m:
            barrier.wait()
            try:
                said.append(m.init(unique=f"key{number}").unique)
            except RefusedError:
                said.append("")

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = filter(None, said)
    with Metadir(tmp_path) as m:
        assert m.config.unique == winner


def test_documents_that_are_there_keep_their_key(tmp_path: Path) -> None:
    with Metadir(tmp_path) as m:
        m.files.insert(content_hash="a")
        with pytest.raises(RefusedError, match="has documents by 'content_hash'"):
            m.init(unique="id")
        assert not m.paths.config.exists()
        assert m.init().unique == "content_hash"


def publish(
    place: str, folder: Path, settings: str | None = "metadata: {unique: id, file_name: f}\n"
) -> None:
    with Metadir(folder / "publisher", remote=place) as m:
        if settings:
            m.paths.root.mkdir(parents=True)
            m.paths.config.write_text(settings)
        m.files.insert({m.config.unique: "a"})
        m.push()


def test_a_client_of_an_archive_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    publish(str(tmp_path / "archive"), tmp_path)
    with Metadir(tmp_path / "client", remote=tmp_path / "archive") as m:
        result = m.init()
        assert m.remote is not None
        assert (result.archive, result.written, result.text) == (m.remote.url, False, "")
        assert (result.unique, result.file_name) == ("id", "f")
        assert m.init(unique="id") == result
        with pytest.raises(ConfigError, match=r"metadata\.unique is 'id', not 'other'"):
            m.init(unique="other")
        assert not m.path.exists()
        m.sync()
        assert (len(m.files), m.config.unique) == (1, "id")


def test_the_key_of_an_archive_without_settings_is_in_its_head(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    publish(str(tmp_path / "archive"), tmp_path, settings=None)
    with Metadir(tmp_path / "client", remote=tmp_path / "archive") as m:
        assert m.init().unique == "content_hash"


def test_an_archive_that_is_worked_in_and_not_published_is_no_place(tmp_path: Path) -> None:
    with Metadir(tmp_path / "archive") as m:
        m.files.insert(content_hash="a")
    with (
        Metadir(tmp_path / "client", remote=tmp_path / "archive") as m,
        pytest.raises(
            RefusedError, match="of which nothing is published yet: whoever works there has to push"
        ),
    ):
        m.init()
    with Metadir(tmp_path / "archive", remote=tmp_path / "archive") as m:
        assert m.init().written


# --- the command


def test_in_a_pipe_nothing_is_asked_and_the_next_commands_work(scrape: Scrape, tmp_path: Path) -> None:
    for number in range(3):
        path = scrape(f"{number}", content_hash=None, id=number, datei=f"{number}.txt", title="x")
        path.with_suffix(".txt").write_text("the document")
    (tmp_path / "archive").mkdir()
    place = ("--metadir", "publisher", "--files-root", "documents", "--remote", "archive")
    shown = here(*place, "init", "--dry-run", cwd=tmp_path)
    assert (shown.returncode, (tmp_path / "publisher").exists()) == (0, False)
    assert Config.parse(shown.stdout, "stdout") == Config("id", "datei")
    said = mmmeta(*place, "init", "--url", "https://host/{datei}", "--url", "mirror=x{id}", cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    assert said.stdout.startswith("wrote publisher/_mmmeta/config.yml: key id, file name datei\n")
    commands = re.findall(r"^next: (.*)$", said.stdout, re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        assert here(*shlex.split(command)[1:], cwd=tmp_path).returncode == 0
    client = here("--metadir", "my client", "--remote", "archive", "init", "--json", cwd=tmp_path)
    (command,) = json.loads(client.stdout)["next"]
    assert command == "mmmeta --metadir 'my client' --remote archive sync"
    assert here(*shlex.split(command)[1:], cwd=tmp_path).returncode == 0
    with Metadir(tmp_path / "my client") as m:
        assert sorted((file["id"], file.name) for file in m.files) == [(n, f"{n}.txt") for n in range(3)]
    again = here(*place, "init", "--yes", cwd=tmp_path)
    assert (again.returncode, again.stdout) == (1, "")
    assert again.stderr.startswith(
        "mmmeta: publisher/_mmmeta/config.yml is there already and is left as it is: "
    )


def test_what_no_document_has_is_said(scrape: Scrape, tmp_path: Path) -> None:
    scrape("a")
    said = here("--files-root", "documents", "init", "--url", "https://h/{fil}", "--json", cwd=tmp_path)
    assert json.loads(said.stdout)["unknown"] == ["file_name", "fil"]
    assert "has a column 'fil'" in said.stderr
    twice = here("init", "--url", "a", "--url", "b", cwd=tmp_path)
    assert (twice.returncode, "--url is given twice for 'url'" in twice.stderr) == (2, True)


class Terminal:
    """`mmmeta init` on a terminal, answered as a person does."""

    def __init__(self, *arguments: str, cwd: Path, **values: str) -> None:
        self.end, inner = pty.openpty()
        self.running = subprocess.Popen(
            [*MMMETA, *arguments],
            cwd=cwd,
            env=environment(**values),
            stdin=inner,
            stdout=subprocess.PIPE,
            stderr=inner,
            text=True,
        )
        os.close(inner)
        self.shown = ""

    def answer(self, question: str, text: str) -> None:
        asked = re.escape(question) + r"[^\n]*: ?$"
        while not re.search(asked, self.shown):
            self.shown += os.read(self.end, 1024).decode()
        self.shown = ""
        os.write(self.end, f"{text}\n".encode())

    def ended(self) -> Result:
        stdout, _ = self.running.communicate(timeout=30)
        os.close(self.end)
        return subprocess.CompletedProcess([], self.running.returncode, stdout)


def test_on_a_terminal_it_asks(scrape: Scrape, tmp_path: Path) -> None:
    scrape("a", id=1, file="a.pdf")
    terminal = Terminal("init", cwd=tmp_path)
    terminal.answer("Folder that is to hold _mmmeta", "here")
    terminal.answer("The archive", "gopher://host")
    terminal.answer("The archive", "")
    terminal.answer("Folder of the metadata files", "nowhere")
    terminal.answer("Folder of the metadata files", "documents")
    terminal.answer("Key column", "__id")
    terminal.answer("Key column", "id")
    terminal.answer("File name column", "")
    terminal.answer("URL of a document", "https://host/{")
    terminal.answer("URL of a document", "https://host/{file}")
    terminal.answer("Write here/_mmmeta/config.yml?", "y")
    said = terminal.ended()
    assert said.returncode == 0
    assert [line.strip() for line in said.stdout.splitlines()[:2]] == [
        "wrote here/_mmmeta/config.yml: key id, file name file",
        "next: mmmeta --metadir here --files-root documents generate",
    ]
    config = Config.load(tmp_path / "here" / "_mmmeta" / "config.yml")
    assert config == Config("id", "file", remote={"url": "https://host/{file}"})
    again = Terminal("init", cwd=tmp_path)
    again.answer("Folder that is to hold _mmmeta", "here")
    assert again.ended().returncode == 1


def test_on_a_terminal_no_means_no_and_the_end_of_input_ends_it(scrape: Scrape, tmp_path: Path) -> None:
    scrape("a")
    place = {"MMMETA": "m", "MMMETA_FILES_ROOT": "documents", "MMMETA_REMOTE": str(tmp_path)}
    refused = Terminal("init", "--key", "id", "--file-name", "f", "--url", "x", cwd=tmp_path, **place)
    refused.answer("Write m/_mmmeta/config.yml?", "n")
    assert (refused.ended().returncode, (tmp_path / "m").exists()) == (1, False)
    stopped = Terminal("init", cwd=tmp_path, **place)
    stopped.answer("Key column", "")
    stopped.answer("File name column", "")
    os.write(stopped.end, b"\x04")  # Ctrl-D
    assert (stopped.ended().returncode, (tmp_path / "m").exists()) == (130, False)


def test_a_signal_at_a_prompt_is_what_it_is_elsewhere() -> None:
    def prompt() -> None:
        try:
            raise Terminated
        except KeyboardInterrupt:
            raise click.Abort from None  # as click's prompts do

    with pytest.raises(Terminated), _prompting():
        prompt()
