"""The mmmeta packages of old, from the package registry, each in an environment of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

VERSIONS = ("0.1.1", "0.4.4")
PINS = ("dataset==1.6.2", "SQLAlchemy==1.4.54", "banal==1.0.6", "setuptools<81")
LARGEST = {"0.1.1": 10_000, "0.4.4": 100_000}
"""They take many minutes for more; of 0.1.1 an update's time grows with the square of the documents."""
PLACE = Path(".bench")


def environments() -> dict[str, Path]:
    """Return the Python of each version that can be had."""
    found = {}
    for version in VERSIONS:
        place = PLACE / version
        python = place.absolute() / "bin" / "python"
        if not (place / ".installed").exists():
            subprocess.run([sys.executable, "-m", "venv", place], check=True)
            pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            done = subprocess.run([*pip, f"mmmeta=={version}", *PINS], capture_output=True, text=True)
            if done.returncode:
                print(
                    f"mmmeta {version} can't be had, so it is left out: {done.stderr.strip().splitlines()[-1]}"
                )
                continue
            (place / ".installed").touch()
        found[version] = python
    return found
