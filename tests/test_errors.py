"""The error tree: one base, and beneath it errors that are also the builtin they resemble."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest

import mmmeta_core
from mmmeta_core import errors
from mmmeta_core.errors import (
    CatalogError,
    ColumnError,
    ConfigError,
    ConflictError,
    DocumentError,
    FileError,
    HistoryError,
    LogError,
    MmmetaError,
    ReadOnlyColumnError,
    RefusedError,
    RemoteDeniedError,
    RemoteError,
    RemoteNotFoundError,
    RemoteUnreachableError,
    SignatureError,
    StoreError,
    StoreKeyError,
    UnavailableError,
)

TREE: dict[type[MmmetaError], tuple[type[Exception], type[Exception]]] = {
    ConfigError: (MmmetaError, ValueError),
    StoreError: (MmmetaError, ValueError),
    StoreKeyError: (StoreError, KeyError),
    DocumentError: (MmmetaError, ValueError),
    ColumnError: (MmmetaError, ValueError),
    ReadOnlyColumnError: (ColumnError, PermissionError),
    CatalogError: (MmmetaError, RuntimeError),
    HistoryError: (CatalogError, RuntimeError),
    LogError: (MmmetaError, RuntimeError),
    SignatureError: (LogError, RuntimeError),
    RefusedError: (MmmetaError, RuntimeError),
    FileError: (MmmetaError, OSError),
    ConflictError: (MmmetaError, RuntimeError),
    UnavailableError: (MmmetaError, ConnectionError),
    RemoteError: (MmmetaError, OSError),
    RemoteNotFoundError: (RemoteError, FileNotFoundError),
    RemoteDeniedError: (RemoteError, PermissionError),
    RemoteUnreachableError: (RemoteError, ConnectionError),
}


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
def test_an_error_is_ours_and_the_builtin_that_it_resembles(kind: type[MmmetaError]) -> None:
    assert kind.__bases__ == TREE[kind]
    sentence = "a sentence: 'with' quotes"
    for builtin in (MmmetaError, TREE[kind][1]):
        with pytest.raises(builtin) as caught:
            raise kind(sentence)
        assert str(caught.value) == sentence
    assert str(kind()) == kind.__name__


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
def test_an_error_survives_the_way_to_another_process(kind: type[MmmetaError]) -> None:
    again = pickle.loads(pickle.dumps(kind("a sentence")))  # noqa: S301 - it is ours
    assert (type(again), str(again)) == (kind, "a sentence")


def test_the_tree_has_no_other_errors_and_all_of_them_are_public() -> None:
    defined = {each for each in vars(errors).values() if isinstance(each, type)}
    assert defined == {MmmetaError, *TREE}
    assert {each.__name__ for each in defined} <= set(mmmeta_core.__all__)


def test_the_drawing_at_the_head_of_the_module_is_the_tree() -> None:
    drawn: dict[str, tuple[str, str]] = {}
    above = ["MmmetaError"]
    for line in (errors.__doc__ or "").splitlines():
        if match := re.match(r" {4}([│ ]*)[├└]── (\w+)\s*\((\w+)\)", line):
            depth = len(match[1]) // 4 + 1
            drawn[match[2]] = (above[depth - 1], match[3])
            above[depth:] = [match[2]]
    assert drawn == {kind.__name__: (ours.__name__, theirs.__name__) for kind, (ours, theirs) in TREE.items()}


def test_what_the_core_raises_and_a_caller_may_catch_as_a_builtin(tmp_path: Path) -> None:
    m = mmmeta_core.mmmeta(tmp_path, remote=tmp_path / "nowhere")
    with pytest.raises(KeyError, match="has no key 'nothing'"):
        m.store["nothing"]
    with pytest.raises(ValueError, match="path separator"):
        m.store["a/b"] = 1
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        m.pull()
    with pytest.raises(OSError, match="nowhere"):
        m.pull()
