"""Where a publisher may lead a client: to the public internet, and else only where the client's own setting says."""

from __future__ import annotations

import gzip
import hashlib
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from website import Answer, Site, website

from mmmeta_core import mmmeta
from mmmeta_core.config import Config, expand
from mmmeta_core.errors import ConfigError, MmmetaError, RefusedError, RemoteError
from mmmeta_core.remotes import HttpRemote
from mmmeta_core.remotes.web import Web
from mmmeta_core.remotes.web_client import Allowed

BODY = b"the document itself"
KEY = hashlib.sha1(BODY).hexdigest()  # noqa: S324 - what the archive is keyed by
MIB = 1024 * 1024

Read = Callable[..., bytes]


@pytest.fixture(autouse=True)
def nothing_allowed(clean_environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MMMETA_ALLOW_HOSTS")


@pytest.fixture
def site() -> Iterator[Site]:
    with website() as made:
        yield made


@pytest.fixture
def read(tmp_path: Path) -> Iterator[Read]:
    """Read a document that has this `public_url`."""
    opened = []

    def fetch(url: str, remote: str | None = None) -> bytes:
        opened.append(mmmeta(tmp_path / f"client{len(opened)}", remote=remote))
        opened[-1].files.insert(content_hash=KEY, file_name="doc.pdf", public_url=url)
        file = opened[-1].files.get(KEY)
        assert file is not None
        with file.open(source="public_url") as document:
            return document.read()

    yield fetch
    for metadir in opened:
        metadir.close()


HOSTS = [
    "127.0.0.1", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "localhost", "localhost.", "LOCALHOST",
    "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]", "[64:ff9b::127.0.0.1]",
    "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "198.18.0.1", "192.0.2.1", "240.0.0.1",
    "[fd00:ec2::254]", "[fc00::1]", "[fec0::1]", "[2002:7f00:1::]", "[2002:a00:1::]", "[64:ff9b:1::a00:1]",
    "169.254.169.254", "[::ffff:169.254.169.254]", "[fe80::1]", "[64:ff9b::a9fe:a9fe]", "[2002:a9fe:a9fe::]",
    "0.0.0.0", "0", "[::]",  # noqa: S104 - nothing is bound
    "255.255.255.255", "224.0.0.1", "[ff02::1]",
]  # fmt: skip


@pytest.mark.parametrize("host", HOSTS)
def test_no_address_but_public_ones_is_asked(site: Site, read: Read, host: str) -> None:
    port = site.url.rpartition(":")[2]
    with pytest.raises(MmmetaError, match=r"is the address .* which"):
        read(f"http://{host}:{port}/doc")
    assert site.connections == 0


def test_a_refusal_names_the_setting_that_allows_it(
    site: Site, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = site.put("/doc", BODY)
    with pytest.raises(RefusedError, match=r"to let the publisher .* set MMMETA_ALLOW_HOSTS to 127.0.0.1"):
        read(url)
    for allowed in ("127.0.0.1", "10.0.0.0/8, 127.0.0.0/8", "other,127.0.0.1"):
        monkeypatch.setenv("MMMETA_ALLOW_HOSTS", allowed)
        assert read(url) == BODY
    monkeypatch.setenv("MMMETA_ALLOW_HOSTS", "10.0.0.0/8,localhost")
    with pytest.raises(RefusedError):
        read(url)
    assert read(url.replace("127.0.0.1", "LocalHost.")) == BODY


@pytest.mark.parametrize("text", ["http://host", "a b", "*", "host:80", "10.0.0.1/8", "user@host"])
def test_a_setting_that_names_no_host(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMMETA_ALLOW_HOSTS", text)
    with pytest.raises(ConfigError, match="MMMETA_ALLOW_HOSTS"):
        Allowed.here()


def test_a_publisher_can_not_allow_itself_anything(site: Site, tmp_path: Path) -> None:
    url = site.put("/doc", BODY)
    with mmmeta(tmp_path) as m:
        m.paths.root.mkdir()
        m.paths.config.write_text(f"remote: {{url: '{url}'}}")
        m.files.insert(content_hash=KEY)
        file = m.files.get(KEY)
        assert file is not None
        with pytest.raises(RefusedError):
            file.open()
    assert site.connections == 0


def test_redirects_lead_nowhere_else(site: Site, read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    with website("127.0.0.2") as other:
        other.put("/doc", BODY)
        monkeypatch.setenv("MMMETA_ALLOW_HOSTS", "127.0.0.1")
        for target in (
            f"{other.url}/doc",
            f"//{other.url.partition('//')[2]}/doc",
            "http://[::1]/",
            "http://169.254.169.254/",
        ):
            site.put("/doc", Answer(status=302, headers={"Location": target}))
            with pytest.raises(MmmetaError, match=r"is the address|did not answer"):
                read(f"{site.url}/doc")
        for target in ("file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://127.0.0.1", "https://127.0.0.1/"):
            site.put("/doc", Answer(status=302, headers={"Location": target}))
            with pytest.raises(RefusedError, match="another scheme"):
                read(f"{site.url}/doc")
        assert other.connections == 0


def test_a_remote_that_the_client_named_is_its_own_and_its_redirects_are_not(
    site: Site, tmp_path: Path, read: Read
) -> None:
    document = site.put("/doc", BODY)
    remote = HttpRemote(site.url)
    assert remote.fetch("doc", tmp_path / "doc") == len(BODY)
    assert read(document, remote=site.url) == BODY
    with website("127.0.0.2") as other:
        url = other.put("/doc", BODY)
        site.put("/away", Answer(status=302, headers={"Location": url}))
        with pytest.raises(RemoteError, match=r"127.0.0.2 is the address"):
            remote.fetch("away", tmp_path / "doc")
        with pytest.raises(RefusedError):
            read(url, remote=site.url)
        assert other.connections == 0
    with website() as same_host:
        with pytest.raises(RefusedError):
            read(same_host.put("/doc", BODY), remote=site.url)
        assert same_host.connections == 0


def test_a_name_that_changes_its_address_between_two_questions(
    site: Site, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, answers = site.put("/doc", BODY), ["93.184.216.34", "127.0.0.1"]
    real = socket.getaddrinfo
    asked = []

    def rebinding(host: Any, port: Any, *rest: Any, **more: Any) -> Any:
        if host == "rebinding.example":
            asked.append(host)
            host = answers[min(len(asked), 2) - 1]
        return real(host, port, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    monkeypatch.setattr("socket.create_connection", lambda address, *rest: refuse(address))
    with pytest.raises(MmmetaError):
        read(url.replace("127.0.0.1", "rebinding.example"))
    assert site.connections == 0
    assert len(asked) == 2
    assert tried == ["93.184.216.34"]


tried: list[str] = []


def refuse(address: tuple[str, int]) -> socket.socket:
    tried.append(address[0])
    raise ConnectionRefusedError


@pytest.mark.parametrize("port", [1, 22, 25, 79, 110, 1023])
def test_ports_that_are_not_for_the_web(port: int) -> None:
    allowed = Allowed()
    with pytest.raises(RefusedError, match=f"port {port}"):
        allowed.check("93.184.216.34", "example.org", port)
    for fine in (80, 443, 8080):
        allowed.check("93.184.216.34", "example.org", fine)
    Allowed(frozenset({"example.org"})).check("93.184.216.34", "example.org", port)


@pytest.mark.parametrize(
    "address", ["93.184.216.34", "2606:4700::1111", "64:ff9b::5db8:d822", "2002:5db8:d822::"]
)
def test_public_addresses_are_asked(address: str) -> None:
    Allowed().check(address, "example.org", 443)


@pytest.mark.parametrize(
    "url",
    [
        "gopher://x", "ftp://x/y", "javascript:alert(1)", "data:,x", "unix:///var/run/docker.sock", "http:///x", "http://",
        "http://x:0/", "http://x:99999/", "http://[::1", "http://" + "x" * 9000, "file:///etc/passwd",
        "file://host/etc/passwd", "FILE:///etc/passwd", "file:/etc/passwd", "file:etc/passwd", " file:///etc/passwd",
        "http://host\r\nX: y/", "http://ho st/", "\\\\host\\share", "//host/x", "/etc/passwd", "",
    ],
)  # fmt: skip
def test_urls_that_are_not_read(read: Read, url: str) -> None:
    with pytest.raises(MmmetaError):
        read(url)


def test_a_line_end_in_an_url_adds_no_header(site: Site, read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMMETA_ALLOW_HOSTS", "127.0.0.1")
    site.put("/", BODY)
    with pytest.raises(MmmetaError):
        read(f"{site.url}/doc HTTP/1.1\r\nHost: other\r\n\r\nGET /second")
    assert "/second" not in site.seen
    assert len(site.seen) <= 1


@pytest.mark.parametrize(
    "name", ["{a.__class__}", "{a[0]}", "{a!r}", "{a:>9999999999}", "{0}", "{}", "{__class__}"]
)
def test_templates_have_columns_and_nothing_else(name: str) -> None:
    with pytest.raises(ConfigError):
        expand(f"https://host/{name}", {"a": "x"})


@given(st.text(), st.text())
@settings(max_examples=60, deadline=None)
def test_a_value_never_changes_the_host_of_a_template(value: str, other: str) -> None:
    filled = expand("https://archive.example.org/{a}?x={b}", {"a": value.replace("\ud800", ""), "b": other})
    assert filled.startswith("https://archive.example.org/")
    assert filled.isascii()
    assert filled.isprintable()


# --- what a server sends

GET = """
import resource, sys
from pathlib import Path
from mmmeta_core import mmmeta
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    with mmmeta(sys.argv[1], remote=sys.argv[2]) as m:
        m.pull()
        m.update()
        m.download(Path(sys.argv[1]) / "dest")
        print([failure.error for failure in m.failures("downloaded")])
except Exception as error:
    print(type(error).__name__, error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base)
"""


def client(tmp_path: Path, url: str) -> tuple[str, int, int]:
    """Be a client in a process of its own; return what it said, the growth of its memory and what it left on disk."""
    done = subprocess.run(
        [sys.executable, "-c", GET, str(tmp_path / "client"), url],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    *said, grown = done.stdout.splitlines()
    left = sum(path.stat().st_size for path in (tmp_path / "client").rglob("*") if path.is_file())
    return "\n".join(said), int(grown) * 1024, left


@pytest.mark.parametrize("coding", ["gzip", "br"])
def test_an_answer_that_unpacks_to_more_is_never_unpacked(tmp_path: Path, site: Site, coding: str) -> None:
    bomb = gzip.compress(b" " * (100 * MIB), 9)
    site.put("/_mmmeta/head.json", Answer(bomb, headers={"Content-Encoding": coding}))
    said, grown, left = client(tmp_path, site.url)
    assert "which was not asked for" in said
    assert grown < 40 * MIB
    assert left < MIB


def test_a_head_that_never_ends(tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMMETA_MAX_HEAD_BYTES", str(2 * MIB))
    site.put("/_mmmeta/head.json", Answer(b" " * (20 * MIB), chunked=True))
    said, grown, left = client(tmp_path, site.url)
    assert "set MMMETA_MAX_HEAD_BYTES" in said
    assert grown < 50 * MIB
    assert left < MIB


def test_a_document_that_is_larger_than_is_taken(
    tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mmmeta(tmp_path / "publisher", remote=tmp_path) as m:
        m.files.insert(content_hash="k", file_name="doc")
        m.push()
    for path in (tmp_path / "_mmmeta").rglob("*"):
        if path.is_file():
            site.put(f"/{path.relative_to(tmp_path)}", path.read_bytes())
    site.put("/doc", Answer(b"x" * (20 * MIB), chunked=True))
    monkeypatch.setenv("MMMETA_MAX_DOCUMENT_BYTES", str(MIB))
    said, grown, left = client(tmp_path, site.url)
    assert "set MMMETA_MAX_DOCUMENT_BYTES" in said
    assert grown < 60 * MIB
    assert left < MIB


def test_a_web_of_ones_own_asks_nothing_else(site: Site, tmp_path: Path) -> None:
    with pytest.raises(RefusedError):
        Web().fetch(site.put("/doc", BODY), tmp_path / "doc")
    assert Web(own=site.url).fetch(f"{site.url}/doc", tmp_path / "doc") == len(BODY)


def test_settings_of_a_publisher_have_no_word_on_hosts() -> None:
    with pytest.raises(ConfigError, match="is not a setting"):
        Config.parse("allow_hosts: [127.0.0.1]", "config.yml")
