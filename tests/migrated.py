"""Steps for a database of format 1, and a process that is killed with SIGKILL at the n-th statement of them.

    migrated.py STATEMENT DATABASE

0 counts the statements and prints them. The steps keep a journal, so that one that ran twice is seen.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

from mmmeta_core.database.migrations import Schema, bring_up_to_date
from mmmeta_core.database.sqlite import connect


def create(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE TABLE mmmeta_info (key TEXT PRIMARY KEY, value) WITHOUT ROWID")
    connection.execute("CREATE TABLE files (a, mood)")
    connection.execute("CREATE TABLE journal (step)")


def to_2(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE TABLE journal (step)")
    connection.execute("INSERT INTO journal VALUES (2)")
    connection.execute("ALTER TABLE files ADD COLUMN mood")


def to_3(connection: sqlite3.Connection) -> None:
    connection.execute("UPDATE files SET mood = 'calm'")
    connection.execute("INSERT INTO journal VALUES (3)")


SCHEMA = Schema(create, (to_2, to_3))


def main() -> None:
    deadly, path, taken = int(sys.argv[1]), Path(sys.argv[2]), 0

    def hear(statement: str) -> None:
        nonlocal taken
        taken += 1
        if taken == deadly:
            os.kill(os.getpid(), signal.SIGKILL)

    with closing(connect(path, pragmas={})) as connection:
        connection.set_trace_callback(hear)
        bring_up_to_date(connection, path, SCHEMA)
    print(taken)


if __name__ == "__main__":
    main()
