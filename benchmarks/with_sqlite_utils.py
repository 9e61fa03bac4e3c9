"""The jobs that sqlite-utils does too, by its Python API; run by the Python of an environment that has it.

What it has nothing for, to find files and read JSON, is as simple as it gets: one would do no more in a script.
"""

import json
import os
from pathlib import Path

from sqlite_utils import Database


def _documents(root):
    for folder, _, names in os.walk(root):
        for name in names:
            if name.endswith(".json"):
                with open(Path(folder, name), "rb") as file:
                    yield dict(_flat(json.load(file)))


def _flat(values, prefix=""):
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}:")
        else:
            yield prefix + name, value


def _open(base):
    return Database(base / "sqlite-utils.db")


def generate_cold(base, clock):
    clock.start()
    database = _open(base)
    database["files"].insert_all(_documents(base / "documents"), pk="content_hash")
    database.close()
    clock.stop()


def generate_again(base, clock):
    """It has no note of what it saw, so all is read and written again."""
    clock.start()
    database = _open(base)
    database["files"].upsert_all(_documents(base / "documents"), pk="content_hash")
    database.close()
    clock.stop()


def save(base, clock):
    database = _open(base)
    database.enable_wal()
    table = database["files"]
    table.add_column("imported", bool)
    keys = [row["content_hash"] for row in table.rows_where(limit=1000, select="content_hash")]
    clock.start()
    for key in keys:
        table.update(key, {"imported": True})
    clock.stop()
    database.close()


def iterate(base, clock):
    database = _open(base)
    clock.start()
    count = sum(1 for _ in database["files"].rows)
    clock.stop()
    clock.note(documents=count)
    database.close()


def find(base, clock):
    database = _open(base)
    table = database["files"]
    table.create_index(["document_type"], if_not_exists=True)
    clock.start()
    conditions = "document_type = :type and retrieved_at >= :since"
    found = list(table.rows_where(conditions, {"type": "contract", "since": clock.options["since"]}))
    clock.stop()
    clock.note(documents=len(found))
    database.close()
