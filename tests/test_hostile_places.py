"""Downloads beside somebody who means harm: names, and links that are put in the way while a document comes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from website import Site, website

from mmmeta_core import Metadir, mmmeta
from mmmeta_core.errors import DocumentError, MmmetaError, StoreError
from mmmeta_core.files import beneath
from mmmeta_core.files.placing import safe_parts
from mmmeta_core.remotes.base import save

BODY = b"the document itself"
KEY = hashlib.sha1(BODY).hexdigest()  # noqa: S324 - what the archive is keyed by


@pytest.fixture
def site() -> Iterator[Site]:
    with website() as made:
        yield made


@pytest.fixture
def m(tmp_path: Path, site: Site) -> Iterator[Metadir]:
    with mmmeta(tmp_path / "client") as made:
        made.files.insert(content_hash=KEY, file_name="a/b/doc.pdf", public_url=site.put("/doc", BODY))
        yield made


def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    return folder


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("swapped", ["a", "a/b"])
@pytest.mark.parametrize("there", [False, True], ids=["new", "a newer version"])
def test_a_folder_that_becomes_a_link_while_a_document_comes(
    tmp_path: Path, m: Metadir, site: Site, swapped: str, there: bool
) -> None:
    dest, elsewhere = tmp_path / "dest", outside(tmp_path)
    (elsewhere / "b").mkdir()
    before = everything(elsewhere)
    if there:
        m.download(dest)
        (dest / "a/b/doc.pdf").write_bytes(b"spoiled")
        file = m.files.get(KEY)
        assert file is not None
        file["downloaded"] = False
        file.save()

    def swap(path: str) -> None:
        if not (dest / swapped).is_symlink():
            (dest / swapped).rename(tmp_path / "moved")
            (dest / swapped).symlink_to(elsewhere)

    site.before = swap
    assert m.download(dest).failed == 1
    assert everything(elsewhere) == before
    assert not list(dest.rglob(".tmp-*"))


def test_links_that_are_swapped_all_the_time_let_nothing_out(tmp_path: Path, m: Metadir) -> None:
    dest, elsewhere = tmp_path / "dest", outside(tmp_path)
    (elsewhere / "b").mkdir()
    (tmp_path / "moved").mkdir()
    (dest / "a").mkdir(parents=True)
    ended = threading.Event()

    def swap() -> None:
        for number in count():
            if ended.is_set():
                return
            for step in (
                lambda number=number: (dest / "a").rename(tmp_path / "moved" / str(number)),
                lambda: (dest / "a").symlink_to(elsewhere),
                (dest / "a").unlink,
            ):
                with contextlib.suppress(OSError):
                    step()

    thread = threading.Thread(target=swap)
    thread.start()
    file = m.files.get(KEY)
    assert file is not None
    try:
        for _ in range(60):
            with contextlib.suppress(MmmetaError, OSError):
                file.download(dest)
    finally:
        ended.set()
        thread.join()
    assert everything(elsewhere) == ["b"]


def test_a_link_in_a_documents_place_is_not_written_through(tmp_path: Path, m: Metadir) -> None:
    dest, victim = tmp_path / "dest", tmp_path / "victim"
    victim.write_bytes(b"precious")
    (dest / "a/b").mkdir(parents=True)
    (dest / "a/b/doc.pdf").symlink_to(victim)
    file = m.files.get(KEY)
    assert file is not None
    with pytest.raises(DocumentError, match="symbolic link"):
        file.download(dest)
    assert victim.read_bytes() == b"precious"


def test_another_name_of_a_file_elsewhere_is_not_written_into(tmp_path: Path, m: Metadir) -> None:
    dest, victim = tmp_path / "dest", tmp_path / "victim"
    victim.write_bytes(b"precious")
    (dest / "a/b").mkdir(parents=True)
    (dest / "a/b/doc.pdf").hardlink_to(victim)
    file = m.files.get(KEY)
    assert file is not None
    path = file.download(dest)
    assert path.name != "doc.pdf"
    assert (path.read_bytes(), victim.read_bytes()) == (BODY, b"precious")


def test_a_destination_that_is_a_link_is_where_it_leads(tmp_path: Path, m: Metadir) -> None:
    elsewhere = outside(tmp_path)
    (tmp_path / "dest").symlink_to(elsewhere)
    file = m.files.get(KEY)
    assert file is not None
    assert file.download(tmp_path / "dest").read_bytes() == BODY
    assert everything(elsewhere) == ["a", "a/b", "a/b/doc.pdf"]


def test_a_draft_is_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"precious")
    (tmp_path / "draft").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic links"):
        save([b"x"], tmp_path / "draft")
    assert (tmp_path / "victim").read_bytes() == b"precious"


@pytest.mark.parametrize("verb", ["link", "replace"])
def test_a_folder_on_another_file_system(tmp_path: Path, verb: str) -> None:
    memory = Path("/dev/shm")  # noqa: S108 - the other file system
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is but one file system to write to")
    folder = memory / f"mmmeta-{os.getpid()}-{verb}"
    folder.mkdir()
    try:
        (tmp_path / "draft").write_bytes(BODY)
        with beneath.opened(folder, ["a", "b"]) as descriptor:
            if verb == "link":
                assert beneath.link(tmp_path / "draft", descriptor, "doc")
                assert not beneath.link(tmp_path / "draft", descriptor, "doc")
            else:
                beneath.replace(tmp_path / "draft", descriptor, "doc")
        assert (folder / "a/b/doc").read_bytes() == BODY
        assert everything(folder) == ["a", "a/b", "a/b/doc"]
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("../../etc/passwd", ["etc", "passwd"]),
        ("/etc/passwd", ["etc", "passwd"]),
        ("C:\\Windows\\x.dll", ["C_", "Windows", "x.dll"]),
        ("a\0b", ["a_b"]),
        ("nul.txt/COM¹ .pdf/aux", ["_nul.txt", "_COM¹ .pdf", "_aux"]),
        ("a. . /b ", ["a", "b"]),
        ("invoice\u202efdp.exe", ["invoice_fdp.exe"]),
        ("a\u200bb\u2066c\ufeff", ["a_b_c_"]),
        ("_MMMETA/meta.db", ["__MMMETA", "meta.db"]),
        ("e\u0301.pdf", ["\u00e9.pdf"]),
        ("a\ud800b", ["a_b"]),
        ("/".join("abc" * 1000), [*("abc" * 5), "c"]),
        ("...", ["_"]),
        ("", ["unnamed"]),
    ],
)
def test_names_that_are_made_safe(name: str, parts: list[str]) -> None:
    assert safe_parts(name) == parts


def test_twins_get_a_place_each(tmp_path: Path, site: Site) -> None:
    twins = ["A.pdf", "a.pdf", "\u00e9.pdf", "e\u0301.pdf", "\u00c9.pdf", "a.pdf.", "stra\u00dfe", "STRASSE"]
    with mmmeta(tmp_path / "client") as m:
        for number, name in enumerate(twins):
            body = f"{number}".encode()
            key = hashlib.sha1(body).hexdigest()  # noqa: S324
            m.files.insert(content_hash=key, file_name=name, public_url=site.put(f"/{number}", body))
        assert m.download(tmp_path / "dest").downloaded == len(twins)
        found = [path.name for path in (tmp_path / "dest").iterdir()]
        assert len({name.casefold() for name in found}) == len(twins)


def test_a_store_that_is_a_link_is_not_written_through(tmp_path: Path) -> None:
    elsewhere = outside(tmp_path)
    with mmmeta(tmp_path / "client") as m:
        m.paths.root.mkdir(parents=True)
        m.paths.store.symlink_to(elsewhere)
        with pytest.raises(StoreError, match="symbolic link"):
            m.store["authorized_keys"] = "ssh-rsa …"
    assert everything(elsewhere) == []
