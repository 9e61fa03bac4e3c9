"""What is special about buckets: URLs and settings, refusals, credentials, lost replies."""

from __future__ import annotations

import base64
import hashlib
import logging
import os
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
import pytest

from mmmeta_core.errors import (
    ConfigError,
    MmmetaError,
    RemoteDeniedError,
    RemoteError,
    RemoteNotFoundError,
    RemoteUnreachableError,
)
from mmmeta_core.remotes import ABSENT, S3Options, S3Remote, open_remote, s3, s3_client, s3_parts
from mmmeta_core.remotes.s3_options import parse_s3_url

from .proxy import Cut, Lose, Proxy, Refuse, Request, Shorten, running

SECRET = "pa55word"  # noqa: S105 - to be looked for where it must not be
HERE = Path(__file__).parent
# s3transfer does not close what the other parts were answered when one of them fails.
LEFT_OPEN = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def proxy(s3_endpoint: str) -> Iterator[Proxy]:
    with running(s3_endpoint) as started:
        yield started


@pytest.fixture
def remote(proxy: Proxy, bucket: str) -> S3Remote:
    """The remote by way of the proxy."""
    return S3Remote(f"s3://{bucket}/base", S3Options(endpoint_url=proxy.url))


@pytest.fixture
def direct(s3_endpoint: str, bucket: str) -> S3Remote:
    """The same remote, as another publisher reaches it."""
    return S3Remote(f"s3://{bucket}/base", S3Options(endpoint_url=s3_endpoint))


@pytest.fixture
def one_try(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the seconds that lie between the tries."""
    monkeypatch.setattr(s3_client, "ATTEMPTS", 1)


def content(remote: S3Remote, name: str) -> bytes:
    found = remote.read(name)
    assert found is not None
    return found.data


def every_use(remote: S3Remote, path: Path) -> list[Callable[[], object]]:
    return [
        remote.check,
        lambda: remote.read("a"),
        lambda: remote.fetch("a", path),
        lambda: remote.create("a", b"x"),
        lambda: remote.write("a", b"x"),
        lambda: remote.write("a", b"x", if_match=ABSENT),
        lambda: remote.write("a", b"x", if_match='"e"'),
        lambda: list(remote.names("")),
        lambda: remote.stat("a"),
        lambda: remote.remove("a"),
    ]


class TestUrls:
    @pytest.mark.parametrize(
        ("url", "bucket", "prefix"),
        [
            ("s3://bucket", "bucket", ""),
            ("s3://bucket/", "bucket", ""),
            ("s3://bucket/a", "bucket", "a"),
            ("s3://bucket/a/b/", "bucket", "a/b"),
            ("s3://bucket//a", "bucket", "a"),
            ("s3://my.bucket-1/ä b%20+c#d", "my.bucket-1", "ä b%20+c#d"),
            ("s3://Old_Bucket/a", "Old_Bucket", "a"),
            ("s3://bucket?region=eu-west-1", "bucket", ""),
            ("s3://bucket/a?", "bucket", "a"),
        ],
    )
    def test_bucket_and_prefix(self, url: str, bucket: str, prefix: str) -> None:
        opened = open_remote(url)
        assert isinstance(opened, S3Remote)
        assert (opened.bucket, opened.prefix) == (bucket, prefix)
        assert opened.url == f"s3://{bucket}/{prefix}".rstrip("/")

    def test_what_the_url_says_goes_before_the_options(self) -> None:
        options = S3Options(endpoint_url="https://options.example", region="eu-1")
        url = "s3://b-1/a?endpoint=http%3A%2F%2Furl.example%3A9000&profile=p"
        assert parse_s3_url(url, options)[2] == S3Options(
            endpoint_url="http://url.example:9000", region="eu-1", profile="p"
        )
        assert parse_s3_url("s3://b-1/a", options)[2] == options

    @pytest.mark.parametrize(
        ("value", "expected"), [("true", True), ("1", True), ("TRUE", True), ("false", False), ("0", False)]
    )
    def test_anonymous(self, value: str, expected: bool) -> None:
        assert parse_s3_url(f"s3://bucket?anonymous={value}", S3Options())[2].anonymous is expected

    @pytest.mark.parametrize(
        "url",
        [
            "s3://",
            "s3:///a",
            "s3://?region=x",
            "s3://b",
            "s3://-bucket",
            "s3://a bucket/x",
            "s3://bückét/x",
            f"s3://key:{SECRET}@bucket/a",
            "s3://bucket:9000/a",
            "s3://bucket/a//b",
            "s3://bucket/a/../b",
            "s3://bucket/.",
            "s3://bucket?endpoint=",
            "s3://bucket?endpoint",
            "s3://bucket?region",
            "s3://bucket?endpoint=minio.example",
            "s3://bucket?endpoint=ftp://minio.example",
            "s3://bucket?endpoint=http://",
            "s3://bucket?endpoint=http://host:99999",
            "s3://bucket?endpoint=http://host:0",
            "s3://bucket?endpoint=http://[",
            f"s3://bucket?endpoint=https://key:{SECRET}@minio.example",
            f"s3://bucket?endpoint=https://minio.example?key={SECRET}",
            f"s3://bucket?endpoint=https://minio.example%23{SECRET}",
            "s3://bucket?anonymous=perhaps",
            "s3://bucket?anonymous=true&profile=p",
            f"s3://bucket?secret_access_key={SECRET}",
            f"s3://bucket?{SECRET}=1",
        ],
    )
    def test_a_wrong_url_is_refused_without_repeating_its_secrets(self, url: str) -> None:
        with pytest.raises(ConfigError, match=r"^[A-Za-z].*\.$") as caught:
            open_remote(url)
        assert SECRET not in "".join(traceback.format_exception(caught.value)).replace(url, "")
        assert SECRET not in str(caught.value)

    @pytest.mark.parametrize(
        "options",
        [
            {"access_key_id": "a"},
            {"secret_access_key": SECRET},
            {"session_token": SECRET},
            {"anonymous": True, "access_key_id": "a", "secret_access_key": SECRET},
            {"anonymous": True, "profile": "p"},
            {"endpoint_url": f"https://a:{SECRET}@host"},
            {"endpoint_url": "host"},
        ],
    )
    def test_wrong_options_are_refused(self, options: dict[str, Any]) -> None:
        with pytest.raises(ConfigError) as caught:
            S3Options(**options)
        assert SECRET not in str(caught.value)

    def test_a_prefix_is_used_as_it_is_written(self, s3_client: Any, s3_endpoint: str, bucket: str) -> None:
        S3Remote(f"s3://{bucket}/ä b%20+c/", S3Options(endpoint_url=s3_endpoint)).create("x/y", b"x")
        S3Remote(f"s3://{bucket}", S3Options(endpoint_url=s3_endpoint)).create("x/y", b"x")
        found = s3_client.list_objects_v2(Bucket=bucket)["Contents"]
        assert {entry["Key"] for entry in found} == {"x/y", "ä b%20+c/x/y"}


class TestLazyImport:
    def test_boto3_comes_with_the_first_request(self, s3_endpoint: str, bucket: str) -> None:
        script = f"""
import sys
import mmmeta_core
from mmmeta_core.remotes import open_remote
def loaded():
    return sorted(name for name in ("boto3", "botocore", "s3transfer", "urllib3") if name in sys.modules)
remote = open_remote("s3://{bucket}/a?endpoint={s3_endpoint}")
repr(remote), remote.url
try:
    remote.names("../x").__next__()
except OSError:
    pass
print(loaded())
remote.check()
print(loaded())
"""
        ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert ran.stdout.splitlines() == ["[]", "['boto3', 'botocore', 's3transfer', 'urllib3']"]

    def test_a_folder_never_needs_it(self, tmp_path: Path) -> None:
        script = f"""
import sys
from mmmeta_core.remotes import open_remote
remote = open_remote({str(tmp_path)!r})
remote.create("a", b"x"), remote.read("a"), remote.write("a", b"y"), list(remote.names(""))
print("boto3" in sys.modules, "botocore" in sys.modules)
"""
        ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert ran.stdout == "False False\n"


class TestSettings:
    def test_the_endpoint_of_the_environment(
        self, s3_endpoint: str, bucket: str, direct: S3Remote, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_endpoint)
        open_remote(f"s3://{bucket}/base").create("a", b"x")
        assert content(direct, "a") == b"x"

    def test_the_endpoint_and_keys_of_a_profile(
        self, proxy: Proxy, bucket: str, s3_client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
            monkeypatch.delenv(name)
        (tmp_path / "config").write_text(f"[profile p]\nregion = eu-west-1\nendpoint_url = {proxy.url}\n")
        (tmp_path / "keys").write_text(f"[p]\naws_access_key_id = PKEY\naws_secret_access_key = {SECRET}\n")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "keys"))
        open_remote(f"s3://{bucket}/base?profile=p").create("a", b"x")
        assert s3_client.get_object(Bucket=bucket, Key="base/a")["Body"].read() == b"x"
        assert "Credential=PKEY/" in proxy.seen[0].headers["Authorization"]
        assert "/eu-west-1/s3/" in proxy.seen[0].headers["Authorization"]

    def test_the_keys_and_region_of_the_options(self, proxy: Proxy, bucket: str) -> None:
        options = S3Options(proxy.url, "eu-2", None, False, "MYKEY", SECRET, "my-token")
        S3Remote(f"s3://{bucket}/base", options).check()
        headers = proxy.seen[0].headers
        assert "Credential=MYKEY/" in headers["Authorization"]
        assert "/eu-2/s3/" in headers["Authorization"]
        assert headers["X-Amz-Security-Token"] == "my-token"

    def test_anonymous_requests_are_not_signed(self, proxy: Proxy, bucket: str, s3_client: Any) -> None:
        s3_client.put_object(Bucket=bucket, Key="base/a", Body=b"x", ACL="public-read")
        anonymous = open_remote(f"s3://{bucket}/base?endpoint={proxy.url}&anonymous=true")
        anonymous.check()
        found = anonymous.read("a")
        assert found is not None
        assert found.data == b"x"
        assert list(anonymous.names("")) == ["a"]
        assert [request.headers["Authorization"] for request in proxy.seen] == [None] * 3

    def test_no_region_is_needed(
        self, s3_endpoint: str, bucket: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("AWS_DEFAULT_REGION")
        open_remote(f"s3://{bucket}?endpoint={s3_endpoint}").check()

    def test_the_bucket_is_in_the_path_unless_the_store_is_amazon(self) -> None:
        def example(endpoint: str | None) -> str:
            client = s3_client.make_client(S3Options(endpoint_url=endpoint, region="eu-west-1"))
            url = client.generate_presigned_url("get_object", Params={"Bucket": "some-bucket", "Key": "a"})
            client.close()
            return url.partition("?")[0]

        assert example("https://minio.example:9000") == "https://minio.example:9000/some-bucket/a"
        assert example(None).startswith("https://some-bucket.s3")

    def test_no_checksums_that_other_stores_refuse(self, remote: S3Remote, proxy: Proxy) -> None:
        remote.create("a", b"x")
        remote.write("a", b"y")
        for request in proxy.seen:
            assert [name for name in request.headers if "checksum" in name.lower()] == []
            assert request.headers["Transfer-Encoding"] is None

    def test_an_upload_in_parts(
        self, remote: S3Remote, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(s3, "MULTIPART", 8 * 1024 * 1024)
        data = os.urandom(s3.MULTIPART + 5)
        (tmp_path / "draft").write_bytes(data)
        etag = remote.write("large", tmp_path / "draft")
        assert "POST" in proxy.methods()
        found = remote.stat("large")
        assert found is not None
        assert (found.size, found.etag) == (len(data), etag)
        assert remote.fetch("large", tmp_path / "back") == len(data)
        assert (tmp_path / "back").read_bytes() == data
        assert remote.read("large", etag=etag) is None
        assert remote.write("large", b"small", if_match=etag) is not None

    def test_what_is_too_large_for_one_request_is_written_in_parts_on_a_condition(
        self, remote: S3Remote, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, s3_client: Any
    ) -> None:
        monkeypatch.setattr(s3_parts, "MOST_AT_ONCE", 5 * 1024 * 1024)
        monkeypatch.setattr(s3_parts, "PART", 5 * 1024 * 1024)
        data = os.urandom(s3_parts.PART * 2 + 5)
        draft = tmp_path / "draft"
        draft.write_bytes(data)
        etag = remote.write("large", draft, if_match=ABSENT)
        assert proxy.methods().count("PUT") == 3
        found = remote.stat("large")
        assert found is not None
        assert (found.size, found.etag) == (len(data), etag)
        assert remote.fetch("large", tmp_path / "back") == len(data)
        assert (tmp_path / "back").read_bytes() == data
        # Somebody was faster: nothing is replaced, and no parts are left.
        assert remote.write("large", draft, if_match=ABSENT) is None
        assert "Uploads" not in s3_client.list_multipart_uploads(Bucket=remote.bucket)
        assert found == remote.stat("large")
        completing = [one for one in proxy.seen if one.method == "POST" and "uploadId" in one.path]
        assert [one.headers["If-None-Match"] for one in completing] == ["*", "*"]
        remote.write("large", draft, if_match=etag)
        assert proxy.seen[-1].headers["If-Match"] == etag


class TestLargeDownloads:
    """Fetched in parts, by several connections."""

    DATA = os.urandom(3_000_000)

    @pytest.fixture(autouse=True)
    def small_parts(self, monkeypatch: pytest.MonkeyPatch, direct: S3Remote) -> None:
        monkeypatch.setattr(s3_parts, "LARGE", 2_000_000)
        monkeypatch.setattr(s3_parts, "FETCHED", 1_000_000)
        direct.create("large", self.DATA)

    @staticmethod
    def ranges(proxy: Proxy) -> list[str]:
        return sorted(one.headers["Range"] for one in proxy.seen if one.headers["Range"])

    def test_it_arrives_whole(self, remote: S3Remote, proxy: Proxy, tmp_path: Path) -> None:
        assert remote.fetch("large", tmp_path / "draft", limit=3_000_000) == 3_000_000
        assert (tmp_path / "draft").read_bytes() == self.DATA
        assert len(self.ranges(proxy)) == 3

    def test_one_that_is_not_large_takes_one_request(
        self, remote: S3Remote, proxy: Proxy, tmp_path: Path
    ) -> None:
        remote.create("small", self.DATA[:2_000_000])
        proxy.seen.clear()
        assert remote.fetch("small", tmp_path / "draft") == 2_000_000
        assert proxy.methods() == ["GET"]

    def test_one_beyond_the_limit_is_not_fetched(
        self, remote: S3Remote, proxy: Proxy, tmp_path: Path
    ) -> None:
        with pytest.raises(RemoteError, match="more than the 2,999,999 that are taken"):
            remote.fetch("large", tmp_path / "draft", limit=2_999_999)
        assert self.ranges(proxy) == []
        assert list(tmp_path.iterdir()) == []

    def test_a_part_that_is_cut_short_is_asked_for_again(
        self, remote: S3Remote, proxy: Proxy, tmp_path: Path
    ) -> None:
        cut: list[str] = []

        def once(request: Request) -> Cut | None:
            part = request.headers["Range"]
            if part and not cut:
                cut.append(part)
                return Cut(500_000)
            return None

        proxy.before = once
        assert remote.fetch("large", tmp_path / "draft") == 3_000_000
        assert (tmp_path / "draft").read_bytes() == self.DATA
        assert self.ranges(proxy).count(cut[0]) == 2

    @LEFT_OPEN
    def test_one_that_never_arrives_leaves_no_file(
        self, remote: S3Remote, proxy: Proxy, tmp_path: Path
    ) -> None:
        proxy.before = lambda request: Cut(500) if request.headers["Range"] else None
        (tmp_path / "draft").write_bytes(b"old")
        with pytest.raises(RemoteUnreachableError, match=r"s3://.*/base/large"):
            remote.fetch("large", tmp_path / "draft")
        assert list(tmp_path.iterdir()) == []

    @LEFT_OPEN
    @pytest.mark.parametrize(("size", "at"), [(3_000_000, 2), (3_500_000, 3), (5, 3)])
    def test_one_that_is_replaced_meanwhile_is_not_mixed(
        self, remote: S3Remote, direct: S3Remote, proxy: Proxy, tmp_path: Path, size: int, at: int
    ) -> None:
        other = os.urandom(size)

        def replaced(_: Request) -> None:
            if len(proxy.seen) == at:
                direct.write("large", other)

        proxy.before = replaced
        with pytest.raises(RemoteError, match=r"large was replaced while it was read: try again"):
            remote.fetch("large", tmp_path / "draft")
        assert list(tmp_path.iterdir()) == []

    @LEFT_OPEN
    def test_a_store_that_does_not_know_parts(self, remote: S3Remote, proxy: Proxy, tmp_path: Path) -> None:
        proxy.before = lambda request: Shorten(1000) if request.headers["Range"] else None
        with pytest.raises(RemoteError, match=r"large came with [0-9,]+ of 3,000,000 bytes: try again"):
            remote.fetch("large", tmp_path / "draft")
        assert list(tmp_path.iterdir()) == []


class TestCost:
    def test_one_request_each(self, remote: S3Remote, proxy: Proxy, tmp_path: Path) -> None:
        remote.create("a", b"x")
        etag = remote.write("a", b"y")
        uses: list[Callable[[], object]] = [
            lambda: remote.read("a"),
            lambda: remote.read("a", etag=etag),
            lambda: remote.fetch("a", tmp_path / "a"),
            lambda: remote.create("a", b"z"),
            lambda: remote.write("a", b"z", if_match='"other"'),
            lambda: remote.write("a", b"z", if_match=etag),
            lambda: remote.write("a", b"z"),
            lambda: remote.stat("a"),
            lambda: list(remote.names("")),
            lambda: remote.remove("a"),
            remote.check,
            lambda: remote.stat("a"),
        ]
        for number, use in enumerate(uses):
            proxy.seen.clear()
            use()
            assert len(proxy.seen) == 1, number

    def test_an_unchanged_object_is_not_transferred(self, remote: S3Remote, proxy: Proxy) -> None:
        etag = remote.write("a", b"x")
        assert remote.read("a", etag=etag) is None
        assert proxy.seen[-1].headers["If-None-Match"] == etag

    @pytest.mark.parametrize("size", [10, 2_000_000])
    def test_the_store_is_told_what_is_to_reach_it(
        self, remote: S3Remote, proxy: Proxy, tmp_path: Path, size: int
    ) -> None:
        (tmp_path / "x").write_bytes(b"x" * size)
        digest = base64.b64encode(hashlib.md5(b"x" * size).digest()).decode()  # noqa: S324 - the protocol's
        for use in (lambda: remote.create("a", tmp_path / "x"), lambda: remote.write("a", tmp_path / "x")):
            use()
            assert proxy.seen[-1].headers["Content-MD5"] == digest
        found = remote.stat("a")
        assert found is not None
        assert found.size == size

    def test_an_object_beyond_the_limit_is_not_transferred(self, remote: S3Remote, tmp_path: Path) -> None:
        remote.create("a", b"x" * 1_000_000)
        with pytest.raises(RemoteError, match="has 1,000,000 bytes, more than the 10 "):
            remote.fetch("a", tmp_path / "a", limit=10)
        assert list(tmp_path.iterdir()) == []


class TestRefusals:
    @pytest.fixture(scope="class")
    @classmethod
    def guarded(cls) -> Iterator[tuple[str, dict[str, str]]]:
        """An S3 server that looks at keys, its bucket "guarded", and the keys of a user who may do nothing."""
        keys: Any = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
        server = subprocess.Popen(
            [sys.executable, str(HERE.parent / "s3server.py")],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"INITIAL_NO_AUTH_ACTION_COUNT": "3"},
            text=True,
        )
        assert server.stdout is not None
        endpoint = f"http://127.0.0.1:{int(server.stdout.readline())}"
        try:
            client = boto3.session.Session(**keys).client("s3", endpoint_url=endpoint)
            client.create_bucket(Bucket="guarded")
            client.close()
            iam = boto3.session.Session(**keys).client("iam", endpoint_url=endpoint)
            iam.create_user(UserName="nobody")
            made = iam.create_access_key(UserName="nobody")["AccessKey"]
            iam.close()
            yield endpoint, {"id": made["AccessKeyId"], "secret": made["SecretAccessKey"]}
        finally:
            server.kill()
            server.wait()
            server.stdout.close()

    @pytest.mark.parametrize("case", ["unknown key", "wrong secret", "no permission"])
    def test_wrong_credentials_and_missing_permission(
        self, guarded: tuple[str, dict[str, str]], case: str, tmp_path: Path
    ) -> None:
        endpoint, keys = guarded
        key, secret = {
            "unknown key": ("AKIAUNKNOWN", SECRET),
            "wrong secret": (keys["id"], SECRET),
            "no permission": (keys["id"], keys["secret"]),
        }[case]
        options = S3Options(endpoint, access_key_id=key, secret_access_key=secret)
        remote = S3Remote("s3://guarded/base", options)
        for use in every_use(remote, tmp_path / "draft"):
            with pytest.raises(
                RemoteDeniedError, match=r"Access to s3://guarded/base.* was refused .*check the credentials"
            ) as caught:
                use()
            said = "".join(traceback.format_exception(caught.value))
            assert secret not in said
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("status", "code", "expected", "message"),
        [
            (403, "AccessDenied", RemoteDeniedError, r"was refused \(AccessDenied: said the test\)"),
            (403, "SignatureDoesNotMatch", RemoteDeniedError, "check the credentials"),
            (400, "ExpiredToken", RemoteDeniedError, "check the credentials"),
            (401, "Unauthorized", RemoteDeniedError, "check the credentials"),
            (404, "NoSuchBucket", RemoteNotFoundError, "There is no bucket 'archive-.*create it, or correct"),
            (301, "PermanentRedirect", RemoteError, "is elsewhere .*set its region or endpoint"),
            (400, "AuthorizationHeaderMalformed", RemoteError, "is elsewhere"),
            (501, "NotImplemented", RemoteError, "conditional writes are needed"),
            (503, "SlowDown", RemoteUnreachableError, "try again later"),
            (500, "InternalError", RemoteUnreachableError, "try again later"),
            (429, "TooManyRequests", RemoteUnreachableError, "try again later"),
            (400, "Nonsense", RemoteError, r"S3 refused the request .*Nonsense: said the test"),
        ],
    )
    def test_what_the_answers_of_s3_become(
        self,
        remote: S3Remote,
        proxy: Proxy,
        one_try: None,
        status: int,
        code: str,
        expected: type[RemoteError],
        message: str,
    ) -> None:
        # Where a bucket is elsewhere, boto3 asks for its region.
        proxy.before = lambda request: Refuse(status, code) if request.method != "HEAD" else None
        for use in (lambda: remote.create("a", b"x"), lambda: remote.read("a"), remote.check):
            with pytest.raises(expected, match=message) as caught:
                use()
            assert type(caught.value) is expected

    def test_no_credentials_at_all(
        self, s3_endpoint: str, bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        remote = S3Remote(f"s3://{bucket}/base", S3Options(endpoint_url=s3_endpoint))
        for use in every_use(remote, tmp_path / "draft"):
            with pytest.raises(RemoteDeniedError, match=r"no credentials for s3://.*anonymous=true"):
                use()

    def test_an_unknown_profile(self, bucket: str) -> None:
        remote = open_remote(f"s3://{bucket}/base?profile=nope")
        with pytest.raises(ConfigError, match=f"profile for s3://{bucket}/base is not in the AWS config"):
            remote.check()

    def test_a_bucket_that_is_missing(self, s3_endpoint: str, tmp_path: Path) -> None:
        name = f"nowhere-{uuid4().hex}"
        remote = S3Remote(f"s3://{name}/base", S3Options(endpoint_url=s3_endpoint))
        for use in every_use(remote, tmp_path / "draft"):
            with pytest.raises(
                RemoteNotFoundError, match=f"^There is no bucket '{name}': create it, or correct"
            ):
                use()


class TestUnreachable:
    @pytest.fixture
    def closed(self) -> Iterator[str]:
        """An endpoint where nobody listens, and nobody can begin to."""
        with socket.socket() as holder:
            holder.bind(("127.0.0.1", 0))
            yield f"http://127.0.0.1:{holder.getsockname()[1]}"

    def test_a_closed_port(self, closed: str, one_try: None, tmp_path: Path) -> None:
        remote = S3Remote("s3://bucket/base", S3Options(endpoint_url=closed))
        for use in every_use(remote, tmp_path / "draft"):
            with pytest.raises(
                RemoteUnreachableError,
                match=r"^No complete answer about s3://bucket/base(/a)? \(EndpointConnectionError\): "
                r"check the endpoint and the network\.$",
            ):
                use()
        assert list(tmp_path.iterdir()) == []

    def test_it_is_also_the_builtin_error(self, closed: str, one_try: None) -> None:
        with pytest.raises(ConnectionError) as caught:
            S3Remote("s3://bucket/base", S3Options(endpoint_url=closed)).check()
        assert isinstance(caught.value, MmmetaError)

    def test_a_host_without_a_name(self, one_try: None) -> None:
        remote = S3Remote("s3://bucket/base", S3Options(endpoint_url="http://nowhere.invalid"))
        with pytest.raises(RemoteUnreachableError, match="check the endpoint"):
            remote.check()

    @pytest.mark.parametrize("after", [0, 1, 1000])
    def test_a_download_that_is_cut_short(
        self, remote: S3Remote, direct: S3Remote, proxy: Proxy, tmp_path: Path, after: int
    ) -> None:
        direct.create("a", b"x" * 2_000_000)
        proxy.before = lambda request: Cut(after)
        (tmp_path / "draft").write_bytes(b"old")
        with pytest.raises(RemoteUnreachableError, match=r"s3://.*/base/a"):
            remote.fetch("a", tmp_path / "draft")
        with pytest.raises(RemoteUnreachableError, match=r"s3://.*/base/a"):
            remote.read("a")
        assert list(tmp_path.iterdir()) == []

    def test_one_lost_answer_is_asked_for_again(self, remote: S3Remote, proxy: Proxy) -> None:
        remote.create("a", b"x")
        proxy.once("GET", Lose())
        assert content(remote, "a") == b"x"
        proxy.once("GET", Refuse(503, "SlowDown"))
        assert list(remote.names("")) == ["a"]


class TestSecrets:
    def test_neither_repr_nor_url_nor_log_tells_them(
        self, s3_endpoint: str, bucket: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        options = S3Options(
            endpoint_url=s3_endpoint,
            access_key_id="MYKEY",
            secret_access_key=SECRET,
            session_token=f"t-{SECRET}",
        )
        remote = S3Remote(f"s3://{bucket}/base", options)
        with caplog.at_level(logging.DEBUG, logger="mmmeta_core"):
            remote.create("a", b"x")
        for text in (repr(remote), str(remote), remote.url, repr(options), str(options), caplog.text):
            assert SECRET not in text
            assert "MYKEY" not in text
        assert s3_endpoint not in repr(remote)

    @pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "HTTP_PROXY"])
    @pytest.mark.parametrize(
        "value",
        [f"http://me:{SECRET}@127.0.0.1:1", f"http://me:{SECRET}@", f"http://me:{SECRET}@[", f"x{SECRET}"],
    )
    def test_no_error_tells_that_of_an_endpoint_or_proxy(
        self, variable: str, value: str, monkeypatch: pytest.MonkeyPatch, one_try: None, tmp_path: Path
    ) -> None:
        monkeypatch.setenv(variable, value)
        monkeypatch.setenv("NO_PROXY", "")
        url = "s3://bucket/base"
        if variable == "HTTP_PROXY":
            monkeypatch.setenv("http_proxy", value)
            url += "?endpoint=http://s3.invalid"
        remote = S3Remote(url)
        for use in every_use(remote, tmp_path / "draft"):
            with pytest.raises((RemoteError, ConfigError)) as caught:
                use()
            assert SECRET not in "".join(traceback.format_exception(caught.value))

    def test_no_error_tells_those_of_the_options(self, one_try: None, tmp_path: Path) -> None:
        options = S3Options("http://127.0.0.1:1", None, None, False, "MYKEY", SECRET, f"t-{SECRET}")
        for use in every_use(S3Remote("s3://bucket/base", options), tmp_path / "draft"):
            with pytest.raises(RemoteUnreachableError) as caught:
                use()
            assert SECRET not in "".join(traceback.format_exception(caught.value))


class TestLostReplies:
    """The server did what it was asked to, and nobody heard of it."""

    def test_of_a_create(self, remote: S3Remote, direct: S3Remote, proxy: Proxy) -> None:
        proxy.once("PUT", Lose())
        assert remote.create("log/1", b"mine") is True
        assert proxy.methods() == ["PUT", "PUT", "HEAD"]
        assert content(direct, "log/1") == b"mine"
        assert remote.create("log/1", b"mine") is False

    def test_of_a_create_from_a_file(
        self, remote: S3Remote, direct: S3Remote, proxy: Proxy, tmp_path: Path
    ) -> None:
        data = os.urandom(3_000_000)
        (tmp_path / "draft").write_bytes(data)
        proxy.once("PUT", Lose())
        assert remote.create("log/1", tmp_path / "draft") is True
        assert content(direct, "log/1") == data

    def test_of_a_create_that_another_had_won(self, remote: S3Remote, direct: S3Remote, proxy: Proxy) -> None:
        direct.create("log/1", b"theirs")
        proxy.once("PUT", Lose())
        assert remote.create("log/1", b"mine") is False
        assert content(direct, "log/1") == b"theirs"

    def test_of_a_create_with_the_same_bytes_that_another_had_won(
        self, remote: S3Remote, direct: S3Remote, proxy: Proxy
    ) -> None:
        direct.create("log/1", b"same")
        proxy.once("PUT", Lose())
        assert remote.create("log/1", b"same") is False

    @pytest.mark.parametrize("condition", ["absent", "etag"])
    def test_of_a_conditional_write(
        self, remote: S3Remote, direct: S3Remote, proxy: Proxy, condition: str
    ) -> None:
        old = direct.write("head.json", b"old") if condition == "etag" else ABSENT
        proxy.once("PUT", Lose())
        new = remote.write("head.json", b"new", if_match=old)
        found = direct.stat("head.json")
        assert found is not None
        assert new == found.etag
        assert content(direct, "head.json") == b"new"
        assert remote.write("head.json", b"newer", if_match=old) is None

    def test_of_a_conditional_write_that_another_had_won(
        self, remote: S3Remote, direct: S3Remote, proxy: Proxy
    ) -> None:
        old = direct.write("head.json", b"old")
        direct.write("head.json", b"theirs")
        proxy.once("PUT", Lose())
        assert remote.write("head.json", b"mine", if_match=old) is None
        assert content(direct, "head.json") == b"theirs"

    def test_of_a_plain_write(self, remote: S3Remote, direct: S3Remote, proxy: Proxy) -> None:
        proxy.once("PUT", Lose())
        etag = remote.write("a", b"x")
        found = direct.stat("a")
        assert found is not None
        assert found.etag == etag

    def test_of_a_removal(self, remote: S3Remote, direct: S3Remote, proxy: Proxy) -> None:
        direct.create("a", b"x")
        proxy.once("DELETE", Lose())
        remote.remove("a")
        assert direct.stat("a") is None

    def test_of_every_try(self, remote: S3Remote, direct: S3Remote, proxy: Proxy, one_try: None) -> None:
        """Then nobody can know, and the object is there all the same."""
        proxy.before = lambda request: Lose()
        with pytest.raises(RemoteUnreachableError, match=r"No complete answer about s3://.*/log/1"):
            remote.create("log/1", b"mine")
        assert content(direct, "log/1") == b"mine"


class TestUndecided:
    """409: S3 could not tell who of several writers at once was the first."""

    def test_a_conditional_write_is_sent_again(self, remote: S3Remote, proxy: Proxy) -> None:
        left = [Refuse(409, "ConditionalRequestConflict")] * 3
        proxy.before = lambda request: left.pop() if left else None
        assert remote.create("a", b"mine") is True
        assert proxy.methods() == ["PUT"] * 4

    def test_and_may_have_been_lost_by_then(self, remote: S3Remote, direct: S3Remote, proxy: Proxy) -> None:
        def conflict(request: Request) -> Refuse | None:
            if len(proxy.seen) > 1:
                return None
            direct.create("a", b"theirs")
            return Refuse(409, "ConditionalRequestConflict")

        proxy.before = conflict
        assert remote.create("a", b"mine") is False
        assert content(direct, "a") == b"theirs"

    def test_but_not_for_ever(self, remote: S3Remote, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(s3, "CONFLICTS", 3)
        proxy.before = lambda request: Refuse(409, "ConditionalRequestConflict")
        with pytest.raises(
            RemoteError, match=r"did not decide who writes s3://.*/a in 3 tries: try again later"
        ):
            remote.create("a", b"mine")
        assert proxy.methods() == ["PUT"] * 3

    def test_a_file_is_sent_whole_each_time(
        self, remote: S3Remote, direct: S3Remote, proxy: Proxy, tmp_path: Path
    ) -> None:
        (tmp_path / "draft").write_bytes(b"x" * 100_000)
        proxy.once("PUT", Refuse(409, "ConditionalRequestConflict"))
        assert remote.create("a", tmp_path / "draft") is True
        assert content(direct, "a") == b"x" * 100_000


def test_threads_share_one_client(remote: S3Remote) -> None:
    made = []
    barrier = threading.Barrier(8)

    def work() -> None:
        barrier.wait()
        remote.stat("a")
        made.append(remote._client())

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 8
    assert len({id(client) for client in made}) == 1
