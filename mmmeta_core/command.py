"""Command: hand each document to a program, `import.sh {path}`, as a handler for `process`.

No shell is involved: the command is split once, and what documents say only ever fills a single argument.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final

from mmmeta_core.errors import ConfigError, DocumentError, UnavailableError
from mmmeta_core.files import File
from mmmeta_core.files.placing import safe_parts
from mmmeta_core.types import Misfit, coerce

NOT_NOW: Final = 75
"""The exit status, EX_TEMPFAIL of sysexits.h, by which a program says that what it needs for any document is away."""

_TAIL: Final = 1_500
"""Bytes of what a program last wrote to stderr that are kept with a failure."""
_PLACEHOLDER: Final = re.compile(r"\{\{|\}\}|\{([^{}]+)\}|[{}]")
_END_SECONDS: Final = 10.0
_STRAY_SECONDS: Final = 1.0
_SLICE_SECONDS: Final = 0.5
_OWN: Final = frozenset({"path", "key", "name"})


class CommandError(Exception):
    """The program failed for a document; the text is its exit status and what it last said."""


def run_command(command: str, *, timeout: float | None = None) -> CommandHandler:
    """Return a handler for `files.process` that calls a program, `import.sh {path} {key}`; see `CommandHandler`."""
    return CommandHandler(command, timeout=timeout)


class CommandHandler:
    """Calls a program for a document, and fails when that ends with another status than 0.

    In the command's words `{path}` is a temporary file with the document's content, fetched and verified, under the
    last part of its file name; `{key}` and `{name}` are its key and file name, `{column}` is what a column says, empty
    for NULL; `{{` and `}}` are braces. The program has no stdin, its stdout is this process's stderr, and so is its stderr.
    Status 75 says that nothing can be done now (`UnavailableError`), so that no document is to blame. On an interrupt, and
    after `timeout` seconds, it is ended with all processes that it started. Raises
    `ConfigError` for a command that can't be.
    """

    def __init__(self, command: str, *, timeout: float | None = None) -> None:
        try:
            self.words: list[str] = shlex.split(command)
        except ValueError as error:
            raise ConfigError(f"the command {command!r:.200} can't be split: {error}") from None
        if not self.words:
            raise ConfigError("the command is empty: give a program and its arguments")
        self.columns: frozenset[str] = frozenset(name for word in self.words for name in _columns(word))
        if _columns(self.words[0]):
            raise ConfigError(
                f"the program can't come from a document: {self.words[0]!r:.200} has a placeholder"
            )
        if shutil.which(self.words[0]) is None:
            raise ConfigError(f"there is no program {self.words[0]!r:.200}: give its path, or put it on PATH")
        self.timeout = timeout

    def __call__(self, file: File, /) -> None:
        """Run the program for one document."""
        with tempfile.TemporaryDirectory(prefix="mmmeta-") as folder:
            path = Path(folder) / safe_parts(file.name)[-1]
            words = list(_filled(self.words, _values(file, path, self.columns)))
            if "path" in self.columns:
                file.fetch(path)
            self._run(words)

    def _run(self, words: list[str]) -> None:
        try:
            program = subprocess.Popen(  # noqa: S603 - the user's own, and no shell
                words, stdin=subprocess.DEVNULL, stdout=2, stderr=subprocess.PIPE, start_new_session=True
            )
        except ValueError:
            raise DocumentError("a value has a NUL, which no argument can have") from None
        except OSError as error:
            raise _unstarted(words[0], error) from None
        with _ended(program):
            status, said = _outcome(program, self.timeout)
        if status == NOT_NOW:
            raise UnavailableError(f"{words[0]} says that it can't work now (status {NOT_NOW}){said}")
        if status:
            how = f"exit status {status}" if status > 0 else f"ended by signal {-status}"
            raise CommandError(f"{how}{said}")

    def __repr__(self) -> str:
        return f"<CommandHandler {shlex.join(self.words)}>"


def _columns(word: str) -> list[str]:
    found = []
    for match in _PLACEHOLDER.finditer(word):
        if match[1]:
            found.append(match[1])
        elif len(match[0]) == 1:
            raise ConfigError(
                f"{word!r:.200} has a brace that names nothing: write {{path}}, {{key}}, {{name}}, a column, or two braces"
            )
    return found


def _values(file: File, path: Path, names: frozenset[str]) -> dict[str, Any]:
    own: dict[str, Any] = {"path": str(path), "key": file.key, "name": file.name}
    return {name: own[name] if name in _OWN else file[name] for name in names}


def _filled(words: list[str], values: Mapping[str, Any]) -> Iterator[str]:
    """Yield the words with a document's values. Raises `DocumentError` for one that would be taken for an option."""
    options = True
    for word in words:
        filled = _PLACEHOLDER.sub(lambda match: _text(values, match), word)
        if options and filled.startswith("-") and not word.startswith("-") and not _is_number(filled):
            raise DocumentError(
                f"{word!r} is {filled!r:.80} here, which a program takes for an option: put -- before it in the command"
            )
        options = options and word != "--"
        yield filled


def _text(values: Mapping[str, Any], match: re.Match[str]) -> str:
    name: str | None = match[1]
    if name is None:
        return match[0][0]
    value = values[name]
    if value is None:
        return ""
    if isinstance(value, list | dict):
        import orjson

        return orjson.dumps(value).decode()
    try:
        return str(coerce(value, "text"))
    except Misfit as misfit:
        raise DocumentError(str(misfit)) from None


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-\d+(\.\d+)?", text) is not None


def _unstarted(program: str, error: OSError) -> Exception:
    reason = error.strerror or type(error).__name__
    if isinstance(error, FileNotFoundError | PermissionError):
        return ConfigError(f"{program} can't be run ({reason}): correct the command or its permissions")
    return DocumentError(f"{program} can't be run for it ({reason})")  # its values are too long for arguments


@contextmanager
def _ended(program: subprocess.Popen[bytes]) -> Iterator[None]:
    """See to it that program and all that it started are gone after an error in the block, an interrupt above all."""
    try:
        yield
    except BaseException:
        _signal(program, signal.SIGTERM)
        try:
            program.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        finally:
            _signal(program, signal.SIGKILL)
            program.wait()
        raise
    finally:
        if program.stderr is not None:
            program.stderr.close()


def _signal(program: subprocess.Popen[bytes], number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(program.pid, number)


def _outcome(program: subprocess.Popen[bytes], timeout: float | None) -> tuple[int, str]:
    """Wait for the program; return its status, and the end of what it wrote to stderr, which goes on to this one's."""
    tail = bytearray()
    reader = threading.Thread(target=_pass_on, args=(program.stderr, tail), daemon=True, name="mmmeta-stderr")
    reader.start()
    until = None if timeout is None else time.monotonic() + timeout
    while (status := program.poll()) is None:
        left = _SLICE_SECONDS if until is None else until - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"it took longer than {timeout:g} s and was ended")
        _wait(program, reader, min(left, _SLICE_SECONDS))
    reader.join(_STRAY_SECONDS)  # what it left running may hold its stderr for ever
    said = bytes(tail[-_TAIL:]).decode(errors="replace").strip()
    return status, f": {said}" if said else ""


def _wait(program: subprocess.Popen[bytes], reader: threading.Thread, seconds: float) -> None:
    """Wait for the program's end, which is the end of its stderr as a rule, and no longer than that.

    Not for ever in one call: a signal that comes just before it would be heard when the program has ended by itself.
    """
    if reader.is_alive():
        reader.join(seconds)
    else:
        with suppress(subprocess.TimeoutExpired):
            program.wait(seconds)


def _pass_on(stream: IO[bytes] | None, tail: bytearray) -> None:
    if stream is None:
        return
    with suppress(OSError, ValueError):  # it was closed, since nobody waits for it any more
        while chunk := os.read(stream.fileno(), 65536):
            tail += chunk
            del tail[:-_TAIL]
            with suppress(OSError):
                os.write(2, chunk)
