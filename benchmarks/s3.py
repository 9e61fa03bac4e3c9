"""A bucket of an S3 server on loopback for measuring: moto's, the one of the tests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SERVER = Path(__file__).parent.parent / "tests" / "s3server.py"
NAMED = "moto, one request at a time"
BUCKET = "archive"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@contextmanager
def bucket() -> Iterator[tuple[str, Any]]:
    """Yield the server's URL and boto3's own client; the process's AWS environment is the server's from then on."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ.update(ENVIRONMENT)
    import boto3
    from botocore.config import Config

    server = subprocess.Popen(
        [sys.executable, SERVER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    if server.stdout is None:
        raise SystemExit("the S3 server says nothing")
    try:
        endpoint = f"http://127.0.0.1:{int(server.stdout.readline())}"
        config = Config(max_pool_connections=8)
        client = boto3.session.Session().client("s3", endpoint_url=endpoint, config=config)
        client.create_bucket(Bucket=BUCKET)
        yield endpoint, client
    finally:
        server.kill()
        server.wait()
        server.stdout.close()
