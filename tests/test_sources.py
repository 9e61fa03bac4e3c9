"""Where documents come from: the order of the places, web servers that misbehave, and URLs of a hostile publisher."""

from __future__ import annotations

import hashlib
import logging
import os
import socket
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from website import DROP, Answer, Site, website

from mmmeta_core import mmmeta
from mmmeta_core.errors import (
    DocumentError,
    MmmetaError,
    RefusedError,
    RemoteDeniedError,
    RemoteError,
    RemoteNotFoundError,
    RemoteUnreachableError,
)
from mmmeta_core.files import File
from mmmeta_core.remotes.web import Web

BODY = b"the document itself"
DIGEST = hashlib.sha1(BODY).hexdigest()  # noqa: S324 - what the archive is keyed by

Make: TypeAlias = Callable[..., File]


@pytest.fixture
def site() -> Iterator[Site]:
    with website() as made:
        yield made


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Give the one document of a metadir with these settings; its archive is the folder `archive`."""
    (tmp_path / "archive").mkdir()
    opened = []

    def document(config: str = "", remote: str | None = "archive", **values: Any) -> File:
        root = tmp_path / f"client{len(opened)}"
        (root / "_mmmeta").mkdir(parents=True)
        (root / "_mmmeta" / "config.yml").write_text(config)
        where = None if remote is None else remote if ":" in remote else str(tmp_path / remote)
        opened.append(mmmeta(root, remote=where))
        row = {"content_hash": DIGEST, "file_name": "a/doc.pdf", **values}
        opened[-1].files.insert(row)
        found = opened[-1].files.get(row["content_hash"])
        assert found is not None
        return found

    yield document
    for metadir in opened:
        metadir.close()


def read(file: File, source: str | None = None) -> bytes:
    with file.open(source=source) as opened:
        return opened.read()


def in_archive(tmp_path: Path, data: bytes = BODY, name: str = "a/doc.pdf") -> Path:
    path = tmp_path / "archive" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


# --- the order of the places


@pytest.mark.parametrize(
    ("there", "asked"),
    [
        ({"first", "second", "public", "archive"}, ["first"]),
        ({"second", "public", "archive"}, ["first", "second"]),
        ({"public", "archive"}, ["first", "second", "public"]),
        ({"archive"}, ["first", "second", "public"]),
    ],
)
def test_templates_come_first_then_the_public_url_then_the_archive(
    tmp_path: Path, site: Site, make: Make, there: set[str], asked: list[str]
) -> None:
    for name in there & {"first", "second", "public"}:
        site.put(f"/{name}/a/doc.pdf", BODY)
    if "archive" in there:
        in_archive(tmp_path)
    config = f"remote: {{one: '{site.url}/first/{{file_name}}', two: '{site.url}/second/{{file_name}}'}}"
    file = make(config, public_url=f"{site.url}/public/a/doc.pdf")
    assert read(file) == BODY
    assert [path.split("/")[1] for path in site.seen] == asked


def test_one_place_can_be_asked_for_and_then_it_is_the_only_one(
    tmp_path: Path, site: Site, make: Make
) -> None:
    in_archive(tmp_path)
    public = site.put("/public", Answer(status=404))
    site.put("/template", BODY)
    file = make(f"remote: {{site: '{site.url}/template'}}", public_url=public)
    assert read(file, "archive") == read(file, "site") == BODY
    assert site.seen == ["/template"]
    with pytest.raises(RemoteNotFoundError, match="/public does not exist"):
        read(file, "public_url")
    with pytest.raises(DocumentError, match="no source 'mirror' to have"):
        read(file, "mirror")


def test_a_template_that_this_document_lacks_a_column_for_is_passed_over(tmp_path: Path, make: Make) -> None:
    in_archive(tmp_path)
    file = make("remote: {site: 'http://127.0.0.1:1/{path}'}")
    assert read(file) == BODY
    with pytest.raises(DocumentError, match="needs 'path'"):
        read(file, "site")


def test_a_place_with_the_wrong_content_is_passed_over_and_named_if_there_is_no_other(
    tmp_path: Path, site: Site, make: Make
) -> None:
    file = make(public_url=site.put("/x", b"<html>Please log in</html>"))
    with pytest.raises(DocumentError, match=rf"{site.url}/x is not the document of {DIGEST}"):
        read(file)
    in_archive(tmp_path)
    assert read(file) == BODY


@pytest.mark.parametrize("public_url", [None, "", 17, ["http://127.0.0.1/"]])
def test_without_any_place_it_says_so(make: Make, public_url: Any) -> None:
    with pytest.raises(DocumentError, match="neither a remote, nor a template, nor a public_url"):
        read(make(remote=None, public_url=public_url))


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ftp://host/x", "documents can't be had from ftp://host/x: give"),
        ("javascript:alert(1)", "javascript:… without a host"),
        ("data:text/plain,hello", "data:… without a host"),
        ("docs/a.pdf", "an URL without a scheme"),
        ("/etc/passwd", "an URL without a scheme"),
        ("http:///x", "without a host"),
        ("http://[::1/x", "malformed"),
        ("http://127.0.0.1:port/x", "malformed"),
        ("http://127.0.0.1:99999/x", "malformed"),
        ("http://127.0.0.1:0/x", "no http"),
        ("file://server/share/x", "a file of another machine"),
        ("file://[/x", "malformed"),
        ("file:a/doc.pdf", "names no file"),
        ("file:///a%00b", "names no file"),
    ],
)
def test_urls_that_are_not_read(make: Make, url: str, reason: str) -> None:
    with pytest.raises(RefusedError) as caught:
        read(make(remote=None, public_url=url))
    assert reason in str(caught.value)


@pytest.mark.parametrize("url", ["http://" + "a" * 70 + ".example/x", "http://no-such-host.invalid/x"])
def test_a_host_that_is_not_known(make: Make, url: str) -> None:
    with pytest.raises(RemoteUnreachableError, match="did not answer: NewConnectionError"):
        read(make(remote=None, public_url=url))


# --- what web servers do


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (404, RemoteNotFoundError),
        (410, RemoteNotFoundError),
        (401, RemoteDeniedError),
        (403, RemoteDeniedError),
        (204, RemoteError),
        (206, RemoteError),
        (302, RemoteError),
        (400, RemoteError),
        (500, RemoteError),
    ],
)
def test_a_status_that_is_no_document(site: Site, make: Make, status: int, error: type[Exception]) -> None:
    answer = Answer(b"" if status == 204 else BODY, status)
    file = make(remote=None, public_url=site.put("/x", answer))
    with pytest.raises(error, match=rf"/x .*\(status {status}\)") as caught:
        read(file)
    assert type(caught.value) is error
    assert len(site.seen) == (3 if status == 500 else 1)


@pytest.mark.parametrize(
    "trouble",
    [
        [Answer(status=500), Answer(status=503)],
        [DROP, DROP],
        [Answer(status=429, headers={"Retry-After": "86400"})],
    ],
)
def test_a_passing_trouble_is_passed(site: Site, make: Make, trouble: list[Answer]) -> None:
    started = time.monotonic()
    assert read(make(remote=None, public_url=site.put("/x", *trouble, Answer(BODY)))) == BODY
    assert len(site.seen) == len(trouble) + 1
    assert time.monotonic() - started < 60, "the server does not say how long to wait"


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_cut_short_is_no_document(
    tmp_path: Path, site: Site, make: Make, chunked: bool
) -> None:
    url = site.put("/x", Answer(b"x" * 300_000, cut=200_000, chunked=chunked))
    with pytest.raises(RemoteUnreachableError, match="/x did not answer: ProtocolError"):
        read(make("metadata: {digest: none}", remote=None, public_url=url))
    with pytest.raises(RemoteUnreachableError):
        Web().fetch(url, tmp_path / "x")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("size", [0, 1, 65_536, 3_000_000])
def test_a_body_comes_as_it_is(tmp_path: Path, site: Site, size: int, chunked: bool) -> None:
    body = os.urandom(size)
    url = site.put("/x", Answer(body, headers={"Content-Encoding": "gzip"}, chunked=chunked))
    if chunked and not size:
        url = site.put("/x", Answer(cut=None))
    assert Web().fetch(url, tmp_path / "x") == size
    assert (tmp_path / "x").read_bytes() == body


def test_a_server_that_trickles_is_given_up(tmp_path: Path, site: Site) -> None:
    url = site.put("/x", Answer(b"x" * 100_000, cut=10, trickles=True))
    with pytest.raises(RemoteUnreachableError, match=r"sends \d+ bytes in"):
        Web(patience=0.5).fetch(url, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_server_that_does_not_answer_is_given_up_and_not_asked_again(tmp_path: Path, site: Site) -> None:
    site.before = lambda path: site.ended.wait(60) and None
    with pytest.raises(RemoteUnreachableError, match="ReadTimeoutError"):
        Web(patience=0.2).fetch(f"{site.url}/x", tmp_path / "x")
    assert site.connections == 1


def test_a_size_that_is_more_than_is_taken(tmp_path: Path, site: Site) -> None:
    url = site.put("/x", b"x" * 1000)
    with pytest.raises(RemoteError, match="more than the 999 bytes"):
        Web().fetch(url, tmp_path / "x", limit=999)
    assert not (tmp_path / "x").exists()
    assert Web().fetch(url, tmp_path / "x", limit=1000) == 1000


def test_one_connection_serves_many_documents(tmp_path: Path, site: Site) -> None:
    web = Web()
    for number in range(5):
        web.fetch(site.put(f"/{number}", b"x" * 100_000), tmp_path / "x")
    assert (len(site.seen), site.connections) == (5, 1)


# --- redirects


def redirect(to: str, status: int = 302) -> Answer:
    return Answer(b"elsewhere", status, {"Location": to})


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed(site: Site, make: Make, status: int) -> None:
    site.put("/b/2", redirect("//" + site.url.partition("//")[2] + "/3", status))
    site.put("/3", BODY)
    assert read(make(remote=None, public_url=site.put("/b/1", redirect("2", status)))) == BODY
    assert site.seen == ["/b/1", "/b/2", "/3"]


def test_redirects_are_bounded(site: Site, make: Make) -> None:
    for number in range(1, 7):
        site.put(f"/{number}", redirect(f"/{number + 1}"))
    site.put("/7", BODY)
    with pytest.raises(RemoteError, match="/1 redirects more than 5 times"):
        read(make(remote=None, public_url=f"{site.url}/1"))
    assert read(make(remote=None, public_url=f"{site.url}/2")) == BODY
    with pytest.raises(RemoteError, match="redirects more than"):
        read(make(remote=None, public_url=site.put("/me", redirect("/me"))))


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("https://127.0.0.1/x?token=secret", "to https://127.0.0.1/x, which has another scheme"),
        ("file:///etc/passwd", "another scheme"),
        ("s3://bucket/key", "another scheme"),
        ("http://[", "malformed"),
        ("http://169.254.169.254/latest/meta-data", "169.254.169.254"),
        ("http://0.0.0.0/", "the address 0"),
        ("http://:80/", "no http"),
    ],
)
def test_redirects_to_where_no_document_is_are_refused(
    site: Site, make: Make, target: str, reason: str
) -> None:
    with pytest.raises(RefusedError) as caught:
        read(make(remote=None, public_url=site.put("/x", redirect(target))))
    assert reason in str(caught.value)
    assert "secret" not in str(caught.value)


# --- addresses


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "169.254.0.1:8080",
        "2852039166",  # 169.254.169.254 as one number
        "0xa9.0xfe.0xa9.0xfe",
        "[::ffff:169.254.169.254]",
        "[fe80::1]",
        "[fe80::1%25lo]",
        "0.0.0.0",  # noqa: S104
        "0",
        "[::]",
        "[::ffff:0.0.0.0]",
        "224.0.0.1",
        "[ff02::1]",
        "user:secret@169.254.169.254",
        "127.0.0.1@169.254.169.254",
        "169.254.169.254#@127.0.0.1",
    ],
)
def test_addresses_that_are_never_asked(make: Make, host: str) -> None:
    with pytest.raises(
        RefusedError, match=r"is the address .* which no archive's documents are at"
    ) as caught:
        read(make(remote=None, public_url=f"http://{host}/latest/meta-data"))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "host", ["{site}\\@169.254.169.254", "{site} @169.254.169.254", "{site}&@169.254.169.254"]
)
def test_an_url_that_can_be_read_in_two_ways_leads_to_neither_a_refused_address_nor_a_document(
    site: Site, make: Make, host: str
) -> None:
    """Whatever is asked, it is an address that was checked."""
    there = host.format(site=site.url.partition("//")[2])
    with pytest.raises((RefusedError, RemoteUnreachableError, RemoteNotFoundError)):
        read(make(remote=None, public_url=f"http://{there}/latest/meta-data"))


def test_the_address_that_was_checked_is_the_one_that_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, site: Site, make: Make
) -> None:
    """A name server that answers differently each time it is asked gains nothing."""
    real, answers = socket.getaddrinfo, ["127.0.0.1", "169.254.169.254"]

    def rebinding(host: Any, *arguments: Any, **options: Any) -> Any:
        return real(answers.pop(0) if host == "rebind.example" else host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    port = site.url.rpartition(":")[2]
    site.put("/x", BODY)
    file = make(remote=None, public_url=f"http://rebind.example:{port}/x")
    assert read(file) == BODY
    assert answers == ["169.254.169.254"]
    with pytest.raises(RefusedError, match=r"rebind\.example is the address 169\.254\.169\.254"):
        Web().fetch(f"http://rebind.example:{port}/x", tmp_path / "x")


def test_a_name_with_a_refused_address_among_others_is_refused(
    monkeypatch: pytest.MonkeyPatch, site: Site, make: Make
) -> None:
    real = socket.getaddrinfo

    def two(host: Any, *arguments: Any, **options: Any) -> Any:
        hosts = ["127.0.0.1", "169.254.169.254"] if host == "two.example" else [host]
        return [found for one in hosts for found in real(one, *arguments, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", two)
    with pytest.raises(RefusedError, match=r"169\.254\.169\.254"):
        read(make(remote=None, public_url=f"http://two.example:{site.url.rpartition(':')[2]}/x"))
    assert site.connections == 0


def test_the_second_address_of_a_host_is_tried_when_the_first_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, site: Site, make: Make
) -> None:
    real = socket.getaddrinfo

    def two(host: Any, *arguments: Any, **options: Any) -> Any:
        hosts = ["127.0.0.77", "127.0.0.1"] if host == "two.example" else [host]
        return [found for one in hosts for found in real(one, *arguments, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", two)
    site.put("/x", BODY)
    assert read(make(remote=None, public_url=f"http://two.example:{site.url.rpartition(':')[2]}/x")) == BODY


def test_an_address_of_ip_version_6(make: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(RemoteUnreachableError, match=rf"^http://\[::1\]:{port}/x did not answer"):
        read(make(remote=None, public_url=f"http://[::1]:{port}/x"))


# --- secrets


@pytest.mark.parametrize(
    "url",
    [
        "http://user:s3cret@{site}/404?token=s3cret#s3cret",
        "http://user:s3cret@{site}/403?token=s3cret",
        "http://user:s3cret@{site}/500?token=s3cret",
        "http://user:s3cret@{site}/cut?token=s3cret",
        "http://user:s3cret@{site}/drop?token=s3cret",
        "http://user:s3cret@{site}/wrong?token=s3cret",
        "http://user:s3cret@{site}/loop?token=s3cret",
        "http://user:s3cret@{site}/https?token=s3cret",
        "http://user:s3cret@127.0.0.1:1/closed?token=s3cret",
        "http://user:s3cret@no-such-host.invalid/?token=s3cret",
        "http://user:s3cret@169.254.169.254/?token=s3cret",
        "http://user:s3cret@host:port/?token=s3cret",
        "http://user:s3/cret@{site}/?token=s3cret",
        "http:user:s3cret@{site}/?token=s3cret",
        "http:/user:s3cret@{site}/?token=s3cret",
        "http://user:s3cret@?token=s3cret",
        "ftp://user:s3cret@host/x?token=s3cret",
        "user:s3cret@host/x",
        "//user:s3cret@host/x",
        "s3://user:s3cret@bucket/x",
        "s3://bucket?secret_access_key=s3cret/x",
        "file://user:s3cret@localhost/x",
        "file:///etc/passwd?token=s3cret",
    ],
)
def test_no_credential_of_an_url_is_ever_said(
    site: Site, make: Make, caplog: pytest.LogCaptureFixture, url: str
) -> None:
    for status in (404, 403, 500):
        site.put(f"/{status}", Answer(status=status))
    site.put("/cut", Answer(BODY, cut=3))
    site.put("/drop", DROP)
    site.put("/wrong", b"wrong")
    site.put("/loop", redirect("/loop?token=s3cret"))
    site.put("/https", redirect("https://user:s3cret@127.0.0.1/x?token=s3cret"))
    file = make(remote=None, public_url=url.format(site=site.url.partition("//")[2]))
    with caplog.at_level(logging.INFO), pytest.raises(MmmetaError) as caught:
        read(file)
    said = "".join(traceback.format_exception(caught.value)) + caplog.text
    assert "s3cret" not in said.replace("read(file)", "")
    assert "cret@" not in said


def test_nothing_unprintable_reaches_the_terminal(make: Make, site: Site) -> None:
    with pytest.raises(RemoteNotFoundError) as caught:
        read(make(remote=None, public_url=f"{site.url}/\x1b[2J\u202egnp.exe"))
    assert str(caught.value).isprintable()


# --- files


@pytest.mark.parametrize("prefix", ["file://", "file://localhost", "FILE://"])
def test_a_file_url_reads_inside_the_archives_own_folder(tmp_path: Path, make: Make, prefix: str) -> None:
    path = in_archive(tmp_path, name="d e/ü.pdf")
    assert read(make(public_url=f"{prefix}{path.as_uri().removeprefix('file://')}")) == BODY


@pytest.fixture
def private(tmp_path: Path) -> Path:
    """A file of this machine that the publisher would like this client to read."""
    path = tmp_path / "private.pdf"
    path.write_bytes(BODY)
    return path


@pytest.mark.parametrize(
    "url",
    [
        "file://{base}/private.pdf",
        "file://{base}/archive/../private.pdf",
        "file://{base}/archive/%2e%2e/private.pdf",
        "file://{base}/archive/link.pdf",
        "file://{base}/archive/linked/private.pdf",
        "file://{base}/archive-2/private.pdf",
        "file:///proc/self/environ",
    ],
)
def test_a_file_url_reads_nothing_else_unless_the_client_allows_it(
    tmp_path: Path, make: Make, private: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    (tmp_path / "archive" / "link.pdf").symlink_to(private)
    (tmp_path / "archive" / "linked").symlink_to(tmp_path)
    (tmp_path / "archive-2").mkdir()
    (tmp_path / "archive-2" / "private.pdf").write_bytes(BODY)
    file = make(public_url=url.format(base=tmp_path))
    for value in ("", "0", "yes"):
        monkeypatch.setenv("MMMETA_ALLOW_FILE_URLS", value)
        with pytest.raises(RefusedError, match="set MMMETA_ALLOW_FILE_URLS=1 to allow it"):
            read(file)
    monkeypatch.setenv("MMMETA_ALLOW_FILE_URLS", "1")
    if "proc" not in url:
        assert read(file) == BODY


@pytest.mark.parametrize("name", ["loop", "folder", "pipe", "missing", ""])
def test_a_file_url_of_what_is_no_file(tmp_path: Path, make: Make, name: str) -> None:
    archive = tmp_path / "archive"
    (archive / "loop").symlink_to("loop")
    (archive / "folder").mkdir()
    os.mkfifo(archive / "pipe")
    with pytest.raises(MmmetaError):
        read(make(public_url=f"{archive.as_uri()}/{name}"))


def test_without_an_archive_in_a_folder_no_file_is_inside(make: Make, private: Path) -> None:
    for remote in (None, "s3://bucket/prefix"):
        with pytest.raises(RefusedError, match="outside the archive"):
            read(make(remote=remote, public_url=private.as_uri()), "public_url")


def test_a_file_name_can_not_leave_the_archive(tmp_path: Path, make: Make, private: Path) -> None:
    (tmp_path / "archive" / "link").symlink_to(tmp_path)
    for name in ("../private.pdf", str(private), "a/../../private.pdf", "link/private.pdf", "a\0b"):
        with pytest.raises(RemoteError):
            read(make(file_name=name))


# --- buckets


def test_a_bucket_in_a_template_is_asked_with_the_clients_own_endpoint(
    make: Make, bucket: str, s3_endpoint: str, s3_client: Any
) -> None:
    other = f"{bucket}-other"
    s3_client.create_bucket(Bucket=other)
    s3_client.put_object(Bucket=other, Key="docs/a/doc.pdf", Body=BODY)
    s3_client.put_object(Bucket=bucket, Key="archive/a/doc.pdf", Body=BODY)
    archive = f"s3://{bucket}/archive?endpoint={s3_endpoint}"
    file = make(f"remote: {{bucket: 's3://{other}/docs/{{file_name}}'}}", archive)
    assert read(file, "bucket") == read(file, "archive") == BODY
    s3_client.delete_object(Bucket=other, Key="docs/a/doc.pdf")
    with pytest.raises(RemoteNotFoundError, match=rf"s3://{other}/docs/a/doc\.pdf"):
        read(file, "bucket")
    assert read(file) == BODY, "the archive has it"


def test_a_folders_client_asks_a_bucket_with_the_aws_environment(
    make: Make, bucket: str, s3_endpoint: str, s3_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    s3_client.put_object(Bucket=bucket, Key="a b+c#d?.pdf", Body=BODY)
    assert read(make(public_url=f"S3://{bucket}/a b+c#d?.pdf")) == BODY


@pytest.mark.parametrize(
    "url",
    [
        "s3://bucket?endpoint={site}/key",
        "s3://bucket?profile=admin/key",
        "s3://bucket?endpoint={site}",
        "s3://bucket@{host}/key",
        "s3://{host}/key",
        "s3:///key",
        "s3://bucket/",
        "s3://bucket",
        "s3:key",
        "s3://bucket/../other/key",
    ],
)
def test_a_publisher_does_not_say_where_this_clients_credentials_go(
    site: Site, make: Make, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    quoted = site.url.replace("/", "%2F")
    host = site.url.partition("//")[2]
    with pytest.raises(MmmetaError):
        read(make(remote=None, public_url=url.format(site=quoted, host=host)))
    assert site.connections == 0


# --- what the key is of the content


@pytest.mark.parametrize(
    ("digest", "key", "is_taken"),
    [
        (None, hashlib.md5(BODY).hexdigest(), True),  # noqa: S324
        (None, DIGEST, True),
        (None, DIGEST.upper(), True),
        (None, hashlib.sha256(BODY).hexdigest(), True),
        (None, "0" * 32, False),
        (None, "0" * 40, False),
        (None, "0" * 64, False),
        (None, "document-17", True),
        (None, hashlib.sha512(BODY).hexdigest(), True),
        (None, "g" * 40, True),
        ("sha1", DIGEST, True),
        ("sha1", "document-17", False),
        ("sha256", DIGEST, False),
        ("md5", hashlib.md5(BODY).hexdigest(), True),  # noqa: S324
        ("none", "0" * 40, True),
    ],
)
def test_content_is_verified_as_the_settings_or_the_keys_length_say(
    tmp_path: Path, make: Make, digest: str | None, key: str, is_taken: bool
) -> None:
    in_archive(tmp_path)
    file = make(f"metadata: {{digest: {digest}}}" if digest else "", content_hash=key)
    if is_taken:
        assert read(file) == BODY
        return
    with pytest.raises(DocumentError, match=r"another hash.*metadata\.digest: none"):
        read(file)


# --- open


def test_an_opened_document_is_whole_and_leaves_nothing_on_disk(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    path = in_archive(tmp_path)
    file = make()
    with file.open() as opened:
        assert list(temporary.iterdir()) == []
        assert opened.read() == BODY
        assert opened.seek(4) == 4
        assert opened.read(8) == b"document"
    path.write_bytes(b"damaged")
    with pytest.raises(DocumentError):
        file.open()
    path.unlink()
    with pytest.raises(RemoteNotFoundError):
        file.open()
    assert list(temporary.iterdir()) == []
