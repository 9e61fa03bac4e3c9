"""The example's own parts: a scraper that makes documents up, and an import into SQLite.

Everything lies in the folder `data` below `MMMETA_EXAMPLE`, which is `.run` unless set: the archive, the publisher's
and the clients' metadirs, what Client1 downloaded and what Client2 imported.
"""

import hashlib
import json
import os
import random
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import dagster as dg

from mmmeta_core.atomic import write_atomic
from mmmeta_core.into import IntoDatabase, into_database

_TYPES: Final = ("contract", "invoice", "letter")
_PLACES: Final = ("Aarhus", "Brno", "Cádiz", "Debrecen", "Évora", "Faro", "Ghent")
_DOCUMENTS_A_SCRAPE: Final = 4
_CONFIG: Final = """\
metadata:
  required: [title]
  types: {retrieved_at: datetime}
"""


def example_folder() -> Path:
    """Return the folder of all that the example writes."""
    return Path(os.environ.get("MMMETA_EXAMPLE") or ".run").absolute()


def data_folder() -> Path:
    """Return the folder of the example's data."""
    return example_folder() / "data"


def prepare() -> Path:
    """Make the folder of the archive and the publisher's settings, where they are not there yet."""
    data = data_folder()
    (data / "archive").mkdir(parents=True, exist_ok=True)
    config = data / "publisher" / "_mmmeta" / "config.yml"
    if not config.exists():
        config.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(config, _CONFIG.encode())
    return data


def scrape(archive: Path) -> list[str]:
    """Write a few new documents with their metadata files into the archive; return their names.

    One of each type, and one that was retrieved a month ago, which Client2 leaves alone.
    """
    folder = archive / "documents"
    folder.mkdir(parents=True, exist_ok=True)
    number = sum(1 for _ in folder.glob("*.json"))
    names = []
    for index in range(_DOCUMENTS_A_SCRAPE):
        kind, place = _TYPES[index % len(_TYPES)], random.choice(_PLACES)  # noqa: S311 - made-up documents
        age = timedelta(days=30) if index == len(_TYPES) else timedelta()
        names.append(_write(folder, number + index + 1, kind, place, datetime.now(UTC) - age))
    return names


def _write(folder: Path, number: int, kind: str, place: str, retrieved_at: datetime) -> str:
    body = f"{kind.title()} no. {number}\n\nbetween the city of {place} and a supplier.\n".encode()
    name = f"{number:06}-{kind}.txt"
    metadata = {
        "content_hash": hashlib.sha1(body, usedforsecurity=False).hexdigest(),
        "file_name": f"documents/{name}",
        "title": f"{kind.title()} no. {number} of {place}",
        "document_type": kind,
        "retrieved_at": retrieved_at.isoformat(timespec="seconds"),
        "publisher": {"name": f"City of {place}"},
    }
    write_atomic(folder / name, body)
    write_atomic(folder / f"{name}.json", json.dumps(metadata, ensure_ascii=False, indent=2).encode())
    return name


@dg.asset(
    key=["publisher", "documents"],
    group_name="publisher",
    kinds={"python"},
    description="What the scraper found: documents in a folder, each with a JSON metadata file beside it.",
)
def documents(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
    """Scrape."""
    data = prepare()
    names = scrape(data / "archive")
    context.log.info("scraped %s", ", ".join(names))
    return dg.MaterializeResult(metadata={"new": len(names), "folder": str(data / "archive")})


def last_week() -> Mapping[str, Any]:
    """Return the filters for what was retrieved within the last week."""
    return {"retrieved_at": {">=": datetime.now(UTC) - timedelta(days=7)}}


def imports() -> IntoDatabase:
    """Return what writes documents into Client2's database."""
    database = data_folder() / "client2" / "imports.db"
    return into_database(
        f"sqlite:///{database}", columns=["title", "document_type", "retrieved_at", "publisher:name"]
    )
